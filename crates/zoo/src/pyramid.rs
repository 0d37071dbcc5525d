//! What pyramid models share: counting blocks through stages, feature maps by name, the pooled head.

use switchformer_nn::config::{ConfigMap, MAX_DEPTH};
use switchformer_nn::layers::LayerNorm;
use switchformer_nn::spatial::{Conv, halved, maps_of, mean_rows, size_of};
use switchformer_nn::staged::State;
use switchformer_nn::{Ctx, Error, LeafCost, Linear, Output, Point, Result, Rows, Size, Tensor, Weights};

/// Which blocks belong to which stage.
pub(crate) struct Stages {
    depths: Vec<usize>,
    /// Size of the map of the first stage at the trained image size.
    trained: Size,
}

impl Stages {
    /// Reads the number of blocks per stage.
    pub(crate) fn read(c: &ConfigMap, field: &str, default: &[usize], trained: Size) -> Result<Stages> {
        let depths = c.stages(field, default, None, MAX_DEPTH)?;
        if depths.iter().sum::<usize>() > MAX_DEPTH {
            return Err(Error::config(field, format!("sums to more than {MAX_DEPTH}")));
        }
        Ok(Stages { depths, trained })
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

    /// Sizes of the maps of a stage for members of the given lengths at the first stage. The shape of a length that was
    /// not trained is guessed from the trained aspect.
    pub(crate) fn sizes(&self, stage: usize, lens: &[usize]) -> Vec<Size> {
        lens.iter().map(|n| (0..stage).fold(size_of(*n, self.trained), |s, _| halved(s))).collect()
    }
}

/// Rows of maps of these sizes.
pub(crate) fn rows_in(sizes: &[Size]) -> usize {
    sizes.iter().map(|(h, w)| h * w).sum()
}

/// Gives the feature map of a stage to whoever listens, one `[h, w, dim]` per member.
pub(crate) fn tap_stage(cx: &mut Ctx, stage: usize, x: &Tensor, rows: &Rows) -> Result<()> {
    let name = format!("stages.{stage}");
    if cx.taps.wants(&name) {
        cx.taps.put_each(&name, maps_of(x, rows)?);
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

    /// Shapes: hidden `[total, dim]` after the final norm.
    pub(crate) fn forward(&self, cx: &mut Ctx, hidden: Tensor, rows: &Rows) -> Result<Output> {
        Ok(match self {
            PooledHead::Classifier(c) => Output::new().member("logits", c.forward(cx, &mean_rows(&hidden, rows)?)?),
            PooledHead::Features => {
                let pooled = mean_rows(&hidden, rows)?;
                Output::new().rows("last_hidden_state", hidden, rows).member("pooler_output", pooled)
            }
            PooledHead::Rows => Output::new().rows("last_hidden_state", hidden, rows),
        })
    }

    pub(crate) fn cost(&self, point: &Point, members: usize) -> LeafCost {
        match self {
            PooledHead::Classifier(c) => c.cost(point, members),
            PooledHead::Features | PooledHead::Rows => LeafCost::default(),
        }
    }
}

/// A convolution that makes a map smaller, and the norm behind it.
pub(crate) struct Downsample {
    pub(crate) conv: Conv,
    pub(crate) norm: LayerNorm,
}

impl Downsample {
    pub(crate) fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<State> {
        let (x, rows) = self.conv.forward(cx, x, rows)?;
        Ok(State::new(self.norm.forward(&x)?, rows))
    }

    /// Cost for `rows` rows that come out.
    pub(crate) fn cost(&self, rows: usize) -> LeafCost {
        self.conv.cost(rows) + self.norm.cost()
    }
}

/// A block over maps.
pub(crate) trait MapBlock {
    /// Shapes: x `[total, dim]` -> `[total, dim]`.
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor>;
    /// Cost for maps of these sizes.
    fn cost(&self, point: &Point, sizes: &[Size]) -> LeafCost;
}

/// Stages of blocks with a convolution between them and, perhaps, a norm at the end of each.
pub(crate) struct Pyramid<B> {
    pub(crate) stages: Stages,
    /// In front of every stage but the first.
    pub(crate) downs: Vec<Downsample>,
    pub(crate) blocks: Vec<B>,
    /// At the end of every stage; the last one is in front of the head.
    pub(crate) norms: Vec<Option<LayerNorm>>,
    pub(crate) head: PooledHead,
}

impl<B: MapBlock> Pyramid<B> {
    /// Ends a stage: its norm, and the feature map for whoever listens.
    fn end(&self, cx: &mut Ctx, stage: usize, state: &State) -> Result<Tensor> {
        let x = match &self.norms[stage] {
            Some(norm) => norm.forward(&state.x)?,
            None => state.x.clone(),
        };
        tap_stage(cx, stage, &x, &state.rows)?;
        Ok(x)
    }

    pub(crate) fn block(&self, cx: &mut Ctx, idx: usize, state: State) -> Result<State> {
        let (stage, within) = self.stages.of(idx);
        let State { x, rows, .. } = if stage > 0 && within == 0 {
            let x = self.end(cx, stage - 1, &state)?;
            self.downs[stage - 1].forward(cx, &x, &state.rows)?
        } else {
            state
        };
        Ok(State::new(self.blocks[idx].forward(cx, &x, &rows)?, rows))
    }

    pub(crate) fn head(&self, cx: &mut Ctx, state: State) -> Result<Output> {
        let x = self.end(cx, self.stages.n() - 1, &state)?;
        self.head.forward(cx, x, &state.rows)
    }

    fn norm_cost(&self, stage: usize) -> LeafCost {
        self.norms[stage].as_ref().map(LayerNorm::cost).unwrap_or_default()
    }

    pub(crate) fn cost_block(&self, idx: usize, point: &Point, lens: &[usize]) -> LeafCost {
        let (stage, within) = self.stages.of(idx);
        let sizes = self.stages.sizes(stage, lens);
        let enter = if stage > 0 && within == 0 {
            self.norm_cost(stage - 1) + self.downs[stage - 1].cost(rows_in(&sizes))
        } else {
            LeafCost::default()
        };
        enter + self.blocks[idx].cost(point, &sizes)
    }

    pub(crate) fn cost_head(&self, point: &Point, lens: &[usize]) -> LeafCost {
        self.norm_cost(self.stages.n() - 1) + self.head.cost(point, lens.len())
    }
}
