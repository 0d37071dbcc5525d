//! What the head of a model with class tokens reads.

use switchformer_nn::config::ConfigMap;
use switchformer_nn::layers::LayerNorm;
use switchformer_nn::maps::mean_rows;
use switchformer_nn::staged::State;
use switchformer_nn::{Result, Tensor};

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
        let patches: Vec<Vec<u32>> = state.rows.lens().iter().map(|n| (1..*n as u32).collect()).collect();
        let patches = State::new(state.x.clone(), state.rows.clone()).keep(&patches)?;
        mean_rows(&norm.forward(&patches.x)?, &patches.rows)
    }
}
