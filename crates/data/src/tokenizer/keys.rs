//! What becomes of each key of the files beside a tokenizer.

use switchformer_format::account::{Handling, Key};

use Handling::{Applied, NoEffect, OnlyDefault};

const CONFIG: &str = "tokenizer_config.json";
const MAP: &str = "special_tokens_map.json";

const fn applied(key: &'static str, why: &'static str) -> Key {
    Key::new(CONFIG, key, Applied, why)
}

const fn idle(key: &'static str, why: &'static str) -> Key {
    Key::new(CONFIG, key, NoEffect, why)
}

const fn token(key: &'static str) -> Key {
    Key::new(MAP, key, Applied, "read where tokenizer_config.json has no added_tokens_decoder, as transformers does")
}

const SPECIAL: &str = "a special token, with how it is found in texts";
const TEXT: &str = "how texts are made even before they are cut";
const PADDING: &str = "texts are never padded here";
const CALL: &str = "belongs to a call: the longest text is cut first and pieces do not overlap";
const CHAT: &str = "no chats are written here";
const SLOW: &str = "a setting of version 4 that version 5 passes over";
const RECORD: &str = "a record of how the folder was made or loaded";
const PATHS: &str = "a path in a file is never followed; the folder's own files are read";

/// Every key of `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` that transformers 5.23 reads for
/// the tokenizers here, and what is done about it. A key that is not here becomes a note of the tokenizer. `*` is any key.
pub static KEYS: &[Key] = &[
    applied("tokenizer_class", "chooses how the pipeline is built"),
    applied("bos_token", SPECIAL),
    applied("eos_token", SPECIAL),
    applied("unk_token", SPECIAL),
    applied("sep_token", SPECIAL),
    applied("pad_token", SPECIAL),
    applied("cls_token", SPECIAL),
    applied("mask_token", SPECIAL),
    applied("additional_special_tokens", SPECIAL),
    applied("extra_special_tokens", SPECIAL),
    applied("model_specific_special_tokens", SPECIAL),
    applied("added_tokens_decoder", "tokens beside the vocabulary, with their ids"),
    applied("do_lower_case", TEXT),
    applied("strip_accents", TEXT),
    applied("tokenize_chinese_chars", TEXT),
    applied("keep_accents", TEXT),
    applied("split_by_punct", "whether DeBERTa-v2 parts punctuation from words"),
    applied("add_prefix_space", "whether the first word is treated as one behind a space"),
    applied("trim_offsets", "whether places of tokens leave out the space in front"),
    applied("add_bos_token", "read where there is no tokenizer.json and the class has no template of its own"),
    applied("add_eos_token", "read where there is no tokenizer.json and the class has no template of its own"),
    applied("extra_ids", "how many sentinels T5 and ByT5 have"),
    applied("unk_id", "the unknown token of DeBERTa-v2"),
    applied("model_max_length", "where texts are cut off"),
    applied("max_len", "an older name of model_max_length"),
    applied("truncation_side", "which end of a long text is dropped"),
    applied("model_input_names", "whether a model is given the segment of each token"),
    applied("split_special_tokens", "whether special tokens in a text are plain text"),
    applied("clean_up_tokenization_spaces", "whether written text loses the spaces in front of punctuation"),
    applied("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", "the same for BPE"),
    Key::new(
        CONFIG,
        "fast_tokenizer_files",
        OnlyDefault(r#"["tokenizer.json"]"#),
        "one file is read for every version",
    ),
    Key::new(CONFIG, "fix_mistral_regex", OnlyDefault("false"), "the pattern of a file is never replaced"),
    Key::new(CONFIG, "init_inputs", OnlyDefault("[]"), "settings are read by name"),
    Key::new(CONFIG, "vocab", OnlyDefault("null"), "the vocabulary is read from its own file"),
    Key::new(CONFIG, "merges", OnlyDefault("null"), "merges are read from their own file"),
    applied("separate_vocabs", "whether Marian's languages have a vocabulary each"),
    idle("source_lang", "Marian reads it and does nothing with it here"),
    idle("target_lang", "Marian reads it and does nothing with it here"),
    idle("target_vocab_file", PATHS),
    idle("source_spm", PATHS),
    idle("target_spm", PATHS),
    idle("tokenizer_file", PATHS),
    idle("vocab_file", PATHS),
    idle("merges_file", PATHS),
    idle("spm_file", PATHS),
    idle("special_tokens_map_file", PATHS),
    idle("name_or_path", RECORD),
    idle("_name_or_path", RECORD),
    idle("transformers_version", RECORD),
    idle("_commit_hash", RECORD),
    idle("backend", RECORD),
    idle("is_local", RECORD),
    idle("local_files_only", RECORD),
    idle("files_loaded", RECORD),
    idle("processor_class", RECORD),
    idle("verbose", RECORD),
    idle("auto_map", "code in a folder is never run"),
    idle("errors", "bytes that are no UTF-8 are replaced in written text, whatever it says"),
    idle("padding_side", PADDING),
    idle("padding", PADDING),
    idle("pad_token_type_id", PADDING),
    idle("pad_to_multiple_of", PADDING),
    idle("pad_token_id", PADDING),
    idle("max_length", CALL),
    idle("stride", CALL),
    idle("truncation", CALL),
    idle("truncation_strategy", CALL),
    idle("chat_template", CHAT),
    idle("response_template", CHAT),
    idle("response_schema", CHAT),
    idle("chat_control_tokens", CHAT),
    idle("use_fast", SLOW),
    idle("do_basic_tokenize", SLOW),
    idle("never_split", SLOW),
    idle("wordpieces_prefix", SLOW),
    idle("remove_space", SLOW),
    idle("sp_model_kwargs", "version 5 passes it over, but for Marian, where it must be empty"),
    idle("legacy", SLOW),
    idle("vocab_type", SLOW),
    idle("add_special_tokens", SLOW),
    idle("clean_text", SLOW),
    token("bos_token"),
    token("eos_token"),
    token("unk_token"),
    token("sep_token"),
    token("pad_token"),
    token("cls_token"),
    token("mask_token"),
    token("additional_special_tokens"),
    token("extra_special_tokens"),
    Key::new(
        "added_tokens.json",
        "*",
        Applied,
        "tokens beside the vocabulary, read where tokenizer_config.json has no added_tokens_decoder",
    ),
];
