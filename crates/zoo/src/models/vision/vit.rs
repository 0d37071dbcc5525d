//! ViT - a plain Transformer encoder over image patches.
//!
//! Paper: "An Image is Worth 16x16 Words", arXiv 2010.11929. Code: google-research/vision_transformer.
//! Weights: google/vit-base-patch16-224 and kin; timm `vit_*`, `deit_*` and `deit3_*` folders load too, and its DINOv2.
//! Idea: patches are words. A class row is put in front, learned positions are added, pre-norm blocks follow, and the
//! class row answers: `x = x + Attn(LN(x)); x = x + MLP(LN(x))`.
//! Shapes: `pixels [b, c, h, w] -> rows [b * (1 + gh * gw), dim] -> logits [b, labels].`
//! timm's form adds factors on both branches, registers, and places for patches alone.
//! Departs from the reference: sizes other than the trained one interpolate positions without being asked.

use switchformer_nn::config::{ConfigMap, MAX_DEPTH, MAX_DIM, MAX_HEADS, MAX_SIDE};
use switchformer_nn::layers::{Activation, BlockSpec, EncoderBlock, LayerNorm, LayerScale, check_heads};
use switchformer_nn::maps::{ImageEmbed, PositionEmbed, patch_grid};
use switchformer_nn::names::{Names, Rename};
use switchformer_nn::staged::State;
use switchformer_nn::weights::PatchSpec;
use switchformer_nn::{
    AttentionNames, Ctx, Error, Input, InputSpec, Linear, Model, Output, ParamKind, Result, Staged, Tensor, Weights,
    ops,
};

use crate::entry::{Entry, HeadKind, Timm, Trait};
use crate::patched::hidden_width;
use crate::published::Published;

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "vit",
    paper: "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale, arXiv 2010.11929",
    summary: "plain Transformer encoder over image patches with a class token",
    architectures: &[("ViTModel", HeadKind::Encoder), ("ViTForImageClassification", HeadKind::ImageClassification)],
    published: Published::new(include_str!("../../../variants/vit.json")),
    names: NAMES,
    blocks: &["encoder.layer."],
    prefix: "vit.",
    heads: &["classifier"],
    traits: &[Trait::OneSize],
    toy: r#"{"model_type":"vit","architectures":["ViTForImageClassification"],"hidden_size":32,"num_hidden_layers":3,
        "num_attention_heads":4,"intermediate_size":64,"hidden_act":"gelu","image_size":16,"patch_size":4,
        "num_channels":1,"num_labels":5}"#,
    load: |config, w| Ok(Box::new(Vit::load(config, w)?)),
};

/// timm's form of it.
pub static TIMM: Timm =
    Timm { family: "vit", entry: &ENTRY, architecture: "ViTForImageClassification", args: TIMM_ARGS, pool: "token" };

/// Arguments of timm's constructor.
pub(crate) const TIMM_ARGS: &[(&str, &str)] = &[
    ("img_size", "image_size"),
    ("patch_size", "patch_size"),
    ("in_chans", "num_channels"),
    ("embed_dim", "hidden_size"),
    ("depth", "num_hidden_layers"),
    ("num_heads", "num_attention_heads"),
    ("mlp_ratio", "mlp_ratio_of_timm"),
    ("qkv_bias", "qkv_bias"),
    ("act_layer", "hidden_act"),
    ("init_values", "init_values"),
    ("no_embed_class", "no_embed_class"),
    ("reg_tokens", "reg_tokens"),
];

const NAMES: Names = Names::new(RULES, &[]);

/// timm and transformers 5 (in memory) names of the ViT family onto the published ones.
pub(crate) const RULES: &[Rename] = &[
    ("vit.**", "**"),
    ("deit.**", "**"),
    ("cls_token", "embeddings.cls_token"),
    ("dist_token", "embeddings.distillation_token"),
    ("reg_token", "embeddings.register_tokens"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.*", "embeddings.patch_embeddings.projection.*"),
    ("blocks.*.**", "encoder.layer.*.**"),
    ("layers.*.**", "encoder.layer.*.**"),
    ("encoder.layer.*.norm1.*", "encoder.layer.*.layernorm_before.*"),
    ("encoder.layer.*.norm2.*", "encoder.layer.*.layernorm_after.*"),
    ("encoder.layer.*.ls1.gamma", "encoder.layer.*.layer_scale1.lambda1"),
    ("encoder.layer.*.ls2.gamma", "encoder.layer.*.layer_scale2.lambda1"),
    ("encoder.layer.*.attn.qkv.*", "encoder.layer.*.attention.attention.qkv.*"),
    ("encoder.layer.*.attn.proj.*", "encoder.layer.*.attention.output.dense.*"),
    ("encoder.layer.*.attention.q_proj.*", "encoder.layer.*.attention.attention.query.*"),
    ("encoder.layer.*.attention.k_proj.*", "encoder.layer.*.attention.attention.key.*"),
    ("encoder.layer.*.attention.v_proj.*", "encoder.layer.*.attention.attention.value.*"),
    ("encoder.layer.*.attention.o_proj.*", "encoder.layer.*.attention.output.dense.*"),
    ("encoder.layer.*.mlp.fc1.*", "encoder.layer.*.intermediate.dense.*"),
    ("encoder.layer.*.mlp.fc2.*", "encoder.layer.*.output.dense.*"),
    ("norm.*", "layernorm.*"),
    ("head.*", "classifier.*"),
    ("head_dist.*", "distillation_classifier.*"),
];

/// The published config, checked.
pub(crate) struct Config {
    pub(crate) dim: usize,
    depth: usize,
    heads: usize,
    mlp_dim: usize,
    act: Activation,
    eps: f64,
    qkv_bias: bool,
    channels: usize,
    image: (usize, usize),
    patch: (usize, usize),
    /// What timm's constructor has more.
    timm: Extras,
}

/// What timm's form has and that of transformers has not.
#[derive(Default)]
struct Extras {
    /// What factors of branches start at, where there are any.
    scale: Option<f32>,
    /// Whether the rows in front of the patches have no positions.
    no_embed_class: bool,
    /// Rows without positions behind the class row.
    registers: usize,
}

impl Extras {
    fn read(c: &ConfigMap) -> Result<Self> {
        let scale = c.float("init_values", 0.0, -1e3, 1e3)?;
        let extras = Extras {
            scale: c.get("init_values").is_some_and(|v| !v.is_null()).then_some(scale as f32),
            no_embed_class: c.flag("no_embed_class", false)?,
            registers: c.int("reg_tokens", Some(0), 1024)?,
        };
        if extras.registers > 0 && !extras.no_embed_class {
            return Err(Error::unsupported("reg_tokens", extras.registers, "0, or no_embed_class = true beside it"));
        }
        Ok(extras)
    }
}

impl Config {
    pub(crate) fn read(c: &ConfigMap) -> Result<Self> {
        let dim = c.size("hidden_size", Some(768), MAX_DIM)?;
        let config = Config {
            dim,
            depth: c.size("num_hidden_layers", Some(12), MAX_DEPTH)?,
            heads: c.size("num_attention_heads", Some(12), MAX_HEADS)?,
            mlp_dim: hidden_width(c, dim)?,
            act: Activation::parse("hidden_act", &c.text("hidden_act", "gelu")?)?,
            eps: c.float("layer_norm_eps", 1e-12, 0.0, 1.0)?,
            qkv_bias: c.flag("qkv_bias", true)?,
            channels: c.size("num_channels", Some(3), 64)?,
            image: c.pair("image_size", 224, MAX_SIDE)?,
            patch: c.pair("patch_size", 16, MAX_SIDE)?,
            timm: Extras::read(c)?,
        };
        check_heads(config.dim, config.heads)?;
        let ((h, w), (ph, pw)) = (config.image, config.patch);
        if h < ph || w < pw {
            return Err(Error::config("image_size", format!("is {h}x{w}, smaller than a patch of {ph}x{pw}")));
        }
        Ok(config)
    }
}

/// Patches behind the rows of these names, with positions.
fn embed(c: &Config, w: &Weights, patches: &PatchSpec, prefix: &[&str]) -> Result<ImageEmbed> {
    let grid = patch_grid(c.image, c.patch, c.image)?;
    let load = if c.timm.no_embed_class { PositionEmbed::of_patches } else { PositionEmbed::load };
    let mut positions = load(w, prefix, "position_embeddings", grid, c.dim)?;
    if c.timm.registers > 0 {
        let rows = w.tensor("register_tokens", &[1, c.timm.registers, c.dim], ParamKind::Table)?;
        positions = positions.with_registers(Some(rows));
    }
    ImageEmbed::around(w, patches, c.image, positions)
}

/// Embeddings, blocks and final norm: all of ViT but the head. DeiT adds a second prefix token.
pub(crate) struct Body {
    pub(crate) config: Config,
    embed: ImageEmbed,
    blocks: Vec<EncoderBlock>,
    norm: LayerNorm,
}

impl Body {
    /// Loads with the given prefix tokens (`cls_token`, and `distillation_token` for DeiT).
    pub(crate) fn load(config: Config, w: &Weights, prefix: &[&str]) -> Result<Self> {
        let dim = config.dim;
        let patches = PatchSpec {
            name: "patch_embeddings.projection",
            channels: config.channels,
            patch: config.patch,
            dim,
            bias: true,
        };
        let spec = BlockSpec {
            dim,
            heads: config.heads,
            mlp_dim: config.mlp_dim,
            act: config.act,
            eps: config.eps,
            qkv_bias: config.qkv_bias,
            norm_first: true,
            attention: AttentionNames {
                fused: Some("attention.attention.qkv"),
                ..AttentionNames::new(
                    ["attention.attention.query", "attention.attention.key", "attention.attention.value"],
                    "attention.output.dense",
                )
            },
            norm1: "layernorm_before",
            norm2: "layernorm_after",
            fc: ["intermediate.dense", "output.dense"],
        };
        let block = |w: &Weights| {
            let names = ["layer_scale1.lambda1", "layer_scale2.lambda1"];
            let scale = LayerScale::load(w, &names, &[dim], config.timm.scale)?;
            Ok(EncoderBlock::load(w, &spec)?.with_scale(scale))
        };
        Ok(Body {
            embed: embed(&config, &w.at("embeddings"), &patches, prefix)?,
            blocks: (0..config.depth).map(|i| block(&w.at("encoder.layer").at(i))).collect::<Result<_>>()?,
            norm: w.layer_norm("layernorm", dim, config.eps)?,
            config,
        })
    }

    /// Number of prefix rows.
    pub(crate) fn n_prefix(&self) -> usize {
        self.embed.n_front()
    }

    pub(crate) fn stem(&self, cx: &mut Ctx, input: &Input) -> Result<State> {
        self.embed.forward(cx, input)
    }

    pub(crate) fn block(&self, cx: &mut Ctx, idx: usize, state: State) -> Result<State> {
        Ok(State::new(self.blocks[idx].forward(cx, &state.x, &state.rows)?, state.rows))
    }

    /// Final norm of the row at `offset` in every member (0 is the class token). Shapes: -> `[members, dim]`.
    pub(crate) fn prefix_row(&self, state: &State, offset: u32) -> Result<Tensor> {
        let index: Vec<u32> = state.rows.firsts().iter().map(|f| f + offset).collect();
        let n = index.len();
        self.norm.forward(&ops::gather(&state.x, &Tensor::from_vec(index, n)?)?)
    }

    pub(crate) fn n_blocks(&self) -> usize {
        self.blocks.len()
    }

    pub(crate) fn spec(&self) -> InputSpec {
        self.embed.spec()
    }
}

/// What `ViTModel` and `DeiTModel` answer with: all rows, and a pooled class row where the checkpoint has a pooler.
pub(crate) struct Pooler {
    dense: Box<dyn Linear>,
    act: Activation,
}

impl Pooler {
    pub(crate) fn load(c: &ConfigMap, w: &Weights, dim: usize) -> Result<Self> {
        let act = Activation::parse("pooler_act", &c.text("pooler_act", "tanh")?)?;
        let out = c.size("pooler_output_size", Some(dim), MAX_DIM)?;
        Ok(Pooler { dense: w.linear("pooler.dense", dim, out, true)?, act })
    }

    pub(crate) fn head(&self, cx: &mut Ctx, body: &Body, state: State) -> Result<Output> {
        let hidden = body.norm.forward(&state.x)?;
        let class = body.prefix_row(&state, 0)?;
        let pooled = self.act.forward(&self.dense.forward(cx, &class)?)?;
        Ok(Output::new().rows("last_hidden_state", hidden, &state.rows).member("pooler_output", pooled))
    }
}

enum Head {
    Classifier(Box<dyn Linear>),
    Pooled(Pooler),
    /// The class row behind the last norm, as timm's models without classes give it.
    Class,
}

/// The model.
pub struct Vit {
    body: Body,
    head: Head,
}

impl Vit {
    fn load(c: &ConfigMap, w: &Weights) -> Result<Self> {
        let body = Body::load(Config::read(c)?, w, &["cls_token"])?;
        let head = match ENTRY.architecture(c)? {
            "ViTForImageClassification" => {
                Head::Classifier(w.linear("classifier", body.config.dim, c.n_labels()?, true)?)
            }
            _ if c.flag("class_row_is_pooled", false)? => Head::Class,
            _ => Head::Pooled(Pooler::load(c, w, body.config.dim)?),
        };
        Ok(Vit { body, head })
    }
}

impl Staged for Vit {
    fn n_blocks(&self) -> usize {
        self.body.n_blocks()
    }
    fn stem(&self, cx: &mut Ctx, input: &Input) -> Result<State> {
        self.body.stem(cx, input)
    }
    fn block(&self, cx: &mut Ctx, idx: usize, state: State) -> Result<State> {
        self.body.block(cx, idx, state)
    }
    fn head(&self, cx: &mut Ctx, state: State) -> Result<Output> {
        match &self.head {
            Head::Classifier(c) => {
                Ok(Output::new().member("logits", c.forward(cx, &self.body.prefix_row(&state, 0)?)?))
            }
            Head::Pooled(p) => p.head(cx, &self.body, state),
            Head::Class => {
                let hidden = self.body.norm.forward(&state.x)?;
                let class = self.body.prefix_row(&state, 0)?;
                Ok(Output::new().rows("last_hidden_state", hidden, &state.rows).member("pooler_output", class))
            }
        }
    }
    fn prefix_rows(&self) -> Option<usize> {
        matches!(self.head, Head::Classifier(_)).then_some(self.body.n_prefix())
    }
    fn classifier(&self) -> Option<(usize, usize)> {
        match &self.head {
            Head::Classifier(c) => Some((self.body.config.dim, c.dims().1)),
            _ => None,
        }
    }
}

impl Model for Vit {
    fn spec(&self) -> InputSpec {
        self.body.spec()
    }
    fn trunk(&self) -> &dyn Staged {
        self
    }
}
