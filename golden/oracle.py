"""Shared code of the golden scripts: name-seeded weights, taps, gradients, files.

Weights are never stored. They are a function of the tensor's name on disk and its shape, so that the reference and the
code under test fill the same checkpoint each on their own (see `seeded`).
"""

import hashlib
import json
import os
import pathlib
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TIMM_FUSED_ATTN", "0")

import numpy as np
import torch
import transformers
from safetensors import numpy as st
from safetensors.numpy import load_file

ROOT = pathlib.Path(__file__).resolve().parent
TOLERANCE = 1e-4
MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def save_file(tensors, path, metadata=None):
    st.save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path, metadata=metadata)
    os.chmod(path, 0o644)


# --- numbers from names ---------------------------------------------------------------------------------------------

def fnv1a(name):
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & MASK
    return h


def draws(name, n):
    """First `n` 64-bit numbers of the name's splitmix64 stream."""
    with np.errstate(over="ignore"):
        z = np.uint64(fnv1a(name)) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def uniform(name, shape):
    """f32 in [-1, 1), exact multiples of 2^-23."""
    u = (draws(name, int(np.prod(shape, dtype=np.int64))) >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)
    return (np.float32(2) * u - np.float32(1)).reshape(shape)


def integers(name, shape, low, high):
    """i64 in [low, high)."""
    d = draws(name, int(np.prod(shape, dtype=np.int64))) % np.uint64(high - low)
    return (d.astype(np.int64) + low).reshape(shape)


def seeded(name, shape):
    """The weight of this name and shape."""
    v = uniform(name, shape)
    lower = name.lower()
    # A vector called weight is that of a norm, whatever its name is.
    if ("norm" in lower or len(shape) == 1) and lower.endswith(("weight", "gamma", "running_var")):
        return np.float32(1) + v * np.float32(0.25)
    if len(shape) <= 1:
        return v * np.float32(0.125)
    if ("embeddings" in name and "patch_embeddings" not in name) or "_token" in name or "pos_embed" in name:
        return v * np.float32(0.5)
    fan_in = int(np.prod(shape[1:], dtype=np.int64))
    return v * np.float32(2.0 ** -((fan_in.bit_length() - 1) // 2))


# --- models ---------------------------------------------------------------------------------------------------------

def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array, dtype=np.float32).tobytes()).hexdigest() + str(tuple(array.shape))


class Stacked:
    """A tensor on disk that the module holds in parts."""

    def __init__(self, parts):
        self.parts = parts

    @property
    def grad(self):
        return torch.cat([p.grad for p in self.parts])


def held(found, name, shape):
    """The parameter, or parameters, that a tensor on disk became."""
    whole = seeded(name, shape)
    cuts = [np.split(whole, n) for n in (1, 2, 3) if shape[0] % n == 0]
    parts = [[found.get(digest(p)) for p in cut] for cut in cuts]
    (first, *more) = next(all_of for all_of in parts if all(p is not None for p in all_of))
    return Stacked([first, *more]) if more else first


class Loaded:
    """A reference module with seeded weights, its config.json, its on-disk layout and the way from disk names to
    parameters."""

    def __init__(self, module, config, tensors, fixed=()):
        self.module, self.config, self.tensors = module, config, tensors
        found = {}
        for _, p in module.named_parameters():  # tied parameters come once
            found.setdefault(digest(p.detach().numpy()), p)
        # Buffers and fixed tables may be on disk, and are no parameters.
        buffers = {n for n, _ in module.named_buffers()}
        tables = {n for n, _ in module.named_parameters() if n.endswith(tuple(fixed))}
        own = {name: shape for name, shape in tensors.items() if name not in buffers | tables}
        self.params = {name: held(found, name, shape) for name, shape in own.items()}
        self.n_params = sum(p.numel() for p in module.parameters())
        self.n_params -= sum(p.numel() for n, p in module.named_parameters() if n in tables)
        stored = sum(int(np.prod(s, dtype=np.int64)) for s in own.values())
        assert self.n_params == stored, (self.n_params, stored)
        assert len({id(p) for p in self.params.values()}) == len(self.params)


def reseed(folder):
    """Overwrites the floats of folder/model.safetensors; returns the layout."""
    path = os.path.join(folder, "model.safetensors")
    old = load_file(path)
    for name, a in old.items():
        assert a.dtype == np.float32, (name, a.dtype)
    new = {name: seeded(name, a.shape) for name, a in old.items()}
    save_file(new, path, metadata={"format": "pt"})
    return {name: list(a.shape) for name, a in sorted(old.items())}


def from_transformers(cls, config, more=None, fields=None, fixed=(), save=None, prefix=None):
    """Builds, saves, overwrites by name, loads back: the layout is the published one or this fails.

    more: tensors (name -> shape) that published files have and save_pretrained leaves out; fields: what their
    config.json says otherwise (None takes a field away); fixed: ends of names of tables that are no parameters;
    save: what save_pretrained is told besides; prefix: that of the file's names, and the one to write for it."""
    with tempfile.TemporaryDirectory() as folder:
        cls(config).save_pretrained(folder, **(save or {}))
        path = os.path.join(folder, "model.safetensors")
        stored = {**load_file(path), **{k: np.zeros(s, np.float32) for k, s in (more or {}).items()}}
        if prefix:
            stored = {prefix[1] + k.removeprefix(prefix[0]) if k.startswith(prefix[0]) else k: t for k, t in stored.items()}
        save_file(stored, path, metadata={"format": "pt"})
        tensors = reseed(folder)
        with open(os.path.join(folder, "config.json")) as f:
            written = json.load(f)
        written = {k: v for k, v in {**written, **(fields or {})}.items() if not (k in (fields or {}) and v is None)}
        with open(os.path.join(folder, "config.json"), "w") as f:
            json.dump(written, f)
        module, info = cls.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
        )
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[key], (key, info[key])
    return Loaded(module.eval(), written, tensors, fixed)


def from_timm(module, config):
    tensors = {name: list(t.shape) for name, t in module.state_dict().items()}
    module.load_state_dict({name: torch.from_numpy(seeded(name, shape)) for name, shape in tensors.items()})
    return Loaded(module.eval(), config, dict(sorted(tensors.items())))


def from_buffered(module, config, without=("num_batches_tracked",)):
    """As from_timm for a module with buffers: they are in the file, but no parameters; some are not wanted."""
    layout = {n: list(t.shape) for n, t in module.state_dict().items() if not n.endswith(without)}
    module.load_state_dict({n: torch.from_numpy(seeded(n, s)) for n, s in layout.items()}, strict=False)
    out = Loaded.__new__(Loaded)
    out.module, out.config, out.tensors = module.eval(), config, dict(sorted(layout.items()))
    out.params, out.n_params = dict(module.named_parameters()), sum(p.numel() for p in module.parameters())
    return out


# --- one run --------------------------------------------------------------------------------------------------------

BLOCKS = {"BertLayer", "RobertaLayer", "TransformerBlock", "AlbertLayer", "ViTLayer", "DeiTLayer", "Block",
          "T5Block", "MT5Block", "SwitchTransformersBlock", "Dinov2Layer", "Dinov2WithRegistersLayer", "CLIPEncoderLayer",
          "SiglipEncoderLayer", "BeitLayer"}


class Taps:
    """Input of the first block and output of every block call, by hooks: with output_hidden_states some models put the
    normed last_hidden_state in place of the last block's output."""

    def __init__(self, module):
        self.stem, self.blocks, self.handles = None, [], []
        for m in module.modules():
            if type(m).__name__ in BLOCKS:
                self.handles.append(m.register_forward_hook(self.hook, with_kwargs=True))

    def hook(self, module, args, kwargs, out):
        if self.stem is None:
            self.stem = (args[0] if args else kwargs["hidden_states"]).detach()
        # Rows come first, but last from DistilBERT's block in transformers 4.
        at = -1 if type(module).__name__ == "TransformerBlock" else 0
        self.blocks.append((out[at] if isinstance(out, tuple) else out).detach())

    def close(self):
        for h in self.handles:
            h.remove()


def first(tensors, *suffixes):
    """For each suffix the first on-disk name that ends with it."""
    picked = []
    for s in suffixes:
        hits = [n for n in tensors if n.endswith(s)]
        assert hits, (s, list(tensors))
        picked.append(hits[0])
    return picked


def masked(array, rows, axis):
    """Zeros the padded rows (rows [b, n] of 0/1, n at `axis`)."""
    if rows is None:
        return array
    shape = [1] * array.ndim
    shape[0], shape[axis] = rows.shape
    return np.where(rows.reshape(shape) != 0, array, np.float32(0))


def run_case(path, loaded, inputs, loss_of=None, grads=(), note="", call=None, extra=None, rows=None, taps=True,
             target_rows=None):
    """Runs the module on `inputs` (numpy, names without "in.") and writes <path>.json and <path>.safetensors.

    loss_of(outputs dict, inputs as tensors) -> loss; what it needs beyond the call sits in inputs as "labels"/"probe".
    rows: valid places of what is read; target_rows: of what is written, for encoder-decoders.
    """
    module = loaded.module
    tensors_in = {k: torch.from_numpy(v) for k, v in inputs.items()}
    kwargs = {k: v for k, v in tensors_in.items() if k not in ("labels", "probe")}
    call = call or (lambda kw: module(**kw, output_attentions=True))
    module.zero_grad()
    hooks = Taps(module)
    result = call(kwargs)
    hooks.close()
    outs = {k: result[k] for k in result.keys() if torch.is_tensor(result[k])}
    stored = {"in." + k: v for k, v in inputs.items()}
    if taps:
        stored["tap.stem"] = masked(hooks.stem.numpy(), rows, 1)
        read = result["attentions"] if target_rows is None else result["encoder_attentions"]
        maps = [(p, "attn", i, rows) for i, p in enumerate(read)]
        if target_rows is not None:
            for kind, key in (("attn", "decoder_attentions"), ("cross", "cross_attentions")):
                maps += [(p, kind, len(read) + i, target_rows) for i, p in enumerate(result[key])]
        for i, block in enumerate(hooks.blocks):
            stored[f"tap.blocks.{i}"] = masked(block.numpy(), rows if i < len(read) else target_rows, 1)
        assert sum(kind == "attn" for _, kind, _, _ in maps) == len(hooks.blocks)
        for probs, kind, i, valid in maps:
            stored[f"tap.blocks.{i}.{kind}.probs"] = masked(probs.detach().numpy(), valid, 2)
            assert np.allclose(probs.detach().sum(-1).numpy(), 1, atol=1e-5)
        for name in stored:
            if name.startswith("tap.") and not name.endswith("probs"):
                spread = stored[name].std()
                assert 0.05 < spread < 20, (path, name, spread)
    for name, t in outs.items():
        valid = rows if target_rows is None or name == "encoder_last_hidden_state" else target_rows
        of_rows = t.ndim == 3 or name in ("start_logits", "end_logits")
        per_row = valid is not None and of_rows and t.shape[1] == valid.shape[1]
        stored["out." + name] = masked(t.detach().numpy(), valid if per_row else None, 1)
    if loss_of:
        loss = loss_of(outs, tensors_in)
        loss.backward()
        stored["out.loss"] = loss.detach().numpy().reshape(1)
        for name in grads:
            g = loaded.params[name].grad.numpy()
            assert 1e-7 < np.abs(g).max() < 1e3, (path, name, np.abs(g).max())
            stored["grad." + name] = g.copy()
    drift = check_f64(module, call, kwargs, outs)
    info = {
        "config": loaded.config,
        "tensors": loaded.tensors,
        "n_params": loaded.n_params,
        "tolerance": TOLERANCE,
        "note": note,
    }
    info.update(extra or {})
    write(path, info, stored)
    size = os.path.getsize(str(path) + ".safetensors")
    print(f"{path}: {loaded.n_params} params, {size // 1024} KiB, f32 against f64 {drift:.1e}")
    return stored


def check_f64(module, call, kwargs, outs):
    """The same run in f64: the case must be well conditioned for its tolerance to mean something."""
    module.double()
    with torch.no_grad():
        wide = call({k: v.double() if v.is_floating_point() else v for k, v in kwargs.items()})
    module.float()

    worst = max(float((wide[k].float() - t.detach()).abs().max()) for k, t in outs.items())
    assert worst < TOLERANCE / 5, worst
    return worst


def run_maps(path, loaded, inputs, blocks, stages, grads, note, call, pick=None):
    """As run_case for models of maps: `blocks` are the block modules in order, `call(module, inputs)` gives the outputs
    and whatever `stages` needs to give the map of every stage, [b, h, w, c] each."""
    module = loaded.module
    tensors_in = {k: torch.from_numpy(v) for k, v in inputs.items()}
    kwargs = {k: v for k, v in tensors_in.items() if k not in ("labels", "probe")}
    got, handles = {}, []
    pick = pick or (lambda out: out[0] if isinstance(out, tuple) else out)

    def keep(name):
        def hook(m, args, out):
            got[name] = pick(out).detach()
        return hook

    for i, block in enumerate(blocks):
        handles.append(block.register_forward_hook(keep(f"blocks.{i}")))
    module.zero_grad()
    result = call(module, kwargs)
    for h in handles:
        h.remove()
    stored = {"in." + k: v for k, v in inputs.items()}
    for i in range(len(blocks)):
        t = got[f"blocks.{i}"]
        stored[f"tap.blocks.{i}"] = t.reshape(t.shape[0], -1, t.shape[-1]).numpy().copy()
    for i, t in enumerate(stages(result)):
        stored[f"tap.stages.{i}"] = t.detach().numpy().copy()  # [b, h, w, c]
    for name, a in stored.items():
        if name.startswith("tap."):
            assert 0.05 < a.std() < 20, (path, name, a.std())
    outs = {k: v for k, v in result.items() if k in ("logits", "last_hidden_state", "pooler_output")}
    for name, t in outs.items():
        stored["out." + name] = t.detach().numpy()
    loss = (ce_loss if "labels" in inputs else probe_loss)(outs, tensors_in)
    loss.backward()
    stored["out.loss"] = loss.detach().numpy().reshape(1)
    for name in grads:
        g = loaded.params[name].grad.numpy()
        assert 1e-7 < np.abs(g).max() < 1e3, (path, name, np.abs(g).max())
        stored["grad." + name] = g.copy()
    drift = check_f64(module, lambda kw: call(module, kw), kwargs, outs)
    info = {"config": loaded.config, "tensors": loaded.tensors, "n_params": loaded.n_params, "tolerance": TOLERANCE,
            "note": note}
    write(path, info, stored)
    size = os.path.getsize(str(path) + ".safetensors")
    print(f"{path}: {loaded.n_params} params, {size // 1024} KiB, f32 against f64 {drift:.1e}")
    return stored


def write(path, info, stored):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(str(path) + ".json", "w") as f:
        json.dump(info, f, indent=1, ensure_ascii=False)
        f.write("\n")
    if stored is not None:
        for name, a in stored.items():
            assert a.dtype in (np.float32, np.int64), (name, a.dtype)
            assert np.isfinite(a).all(), name
        save_file(stored, str(path) + ".safetensors")


def amend(path, extra):
    """Adds fields to the description of a case."""
    path = pathlib.Path(str(path) + ".json")
    info = json.loads(path.read_text())
    write(str(path)[:-5], {**info, **extra}, None)


def memory_names(path, loaded, alias_of):
    """A case without numbers of its own: the names transformers 5 has in memory, each seeded by its published name."""
    seed_as = {}
    for new, p in loaded.module.named_parameters():
        (seed_as[new],) = [old for old, q in loaded.params.items() if q is p]
    assert list(seed_as) != list(seed_as.values())
    write(path, {
        "config": loaded.config,
        "tensors": {new: loaded.tensors[old] for new, old in seed_as.items()},
        "n_params": loaded.n_params,
        "tolerance": TOLERANCE,
        "note": f"The {alias_of} case under the names that transformers 5 has in memory. Seed each tensor by its "
        f"published name (seed_as); inputs and expected numbers are those of {alias_of}.safetensors.",
        "alias_of": alias_of,
        "seed_as": seed_as,
    }, None)


# --- losses ---------------------------------------------------------------------------------------------------------

def ce_loss(outs, ins):
    """Mean cross-entropy over labels that are not -100."""
    logits = outs["logits"]
    return torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), ins["labels"].reshape(-1))


def probe_loss(outs, ins):
    """Mean over all elements, padded ones included (where the probe is zero), of the rows or of a dense answer."""
    answer = outs["last_hidden_state"] if "last_hidden_state" in outs else outs["logits"]
    return (answer * ins["probe"]).mean()


def span_loss(outs, ins):
    """Mean cross-entropy of first and last places (labels [b, 2]) among the places that are no padding."""
    parts = []
    for i, name in enumerate(("start_logits", "end_logits")):
        logits = outs[name].masked_fill(ins["attention_mask"] == 0, float("-inf"))
        parts.append(torch.nn.functional.cross_entropy(logits, ins["labels"][:, i]))
    return (parts[0] + parts[1]) / 2


# --- text cases, the same for the four encoders ---------------------------------------------------------------------

LENGTHS = (9, 6, 3)


def text_inputs(family, pad, left=False, token_types=True, vocab=100):
    """Batch of three with unequal lengths. Ids 5.. are words, the first and last of a row stand for [CLS] and [SEP]."""
    n = max(LENGTHS)
    ids = np.full((len(LENGTHS), n), pad, dtype=np.int64)
    mask = np.zeros_like(ids)
    types = np.zeros_like(ids)
    words = integers(f"golden.{family}.ids", ids.shape, 5, vocab)
    for b, k in enumerate(LENGTHS):
        at = slice(n - k, n) if left else slice(0, k)
        row = words[b, :k].copy()
        row[0], row[-1] = (0, 2) if family == "roberta" else (2, 3)
        ids[b, at], mask[b, at] = row, 1
        types[b, at] = np.arange(k) >= (k + 1) // 2
    out = {"input_ids": ids, "attention_mask": mask}
    if token_types:
        out["token_type_ids"] = types
    return out


def with_probe(inputs, dim, key):
    rows = inputs.get("attention_mask")
    if rows is not None:
        probe = masked(uniform(key, (*rows.shape, dim)), rows, 1)
        return {**inputs, "probe": probe}
    raise ValueError(key)


def with_labels(inputs, key, classes, per_token):
    rows = inputs["attention_mask"]
    if per_token:
        labels = np.where(rows != 0, integers(key, rows.shape, 0, classes), -100)
    else:
        labels = integers(key, (rows.shape[0],), 0, classes)
    return {**inputs, "labels": labels}


def text_cases(family, classes, config, grads, pad, token_types=True, dim=32, taps=True):
    """encoder, masked_lm, sequence and token cases. classes: case -> module class; config(**kw) -> config object;
    grads: case -> suffixes of tensor names."""
    for case, cls in classes.items():
        loaded = from_transformers(cls, config(**({"num_labels": LABELS[case]} if case in LABELS else {})))
        text_case(family, case, loaded, grads[case], pad, token_types, dim, taps)


LABELS = {"sequence": 3, "token": 5}


def text_case(family, case, loaded, grads, pad, token_types=True, dim=32, taps=True):
    """One of them, of a module that is loaded."""
    inputs = text_inputs(family, pad, token_types=token_types)
    rows = inputs["attention_mask"]
    if case == "encoder":
        inputs, loss = with_probe(inputs, dim, f"golden.{family}.probe"), probe_loss
    else:
        inputs = with_labels(inputs, f"golden.{family}.{case}.labels", LABELS.get(case, 100), case != "sequence")
        loss = ce_loss
    run_case(
        ROOT / family / case, loaded, inputs, loss, first(loaded.tensors, *grads), rows=rows, taps=taps,
        note="Padded rows of taps, of attention probabilities (query rows) and of outputs are stored as zeros; "
        "labels are -100 and the probe is zero there. out.loss: "
        + ("mean over all b*n*d elements of last_hidden_state * in.probe." if case == "encoder"
           else "mean cross-entropy over labels that are not -100."),
    )


def text_question(family, cls, config, grads, pad, token_types=True, loaded=None):
    """A head that finds answers; outputs, loss and gradients only."""
    loaded = loaded or from_transformers(cls, config())
    inputs = text_inputs(family, pad, token_types=token_types)
    lengths = inputs["attention_mask"].sum(1)
    labels = np.stack([lengths // 2, lengths - 2], 1).astype(np.int64)
    run_case(ROOT / family / "question", loaded, {**inputs, "labels": labels}, span_loss,
             first(loaded.tensors, *grads), rows=inputs["attention_mask"], taps=False,
             note="As the question case of bert, without taps.")


def text_untied(family, cls, config, grads, pad, token_types=True):
    """A masked-LM head with a projection of its own. transformers 4 only: 5 gives it a second bias too."""
    assert transformers.__version__.startswith("4."), transformers.__version__
    loaded = from_transformers(cls, config(tie_word_embeddings=False))
    inputs = text_inputs(family, pad, token_types=token_types)
    rows = inputs["attention_mask"]
    inputs = with_labels(inputs, f"golden.{family}.untied.labels", 100, True)
    run_case(ROOT / family / "untied", loaded, inputs, ce_loss, first(loaded.tensors, *grads), rows=rows,
             note="As masked_lm, with tie_word_embeddings false: the head has a table of its own.")


# --- epsilon --------------------------------------------------------------------------------------------------------

EPS_NOTE = ("layer_norm_eps 0.05: between 1e-12, 1e-6 and 1e-5 the outputs of the other cases move by less than their "
            "tolerance, so only this case shows that every norm takes epsilon from the config. ")


def text_eps(family, cls, config, pad, token_types=True):
    loaded = from_transformers(cls, config(layer_norm_eps=0.05))
    inputs = text_inputs(family, pad, token_types=token_types)
    run_case(ROOT / family / "eps", loaded, inputs, rows=inputs["attention_mask"],
             note=EPS_NOTE + "A masked-LM head; padded rows are stored as zeros.")
