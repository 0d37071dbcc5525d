//! BEiT - a ViT trained by guessing hidden patches, with positions as pairs of places.
//!
//! Paper: "BEiT: BERT Pre-Training of Image Transformers", arXiv 2106.08254. Code: microsoft/unilm. Weights:
//! microsoft/beit-base-patch16-224 and kin; timm `beit_*` and `beitv2_*` folders load too.
//! Idea: ViT's blocks with learned factors on both branches; keys have no bias. What a place adds to the score of another
//! is learned by their distance, with three numbers of its own for the class row. The mean of the patches answers.
//! Shapes: `pixels [b, c, h, w] -> rows [b * (1 + gh * gw), dim] -> last_hidden_state, pooler_output, or logits [b, labels].`
//! Departs from the reference: patches are never masked (`mask_token` is kept and not read); an image that is not of the
//! trained size must divide into patches.

use std::sync::{Arc, OnceLock};

use switchformer_nn::attention::{PairBias, Positions};
use switchformer_nn::config::{ConfigMap, MAX_DEPTH, MAX_DIM, MAX_HEADS};
use switchformer_nn::dry;
use switchformer_nn::init::Init;
use switchformer_nn::layers::{Activation, BlockSpec, EncoderBlock, LayerNorm, LayerScale, check_heads};
use switchformer_nn::maps::{ImageEmbed, PositionEmbed, pair_biases_behind, resize_maps};
use switchformer_nn::names::{Names, Rename};
use switchformer_nn::weights::PatchSpec;
use switchformer_nn::{
    AttentionNames, AttentionSpec, Ctx, Linear, Output, ParamKind, Result, Rows, Size, Tensor, Weights,
};

use crate::entry::{Entry, HeadKind, Timm, Trait};
use crate::patched::{Patched, RowHead, hidden_width, square_grid};
use crate::pool::{first_rows, mean_behind};
use crate::published::Published;

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "beit",
    paper: "BEiT: BERT Pre-Training of Image Transformers, arXiv 2106.08254",
    summary: "ViT with learned numbers for pairs of places, trained by guessing hidden patches",
    architectures: &[("BeitModel", HeadKind::Encoder), ("BeitForImageClassification", HeadKind::ImageClassification)],
    published: Published::new(include_str!("../../../variants/beit.json")),
    names: Names::new(RULES, &["**.relative_position_index"]),
    blocks: &["encoder.layer."],
    prefix: "beit.",
    heads: &["classifier"],
    traits: &[Trait::OneSize],
    toy: r#"{"model_type":"beit","architectures":["BeitForImageClassification"],"hidden_size":32,"num_hidden_layers":3,
        "num_attention_heads":4,"intermediate_size":64,"image_size":16,"patch_size":4,"num_channels":1,
        "use_relative_position_bias":true,"use_shared_relative_position_bias":true,
        "use_absolute_position_embeddings":true,"layer_scale_init_value":0.5,
        "num_labels":5}"#,
    load: |config, w| Ok(Box::new(load(config, w)?)),
};

/// timm's form of it.
pub static TIMM: Timm = Timm {
    family: "beit",
    entry: &ENTRY,
    architecture: "BeitForImageClassification",
    args: &[
        ("img_size", "image_size"),
        ("patch_size", "patch_size"),
        ("in_chans", "num_channels"),
        ("embed_dim", "hidden_size"),
        ("depth", "num_hidden_layers"),
        ("num_heads", "num_attention_heads"),
        ("mlp_ratio", "mlp_ratio_of_timm"),
        ("init_values", "layer_scale_init_value"),
        ("use_abs_pos_emb", "use_absolute_position_embeddings"),
        ("use_rel_pos_bias", "use_relative_position_bias"),
        ("use_shared_rel_pos_bias", "use_shared_relative_position_bias"),
    ],
    pool: "avg",
};

/// timm's names, and those that transformers 5 has in memory, onto the published ones.
const RULES: &[Rename] = &[
    ("beit.**", "**"),
    ("cls_token", "embeddings.cls_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.*", "embeddings.patch_embeddings.projection.*"),
    ("rel_pos_bias.**", "encoder.relative_position_bias.**"),
    ("blocks.*.norm1.*", "encoder.layer.*.layernorm_before.*"),
    ("blocks.*.norm2.*", "encoder.layer.*.layernorm_after.*"),
    ("blocks.*.gamma_1", "encoder.layer.*.lambda_1"),
    ("blocks.*.gamma_2", "encoder.layer.*.lambda_2"),
    ("blocks.*.attn.qkv.*", "encoder.layer.*.attention.attention.qkv.*"),
    ("blocks.*.attn.q_bias", "encoder.layer.*.attention.attention.query.bias"),
    ("blocks.*.attn.v_bias", "encoder.layer.*.attention.attention.value.bias"),
    (
        "blocks.*.attn.relative_position_bias_table",
        "encoder.layer.*.attention.attention.relative_position_bias.relative_position_bias_table",
    ),
    ("blocks.*.attn.relative_position_index", "encoder.layer.*.attention.attention.relative_position_index"),
    ("blocks.*.attn.proj.*", "encoder.layer.*.attention.output.dense.*"),
    ("blocks.*.mlp.fc1.*", "encoder.layer.*.intermediate.dense.*"),
    ("blocks.*.mlp.fc2.*", "encoder.layer.*.output.dense.*"),
    ("fc_norm.*", "pooler.layernorm.*"),
    ("head.*", "classifier.*"),
    ("shared_position_bias.**", "encoder.relative_position_bias.**"),
    ("layers.*.relative_position_bias.**", "encoder.layer.*.attention.attention.relative_position_bias.**"),
    ("layers.*.attention.q_proj.*", "encoder.layer.*.attention.attention.query.*"),
    ("layers.*.attention.k_proj.*", "encoder.layer.*.attention.attention.key.*"),
    ("layers.*.attention.v_proj.*", "encoder.layer.*.attention.attention.value.*"),
    ("layers.*.attention.o_proj.*", "encoder.layer.*.attention.output.dense.*"),
    ("layers.*.mlp.fc1.*", "encoder.layer.*.intermediate.dense.*"),
    ("layers.*.mlp.fc2.*", "encoder.layer.*.output.dense.*"),
    ("layers.*.**", "encoder.layer.*.**"),
];

/// The published config, checked.
struct Config {
    dim: usize,
    depth: usize,
    heads: usize,
    hidden: usize,
    act: Activation,
    eps: f64,
    /// Learned positions of all rows.
    absolute: bool,
    /// Numbers for pairs of places in every block, and those that all blocks share.
    relative: bool,
    shared: bool,
    mask_token: bool,
    /// What factors of branches start at, where there are any.
    scale: Option<f32>,
    /// Whether the mean of the patches is read, and not the class row.
    mean: bool,
    channels: usize,
    image: Size,
    patch: Size,
    grid: Size,
}

impl Config {
    fn read(c: &ConfigMap) -> Result<Self> {
        let [image, patch, grid] = square_grid(c, 224, 16)?;
        let dim = c.size("hidden_size", Some(768), MAX_DIM)?;
        let heads = c.size("num_attention_heads", Some(12), MAX_HEADS)?;
        check_heads(dim, heads)?;
        c.only("head_dim", &[(dim / heads).into()])?;
        let scale = c.float("layer_scale_init_value", 0.1, -1e3, 1e3)?;
        Ok(Config {
            dim,
            depth: c.size("num_hidden_layers", Some(12), MAX_DEPTH)?,
            heads,
            hidden: hidden_width(c, dim)?,
            act: Activation::parse("hidden_act", &c.text("hidden_act", "gelu")?)?,
            eps: c.float("layer_norm_eps", 1e-12, 0.0, 1.0)?,
            absolute: c.flag("use_absolute_position_embeddings", false)?,
            relative: c.flag("use_relative_position_bias", false)?,
            shared: c.flag("use_shared_relative_position_bias", false)?,
            mask_token: c.flag("use_mask_token", false)?,
            scale: (scale > 0.0).then_some(scale as f32),
            mean: c.flag("use_mean_pooling", true)?,
            channels: c.size("num_channels", Some(3), 64)?,
            image,
            patch,
            grid,
        })
    }
}

/// Most numbers of pairs that are kept from pass to pass.
const KEPT: usize = 1 << 21;

/// What pairs of a class row and places add to scores.
struct Pairs {
    /// By distance on the trained grid, then class to place, place to class, class to itself: `[places + 3, heads]`.
    table: Tensor,
    trained: Size,
    /// The numbers for the trained grid, kept where no training can change them.
    fixed: Option<OnceLock<Tensor>>,
}

impl Pairs {
    fn load(c: &Config, w: &Weights) -> Result<Arc<dyn PairBias>> {
        let places = (2 * c.grid.0 - 1) * (2 * c.grid.1 - 1);
        let table =
            w.tensor("relative_position_bias.relative_position_bias_table", &[places + 3, c.heads], ParamKind::Table)?;
        let rows = 1 + c.grid.0 * c.grid.1;
        let keeps = !w.is_trainable() && rows.saturating_mul(rows).saturating_mul(c.heads) <= KEPT;
        Ok(Arc::new(Pairs { table, trained: c.grid, fixed: keeps.then(OnceLock::new) }))
    }
}

impl PairBias for Pairs {
    fn of(&self, grid: Size) -> Result<Tensor> {
        if grid != self.trained {
            // Distances are resized bilinearly; those of the class row stay.
            let wide = |(h, w): Size| (2 * h - 1, 2 * w - 1);
            let (from, to) = (wide(self.trained), wide(grid));
            let near = self.table.narrow(0, 0, from.0 * from.1)?.contiguous()?;
            let (near, _) = resize_maps(&near, &Rows::maps(&[from])?, &[to])?;
            let class = self.table.narrow(0, from.0 * from.1, 3)?;
            return pair_biases_behind(&Tensor::cat(&[&near, &class], 0)?, grid);
        }
        // A dry run gives no numbers to keep.
        let fixed = self.fixed.as_ref().filter(|_| !dry::is_dry());
        if let Some(known) = fixed.and_then(OnceLock::get) {
            return Ok(known.clone());
        }
        let bias = pair_biases_behind(&self.table, grid)?;
        if let Some(cell) = fixed {
            let _ = cell.set(bias.clone());
        }
        Ok(bias)
    }
}

/// Numbers for pairs from two tables.
struct Both([Arc<dyn PairBias>; 2]);

impl PairBias for Both {
    fn of(&self, grid: Size) -> Result<Tensor> {
        self.0[0].of(grid)? + self.0[1].of(grid)?
    }
}

fn embed(c: &Config, w: &Weights) -> Result<ImageEmbed> {
    let dim = c.dim;
    let patches =
        PatchSpec { name: "patch_embeddings.projection", channels: c.channels, patch: c.patch, dim, bias: true };
    if c.mask_token {
        // It stands for patches that training hides; kept for whoever saves the model.
        w.with_init(Init::Constant(0.0)).buffer("mask_token", &[1, 1, dim])?;
    }
    let class = w.tensor("cls_token", &[1, 1, dim], ParamKind::Table)?;
    let table = || w.tensor("position_embeddings", &[1, 1 + c.grid.0 * c.grid.1, dim], ParamKind::Table);
    let table = c.absolute.then(table).transpose()?;
    ImageEmbed::around(w, &patches, c.image, PositionEmbed::new(vec![class], table, c.grid))
}

fn block(c: &Config, w: &Weights, shared: Option<&Arc<dyn PairBias>>) -> Result<EncoderBlock> {
    let spec = BlockSpec {
        dim: c.dim,
        heads: c.heads,
        mlp_dim: c.hidden,
        act: c.act,
        eps: c.eps,
        qkv_bias: true,
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
    let own = c.relative.then(|| Pairs::load(c, &w.at("attention.attention"))).transpose()?;
    let positions = match (shared.cloned(), own) {
        (Some(shared), Some(own)) => Positions::Pairs(Arc::new(Both([shared, own]))),
        (Some(one), None) | (None, Some(one)) => Positions::Pairs(one),
        (None, None) => Positions::None,
    };
    let attention = AttentionSpec { bias: [true, false, true], positions, ..spec.attention_spec() };
    let block = EncoderBlock::load_around(w, &spec, &attention)?;
    Ok(block.with_scale(LayerScale::load(w, &["lambda_1", "lambda_2"], &[c.dim], c.scale)?))
}

/// The norm of what is read at the end, and the classifier.
struct Head {
    /// Whether that is the mean of the patches: all rows then stay without a norm.
    mean: bool,
    norm: LayerNorm,
    classifier: Option<Box<dyn Linear>>,
}

impl RowHead for Head {
    fn forward(&self, cx: &mut Ctx, x: Tensor, rows: &Rows, front: usize) -> Result<Output> {
        let (hidden, pooled) = if self.mean {
            let pooled = self.norm.forward(&mean_behind(&x, rows, front)?)?;
            (x, pooled)
        } else {
            let hidden = self.norm.forward(&x)?;
            let pooled = first_rows(&hidden, rows)?;
            (hidden, pooled)
        };
        Ok(match &self.classifier {
            Some(classifier) => Output::new().member("logits", classifier.forward(cx, &pooled)?),
            None => Output::new().rows("last_hidden_state", hidden, rows).member("pooler_output", pooled),
        })
    }
    fn classes(&self) -> Option<usize> {
        self.classifier.as_ref().map(|c| c.dims().1)
    }
    fn drops(&self) -> bool {
        false
    }
}

fn load(c: &ConfigMap, w: &Weights) -> Result<Patched<Head>> {
    let config = Config::read(c)?;
    let classifies = ENTRY.head_of(c)? == HeadKind::ImageClassification;
    let classes = || w.linear("classifier", config.dim, c.n_labels()?, true);
    let shared = config.shared.then(|| Pairs::load(&config, &w.at("encoder"))).transpose()?;
    let one = |i: usize| block(&config, &w.at("encoder.layer").at(i), shared.as_ref());
    Ok(Patched {
        dim: config.dim,
        embed: embed(&config, &w.at("embeddings"))?,
        norm: None,
        blocks: (0..config.depth).map(one).collect::<Result<_>>()?,
        head: Head {
            mean: config.mean,
            norm: w.layer_norm(if config.mean { "pooler.layernorm" } else { "layernorm" }, config.dim, config.eps)?,
            classifier: classifies.then(classes).transpose()?,
        },
    })
}
