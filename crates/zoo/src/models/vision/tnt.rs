//! TNT - a small Transformer over the words of every patch, inside a Transformer over patches.
//!
//! Paper: "Transformer in Transformer", arXiv 2103.00112. Code: huawei-noah/Efficient-AI-Backbones. Weights: timm
//! `tnt_*` folders.
//! Idea: a patch is a sentence of 4x4 words. Every block first lets the words of a patch attend to each other, adds
//! them, flattened and projected, to the patch, and then lets the patches attend.
//! Shapes: `pixels [b, c, h, w] -> words [b * gh * gw * 16, inner] and patches [b * (1 + gh * gw), dim] -> logits`.
//! Departs from the reference: sizes other than the trained one interpolate the positions of patches.

use switchformer_nn::config::{ConfigMap, MAX_DEPTH, MAX_DIM, MAX_HEADS, MAX_SIDE};
use switchformer_nn::layers::{Activation, LayerNorm, check_heads};
use switchformer_nn::leaf::Ffn;
use switchformer_nn::maps::{Conv, joined, pixel_rows};
use switchformer_nn::maps::{PositionEmbed, patch_grid, patches_divide, patchify};
use switchformer_nn::names::{Names, Rename};
use switchformer_nn::staged::State;
use switchformer_nn::weights::FfnSpec;
use switchformer_nn::{
    Attention, AttentionNames, AttentionSpec, Ctx, Error, Input, InputSpec, Linear, Model, Output, ParamKind, Result,
    Rows, Side, Size, Staged, Stream, Tensor, Weights, ops,
};

use crate::entry::{Entry, HeadKind, Timm};
use crate::pool::Pool;
use crate::published::Published;

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "tnt",
    paper: "Transformer in Transformer, arXiv 2103.00112",
    summary: "a small Transformer over the words of every patch inside one over patches",
    architectures: &[("TNT", HeadKind::ImageClassification)],
    published: Published::new(include_str!("../../../variants/tnt.json")),
    names: Names::new(RULES, &["outer_tokens"]),
    blocks: &["blocks."],
    prefix: "",
    heads: &[],
    traits: &[],
    toy: r#"{"model_type":"tnt","architectures":["TNT"],"embed_dim":32,"inner_dim":8,"depth":3,"num_heads_outer":4,
        "num_heads_inner":2,"mlp_ratio":2.0,"img_size":24,"patch_size":8,"in_chans":1,"num_labels":5}"#,
    load: |config, w| Ok(Box::new(Tnt::load(config, w)?)),
};

/// timm's form of it.
pub static TIMM: Timm = Timm {
    family: "tnt",
    entry: &ENTRY,
    architecture: "TNT",
    args: &[
        ("img_size", "img_size"),
        ("patch_size", "patch_size"),
        ("in_chans", "in_chans"),
        ("embed_dim", "embed_dim"),
        ("inner_dim", "inner_dim"),
        ("depth", "depth"),
        ("num_heads_inner", "num_heads_inner"),
        ("num_heads_outer", "num_heads_outer"),
        ("mlp_ratio", "mlp_ratio"),
        ("qkv_bias", "qkv_bias"),
        ("first_stride", "first_stride"),
        ("legacy", "legacy"),
        ("global_pool", "global_pool"),
    ],
    pool: "token",
};

/// The authors' names onto timm's. The positions of words have another shape there and keep their name.
const RULES: &[Rename] = &[
    ("outer_pos", "patch_pos"),
    ("patch_embed.**", "pixel_embed.**"),
    ("proj_norm1.*", "norm1_proj.*"),
    ("proj_norm2.*", "norm2_proj.*"),
    ("blocks.*.proj_norm1.*", "blocks.*.norm1_proj.*"),
    ("blocks.*.proj_norm2.*", "blocks.*.norm2_proj.*"),
    ("blocks.*.inner_norm1.*", "blocks.*.norm_in.*"),
    ("blocks.*.inner_attn.**", "blocks.*.attn_in.**"),
    ("blocks.*.inner_norm2.*", "blocks.*.norm_mlp_in.*"),
    ("blocks.*.inner_mlp.**", "blocks.*.mlp_in.**"),
    ("blocks.*.outer_norm1.*", "blocks.*.norm_out.*"),
    ("blocks.*.outer_attn.**", "blocks.*.attn_out.**"),
    ("blocks.*.outer_norm2.*", "blocks.*.norm_mlp.*"),
    ("blocks.*.outer_mlp.**", "blocks.*.mlp.**"),
];

/// All norms have timm's default.
const EPS: f64 = 1e-5;
/// The inner feed-forward is always four times as wide.
const INNER_RATIO: usize = 4;

/// timm's arguments, checked.
struct Config {
    dim: usize,
    inner: usize,
    depth: usize,
    heads: usize,
    inner_heads: usize,
    mlp_dim: usize,
    qkv_bias: bool,
    channels: usize,
    image: Size,
    patch: Size,
    stride: usize,
    /// An older network: the convolution sees beyond its patch, words are normed one by one.
    legacy: bool,
    pool: Pool,
}

impl Config {
    fn read(c: &ConfigMap) -> Result<Self> {
        let dim = c.size("embed_dim", Some(768), MAX_DIM)?;
        let config = Config {
            dim,
            inner: c.size("inner_dim", Some(48), MAX_DIM)?,
            depth: c.size("depth", Some(12), MAX_DEPTH)?,
            heads: c.size("num_heads_outer", Some(12), MAX_HEADS)?,
            inner_heads: c.size("num_heads_inner", Some(4), MAX_HEADS)?,
            mlp_dim: (dim as f64 * c.float("mlp_ratio", 4.0, 0.01, 64.0)?) as usize,
            qkv_bias: c.flag("qkv_bias", false)?,
            channels: c.size("in_chans", Some(3), 64)?,
            image: c.pair("img_size", 224, MAX_SIDE)?,
            patch: c.pair("patch_size", 16, 512)?,
            stride: c.size("first_stride", Some(4), 64)?,
            legacy: c.flag("legacy", false)?,
            pool: Pool::read(c)?,
        };
        check_heads(config.dim, config.heads)?;
        check_heads(config.inner, config.inner_heads)?;
        if !config.patch.0.is_multiple_of(config.stride) || !config.patch.1.is_multiple_of(config.stride) {
            return Err(Error::unsupported("first_stride", config.stride.to_string(), "a divisor of patch_size"));
        }
        patches_divide("img_size", config.image, config.patch)?;
        Ok(config)
    }

    /// Words of a patch, down and across.
    fn words(&self) -> Size {
        (self.patch.0 / self.stride, self.patch.1 / self.stride)
    }

    fn n_words(&self) -> usize {
        self.words().0 * self.words().1
    }

    fn grid(&self, size: Size) -> Result<Size> {
        patch_grid(size, self.patch, self.image)
    }
}

/// Attention over patches; its maps are those of the block.
const OUTER: &str = "attn_out";

/// A pre-norm pair of attention and feed-forward: the words' or the patches'.
struct Level {
    norm1: LayerNorm,
    attn: Box<dyn Attention>,
    norm2: LayerNorm,
    ffn: Box<dyn Ffn>,
}

impl Level {
    /// `names`: first norm, attention, second norm, feed-forward; `sizes`: width, hidden width, heads.
    fn load(w: &Weights, names: [&'static str; 4], sizes: [usize; 3], bias: bool) -> Result<Self> {
        let ([norm1, attn, norm2, mlp], [dim, hidden, heads]) = (names, sizes);
        Ok(Level {
            norm1: w.layer_norm(norm1, dim, EPS)?,
            attn: w.at(attn).attention(&AttentionSpec {
                bias: [bias; 3],
                tap: if attn == OUTER { "attn" } else { attn },
                ..AttentionSpec::new(AttentionNames::new(["qk", "qk", "v"], "proj"), dim, heads)
            })?,
            norm2: w.layer_norm(norm2, dim, EPS)?,
            ffn: w.at(mlp).ffn(&FfnSpec::new(&["fc1"], "fc2", [dim, hidden], Activation::Gelu))?,
        })
    }

    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let x = self.attn.forward_onto(cx, &self.norm1.forward(x)?, rows, x)?;
        self.ffn.forward_onto(cx, &self.norm2.forward(&x)?, rows, &x)
    }
}

/// The words of a patch, flattened, as one row of the patches' width.
struct Flatten {
    before: LayerNorm,
    proj: Box<dyn Linear>,
    after: Option<LayerNorm>,
    /// Width that the first norm sees: all words, or one (legacy).
    normed: usize,
}

impl Flatten {
    fn load(c: &Config, w: &Weights, legacy: bool, bias: bool) -> Result<Self> {
        let all = c.n_words() * c.inner;
        let normed = if legacy { c.inner } else { all };
        Ok(Flatten {
            before: w.layer_norm("norm1_proj", normed, EPS)?,
            proj: w.linear("proj", all, c.dim, bias)?,
            after: if legacy { None } else { Some(w.layer_norm("norm2_proj", c.dim, EPS)?) },
            normed,
        })
    }

    /// Shapes: words `[patches * n_words, inner]` -> `[patches, dim]`.
    fn forward(&self, cx: &mut Ctx, words: &Tensor) -> Result<Tensor> {
        let (values, all) = (words.elem_count(), self.proj.dims().0);
        let normed = self.before.forward(&ops::reshape(words, &[values / self.normed, self.normed])?)?;
        let x = self.proj.forward(cx, &ops::reshape(&normed, &[values / all, all])?)?;
        self.after.as_ref().map_or(Ok(x.clone()), |norm| norm.forward(&x))
    }
}

struct Block {
    inner: Level,
    flatten: Flatten,
    outer: Level,
}

/// The model.
pub struct Tnt {
    config: Config,
    pixels: Conv,
    /// `[1, inner, down, across]`, or as the authors store them `[1, n_words, inner]`.
    word_positions: Tensor,
    flatten: Flatten,
    positions: PositionEmbed,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Box<dyn Linear>,
}

impl Tnt {
    fn load(c: &ConfigMap, w: &Weights) -> Result<Self> {
        let config = Config::read(c)?;
        let (grid, (down, across)) = (config.grid(config.image)?, config.words());
        let table = |name: &str, shape: &[usize]| w.tensor(name, shape, ParamKind::Table);
        let block = |i: usize| -> Result<Block> {
            let w = w.at("blocks").at(i);
            let (dim, inner) = (config.dim, config.inner);
            Ok(Block {
                inner: Level::load(
                    &w,
                    ["norm_in", "attn_in", "norm_mlp_in", "mlp_in"],
                    [inner, INNER_RATIO * inner, config.inner_heads],
                    config.qkv_bias,
                )?,
                flatten: Flatten::load(&config, &w, config.legacy, config.legacy)?,
                outer: Level::load(
                    &w,
                    ["norm_out", OUTER, "norm_mlp", "mlp"],
                    [dim, config.mlp_dim, config.heads],
                    config.qkv_bias,
                )?,
            })
        };
        Ok(Tnt {
            pixels: Conv::load(
                &w.at("pixel_embed.proj"),
                [config.inner, config.channels, 7],
                [config.stride, 3],
                true,
            )?,
            word_positions: if w.has("inner_pos") {
                table("inner_pos", &[1, down * across, config.inner])?
            } else {
                table("pixel_pos", &[1, config.inner, down, across])?
            },
            flatten: Flatten::load(&config, w, false, true)?,
            positions: PositionEmbed::load(w, &["cls_token"], "patch_pos", grid, config.dim)?,
            blocks: (0..config.depth).map(block).collect::<Result<_>>()?,
            norm: w.layer_norm("norm", config.dim, EPS)?,
            head: w.linear("head", config.dim, c.n_labels()?, true)?,
            config,
        })
    }

    /// Patches along height and width of every image.
    fn grids(&self, input: &Input) -> Result<Vec<Size>> {
        input.image_sizes(self.config.channels)?.into_iter().map(|size| self.config.grid(size)).collect()
    }

    /// The words of all patches of images of one size. Shapes: pixels -> `[b * gh * gw * n_words, inner]`.
    fn words(&self, cx: &mut Ctx, pixels: &Tensor) -> Result<Tensor> {
        let (n, _, h, w) = pixels.dims4()?;
        let (c, (down, across), grid) = (&self.config, self.config.words(), self.config.grid((h, w))?);
        let (patches, inner) = (n * grid.0 * grid.1, c.inner);
        let words = if c.legacy {
            // One map of words, cut into patches.
            let (x, rows) = pixel_rows(std::slice::from_ref(pixels))?;
            let (map, _) = self.pixels.forward(cx, &x, &rows)?;
            let cut = map.reshape(&[n, grid.0, down, grid.1, across, inner][..])?;
            cut.permute([0, 1, 3, 2, 4, 5].as_slice())?.contiguous()?
        } else {
            // Every patch is a picture of its own: the convolution meets zeros at its border.
            let (ph, pw) = c.patch;
            let x = patchify(pixels, c.patch)?.reshape((patches, c.channels, ph * pw))?;
            let x = x.transpose(1, 2)?.contiguous()?.reshape((patches * ph * pw, c.channels))?;
            self.pixels.forward(cx, &x, &Rows::maps(&vec![c.patch; patches])?)?.0
        };
        let positions = match self.word_positions.rank() {
            3 => self.word_positions.squeeze(0)?,
            _ => self.word_positions.reshape((inner, down * across))?.t()?,
        }; // [n_words, inner]
        let words = words.reshape((patches, down * across, inner))?.broadcast_add(&positions)?;
        words.reshape((patches * down * across, inner))
    }

    /// Class token and patches of images of one size, made of their words, with positions. Shapes: -> `[b * len, dim]`.
    fn sentences(&self, cx: &mut Ctx, pixels: &Tensor, words: &Tensor) -> Result<Tensor> {
        let (n, _, h, w) = pixels.dims4()?;
        self.positions.forward(&self.flatten.forward(cx, words)?, n, self.config.grid((h, w))?)
    }
}

impl Staged for Tnt {
    fn n_blocks(&self) -> usize {
        self.blocks.len()
    }
    fn stem(&self, cx: &mut Ctx, input: &Input) -> Result<State> {
        let grids = self.grids(input)?;
        let (mut sentences, mut words) = (Vec::new(), Vec::new());
        for pixels in input.pixels(self.config.channels)? {
            let own = self.words(cx, pixels)?;
            sentences.push(self.sentences(cx, pixels, &own)?);
            words.push(own);
        }
        let n_words: Vec<usize> = grids.iter().map(|(h, w)| h * w * self.config.n_words()).collect();
        let words = Stream { x: joined(words)?, rows: Rows::new(&n_words)? };
        Ok(State { x: joined(sentences)?, rows: Rows::maps_behind(1, &grids)?, side: Side::of("words", words) })
    }
    fn block(&self, cx: &mut Ctx, idx: usize, mut state: State) -> Result<State> {
        let block = &self.blocks[idx];
        let words = state.side.take("words")?;
        let n_words = self.config.n_words();
        let owners = (0..words.rows.n()).flat_map(|i| vec![words.rows.members()[i]; words.rows.len(i) / n_words]);
        let owners: Vec<u32> = owners.collect();
        let patches = Rows::equal(owners.len(), n_words)?.of_members(&owners)?;
        let words = Stream { x: block.inner.forward(cx, &words.x, &patches)?, rows: words.rows };
        let added = block.flatten.forward(cx, &words.x)?;
        // Words say nothing to the class token.
        let mut index = Vec::with_capacity(state.rows.total());
        for i in 0..words.rows.n() {
            let range = words.rows.range(i);
            index.push(ops::NO_ROW);
            index.extend((range.start / n_words..range.end / n_words).map(|patch| patch as u32));
        }
        let index = Tensor::from_vec(index, state.rows.total())?;
        let x = ops::add(&state.x, &ops::gather(&added, &index)?)?;
        let x = block.outer.forward(cx, &x, &state.rows)?;
        Ok(State { x, rows: state.rows, side: Side::of("words", words) })
    }
    fn head(&self, cx: &mut Ctx, state: State) -> Result<Output> {
        let pooled = self.config.pool.of(&self.norm, &state)?;
        Ok(Output::new().member("logits", self.head.forward(cx, &pooled)?))
    }
    fn classifier(&self) -> Option<(usize, usize)> {
        Some(self.head.dims())
    }
}

impl Model for Tnt {
    fn spec(&self) -> InputSpec {
        InputSpec::images(self.config.channels, self.config.image, self.config.patch)
    }
    fn trunk(&self) -> &dyn Staged {
        self
    }
}
