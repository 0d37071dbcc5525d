#![doc = include_str!("../README.md")]

pub mod batch;
mod bigbench;
pub mod cifar;
pub mod debian;
pub mod eda;
pub mod error;
pub mod fashion;
pub mod idx;
pub mod image;
pub mod image_set;
pub mod multiemo;
pub mod pack;
pub mod packed_images;
pub mod pairs;
pub mod plain;
pub mod preprocess;
mod preprocess_config;
pub mod reader;
pub mod resize;
pub mod scenes;
pub mod squad;
#[cfg(feature = "parquet")]
mod table;
pub mod text;
mod text_config;
pub mod train_tokenizer;
pub mod trim;

pub use batch::{Augment, order_at, permutation};
pub use cifar::Cifar10;
pub use debian::{Descriptions, Split};
pub use error::{Error, Result};
pub use fashion::{Dataset, FashionMnist, LABELS};
pub use image::Picture;
pub use image_set::{IMAGE_SETS, ImageSet};
pub use pack::Batches;
pub use packed_images::embedded_fashion;
pub use preprocess::Pixels;
pub use preprocess_config::{Family, Middle, Preprocessor, Size};
pub use reader::{Reader, Window};
pub use resize::{Filter, resize};
pub use squad::Squad;
pub use switchformer_format::Rng;
pub use text::{Encoding, Tokenizer};
pub use train_tokenizer::TokenizerRecipe;
pub use trim::Vocabulary;
