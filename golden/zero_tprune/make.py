"""Zero-TPrune cases: a reference of the pruning rules, in f64 on the f32 attention probabilities and keys.

After block `block` of a plan entry has finished, each image loses patch tokens by the block's attention A_h [n, n] (rows
are queries and sum to 1, class token included) and keys K [n, heads * head_dim]:

1. per head s = 1/n, then rank_iters times s <- A^T s;
2. heads count whose population variance of n*s over all tokens lies in var_range (all heads if none does);
3. score(i) = sqrt(mean over counting heads of (n * s_h(i))^2);
4. patch tokens are ranked by score, highest first, ties lower index first;
5. p patches, k = max(1, floor(keep * p + 0.5)), drop = p - k, r = min(floor(similar * drop), |A|);
6. B = first ceil(p / 2) of the ranking, A = the others; of A the r tokens with the largest max-over-B cosine of keys go
   (ties lower index first);
7. attention restricted to the survivors (class token included), rows renormalised, steps 1-3 again; the lowest scored
   patches go until k remain (ties keep the lower index);
8. survivors stay in their original order behind the class token.

Every decision must have a relative margin, so that f32 code takes the same ones.
"""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import math

import numpy as np
import torch
import oracle as o
from transformers import ViTConfig, ViTForImageClassification

HERE = o.ROOT / "zero_tprune"
MARGIN = 1e-4


class Margins:
    def __init__(self):
        self.least = {}

    def cut(self, what, order, values, count):
        """Smallest relative gap between what is taken (first `count` of order) and what is not."""
        if 0 < count < len(order):
            a, b = values[order[count - 1]], values[order[count]]
            self.note(what, abs(a - b) / max(abs(a), abs(b)))

    def note(self, what, gap):
        assert gap > MARGIN, (what, gap)
        self.least[what] = min(gap, self.least.get(what, math.inf))


def rank(probs, iters, var_range, margins, seen):
    """Scores [n] of the tokens from probs [heads, n, n]."""
    heads, n, _ = probs.shape
    s = np.full((heads, n), 1.0 / n)
    for _ in range(iters):
        s = np.einsum("hqk,hq->hk", probs, s)
    variance = (n * s).var(axis=1)
    low, high = var_range
    for v in variance:
        margins.note("variance", min(abs(v - low) / low, abs(v - high) / high))
    use = (variance >= low) & (variance <= high)
    seen["variance"].extend(variance.tolist())
    seen["heads"].append(int(use.sum()))
    if not use.any():
        use[:] = True
    return np.sqrt(((n * s[use]) ** 2).mean(axis=0))


def prune(probs, keys, entry, margins, seen):
    """Kept tokens (indices into the present rows, class token first)."""
    probs, keys = probs.astype(np.float64), keys.astype(np.float64)
    args = entry["rank_iters"], entry["var_range"], margins, seen
    p = probs.shape[1] - 1
    k = max(1, math.floor(entry["keep"] * p + 0.5))
    drop = p - k
    f32 = np.float32  # counts must not hang on the last bit of keep or similar
    assert k == max(1, math.floor(f32(entry["keep"]) * f32(p) + f32(0.5))), entry
    assert math.floor(entry["similar"] * drop) == math.floor(f32(entry["similar"]) * f32(drop)), entry
    score = rank(probs, *args)
    order = sorted(range(1, p + 1), key=lambda i: (-score[i], i))
    half = (p + 1) // 2
    b, a = order[:half], order[half:]
    r = min(math.floor(entry["similar"] * drop), len(a))
    gone = set()
    if r:
        margins.cut("ranking", order, score, half)
        unit = keys / np.linalg.norm(keys, axis=1, keepdims=True)
        nearest = dict(zip(a, (unit[a] @ unit[b].T).max(axis=1)))
        by_likeness = sorted(a, key=lambda i: (-nearest[i], i))
        margins.cut("likeness", by_likeness, nearest, r)
        gone = set(by_likeness[:r])
    left = [0] + [i for i in range(1, p + 1) if i not in gone]
    if len(left) - 1 > k:
        small = probs[:, left][:, :, left]
        small = small / small.sum(axis=2, keepdims=True)
        score = rank(small, *args)
        order = sorted(range(1, len(left)), key=lambda i: (-score[i], i))
        margins.cut("importance", order, score, k)
        left = [0] + [left[i] for i in sorted(order[:k])]
    return left


def run(module, pixels, plan, heads):
    """Taps, logits, kept patches of the pruned model."""
    body, batch = module.vit, pixels.shape[0]
    margins, seen = Margins(), {"variance": [], "heads": []}
    plan = {e["block"]: e for e in plan}
    stored, caught = {}, {}
    with torch.no_grad():
        x = body.embeddings(torch.from_numpy(pixels))
        stored["tap.stem"] = x.numpy()
        origin = np.tile(np.arange(x.shape[1]), (batch, 1))  # row -> token of the whole image
        for i, layer in enumerate(body.layers):
            attention = layer.attention
            hooks = [attention.register_forward_hook(lambda m, a, out: caught.update(probs=out[1])),
                     attention.k_proj.register_forward_hook(lambda m, a, out: caught.update(keys=out))]
            x = layer(x, None)
            for h in hooks:
                h.remove()
            stored[f"tap.blocks.{i}"] = x.numpy()
            if i in plan:
                left = np.array([
                    prune(caught["probs"][b].numpy(), caught["keys"][b].numpy(), plan[i], margins, seen)
                    for b in range(batch)])
                x = torch.stack([x[b, left[b]] for b in range(batch)])
                origin = np.take_along_axis(origin, left, axis=1)
                assert (origin[:, 0] == 0).all()
                stored[f"kept.{i}"] = origin[:, 1:] - 1
        stored["out.logits"] = module.classifier(body.layernorm(x)[:, 0]).numpy()
    return stored, margins, seen


def entry(block, keep, rank_iters, similar, low=0.01, high=0.7):
    return {"block": block, "keep": keep, "rank_iters": rank_iters, "similar": similar, "var_range": [low, high]}


NARROW = (0.02, 0.08)
CASES = {
    "plain": ([entry(0, 0.75, 30, 0.3), entry(2, 0.5, 5, 0.3)], "Two steps, the heads of the usual range."),
    "once": ([entry(1, 0.5, 1, 0.5)], "One step, one iteration, half of the drop by likeness."),
    "narrow": ([entry(0, 0.7, 10, 0.3, *NARROW), entry(1, 0.6, 10, 0.3, *NARROW)],
               "A range that rejects some heads."),
    "no_heads": ([entry(1, 0.6, 5, 0.25, 100.0, 200.0)], "No head lies in the range, so all of them count."),
    "importance": ([entry(0, 0.6, 8, 0.0)], "similar = 0: by importance alone."),
    "likeness": ([entry(0, 0.3, 8, 1.0)], "similar = 1 and a drop above half: r stops at |A|, importance does the rest."),
    "one_left": ([entry(1, 0.001, 5, 0.3)], "k = max(1, 0)."),
    "every_block": ([entry(0, 0.9, 5, 0.3), entry(1, 0.9, 5, 0.3), entry(2, 0.9, 5, 0.3), entry(3, 0.9, 5, 0.3)],
                    "After every block, the last included."),
    "keep_all": ([entry(0, 1.0, 30, 0.3), entry(2, 1.0, 5, 0.3)], "keep = 1 drops nothing: the logits are those of the whole model."),
}

loaded = o.from_transformers(ViTForImageClassification, ViTConfig(
    hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=4,
    num_channels=1, num_labels=10))
pixels = o.uniform("golden.zero_tprune.pixels", (3, 1, 32, 32))
# Smooth halves beside noise, so that some patches are alike.
pixels[:, :, :, 16:] = pixels[:, :, :, 16:] * np.float32(0.25) + np.float32(0.5)
with torch.no_grad():
    whole = loaded.module(torch.from_numpy(pixels)).logits.numpy()
for case, (plan, note) in CASES.items():
    stored, margins, seen = run(loaded.module, pixels, plan, 4)
    if case == "keep_all":
        assert np.abs(stored["out.logits"] - whole).max() < 1e-6
        for i in (0, 2):
            assert (stored[f"kept.{i}"] == np.arange(64)).all()
    if case != "plain":  # the other cases are about what is kept
        stored = {k: v for k, v in stored.items() if k != "tap.stem" and k != "tap.blocks.0"}
        stored = {k: v for k, v in stored.items() if not k.startswith("tap.") or k == "tap.blocks.3"}
    stored = {"in.pixel_values": pixels, **stored}
    o.write(HERE / case, {
        "config": loaded.config, "tensors": loaded.tensors, "n_params": loaded.n_params, "tolerance": o.TOLERANCE,
        "note": note + " kept.{block}: patch indices of the whole image, class token not counted.",
        "plan": plan, "margins": margins.least,
    }, stored)
    v = np.array(seen["variance"])
    print(case, "kept", [stored[k].shape[1] for k in stored if k.startswith("kept")], "heads", seen["heads"],
          f"variance {v.min():.3f}..{v.max():.3f}", {k: f"{m:.1e}" for k, m in margins.least.items()},
          f"logits moved {np.abs(stored['out.logits'] - whole).max():.2f}")
