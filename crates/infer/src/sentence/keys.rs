//! Every key of the files that sentence-transformers 6.2 writes or reads, and what becomes of it here.

use Handling::{Applied, NoEffect, OnlyDefault};
use switchformer_nn::account::{Handling, Key};

/// List of the modules, one object each.
pub(crate) const MODULES: &str = "modules.json";
/// Settings of the whole model.
pub(crate) const MODEL: &str = "config_sentence_transformers.json";
/// Settings of the Transformer, in a file of one of several names. Rows of [`KEYS`] have the first.
pub(crate) use switchformer_data::text::SENTENCE_SETTINGS as TRANSFORMER;
/// Files of the other modules, each in the folder that `modules.json` names.
pub(crate) const POOLING: &str = "Pooling/config.json";
pub(crate) const SPLADE: &str = "SpladePooling/config.json";
pub(crate) const DENSE: &str = "Dense/config.json";
pub(crate) const LAYER_NORM: &str = "LayerNorm/config.json";
pub(crate) const NORMALIZE: &str = "Normalize/config.json";
pub(crate) const DROPOUT: &str = "Dropout/config.json";
pub(crate) const MASK: &str = "MultiVectorMask/config.json";
/// What ColBERT's own folders say beside their config.
pub(crate) const COLBERT: &str = "artifact.metadata";

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
    key(MODEL, "max_active_dims", Applied, "how many weights of a sparse embedding are kept"),
    key(MODEL, "query_prefix", Applied, "of PyLate: in front of the prompt of queries"),
    key(MODEL, "document_prefix", Applied, "of PyLate: in front of the prompt of documents"),
    key(MODEL, "query_length", Applied, "of PyLate: how many tokens queries are filled up to"),
    key(MODEL, "document_length", Applied, "of PyLate: the most tokens of a document"),
    key(MODEL, "query_expansion", Applied, "how queries are filled up, where the Transformer does not say"),
    key(MODEL, "do_query_expansion", Applied, "of PyLate: whether queries are filled up"),
    key(MODEL, "attend_to_expansion_tokens", Applied, "of PyLate: whether other tokens look at the filling"),
    key(MODEL, "attend_to_mask_tokens", Applied, "the same by an older name"),
    key(MODEL, "skiplist_words", Applied, "of PyLate: tokens that do not count in documents"),
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
    transformer("query_length", Applied, "the most tokens of a query"),
    transformer("document_length", Applied, "the most tokens of a document"),
    transformer("query_expansion", Applied, "how queries are filled up, for vectors of every token"),
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
    key(DENSE, "module_input_name", Applied, "the pooled embedding, or the vectors of tokens"),
    key(DENSE, "module_output_name", Applied, "must be what it reads"),
    key(LAYER_NORM, "dimension", Applied, "numbers it reads"),
    key(NORMALIZE, "module_input_name", Applied, "the pooled embedding, or the vectors of tokens"),
    key(NORMALIZE, "module_output_name", Applied, "must be what it reads"),
    key(DROPOUT, "dropout", NoEffect, "nothing is dropped outside training"),
    key(MASK, "skiplist_words", Applied, "tokens that do not count"),
    key(MASK, "skiplist_tasks", Applied, "whether they do not count in queries, documents or both"),
    key(MASK, "keep_only_token_ids", Applied, "the ids that count alone in documents"),
    key(COLBERT, "query_token_id", Applied, "the marker in front of queries"),
    key(COLBERT, "doc_token_id", Applied, "the marker in front of documents"),
    key(COLBERT, "query_maxlen", Applied, "how many tokens queries are filled up to"),
    key(COLBERT, "doc_maxlen", Applied, "the most tokens of a document"),
    key(COLBERT, "attend_to_mask_tokens", Applied, "whether other tokens look at the filling"),
    key(COLBERT, "mask_punctuation", Applied, "whether punctuation counts in documents"),
    key(COLBERT, "dim", NoEffect, "repeats the width of `linear.weight`"),
    key(COLBERT, "similarity", OnlyDefault("\"cosine\""), "vectors have length one"),
];
