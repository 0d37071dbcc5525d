//! How a folder's files become a tokenizer, as `AutoTokenizer` of transformers 5.23 makes it: a class is chosen, its
//! settings and tokens are gathered from the side files, and its pipeline is built over the vocabulary it finds.

pub(crate) mod class;
pub(crate) mod cut;
pub(crate) mod keys;
pub(crate) mod marian;
pub(crate) mod parts;
pub(crate) mod pipeline;
pub(crate) mod settings;
pub(crate) mod spm;
pub(crate) mod units;
