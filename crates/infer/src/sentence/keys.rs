//! Every key of the files that sentence-transformers 6.2 writes or reads, and what becomes of it here.

use Handling::{Applied, NoEffect, OnlyDefault};
use switchformer_nn::account::{Handling, Key};

/// List of the modules, one object each.
pub(crate) const MODULES: &str = "modules.json";
/// Settings of the whole model.
pub(crate) const MODEL: &str = "config_sentence_transformers.json";
/// Settings of the Transformer: the first of these names that a folder has, in this order. Rows of [`KEYS`] have the first.
pub(crate) const TRANSFORMER: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];
/// Files of the other modules, each in the folder that `modules.json` names.
pub(crate) const POOLING: &str = "Pooling/config.json";
pub(crate) const SPLADE: &str = "SpladePooling/config.json";
pub(crate) const DENSE: &str = "Dense/config.json";
pub(crate) const LAYER_NORM: &str = "LayerNorm/config.json";
pub(crate) const NORMALIZE: &str = "Normalize/config.json";
pub(crate) const DROPOUT: &str = "Dropout/config.json";

/// The default of keys that name what a module reads and writes.
const EMBEDDING: Handling = OnlyDefault("\"sentence_embedding\"");
const NULL: Handling = OnlyDefault("null");
const EMPTY: Handling = OnlyDefault("{}");

const fn key(file: &'static str, key: &'static str, handling: Handling, why: &'static str) -> Key {
    Key::new(file, key, handling, why)
}

const fn transformer(name: &'static str, handling: Handling, why: &'static str) -> Key {
    Key::new(TRANSFORMER[0], name, handling, why)
}

/// The table.
pub const KEYS: &[Key] = &[
    key(MODULES, "type", Applied, "the kind of module"),
    key(MODULES, "path", Applied, "the folder of its files"),
    key(MODULES, "name", Applied, "must differ from module to module"),
    key(MODULES, "idx", NoEffect, "modules run in the order of the list"),
    key(MODULES, "kwargs", NoEffect, "names arguments of a call that none of these modules takes"),
    key(MODEL, "model_type", Applied, "dense embeddings, sparse ones, or scores of pairs"),
    key(MODEL, "prompts", Applied, "texts to put in front, by name"),
    key(MODEL, "default_prompt_name", Applied, "the prompt of requests that name none"),
    key(MODEL, "similarity_fn_name", Applied, "how embeddings are compared"),
    key(MODEL, "truncate_dim", Applied, "how many numbers of an embedding are kept"),
    key(MODEL, "max_active_dims", NULL, "all weights of a sparse embedding are given"),
    key(MODEL, "activation_fn", Applied, "what scores of pairs go through"),
    key(MODEL, "keep_in_fp32_modules", NoEffect, "everything is computed in single precision"),
    key(MODEL, "__version__", NoEffect, "the programs that saved the folder"),
    key(MODEL, "requirements", NoEffect, "versions of Python packages"),
    transformer("transformer_task", Applied, "which head is read"),
    transformer("max_seq_length", Applied, "the most tokens of a text"),
    transformer("do_lower_case", Applied, "texts are lower-cased before all other steps of the tokenizer"),
    transformer("modality_config", Applied, "must say that texts give the usual output of the task"),
    transformer("module_output_name", Applied, "must be the usual one of the task"),
    transformer("processing_kwargs", EMPTY, "texts are cut at the most tokens, and otherwise read whole"),
    transformer("unpad_inputs", NoEffect, "padding does not exist here"),
    transformer("query_length", NULL, "for embeddings of every token"),
    transformer("document_length", NULL, "for embeddings of every token"),
    transformer("query_expansion", NULL, "for embeddings of every token"),
    transformer("model_args", EMPTY, "the model is opened as config.json says"),
    transformer("model_kwargs", EMPTY, "the model is opened as config.json says"),
    transformer("config_args", EMPTY, "the model is opened as config.json says"),
    transformer("config_kwargs", EMPTY, "the model is opened as config.json says"),
    transformer("tokenizer_args", EMPTY, "the tokenizer is opened as its own files say"),
    transformer("processor_kwargs", EMPTY, "the tokenizer is opened as its own files say"),
    transformer("tokenizer_name_or_path", NULL, "the tokenizer is the one beside the model"),
    key(POOLING, "pooling_mode", Applied, "a mode, or several whose vectors are joined in this order"),
    key(POOLING, "pooling_mode_cls_token", Applied, "where `pooling_mode` is not there"),
    key(POOLING, "pooling_mode_max_tokens", Applied, "where `pooling_mode` is not there"),
    key(POOLING, "pooling_mode_mean_tokens", Applied, "where `pooling_mode` is not there"),
    key(POOLING, "pooling_mode_mean_sqrt_len_tokens", Applied, "where `pooling_mode` is not there"),
    key(POOLING, "pooling_mode_weightedmean_tokens", Applied, "where `pooling_mode` is not there"),
    key(POOLING, "pooling_mode_lasttoken", Applied, "where `pooling_mode` is not there"),
    key(POOLING, "include_prompt", Applied, "whether tokens of the prompt are pooled too"),
    key(POOLING, "embedding_dimension", NoEffect, "repeats the width of the model"),
    key(POOLING, "word_embedding_dimension", NoEffect, "repeats the width of the model"),
    key(SPLADE, "pooling_strategy", Applied, "the largest weight of a token over the text, or the sum"),
    key(SPLADE, "activation_function", Applied, "one logarithm or two"),
    key(SPLADE, "embedding_dimension", NoEffect, "repeats the size of the vocabulary"),
    key(SPLADE, "word_embedding_dimension", NoEffect, "repeats the size of the vocabulary"),
    key(SPLADE, "chunk_size", NoEffect, "how much memory the reference takes"),
    key(DENSE, "in_features", Applied, "numbers it reads"),
    key(DENSE, "out_features", Applied, "numbers it gives"),
    key(DENSE, "bias", Applied, "whether a bias is added"),
    key(DENSE, "activation_function", Applied, "what its numbers go through"),
    key(DENSE, "use_residual", Applied, "whether what it reads is added to what it gives"),
    key(DENSE, "module_input_name", EMBEDDING, "it reads the pooled embedding"),
    key(DENSE, "module_output_name", EMBEDDING, "it gives the embedding"),
    key(LAYER_NORM, "dimension", Applied, "numbers it reads"),
    key(NORMALIZE, "module_input_name", EMBEDDING, "it scales the pooled embedding"),
    key(NORMALIZE, "module_output_name", EMBEDDING, "it gives the embedding"),
    key(DROPOUT, "dropout", NoEffect, "nothing is dropped outside training"),
];
