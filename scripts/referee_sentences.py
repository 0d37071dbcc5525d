"""Folders of sentence-transformers that `referee.py --random` makes: dense, sparse and of pairs; and what they answer."""

import json
import subprocess

import numpy as np
import torch
from safetensors.torch import save_file

from referee_folders import SMALL, json_of, put, randomise, save, some, text_folder, BERTLIKE

OLD = "sentence_transformers.models."
NEW = {"Transformer": "sentence_transformers.base.modules.transformer.", "MLMTransformer": "sentence_transformers.sparse_encoder.models.",
       "SpladePooling": "sentence_transformers.sparse_encoder.modules.splade_pooling.",
       "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.", "Dense": "sentence_transformers.base.modules.dense.",
       "Normalize": "sentence_transformers.base.modules.normalize.", "LayerNorm": "sentence_transformers.sentence_transformer.modules.layer_norm.",
       "Dropout": "sentence_transformers.sentence_transformer.modules.dropout."}
MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
FLAGS = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
         "weightedmean": "weightedmean_tokens", "lasttoken": "lasttoken"}
ACTS = ["linear.Identity", "activation.Tanh", "activation.GELU", "activation.ReLU", "activation.Sigmoid", "activation.SiLU", "activation.Softplus",
        "activation.Mish", "activation.ELU", "activation.LeakyReLU", "activation.ReLU6"]
PROMPTS = {"query": "search: ", "passage": "The river ", "document": "", "long": "a cat sat on the mat and looked at the birds: "}
SETTINGS = ["sentence_bert_config.json"] * 4 + ["sentence_roberta_config.json", "sentence_albert_config.json"]


def random_tensors(rng, **shapes):
    g = torch.Generator().manual_seed(rng.getrandbits(31))
    return {name.replace("__", "."): torch.randn(shape, generator=g) * (0.4 if len(shape) > 1 else 0.2) for name, shape in shapes.items()}


def transformer(folder, rng, heads, families=None):
    """A saved Transformer with its tokenizer, and its reading settings; -> its width and what it is."""
    folder.mkdir(exist_ok=True)
    what, model = text_folder(folder, rng, SMALL, family=rng.choice(families or list(BERTLIKE)), head=rng.choice(heads))
    randomise(model, rng.getrandbits(31))
    save(model, folder, rng)
    own = some(rng, {"max_seq_length": [20, 9, 28], "do_lower_case": [None, False, True]})
    put(folder / rng.choice(SETTINGS), own)
    config = model.config
    return getattr(config, "hidden_size", None) or config.dim, what


def pooled(rng, width):
    """Settings of Pooling in one of the layouts; -> them and the width."""
    modes = rng.sample(MODES, rng.choice([1, 1, 1, 2, 3]))
    if rng.random() < 0.5:
        own = {"word_embedding_dimension": width} | {f"pooling_mode_{FLAGS[m]}": m in modes for m in (MODES if rng.random() < 0.7 else {*MODES[:3], *modes})}
    else:
        own = {"embedding_dimension": width, "pooling_mode": modes[0] if len(modes) == 1 else modes}
    return own | some(rng, {"include_prompt": [None, True, False]}), width * len(modes)


def dense_folder(folder, rng):
    inner = rng.choice(["", "", "", "0_Transformer"])
    width, what = transformer(folder / inner if inner else folder, rng, ["Model", "Model", "ForMaskedLM"])
    kinds = ["Transformer", *(["Normalize"] if rng.random() < 0.08 else []), "Pooling",
             *rng.choices(["Dense", "LayerNorm", "Normalize", "Dropout", "Dense"], k=rng.choice([0, 1, 1, 2, 3]))]
    old = rng.random() < 0.5
    modules = []
    for i, kind in enumerate(kinds):
        path = inner if i == 0 else f"{i}_{kind}"
        modules.append({"idx": i, "name": str(i), "path": path, "type": (OLD if old else NEW[kind]) + kind})
        if kind == "Pooling":
            own, width = pooled(rng, width)
            put(folder / path / "config.json", own)
        elif kind == "Dense":
            out = rng.choice([16, 24, width])
            own = {"in_features": width, "out_features": out, "bias": rng.random() < 0.8, "activation_function": "torch.nn.modules." + rng.choice(ACTS)}
            tensors = dict(linear__weight=(out, width)) | (dict(linear__bias=(out,)) if own["bias"] else {})
            if rng.random() < 0.2:
                own["use_residual"] = True
                tensors |= dict(residual__weight=(out, width)) if out != width else {}
            put(folder / path / "config.json", own)
            save_file(random_tensors(rng, **tensors), folder / path / "model.safetensors")
            width = out
        elif kind == "LayerNorm":
            put(folder / path / "config.json", {"dimension": width})
            save_file(random_tensors(rng, norm__weight=(width,), norm__bias=(width,)), folder / path / "model.safetensors")
        elif kind == "Dropout":
            put(folder / path / "config.json", {"dropout": 0.3})
        else:
            (folder / path).mkdir(exist_ok=True)
    put(folder / "modules.json", modules)
    if rng.random() < 0.75:
        names = rng.sample(list(PROMPTS), rng.choice([0, 1, 2, 3]))
        put(folder / "config_sentence_transformers.json", {"prompts": {n: PROMPTS[n] for n in names}} | some(rng, {
            "default_prompt_name": [None, None, *names], "similarity_fn_name": [None, "cosine", "dot", "euclidean", "manhattan"],
            "truncate_dim": [None, None, 8], "model_type": [None, "SentenceTransformer"], "__version__": [None, {"sentence_transformers": "3.0.0"}]}))
    return f"dense:{what}/{'-'.join(k[0] for k in kinds)}", None


def sparse_folder(folder, rng):
    _, what = transformer(folder, rng, ["ForMaskedLM"])
    first = rng.choice(["MLMTransformer", "Transformer"])
    if first == "Transformer":
        put(folder / "sentence_bert_config.json", {"transformer_task": "fill-mask", "module_output_name": "token_embeddings", "modality_config": {
            "text": {"method": "forward", "method_output_name": "logits"}}} | some(rng, {"max_seq_length": [20, 16]}))
    kinds = [first, "SpladePooling"]
    put(folder / "modules.json", [{"idx": i, "name": str(i), "path": ["", "1_SpladePooling"][i], "type": NEW[k] + k} for i, k in enumerate(kinds)])
    put(folder / "1_SpladePooling/config.json", some(rng, {
        "pooling_strategy": ["max", "sum"], "activation_function": ["relu", "log1p_relu", None], "chunk_size": [None, 8]}))
    put(folder / "config_sentence_transformers.json", {"model_type": "SparseEncoder", "prompts": {"query": "search: "}} | some(
        rng, {"similarity_fn_name": [None, "dot", "cosine"], "default_prompt_name": [None, None, "query"]}))
    return f"sparse:{what}", None


def pairs_folder(folder, rng):
    """A reranker in one of the layouts of its versions."""
    what, model = text_folder(folder, rng, SMALL, head="ForSequenceClassification")
    randomise(model, rng.getrandbits(31))
    save(model, folder, rng)
    act = rng.choice([None, *["torch.nn.modules." + a for a in ("linear.Identity", "activation.Sigmoid", "linear.Identity", "activation.Sigmoid", "activation.Tanh")]])
    layout = rng.choice(["own", "own", "v4", "old", "none"])
    config = json_of(folder / "config.json")
    if layout == "v4" and act:
        config["sentence_transformers"] = {"activation_fn": act, "version": "4.0.1"}
    if layout == "old" and act:
        config["sbert_ce_default_activation_function"] = act
    put(folder / "config.json", config)
    if layout == "own":
        put(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": NEW["Transformer"] + "Transformer"}])
        put(folder / "sentence_bert_config.json", {"transformer_task": "sequence-classification", "module_output_name": "scores", "modality_config": {
            "text": {"method": "forward", "method_output_name": "logits"}}} | some(rng, {"max_seq_length": [24, 14]}))
        put(folder / "config_sentence_transformers.json", {"model_type": "CrossEncoder"} | ({"activation_fn": act} if act else {}) | some(rng, {
            "prompts": [None, {}, {"query": "search: "}], "default_prompt_name": [None]}))
    else:
        put(folder / "referee.json", {"pairs": True})
        put(folder / "tokenizer_config.json", {"model_max_length": 24} | json_of(folder / "tokenizer_config.json"))
    return f"pairs:{what}/{layout}", None


# --- what they answer --------------------------------------------------------------------------------------------------------------

def compare_dense(folder, texts, ours, distance, binary):
    from sentence_transformers import SentenceTransformer
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    worst, all_notes = {}, set()
    asks = [({}, []), ({"prompt": "the old "}, ["--prompt", "the old "]), ({"truncate_dim": 5}, ["--dim", "5"])]
    own = json_of(folder / "config_sentence_transformers.json")
    asks += [({"prompt_name": n}, ["--prompt-name", n]) for n in own.get("prompts", {})]
    for i, (ask, args) in enumerate(asks):
        want = model.encode(texts, batch_size=1, **ask)
        doc, _, notes = ours(folder, ["--text", *texts, *args])
        all_notes |= set(notes)
        name = "sentence_embedding" + (f" ({next(iter(ask))})" if ask else "")
        worst[name] = max(worst.get(name, 0.0), distance([r["sentence_embedding"] for r in doc["results"]], want))
        if i == 0:
            worst["similarity"] = table(folder, texts[:12], model, want[:12], binary)
    return worst, sorted(all_notes)


def table(folder, texts, model, vectors, binary):
    """The printed table beside the reference's: it has three decimals, and up to twelve texts."""
    done = subprocess.run([binary, "run", str(folder), "--text", *texts], capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    at = next((i for i, line in enumerate(lines) if line.split()[:1] == [model.similarity_fn_name]), None)
    if at is None:
        return float("inf")
    rows = [line.split()[1:] for line in lines[at + 1:] if line.split()[:1] and line.split()[0].isdigit()]
    got = np.array([[float(x) for x in row] for row in rows])
    want = model.similarity(vectors, vectors).numpy()
    if got.shape != want.shape:
        return float("inf")
    return float(max(0.0, np.abs(got - want).max() - 6e-4) / max(1.0, np.abs(want).max()))


def compare_sparse(folder, texts, ours, distance):
    from sentence_transformers import SparseEncoder
    model = SparseEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    worst, all_notes = {}, set()
    for ask, args in [({}, []), ({"prompt_name": "query"}, ["--prompt-name", "query"])]:
        want = model.encode(texts, batch_size=1, **ask).to_dense().numpy()
        doc, _, notes = ours(folder, ["--text", *texts, *args])
        all_notes |= set(notes)
        got = np.zeros_like(want)
        for row, reply in zip(got, doc["results"]):
            for token, weight in reply["sparse_embedding"].items():
                row[model.tokenizer.convert_tokens_to_ids(token)] = weight
        # Ids without a token of their own are named by number.
        worst["sparse_embedding" + "".join(f" ({a})" for a in ask)] = distance(got[:, :len(model.tokenizer)], want[:, :len(model.tokenizer)])
    return worst, sorted(all_notes)


def compare_pairs(folder, texts, ours, distance):
    from sentence_transformers import CrossEncoder
    model = CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    pairs = [[a, b] for a, b in zip(texts, texts[1:] + texts[:1])]
    worst, all_notes = {}, set()
    asks = [({}, [])]
    for ask, args in asks:
        shown, bare = model.predict(pairs, batch_size=1, **ask), model.predict(pairs, batch_size=1, activation_fn=torch.nn.Identity(), **ask)
        doc, _, notes = ours(folder, ["--text", *[p[0] for p in pairs], "--pair", *[p[1] for p in pairs], *args])
        all_notes |= set(notes)
        replies = doc["results"]
        worst["scores"] = distance([r["logits"] for r in replies], np.asarray(bare).reshape(len(pairs), -1))
        named = model.config.id2label
        stated = json_of(folder / "config_sentence_transformers.json") or any(k in json_of(folder / "config.json") for k in (
            "sentence_transformers", "sbert_ce_default_activation_function"))
        if not stated and model.config.problem_type:
            # No file says that this is a reranker, so `problem_type` holds, as in the pipelines of transformers.
            continue
        if all("values" in r for r in replies):
            worst["values"] = distance([[v["value"] for v in r["values"]] for r in replies], np.asarray(shown).reshape(len(pairs), -1))
        elif model.config.num_labels == 1 or "Sigmoid" in type(model.activation_fn).__name__:
            place = {label: i for i, label in named.items()}
            shown = np.asarray(shown).reshape(len(pairs), -1)
            worst["probability"] = max(abs(one["probability"] - shown[i][place[one["label"]]]) for i, r in enumerate(replies) for one in r["labels"])
    return worst, sorted(all_notes)
