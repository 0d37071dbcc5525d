"""Folders of sentence-transformers (dense and sparse): every module, order of modules and layout, opened by
sentence-transformers itself from files that are written here, and what it makes of a few texts.

`base/` holds the Transformer that all cases share (a BERT with its pre-training heads, weights seeded by name);
`cases.json` what each case adds to it, and the embeddings.
"""
import json
import pathlib
import shutil
import sys
import tempfile
import warnings

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import numpy as np
import torch
import oracle as o
from sentence_transformers import SentenceTransformer, SparseEncoder
from transformers import BertConfig, BertForPreTraining, BertTokenizerFast

warnings.filterwarnings("ignore")
HERE = o.ROOT / "sentence_transformers"
BASE = HERE / "base"
DIM = 12
WORDS = ("the a cat dog sat on mat runs where is what river query : ##s ##ing Hello World h ##ello w ##orld o ##ld t ##own "
         "search _ document . , ?").split()
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(WORDS)]
TEXTS = ["the cat sat on the mat .", "where is the river ?", "Hello World", "a", "", "dog [SEP] runs"]


def put(path, doc):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(doc, indent=1) + "\n")


def make_base():
    shutil.rmtree(BASE, ignore_errors=True)
    BASE.mkdir()
    config = BertConfig(vocab_size=len(VOCAB), hidden_size=DIM, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=16, max_position_embeddings=24)
    model = BertForPreTraining(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.from_numpy(o.seeded(name, tuple(p.shape))))
    model.save_pretrained(BASE)
    # What most published encoders say of themselves: they were trained to guess words.
    config = json.loads((BASE / "config.json").read_text())
    put(BASE / "config.json", config | {"architectures": ["BertForMaskedLM"]})
    with tempfile.TemporaryDirectory() as temp:
        vocab = pathlib.Path(temp) / "vocab.txt"
        vocab.write_text("".join(w + "\n" for w in VOCAB))
        tokenizer = BertTokenizerFast(str(vocab), do_lower_case=False, model_max_length=20)
    tokenizer.backend_tokenizer.save(str(BASE / "tokenizer.json"))
    put(BASE / "tokenizer_config.json", {
        "tokenizer_class": "BertTokenizer", "do_lower_case": False, "model_max_length": 20, "cls_token": "[CLS]",
        "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"})


OLD = "sentence_transformers.models."
NEW = {
    "Transformer": "sentence_transformers.base.modules.transformer.",
    "MLMTransformer": "sentence_transformers.sparse_encoder.models.",
    "SpladePooling": "sentence_transformers.sparse_encoder.modules.splade_pooling.",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.",
    "Dense": "sentence_transformers.base.modules.dense.",
    "Normalize": "sentence_transformers.base.modules.normalize.",
    "LayerNorm": "sentence_transformers.sentence_transformer.modules.layer_norm.",
    "Dropout": "sentence_transformers.sentence_transformer.modules.dropout.",
}


def modules(*kinds, old=False, first=""):
    names = [k.split("@")[0] for k in kinds]
    paths = [first if i == 0 else f"{i}_{name}" for i, name in enumerate(names)]
    kind = [(OLD if old else NEW[n]) + n for n in names]
    return [{"idx": i, "name": str(i), "path": p, "type": k} for i, (p, k) in enumerate(zip(paths, kind))]


def pooling(mode, **more):
    return {"embedding_dimension": DIM, "pooling_mode": mode, "include_prompt": True} | more


def flags(*on):
    names = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    return {"word_embedding_dimension": DIM} | {f"pooling_mode_{n}": n in on for n in names}


def tensor(name, shape):
    """Few digits, exact in f32."""
    return np.round(o.uniform(f"sentences.{name}", shape) * 64) / 64


def dense(name, n, out, act="torch.nn.modules.activation.Tanh", bias=True, residual=False, **more):
    config = {"in_features": n, "out_features": out, "bias": bias, "activation_function": act} | more
    weights = {"linear.weight": tensor(name + ".w", (out, n))}
    if bias:
        weights["linear.bias"] = tensor(name + ".b", (out,))
    if residual:
        config["use_residual"] = True
        if n != out:
            weights["residual.weight"] = tensor(name + ".r", (out, n))
    return config, weights


def short(x):
    """Numbers to seven digits, which say all that single precision holds."""
    return [short(y) for y in x] if isinstance(x, list) else float(f"{x:.7g}")


CASES = []


def case(name, mods, configs, asks=({},), prefix="", **more):
    """`configs`: settings by path, or settings with weights."""
    files, weights = {"modules.json": mods}, {}
    for path, config in configs.items():
        if isinstance(config, tuple):
            config, tensors = config
            weights[path.replace("config.json", "model.safetensors")] = tensors
        files[path] = config
    sparse = mods[-1]["type"].endswith("SpladePooling")
    with tempfile.TemporaryDirectory() as temp:
        root = pathlib.Path(temp) / "m"
        shutil.copytree(BASE, root / prefix)
        for path, doc in files.items():
            put(root / path, doc)
        for path, tensors in weights.items():
            o.save_file({k: v.astype(np.float32) for k, v in tensors.items()}, str(root / path))
        model = (SparseEncoder if sparse else SentenceTransformer)(str(root), device="cpu")
        answers = []
        for ask in asks:
            kw = {"truncate_dim" if k == "dim" else k: v for k, v in ask.items()}
            texts = more.get("texts", TEXTS)
            got = model.encode(texts, convert_to_tensor=True, **kw)
            one = {"ask": ask, "similarity": short(model.similarity(got, got)[0].tolist())}
            if sparse:
                vocab = model.tokenizer.convert_ids_to_tokens
                one["sparse"] = [{vocab(i): short(w) for i, w in enumerate(row) if w} for row in got.to_dense().tolist()]
            else:
                one["embeddings"] = short(got.tolist())
            answers.append(one)
    CASES.append({
        "name": name, "prefix": prefix, "texts": more.get("texts", TEXTS), "files": files,
        "tensors": {p: {k: {"shape": list(v.shape), "values": v.ravel().tolist()} for k, v in t.items()}
                    for p, t in weights.items()},
        "similarity": model.similarity_fn_name, "answers": answers})
    print(name, len(answers))


make_base()
P = "1_Pooling/config.json"
TWO = modules("Transformer", "Pooling")
for mode in ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"):
    case(f"pooling {mode}", TWO, {P: pooling(mode)})
case("pooling of several, in their order", TWO, {P: pooling(["mean", "cls", "max"])})
case("pooling by old flags", modules("Transformer", "Pooling", old=True),
     {P: flags("lasttoken", "mean_tokens", "cls_token")})
case("pooling by old flags, one of a few", modules("Transformer", "Pooling", old=True),
     {P: {"word_embedding_dimension": DIM, "pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": False}})
case("pooling by old flags, none on", modules("Transformer", "Pooling", old=True), {P: flags()})
case("pooling named and by flags", TWO, {P: flags("max_tokens") | {"pooling_mode": "cls"}})
case("pooling that names nothing", TWO, {P: {"embedding_dimension": DIM}})

ACT = "torch.nn.modules.activation."
D = "2_Dense/config.json"
THREE = modules("Transformer", "Pooling", "Dense")
case("dense as published", THREE, {
    P: pooling("mean"), D: dense("a", DIM, 8, module_input_name="sentence_embedding",
                                 module_output_name="sentence_embedding")})
for act in ("GELU", "ReLU", "Sigmoid", "SiLU", "ELU", "LeakyReLU", "ReLU6", "Mish", "Softplus"):
    case(f"dense {act}", THREE, {P: pooling("mean"), D: dense("a", DIM, 8, ACT + act)})
case("dense Identity, no bias", THREE,
     {P: pooling("mean"), D: dense("a", DIM, 8, "torch.nn.modules.linear.Identity", bias=False)})
config, weights = dense("a", DIM, 8)
del config["activation_function"], config["bias"]
case("dense that names no activation", THREE, {P: pooling("mean"), D: (config, weights)})
case("dense with a residual", THREE, {P: pooling("mean"), D: dense("b", DIM, DIM, "torch.nn.GELU", residual=True)})
case("dense with a projected residual", THREE, {P: pooling("mean"), D: dense("b", DIM, 8, residual=True)})
case("dense, then length one", modules("Transformer", "Pooling", "Dense", "Normalize"),
     {P: pooling("mean"), D: dense("a", DIM, 8)})
case("length one, then dense twice", modules("Transformer", "Pooling", "Normalize", "Dense", "Dense"),
     {P: pooling(["cls", "max"]), "3_Dense/config.json": dense("c", 2 * DIM, 9),
      "4_Dense/config.json": dense("d", 9, 5, "torch.nn.modules.linear.Identity")})
case("layer norm and dropout, old layout", modules("Transformer", "Pooling", "LayerNorm", "Dropout", old=True), {
    P: flags("mean_tokens"), "3_Dropout/config.json": {"dropout": 0.5},
    "2_LayerNorm/config.json": ({"dimension": DIM}, {"norm.weight": tensor("n.w", (DIM,)), "norm.bias": tensor("n.b", (DIM,))})})
case("length one before pooling", modules("Transformer", "Normalize", "Pooling"), {"2_Pooling/config.json": pooling("mean")})

B = "sentence_bert_config.json"
case("lower-cased", TWO, {P: pooling("mean"), B: {"max_seq_length": 20, "do_lower_case": True}},
     texts=TEXTS + ["HELLO WORLD [MASK] \u0130 \u03a3\u03a3"])
case("cut at six tokens", TWO, {P: pooling("lasttoken"), B: {"max_seq_length": 6, "do_lower_case": False}})
case("a longer cut than the tokenizer's", TWO, {P: pooling("lasttoken"), B: {"max_seq_length": 22}},
     texts=["the cat sat on the mat . " * 5])
case("settings of RoBERTa's name", TWO, {P: pooling("max"), "sentence_roberta_config.json": {"max_seq_length": 5, "do_lower_case": True}})
case("settings of today", TWO, {P: pooling("mean"), B: {
    "transformer_task": "feature-extraction", "module_output_name": "token_embeddings", "unpad_inputs": False,
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}, "max_seq_length": 7}})
case("Transformer in a folder of its own", modules("Transformer", "Pooling", old=True, first="0_Transformer"), {
    P: flags("mean_tokens"), "0_Transformer/" + B: {"max_seq_length": 8, "do_lower_case": True}}, prefix="0_Transformer")

C = "config_sentence_transformers.json"
PROMPTS = {"query": "search : ", "passage": "a ", "document": None}
ASKS = ({}, {"prompt_name": "query"}, {"prompt_name": "document"}, {"prompt": "the dog sat on :"}, {"dim": 5},
        {"prompt_name": "passage", "dim": 100})
case("prompts", TWO, {P: pooling("mean"), C: {"prompts": PROMPTS}}, ASKS)
case("prompts that nobody names", TWO, {P: pooling("mean")}, ({"prompt_name": "query"}, {"prompt": "the dog "}))
for mode in ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"):
    case(f"prompt left out of {mode}", TWO, {P: pooling(mode, include_prompt=False), C: {"prompts": PROMPTS}},
         ASKS + ({"prompt": "the"}, {"prompt": "the cat sat on the mat where is the river ? a dog runs on the mat :"}))
case("a default prompt", TWO, {P: pooling("mean", include_prompt=False), C: {
    "prompts": PROMPTS, "default_prompt_name": "query", "similarity_fn_name": "dot"}}, ({}, {"prompt": ""}, {"prompt_name": "passage"}))
case("cut embeddings", modules("Transformer", "Pooling", "Normalize"), {P: pooling("mean"), C: {
    "truncate_dim": 7, "similarity_fn_name": "euclidean", "prompts": {}}}, ({}, {"dim": 3}, {"dim": 9}))
case("manhattan", TWO, {P: pooling("cls"), C: {"similarity_fn_name": "manhattan", "model_type": "SentenceTransformer"}})

S = "1_SpladePooling/config.json"
SPARSE = {"model_type": "SparseEncoder", "prompts": PROMPTS, "similarity_fn_name": None}
for strategy in ("max", "sum"):
    for act in ("relu", "log1p_relu"):
        case(f"splade {strategy} {act}", modules("MLMTransformer", "SpladePooling"), {
            S: {"pooling_strategy": strategy, "activation_function": act, "word_embedding_dimension": None}, C: SPARSE},
            ({}, {"prompt_name": "query"}))
case("splade of today", modules("Transformer", "SpladePooling"), {
    S: {"embedding_dimension": len(VOCAB)}, C: SPARSE | {"similarity_fn_name": "cosine"}, B: {
        "transformer_task": "fill-mask", "module_output_name": "token_embeddings",
        "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}}}})
(HERE / "cases.json").write_text("[\n" + ",\n".join(json.dumps(c) for c in CASES) + "\n]\n")
print(len(CASES), "cases", (HERE / "cases.json").stat().st_size, "bytes")
