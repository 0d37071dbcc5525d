//! What pyramid models share: counting blocks through stages, feature maps by name, the pooled head.

pub(crate) use switchformer_nn::Mixer;
pub(crate) use switchformer_nn::attention::Shrink;
use switchformer_nn::config::{ConfigMap, MAX_DEPTH};
use switchformer_nn::layers::{Activation, LayerNorm, LayerScale, project_onto};
use switchformer_nn::maps::positions_at;
use switchformer_nn::maps::{Conv, Depthwise, maps_of, mean_rows, pixel_rows};
use switchformer_nn::ops::Beside;
use switchformer_nn::ops::Epilogue;
use switchformer_nn::staged::State;
use switchformer_nn::{
    Ctx, Error, Input, InputSpec, Linear, Model, Output, ParamKind, Result, Rows, Size, Staged, Tensor, Weights,
};

/// Which blocks belong to which stage.
pub(crate) struct Stages {
    depths: Vec<usize>,
}

impl Stages {
    /// Reads the number of blocks per stage.
    pub(crate) fn read(c: &ConfigMap, field: &str, default: &[usize]) -> Result<Stages> {
        let depths = c.stages(field, default, None, MAX_DEPTH)?;
        if depths.iter().sum::<usize>() > MAX_DEPTH {
            return Err(Error::config(field, format!("sums to more than {MAX_DEPTH}")));
        }
        Ok(Stages { depths })
    }

    pub(crate) fn n(&self) -> usize {
        self.depths.len()
    }

    pub(crate) fn n_blocks(&self) -> usize {
        self.depths.iter().sum()
    }

    /// Stage of a block and its number within the stage.
    pub(crate) fn of(&self, idx: usize) -> (usize, usize) {
        let mut within = idx;
        for (stage, depth) in self.depths.iter().enumerate() {
            if within < *depth {
                return (stage, within);
            }
            within -= depth;
        }
        (self.n(), within)
    }

    /// Stage and number within it of every block.
    pub(crate) fn all(&self) -> impl Iterator<Item = (usize, usize)> {
        self.depths.iter().enumerate().flat_map(|(stage, depth)| (0..*depth).map(move |i| (stage, i)))
    }

    /// Whether a block is the last of its stage.
    pub(crate) fn ends(&self, (stage, within): (usize, usize)) -> bool {
        within + 1 == self.depths[stage]
    }

    /// Fewest blocks after which rows are as wide as the head reads them.
    pub(crate) fn first_exit(&self) -> usize {
        self.n_blocks() - self.depths[self.n() - 1] + 1
    }
}

/// Factor of the scores of attention: `qk_scale` of a config, else (absent or 0) `head_dim^-1/2`.
#[derive(Clone, Copy)]
pub(crate) struct ScoreScale(Option<f64>);

impl ScoreScale {
    pub(crate) fn read(c: &ConfigMap) -> Result<Self> {
        let scale = c.float("qk_scale", 0.0, -1e3, 1e3)?;
        Ok(ScoreScale((scale != 0.0).then_some(scale)))
    }

    /// The factor for heads of this width.
    pub(crate) fn of(self, head_dim: usize) -> f64 {
        self.0.unwrap_or((head_dim as f64).powf(-0.5))
    }
}

/// Learned positions of the first map, resized bicubically where a map is not of the trained size.
pub(crate) struct MapPositions {
    /// `[1, h * w, dim]`.
    table: Tensor,
    trained: Size,
}

impl MapPositions {
    /// Positions at `name`. Errors when the trained images hold no patch.
    pub(crate) fn load(w: &Weights, name: &str, trained: Size, dim: usize) -> Result<Self> {
        if trained.0 == 0 || trained.1 == 0 {
            return Err(Error::config(name, "has no place: the trained image is smaller than a patch"));
        }
        let table = w.tensor(name, &[1, trained.0 * trained.1, dim], ParamKind::Table)?;
        Ok(MapPositions { table, trained })
    }

    /// Rows with their positions added. Shapes: x `[total, dim]` -> the same.
    pub(crate) fn forward(&self, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let dim = x.dims2()?.1;
        by_size(x, rows, dim, |x, rows, size| {
            let own = positions_at(&self.table, 0, self.trained, size)?;
            let maps = x.reshape((rows.n(), size.0 * size.1, dim))?.broadcast_add(&own)?;
            maps.reshape((rows.total(), dim))
        })
    }
}

/// Names of the factors of the branches of a block.
pub(crate) const FACTORS: [&str; 2] = ["gamma_1", "gamma_2"];

/// Applies `f` to every stretch of neighbours of one size, for layers whose windows depend on the map.
/// Shapes: x `[total, from]` -> `[total, width]`.
pub(crate) fn by_size(
    x: &Tensor,
    rows: &Rows,
    width: usize,
    mut f: impl FnMut(&Tensor, &Rows, Size) -> Result<Tensor>,
) -> Result<Tensor> {
    let sizes = rows.sizes()?;
    if let Some(first) = sizes.first().filter(|first| sizes.iter().all(|s| s == *first)) {
        return f(x, &Rows::maps(sizes)?, *first);
    }
    let mut parts = Vec::new();
    let mut from = 0;
    for run in sizes.chunk_by(|a, b| a == b) {
        let own = Rows::maps(run)?;
        parts.push(f(&x.narrow(0, rows.range(from).start, own.total())?, &own, run[0])?);
        from += run.len();
    }
    Ok(if parts.is_empty() { x.narrow(1, 0, width)? } else { Tensor::cat(&parts, 0)? })
}

/// Gives the feature map of a stage to whoever listens, one `[h, w, dim]` per member.
pub(crate) fn tap_stage(cx: &mut Ctx, stage: usize, x: &Tensor, rows: &Rows) -> Result<()> {
    let name = cx.site.named(&format!("stages.{stage}"));
    if cx.taps.wants(&name) {
        cx.taps.put_each_of(&name, maps_of(x, rows)?, rows);
    }
    Ok(())
}

/// What a model with a pooled head answers: classes, or all rows and their mean.
pub(crate) enum PooledHead {
    Classifier(Box<dyn Linear>),
    Features,
    /// All rows and no mean.
    Rows,
}

impl PooledHead {
    /// A classifier over `dim` at `classifier`, or features where the architecture has none.
    pub(crate) fn load(c: &ConfigMap, w: &Weights, classifier: Option<&str>, dim: usize) -> Result<Self> {
        Ok(match classifier {
            Some(name) => PooledHead::Classifier(w.linear(name, dim, c.n_labels()?, true)?),
            None => PooledHead::Features,
        })
    }
}

/// What answers at the end of a model of maps.
pub(crate) trait MapHead: Send + Sync {
    /// Shapes: hidden `[total, dim]` after the final norm; `end` holds the rows in front of it.
    fn forward(&self, cx: &mut Ctx, hidden: Tensor, end: &State) -> Result<Output>;
}

impl MapHead for PooledHead {
    fn forward(&self, cx: &mut Ctx, hidden: Tensor, end: &State) -> Result<Output> {
        let rows = &end.rows;
        Ok(match self {
            PooledHead::Classifier(c) => Output::new().member("logits", c.forward(cx, &mean_rows(&hidden, rows)?)?),
            PooledHead::Features => {
                let pooled = mean_rows(&hidden, rows)?;
                Output::new().rows("last_hidden_state", hidden, rows).member("pooler_output", pooled)
            }
            PooledHead::Rows => Output::new().rows("last_hidden_state", hidden, rows),
        })
    }
}

/// A convolution that makes a map smaller, and the norm behind it.
pub(crate) struct Downsample {
    pub(crate) conv: Conv,
    pub(crate) norm: LayerNorm,
}

impl Shrink for Downsample {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<State> {
        let (x, rows) = self.conv.forward(cx, x, rows)?;
        Ok(State::new(self.norm.forward(&x)?, rows))
    }
}

/// How the convolution stands inside a [`ConvFfn`].
#[derive(Clone, Copy)]
pub(crate) enum Inside {
    /// Between the first projection and the activation.
    Plain,
    /// The same, behind a ReLU (PVT v2's linear form).
    BehindRelu,
    /// Added to what it reads (SMT).
    Added,
}

/// A feed-forward with a depth-wise convolution inside.
struct ConvFfn {
    fc1: Box<dyn Linear>,
    conv: Depthwise,
    fc2: Box<dyn Linear>,
    act: Activation,
    inside: Inside,
}

impl ConvFfn {
    /// On its residual, times the factors of a block. Shapes: x and residual `[total, dim]` -> `[total, dim]`.
    fn forward_onto(&self, cx: &mut Ctx, x: &Tensor, residual: &Tensor, rows: &Rows, f: &LayerScale) -> Result<Tensor> {
        let act = matches!(self.inside, Inside::BehindRelu).then_some(Activation::Relu);
        let hidden = self.fc1.forward_with(cx, x, &Epilogue { act, ..Epilogue::default() })?;
        let beside = Beside { input: matches!(self.inside, Inside::Added), act: Some(self.act) };
        let mixed = self.conv.forward_beside(cx, &hidden, rows, beside)?;
        if f.is_none() {
            return project_onto(cx, self.fc2.as_ref(), &mixed, residual, "ffn");
        }
        let fed = self.fc2.forward(cx, &mixed)?;
        cx.onto(residual, f.scaled(1, fed)?, "ffn")
    }
}

/// How a family writes its [`Block`]s.
pub(crate) struct BlockSpec {
    /// Names of both norms.
    pub(crate) norms: [&'static str; 2],
    pub(crate) eps: f64,
    /// Names of the projections below `mlp`; the convolution is at `mlp.dwconv.dwconv`.
    pub(crate) fc: [&'static str; 2],
    pub(crate) act: Activation,
    pub(crate) inside: Inside,
    /// What the factors of both branches start at, where there are any.
    pub(crate) factors: Option<f32>,
}

/// A block in front of whose parts stand norms: something that mixes rows, and a feed-forward with a convolution inside.
pub(crate) struct Block {
    norm1: LayerNorm,
    mixer: Box<dyn Mixer>,
    norm2: LayerNorm,
    ffn: ConvFfn,
    factors: LayerScale,
}

impl BlockSpec {
    /// As the authors of PVT v2 write them, whom SMT and SVT follow: GELU, and these names.
    pub(crate) const fn of_authors(eps: f64, inside: Inside) -> Self {
        BlockSpec { norms: ["norm1", "norm2"], eps, fc: ["fc1", "fc2"], act: Activation::Gelu, inside, factors: None }
    }
}

impl Block {
    /// The block at the path of `w`, around its mixer; `dims` are those of rows and of the feed-forward's hidden rows.
    pub(crate) fn load(w: &Weights, spec: &BlockSpec, dims: [usize; 2], mixer: Box<dyn Mixer>) -> Result<Self> {
        let ([dim, hidden], mlp) = (dims, w.at("mlp"));
        Ok(Block {
            norm1: w.layer_norm(spec.norms[0], dim, spec.eps)?,
            mixer,
            norm2: w.layer_norm(spec.norms[1], dim, spec.eps)?,
            ffn: ConvFfn {
                fc1: mlp.linear(spec.fc[0], dim, hidden, true)?,
                conv: Depthwise::load(&mlp.at("dwconv.dwconv"), hidden, 3)?,
                fc2: mlp.linear(spec.fc[1], hidden, dim, true)?,
                act: spec.act,
                inside: spec.inside,
            },
            factors: LayerScale::load(w, &FACTORS, &[dim], spec.factors)?,
        })
    }
}

impl Mixer for Block {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let normed = self.norm1.forward(x)?;
        let x = if self.factors.is_none() {
            self.mixer.forward_onto(cx, &normed, rows, x)?
        } else {
            let mixed = self.mixer.forward(cx, &normed, rows)?;
            cx.onto(x, self.factors.scaled(0, mixed)?, "mixer")?
        };
        self.ffn.forward_onto(cx, &self.norm2.forward(&x)?, &x, rows, &self.factors)
    }
}

/// A model of maps: a stem, and stages of blocks with a smaller map in front of each and, perhaps, a norm at its end.
pub(crate) struct Pyramid<B, S = Downsample, D = Downsample, H = PooledHead> {
    pub(crate) channels: usize,
    /// Size of trained images.
    pub(crate) image: Size,
    /// Side of the square of pixels that a row of the first map stands for.
    pub(crate) patch: usize,
    pub(crate) stem: S,
    pub(crate) stages: Stages,
    /// In front of every stage but the first.
    pub(crate) downs: Vec<D>,
    pub(crate) blocks: Vec<B>,
    /// At the end of every stage; the last one is in front of the head.
    pub(crate) norms: Vec<Option<LayerNorm>>,
    pub(crate) head: H,
}

impl<B: Mixer, S: Shrink, D: Shrink, H: MapHead> Pyramid<B, S, D, H> {
    /// Ends a stage: its norm, and the feature map for whoever listens.
    fn end(&self, cx: &mut Ctx, stage: usize, state: &State) -> Result<Tensor> {
        let x = match &self.norms[stage] {
            Some(norm) => norm.forward(&state.x)?,
            None => state.x.clone(),
        };
        tap_stage(cx, stage, &x, &state.rows)?;
        Ok(x)
    }
}

impl<B: Mixer, S: Shrink, D: Shrink, H: MapHead> Staged for Pyramid<B, S, D, H> {
    fn n_blocks(&self) -> usize {
        self.blocks.len()
    }
    fn stem(&self, cx: &mut Ctx, input: &Input) -> Result<State> {
        let (x, rows) = pixel_rows(input.pixels(self.channels)?)?;
        self.stem.forward(cx, &x, &rows)
    }
    fn block(&self, cx: &mut Ctx, idx: usize, state: State) -> Result<State> {
        let (stage, within) = self.stages.of(idx);
        let State { x, rows, .. } = if stage > 0 && within == 0 {
            let x = self.end(cx, stage - 1, &state)?;
            self.downs[stage - 1].forward(cx, &x, &state.rows)?
        } else {
            state
        };
        Ok(State::new(self.blocks[idx].forward(cx, &x, &rows)?, rows))
    }
    fn head(&self, cx: &mut Ctx, state: State) -> Result<Output> {
        let x = self.end(cx, self.stages.n() - 1, &state)?;
        self.head.forward(cx, x, &state)
    }
    fn first_exit(&self) -> usize {
        self.stages.first_exit()
    }
}

impl<B: Mixer, S: Shrink, D: Shrink, H: MapHead> Model for Pyramid<B, S, D, H> {
    fn spec(&self) -> InputSpec {
        InputSpec::images(self.channels, self.image, (self.patch, self.patch))
    }
    fn trunk(&self) -> &dyn Staged {
        self
    }
}
