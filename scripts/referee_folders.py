"""Folders that `referee.py --random` makes: texts, writers and images. Those of sentence-transformers are in `referee_sentences.py`.

A maker takes an empty folder, a generator of chances and a size; it writes the files beside the weights and gives what it made
(`family/..`) and the model, which the caller fills with random weights and saves.
"""

import dataclasses
import json
import pathlib

import numpy as np
import torch
import transformers as tf

CORPUS = ("The old town lies by the river. Where does it flow? It flows north, slowly, to the sea! hello world, HELLO World; "
          "über café naïve größe 東京 shows 42 ships.\nA cat sat on the mat and looked at the birds. translate English to German").split("\n")


@dataclasses.dataclass
class Size:
    """How large the models are."""
    dim: int = 32
    layers: int = 2
    heads: int = 4
    ff: int = 40
    rows: int = 32
    side: tuple = (32, 48)
    words: int = 120
    text: tuple = tuple(CORPUS)

    def bert(self):
        return dict(hidden_size=self.dim, num_hidden_layers=self.layers, num_attention_heads=self.heads, intermediate_size=self.ff)


SMALL = Size()
BERTLIKE = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert", "electra": "Electra", "albert": "Albert",
            "mpnet": "MPNet", "distilbert": "DistilBert", "modernbert": "ModernBert", "deberta-v2": "DebertaV2", "nomic_bert": "NomicBert"}
HEADS = ["Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"]
MORE_HEADS = {"bert": ["ForPreTraining", "ForNextSentencePrediction"], "electra": ["ForPreTraining"]}
WRITERS = {"t5": "T5", "mt5": "MT5", "bart": "Bart", "marian": "Marian", "switch_transformers": "SwitchTransformers"}
VISION = {"vit": "ViT", "deit": "DeiT", "swin": "Swin", "swinv2": "Swinv2", "pvt_v2": "PvtV2", "dinov2": "Dinov2",
          "dinov2_with_registers": "Dinov2WithRegisters", "beit": "Beit", "convnext": "ConvNext", "clip_vision_model": "CLIPVision",
          "siglip_vision_model": "SiglipVision"}
TIMM = {"timm-swin": "swin_tiny_patch4_window7_224", "timm-swinv2": "swinv2_tiny_window8_256", "timm-pvt_v2": "pvt_v2_b0", "timm-twins": "twins_svt_small",
        "timm-tnt": "tnt_s_patch16_224", "timm-convnext": "convnext_tiny", "timm-crossvit": "crossvit_tiny_240"}
PROCESSORS = ["ViT", "DeiT", "Pvt", "ConvNext", "Bit", "CLIP", "Siglip", "Beit", "Segformer"]
TOKENIZER_OF = {"roberta": "bytes", "xlm-roberta": "xlmr", "camembert": "camembert", "albert": "albert", "deberta-v2": "deberta"}


def put(file, doc):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(doc))


def json_of(path):
    return json.loads(path.read_text()) if path.exists() else {}


def some(rng, choices):
    """One of each list of values, `None` left out."""
    drawn = {key: rng.choice(values) for key, values in choices.items()}
    return {key: value for key, value in drawn.items() if value is not None}


# --- tokenizers ------------------------------------------------------------------------------------------------------------------

def word_pieces(folder, rng, size):
    import tokenizers as tk
    t = tk.BertWordPieceTokenizer(lowercase=rng.random() < 0.7)
    t.train_from_iterator(size.text, vocab_size=size.words, show_progress=False)
    t.save_model(str(folder))
    n = len((folder / "vocab.txt").read_text().splitlines())
    settings = some(rng, {"do_lower_case": [None, True, False], "strip_accents": [None, None, True, False], "tokenize_chinese_chars": [None, None, False],
                          "model_max_length": [None, None, size.rows - 8, 12], "truncation_side": [None, None, "left"],
                          "tokenizer_class": ["BertTokenizer", "BertTokenizer", "BertTokenizerFast"]})
    if rng.random() < 0.15:
        settings["additional_special_tokens"] = ["[SHIP]"]
        with open(folder / "vocab.txt", "a") as f:
            f.write("[SHIP]\n")
        n += 1
    put(folder / "tokenizer_config.json", settings)
    if rng.random() < 0.3:
        put(folder / "added_tokens.json", {"<user>": n, "<url>": n + 1})
        n += 2
    return n


def byte_pairs(folder, rng, size):
    import tokenizers as tk
    t = tk.ByteLevelBPETokenizer()
    t.train_from_iterator(size.text, vocab_size=size.words + 200, show_progress=False, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    t.save_model(str(folder))
    put(folder / "tokenizer_config.json", {"tokenizer_class": rng.choice(["RobertaTokenizer", "RobertaTokenizerFast"])} | some(
        rng, {"add_prefix_space": [None, False, True], "model_max_length": [None, None, size.rows - 8], "trim_offsets": [None, None, False]}))
    return len(json.loads((folder / "vocab.json").read_text()))


PIECES = {
    "t5": ("spiece.model", "T5Tokenizer", dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)),
    "albert": ("spiece.model", "AlbertTokenizer", dict(pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, control_symbols="[CLS],[SEP],[MASK]")),
    "deberta": ("spm.model", "DebertaV2Tokenizer", dict(pad_id=0, bos_id=1, eos_id=2, unk_id=3, bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]",
                                                       pad_piece="[PAD]", user_defined_symbols="[MASK]")),
    "xlmr": ("sentencepiece.bpe.model", "XLMRobertaTokenizer", dict(unk_id=0, bos_id=1, eos_id=2, pad_id=-1)),
    "camembert": ("sentencepiece.bpe.model", "CamembertTokenizer", dict(unk_id=0, bos_id=1, eos_id=2, pad_id=-1)),
    "marian": ("source.spm", "MarianTokenizer", dict(unk_id=0, bos_id=1, eos_id=2, pad_id=-1)),
}


def sentence_pieces(folder, rng, size, kind):
    import sentencepiece as spm
    name, cls, own = PIECES[kind]
    spm.SentencePieceTrainer.train(sentence_iterator=iter(list(size.text) * 20), model_prefix=str(folder / "sp"), vocab_size=max(90, size.words - 30),
                                   hard_vocab_limit=False, minloglevel=2, **own)
    (folder / "sp.model").rename(folder / name)
    words = [line.split("\t")[0] for line in (folder / "sp.vocab").read_text().splitlines()]
    (folder / "sp.vocab").unlink()
    settings = {"tokenizer_class": cls} | some(rng, {"model_max_length": [None, None, size.rows - 8]})
    if kind == "t5":
        settings |= some(rng, {"extra_ids": [0, 0, 4]})
    if kind == "albert":
        settings |= some(rng, {"do_lower_case": [None, False], "keep_accents": [None, True]})
    if kind == "marian":
        (folder / "target.spm").write_bytes((folder / name).read_bytes())
        pieces = ["</s>", "<unk>", *(w for w in words if w not in ("<unk>", "<s>", "</s>")), "<pad>"]
        put(folder / "vocab.json", {w: i for i, w in enumerate(pieces)})
        settings |= {"source_lang": "en", "target_lang": "de"}
    put(folder / "tokenizer_config.json", settings)
    return len(tf.AutoTokenizer.from_pretrained(folder))


def tokenizer_files(folder, kind, rng, size=SMALL):
    """Writes a tokenizer of a kind, as files of old folders or as the reference saves it; -> the size of its vocabulary."""
    if kind == "byt5":
        put(folder / "tokenizer_config.json", {"tokenizer_class": "ByT5Tokenizer"} | some(rng, {"extra_ids": [None, 0, 4]}))
        return 384
    makers = {"wordpiece": word_pieces, "bytes": byte_pairs}
    n = makers[kind](folder, rng, size) if kind in makers else sentence_pieces(folder, rng, size, kind)
    if rng.random() < 0.45:
        # `tokenizer_class` alone may not be enough for the reference to open it: the family's own class is in config.json by then.
        hint = {"wordpiece": "BertTokenizer", "bytes": "RobertaTokenizer"}.get(kind)
        tok = getattr(tf, hint).from_pretrained(folder) if hint else tf.AutoTokenizer.from_pretrained(folder)
        tok.save_pretrained(folder)
        n = max(n, len(tok))
        if rng.random() < 0.5:
            for old in ("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "spm.model", "sentencepiece.bpe.model", "added_tokens.json"):
                (folder / old).unlink(missing_ok=True) if (folder / "tokenizer.json").exists() else None
    return n


# --- texts -----------------------------------------------------------------------------------------------------------------------

def text_folder(folder, rng, size=SMALL, family=None, head=None):
    family = family or rng.choice(list(BERTLIKE))
    if head is None:
        head = rng.choice(HEADS + MORE_HEADS.get(family, []))
    if family == "nomic_bert" and head == "ForQuestionAnswering":
        head = "Model"
    kind = TOKENIZER_OF.get(family, "wordpiece")
    vocab = tokenizer_files(folder, kind, rng, size)
    if family in ("modernbert", "nomic_bert") and kind == "wordpiece" and not (folder / "tokenizer.json").exists():
        # The reference finds no class for vocab.txt alone there.
        tf.BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    more = size.bert()
    if family == "distilbert":
        more = dict(dim=size.dim, n_layers=size.layers, n_heads=size.heads, hidden_dim=size.ff)
        more |= some(rng, {"sinusoidal_pos_embds": [None, True]})
    if family == "albert":
        more |= dict(embedding_size=size.dim // 2) | some(rng, {"num_hidden_groups": [*[None] * 9, 2], "inner_group_num": [*[None] * 9, 2]})
    if family == "electra":
        more |= some(rng, {"embedding_size": [size.dim, size.dim // 2]})
    if family == "deberta-v2" and rng.random() < 0.95:
        more.update(relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=rng.random() < 0.5,
                    position_biased_input=False, type_vocab_size=0)
    if family == "modernbert":
        more.update(global_attn_every_n_layers=2, local_attention=8, pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3)
        more |= some(rng, {"classifier_pooling": [None, "mean", "cls"], "norm_bias": [None, True], "attention_bias": [None, True], "decoder_bias": [None, None, None, False] if size is SMALL else [None]})
    if family in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        more |= dict(max_position_embeddings=size.rows + 2, pad_token_id=1)
    else:
        more["max_position_embeddings"] = size.rows
    if head == "ForSequenceClassification":
        more |= dict(num_labels=rng.choice([1, 2, 3, 7])) | some(
            rng, {"problem_type": [None, None, "regression", "multi_label_classification", "single_label_classification"]})
    if head == "ForTokenClassification":
        more["num_labels"] = rng.choice([3, 5])
    if more.get("problem_type") == "single_label_classification" and more["num_labels"] == 1:
        del more["problem_type"]
    if "num_labels" in more and rng.random() < 0.4:
        names = ["O", "B-town", "I-town", "positive", "NEGATIVE", "größe", "LABEL_9"][:more.pop("num_labels")]
        more |= dict(id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)})
    if head == "ForMaskedLM" and rng.random() < 0.3:
        more["tie_word_embeddings"] = False
    if rng.random() < 0.3 and family not in ("distilbert", "modernbert", "nomic_bert"):
        more["hidden_act"] = rng.choice(["relu", "gelu_new", "silu", "gelu_pytorch_tanh"])
    if rng.random() < 0.2 and family not in ("distilbert", "modernbert"):
        more["layer_norm_eps"] = 1e-3
    config = getattr(tf, BERTLIKE[family] + "Config")(vocab_size=max(vocab, 8), **more)
    cls = getattr(tf, BERTLIKE[family] + head)
    if head == "Model" and family in ("bert", "roberta", "albert", "xlm-roberta") and rng.random() < 0.4:
        return f"{family}/{head}/{kind}", cls(config, add_pooling_layer=False)
    return f"{family}/{head}/{kind}", cls(config)


# --- writers ---------------------------------------------------------------------------------------------------------------------

def rules(rng, words):
    """What generation_config.json says."""
    own = some(rng, {
        "no_repeat_ngram_size": [None, None, 2, 3], "repetition_penalty": [None, None, 1.5, 0.8], "num_beams": [1, 1, 2, 4], "min_length": [None, None, 6],
        "max_length": [None, 9, 14], "max_new_tokens": [None, None, 7], "min_new_tokens": [None, None, None, 5], "suppress_tokens": [None, None, [4, 9]],
        "begin_suppress_tokens": [None, None, [3, 11]], "bad_words_ids": [None, None, [[7], [5, 6]]], "forced_bos_token_id": [None, None, 8],
        "forced_eos_token_id": [None, None, 1], "encoder_repetition_penalty": [None, None, None, 1.4], "encoder_no_repeat_ngram_size": [None, None, None, 2],
        "exponential_decay_length_penalty": [None, None, None, [3, 1.3]], "sequence_bias": [None, None, None, [[[12], 4.0], [[5, 6], -3.0]]],
        "eos_token_id": [None, None, None, [1, min(20, words - 1)]]})
    if own["num_beams"] > 1:
        own |= some(rng, {"length_penalty": [None, 0.5, 2.0, -1.0], "early_stopping": [None, True, "never"]})
    elif rng.random() < 0.35:
        own |= dict(do_sample=True) | some(rng, {
            "temperature": [None, 0.7, 1.6], "top_k": [None, 0, 5, 1], "top_p": [None, None, 0.8], "min_p": [None, None, 0.1], "typical_p": [None, None, 0.7],
            "epsilon_cutoff": [None, None, 0.02], "eta_cutoff": [None, None, 0.05]})
    return own


def writer_folder(folder, rng, size=SMALL, family=None):
    family = family or rng.choice(list(WRITERS))
    kind = {"bart": "bytes", "marian": rng.choice(["marian", *["t5"] * 5]), "t5": rng.choice(["t5", "t5", "byt5"])}.get(family, "t5")
    vocab = tokenizer_files(folder, kind, rng, size)
    dim, layers, heads, ff = size.dim, size.layers, size.heads, size.ff
    if family in ("bart", "marian"):
        if family == "marian" and kind == "t5":
            # The reference's MarianTokenizer is none of `tokenizers`; folders with a tokenizer.json name the plain class.
            tf.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
            put(folder / "tokenizer_config.json", json_of(folder / "tokenizer_config.json") | {"tokenizer_class": "PreTrainedTokenizerFast"})
            (folder / "spiece.model").unlink(missing_ok=True)
        if family == "bart":
            settings = json_of(folder / "tokenizer_config.json")
            put(folder / "tokenizer_config.json", settings | {"tokenizer_class": settings["tokenizer_class"].replace("Roberta", "Bart")})
        pad, end = (vocab - 1, 0) if kind == "marian" else (0, 1)
        special = {"bart": {}, "marian": dict(pad_token_id=pad, decoder_start_token_id=pad, eos_token_id=end, forced_eos_token_id=end)}[family]
        config = getattr(tf, WRITERS[family] + "Config")(
            vocab_size=vocab, d_model=dim, encoder_layers=layers, decoder_layers=layers, encoder_attention_heads=heads, decoder_attention_heads=heads,
            encoder_ffn_dim=ff, decoder_ffn_dim=ff, max_position_embeddings=2 * size.rows, scale_embedding=rng.random() < 0.5,
            activation_function=rng.choice(["gelu", "relu", "swish"]), **special)
        model = getattr(tf, {"bart": "BartForConditionalGeneration", "marian": "MarianMTModel"}[family])(config)
    else:
        own = dict(num_sparse_encoder_layers=1, num_sparse_decoder_layers=1, num_decoder_layers=layers, num_experts=4, expert_capacity=1000) if family == "switch_transformers" else {}
        config = getattr(tf, WRITERS[family] + "Config")(
            vocab_size=vocab, d_model=dim, d_kv=dim // heads, d_ff=ff, num_layers=layers, num_heads=heads, decoder_start_token_id=0,
            feed_forward_proj="relu" if own else rng.choice(["relu", "gated-gelu", "gated-silu"]), relative_attention_num_buckets=8,
            relative_attention_max_distance=16, tie_word_embeddings=size is not SMALL or rng.random() < (0.9 if own else 0.6), **own)
        model = getattr(tf, WRITERS[family] + "ForConditionalGeneration")(config)
    if size is SMALL:
        for key, value in rules(rng, vocab).items():
            setattr(model.generation_config, key, value)
    return f"{family}/{kind}", model


# --- images ----------------------------------------------------------------------------------------------------------------------

def processor(rng, side, free):
    """A preprocessor_config.json whose pictures have the model's side (any size where the model is free)."""
    kind = rng.choice(PROCESSORS)
    own = {"image_processor_type": kind + rng.choice(["ImageProcessor", "ImageProcessorFast"])}
    if kind in ("ViT", "DeiT", "CLIP", "Beit", "ConvNext", "Segformer") and rng.random() < 0.25:
        own = {"feature_extractor_type": kind + "FeatureExtractor"}
    square = {"height": side, "width": side}
    if kind in ("Bit", "CLIP"):
        own |= dict(size={"shortest_edge": side + rng.choice([0, 7])}, crop_size=square)
        if free and rng.random() < 0.3:
            own["do_center_crop"] = False
    elif kind == "ConvNext":
        own |= dict(size={"shortest_edge": side}) | some(rng, {"crop_pct": [None, 0.875, 0.5]})
    elif kind in ("DeiT", "Beit"):
        bigger = side + rng.choice([0, 9])
        own |= dict(size={"height": bigger, "width": bigger}, crop_size=square, do_center_crop=True)
    else:
        own |= dict(size=rng.choice([square, square, side]) if kind != "Siglip" else square)
    own |= some(rng, {
        "do_normalize": [None, True, False], "image_mean": [None, [0.5, 0.4, 0.6]], "image_std": [None, [0.2, 0.3, 0.25]], "resample": [None, 0, 1, 2, 3],
        "do_rescale": [None, None, None, False], "rescale_factor": [None, None, 1 / 127.5], "do_convert_rgb": [None, True], "do_resize": [None, True],
        "do_reduce_labels": [None, None, False, True] if kind in ("Beit", "Segformer") else [None]})
    return own


def vision_model(family, rng, size, side, cls):
    name = VISION[family]
    dim, layers, heads, ff = size.dim, size.layers, size.heads, size.ff
    labels = rng.choice([2, 7])
    act = some(rng, {"hidden_act": [None, None, "gelu_new", "relu"]})
    if family in ("pvt_v2", "convnext"):
        more = dict(image_size=side, num_labels=labels, depths=[1, 1, layers, 1], hidden_sizes=[dim // 4, dim // 2, 3 * dim // 4, dim])
        if family == "pvt_v2":
            more |= dict(num_encoder_blocks=4, depths=[1] * 4, sr_ratios=[4, 2, 1, 1], num_attention_heads=[1, 2, 2, 4], linear_attention=rng.random() < 0.3)
    elif family in ("swin", "swinv2"):
        more = dict(image_size=side, patch_size=4, embed_dim=dim // 2, depths=[2, layers], num_heads=[2, 4], window_size=4, num_labels=labels,
                    qkv_bias=rng.random() < 0.7, use_absolute_embeddings=rng.random() < 0.3)
        if family == "swinv2":
            more |= some(rng, {"pretrained_window_sizes": [None, [2, 2]]})
    else:
        more = dict(image_size=side, patch_size=8 if side < 100 else 16, hidden_size=dim, num_hidden_layers=layers, num_attention_heads=heads) | act
        if family.startswith("dinov2"):
            more |= dict(mlp_ratio=2, use_swiglu_ffn=rng.random() < 0.4, num_labels=labels)
        else:
            more["intermediate_size"] = ff
        if family in ("vit", "deit", "beit"):
            more["num_labels"] = labels
        if family in ("vit", "deit"):
            more |= some(rng, {"qkv_bias": [None, False]})
        if family == "beit":
            more |= some(rng, {"use_relative_position_bias": [None, True], "use_shared_relative_position_bias": [None, None, True],
                               "use_absolute_position_embeddings": [None, True], "use_mean_pooling": [None, False]})
    config = getattr(tf, name + "Config")(**more)
    return getattr(tf, name + cls)(config)


def vision_folder(folder, rng, size=SMALL, family=None, cls=None):
    family = family or rng.choice(list(VISION))
    side = rng.choice(size.side)
    heads = {"clip_vision_model": ["Model", "ModelWithProjection"], "siglip_vision_model": ["Model"], "deit": [
        "Model", "ForImageClassification", "ForImageClassificationWithTeacher"]}.get(family, ["Model", "ForImageClassification"])
    cls = cls or rng.choice(heads)
    model = vision_model(family, rng, size, side, cls if cls in heads else heads[-1])
    own = processor(rng, side, family in ("pvt_v2", "convnext", "swin", "swinv2"))
    put(folder / "preprocessor_config.json", own)
    return f"{family}/{type(model).__name__}/{next(iter(own.values()))}", model


def timm_folder(folder, rng, size=SMALL, family=None):
    """timm's own layout: the model is made by its registry."""
    import timm
    family = family or rng.choice(list(TIMM))
    args = {"num_classes": rng.choice([3, 7])}
    side = {"timm-crossvit": 240, "timm-swinv2": 256}.get(family, 224)
    if family in ("timm-swin", "timm-swinv2"):
        side = rng.choice([64, 128])
        args |= dict(img_size=side, window_size=4, embed_dim=32, depths=[1, 2, 1, 1], num_heads=[1, 2, 4, 8])
    if family == "timm-convnext":
        side = rng.choice([64, 96])
        args |= dict(depths=[1, 1, 2, 1], dims=[16, 24, 32, 40])
    if family == "timm-pvt_v2":
        side = rng.choice([64, 96])
        args |= dict(depths=[1, 1, 1, 1], embed_dims=[16, 32, 40, 48])
    if family == "timm-twins":
        side = rng.choice([64, 128])
        args |= dict(img_size=side, depths=[1, 1, 2, 1], embed_dims=[16, 32, 64, 64], num_heads=[1, 2, 4, 4])
    if family == "timm-tnt":
        side = 64
        args |= dict(img_size=64, depth=2, embed_dim=48, inner_dim=12, num_heads_inner=4, num_heads_outer=4)
    model = timm.create_model(TIMM[family], **args).eval()
    model.pretrained_cfg |= {"input_size": (3, side, side), "num_classes": args["num_classes"]} | some(rng, {
        "crop_pct": [None, 1.0, 0.9], "interpolation": [None, "bicubic", "bilinear"], "crop_mode": [None, "center", "squash", "squash", *(["border"] if rng.random() < 0.2 else [])],
        "mean": [None, (0.5, 0.4, 0.6)]})
    timm.models._hub.save_config_for_hf(model, str(folder / "config.json"), model_args=args)
    return family, model


def save(model, folder, rng):
    """Saves it as people do: in one file or in shards, in single or half precision."""
    if hasattr(model, "save_pretrained"):
        dtype = rng.choice([torch.float32, torch.float32, torch.float32, torch.float16, torch.bfloat16])
        return model.to(dtype).save_pretrained(folder, **some(rng, {"max_shard_size": [None, None, None, "60KB"]}))
    from safetensors.torch import save_file
    return save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors", metadata={"format": "pt"})


def randomise(model, seed):
    """Weights large enough that a wrong setting shows."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            fan = p[0].numel() if p.dim() > 1 else 1
            scale = min(0.3, 1.7 / fan ** 0.5) if p.dim() > 1 else 0.1
            # T5 and its kin do not divide scores by the width of a head.
            scale *= 0.2 if name.endswith("Attention.q.weight") else 1.0
            is_scale = p.dim() == 1 and name.endswith("weight") and ("norm" in name.lower() or "layernorm" in name.lower() or ".bn" in name)
            p.copy_(torch.randn(p.shape, generator=g) * scale + (1.0 if is_scale else 0.0))


def pictures(folder, rng, n=3):
    """Pictures of random sizes, kinds and formats, outside the model's folder."""
    from PIL import Image
    own, all_of = np.random.default_rng(rng.getrandbits(32)), []
    for i in range(n):
        w, h = rng.choice([(64, 48), (40, 90), (rng.randint(9, 320), rng.randint(9, 320)), (rng.randint(9, 640), rng.randint(30, 200))])
        small = own.integers(0, 255, (rng.randint(2, 9), rng.randint(2, 9), 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((w, h), Image.BICUBIC)
        mode, ending = rng.choice([("RGB", "png"), ("RGB", "jpg"), ("L", "png"), ("RGBA", "png"), ("P", "png"), ("RGB", "webp"), ("RGB", "bmp"), ("L", "jpg")])
        path = pathlib.Path(f"{folder}-picture-{i}.{ending}")
        picture.convert(mode).save(path)
        all_of.append(path)
    return all_of
