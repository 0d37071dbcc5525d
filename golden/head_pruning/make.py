"""Head pruning cases: toy models of transformers with masked heads (and, for BERT, with heads really taken out).

`order` lists the heads of each attention (of T5's in the encoder, then of each block of the decoder its own and that to the
source), the most important first; of `n` heads max(1, floor(keep * n + 0.5)) stay. `derived` are
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
from transformers import (BertConfig, BertForSequenceClassification, MPNetConfig, MPNetForSequenceClassification, T5Config,
                          T5ForConditionalGeneration)

HERE = o.ROOT / "head_pruning"
SIZES = dict(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, num_labels=3)
HEADS, DEPTH = 4, 2
ORDER = [[2, 0, 3, 1], [1, 3, 0, 2]]
KEEPS = (0.75, 0.5, 0.1)


def count(keep):
    return max(1, int(np.floor(keep * HEADS + 0.5)))


def kept(order, keep):
    return [sorted(heads[:count(keep)]) for heads in order]


def by_norms(loaded, attentions):
    order, margin = [], np.inf
    for values, out in attentions:
        v, w = (o.seeded(name, loaded.tensors[name]).astype(np.float64) for name in (values, out))
        squares = [(m.reshape(HEADS, -1) ** 2).sum(1) for m in (v, w.T)]
        norms = np.sqrt(squares[0] * squares[1])
        order.append(np.argsort(-norms, kind="stable").tolist())
        margin = min(margin, np.diff(np.sort(norms)).min() / norms.max())
    assert margin > 1e-4, margin
    return order


def mask(heads):
    out = torch.zeros(len(heads), HEADS)
    for i, own in enumerate(heads):
        out[i, own] = 1
    return out


def by_block(heads):
    return {"head_mask": mask(heads)}


def by_stack(heads):
    read, written = heads[:DEPTH], heads[DEPTH:]
    return {"head_mask": mask(read), "decoder_head_mask": mask(written[::2]), "cross_attn_head_mask": mask(written[1::2])}


def run(module, inputs, masks):
    given = {k: torch.from_numpy(v) for k, v in inputs.items() if k != "labels"}
    logits = module(**given, **masks).logits
    return logits.reshape(-1, logits.shape[-1])


def case(name, loaded, inputs, order, masks, grads, attentions, cut=False):
    stored = {"in." + k: v for k, v in inputs.items()}
    for keep in KEEPS:
        heads = kept(order, keep)
        loaded.module.zero_grad()
        logits = run(loaded.module, inputs, masks(heads))
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
                assert (run(pruned, inputs, {}) - logits).abs().max() < 1e-6
        wide = copy.deepcopy(loaded.module).double()
        with torch.no_grad():
            assert (run(wide, inputs, masks(heads)) - logits).abs().max() < 1e-6
    derived = by_norms(loaded, attentions)
    o.write(HERE / name, {
        "config": loaded.config, "tensors": loaded.tensors, "n_params": loaded.n_params, "order": order,
        "kept": {str(k): kept(order, k) for k in KEEPS}, "derived": {str(k): kept(derived, k) for k in KEEPS},
        "note": "Logits, loss and (at 0.5) gradients with a head mask of transformers 4.57.1; see make.py."}, stored)
    print(name, derived)


def classifier(name, cls, config, pad, types, grads, values, out, cut):
    inputs = o.with_labels(o.text_inputs(name, pad, token_types=types), f"golden.head_pruning.{name}.labels", 3, False)
    attentions = [(values.format(i), out.format(i)) for i in range(DEPTH)]
    case(name, o.from_transformers(cls, config), inputs, ORDER, by_block, grads, attentions, cut)


BODY = ("word_embeddings.weight", "layer.1.output.dense.weight")
classifier("bert", BertForSequenceClassification, BertConfig(**SIZES, max_position_embeddings=16), 0, True,
     BODY + ("layer.0.attention.self.query.weight", "layer.0.attention.self.key.weight",
             "layer.1.attention.self.value.weight", "layer.1.attention.self.value.bias",
             "layer.0.attention.output.dense.weight", "layer.0.attention.output.dense.bias"),
     "bert.encoder.layer.{}.attention.self.value.weight", "bert.encoder.layer.{}.attention.output.dense.weight", True)
classifier("mpnet", MPNetForSequenceClassification,
     MPNetConfig(**SIZES, max_position_embeddings=18, layer_norm_eps=1e-5), 1, False,
     BODY + ("relative_attention_bias.weight", "layer.0.attention.attn.q.weight", "layer.0.attention.attn.k.weight",
             "layer.1.attention.attn.v.weight", "layer.1.attention.attn.v.bias", "layer.0.attention.attn.o.weight"),
     "mpnet.encoder.layer.{}.attention.attn.v.weight", "mpnet.encoder.layer.{}.attention.attn.o.weight", False)

# Heads that are together narrower than the rows, and targets of one length, whose logits stand row by row.
T5 = T5Config(vocab_size=100, d_model=32, d_kv=6, d_ff=64, num_layers=DEPTH, num_decoder_layers=DEPTH, num_heads=HEADS,
              relative_attention_num_buckets=8, relative_attention_max_distance=16, decoder_start_token_id=0)
TARGET = o.integers("golden.head_pruning.t5.target", (3, 6), 5, 100)
TARGET[:, 0] = 0
ATTENTIONS = [f"encoder.block.{i}.layer.0.SelfAttention" for i in range(DEPTH)]
for i in range(DEPTH):
    ATTENTIONS += [f"decoder.block.{i}.layer.0.SelfAttention", f"decoder.block.{i}.layer.1.EncDecAttention"]
case("t5", o.from_transformers(T5ForConditionalGeneration, T5),
     {**o.text_inputs("t5", 0, token_types=False), "decoder_input_ids": TARGET,
      "labels": o.integers("golden.head_pruning.t5.labels", (TARGET.size,), 0, 100)},
     [[2, 0, 3, 1], [1, 3, 0, 2], [0, 3, 1, 2], [3, 2, 0, 1], [1, 0, 2, 3], [2, 1, 3, 0]], by_stack,
     ("shared.weight", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
      "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "encoder.block.1.layer.0.SelfAttention.q.weight",
      "decoder.block.0.layer.0.SelfAttention.k.weight", "decoder.block.0.layer.1.EncDecAttention.k.weight",
      "decoder.block.1.layer.1.EncDecAttention.v.weight", "decoder.block.1.layer.1.EncDecAttention.o.weight"),
     [(f"{at}.v.weight", f"{at}.o.weight") for at in ATTENTIONS])
