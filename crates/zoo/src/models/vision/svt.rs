//! SVT - wavelets mix where maps are large, attention where they are small.
//!
//! Paper: "Scattering Vision Transformer: Spectral Mixing Matters", arXiv 2311.01310. Code: badripatro/svt; the authors'
//! names load. Weights: none published.
//! Idea: the first stage takes its map apart by a complex wavelet transform, multiplies the coarse part by a gain per
//! channel and place, sends the six directed fine parts through a small complex network over channels, and puts the map
//! together again. Nothing is lost on the way, and no product is as long as the map is large. Later stages attend.
//! Shapes: `pixels [b, c, h, w] -> maps [h / 4, w / 4, d0] .. [h / 32, w / 32, d3] -> logits [b, labels].`
//! Departs from the reference: any image size (gains are resized bilinearly, odd maps repeat their edge), widths of the
//! first stage other than 64 and 96; training answers as running does
//! (there it gives both heads apart, and mixes images).

use std::sync::OnceLock;

use switchformer_nn::config::{ConfigMap, MAX_DIM, MAX_HEADS, MAX_SIDE};
use switchformer_nn::init::Init;
use switchformer_nn::layers::{Activation, BatchNorm, LayerNorm, check_heads};
use switchformer_nn::maps::wavelet::{self, DIRECTIONS};
use switchformer_nn::maps::{Conv, max_rows, mean_rows, resize_maps};
use switchformer_nn::names::Names;
use switchformer_nn::ops::Epilogue;
use switchformer_nn::ops::{self, DenseWeight};
use switchformer_nn::staged::State;
use switchformer_nn::{
    Attention, AttentionNames, AttentionSpec, Ctx, Error, Linear, Output, ParamKind, Result, Rows, Size, Tensor,
    Weights,
};

use crate::entry::{Entry, HeadKind, Timm, Trait};
use crate::published::Published;
use crate::pyramid::{Block, BlockSpec, Downsample, Inside, MapHead, Mixer, Pyramid, Shrink, Stages, by_size};

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "svt",
    paper: "Scattering Vision Transformer: Spectral Mixing Matters, arXiv 2311.01310",
    summary: "pyramid that mixes large maps by a complex wavelet transform and small ones by attention",
    architectures: &[("SVT", HeadKind::ImageClassification)],
    published: Published::new(include_str!("../../../variants/svt.json")),
    names: Names::new(&[], &["**.num_batches_tracked", "**.attn.xfm.*", "**.attn.ifm.*"]),
    blocks: &["attn.", "mlp."],
    prefix: "",
    heads: &[],
    traits: &[Trait::NoExitHeads, Trait::Pyramid, Trait::ConvolutionalFfn],
    toy: r#"{"model_type":"svt","architectures":["SVT"],"stem_hidden_dim":4,"embed_dims":[8,16,24],"depths":[1,1,2],
        "num_heads":[1,2,3],"mlp_ratios":[2,2,2],"num_stages":3,"img_size":24,"in_chans":1,"num_labels":5}"#,
    load: |config, w| Ok(Box::new(load(config, w)?)),
};

/// The authors' factories, in the same folder form as timm's.
pub static TIMM: Timm = Timm {
    family: "svt",
    entry: &ENTRY,
    architecture: "SVT",
    args: &[
        ("img_size", "img_size"),
        ("in_chans", "in_chans"),
        ("stem_hidden_dim", "stem_hidden_dim"),
        ("embed_dims", "embed_dims"),
        ("num_heads", "num_heads"),
        ("mlp_ratios", "mlp_ratios"),
        ("depths", "depths"),
        ("sr_ratios", "sr_ratios"),
        ("num_stages", "num_stages"),
        ("token_label", "token_label"),
    ],
    pool: "token",
};

/// Epsilon of the norms behind convolutions, and of batch norms.
const CONV_EPS: f64 = 1e-5;
/// Groups of channels that the complex network keeps apart.
const GROUPS: usize = 4;

/// The authors' arguments, checked.
struct Config {
    stages: Stages,
    stem: usize,
    dims: Vec<usize>,
    heads: Vec<usize>,
    mlp_ratios: Vec<f64>,
    /// Epsilon of the norms of blocks, stages and the head.
    eps: f64,
    /// Whether a second head looks at every token.
    token_label: bool,
    channels: usize,
    image: Size,
    /// The map of the first stage at the trained size.
    first: Size,
}

impl Config {
    fn read(c: &ConfigMap) -> Result<Self> {
        let image = c.pair("img_size", 224, MAX_SIDE)?;
        let first = (image.0.div_ceil(2).div_ceil(2), image.1.div_ceil(2).div_ceil(2));
        let stages = Stages::read(c, "depths", &[3, 4, 6, 3])?;
        let n = stages.n();
        if c.size("num_stages", Some(n), MAX_DIM)? != n {
            return Err(Error::config("num_stages", format!("is not the {n} entries of depths")));
        }
        // Read and not used by the reference.
        c.stages("sr_ratios", &vec![1; n], Some(n), MAX_SIDE)?;
        let config = Config {
            stem: c.size("stem_hidden_dim", Some(32), MAX_DIM)?,
            dims: c.stages("embed_dims", &[64, 128, 320, 448], Some(n), MAX_DIM)?,
            heads: c.stages("num_heads", &[2, 4, 10, 14], Some(n), MAX_HEADS)?,
            mlp_ratios: c.stage_floats("mlp_ratios", &[8.0, 8.0, 4.0, 4.0], n, 0.01, 64.0)?,
            eps: c.float("layer_norm_eps", 1e-6, 0.0, 1.0)?,
            token_label: c.flag("token_label", true)?,
            channels: c.size("in_chans", Some(3), 64)?,
            image,
            first,
            stages,
        };
        if !config.dims[0].is_multiple_of(GROUPS) {
            let what = format!("is {} in the first stage, no multiple of {GROUPS}", config.dims[0]);
            return Err(Error::config("embed_dims", what));
        }
        for stage in 0..n {
            check_heads(config.dims[stage], config.heads[stage])?;
        }
        Ok(config)
    }
}

/// Mixing by wavelets: gains of the coarse part, a complex network over the channels of the fine parts.
struct Scatter {
    /// `[dim, h, w]` at the trained size.
    gains: Tensor,
    layers: Vec<ComplexLayer>,
}

/// A complex product in groups of channels, over real parts beside imaginary ones.
struct ComplexLayer {
    /// `[2, groups, width, width]`, real parts first.
    weight: Tensor,
    /// `[2, groups, width]`.
    bias: Tensor,
    /// The weights as one real matrix from the first use on, where they do not change.
    fixed: OnceLock<DenseWeight>,
}

impl ComplexLayer {
    fn load(w: &Weights, i: usize, width: usize) -> Result<Self> {
        let part = |what: &str| format!("complex_weight_lh_{what}{i}");
        let weight = w.tensor(&part(""), &[2, GROUPS, width, width], ParamKind::Kernel)?;
        let bias = w.tensor(&part("b"), &[2, GROUPS, width], ParamKind::Vector)?;
        Ok(ComplexLayer { weight, bias, fixed: OnceLock::new() })
    }

    /// Shapes: x `[rows, 2 * dim]` -> the same.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let bias = self.bias.flatten_all()?;
        if self.weight.track_op() || self.weight.is_hollow() {
            return ops::linear(x, &real(&self.weight)?, Some(&bias));
        }
        let fixed = match self.fixed.get() {
            Some(fixed) => fixed,
            None => {
                let made = DenseWeight::new(real(&self.weight)?);
                self.fixed.get_or_init(|| made)
            }
        };
        fixed.linear(x, Some(&bias), &Epilogue::default())
    }
}

/// The real matrix of complex ones that stand in groups, with zeros outside of them: one product in place of one for every
/// group, with as many times the multiplications as there are groups. Shapes: weight `[2, groups, width, width]` from input to output -> `[2 * dim, 2 * dim]`.
fn real(weight: &Tensor) -> Result<Tensor> {
    let diagonal = |part: usize| -> Result<Tensor> {
        let (_, groups, width, _) = weight.dims4()?;
        let row = |g: usize| -> Result<Tensor> {
            let own = weight.get(part)?.get(g)?.t()?.contiguous()?;
            own.pad_with_zeros(1, g * width, (groups - 1 - g) * width)
        };
        Tensor::cat(&(0..groups).map(row).collect::<Result<Vec<_>>>()?, 0)
    };
    let (re, im) = (diagonal(0)?, diagonal(1)?);
    let above = Tensor::cat(&[&re, &im.neg()?], 1)?;
    Tensor::cat(&[above, Tensor::cat(&[&im, &re], 1)?], 0)
}

impl Scatter {
    fn load(c: &Config, w: &Weights) -> Result<Self> {
        let (dim, (h, wide)) = (c.dims[0], wavelet::low_size(c.first));
        let w = w.with_init(Init::Normal(0.02));
        Ok(Scatter {
            gains: w.tensor("complex_weight_ll", &[dim, h, wide], ParamKind::Table)?,
            layers: [1, 2].map(|i| ComplexLayer::load(&w, i, dim / GROUPS)).into_iter().collect::<Result<Vec<_>>>()?,
        })
    }

    /// Gains for `n` coarse parts of some size. Shapes: -> `[h * w * n, dim]`.
    fn gains_at(&self, size: Size, n: usize) -> Result<Tensor> {
        let (dim, h, w) = self.gains.dims3()?;
        let rows = self.gains.permute((1, 2, 0))?.contiguous()?.reshape((h * w, dim))?;
        let (rows, _) = resize_maps(&rows, &Rows::maps(&[(h, w)])?, &[size])?;
        let all = size.0 * size.1 * n;
        ops::gather(&rows, &Tensor::from_vec((0..all).map(|p| (p / n) as u32).collect(), all)?)
    }

    /// Maps of one size. Shapes: x `[n * h * w, dim]` -> the same.
    fn equal(&self, x: &Tensor, n: usize, size: Size) -> Result<Tensor> {
        let waves = wavelet::scatter(x, n, size)?;
        let mut fine = ops::beside(&[&waves.high[0], &waves.high[1]])?;
        for (i, layer) in self.layers.iter().enumerate() {
            fine = layer.forward(&fine)?;
            if i == 0 {
                fine = Activation::Relu.forward(&fine)?;
            }
        }
        let low = ops::times(&waves.low, &self.gains_at(wavelet::low_size(size), n)?)?;
        waves.with(low, ops::split(&fine)?).join()
    }

    fn macs(&self, size: Size) -> usize {
        let (dim, (h, w)) = (self.gains.dims()[0], wavelet::low_size(size));
        // A complex product of width d / 4 in each of 4 groups is d * d multiply-adds.
        wavelet::macs(size) * dim + DIRECTIONS * (h / 2) * (w / 2) * self.layers.len() * dim * dim
    }
}

impl Mixer for Scatter {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let dim = x.dims2()?.1;
        by_size(x, rows, dim, |x, own, (h, w)| {
            cx.count(own.n() * self.macs((h, w)));
            if h * w == 0 {
                return Ok(x.clone());
            }
            self.equal(x, own.n(), (h, w))
        })
    }
}

/// Queries, and keys with values, of one width; `source` where they are of other rows.
fn attention(dim: usize, heads: usize, source: Option<usize>, tap: &'static str) -> AttentionSpec {
    AttentionSpec { source, tap, ..AttentionSpec::new(AttentionNames::new(["q", "kv", "kv"], "proj"), dim, heads) }
}

fn block(c: &Config, w: &Weights, stage: usize) -> Result<Block> {
    let (dim, attn) = (c.dims[stage], w.at("attn"));
    let mixer: Box<dyn Mixer> = if stage == 0 {
        Box::new(Scatter::load(c, &attn)?)
    } else {
        attn.attention(&attention(dim, c.heads[stage], None, "attn"))?
    };
    let hidden = (dim as f64 * c.mlp_ratios[stage]) as usize;
    Block::load(w, &BlockSpec::of_authors(c.eps, Inside::Plain), [dim, hidden], mixer)
}

/// Pixels to the first map: three convolutions with batch norm and ReLU, and one to half the size.
struct Stem {
    convs: Vec<(Conv, BatchNorm)>,
    down: Downsample,
}

impl Stem {
    fn load(c: &Config, w: &Weights) -> Result<Self> {
        let (hidden, conv) = (c.stem, w.at("conv"));
        let one = |i: usize| -> Result<(Conv, BatchNorm)> {
            let (shape, step) = if i == 0 { ([hidden, c.channels, 7], [2, 3]) } else { ([hidden, hidden, 3], [1, 1]) };
            let norm = conv.batch_norm(&(3 * i + 1).to_string(), hidden, CONV_EPS)?;
            Ok((Conv::load(&conv.at(3 * i), shape, step, false)?, norm))
        };
        Ok(Stem {
            convs: (0..3).map(one).collect::<Result<_>>()?,
            down: Downsample {
                conv: Conv::load(&w.at("proj"), [c.dims[0], hidden, 3], [2, 1], true)?,
                norm: w.layer_norm("norm", c.dims[0], CONV_EPS)?,
            },
        })
    }
}

impl Shrink for Stem {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<State> {
        let (mut x, mut rows) = (x.clone(), rows.clone());
        for (conv, norm) in &self.convs {
            (x, rows) = conv.forward(cx, &x, &rows)?;
            x = Activation::Relu.forward(&norm.forward(cx, &x)?)?;
        }
        self.down.forward(cx, &x, &rows)
    }
}

/// The mean row of the last map asks all rows, goes through a feed-forward and is classified; a second head may look at
/// every row, and half of its largest scores are added.
struct Head {
    norm1: LayerNorm,
    attn: Box<dyn Attention>,
    norm2: LayerNorm,
    fc1: Box<dyn Linear>,
    fc2: Box<dyn Linear>,
    norm: LayerNorm,
    head: Box<dyn Linear>,
    aux: Option<Box<dyn Linear>>,
}

impl Head {
    fn load(c: &Config, w: &Weights, labels: usize) -> Result<Self> {
        let last = c.stages.n() - 1;
        let (dim, block) = (c.dims[last], w.at("post_network.0"));
        let hidden = (dim as f64 * c.mlp_ratios[last]) as usize;
        Ok(Head {
            norm1: block.layer_norm("norm1", dim, c.eps)?,
            attn: block.at("attn").attention(&attention(dim, c.heads[last], Some(dim), "class_attn"))?,
            norm2: block.layer_norm("norm2", dim, c.eps)?,
            fc1: block.linear("mlp.fc1", dim, hidden, true)?,
            fc2: block.linear("mlp.fc2", hidden, dim, true)?,
            norm: w.layer_norm(&format!("norm{}", last + 1), dim, c.eps)?,
            head: w.linear("head", dim, labels, true)?,
            aux: if c.token_label { Some(w.linear("aux_head", dim, labels, true)?) } else { None },
        })
    }
}

impl MapHead for Head {
    fn forward(&self, cx: &mut Ctx, hidden: Tensor, end: &State) -> Result<Output> {
        let (x, rows) = (&end.x, &end.rows);
        let n = rows.n();
        let class = mean_rows(x, rows)?;
        // Every member's class row in front of its own rows.
        let order = (0..n).flat_map(|i| std::iter::once(i).chain(rows.range(i).map(move |r| n + r)));
        let order: Vec<u32> = order.map(|r| r as u32).collect();
        let order = Tensor::from_vec(order, n + rows.total())?;
        let lens: Vec<usize> = rows.lens().iter().map(|len| len + 1).collect();
        let all = ops::gather(&self.norm1.forward(&Tensor::cat(&[&class, x], 0)?)?, &order)?;
        let asking = self.norm1.forward(&class)?;
        let seen = self.attn.key_values(cx, &all, &Rows::new(&lens)?)?;
        let asked = self.attn.attend(cx, &asking, &Rows::equal(n, 1)?, &seen, None)?;
        let class = ops::add(&class, &asked)?;
        let wide = self.fc1.forward(cx, &self.norm2.forward(&class)?)?;
        let class = ops::add(&class, &self.fc2.forward(cx, &Activation::Gelu.forward(&wide)?)?)?;
        let mut logits = self.head.forward(cx, &self.norm.forward(&class)?)?;
        if let Some(aux) = &self.aux {
            logits = (logits + (max_rows(&aux.forward(cx, &hidden)?, rows)? * 0.5)?)?;
        }
        Ok(Output::new().member("logits", logits))
    }
}

fn load(c: &ConfigMap, w: &Weights) -> Result<Pyramid<Block, Stem, Downsample, Head>> {
    let config = Config::read(c)?;
    let n = config.stages.n();
    let down = |s: usize| -> Result<Downsample> {
        let w = w.at(format!("patch_embed{}", s + 1));
        let conv = Conv::load(&w.at("proj"), [config.dims[s], config.dims[s - 1], 3], [2, 1], true)?;
        Ok(Downsample { conv, norm: w.layer_norm("norm", config.dims[s], CONV_EPS)? })
    };
    let one = |(s, i): (usize, usize)| block(&config, &w.at(format!("block{}", s + 1)).at(i), s);
    let head = Head::load(&config, w, c.n_labels()?)?;
    let norm = |s: usize| w.layer_norm(&format!("norm{}", s + 1), config.dims[s], config.eps);
    let mut norms = (0..n - 1).map(|s| norm(s).map(Some)).collect::<Result<Vec<_>>>()?;
    norms.push(Some(head.norm.clone()));
    Ok(Pyramid {
        stem: Stem::load(&config, &w.at("patch_embed1"))?,
        downs: (1..n).map(down).collect::<Result<_>>()?,
        blocks: config.stages.all().map(one).collect::<Result<_>>()?,
        norms,
        head,
        stages: config.stages,
        channels: config.channels,
        image: config.image,
        patch: 4,
    })
}
