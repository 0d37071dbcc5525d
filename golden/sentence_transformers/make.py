"""Folders of sentence-transformers (dense, sparse, vectors of tokens): every module, order of modules and layout, opened by
sentence-transformers itself from files that are written here, and what it makes of a few texts.

`base/` holds the Transformer that all cases share (a BERT with its pre-training heads, weights seeded by name);
`cases.json` what each case adds to it, and the embeddings; `tokens.json` the same for vectors of tokens (its own layout, PyLate's
and ColBERT's); `m3/` a folder of BGE-M3's layout with its three embeddings and their scores, computed here as FlagEmbedding
defines them.
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
from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder
from transformers import BertConfig, BertForPreTraining, BertTokenizerFast

warnings.filterwarnings("ignore")
HERE = o.ROOT / "sentence_transformers"
BASE = HERE / "base"
DIM = 12
WORDS = ("the a cat dog sat on mat runs where is what river query : ##s ##ing Hello World h ##ello w ##orld o ##ld t ##own "
         "search _ document . , ?").split()
MARKS = [f"[unused{i}]" for i in range(4)]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *MARKS, *dict.fromkeys(WORDS)]
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
    "MultiVectorMask": "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.",
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


def parts(mods, configs):
    """Files and weights of a case. `configs`: settings by path, or settings with weights."""
    files, weights = {"modules.json": mods} if mods else {}, {}
    for path, config in configs.items():
        if isinstance(config, tuple):
            config, tensors = config
            weights[path.replace("config.json", "model.safetensors")] = tensors
        files[path] = config
    return files, weights


def publish(root, prefix, files, weights):
    """The folder of a case. Tensors of a file that the base has are added to its own."""
    shutil.copytree(BASE, root / prefix)
    for path, doc in files.items():
        put(root / path, doc)
    for path, tensors in weights.items():
        own = o.load_file(str(root / path)) if (root / path).exists() else {}
        o.save_file(own | {k: v.astype(np.float32) for k, v in tensors.items()}, str(root / path))


def stored(weights):
    return {p: {k: {"shape": list(v.shape), "values": v.ravel().tolist()} for k, v in t.items()} for p, t in weights.items()}


def case(name, mods, configs, asks=({},), prefix="", **more):
    files, weights = parts(mods, configs)
    sparse = mods[-1]["type"].endswith("SpladePooling")
    with tempfile.TemporaryDirectory() as temp:
        root = pathlib.Path(temp) / "m"
        publish(root, prefix, files, weights)
        model = (SparseEncoder if sparse else SentenceTransformer)(str(root), device="cpu")
        answers = []
        for ask in asks:
            kw = {"truncate_dim" if k == "dim" else k: v for k, v in ask.items()}
            texts = more.get("texts", TEXTS)
            task = kw.pop("task", None)
            encode = {"query": model.encode_query, "document": model.encode_document, None: model.encode}[task]
            got = encode(texts, convert_to_tensor=True, **kw)
            one = {"ask": ask, "similarity": short(model.similarity(got, got)[0].tolist())}
            if sparse:
                vocab = model.tokenizer.convert_ids_to_tokens
                one["sparse"] = [{vocab(i): short(w) for i, w in enumerate(row) if w} for row in got.to_dense().tolist()]
            else:
                one["embeddings"] = short(got.tolist())
            answers.append(one)
    CASES.append({
        "name": name, "prefix": prefix, "texts": more.get("texts", TEXTS), "files": files,
        "tensors": stored(weights), "similarity": model.similarity_fn_name, "answers": answers})
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
case("lengths of tasks", TWO, {P: pooling("mean"), B: {"max_seq_length": 9, "query_length": 4, "document_length": 6}},
     ({}, {"task": "query"}, {"task": "document"}))
case("Transformer in a folder of its own", modules("Transformer", "Pooling", old=True, first="0_Transformer"), {
    P: flags("mean_tokens"), "0_Transformer/" + B: {"max_seq_length": 8, "do_lower_case": True}}, prefix="0_Transformer")

C = "config_sentence_transformers.json"
PROMPTS = {"query": "search : ", "passage": "a ", "document": None}
ASKS = ({}, {"prompt_name": "query"}, {"prompt_name": "document"}, {"prompt": "the dog sat on :"}, {"dim": 5},
        {"prompt_name": "passage", "dim": DIM}, {"task": "query"}, {"task": "document"}, {"task": "query", "prompt": "a "})
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
            ({}, {"prompt_name": "query"}, {"max_active_dims": 3}))
case("splade cut", modules("MLMTransformer", "SpladePooling"), {S: {}, C: SPARSE | {"max_active_dims": 5}}, ({}, {"max_active_dims": 2}))
case("splade of today", modules("Transformer", "SpladePooling"), {
    S: {"embedding_dimension": len(VOCAB)}, C: SPARSE | {"similarity_fn_name": "cosine"}, B: {
        "transformer_task": "fill-mask", "module_output_name": "token_embeddings",
        "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}}}})
(HERE / "cases.json").write_text("[\n" + ",\n".join(json.dumps(c) for c in CASES) + "\n]\n")
print(len(CASES), "cases", (HERE / "cases.json").stat().st_size, "bytes")

TOKENS = []
LATE = ["Where is the river , Hello ?", "the", "the dog runs , where a cat sat on the mat , is what the query is : a [MASK] ."]
DOCUMENTS = ["the cat sat on the mat .", "a dog , a cat ; Hello World .", "", "the river runs where the town is ? " * 4]


def late(name, mods, configs, prefix="", asks=({"task": "query"}, {"task": "document"}, {"task": "query", "prompt": "a dog "})):
    """Vectors of tokens, and the scores of documents for each text."""
    files, weights = parts(mods, configs)
    with tempfile.TemporaryDirectory() as temp:
        root = pathlib.Path(temp) / "m"
        publish(root, prefix, files, weights)
        model = MultiVectorEncoder(str(root), device="cpu")
        answers = []
        for ask in asks:
            kw = dict(ask)
            encode = {"query": model.encode_query, "document": model.encode_document}[kw.pop("task")]
            answers.append({"ask": ask, "embeddings": [short(v.tolist()) for v in encode(LATE, **kw)]})
        scores = model.similarity(model.encode_query(LATE), model.encode_document(DOCUMENTS)).tolist()
    TOKENS.append({"name": name, "prefix": prefix, "texts": LATE, "documents": DOCUMENTS, "files": files, "tensors": stored(weights),
                   "similarity": model.similarity_fn_name, "answers": answers, "scores": short(scores)})
    print(name, [len(v) for v in answers[0]["embeddings"]], [len(v) for v in answers[1]["embeddings"]])


IDENTITY = "torch.nn.modules.linear.Identity"
PROJECTION = dense("late", DIM, 6, IDENTITY, bias=False)
NAMED = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
PYLATE = modules("Transformer", old=True) + [{"idx": 1, "name": "1", "path": "1_Dense", "type": "pylate.models.Dense.Dense"}]
NATIVE = modules("Transformer", "Dense", "MultiVectorMask", "Normalize")


def pylate(**more):
    return {"__version__": {"pytorch": "2"}, "prompts": {}, "default_prompt_name": None, "similarity_fn_name": "MaxSim",
            "query_prefix": "[unused0]", "document_prefix": "[unused1]", "query_length": 12, "document_length": 16,
            "attend_to_expansion_tokens": False, "skiplist_words": [",", ".", "never", "?"]} | more


def native(mask=None, model=None, **bert):
    config, weights = PROJECTION
    return {"1_Dense/config.json": (config | NAMED, weights), "2_MultiVectorMask/config.json": mask or {},
            "3_Normalize/config.json": NAMED, B: {"max_seq_length": 20} | bert,
            C: {"model_type": "MultiVectorEncoder", "prompts": {"query": "[unused2] ", "document": "search : "}} | (model or {})}


for kind in (None, "SentenceTransformer", "ColBERT"):
    late(f"pylate {kind}", PYLATE, {"1_Dense/config.json": PROJECTION, C: pylate(**({"model_type": kind} if kind else {}))})
late("pylate, attended", PYLATE, {"1_Dense/config.json": PROJECTION, C: pylate(attend_to_expansion_tokens=True)})
late("pylate, no filling", PYLATE, {"1_Dense/config.json": PROJECTION, C: pylate(do_query_expansion=False, query_length=7)})
late("pylate, little said", PYLATE, {"1_Dense/config.json": PROJECTION, C: {"query_prefix": "search ", "query_length": 10}})
late("pylate, prompts too", PYLATE, {"1_Dense/config.json": dense("late2", DIM, 5, ACT + "Tanh", residual=True), C: pylate(
    model_type="ColBERT", prompts={"query": "the ", "document": "[unused1]a "}, skiplist_words=[])})
tokenizer = json.loads((BASE / "tokenizer.json").read_text())
own = json.loads((BASE / "tokenizer_config.json").read_text()) | {"do_lower_case": True, "added_tokens_decoder": {}}
for old, new in (("[unused2]", "[Q] "), ("[unused3]", "[D] ")):
    i = tokenizer["model"]["vocab"].pop(old)
    tokenizer["model"]["vocab"][new] = i
    mark = {"content": new, "single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    tokenizer["added_tokens"].append({"id": i} | mark)
    own["added_tokens_decoder"][str(i)] = mark
tokenizer["normalizer"]["lowercase"] = True
late("pylate, markers of its own", PYLATE, {
    "1_Dense/config.json": PROJECTION, "tokenizer.json": tokenizer, "tokenizer_config.json": own,
    C: pylate(query_prefix="[Q] ", document_prefix="[D] ", model_type="ColBERT")})
late("pylate, lower-cased", PYLATE, {"1_Dense/config.json": PROJECTION, C: pylate(), B: {"do_lower_case": True, "max_seq_length": 18}})
late("pylate in a folder of its own", modules("Transformer", old=True, first="0_Transformer") + PYLATE[1:], {
    "1_Dense/config.json": PROJECTION, C: pylate()}, prefix="0_Transformer")
late("native", NATIVE, native())
late("native, filled up", NATIVE, native(
    {"skiplist_words": [",", "the"], "skiplist_tasks": ["query", "document"]},
    query_expansion={"strategy": "fixed", "attend": False, "length": 9, "token": "[unused3]"}))
late("native, filled up to a least length", NATIVE, native(
    {"skiplist_words": ["."], "skiplist_tasks": "query"}, {"similarity_fn_name": "meanmaxsim"}, document_length=8,
    query_expansion={"strategy": "min", "attend": True, "length": 8, "token": None}, query_length=11))
late("native, some ids alone", NATIVE, native({"keep_only_token_ids": list(range(9, 14))}))
files = native(query_expansion={"strategy": "fixed", "attend": False, "length": 9})
del files["2_MultiVectorMask/config.json"]
files["2_Normalize/config.json"] = files.pop("3_Normalize/config.json")
late("native, nothing says what counts", modules("Transformer", "Dense", "Normalize"), files)
own = json.loads((BASE / "config.json").read_text()) | {"architectures": ["HF_ColBERT"]}
linear = {"linear.weight": PROJECTION[1]["linear.weight"]}
HF = {"config.json": (own, linear)}
META = {"query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_maxlen": 11, "doc_maxlen": 14, "dim": 6,
        "mask_punctuation": True, "attend_to_mask_tokens": False, "similarity": "cosine"}
late("colbert", None, HF | {"artifact.metadata": META})
late("colbert, attended", None, HF | {"artifact.metadata": META | {"attend_to_mask_tokens": True, "mask_punctuation": False}})
(HERE / "tokens.json").write_text("[\n" + ",\n".join(json.dumps(c) for c in TOKENS) + "\n]\n")
print(len(TOKENS), "cases", (HERE / "tokens.json").stat().st_size, "bytes")


def m3():
    """BGE-M3 by its published definition: the first row, of length one; relu of a projection to a number, the largest of each
    token, markers left out; a projection of all rows but the first, of length one."""
    from transformers import AutoTokenizer, XLMRobertaConfig, XLMRobertaModel
    home, texts = HERE / "m3", ["the cat sat on the mat .", "where is the cat , where", "a dog runs", "the river"]
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    words = ["<s>", "<pad>", "</s>", "<unk>", *dict.fromkeys(w for t in texts for w in t.split() if w != "runs"), "<mask>"]
    marks = [{"id": words.index(w), "content": w, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for w in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")]
    piece = lambda w: {"SpecialToken": {"id": w, "type_id": 0}}
    text = lambda i: {"Sequence": {"id": i, "type_id": 0}}
    put(home / "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": marks, "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": {
            "type": "TemplateProcessing", "single": [piece("<s>"), text("A"), piece("</s>")],
            "pair": [piece("<s>"), text("A"), piece("</s>"), piece("</s>"), text("B"), piece("</s>")],
            "special_tokens": {w: {"id": w, "ids": [words.index(w)], "tokens": [w]} for w in ("<s>", "</s>")}},
        "decoder": None, "model": {"type": "WordLevel", "vocab": {w: i for i, w in enumerate(words)}, "unk_token": "<unk>"}})
    put(home / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 20, "bos_token": "<s>", "cls_token": "<s>",
        "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"})
    config = XLMRobertaConfig(vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                              intermediate_size=12, max_position_embeddings=24, type_vocab_size=1, pad_token_id=1)
    model = XLMRobertaModel(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.from_numpy(o.seeded(name, tuple(p.shape))))
    model.save_pretrained(home)
    (home / "model.safetensors").chmod(0o644)
    put(home / "modules.json", modules("Transformer", "Pooling", "Normalize", old=True))
    (home / "1_Pooling").mkdir()
    put(home / "1_Pooling/config.json", flags("cls_token") | {"word_embedding_dimension": 8})
    linears = []
    for name, out in (("sparse", 1), ("colbert", 8)):
        state = {"weight": torch.from_numpy(o.uniform(f"m3.{name}.w", (out, 8))), "bias": torch.from_numpy(o.uniform(f"m3.{name}.b", (out,)))}
        # Half precision, as the published files; and every token weighs something.
        state["bias"] += 5 if name == "sparse" else 0
        state = {k: v.half() if name == "sparse" else v for k, v in state.items()}
        torch.save(state, home / f"{name}_linear.pt")
        linears.append((state["weight"].float(), state["bias"].float()))
    tokenizer = AutoTokenizer.from_pretrained(str(home))
    embedded = []
    with torch.no_grad():
        for text in texts:
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            hidden = model(ids).last_hidden_state[0]
            unit = lambda x: torch.nn.functional.normalize(x, dim=-1)
            weights = torch.relu(hidden @ linears[0][0].T + linears[0][1])[:, 0].tolist()
            lexical = {}
            for i, w in zip(ids[0].tolist(), weights):
                if words[i] not in ("<s>", "</s>", "<pad>", "<unk>") and w > 0:
                    lexical[words[i]] = max(w, lexical.get(words[i], 0.0))
            embedded.append((unit(hidden[0]), lexical, unit(hidden[1:] @ linears[1][0].T + linears[1][1])))
    (qd, qs, qc), rest = embedded[0], embedded[1:]
    scores = [{"dense": float(qd @ d), "sparse": sum(w * s.get(t, 0.0) for t, w in qs.items()),
               "colbert": float((qc @ c.T).max(-1).values.sum() / len(qc))} for d, s, c in rest]
    weighted = lambda s, w: (w[0] * s["dense"] + w[1] * s["sparse"] + w[2] * s["colbert"]) / sum(w)
    put(home / "expected.json", {
        "texts": texts, "dense": [short(d.tolist()) for d, _, _ in embedded],
        "sparse": [{t: short(w) for t, w in s.items()} for _, s, _ in embedded], "colbert": [short(c.tolist()) for _, _, c in embedded],
        "scores": scores, "equal": [weighted(s, (1, 1, 1)) for s in scores],
        "weights": [0.4, 0.2, 0.4], "weighted": [weighted(s, (0.4, 0.2, 0.4)) for s in scores]})
    print("m3", scores, [sorted(s) for _, s, _ in embedded])


m3()
