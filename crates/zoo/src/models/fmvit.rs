//! FMViT-style - convolutions and attention mixed at several frequencies, in layers that fold.
//!
//! Paper: "FMViT: A multiple-frequency mixing Vision Transformer", arXiv 2311.05707. Code: none published. Weights: none.
//! **Clean-room**: the paper's abstract names the parts (convolutional multi-group re-parameterisation, a lightweight
//! attention, a convolutional fusion block, mixtures of high and low frequencies); every size, kernel and connection here
//! is our own design in the line of Next-ViT, and no number of the paper is claimed for it.
//! Idea: convolutions keep high frequencies, attention to pooled keys keeps low ones, and a third path convolves their
//! sum; the three are joined by one product. While it trains a layer is a sum of branches with a batch norm each; for
//! running they fold, exactly, into one convolution ([`fold`], and `deploy` in the config).
//! Shapes: `pixels [b, c, h, w] -> maps [h / 4, w / 4, d0] .. [h / 32, w / 32, d3] -> logits [b, labels].`

use std::collections::{BTreeMap, BTreeSet};

use switchformer_nn::config::{ConfigMap, MAX_DIM, MAX_SIDE};
use switchformer_nn::layers::{Activation, BatchNorm, check_heads};
use switchformer_nn::names::Names;
use switchformer_nn::ops::{self, AttendSpec, attend};
use switchformer_nn::spatial::{Conv, Grouped, mean_cells, mean_rows, merge_squares, pixel_rows};
use switchformer_nn::staged::State;
use switchformer_nn::store::{Saved, SavedMap};
use switchformer_nn::{
    Ctx, Error, Input, InputSpec, LeafCost, Linear, Model, Output, Point, Result, Rows, Size, Staged, Tensor, Weights,
};

use crate::entry::{Entry, Variant};
use crate::pyramid::{Stages, rows_in, tap_stage};

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "fmvit",
    paper: "FMViT: A multiple-frequency mixing Vision Transformer, arXiv 2311.05707 (clean-room, in its style)",
    summary: "convolutions and attention mixed at several frequencies, in layers that fold (clean-room)",
    architectures: &["FMViT"],
    variants: VARIANTS,
    names: Names { rules: &[], ignore: &["**.num_batches_tracked"] },
    blocks: "attn.",
    prefix: "",
    heads: &[],
    toy: r#"{"model_type":"fmvit","architectures":["FMViT"],"embed_dims":[8,16],"depths":[2,2],"head_dim":4,
        "group_width":4,"mlp_ratio":2,"img_size":32,"in_chans":1,"num_labels":5}"#,
    load: |config, w| Ok(Box::new(FmVit::load(config, w)?)),
};

const VARIANTS: &[Variant] = &[
    variant("fmvit-style-s", 22_447_080, r#"{"num_labels":1000}"#),
    variant("fmvit-style-s-deploy", 14_716_200, r#"{"deploy":true,"num_labels":1000}"#),
];

const fn variant(name: &'static str, params: u64, config: &'static str) -> Variant {
    Variant { name, architecture: "FMViT", config, params }
}

/// All batch norms.
const EPS: f64 = 1e-5;
/// Attention looks at a grid of this many cells a side.
const CELLS: usize = 7;
/// Numbers of groups of the branches of a 1x1 convolution.
const GROUPS: [usize; 3] = [1, 2, 4];

/// Our own fields, checked.
struct Config {
    stages: Stages,
    dims: Vec<usize>,
    head_dim: usize,
    group_width: usize,
    mlp_ratio: usize,
    /// Whether branches are folded.
    deploy: bool,
    channels: usize,
    image: Size,
}

impl Config {
    fn read(c: &ConfigMap) -> Result<Self> {
        let image = c.pair("img_size", 224, MAX_SIDE)?;
        let quarter = |n: usize| n.div_ceil(2).div_ceil(2);
        let stages = Stages::read(c, "depths", &[3, 4, 12, 3], (quarter(image.0), quarter(image.1)))?;
        let config = Config {
            dims: c.stages("embed_dims", &[64, 128, 256, 512], Some(stages.n()), MAX_DIM)?,
            head_dim: c.size("head_dim", Some(32), MAX_DIM)?,
            group_width: c.size("group_width", Some(32), MAX_DIM)?,
            mlp_ratio: c.size("mlp_ratio", Some(3), 64)?,
            deploy: c.flag("deploy", false)?,
            channels: c.size("in_chans", Some(3), 64)?,
            image,
            stages,
        };
        for dim in &config.dims {
            let half = dim / 2;
            if !half.is_multiple_of(config.group_width) || !half.is_multiple_of(4) || half == 0 {
                let what =
                    format!("holds {dim}, half of which must divide by group_width {} and by 4", config.group_width);
                return Err(Error::config("embed_dims", what));
            }
            check_heads(half, config.head_dim)?;
        }
        Ok(config)
    }
}

/// A layer that folds: a sum of branches, or the one convolution that they make.
enum Branch {
    Conv(Grouped, BatchNorm),
    Same(BatchNorm),
    Folded(Grouped),
}

struct Rep {
    branches: Vec<Branch>,
}

impl Rep {
    /// A 3x3 convolution in groups: the same in 1x1, and the rows themselves, beside it.
    fn wide(c: &Config, w: &Weights, dim: usize) -> Result<Rep> {
        let groups = dim / c.group_width;
        if c.deploy {
            return Rep::folded(w, [dim, dim, 3], groups);
        }
        let conv = |j: usize, kernel: usize| Rep::branch(&w.at("branches").at(j), [dim, dim, kernel], groups);
        let same = Branch::Same(w.at("branches").at(2).batch_norm("bn", dim, EPS)?);
        Ok(Rep { branches: vec![conv(0, 3)?, conv(1, 1)?, same] })
    }

    /// A 1x1 convolution: those in two and four groups beside it.
    fn point(c: &Config, w: &Weights, out: usize, dim: usize) -> Result<Rep> {
        if c.deploy {
            return Rep::folded(w, [out, dim, 1], 1);
        }
        let branch = |(j, g): (usize, &usize)| Rep::branch(&w.at("branches").at(j), [out, dim, 1], *g);
        Ok(Rep { branches: GROUPS.iter().enumerate().map(branch).collect::<Result<_>>()? })
    }

    fn branch(w: &Weights, shape: [usize; 3], groups: usize) -> Result<Branch> {
        let conv = Grouped::load(&w.at("conv"), shape, groups, false)?;
        Ok(Branch::Conv(conv, w.batch_norm("bn", shape[0], EPS)?))
    }

    fn folded(w: &Weights, shape: [usize; 3], groups: usize) -> Result<Rep> {
        Ok(Rep { branches: vec![Branch::Folded(Grouped::load(&w.at("conv"), shape, groups, true)?)] })
    }

    /// Shapes: x `[total, dim]` -> `[total, out]`.
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let mut sum: Option<Tensor> = None;
        for branch in &self.branches {
            let y = match branch {
                Branch::Conv(conv, norm) => norm.forward(&conv.forward(cx, x, rows)?)?,
                Branch::Same(norm) => norm.forward(x)?,
                Branch::Folded(conv) => conv.forward(cx, x, rows)?,
            };
            sum = Some(match sum {
                Some(s) => ops::add(&s, &y)?,
                None => y,
            });
        }
        sum.ok_or_else(|| Error::config("deploy", "a layer has no branch"))
    }

    fn cost(&self, rows: usize) -> LeafCost {
        let one = |branch: &Branch| match branch {
            Branch::Conv(conv, norm) => conv.cost(rows) + norm.cost(),
            Branch::Same(norm) => norm.cost(),
            Branch::Folded(conv) => conv.cost(rows),
        };
        self.branches.iter().map(one).sum()
    }
}

/// `x + W relu(conv(x))`: high frequencies.
struct Fusion {
    conv: Rep,
    out: Grouped,
}

impl Fusion {
    fn load(c: &Config, w: &Weights, dim: usize) -> Result<Self> {
        Ok(Fusion {
            conv: Rep::wide(c, &w.at("conv"), dim)?,
            out: Grouped::load(&w.at("out"), [dim, dim, 1], 1, true)?,
        })
    }

    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let hidden = Activation::Relu.forward(&self.conv.forward(cx, x, rows)?)?;
        ops::add(x, &self.out.forward(cx, &hidden, rows)?)
    }

    fn cost(&self, rows: usize) -> LeafCost {
        self.conv.cost(rows) + self.out.cost(rows)
    }
}

/// `x + fc2(relu(fc1(x)))` with folding layers.
struct GroupMlp {
    fc1: Rep,
    fc2: Rep,
}

impl GroupMlp {
    fn load(c: &Config, w: &Weights, dim: usize) -> Result<Self> {
        let hidden = dim * c.mlp_ratio;
        Ok(GroupMlp { fc1: Rep::point(c, &w.at("fc1"), hidden, dim)?, fc2: Rep::point(c, &w.at("fc2"), dim, hidden)? })
    }

    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let hidden = Activation::Relu.forward(&self.fc1.forward(cx, x, rows)?)?;
        ops::add(x, &self.fc2.forward(cx, &hidden, rows)?)
    }

    fn cost(&self, rows: usize) -> LeafCost {
        self.fc1.cost(rows) + self.fc2.cost(rows)
    }
}

/// Every row asks the means of a grid of cells: low frequencies.
struct Attention {
    query: Box<dyn Linear>,
    key_value: Box<dyn Linear>,
    out: Box<dyn Linear>,
    heads: usize,
}

impl Attention {
    fn load(c: &Config, w: &Weights, dim: usize) -> Result<Self> {
        Ok(Attention {
            query: w.linear("q", dim, dim, true)?,
            key_value: w.linear("kv", dim, 2 * dim, true)?,
            out: w.linear("proj", dim, dim, true)?,
            heads: dim / c.head_dim,
        })
    }

    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let dim = self.query.dims().0;
        let (cells, k_rows) = mean_cells(x, rows, CELLS)?;
        let (q, kv) = (self.query.forward(cx, x)?, self.key_value.forward(cx, &cells)?);
        let (k, v) = (kv.narrow(1, 0, dim)?.contiguous()?, kv.narrow(1, dim, dim)?.contiguous()?);
        cx.count(2 * rows.total() * CELLS * CELLS * dim);
        let scale = ((dim / self.heads) as f64).powf(-0.5);
        let spec = AttendSpec { q_rows: rows, k_rows: &k_rows, heads: self.heads, scale, causal: false, bias: None };
        let mixed = attend(&q, &k, &v, &spec)?;
        ops::add(x, &self.out.forward(cx, &mixed)?)
    }

    fn cost(&self, point: &Point, members: usize, rows: usize) -> LeafCost {
        let cells = CELLS * CELLS;
        self.query.cost(point, rows)
            + self.key_value.cost(point, members * cells)
            + self.out.cost(point, rows)
            + LeafCost { macs: (2 * rows * cells * self.query.dims().0) as u64, bytes: 0 }
    }
}

/// Three paths of half the width: attention, convolution of what it gives, convolution of their sum.
struct Mixture {
    enter: Grouped,
    attn: Attention,
    high: Fusion,
    both: Fusion,
    join: Grouped,
}

impl Mixture {
    fn load(c: &Config, w: &Weights, dim: usize) -> Result<Self> {
        let half = dim / 2;
        Ok(Mixture {
            enter: Grouped::load(&w.at("enter"), [half, dim, 1], 1, true)?,
            attn: Attention::load(c, &w.at("attn"), half)?,
            high: Fusion::load(c, &w.at("high"), half)?,
            both: Fusion::load(c, &w.at("both"), half)?,
            join: Grouped::load(&w.at("join"), [dim, 3 * half, 1], 1, true)?,
        })
    }

    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let low = self.enter.forward(cx, x, rows)?;
        let low = self.attn.forward(cx, &low, rows)?;
        let high = self.high.forward(cx, &low, rows)?;
        let both = self.both.forward(cx, &ops::add(&low, &high)?, rows)?;
        let all = Tensor::cat(&[low, high, both], 1)?;
        ops::add(x, &self.join.forward(cx, &all, rows)?)
    }

    fn cost(&self, point: &Point, members: usize, rows: usize) -> LeafCost {
        self.enter.cost(rows)
            + self.attn.cost(point, members, rows)
            + self.high.cost(rows)
            + self.both.cost(rows)
            + self.join.cost(rows)
    }
}

enum Mixer {
    Fusion(Fusion),
    Mixture(Box<Mixture>),
}

/// 2x2 squares to their mean, a product and a batch norm.
struct Down {
    linear: Grouped,
    norm: BatchNorm,
}

impl Down {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<State> {
        let dim = x.dims2()?.1;
        let (squares, rows) = merge_squares(x, rows)?;
        let mean = (squares.reshape((rows.total(), 4, dim))?.sum(1)? * 0.25)?;
        Ok(State::new(self.norm.forward(&self.linear.forward(cx, &mean, &rows)?)?, rows))
    }
}

struct Block {
    down: Option<Down>,
    mixer: Mixer,
    mlp: GroupMlp,
}

impl Block {
    /// The last block of a stage mixes frequencies, the first of a later stage halves the map.
    fn load(c: &Config, w: &Weights, (stage, within): (usize, usize)) -> Result<Self> {
        let dim = c.dims[stage];
        let down = if stage > 0 && within == 0 {
            let w = w.at("down");
            let linear = Grouped::load(&w.at("conv"), [dim, c.dims[stage - 1], 1], 1, false)?;
            Some(Down { linear, norm: w.batch_norm("bn", dim, EPS)? })
        } else {
            None
        };
        Ok(Block {
            down,
            mixer: if c.stages.ends((stage, within)) {
                Mixer::Mixture(Box::new(Mixture::load(c, &w.at("mix"), dim)?))
            } else {
                Mixer::Fusion(Fusion::load(c, &w.at("fuse"), dim)?)
            },
            mlp: GroupMlp::load(c, &w.at("mlp"), dim)?,
        })
    }

    fn forward(&self, cx: &mut Ctx, state: State) -> Result<State> {
        let State { x, rows, .. } = match &self.down {
            Some(down) => down.forward(cx, &state.x, &state.rows)?,
            None => state,
        };
        let x = match &self.mixer {
            Mixer::Fusion(f) => f.forward(cx, &x, &rows)?,
            Mixer::Mixture(m) => m.forward(cx, &x, &rows)?,
        };
        Ok(State::new(self.mlp.forward(cx, &x, &rows)?, rows))
    }

    fn cost(&self, point: &Point, sizes: &[Size]) -> LeafCost {
        let rows = rows_in(sizes);
        let down = self.down.as_ref().map(|d| d.linear.cost(rows) + d.norm.cost()).unwrap_or_default();
        let mixer = match &self.mixer {
            Mixer::Fusion(f) => f.cost(rows),
            Mixer::Mixture(m) => m.cost(point, sizes.len(), rows),
        };
        down + mixer + self.mlp.cost(rows)
    }
}

/// The model.
pub struct FmVit {
    channels: usize,
    image: Size,
    stages: Stages,
    stem: Vec<(Conv, BatchNorm)>,
    blocks: Vec<Block>,
    norm: BatchNorm,
    head: Box<dyn Linear>,
}

impl FmVit {
    fn load(c: &ConfigMap, w: &Weights) -> Result<Self> {
        let config = Config::read(c)?;
        let (first, last) = (config.dims[0], config.dims[config.stages.n() - 1]);
        let half = first / 2;
        let stem = |(i, shape): (usize, [usize; 3])| -> Result<(Conv, BatchNorm)> {
            let (w, stride) = (w.at("stem").at(i), if i % 3 == 0 { 2 } else { 1 });
            Ok((Conv::load(&w.at("conv"), shape, [stride, 1], false)?, w.batch_norm("bn", shape[0], EPS)?))
        };
        let shapes = [[half, config.channels, 3], [half, half, 3], [half, half, 3], [first, half, 3]];
        let block = |(k, at): (usize, (usize, usize))| Block::load(&config, &w.at("blocks").at(k), at);
        Ok(FmVit {
            stem: shapes.into_iter().enumerate().map(stem).collect::<Result<_>>()?,
            blocks: config.stages.all().enumerate().map(block).collect::<Result<_>>()?,
            norm: w.batch_norm("norm", last, EPS)?,
            head: w.linear("head", last, c.n_labels()?, true)?,
            channels: config.channels,
            image: config.image,
            stages: config.stages,
        })
    }

    /// Sizes of the maps inside the stem and behind it.
    fn sizes(&self, image: Size) -> [Size; 2] {
        let half = self.stem[0].0.size(image);
        [half, self.stem[3].0.size(half)]
    }
}

impl Staged for FmVit {
    fn n_blocks(&self) -> usize {
        self.blocks.len()
    }
    fn stem(&self, cx: &mut Ctx, input: &Input) -> Result<State> {
        let (mut x, mut rows) = pixel_rows(input.pixels(self.channels)?)?;
        for (conv, norm) in &self.stem {
            (x, rows) = conv.forward(cx, &x, &rows)?;
            x = Activation::Relu.forward(&norm.forward(&x)?)?;
        }
        Ok(State::new(x, rows))
    }
    fn block(&self, cx: &mut Ctx, idx: usize, state: State) -> Result<State> {
        let state = self.blocks[idx].forward(cx, state)?;
        let at = self.stages.of(idx);
        if self.stages.ends(at) {
            tap_stage(cx, at.0, &state.x, &state.rows)?;
        }
        Ok(state)
    }
    fn head(&self, cx: &mut Ctx, state: State) -> Result<Output> {
        let mean = mean_rows(&self.norm.forward(&state.x)?, &state.rows)?;
        Ok(Output::new().member("logits", self.head.forward(cx, &mean)?))
    }
    fn first_exit(&self) -> usize {
        self.stages.first_exit()
    }
    /// An odd row or column inside the stem is not told from an even one, so its work is left out where the image is not
    /// of the trained size.
    fn cost_stem(&self, _: &Point, lens: &[usize]) -> LeafCost {
        let [trained, first] = self.sizes(self.image).map(|s| rows_in(&[s]));
        let half: usize = lens.iter().map(|n| if *n == first { trained } else { 4 * n }).sum();
        let rows = lens.iter().sum();
        let one = |(i, (conv, norm)): (usize, &(Conv, BatchNorm))| {
            conv.cost(if i + 1 == self.stem.len() { rows } else { half }) + norm.cost()
        };
        self.stem.iter().enumerate().map(one).sum()
    }
    fn cost_block(&self, idx: usize, point: &Point, lens: &[usize]) -> LeafCost {
        self.blocks[idx].cost(point, &self.stages.sizes(self.stages.of(idx).0, lens))
    }
    fn cost_head(&self, point: &Point, lens: &[usize]) -> LeafCost {
        self.norm.cost() + self.head.cost(point, lens.len())
    }
}

impl Model for FmVit {
    fn spec(&self) -> InputSpec {
        InputSpec::Pixels { channels: self.channels, size: self.image, patch: (4, 4) }
    }
    fn trunk(&self) -> &dyn Staged {
        self
    }
    fn lens(&self, input: &Input) -> Result<Vec<usize>> {
        let (n, _, h, w) = input.pixels(self.channels)?.dims4()?;
        Ok(vec![rows_in(&[self.sizes((h, w))[1]]); n])
    }
}

/// The tensors of a model with `deploy`, of those of one without: every sum of branches becomes one convolution. The way
/// back does not exist. Errors where a branch is not whole.
pub fn fold(tensors: &SavedMap) -> Result<SavedMap> {
    let mut layers: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut folded = SavedMap::new();
    for (name, tensor) in tensors {
        match name.split_once(".branches.") {
            Some((layer, rest)) => {
                layers.entry(layer).or_default().insert(rest.split('.').next().unwrap_or_default());
            }
            None => drop(folded.insert(name.clone(), tensor.clone())),
        }
    }
    for (layer, branches) in layers {
        let read = |branch: &str, part: &str| -> Option<(Vec<usize>, Vec<f32>)> {
            let saved = tensors.get(&format!("{layer}.branches.{branch}.{part}"))?;
            let values = saved.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            Some((saved.shape.clone(), values))
        };
        let lacks = |part: &str| Error::config("fold", format!("{layer} lacks a whole {part}"));
        // The widest kernel with the most channels is what all branches fold into.
        let shapes: Vec<Vec<usize>> =
            branches.iter().filter_map(|b| read(b, "conv.weight").map(|(shape, _)| shape)).collect();
        let largest = |axis: usize| shapes.iter().filter_map(|s| s.get(axis)).max().copied();
        let (Some(out), Some(width), Some(kernel)) = (largest(0), largest(1), largest(2)) else {
            return Err(lacks("convolution"));
        };
        let (mut weight, mut bias) = (vec![0f64; out * width * kernel * kernel], vec![0f64; out]);
        for branch in &branches {
            let vector = |part: &str| read(branch, part).filter(|(s, _)| *s == [out]).map(|(_, v)| v);
            let norms = ["bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"].map(vector);
            let [Some(gain), Some(shift), Some(mean), Some(variance)] = norms else { return Err(lacks("batch norm")) };
            let conv = read(branch, "conv.weight");
            let same = conv.is_none();
            // Rows that stay as they are: one channel, one place.
            let (shape, values) = conv.unwrap_or_else(|| (vec![out, 1, 1, 1], vec![1.0; out]));
            let [_, own, k, _] = shape[..] else { return Err(lacks("kernel")) };
            for o in 0..out {
                let factor = f64::from(gain[o]) / (f64::from(variance[o]) + EPS).sqrt();
                bias[o] += f64::from(shift[o]) - f64::from(mean[o]) * factor;
                // First channel, within what the whole layer sees, of the group of this output.
                let first = if same { o % width } else { o * (width / own) / out * own };
                for (i, y, x) in (0..own).flat_map(|i| (0..k).flat_map(move |y| (0..k).map(move |x| (i, y, x)))) {
                    let middle = (kernel - k) / 2;
                    let at = ((o * width + first + i) * kernel + y + middle) * kernel + x + middle;
                    weight[at] += factor * f64::from(values[((o * own + i) * k + y) * k + x]);
                }
            }
        }
        let narrow = |v: Vec<f64>| v.into_iter().map(|v| v as f32).collect::<Vec<f32>>();
        folded.insert(format!("{layer}.conv.weight"), Saved::f32(&[out, width, kernel, kernel], &narrow(weight)));
        folded.insert(format!("{layer}.conv.bias"), Saved::f32(&[out], &narrow(bias)));
    }
    Ok(folded)
}
