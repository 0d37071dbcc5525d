//! Which class of transformers 5.23 a folder gets, and what that class takes for granted.

use serde_json::{Map, Value};

/// A way to build a tokenizer. Most of transformers' classes rebuild their pipeline over the vocabulary of
/// `tokenizer.json` and pass its other stages over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// `TokenizersBackend`: `tokenizer.json` as it is.
    File,
    Bert,
    DistilBert,
    Mpnet,
    Roberta,
    Gpt2,
    Deberta,
    Albert,
    T5,
    XlmRoberta,
    Camembert,
    DebertaV2,
    ByT5,
    Canine,
    Marian,
}

/// Class names of transformers, without `Fast`.
const CLASSES: &[(&str, Class)] = &[
    ("AlbertTokenizer", Class::Albert),
    ("BartTokenizer", Class::Roberta),
    ("BertTokenizer", Class::Bert),
    ("BloomTokenizer", Class::File),
    ("ByT5Tokenizer", Class::ByT5),
    ("CamembertTokenizer", Class::Camembert),
    ("CanineTokenizer", Class::Canine),
    ("DebertaTokenizer", Class::Deberta),
    ("DebertaV2Tokenizer", Class::DebertaV2),
    ("DistilBertTokenizer", Class::DistilBert),
    ("ElectraTokenizer", Class::Bert),
    ("GPT2Tokenizer", Class::Gpt2),
    ("LEDTokenizer", Class::Roberta),
    ("LayoutLMTokenizer", Class::Bert),
    ("LongformerTokenizer", Class::Roberta),
    ("LxmertTokenizer", Class::Bert),
    ("MPNetTokenizer", Class::Mpnet),
    ("MarianTokenizer", Class::Marian),
    ("MobileBertTokenizer", Class::Bert),
    ("MvpTokenizer", Class::Roberta),
    ("PreTrainedTokenizer", Class::File),
    ("PythonBackend", Class::File),
    ("RobertaTokenizer", Class::Roberta),
    ("SqueezeBertTokenizer", Class::Bert),
    ("T5Tokenizer", Class::T5),
    ("TokenizersBackend", Class::File),
    ("XLMRobertaTokenizer", Class::XlmRoberta),
    // transformers 5 has no class of these names and takes tokenizer.json as it is.
    ("MT5Tokenizer", Class::File),
    ("NomicBertTokenizer", Class::File),
];

/// The class that each `model_type` is registered with.
const MODEL_TYPES: &[(&str, &str)] = &[
    ("albert", "AlbertTokenizer"),
    ("bart", "RobertaTokenizer"),
    ("bert", "BertTokenizer"),
    ("byt5", "ByT5Tokenizer"),
    ("camembert", "CamembertTokenizer"),
    ("canine", "CanineTokenizer"),
    ("convbert", "BertTokenizer"),
    ("data2vec-text", "RobertaTokenizer"),
    ("deberta", "DebertaTokenizer"),
    ("deberta-v2", "DebertaV2Tokenizer"),
    ("distilbert", "BertTokenizer"),
    ("electra", "BertTokenizer"),
    ("ernie", "BertTokenizer"),
    ("gpt2", "GPT2Tokenizer"),
    ("gte", "XLMRobertaTokenizer"),
    ("ibert", "RobertaTokenizer"),
    ("jina_embeddings_v3", "XLMRobertaTokenizer"),
    ("layoutlm", "BertTokenizer"),
    ("longformer", "RobertaTokenizer"),
    ("marian", "MarianTokenizer"),
    ("megatron-bert", "BertTokenizer"),
    ("mobilebert", "MobileBertTokenizer"),
    ("modernbert", "TokenizersBackend"),
    ("modernbert-decoder", "TokenizersBackend"),
    ("mpnet", "MPNetTokenizer"),
    ("mt5", "T5Tokenizer"),
    ("nezha", "BertTokenizer"),
    ("nomic_bert", "BertTokenizer"),
    ("nystromformer", "TokenizersBackend"),
    ("roberta", "RobertaTokenizer"),
    ("roberta-prelayernorm", "RobertaTokenizer"),
    ("squeezebert", "BertTokenizer"),
    ("switch_transformers", "T5Tokenizer"),
    ("t5", "T5Tokenizer"),
    ("umt5", "TokenizersBackend"),
    ("xlm-roberta", "XLMRobertaTokenizer"),
    ("xlm-roberta-xl", "TokenizersBackend"),
    ("xmod", "XLMRobertaTokenizer"),
    ("yoso", "AlbertTokenizer"),
];

impl Class {
    /// The class that `AutoTokenizer` takes, given `config.json` and `tokenizer_config.json` (null for none); `None` where
    /// neither names one; and the name where nothing is known of it.
    pub(crate) fn choose(config: &Value, own: &Value) -> (Option<Class>, Option<String>) {
        let text = |of: &Value, key: &str| of.get(key).and_then(Value::as_str).map(str::to_owned);
        let named = text(own, "tokenizer_class").filter(|name| !name.is_empty());
        let declared = named.or_else(|| text(config, "tokenizer_class"));
        let model = text(config, "model_type").unwrap_or_default();
        let registered = MODEL_TYPES.iter().find(|(m, _)| *m == model).map(|(_, class)| *class);
        let of_name = |name: &str| CLASSES.iter().find(|(n, _)| *n == name).map(|(_, class)| *class);
        let Some(declared) = declared else { return (registered.and_then(of_name), None) };
        let declared = declared.strip_suffix("Fast").unwrap_or(&declared);
        // A model type with no class of its own goes by the file, whatever class is named beside it.
        if registered == Some("TokenizersBackend") && own.get("auto_map").is_none() {
            return (Some(Class::File), None);
        }
        match of_name(declared) {
            Some(class) => (Some(class), None),
            // Named in version 4 `PreTrainedTokenizerFast`.
            None if declared == "PreTrainedTokenizer" => (Some(Class::File), None),
            None => (Some(Class::File), Some(declared.to_owned())),
        }
    }

    /// The class that a `model_type` is registered with.
    pub(crate) fn of_model(config: &Value) -> Option<Class> {
        Self::choose(config, &Value::Null).0
    }

    /// Special tokens that are set where the files name none: (name, token).
    pub(crate) fn tokens(self) -> &'static [(&'static str, &'static str)] {
        const S: [(&str, &str); 7] = [
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("unk_token", "<unk>"),
            ("sep_token", "</s>"),
            ("pad_token", "<pad>"),
            ("cls_token", "<s>"),
            ("mask_token", "<mask>"),
        ];
        const MPNET: [(&str, &str); 7] = [S[0], S[1], ("unk_token", "[UNK]"), S[3], S[4], S[5], S[6]];
        const ALBERT: [(&str, &str); 7] = [
            ("bos_token", "[CLS]"),
            ("eos_token", "[SEP]"),
            ("unk_token", "<unk>"),
            ("sep_token", "[SEP]"),
            ("pad_token", "<pad>"),
            ("cls_token", "[CLS]"),
            ("mask_token", "[MASK]"),
        ];
        const DEBERTA: [(&str, &str); 7] =
            [ALBERT[0], ALBERT[1], ("unk_token", "[UNK]"), ALBERT[3], ("pad_token", "[PAD]"), ALBERT[5], ALBERT[6]];
        const BERT: [(&str, &str); 5] = [DEBERTA[2], DEBERTA[3], DEBERTA[4], DEBERTA[5], DEBERTA[6]];
        const GPT2: [(&str, &str); 3] =
            [("bos_token", "<|endoftext|>"), ("eos_token", "<|endoftext|>"), ("unk_token", "<|endoftext|>")];
        const CANINE: [(&str, &str); 6] = [
            ("bos_token", "\u{E000}"),
            ("eos_token", "\u{E001}"),
            ("sep_token", "\u{E001}"),
            ("pad_token", "\0"),
            ("cls_token", "\u{E000}"),
            ("mask_token", "\u{E003}"),
        ];
        const T5: [(&str, &str); 3] = [S[1], S[2], S[4]];
        match self {
            Class::File => &[],
            Class::Bert | Class::DistilBert => &BERT,
            Class::Mpnet => &MPNET,
            Class::Roberta | Class::XlmRoberta | Class::Camembert => &S,
            Class::Gpt2 => &GPT2,
            Class::Deberta | Class::DebertaV2 => &DEBERTA,
            Class::Albert => &ALBERT,
            Class::T5 | Class::ByT5 | Class::Marian => &T5,
            Class::Canine => &CANINE,
        }
    }

    /// Whether the class gives a model the segment of each token, where the files do not say.
    pub(crate) fn gives_types(self) -> bool {
        matches!(self, Class::Bert | Class::Deberta | Class::DebertaV2 | Class::Canine)
    }

    /// The vocabulary files that the class reads where there is no `tokenizer.json`.
    pub(crate) fn files(self) -> &'static [&'static str] {
        match self {
            Class::File | Class::ByT5 | Class::Canine => &[],
            Class::Bert | Class::DistilBert | Class::Mpnet => &["vocab.txt"],
            Class::Roberta | Class::Gpt2 | Class::Deberta => &["vocab.json", "merges.txt"],
            Class::Albert | Class::T5 => &["spiece.model"],
            Class::XlmRoberta | Class::Camembert => &["sentencepiece.bpe.model"],
            Class::DebertaV2 => &["spm.model"],
            Class::Marian => &["source.spm", "vocab.json"],
        }
    }
}

/// A JSON object, or an empty one.
pub(crate) fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}
