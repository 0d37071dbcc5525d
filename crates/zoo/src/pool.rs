//! What the head of a model with class tokens reads.

use switchformer_nn::config::ConfigMap;
use switchformer_nn::layers::LayerNorm;
use switchformer_nn::maps::mean_rows;
use switchformer_nn::staged::State;
use switchformer_nn::{Result, Rows, Tensor};

/// timm's `global_pool`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pool {
    /// The class token.
    Token,
    /// The mean of the patches, without the class token.
    Average,
}

impl Pool {
    /// Reads `global_pool`, the class token where the config has none.
    pub(crate) fn read(c: &ConfigMap) -> Result<Self> {
        c.one_of("global_pool", "token", &[("token", Pool::Token), ("avg", Pool::Average)])
    }

    /// One row for each member, after the final norm. Shapes: state `[total, dim]` -> `[members, dim]`. Errors when a
    /// member has no row to read.
    pub(crate) fn of(self, norm: &LayerNorm, state: &State) -> Result<Tensor> {
        if self == Pool::Token {
            return norm.forward(&state.first_rows()?);
        }
        let patches = behind(&state.x, &state.rows, 1)?;
        mean_rows(&norm.forward(&patches.x)?, &patches.rows)
    }
}

/// The rows of every member from the `front`-th on.
fn behind(x: &Tensor, rows: &Rows, front: usize) -> Result<State> {
    let kept: Vec<Vec<u32>> = rows.lens().iter().map(|n| (front as u32..*n as u32).collect()).collect();
    State::new(x.clone(), rows.clone()).keep(&kept)
}

/// Their mean. Shapes: x `[total, dim]` -> `[members, dim]`.
pub(crate) fn mean_behind(x: &Tensor, rows: &Rows, front: usize) -> Result<Tensor> {
    let patches = behind(x, rows, front)?;
    mean_rows(&patches.x, &patches.rows)
}

/// The first row of every member. Shapes: x `[total, dim]` -> `[members, dim]`.
pub(crate) fn first_rows(x: &Tensor, rows: &Rows) -> Result<Tensor> {
    State::new(x.clone(), rows.clone()).first_rows()
}
