//! ViT - a plain Transformer encoder over image patches.
//!
//! Paper: "An Image is Worth 16x16 Words", arXiv 2010.11929. Code: google-research/vision_transformer.
//! Weights: google/vit-base-patch16-224 and kin; timm `vit_*` names load too.
//! Idea: patches are words. A class row is put in front, learned positions are added, pre-norm blocks follow, and the
//! class row answers: `x = x + Attn(LN(x)); x = x + MLP(LN(x))`.
//! Shapes: `pixels [b, c, h, w] -> rows [b * (1 + gh * gw), dim] -> logits [b, labels].`
//! Departs from the reference: sizes other than the trained one interpolate positions without being asked.

use switchformer_nn::config::{ConfigMap, MAX_DEPTH, MAX_DIM, MAX_HEADS, MAX_SIDE};
use switchformer_nn::layers::{Activation, BlockSpec, EncoderBlock, LayerNorm, check_heads};
use switchformer_nn::maps::ImageEmbed;
use switchformer_nn::names::{Names, Rename};
use switchformer_nn::staged::State;
use switchformer_nn::weights::PatchSpec;
use switchformer_nn::{
    AttentionNames, Ctx, Error, Input, InputSpec, Linear, Model, Output, Result, Staged, Tensor, Weights, ops,
};

use crate::entry::{Entry, HeadKind};
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
    traits: &[],
    toy: r#"{"model_type":"vit","architectures":["ViTForImageClassification"],"hidden_size":32,"num_hidden_layers":3,
        "num_attention_heads":4,"intermediate_size":64,"hidden_act":"gelu","image_size":16,"patch_size":4,
        "num_channels":1,"num_labels":5}"#,
    load: |config, w| Ok(Box::new(Vit::load(config, w)?)),
};

const NAMES: Names = Names::new(RULES, &[]);

/// timm and transformers 5 (in memory) names of the ViT family onto the published ones.
pub(crate) const RULES: &[Rename] = &[
    ("vit.**", "**"),
    ("deit.**", "**"),
    ("cls_token", "embeddings.cls_token"),
    ("dist_token", "embeddings.distillation_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.*", "embeddings.patch_embeddings.projection.*"),
    ("blocks.*.**", "encoder.layer.*.**"),
    ("layers.*.**", "encoder.layer.*.**"),
    ("encoder.layer.*.norm1.*", "encoder.layer.*.layernorm_before.*"),
    ("encoder.layer.*.norm2.*", "encoder.layer.*.layernorm_after.*"),
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
}

impl Config {
    pub(crate) fn read(c: &ConfigMap) -> Result<Self> {
        let config = Config {
            dim: c.size("hidden_size", Some(768), MAX_DIM)?,
            depth: c.size("num_hidden_layers", Some(12), MAX_DEPTH)?,
            heads: c.size("num_attention_heads", Some(12), MAX_HEADS)?,
            mlp_dim: c.size("intermediate_size", Some(3072), MAX_DIM)?,
            act: Activation::parse("hidden_act", &c.text("hidden_act", "gelu")?)?,
            eps: c.float("layer_norm_eps", 1e-12, 0.0, 1.0)?,
            qkv_bias: c.flag("qkv_bias", true)?,
            channels: c.size("num_channels", Some(3), 64)?,
            image: c.pair("image_size", 224, MAX_SIDE)?,
            patch: c.pair("patch_size", 16, MAX_SIDE)?,
        };
        check_heads(config.dim, config.heads)?;
        let ((h, w), (ph, pw)) = (config.image, config.patch);
        if h < ph || w < pw {
            return Err(Error::config("image_size", format!("is {h}x{w}, smaller than a patch of {ph}x{pw}")));
        }
        Ok(config)
    }
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
        Ok(Body {
            embed: ImageEmbed::load(&w.at("embeddings"), &patches, config.image, prefix, "position_embeddings")?,
            blocks: (0..config.depth)
                .map(|i| EncoderBlock::load(&w.at("encoder.layer").at(i), &spec))
                .collect::<Result<_>>()?,
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
