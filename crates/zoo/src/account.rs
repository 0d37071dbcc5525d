//! What becomes of the keys of `config.json`: a family's file reads those that it applies or refuses; these have no effect.

use switchformer_nn::Result;
use switchformer_nn::account::{Handling, Key};
use switchformer_nn::config::ConfigMap;

const FILE: &str = "config.json";

const fn none(key: &'static str, why: &'static str) -> Key {
    Key::new(FILE, key, Handling::NoEffect, why)
}

const ORIGIN: &str = "where the file comes from";
const TRAINING: &str = "of training alone";
const RUNTIME: &str = "how the reference computes, not what";
const TOKENS: &str = "the tokenizer names the token";

/// Keys that no answer depends on, whatever the family.
pub static NO_EFFECT: &[Key] = &[
    none("_name_or_path", ORIGIN),
    none("name_or_path", ORIGIN),
    none("_commit_hash", ORIGIN),
    none("transformers_version", ORIGIN),
    none("adapters", "settings of adapters that are stored elsewhere"),
    none("auto_map", "code of a repository; nothing in a folder is executed"),
    none("custom_pipelines", "code of a repository; nothing in a folder is executed"),
    none("finetuning_task", ORIGIN),
    none("language", ORIGIN),
    none("license", ORIGIN),
    none("tags", ORIGIN),
    none("directionality", "written by old conversions and read by nobody"),
    none("pooler_fc_size", "written by old conversions and read by nobody"),
    none("pooler_num_attention_heads", "written by old conversions and read by nobody"),
    none("pooler_num_fc_layers", "written by old conversions and read by nobody"),
    none("pooler_size_per_head", "written by old conversions and read by nobody"),
    none("pooler_type", "written by old conversions and read by nobody"),
    none("output_past", "written by old versions and read by nobody"),
    none("n_special", "written by old versions and read by nobody"),
    none("net_structure_type", "written by old conversions and read by nobody"),
    none("down_scale_factor", "written by old conversions and read by nobody"),
    none("gap_size", "written by old conversions and read by nobody"),
    none("num_memory_blocks", "written by old conversions and read by nobody"),
    none("sinusoidal_pos_embds", "the table is stored, whichever way it was made"),
    none("initializer_range", TRAINING),
    none("initializer_factor", TRAINING),
    none("gradient_checkpointing", TRAINING),
    none("label_smoothing", TRAINING),
    none("router_aux_loss_coef", TRAINING),
    none("router_z_loss_coef", TRAINING),
    none("router_jitter_noise", TRAINING),
    none("seq_classif_dropout", TRAINING),
    none("use_mask_token", "a token of pre-training"),
    none("torch_dtype", "computed in f32, whatever is stored"),
    none("dtype", "computed in f32, whatever is stored"),
    none("use_bfloat16", "computed in f32, whatever is stored"),
    none("use_cache", RUNTIME),
    none("torchscript", RUNTIME),
    none("chunk_size_feed_forward", RUNTIME),
    none("_attn_implementation", RUNTIME),
    none("_attn_implementation_internal", RUNTIME),
    none("_attn_implementation_autoset", RUNTIME),
    none("attn_implementation", RUNTIME),
    none("_experts_implementation", RUNTIME),
    none("experts_implementation", RUNTIME),
    none("reference_compile", RUNTIME),
    none("return_dict", RUNTIME),
    none("use_return_dict", RUNTIME),
    none("output_attentions", "asks for more outputs; taps give them here"),
    none("output_hidden_states", "asks for more outputs; taps give them here"),
    none("output_router_logits", "asks for more outputs; --trace tells the choices"),
    none("is_encoder_decoder", "the architecture says it"),
    none("label2id", "id2label says it"),
    none("id2label", "names of classes, for heads that have any"),
    none("num_labels", "number of classes, for heads that have any"),
    none("problem_type", "of classifiers"),
    none("pooler_act", "of a pooler, where one is read"),
    none("pooler_output_size", "of a pooler, where one is read"),
    none("legacy", "which head scores words, in families that have two"),
    none("summary_type", "of a head for several choices"),
    none("summary_activation", "of a head for several choices"),
    none("summary_use_proj", "of a head for several choices"),
    none("classifier_activation", "of heads that have one"),
    none("classifier_bias", "of heads that have one"),
    none("classifier_pooling", "of heads that have one"),
    none("decoder_bias", "of heads that score words"),
    none("sparse_prediction", TRAINING),
    none("sparse_pred_ignore_index", TRAINING),
    none("initializer_cutoff_factor", TRAINING),
    none("deterministic_flash_attn", RUNTIME),
    none("unpad_inputs", RUNTIME),
    none("use_memory_efficient_attention", RUNTIME),
    none("logn_attention_clip1", "of logn_attention_scale, which is refused"),
    none("pack_qkv", "the stored tensors say it, in families that do not read it"),
    none("matryoshka_dimensions", "widths that embeddings may be cut to, on request"),
    none("vocab_size", "of models of words, and of the image tokens of pre-training"),
    none("hidden_size", "follows from other fields in families that do not read it"),
    none("num_layers", "follows from other fields in families that do not read it"),
    none("encoder_stride", "of a head of pre-training"),
    none("init_std", TRAINING),
    none("layerscale_value", "the factors are stored"),
    none("layer_scale_init_value", "the factors are stored"),
    none("reshape_hidden_states", "of backbones of detectors"),
    none("apply_layernorm", "of backbones of detectors"),
    none("add_fpn", "of a head of segmentation"),
    none("pool_scales", "of a head of segmentation"),
    none("use_auxiliary_head", "of a head of segmentation"),
    none("auxiliary_loss_weight", "of a head of segmentation"),
    none("auxiliary_channels", "of a head of segmentation"),
    none("auxiliary_num_convs", "of a head of segmentation"),
    none("auxiliary_concat_input", "of a head of segmentation"),
    none("semantic_loss_ignore_index", "of a head of segmentation"),
    none("tie_word_embeddings", "of heads that score words"),
    none("tokenizer_class", "the tokenizer's files say it"),
    none("sentence_transformers", "of rerankers"),
    none("sbert_ce_default_activation_function", "of rerankers"),
    none("dense_act_fn", "of T5 and its kin"),
    none("is_gated_act", "of T5 and mT5"),
    none("prefix", "read by pipelines of old versions alone"),
    none("task_specific_params", "read by pipelines that are asked for one of these tasks alone"),
    none("bos_token_id", TOKENS),
    none("eos_token_id", TOKENS),
    none("pad_token_id", TOKENS),
    none("sep_token_id", TOKENS),
    none("cls_token_id", TOKENS),
    none("mask_token_id", TOKENS),
    none("unk_token_id", TOKENS),
    none("decoder_start_token_id", "of models that write"),
    none("out_features", "of backbones of detectors"),
    none("out_indices", "of backbones of detectors"),
    none("stage_names", "of backbones of detectors"),
];

/// The top of timm's `config.json`.
pub const TIMM: &str = "config.json of timm";

/// Every key at the top of timm's `config.json`, and what is done about it. `*` is any key of a family's constructor.
pub static TIMM_KEYS: &[Key] = &[
    Key::new(TIMM, "architecture", Handling::Applied, "the family and its size"),
    Key::new(TIMM, "num_classes", Handling::Applied, "number of classes"),
    Key::new(TIMM, "global_pool", Handling::Applied, "must be what the family does"),
    Key::new(
        TIMM,
        "model_args",
        Handling::Applied,
        "arguments of the constructor; those that are not known are errors",
    ),
    Key::new(TIMM, "pretrained_cfg", Handling::Applied, "how images are prepared"),
    Key::new(TIMM, "num_features", Handling::NoEffect, "follows from the model"),
    Key::new(TIMM, "label_names", Handling::NoEffect, "classes are named by their numbers"),
    Key::new(TIMM, "label_descriptions", Handling::NoEffect, "classes are named by their numbers"),
];

/// Keys of `config.json` that nothing here knows, after a model was opened. Dropout and its kin are known by name: they act
/// in training alone.
pub fn unknown(config: &ConfigMap) -> Vec<String> {
    let known = |key: &str| drops(key) || NO_EFFECT.iter().any(|k| k.key == key);
    config.unread().into_iter().filter(|key| !known(key)).map(str::to_string).collect()
}

/// Whether a key sets dropout or its kin.
pub fn drops(key: &str) -> bool {
    ["dropout", "drop_path", "drop_rate", "pdrop", "layerdrop"].iter().any(|d| key.contains(d))
}

/// Refuses what changes the tensors or the network, whatever the family.
pub(crate) fn check(config: &ConfigMap) -> Result<()> {
    config.only("pruned_heads", &[serde_json::json!({})])?;
    config.only("add_cross_attention", &[false.into()])
}
