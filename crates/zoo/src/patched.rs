//! What plain vision Transformers share: a square trained size, patches behind a class row, equal blocks, a head that reads
//! the rows.

use switchformer_nn::config::{ConfigMap, MAX_DIM, MAX_SIDE};
use switchformer_nn::layers::{EncoderBlock, LayerNorm};
use switchformer_nn::maps::ImageEmbed;
use switchformer_nn::staged::State;
use switchformer_nn::{Ctx, Error, Input, InputSpec, Model, Output, Result, Rows, Size, Staged, Tensor};

/// Trained size, patch and the grid of them. The reference takes the table of positions for that of a square grid, so any
/// other is refused.
pub(crate) fn square_grid(c: &ConfigMap, image: usize, patch: usize) -> Result<[Size; 3]> {
    let (image, patch) = (c.pair("image_size", image, MAX_SIDE)?, c.pair("patch_size", patch, MAX_SIDE)?);
    let grid = (image.0 / patch.0, image.1 / patch.1);
    let what = format!("is {}x{}", image.0, image.1);
    if grid.0 == 0 || grid.1 == 0 {
        return Err(Error::config("image_size", format!("{what}, smaller than a patch of {}x{}", patch.0, patch.1)));
    }
    if image.0 != image.1 || grid.0 != grid.1 {
        return Err(Error::config(
            "image_size",
            format!("{what}, {}x{} patches; only a square can be read", grid.0, grid.1),
        ));
    }
    Ok([image, patch, grid])
}

/// Hidden width of the feed-forwards: `intermediate_size`, or timm's share of the width.
pub(crate) fn hidden_width(c: &ConfigMap, dim: usize) -> Result<usize> {
    const RATIO: &str = "mlp_ratio_of_timm";
    let stored = c.size("intermediate_size", Some(3072), MAX_DIM)?;
    if c.get(RATIO).is_none() {
        return Ok(stored);
    }
    let wide = (dim as f64 * c.float(RATIO, 4.0, 0.01, 64.0)?) as usize;
    if wide == 0 || wide > MAX_DIM {
        return Err(Error::config(RATIO, format!("makes {wide} hidden channels of {dim}, allowed: 1 to {MAX_DIM}")));
    }
    Ok(wide)
}

/// What answers at the end.
pub(crate) trait RowHead: Send + Sync {
    /// Shapes: x `[total, dim]` behind the last block; `front` rows of every member are no patches.
    fn forward(&self, cx: &mut Ctx, x: Tensor, rows: &Rows, front: usize) -> Result<Output>;
    /// Number of classes where it classifies, so that exit heads may answer in its stead.
    fn classes(&self) -> Option<usize> {
        None
    }
    /// Whether patches may be dropped where it classifies: blocks need no whole map.
    fn drops(&self) -> bool {
        true
    }
}

/// A plain vision Transformer.
pub(crate) struct Patched<H> {
    pub(crate) dim: usize,
    pub(crate) embed: ImageEmbed,
    /// In front of the first block.
    pub(crate) norm: Option<LayerNorm>,
    pub(crate) blocks: Vec<EncoderBlock>,
    pub(crate) head: H,
}

impl<H: RowHead> Staged for Patched<H> {
    fn n_blocks(&self) -> usize {
        self.blocks.len()
    }
    fn stem(&self, cx: &mut Ctx, input: &Input) -> Result<State> {
        let state = self.embed.forward(cx, input)?;
        Ok(match &self.norm {
            Some(norm) => State::new(norm.forward(&state.x)?, state.rows),
            None => state,
        })
    }
    fn block(&self, cx: &mut Ctx, idx: usize, state: State) -> Result<State> {
        Ok(State::new(self.blocks[idx].forward(cx, &state.x, &state.rows)?, state.rows))
    }
    fn head(&self, cx: &mut Ctx, state: State) -> Result<Output> {
        self.head.forward(cx, state.x, &state.rows, self.embed.n_front())
    }
    fn prefix_rows(&self) -> Option<usize> {
        self.head.classes().filter(|_| self.head.drops()).map(|_| self.embed.n_front())
    }
    fn classifier(&self) -> Option<(usize, usize)> {
        self.head.classes().map(|n| (self.dim, n))
    }
}

impl<H: RowHead> Model for Patched<H> {
    fn spec(&self) -> InputSpec {
        self.embed.spec()
    }
    fn trunk(&self) -> &dyn Staged {
        self
    }
}
