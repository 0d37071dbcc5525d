//! CrossFormer, CrossFormer++ - patches of several sizes, attention to neighbours and to places far apart in turn.
//!
//! Paper: "CrossFormer: A Versatile Vision Transformer Hinging on Cross-scale Attention", arXiv 2108.00154, and
//! "CrossFormer++", arXiv 2303.06908. Code: cheerss/CrossFormer; the authors' names load.
//! Idea: every row is made by convolutions of several sizes side by side. Even blocks attend inside groups of
//! neighbours, odd ones inside groups of places at a fixed distance, so two blocks reach far at the price of small
//! groups. A small network gives the bias of any relative place. ++ has larger groups in deeper stages, and every third
//! block ends with a depth-wise convolution and a norm that keep amplitudes down.
//! Shapes: `pixels [b, c, h, w] -> maps [h / 4, w / 4, dim] .. [h / 32, w / 32, 8 dim] -> logits [b, labels].`
//! Departs from the reference: any size of map (a map whose shorter side is within a group is one window, as in the
//! authors' code for detection; an odd last row or column is left out when maps shrink). `use_cpe` is refused.

use std::sync::{Arc, OnceLock};

use serde_json::Value as Json;
use switchformer_nn::attention::{PairBias, Partition, Positions, Scores};
use switchformer_nn::config::{ConfigMap, MAX_DIM, MAX_HEADS, MAX_SIDE, MAX_STAGES, whole};
use switchformer_nn::dry;
use switchformer_nn::layers::{Activation, LayerNorm, check_heads};
use switchformer_nn::leaf::Ffn;
use switchformer_nn::maps::{Conv, Cut, Depthwise, pair_biases};
use switchformer_nn::names::Names;
use switchformer_nn::staged::State;
use switchformer_nn::weights::FfnSpec;
use switchformer_nn::{
    Attention, AttentionNames, AttentionSpec, Ctx, Error, ParamKind, Result, Rows, Size, Tensor, Weights, ops,
};

use crate::entry::{Entry, HeadKind, Timm, Trait};
use crate::published::Published;
use crate::pyramid::{MapPositions, Mixer, PooledHead, Pyramid, ScoreScale, Shrink, Stages};

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "crossformer",
    paper: "CrossFormer, arXiv 2108.00154, and CrossFormer++, arXiv 2303.06908",
    summary: "pyramid of patches of several sizes with attention to groups near and far in turn",
    architectures: &[("CrossFormer", HeadKind::ImageClassification)],
    published: Published::new(include_str!("../../../variants/crossformer.json")),
    names: Names::new(&[], &["**.attn.biases", "**.attn.relative_position_index", "**.attn_mask"]),
    blocks: &["blocks."],
    prefix: "",
    heads: &[],
    traits: &[Trait::NoExitHeads, Trait::Pyramid],
    toy: r#"{"model_type":"crossformer","architectures":["CrossFormer"],"embed_dim":128,"num_heads":[2,4],
        "patch_size":[4,8],"merge_size":[[2,4]],"group_size":[3,2],"crs_interval":[2,1],"mlp_ratio":0.25,"use_acl":true,
        "depths":[4,1],"img_size":32,"in_chans":1,"num_labels":5}"#,
    load: |config, w| Ok(Box::new(load(config, w)?)),
};

/// The authors' constructor, in the same folder form as timm's.
pub static TIMM: Timm = Timm {
    family: "crossformer",
    entry: &ENTRY,
    architecture: "CrossFormer",
    args: &[
        ("img_size", "img_size"),
        ("patch_size", "patch_size"),
        ("in_chans", "in_chans"),
        ("embed_dim", "embed_dim"),
        ("depths", "depths"),
        ("num_heads", "num_heads"),
        ("group_size", "group_size"),
        ("crs_interval", "crs_interval"),
        ("mlp_ratio", "mlp_ratio"),
        ("qkv_bias", "qkv_bias"),
        ("qk_scale", "qk_scale"),
        ("ape", "ape"),
        ("patch_norm", "patch_norm"),
        ("merge_size", "merge_size"),
        ("use_cpe", "use_cpe"),
        ("group_type", "group_type"),
        ("pad_type", "pad_type"),
        ("no_mask", "no_mask"),
        ("adaptive_interval", "adaptive_interval"),
        ("use_acl", "use_acl"),
    ],
    pool: "avg",
};

/// All norms have this epsilon.
const EPS: f64 = 1e-5;
/// What keys beyond the edge get.
const FAR: f32 = -1e6;
/// The network of positions is this much narrower than the block.
const NARROWER: usize = 16;

/// The authors' arguments, checked.
struct Config {
    stages: Stages,
    dim: usize,
    heads: Vec<usize>,
    /// Side of the groups of every block, stage by stage.
    groups: Vec<Vec<usize>>,
    /// Distance of the places of a far group in each stage; `None` is just enough to span the map.
    intervals: Option<Vec<usize>>,
    mlp_ratios: Vec<f64>,
    qkv_bias: bool,
    scale: ScoreScale,
    /// Learned positions of the first map (`ape`).
    positions: bool,
    /// Kernels of the stem; the first is also the stride.
    patches: Vec<usize>,
    /// Kernels in front of every stage but the first.
    merges: Vec<Vec<usize>>,
    patch_norm: bool,
    centred: bool,
    mask: bool,
    cooling: bool,
    channels: usize,
    image: Size,
}

impl Config {
    fn read(c: &ConfigMap) -> Result<Self> {
        c.only("use_cpe", &[false.into()])?;
        c.only("pad_type", &[0.into(), 1.into()])?;
        let image = c.pair("img_size", 224, MAX_SIDE)?;
        let patches = c.stages("patch_size", &[4], None, 64)?;
        let side = |n: usize| n / patches[0];
        let stages = Stages::read(c, "depths", &[2, 2, 6, 2])?;
        let n = stages.n();
        let sides = c.stages("group_size", &[7, 7, 7, 7], Some(n), MAX_SIDE)?;
        let intervals = c.stages("crs_interval", &[8, 4, 2, 1], Some(n), MAX_SIDE)?;
        let config = Config {
            dim: c.size("embed_dim", Some(96), MAX_DIM >> MAX_STAGES)?,
            heads: c.stages("num_heads", &[3, 6, 12, 24], Some(n), MAX_HEADS)?,
            groups: groups(&c.text("group_type", "constant")?, &sides, &stages, side(image.0))?,
            intervals: (!c.flag("adaptive_interval", false)?).then_some(intervals),
            mlp_ratios: c.stage_floats("mlp_ratio", &[4.0], n, 0.01, 64.0)?,
            qkv_bias: c.flag("qkv_bias", true)?,
            scale: ScoreScale::read(c)?,
            positions: c.flag("ape", false)?,
            merges: merges(c, n)?,
            patch_norm: c.flag("patch_norm", true)?,
            centred: c.int("pad_type", Some(0), 1)? == 1,
            mask: !c.flag("no_mask", false)?,
            cooling: c.flag("use_acl", false)?,
            channels: c.size("in_chans", Some(3), 64)?,
            patches,
            image,
            stages,
        };
        if config.dim < NARROWER {
            return Err(Error::config("embed_dim", format!("is {}, must be at least {NARROWER}", config.dim)));
        }
        (0..n).try_for_each(|s| check_heads(config.width(s), config.heads[s]))?;
        Ok(config)
    }

    /// Width of a stage.
    fn width(&self, stage: usize) -> usize {
        self.dim << stage
    }
}

/// Kernels of the steps between `stages` stages.
fn merges(c: &ConfigMap, stages: usize) -> Result<Vec<Vec<usize>>> {
    let step = |v: &Json| -> Option<Vec<usize>> {
        v.as_array().filter(|l| (1..=MAX_STAGES).contains(&l.len()))?.iter().map(|v| whole(v, 1..=64)).collect()
    };
    // Configs may list one for the last stage too.
    let steps = c.list("merge_size", stages - 1..=MAX_STAGES, "lists of kernels, one for each step", step)?;
    Ok(steps.map_or(vec![vec![2]; stages - 1], |s| s.into_iter().take(stages - 1).collect()))
}

/// Side of the groups of every block. Sides that grow do so from 4 places to the whole map, as a share of the map that
/// is linear in the block; `first` is the side of the first map.
fn groups(kind: &str, sides: &[usize], stages: &Stages, first: usize) -> Result<Vec<Vec<usize>>> {
    const MIN: f64 = 4.0;
    let grows = ["linear", "linear_div", "alter"].contains(&kind);
    if !grows && !["constant", "7_14"].contains(&kind) {
        return Err(Error::unsupported("group_type", kind, "constant, linear, linear_div, alter, 7_14"));
    }
    if grows && first <= MIN as usize {
        return Err(Error::config(
            "img_size",
            format!("gives a first map of {first}, too small for group_type {kind}"),
        ));
    }
    let start = MIN / first as f64;
    let step = (start + (1.0 - start) / stages.n_blocks() as f64) - start;
    let mut groups = vec![Vec::new(); stages.n()];
    for (idx, (stage, within)) in stages.all().enumerate() {
        let map = first >> stage;
        // The two kinds that jump stop at half a map in the third stage alone.
        let leap = |whole: bool| if whole || stage != 2 { map as f64 } else { (map / 2) as f64 };
        let wide = map as f64 * (start + idx as f64 * step);
        let beyond = wide > (map / 2) as f64;
        let side = match kind {
            "linear_div" if beyond => leap(wide > map as f64 * 3.0 / 4.0),
            "alter" if beyond => leap(idx % 2 == 1),
            _ => wide,
        };
        groups[stage].push(match kind {
            "constant" => sides[stage],
            "7_14" if stage == 2 && within < 4 => sides[stage] / 2,
            "7_14" => sides[stage],
            _ => side.ceil().max(MIN) as usize,
        });
    }
    if groups.iter().flatten().any(|g| *g == 0) {
        return Err(Error::config("group_size", "is too small to be halved"));
    }
    Ok(groups)
}

/// Convolutions of several sizes side by side: pixels to the first map, or a map to the next stage's.
struct CrossScale {
    /// In front, between stages.
    before: Option<LayerNorm>,
    convs: Vec<Conv>,
    /// Behind, in the stem.
    after: Option<LayerNorm>,
    /// Added last, in the stem.
    positions: Option<MapPositions>,
}

impl CrossScale {
    /// Every kernel gives half as many channels as the one before, the last as many as the one before it.
    fn convs(w: &Weights, field: &str, kernels: &[usize], [from, to]: [usize; 2], stride: usize) -> Result<Vec<Conv>> {
        let last = kernels.len() - 1;
        if kernels.iter().any(|k| *k < stride || (k - stride) % 2 == 1) {
            return Err(Error::unsupported(
                field,
                format!("{kernels:?}"),
                format!("kernels that are {stride} or an even number more"),
            ));
        }
        if !to.is_multiple_of(1 << last) {
            return Err(Error::config(field, format!("has {} kernels for {to} channels", kernels.len())));
        }
        let conv = |(i, k): (usize, &usize)| {
            Conv::load(&w.at(i), [to >> (i + 1).min(last), from, *k], [stride, (k - stride) / 2], true)
        };
        kernels.iter().enumerate().map(conv).collect()
    }
}

impl Shrink for CrossScale {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<State> {
        let x = self.before.as_ref().map_or(Ok(x.clone()), |norm| norm.forward(x))?;
        let seen: Vec<_> = self.convs.iter().map(|conv| conv.forward(cx, &x, rows)).collect::<Result<_>>()?;
        let rows = seen[0].1.clone();
        let x = Tensor::cat(&seen.iter().map(|(x, _)| x).collect::<Vec<_>>(), 1)?;
        let x = self.after.as_ref().map_or(Ok(x.clone()), |norm| norm.forward(&x))?;
        let x = self.positions.as_ref().map_or(Ok(x.clone()), |p| p.forward(&x, &rows))?;
        Ok(State::new(x, rows))
    }
}

/// A small network from a relative place to a bias per head.
struct PositionBias {
    enter: [Tensor; 2],
    layers: Vec<(LayerNorm, [Tensor; 2])>,
    /// What it gave for the first window, kept where no training can change it.
    fixed: Option<OnceLock<(Size, Tensor)>>,
}

impl PositionBias {
    fn load(w: &Weights, dim: usize, heads: usize) -> Result<Self> {
        let own = dim / NARROWER;
        let pair = |w: Weights, from: usize, to: usize| -> Result<[Tensor; 2]> {
            let weight = w.tensor("weight", &[to, from], ParamKind::Table)?;
            Ok([weight, w.tensor("bias", &[to], ParamKind::Vector)?])
        };
        let layer = |(name, to): (&str, usize)| -> Result<(LayerNorm, [Tensor; 2])> {
            Ok((w.at(name).layer_norm("0", own, EPS)?, pair(w.at(name).at(2), own, to)?))
        };
        Ok(PositionBias {
            enter: pair(w.at("pos_proj"), 2, own)?,
            layers: [("pos1", own), ("pos2", own), ("pos3", heads)].into_iter().map(layer).collect::<Result<_>>()?,
            fixed: (!w.is_trainable()).then(OnceLock::new),
        })
    }
}

impl PairBias for PositionBias {
    fn of(&self, window: Size) -> Result<Tensor> {
        // A dry run gives no numbers to keep.
        let fixed = self.fixed.as_ref().filter(|_| !dry::is_dry());
        if let Some((_, bias)) = fixed.and_then(OnceLock::get).filter(|(w, _)| *w == window) {
            return Ok(bias.clone());
        }
        let (h, w) = window;
        let far = |at: usize, side: usize| at as f32 - (side - 1) as f32;
        let places: Vec<f32> =
            (0..2 * h - 1).flat_map(|y| (0..2 * w - 1).flat_map(move |x| [far(y, h), far(x, w)])).collect();
        let places = Tensor::from_vec(places, ((2 * h - 1) * (2 * w - 1), 2))?;
        let mut x = ops::linear(&places, &self.enter[0], Some(&self.enter[1]))?;
        for (norm, [weight, bias]) in &self.layers {
            x = ops::linear(&Activation::Relu.forward(&norm.forward(&x)?)?, weight, Some(bias))?;
        }
        let bias = pair_biases(&x, window)?;
        if let Some(cell) = fixed {
            let _ = cell.set((window, bias.clone()));
        }
        Ok(bias)
    }
}

struct Block {
    norm1: LayerNorm,
    attn: Box<dyn Attention>,
    norm2: LayerNorm,
    ffn: Box<dyn Ffn>,
    /// Cools amplitudes down: no residual goes around it.
    cooling: Option<(Depthwise, LayerNorm)>,
}

/// The windows of a block: groups of `group` places a side. `interval` says whether they stand apart, and how far; 0 is just
/// enough to span the map.
fn groups_of(c: &Config, group: usize, interval: Option<usize>) -> Partition {
    let (centred, far) = (c.centred, c.mask.then_some(FAR));
    Arc::new(move |(h, w)| {
        // The whole map where its shorter side is within a group.
        let (window, interval) = match interval {
            _ if h.min(w) <= group => ((h, w), 1),
            None => ((group, group), 1),
            Some(0) => ((group, group), h.max(w).div_ceil(group)),
            Some(apart) => ((group, group), apart),
        };
        Ok(Cut::Spread { window, interval, centred, far })
    })
}

impl Block {
    fn load(c: &Config, w: &Weights, stage: usize, within: usize, last: bool) -> Result<Self> {
        let (dim, heads, attn) = (c.width(stage), c.heads[stage], w.at("attn"));
        let interval = (within % 2 == 1).then(|| c.intervals.as_ref().map_or(0, |i| i[stage]));
        let cools = c.cooling && within % 3 == 2 && !last;
        let cooling =
            || -> Result<_> { Ok((Depthwise::load(&w.at("ex_conv"), dim, 3)?, w.layer_norm("ex_ln", dim, EPS)?)) };
        Ok(Block {
            norm1: w.layer_norm("norm1", dim, EPS)?,
            attn: attn.attention(&AttentionSpec {
                bias: [c.qkv_bias; 3],
                scores: Scores::Dot(c.scale.of(dim / heads)),
                positions: Positions::Pairs(Arc::new(PositionBias::load(&attn.at("pos"), dim, heads)?)),
                cuts: vec![groups_of(c, c.groups[stage][within], interval)],
                ..AttentionSpec::new(AttentionNames::new(["qkv"; 3], "proj"), dim, heads)
            })?,
            norm2: w.layer_norm("norm2", dim, EPS)?,
            ffn: w.ffn(&FfnSpec::new(
                &["mlp.fc1"],
                "mlp.fc2",
                [dim, (dim as f64 * c.mlp_ratios[stage]) as usize],
                Activation::Gelu,
            ))?,
            cooling: cools.then(cooling).transpose()?,
        })
    }
}

impl Mixer for Block {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let x = self.attn.forward_onto(cx, &self.norm1.forward(x)?, rows, x)?;
        let x = self.ffn.forward_onto(cx, &self.norm2.forward(&x)?, rows, &x)?;
        match &self.cooling {
            Some((conv, norm)) => norm.forward(&conv.forward(cx, &x, rows)?),
            None => Ok(x),
        }
    }
}

fn load(c: &ConfigMap, w: &Weights) -> Result<Pyramid<Block, CrossScale, CrossScale>> {
    let config = Config::read(c)?;
    let n = config.stages.n();
    let layer = |s: usize| w.at("layers").at(s);
    let down = |s: usize| -> Result<CrossScale> {
        let (w, from) = (layer(s - 1).at("downsample"), config.width(s - 1));
        Ok(CrossScale {
            before: Some(w.layer_norm("norm", from, EPS)?),
            convs: CrossScale::convs(&w.at("reductions"), "merge_size", &config.merges[s - 1], [from, 2 * from], 2)?,
            after: None,
            positions: None,
        })
    };
    let block =
        |(s, i): (usize, usize)| Block::load(&config, &layer(s).at("blocks").at(i), s, i, config.stages.ends((s, i)));
    let (embed, patches) = (w.at("patch_embed"), &config.patches);
    let convs =
        CrossScale::convs(&embed.at("projs"), "patch_size", patches, [config.channels, config.dim], patches[0])?;
    let after = config.patch_norm.then(|| embed.layer_norm("norm", config.dim, EPS)).transpose()?;
    let first = (config.image.0 / patches[0], config.image.1 / patches[0]);
    let positions =
        config.positions.then(|| MapPositions::load(w, "absolute_pos_embed", first, config.dim)).transpose()?;
    let last = config.width(n - 1);
    let mut norms = vec![None; n - 1];
    norms.push(Some(w.layer_norm("norm", last, EPS)?));
    Ok(Pyramid {
        stem: CrossScale { before: None, convs, after, positions },
        downs: (1..n).map(down).collect::<Result<_>>()?,
        blocks: config.stages.all().map(block).collect::<Result<_>>()?,
        norms,
        head: PooledHead::load(c, w, Some("head"), last)?,
        patch: config.patches[0],
        stages: config.stages,
        channels: config.channels,
        image: config.image,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// As the authors' code prints them for their tiny model at 224 pixels.
    #[test]
    fn groups_grow_as_the_reference_lets_them() {
        let c = ConfigMap::new(serde_json::json!({"depths": [1, 1, 8, 6]})).unwrap();
        let stages = Stages::read(&c, "depths", &[]).unwrap();
        let of = |kind: &str| groups(kind, &[7; 4], &stages, 56).unwrap();
        assert_eq!(of("constant")[2], [7; 8]);
        assert_eq!(of("linear"), [vec![4], vec![4], vec![4, 4, 5, 6, 6, 7, 8, 9], vec![5, 5, 6, 6, 7, 7]]);
        assert_eq!(of("linear_div"), [vec![4], vec![4], vec![4, 4, 5, 6, 6, 7, 7, 7], vec![7; 6]]);
        assert_eq!(of("alter"), [vec![4], vec![4], vec![4, 4, 5, 6, 6, 7, 7, 14], vec![7; 6]]);
        assert_eq!(of("7_14"), [vec![7], vec![7], vec![3, 3, 3, 3, 7, 7, 7, 7], vec![7; 6]]);
        assert!(groups("square", &[7; 4], &stages, 56).err().unwrap().to_string().contains("group_type"));
    }
}
