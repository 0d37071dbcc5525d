"""Head pruning cases: toy models of transformers with masked heads (and, for BERT, with heads really taken out).

`order` lists the heads of each block, the most important first; of `n` heads max(1, floor(keep * n + 0.5)) stay. `derived` are
the heads that stay where no order is stored: those with the largest product of two Frobenius norms, that of the head's rows of
the value projection and that of its columns of the output projection.
"""
import copy
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import numpy as np
import torch
import oracle as o
from transformers import BertConfig, BertForSequenceClassification, MPNetConfig, MPNetForSequenceClassification

HERE = o.ROOT / "head_pruning"
SIZES = dict(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, num_labels=3)
HEADS, DEPTH, WIDTH = 4, 2, 8
ORDER = [[2, 0, 3, 1], [1, 3, 0, 2]]
KEEPS = (0.75, 0.5, 0.1)


def count(keep):
    return max(1, int(np.floor(keep * HEADS + 0.5)))


def kept(order, keep):
    return [sorted(heads[:count(keep)]) for heads in order]


def by_norms(loaded, values, out):
    order, margin = [], np.inf
    for i in range(DEPTH):
        v = o.seeded(values.format(i), [32, 32]).astype(np.float64).reshape(HEADS, WIDTH, 32)
        w = o.seeded(out.format(i), [32, 32]).astype(np.float64).T.reshape(HEADS, WIDTH, 32)
        norms = np.sqrt((v ** 2).sum((1, 2)) * (w ** 2).sum((1, 2)))
        order.append(np.argsort(-norms, kind="stable").tolist())
        margin = min(margin, np.diff(np.sort(norms)).min() / norms.max())
    assert margin > 1e-4, margin
    return order


def run(module, inputs, heads, **more):
    mask = torch.zeros(DEPTH, HEADS)
    for i, own in enumerate(heads):
        mask[i, own] = 1
    return module(**{k: torch.from_numpy(v) for k, v in inputs.items() if k != "labels"}, head_mask=mask, **more).logits


def case(name, family, cls, config, pad, types, grads, names, cut):
    loaded = o.from_transformers(cls, config)
    inputs = o.with_labels(o.text_inputs(family, pad, token_types=types), f"golden.head_pruning.{name}.labels", 3, False)
    stored = {"in." + k: v for k, v in inputs.items()}
    for keep in KEEPS:
        heads = kept(ORDER, keep)
        loaded.module.zero_grad()
        logits = run(loaded.module, inputs, heads)
        stored[f"out.{keep}.logits"] = logits.detach().numpy().copy()
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(inputs["labels"]))
        loss.backward()
        stored[f"out.{keep}.loss"] = loss.detach().numpy().reshape(1)
        if keep == 0.5:
            for g in o.first(loaded.tensors, *grads):
                stored["grad." + g] = loaded.params[g].grad.numpy().copy()
        if cut:
            pruned = copy.deepcopy(loaded.module)
            pruned.prune_heads({i: [h for h in range(HEADS) if h not in own] for i, own in enumerate(heads)})
            with torch.no_grad():
                got = pruned(**{k: torch.from_numpy(v) for k, v in inputs.items() if k != "labels"}).logits
            assert (got - logits).abs().max() < 1e-6
        wide = copy.deepcopy(loaded.module).double()
        with torch.no_grad():
            assert (run(wide, inputs, heads) - logits).abs().max() < 1e-6
    order = by_norms(loaded, *names)
    o.write(HERE / name, {
        "config": loaded.config, "tensors": loaded.tensors, "n_params": loaded.n_params, "order": ORDER,
        "kept": {str(k): kept(ORDER, k) for k in KEEPS}, "derived": {str(k): kept(order, k) for k in KEEPS},
        "note": "Logits, loss and (at 0.5) gradients with a head mask of transformers 4.57.1; see make.py."}, stored)
    print(name, order)


BODY = ("word_embeddings.weight", "layer.1.output.dense.weight")
case("bert", "bert", BertForSequenceClassification, BertConfig(**SIZES, max_position_embeddings=16), 0, True,
     BODY + ("layer.0.attention.self.query.weight", "layer.0.attention.self.key.weight",
             "layer.1.attention.self.value.weight", "layer.1.attention.self.value.bias",
             "layer.0.attention.output.dense.weight", "layer.0.attention.output.dense.bias"),
     ("bert.encoder.layer.{}.attention.self.value.weight", "bert.encoder.layer.{}.attention.output.dense.weight"), True)
case("mpnet", "mpnet", MPNetForSequenceClassification,
     MPNetConfig(**SIZES, max_position_embeddings=18, layer_norm_eps=1e-5), 1, False,
     BODY + ("relative_attention_bias.weight", "layer.0.attention.attn.q.weight", "layer.0.attention.attn.k.weight",
             "layer.1.attention.attn.v.weight", "layer.1.attention.attn.v.bias", "layer.0.attention.attn.o.weight"),
     ("mpnet.encoder.layer.{}.attention.attn.v.weight", "mpnet.encoder.layer.{}.attention.attn.o.weight"), False)
