"""One case per key of a settings file: a small folder in which the key says something else than usual, and what the reference
makes of it. Each answer differs from that of the same folder without the key (checked here). Made with transformers 5.23 and
timm 1.0; `crates/infer/tests/settings.rs` walks the tables of keys and these cases.

    python golden/settings/make.py
"""

import base64
import gzip
import json
import pathlib
import sys
import tempfile

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle  # noqa: E402
import timm  # noqa: E402
import transformers as tf  # noqa: E402
from timm.data import create_transform, resolve_data_config  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CASES, BASES, SAME = [], {}, []


def add(kind, file, key, ask, want, plain, base=None, put=None):
    if want == plain:
        SAME.append((file, key, want))
    case = {"kind": kind, "file": file, "key": key, "base": base, "put": put, "ask": ask, "want": want}
    CASES.append({k: v for k, v in case.items() if v is not None})


def lay(folder, files):
    for name, content in files.items():
        if content is None:
            (folder / name).unlink(missing_ok=True)
        elif isinstance(content, dict) and "base64" in content:
            (folder / name).write_bytes(base64.b64decode(content["base64"]))
        else:
            (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


# Texts that are written.
WRITE = json.loads((ROOT / "golden/folders/generation/expected.json").read_text())
SOURCE = WRITE["request"]["source"]
PLAIN = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0, "max_new_tokens": 10}
ROW = [round(float(v), 4) for v in 3 * oracle.uniform("settings.row", (60,))]


def writer(folder):
    (folder / "config.json").write_text((ROOT / "golden/folders/generation/config.json").read_text())
    tensors = {n: oracle.seeded(t.get("same_as", n), t["shape"]) for n, t in WRITE["tensors"].items()}
    oracle.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    def run(settings):
        (folder / "generation_config.json").write_text(json.dumps(settings))
        model = tf.T5ForConditionalGeneration.from_pretrained(folder).eval()
        return [model.generate(input_ids=torch.tensor([ids]))[0].tolist()[1:] for ids in SOURCE]

    return run


def written():
    every = {
        "max_length": {"max_length": 7, "max_new_tokens": None}, "max_new_tokens": {"max_new_tokens": 4},
        "min_length": {"min_length": 9, "eos_token_id": [1, 33, 8]},
        "min_new_tokens": {"min_new_tokens": 5, "eos_token_id": [1, 33, 8, 46]},
        "num_beams": {"num_beams": 3}, "length_penalty": {"num_beams": 4, "length_penalty": 3.0, "eos_token_id": [1, 8, 33, 46]},
        "early_stopping": {"num_beams": 3, "early_stopping": True, "length_penalty": 2.0, "eos_token_id": [1, 33, 8]},
        "repetition_penalty": {"repetition_penalty": 1.7}, "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.6},
        "no_repeat_ngram_size": {"no_repeat_ngram_size": 2}, "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
        "bad_words_ids": {"bad_words_ids": [[46], [33, 8], [1]]}, "sequence_bias": {"sequence_bias": [[[33], -2.0], [[33, 33], 3.0], [[7], 1.0]]},
        "suppress_tokens": {"suppress_tokens": [46, 33]}, "begin_suppress_tokens": {"begin_suppress_tokens": [46, 33, 1]},
        "forced_bos_token_id": {"forced_bos_token_id": 7}, "forced_eos_token_id": {"forced_eos_token_id": 1, "max_new_tokens": 6},
        "exponential_decay_length_penalty": {"exponential_decay_length_penalty": [3, 1.4], "eos_token_id": [1, 8]},
        "renormalize_logits": {"renormalize_logits": True, "num_beams": 3, "repetition_penalty": 1.7},
        "decoder_start_token_id": {"decoder_start_token_id": [5]}, "bos_token_id": {"decoder_start_token_id": None, "bos_token_id": 9},
        "eos_token_id": {"eos_token_id": [1, 33]},
    }
    with tempfile.TemporaryDirectory() as name:
        run = writer(pathlib.Path(name))
        for key, own in every.items():
            said = {k: v for k, v in {**PLAIN, **own}.items() if v is not None}
            without = {k: v for k, v in {**PLAIN, **own, key: PLAIN.get(key)}.items() if v is not None}
            try:
                plain = run(without)
            except ValueError:  # It cannot be left out.
                plain = None
            add("write", "generation_config.json", key, said, run(said), plain)
        # What is said in several ways, or switches off.
        for key, own in [("eos_token_id", {"eos_token_id": []}), ("no_repeat_ngram_size", {"no_repeat_ngram_size": -1}),
                         ("min_length", {"min_length": 11, "min_new_tokens": 2, "eos_token_id": [1, 46, 33]}),
                         ("min_length", {"min_length": -4, "encoder_no_repeat_ngram_size": -2, "min_new_tokens": -1}),
                         ("min_new_tokens", {"min_new_tokens": 20})]:
            said = {**PLAIN, **own}
            add("write", "generation_config.json", key, said, run(said), None)
        run(PLAIN)
        model = tf.T5ForConditionalGeneration.from_pretrained(name)

    def chances(settings):
        config = tf.GenerationConfig(**{**PLAIN, **settings})
        model._prepare_special_tokens(config, device="cpu")
        if not config.do_sample:
            return [[int(np.argmax(ROW)), 1.0]]
        config = model._prepare_generation_config(config)[0]
        model._prepare_special_tokens(config, device="cpu")
        steps = model._get_logits_processor(config, input_ids_seq_length=1, encoder_input_ids=torch.tensor([[3, 1]]), device="cpu")
        scores = steps(torch.tensor([[0]]), torch.tensor([ROW]))
        shares = torch.softmax(scores.double(), -1)[0]
        return [[i, float(f"{p:.7g}")] for p, i in sorted(((float(p), i) for i, p in enumerate(shares) if p > 0), reverse=True)]

    draws = {"do_sample": {}, "temperature": {"temperature": 0.6}, "top_k": {"top_k": 4}, "top_p": {"top_p": 0.7}, "min_p": {"min_p": 0.2},
             "typical_p": {"typical_p": 0.6}, "epsilon_cutoff": {"epsilon_cutoff": 0.03}, "eta_cutoff": {"eta_cutoff": 0.02}}
    for key, own in draws.items():
        plain = chances({}) if key == "do_sample" else chances({"do_sample": True})
        add("chances", "generation_config.json", key, {**PLAIN, "do_sample": True, **own}, chances({"do_sample": True, **own}), plain)


# Texts that are cut.
TEXTS = [["hello <user> The world, café old-town 中文"], ["the [MASK] <mask>  hello .", "The old <extra_id_7> town ' s"], ["zebra hello <s> a"]]


def rows(folder, texts):
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    out = []
    for text in texts:
        e = tokenizer(*text, truncation=True, return_offsets_mapping=tokenizer.is_fast)
        ids = e["input_ids"]
        row = {"ids": ids, "types": e.get("token_type_ids", [0] * len(ids)), "decoded": tokenizer.decode(ids, skip_special_tokens=True)}
        if tokenizer.is_fast and len(text) == 1:
            at = [len(text[0][:i].encode()) for i in range(len(text[0]) + 1)]
            row["offsets"] = [[at[a], at[b]] for a, b in e["offset_mapping"]]
        out.append(row)
    return out


def cut(base, file, key, content, without=None, texts=TEXTS, more=None, lenient=False):
    """`without`: what the file holds where the key says nothing; the key taken out where it is not given."""
    put = {**(more or {}), file: content}
    if without is None:
        without = {k: v for k, v in content.items() if k != key}
    got = []
    for files in [put, {**(more or {}), file: without}]:
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            lay(folder, {**BASES[base], **files})
            try:
                got.append(rows(folder, texts))
            except Exception:
                if files is put:
                    raise
                got.append(None)
    add("tokens", file, key, texts, got[0], None if lenient else got[1], base, put)


def tokens():
    made = {f["name"]: f["files"] for f in json.loads(gzip.open(ROOT / "crates/data/tests/fixtures/tokenizers/folders.json.gz").read())}
    for name, of in [("bert", "bert-added"), ("bpe", "gpt2"), ("roberta", "roberta"), ("t5", "t5"), ("albert", "albert"), ("deberta-v2", "deberta-v2")]:
        BASES[name] = {n: c for n, c in made[of].items() if n not in ("tokenizer_config.json", "added_tokens.json", "special_tokens_map.json")}
    file, ends = "tokenizer_config.json", {"add_bos_token": True, "add_eos_token": True, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    user = {"content": "<user>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    cut("bert", file, "tokenizer_class", {"tokenizer_class": "DistilBertTokenizer"})
    cut("bpe", file, "bos_token", {**ends, "bos_token": "<mask>"}, ends)
    cut("bpe", file, "eos_token", {**ends, "eos_token": "<mask>"}, ends)
    for name in ["unk_token", "sep_token", "cls_token"]:
        cut("bert", file, name, {name: "[MASK]"})
    cut("bert", file, "pad_token", {"pad_token": "<user>"})
    cut("bert", file, "mask_token", {"mask_token": {**user, "content": "[MASK]", "__type": "AddedToken"}}, texts=[["the [MASK] hello"], ["the <mask>"]])
    cut("bert", file, "additional_special_tokens", {"additional_special_tokens": ["<user>"]})
    cut("bert", file, "extra_special_tokens", {"extra_special_tokens": ["<user>", "zebra"]})
    cut("bert", file, "model_specific_special_tokens", {"model_specific_special_tokens": {"user_token": "<user>"}}, lenient=True)
    cut("bert", file, "added_tokens_decoder", {"added_tokens_decoder": {"89": {"content": "zebra", "special": False}, "90": user}})
    cut("bert", file, "do_lower_case", {"do_lower_case": False})
    cut("bert", file, "strip_accents", {"strip_accents": False})
    cut("bert", file, "tokenize_chinese_chars", {"tokenize_chinese_chars": False})
    cut("albert", file, "keep_accents", {"keep_accents": True})
    cut("deberta-v2", file, "split_by_punct", {"split_by_punct": True})
    cut("roberta", file, "add_prefix_space", {"add_prefix_space": True})
    cut("roberta", file, "trim_offsets", {"trim_offsets": False})
    cut("bpe", file, "add_bos_token", ends)
    cut("bpe", file, "add_eos_token", ends)
    cut("t5", file, "extra_ids", {"extra_ids": 5})
    with tempfile.TemporaryDirectory() as name:
        lay(pathlib.Path(name), BASES["deberta-v2"])
        whole = tf.AutoTokenizer.from_pretrained(name).backend_tokenizer.to_str()
    BASES["deberta-v2-json"] = {"config.json": BASES["deberta-v2"]["config.json"], "tokenizer.json": whole}
    cut("deberta-v2-json", file, "unk_id", {"unk_token": "<none>", "unk_id": 5})
    cut("bert", file, "model_max_length", {"model_max_length": 7})
    cut("bert", file, "max_len", {"max_len": 7}, lenient=True)
    cut("bert", file, "truncation_side", {"truncation_side": "left", "model_max_length": 7})
    cut("bert", file, "model_input_names", {"model_input_names": ["input_ids", "attention_mask"]})
    cut("bert", file, "split_special_tokens", {"split_special_tokens": True}, texts=[["the [MASK] hello [SEP]"]])
    cut("bert", file, "clean_up_tokenization_spaces", {"clean_up_tokenization_spaces": True})
    both = {"clean_up_tokenization_spaces": True, "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": True}
    cut("roberta", file, "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", both)
    file, own = "special_tokens_map.json", {"tokenizer_config.json": {k: v for k, v in ends.items() if k[:3] == "add"}}
    cut("bpe", file, "bos_token", {"bos_token": "<mask>"}, more=own)
    cut("bpe", file, "eos_token", {"eos_token": "<mask>"}, more=own)
    for name in ["unk_token", "sep_token", "cls_token"]:
        cut("bert", file, name, {name: "[MASK]"})
    cut("bert", file, "pad_token", {"pad_token": "<user>"})
    cut("bert", file, "mask_token", {"mask_token": {**user, "content": "[MASK]"}}, texts=[["the [MASK] hello"]])
    cut("bert", file, "additional_special_tokens", {"additional_special_tokens": ["<user>"]})
    cut("bert", file, "extra_special_tokens", {"extra_special_tokens": ["<user>"]}, lenient=True)
    cut("bert", "added_tokens.json", "*", {"<user>": 89}, {})


def stages():
    """The parts of a tokenizer.json and their kinds, each alone in a file that is taken as it is."""
    chars = sorted(set("".join(t for ts in TEXTS for t in ts)) | set("abcdefghijklmnopqrstuvwxyz"))
    vocab = {t: i for i, t in enumerate(["<unk>", "<s>", "</s>", "hello", "the", "world", "old", "▁hello", "▁the", "Ġthe", "##s", "##o", "hell", "cafe",
                                         "café", *chars, *["##" + c for c in "abcdehlortw"], "▁", "Ġ", "Ã", "©", "<0x20>", "_", "<pad>", "1/2"])}
    def file(**parts):
        return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
                "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
                "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}, **parts}
    BASES["file"] = {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"}}
    texts = [["hello <user> The world, café 12  old's."], ["Éo ﬁ½\u0000\u0007 the_hello中", "_hello the"]]

    def one(key, without=None, keep=texts, lenient=False, **parts):
        cut("file", "tokenizer.json", key, file(**parts), file(**(without or {})), keep, lenient=lenient)

    def seq(*list_, name):
        return {"type": "Sequence", name: list(list_)}

    level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    piece = {"type": "WordPiece", "vocab": {t: i for t, i in vocab.items()}, "unk_token": "<unk>", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    letters = {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}
    short = {"max_length": 6, "strategy": "LongestFirst", "stride": 0}
    cut("file", "tokenizer.json", "truncation", file(truncation={"direction": "Left", **short}), file(truncation={"direction": "Right", **short}), texts,
        {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 6}})
    one("padding", padding={"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 200, "pad_type_id": 0, "pad_token": "<user>"}, lenient=True)
    one("added_tokens", added_tokens=[{"id": 500, "content": "<user>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}])
    normal = {
        "BertNormalizer": {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
        "Strip": {"strip_left": True, "strip_right": True}, "StripAccents": {}, "NFC": {}, "NFD": {}, "NFKC": {}, "NFKD": {}, "Lowercase": {}, "Nmt": {},
        "Replace": {"pattern": {"String": "hello"}, "content": "the old"}, "Prepend": {"prepend": "the "}, "ByteLevel": {},
    }
    padded = [["  hello e\u0301 É\u0000\u0007ﬁ café 中the "], ["HELLO the\u200b hello\u0007"]]
    for kind, more in normal.items():
        first = seq({"type": "NFD"}, {"type": "StripAccents"}, name="normalizers") if kind == "StripAccents" else {"type": kind, **more}
        spaces = None if kind == "Strip" else {"type": "CharDelimiterSplit", "delimiter": " "}
        keep = [["  hello "]] if kind == "Strip" else padded
        one(f"normalizer: {kind}", {"pre_tokenizer": spaces}, keep, normalizer=first, pre_tokenizer=spaces)
    one("normalizer: Sequence", keep=padded, normalizer=seq({"type": "Lowercase"}, {"type": "NFD"}, name="normalizers"))
    spm = json.loads(tf.AutoTokenizer.from_pretrained(made_t5()).backend_tokenizer.to_str())
    one("normalizer: Precompiled", keep=padded, normalizer=spm["normalizer"])
    one("normalizer", keep=padded, normalizer={"type": "Lowercase"})
    meta = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    split = {
        "BertPreTokenizer": {}, "ByteLevel": level, "CharDelimiterSplit": {"delimiter": "l"}, "Metaspace": meta, "Whitespace": None,
        "Split": {"pattern": {"String": "l"}, "behavior": "Isolated", "invert": False}, "Punctuation": {"behavior": "Isolated"}, "WhitespaceSplit": {},
        "Digits": {"individual_digits": True}, "UnicodeScripts": {}, "FixedLength": {"length": 3},
    }
    for kind, more in split.items():
        one(f"pre_tokenizer: {kind}", {"pre_tokenizer": None}, pre_tokenizer={"type": kind, **(more or {})})
    one("pre_tokenizer: Sequence", {"pre_tokenizer": None}, pre_tokenizer=seq({"type": "WhitespaceSplit"}, {"type": "Digits", "individual_digits": True}, name="pretokenizers"))
    one("pre_tokenizer", pre_tokenizer=meta)
    bpe = {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
           "byte_fallback": False, "ignore_merges": False, "vocab": {**vocab, "he": 300, "ll": 301}, "merges": [["h", "e"], ["l", "l"], ["he", "ll"]]}
    one("model: BPE", model=bpe)
    one("model: WordPiece", model=piece)
    one("model: WordLevel", {"model": piece}, model=letters)
    one("model: Unigram", model={"type": "Unigram", "unk_id": 0, "byte_fallback": False, "vocab": [[t, -float(len(vocab) - i) / 9] for t, i in vocab.items()]})
    one("model", model=piece)
    ends = {"sep": ["</s>", 2], "cls": ["<s>", 1]}
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    template = {"type": "TemplateProcessing", "single": single, "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
    one("post_processor: RobertaProcessing", post_processor={"type": "RobertaProcessing", **ends, "trim_offsets": True, "add_prefix_space": False})
    one("post_processor: BertProcessing", post_processor={"type": "BertProcessing", **ends})
    flat = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    one("post_processor: ByteLevel", {"pre_tokenizer": flat}, post_processor=flat, pre_tokenizer=flat)
    one("post_processor: TemplateProcessing", post_processor=template)
    one("post_processor: Sequence", post_processor=seq(template, name="processors"))
    one("post_processor", post_processor=template)
    cover = {"pre_tokenizer": {"type": "WhitespaceSplit"}, "model": piece}
    back = [["hello the hells"], ["the hello", "old"]]
    write = {"WordPiece": {"prefix": "##", "cleanup": True}, "Metaspace": meta, "CTC": {"pad_token": "<pad>", "word_delimiter_token": "the", "cleanup": True},
             "Replace": {"pattern": {"String": "hello"}, "content": "Z"}, "Fuse": {}, "Strip": {"content": "h", "start": 1, "stop": 0},
             "BPEDecoder": {"suffix": "o"}, "ByteLevel": level}
    for kind, more in write.items():
        own = {**cover, "pre_tokenizer": meta if kind == "Metaspace" else cover["pre_tokenizer"]}
        one(f"decoder: {kind}", own, back, decoder={"type": kind, **more}, **own)
    one("decoder: ByteFallback", {"pre_tokenizer": {"type": "WhitespaceSplit"}}, [["hello <0x20> the"], ["the", "old"]], decoder={"type": "ByteFallback"},
        pre_tokenizer={"type": "WhitespaceSplit"})
    one("decoder: Sequence", cover, back, decoder=seq({"type": "Replace", "pattern": {"String": "hello"}, "content": "Z"}, {"type": "Fuse"}, name="decoders"), **cover)
    one("decoder", cover, back, decoder={"type": "Fuse"}, **cover)


def made_t5():
    folder = pathlib.Path(tempfile.mkdtemp())
    lay(folder, {**BASES["t5"], "tokenizer_config.json": {"extra_ids": 0}})
    return folder


# Images that are prepared.
PICTURE = "crates/data/tests/fixtures/processors/wide.png"
IMAGE = Image.open(ROOT / PICTURE)


def sampled(out):
    flat = np.asarray(out, dtype="float32").ravel()
    at = np.linspace(0, flat.size - 1, 12).astype(int)
    return {"shape": list(out.shape), "at": at.tolist(), "values": [float(f"{v:.9g}") for v in flat[at]]}


def pixels():
    file = "preprocessor_config.json"

    def prepared(name, doc):
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / name).write_text(json.dumps(doc))
            inner = doc.get("image_processor", doc)
            fast = (inner.get("image_processor_type") or inner.get("feature_extractor_type")).endswith("Fast")
            processor = tf.AutoImageProcessor.from_pretrained(folder, **({} if fast else {"backend": "pil"}))
            return sampled(np.array(processor(IMAGE, return_tensors="np")["pixel_values"][0]))

    vit = {"image_processor_type": "ViTImageProcessor", "size": 20}
    for key, own in {
        "image_processor_type": {"image_processor_type": "BitImageProcessor"}, "do_resize": {"do_resize": False}, "size": {"size": {"height": 18, "width": 25}},
        "default_to_square": {"default_to_square": False}, "resample": {"resample": 3}, "do_center_crop": {"do_center_crop": True, "crop_size": 14},
        "do_rescale": {"do_rescale": False}, "rescale_factor": {"rescale_factor": 0.01}, "do_normalize": {"do_normalize": False},
        "image_mean": {"image_mean": [0.1, 0.2, 0.3]}, "image_std": {"image_std": [0.3, 0.4, 0.2]},
    }.items():
        add("pixels", file, key, PICTURE, prepared(file, {**vit, **own}), prepared(file, vit), put={file: {**vit, **own}})
    bit = {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 24}, "crop_size": 20}
    add("pixels", file, "crop_size", PICTURE, prepared(file, bit), prepared(file, {**bit, "crop_size": 22}), put={file: bit})
    clip = {"image_processor_type": "CLIPImageProcessor", "use_square_size": True, "do_center_crop": False}
    add("pixels", file, "use_square_size", PICTURE, prepared(file, clip), prepared(file, {**clip, "use_square_size": False}), put={file: clip})
    conv = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 24}, "crop_pct": 0.8}
    add("pixels", file, "crop_pct", PICTURE, prepared(file, conv), prepared(file, {**conv, "crop_pct": 0.9}), put={file: conv})
    old = {"feature_extractor_type": "BeitFeatureExtractor", "size": 20}
    add("pixels", file, "feature_extractor_type", PICTURE, prepared(file, old), prepared(file, {**old, "feature_extractor_type": "ViTFeatureExtractor"}), put={file: old})
    both = {"image_processor": {**vit, "resample": 3}, "processor_class": "CLIPProcessor"}
    add("pixels", "processor_config.json", "image_processor", PICTURE, prepared("processor_config.json", both), prepared(file, vit), put={"processor_config.json": both})

    def evaluated(part):
        out = create_transform(**resolve_data_config(pretrained_cfg=part), is_training=False)(IMAGE.convert("RGB"))
        return sampled(out.numpy())

    base = {"input_size": [3, 20, 20], "crop_pct": 0.9}
    for key, own in {"input_size": {"input_size": [3, 24, 24]}, "interpolation": {"interpolation": "bilinear"}, "crop_pct": {"crop_pct": 0.7},
                     "crop_mode": {"crop_mode": "squash"}, "mean": {"mean": [0.1, 0.2, 0.3]}, "std": {"std": [0.3, 0.4, 0.2]}}.items():
        add("pixels", "config.json: pretrained_cfg", key, PICTURE, evaluated({**base, **own}), evaluated(base),
            put={"config.json": {"architecture": "x", "pretrained_cfg": {**base, **own}}})


def models():
    """What timm makes of a checkpoint's own size."""
    args = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
    doc = {"architecture": "swin_tiny_patch4_window7_224", "num_classes": 5, "model_args": args,
           "pretrained_cfg": {"input_size": [3, 224, 224], "fixed_input_size": True, "num_classes": 5}}

    def made(doc):
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "config.json").write_text(json.dumps(doc))
            model = timm.create_model(f"local-dir:{folder}", pretrained=False)
        return {"image": list(model.patch_embed.img_size), "channels": model.patch_embed.proj.in_channels, "classes": model.num_classes,
                "params": sum(p.numel() for p in model.parameters())}

    part = doc["pretrained_cfg"]
    free = {k: v for k, v in doc.items() if k != "num_classes"}
    for file, key, other in [
        ("config.json: pretrained_cfg", "input_size", {**doc, "pretrained_cfg": {**part, "input_size": [1, 112, 112]}}),
        ("config.json: pretrained_cfg", "fixed_input_size", {**doc, "pretrained_cfg": {**part, "input_size": [3, 112, 112]}}),
        ("config.json: pretrained_cfg", "num_classes", {**free, "pretrained_cfg": {**part, "num_classes": 4}}),
        ("config.json of timm", "num_classes", {**doc, "num_classes": 3}),
        ("config.json of timm", "architecture", {**doc, "architecture": "swin_tiny_patch4_window7_224", "model_args": {**args, "depths": [1, 2, 1, 1]}}),
        ("config.json of timm", "model_args", {**doc, "model_args": {**args, "img_size": 112}}),
        ("config.json of timm", "pretrained_cfg", {k: v for k, v in {**doc, **part, "input_size": [3, 112, 112]}.items() if k not in ("pretrained_cfg", "model_args")}),
    ]:
        add("model", file, key, None, made(other), made(doc), put={"config.json": other})


if __name__ == "__main__":
    written()
    tokens()
    stages()
    pixels()
    models()
    assert not SAME, "\n".join(map(str, SAME))
    lines = ",\n".join(json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in CASES)
    bases = json.dumps(BASES, ensure_ascii=False, separators=(",", ":"))
    (HERE / "cases.json").write_text(f'{{"bases":{bases},\n"row":{json.dumps(ROW)},\n"source":{json.dumps(SOURCE)},\n"cases":[\n{lines}\n]}}\n')
    print(len(CASES), "cases,", (HERE / "cases.json").stat().st_size, "bytes")
