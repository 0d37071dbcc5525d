//! CrossViT - two ViTs with patches of two sizes that exchange class tokens.
//!
//! Paper: "CrossViT: Cross-Attention Multi-Scale Vision Transformer for Image Classification", arXiv 2103.14899. Code:
//! IBM/CrossViT. Weights: timm `crossvit_*` folders.
//! Idea: one branch has small patches and few channels, the other large patches and many. After every group of blocks
//! the class token of each branch, widened to the other's, attends to the other's patches and comes back.
//! Shapes: `pixels [b, c, h, w], resized for each branch -> rows [b * (1 + n0), d0] and [b * (1 + n1), d1] -> logits`.
//! Departs from the reference: none known. A block of the chain is a whole exchange; its state is the branch with large
//! patches, the other waits beside it.

use switchformer_nn::config::{ConfigMap, MAX_DIM, MAX_HEADS, MAX_SIDE, whole};
use switchformer_nn::layers::{Activation, BlockSpec, EncoderBlock, LayerNorm, check_heads};
use switchformer_nn::maps::{Conv, joined, pixel_rows};
use switchformer_nn::maps::{PositionEmbed, resize_images};
use switchformer_nn::names::{Names, Rename};
use switchformer_nn::ops;
use switchformer_nn::staged::State;
use switchformer_nn::{
    Attention, AttentionNames, AttentionSpec, Ctx, Error, Input, InputSpec, Linear, Model, Output, Result, Rows, Side,
    Size, Staged, Stream, Tensor, Weights,
};

use crate::entry::{Entry, HeadKind, Timm};
use crate::pool::Pool;
use crate::published::Published;

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "crossvit",
    paper: "CrossViT: Cross-Attention Multi-Scale Vision Transformer for Image Classification, arXiv 2103.14899",
    summary: "two ViTs with patches of two sizes that exchange class tokens",
    architectures: &[("CrossVit", HeadKind::ImageClassification)],
    published: Published::new(include_str!("../../../variants/crossvit.json")),
    names: Names::new(RULES, &[]),
    blocks: &["blocks."],
    prefix: "",
    heads: &[],
    traits: &[],
    toy: r#"{"model_type":"crossvit","architectures":["CrossVit"],"embed_dim":[16,32],"depth":[[1,2,0],[1,1,0],[1,1,0]],
        "num_heads":[2,4],"mlp_ratio":[2,2,1],"img_size":36,"img_scale":[1.0,0.667],"patch_size":[9,8],"in_chans":1,
        "num_labels":5}"#,
    load: |config, w| Ok(Box::new(CrossVit::load(config, w)?)),
};

/// timm's form of it.
pub static TIMM: Timm = Timm {
    family: "crossvit",
    entry: &ENTRY,
    architecture: "CrossVit",
    args: &[
        ("img_size", "img_size"),
        ("img_scale", "img_scale"),
        ("patch_size", "patch_size"),
        ("in_chans", "in_chans"),
        ("embed_dim", "embed_dim"),
        ("depth", "depth"),
        ("num_heads", "num_heads"),
        ("mlp_ratio", "mlp_ratio"),
        ("multi_conv", "multi_conv"),
        ("qkv_bias", "qkv_bias"),
        ("crop_scale", "crop_scale"),
        ("global_pool", "global_pool"),
    ],
    pool: "token",
};

/// The authors' names onto timm's.
const RULES: &[Rename] = &[
    ("pos_embed.0", "pos_embed_0"),
    ("pos_embed.1", "pos_embed_1"),
    ("cls_token.0", "cls_token_0"),
    ("cls_token.1", "cls_token_1"),
];

/// All norms of timm's model.
const EPS: f64 = 1e-6;

/// timm's arguments, checked. Arrays hold the branch with small patches first.
struct Config {
    dims: [usize; 2],
    heads: [usize; 2],
    mlp_dims: [usize; 2],
    /// Ordinary blocks of each branch before each exchange, and steps of the exchange (0 is one step under older names).
    depths: Vec<[usize; 3]>,
    patches: [usize; 2],
    image: Size,
    /// What the image is resized to for each branch.
    sizes: [Size; 2],
    channels: usize,
    qkv_bias: bool,
    /// Three convolutions in place of one (the dagger models).
    multi_conv: bool,
    /// Whether an image that is larger than a branch wants is cut, else it is resized.
    crop: bool,
    pool: Pool,
}

impl Config {
    fn read(c: &ConfigMap) -> Result<Self> {
        let two = |field: &str, default: [usize; 2], max: usize| -> Result<[usize; 2]> {
            let list = c.stages(field, &default, Some(2), max)?;
            Ok([list[0], list[1]])
        };
        let image = c.pair("img_size", 240, MAX_SIDE)?;
        let scale = c.floats("img_scale", [1.0, 224.0 / 240.0], 0.01, 4.0)?;
        // A scale such as 224 / 240 is a rounded number.
        let side = |s: f64, n: usize| (s * n as f64 + 1e-6) as usize;
        let sizes = scale.map(|s| (side(s, image.0), side(s, image.1)));
        let (dims, patches) = (two("embed_dim", [192, 384], MAX_DIM)?, two("patch_size", [12, 16], 512)?);
        // The third ratio is of a feed-forward that the exchange does not have.
        let n_ratios = c.get("mlp_ratio").and_then(|v| v.as_array()).map_or(3, |list| list.len().min(3));
        let ratios = c.stage_floats("mlp_ratio", &[3.0, 3.0, 1.0], n_ratios, 0.01, 64.0)?;
        let [r0, r1, ..] = ratios[..] else { return Err(Error::config("mlp_ratio", "needs one number per branch")) };
        let config = Config {
            dims,
            heads: two("num_heads", [6, 6], MAX_HEADS)?,
            mlp_dims: [(dims[0] as f64 * r0) as usize, (dims[1] as f64 * r1) as usize],
            depths: depths(c)?,
            patches,
            image,
            sizes,
            channels: c.size("in_chans", Some(3), 64)?,
            qkv_bias: c.flag("qkv_bias", true)?,
            multi_conv: c.flag("multi_conv", false)?,
            crop: c.flag("crop_scale", false)?,
            pool: Pool::read(c)?,
        };
        for b in 0..2 {
            check_heads(config.dims[b], config.heads[b])?;
            let ((h, w), p) = (config.sizes[b], config.patches[b]);
            if h == 0 || w == 0 || h > MAX_SIDE || w > MAX_SIDE || h % p != 0 || w % p != 0 {
                return Err(Error::config("img_scale", format!("makes {h}x{w}, no whole patches of {p}")));
            }
            if config.multi_conv && p != 12 && p != 16 {
                return Err(Error::unsupported("patch_size", p.to_string(), "12 and 16 with multi_conv"));
            }
        }
        Ok(config)
    }

    /// Patches of a branch along height and width.
    fn grid(&self, branch: usize) -> Size {
        let ((h, w), p) = (self.sizes[branch], self.patches[branch]);
        (h / p, w / p)
    }

    fn n_patches(&self, branch: usize) -> usize {
        let (h, w) = self.grid(branch);
        h * w
    }
}

/// `depth`: blocks of both branches and steps of the exchange, for every group.
fn depths(c: &ConfigMap) -> Result<Vec<[usize; 3]>> {
    let one = |v: &serde_json::Value| match v.as_array()?.as_slice() {
        [a, b, cross] => Some([whole(a, 1..=64)?, whole(b, 1..=64)?, whole(cross, 0..=64)?]),
        _ => None,
    };
    let what = "[blocks, blocks, steps], 1 to 64 blocks and 0 to 64 steps";
    Ok(c.list("depth", 1..=64, what, one)?.unwrap_or(vec![[1, 5, 0]; 3]))
}

/// Pixels to patches: one convolution, or three with ReLU between.
struct PatchEmbed {
    convs: Vec<Conv>,
}

impl PatchEmbed {
    fn load(c: &Config, w: &Weights, branch: usize) -> Result<Self> {
        let (dim, patch, channels) = (c.dims[branch], c.patches[branch], c.channels);
        let w = w.at("proj");
        if !c.multi_conv {
            return Ok(PatchEmbed { convs: vec![Conv::load(&w, [dim, channels, patch], [patch, 0], true)?] });
        }
        let [second, third] = if patch == 12 { [[3, 0], [1, 1]] } else { [[2, 1], [2, 1]] };
        Ok(PatchEmbed {
            convs: vec![
                Conv::load(&w.at(0), [dim / 4, channels, 7], [4, 3], true)?,
                Conv::load(&w.at(2), [dim / 2, dim / 4, 3], second, true)?,
                Conv::load(&w.at(4), [dim, dim / 2, 3], third, true)?,
            ],
        })
    }

    fn forward(&self, cx: &mut Ctx, pixels: &Tensor) -> Result<Tensor> {
        let (mut x, mut rows) = pixel_rows(std::slice::from_ref(pixels))?;
        for (i, conv) in self.convs.iter().enumerate() {
            if i > 0 {
                x = Activation::Relu.forward(&x)?;
            }
            (x, rows) = conv.forward(cx, &x, &rows)?;
        }
        Ok(x)
    }
}

/// Norm, GELU, projection: a class token to the width of the other branch, or back.
struct Translate {
    norm: LayerNorm,
    linear: Box<dyn Linear>,
}

impl Translate {
    fn load(w: &Weights, from: usize, to: usize) -> Result<Self> {
        Ok(Translate { norm: w.layer_norm("0", from, EPS)?, linear: w.linear("2", from, to, true)? })
    }

    /// Shapes: class `[n, from]` -> `[n, to]`.
    fn forward(&self, cx: &mut Ctx, class: &Tensor) -> Result<Tensor> {
        self.linear.forward(cx, &Activation::Gelu.forward(&self.norm.forward(class)?)?)
    }
}

/// A visiting class token attends to the patches of a branch.
struct Visit {
    norm: LayerNorm,
    attn: Box<dyn Attention>,
}

/// The first row of each of `n` members of equally many. Shapes: `[n * (1 + m), dim]` -> `[n, dim]`.
fn classes(x: &Tensor, n: usize) -> Result<Tensor> {
    let per = x.dims2()?.0 / n;
    ops::gather(x, &Tensor::from_vec((0..n).map(|i| (i * per) as u32).collect(), n)?)
}

/// Other first rows. Shapes: class `[n, dim]`, x `[n * (1 + m), dim]` -> the same as x.
fn with_class(class: &Tensor, x: &Tensor) -> Result<Tensor> {
    let (n, total) = (class.dims2()?.0, x.dims2()?.0);
    let per = total / n;
    let index = |f: &dyn Fn(usize) -> Option<usize>| {
        let places: Vec<u32> = (0..total).map(|p| f(p).map_or(ops::NO_ROW, |p| p as u32)).collect();
        Tensor::from_vec(places, total)
    };
    let first = ops::gather(class, &index(&|p| p.is_multiple_of(per).then_some(p / per))?)?;
    let others = ops::gather(x, &index(&|p| (!p.is_multiple_of(per)).then_some(p))?)?;
    ops::add(&first, &others)
}

impl Visit {
    fn load(w: &Weights, dim: usize, heads: usize, bias: bool) -> Result<Self> {
        let norm = w.layer_norm("norm1", dim, EPS)?;
        let names = AttentionNames::new(["wq", "wk", "wv"], "proj");
        let spec =
            AttentionSpec { bias: [bias; 3], source: Some(dim), tap: "visit", ..AttentionSpec::new(names, dim, heads) };
        Ok(Visit { norm, attn: w.at("attn").attention(&spec)? })
    }

    /// Shapes: class `[n, dim]`, x `[n * (1 + m), dim]`, whose own class tokens are not seen -> `[n, dim]`.
    fn forward(&self, cx: &mut Ctx, class: &Tensor, x: &Tensor) -> Result<Tensor> {
        let n = class.dims2()?.0;
        let all = self.norm.forward(&with_class(class, x)?)?; // the visitor is a key too
        let seen = self.attn.key_values(cx, &all, &Rows::equal(n, all.dims2()?.0 / n)?)?;
        self.attn.attend(cx, &classes(&all, n)?, &Rows::equal(n, 1)?, &seen, Some(class))
    }
}

/// Ordinary blocks of both branches, then the exchange.
struct Group {
    blocks: [Vec<EncoderBlock>; 2],
    there: [Translate; 2],
    /// Steps of each branch. After the first a guest sees itself alone, as in the reference.
    visits: [Vec<Visit>; 2],
    back: [Translate; 2],
}

impl Group {
    fn load(c: &Config, w: &Weights, depth: [usize; 3]) -> Result<Self> {
        let blocks = |b: usize| -> Result<Vec<EncoderBlock>> {
            let spec = BlockSpec {
                dim: c.dims[b],
                heads: c.heads[b],
                mlp_dim: c.mlp_dims[b],
                act: Activation::Gelu,
                eps: EPS,
                qkv_bias: c.qkv_bias,
                norm_first: true,
                attention: AttentionNames::new(["attn.qkv"; 3], "attn.proj"),
                norm1: "norm1",
                norm2: "norm2",
                fc: ["mlp.fc1", "mlp.fc2"],
            };
            (0..depth[b]).map(|i| EncoderBlock::load(&w.at("blocks").at(b).at(i), &spec)).collect()
        };
        let there = |b: usize| Translate::load(&w.at("projs").at(b), c.dims[b], c.dims[1 - b]);
        let back = |b: usize| Translate::load(&w.at("revert_projs").at(b), c.dims[1 - b], c.dims[b]);
        let visits = |b: usize| -> Result<Vec<Visit>> {
            let (w, steps) = (w.at("fusion").at(b), depth[2]);
            let paths = if steps == 0 { vec![w] } else { (0..steps).map(|k| w.at(k)).collect() };
            paths.iter().map(|w| Visit::load(w, c.dims[1 - b], c.heads[1 - b], c.qkv_bias)).collect()
        };
        Ok(Group {
            blocks: [blocks(0)?, blocks(1)?],
            there: [there(0)?, there(1)?],
            visits: [visits(0)?, visits(1)?],
            back: [back(0)?, back(1)?],
        })
    }

    /// Both branches, small patches first.
    fn forward(&self, cx: &mut Ctx, branches: [Stream; 2]) -> Result<[Stream; 2]> {
        let [small, large] = branches;
        let mut own = Vec::with_capacity(2); // per branch: class `[n, dim]`, and all rows
        for (blocks, branch) in self.blocks.iter().zip([&small, &large]) {
            let x = blocks.iter().try_fold(branch.x.clone(), |x, b| b.forward(cx, &x, &branch.rows))?;
            own.push((classes(&x, branch.rows.n())?, x));
        }
        let mut exchange = |b: usize, rows: Rows| -> Result<Stream> {
            let guest = self.there[b].forward(cx, &own[b].0)?;
            let (first, later) = self.visits[b].split_at(1);
            let guest = first[0].forward(cx, &guest, &own[1 - b].1)?;
            let guest = later.iter().try_fold(guest, |guest, visit| visit.forward(cx, &guest, &guest))?;
            let class = self.back[b].forward(cx, &guest)?; // in place of the old one
            Ok(Stream { x: with_class(&class, &own[b].1)?, rows })
        };
        Ok([exchange(0, small.rows)?, exchange(1, large.rows)?])
    }
}

/// The model.
pub struct CrossVit {
    config: Config,
    patches: [PatchEmbed; 2],
    positions: [PositionEmbed; 2],
    groups: Vec<Group>,
    norms: [LayerNorm; 2],
    heads: [Box<dyn Linear>; 2],
}

impl CrossVit {
    fn load(c: &ConfigMap, w: &Weights) -> Result<Self> {
        let config = Config::read(c)?;
        let positions = |b: usize| {
            let [class, table] = ["cls_token", "pos_embed"].map(|name| format!("{name}_{b}"));
            PositionEmbed::load(w, &[&class], &table, config.grid(b), config.dims[b])
        };
        let patches = |b: usize| PatchEmbed::load(&config, &w.at("patch_embed").at(b), b);
        let norm = |b: usize| w.at("norm").layer_norm(&b.to_string(), config.dims[b], EPS);
        let labels = c.n_labels()?;
        let head = |b: usize| w.at("head").linear(&b.to_string(), config.dims[b], labels, true);
        let groups = config.depths.iter().enumerate();
        Ok(CrossVit {
            patches: [patches(0)?, patches(1)?],
            positions: [positions(0)?, positions(1)?],
            groups: groups.map(|(k, d)| Group::load(&config, &w.at("blocks").at(k), *d)).collect::<Result<_>>()?,
            norms: [norm(0)?, norm(1)?],
            heads: [head(0)?, head(1)?],
            config,
        })
    }

    /// The image as a branch sees it: its middle, or all of it resized.
    fn scaled(&self, pixels: &Tensor, (h, w): Size) -> Result<Tensor> {
        let (_, _, tall, wide) = pixels.dims4()?;
        if !self.config.crop || h > tall || w > wide {
            return resize_images(pixels, (h, w));
        }
        // Half a pixel goes to the even side, as Python rounds.
        let start = |all: usize, own: usize| ((all - own) as f64 / 2.0).round_ties_even() as usize;
        pixels.narrow(2, start(tall, h), h)?.narrow(3, start(wide, w), w)?.contiguous()
    }

    /// Class token and patches of a branch, with positions. Images of any size are brought to the branch's own.
    fn embed(&self, cx: &mut Ctx, images: &[Tensor], branch: usize) -> Result<Stream> {
        let scaled = |pixels| self.scaled(pixels, self.config.sizes[branch]);
        let pixels = joined(images.iter().map(scaled).collect::<Result<_>>()?)?;
        let x = self.patches[branch].forward(cx, &pixels)?;
        let n = pixels.dims()[0];
        let x = self.positions[branch].forward(&x, n, self.config.grid(branch))?;
        Ok(Stream { x, rows: Rows::equal(n, self.config.n_patches(branch) + 1)? })
    }
}

/// The branch with large patches is what flows, the other waits.
fn state([small, large]: [Stream; 2]) -> State {
    State { x: large.x, rows: large.rows, side: Side::of("small", small) }
}

fn branches(mut state: State) -> Result<[Stream; 2]> {
    Ok([state.side.take("small")?, Stream { x: state.x, rows: state.rows }])
}

impl Staged for CrossVit {
    fn n_blocks(&self) -> usize {
        self.groups.len()
    }
    fn stem(&self, cx: &mut Ctx, input: &Input) -> Result<State> {
        let pixels = input.pixels(self.config.channels)?;
        Ok(state([self.embed(cx, pixels, 0)?, self.embed(cx, pixels, 1)?]))
    }
    fn block(&self, cx: &mut Ctx, idx: usize, s: State) -> Result<State> {
        let after = self.groups[idx].forward(cx, branches(s)?)?;
        cx.taps.put(&format!("{}.small", cx.site), &after[0].x);
        Ok(state(after))
    }
    fn head(&self, cx: &mut Ctx, s: State) -> Result<Output> {
        let mut logits = Vec::with_capacity(2);
        for (b, branch) in branches(s)?.into_iter().enumerate() {
            let pooled = self.config.pool.of(&self.norms[b], &State::new(branch.x, branch.rows))?;
            logits.push(self.heads[b].forward(cx, &pooled)?);
        }
        Ok(Output::new().member("logits", ((&logits[0] + &logits[1])? * 0.5)?))
    }
    /// Exit heads read the class token of the branch with large patches.
    fn classifier(&self) -> Option<(usize, usize)> {
        Some(self.heads[1].dims())
    }
}

impl Model for CrossVit {
    fn spec(&self) -> InputSpec {
        let patch = self.config.patches[1];
        InputSpec::images(self.config.channels, self.config.image, (patch, patch))
    }
    fn trunk(&self) -> &dyn Staged {
        self
    }
}
