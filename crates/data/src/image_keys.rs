//! What becomes of each key of the files that say how images are prepared. The readers ask for a key through these tables,
//! so that nothing is read that is not in them.

use serde_json::{Map, Value};
use switchformer_format::account::{Handling, Key, unknown_keys_at};

use crate::error::Result;

use Handling::{Applied, NoEffect, OnlyDefault};

/// The file of an image processor, and the table of the object in [`JOINT`].
pub(crate) const PROCESSOR: &str = "preprocessor_config.json";
/// The file that newer folders keep it in, beside other processors.
pub(crate) const JOINT: &str = "processor_config.json";
/// The part of timm's `config.json` that says how images are prepared.
pub(crate) const TIMM: &str = "config.json: pretrained_cfg";

const fn applied(key: &'static str, why: &'static str) -> Key {
    Key::new(PROCESSOR, key, Applied, why)
}

const fn idle(key: &'static str, why: &'static str) -> Key {
    Key::new(PROCESSOR, key, NoEffect, why)
}

const fn joint(key: &'static str, handling: Handling, why: &'static str) -> Key {
    Key::new(JOINT, key, handling, why)
}

const fn timm(key: &'static str, handling: Handling, why: &'static str) -> Key {
    Key::new(TIMM, key, handling, why)
}

const CLASS: &str = "the class, which decides what is not said";
const RECORD: &str = "a record of how the folder was made";
const RUNTIME: &str = "how the reference computes or returns it, not what";
const OLD: &str = "written by old versions and read by nobody";
const LABELS: &str = "of maps of labels, which are not read";
const OTHERS: &str = "of the processors of texts, sounds and videos";
const ORIGIN: &str = "where the weights come from";
const CLASSES: &str = "classes are named by their numbers";
const ADAPT: &str = "of weights that are changed when they are loaded";

/// Every key that the image processors of transformers 5.23 and timm 1.0 read, and what is done about it. A key that is not
/// here becomes a note of the [`Preprocessor`](crate::Preprocessor).
pub static IMAGE_KEYS: &[Key] = &[
    applied("image_processor_type", CLASS),
    applied("feature_extractor_type", "an older name of image_processor_type"),
    applied("do_resize", "whether images are resized"),
    applied("size", "what they are resized to"),
    applied("default_to_square", "whether a size that is one number gives both sides"),
    applied("resample", "the filter of resizing"),
    applied("use_square_size", "whether CLIP's class resizes to 224x224"),
    applied("crop_pct", "how much of a side ConvNext's class crops"),
    applied("do_center_crop", "whether the middle is cropped"),
    applied("crop_size", "the size of the crop"),
    applied("do_rescale", "whether bytes are multiplied"),
    applied("rescale_factor", "by what"),
    applied("do_normalize", "whether mean and deviation are taken out"),
    applied("image_mean", "the mean of each channel"),
    applied("image_std", "the deviation of each channel"),
    Key::new(PROCESSOR, "do_pad", OnlyDefault("false"), "images are not padded"),
    idle("pad_size", "of padding, which is refused"),
    idle("do_convert_rgb", "images always get the channels of the model"),
    idle("do_reduce_labels", LABELS),
    idle("reduce_labels", LABELS),
    idle("data_format", "the reference puts channels first whatever it says"),
    idle("input_data_format", "of arrays in place of images"),
    idle("device", RUNTIME),
    idle("disable_grouping", RUNTIME),
    idle("return_tensors", RUNTIME),
    idle("image_seq_length", "of models of images and texts"),
    idle("processor_class", RECORD),
    idle("_processor_class", RECORD),
    idle("_commit_hash", RECORD),
    idle("_name_or_path", RECORD),
    idle("name_or_path", RECORD),
    idle("transformers_version", RECORD),
    idle("_valid_kwargs_names", RECORD),
    idle("_valid_processor_keys", RECORD),
    idle("auto_map", "code in a folder is never run"),
    idle("architectures", OLD),
    idle("image_size", OLD),
    idle("max_size", OLD),
    idle("model_input_names", OLD),
    idle("model_type", OLD),
    idle("num_channels", OLD),
    idle("patch_size", OLD),
    joint("image_processor", Applied, "what preprocessor_config.json holds; goes before that file"),
    joint("processor_class", NoEffect, RECORD),
    joint("auto_map", NoEffect, "code in a folder is never run"),
    joint("tokenizer", NoEffect, OTHERS),
    joint("feature_extractor", NoEffect, OTHERS),
    joint("video_processor", NoEffect, OTHERS),
    joint("chat_template", NoEffect, OTHERS),
    timm("input_size", Applied, "sides of images; of the model too where fixed_input_size is true, and its channels"),
    timm("fixed_input_size", Applied, "whether the model has the size of its images"),
    timm("interpolation", Applied, "the filter of resizing"),
    timm("crop_pct", Applied, "the share of a side that is kept"),
    timm("crop_mode", Applied, "whether the shorter side is resized, or both"),
    timm("mean", Applied, "the mean of each channel"),
    timm("std", Applied, "the deviation of each channel"),
    timm("num_classes", Applied, "number of classes, where the file itself does not say"),
    timm("global_pool", OnlyDefault("null"), "give it in model_args"),
    timm("test_input_size", NoEffect, "of an evaluation that asks for it"),
    timm("test_crop_pct", NoEffect, "of an evaluation that asks for it"),
    timm("test_pool_size", NoEffect, "of an evaluation that asks for it"),
    timm("min_input_size", NoEffect, "a bound for other sizes of images"),
    timm("pool_size", NoEffect, "follows from the model"),
    timm("num_features", NoEffect, "follows from the model"),
    timm("first_conv", NoEffect, ADAPT),
    timm("classifier", NoEffect, ADAPT),
    timm("label_offset", NoEffect, ADAPT),
    timm("custom_load", NoEffect, ADAPT),
    timm("label_names", NoEffect, CLASSES),
    timm("label_descriptions", NoEffect, CLASSES),
    timm("labels", NoEffect, CLASSES),
    timm("architecture", NoEffect, "the file itself says it"),
    timm("url", NoEffect, ORIGIN),
    timm("file", NoEffect, ORIGIN),
    timm("source", NoEffect, ORIGIN),
    timm("state_dict", NoEffect, ORIGIN),
    timm("tag", NoEffect, ORIGIN),
    timm("hf_hub_id", NoEffect, ORIGIN),
    timm("hf_hub_filename", NoEffect, ORIGIN),
    timm("license", NoEffect, ORIGIN),
    timm("description", NoEffect, ORIGIN),
    timm("origin_url", NoEffect, ORIGIN),
    timm("paper_name", NoEffect, ORIGIN),
    timm("paper_ids", NoEffect, ORIGIN),
    timm("notes", NoEffect, ORIGIN),
];

/// Whether a table has a key.
pub(crate) fn listed(file: &str, key: &str) -> bool {
    IMAGE_KEYS.iter().any(|row| (row.file, row.key) == (file, key))
}

/// A note for each key of `map` that the table of `file` has not; `at` says where it lies. Errors on what is refused.
pub(crate) fn notes(map: &Map<String, Value>, file: &str, at: &str) -> Result<Vec<String>> {
    let unknown = unknown_keys_at(map, file, at, IMAGE_KEYS)?;
    Ok(unknown.into_iter().map(|key| format!("{at}: `{key}` is not known here and has no effect")).collect())
}
