"""Twins cases, of timm; with EcoFormer's attention in its blocks by our own reference of it."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle as o
import torch
from ecoformer_pvt_v2.reference import Attention, margin
from timm.models.twins import Block, Twins

HERE = o.ROOT / "twins"
SHAPE = dict(in_chans=2, embed_dims=[8, 16, 20], depths=[2, 3, 1], num_heads=[1, 2, 5], mlp_ratios=[2, 2, 1],
             sr_ratios=[4, 2, 1])
NOTE = ("tap.blocks.<i> behind the convolution of positions where there is one. tap.stages.<s>: the map at the end of "
        "stage s, the last one behind the norm. out.loss: mean cross-entropy of logits against in.labels. ")
GRADS = ("patch_embeds.0.proj.weight", "patch_embeds.1.norm.weight", "pos_block.0.proj.0.weight",
         "pos_block.1.proj.0.bias", "blocks.0.1.attn.kv.weight", "blocks.0.1.attn.sr.weight", "blocks.0.1.attn.norm.bias",
         "blocks.1.0.mlp.fc1.weight", "norm.weight", "head.weight")


def inputs(key, h=32, w=32):
    return {"pixel_values": o.uniform(f"golden.twins.{key}.pixels", (2, 2, h, w)),
            "labels": o.integers(f"golden.twins.{key}.labels", (2,), 0, 7)}


def ends(module):
    """What each block of ours ends with: the first of a stage has the convolution of positions behind it."""
    return [module.pos_block[s] if i == 0 else b for s, stage in enumerate(module.blocks) for i, b in enumerate(stage)]


def call(module, kw):
    maps, handles, sizes = [], [], []
    for embed in module.patch_embeds:
        handles.append(embed.register_forward_hook(lambda m, a, out: sizes.append(out[1])))
    for stage, pos in zip(module.blocks, module.pos_block):
        last = stage[-1] if len(stage) > 1 else pos
        handles.append(last.register_forward_hook(lambda m, a, out: maps.append(out)))
    logits = module(kw["pixel_values"])
    for h in handles:
        h.remove()
    maps[-1] = module.norm(maps[-1])
    return {"logits": logits, "maps": [m.reshape(m.shape[0], *s, -1) for m, s in zip(maps, sizes)]}


def run(case, loaded, x, grads, note):
    o.run_maps(HERE / case, loaded, x, ends(loaded.module), lambda r: r["maps"], o.first(loaded.tensors, *grads),
               NOTE + note, call)


def timm(case, sizes=(32, 32), note="", grads=GRADS, **kw):
    args = {**SHAPE, **kw}
    module = Twins(num_classes=7, **args)
    run(case, o.from_timm(module, {"architecture": "twins", "num_classes": 7, "model_args": args}),
        inputs(case, *sizes), grads, note)


class Whole(torch.nn.Module):
    """An attention over maps in the place of one over rows."""

    def __init__(self, attention):
        super().__init__()
        for name, module in attention.named_children():
            setattr(self, name, module)
        self.heads, self.kind = attention.heads, attention.kind

    def forward(self, x, size):
        b, n, c = x.shape
        return Attention.forward(self, x.reshape(b, *size, c)).reshape(b, n, c)


class CodedBlock(Block):
    def __init__(self, dim, num_heads, sr_ratio=1, ws=None, **kw):
        super().__init__(dim, num_heads, sr_ratio=sr_ratio, ws=1, **kw)
        self.attn = Whole(Attention(dim, num_heads, 16, 25, "ecoformer" if sr_ratio > 1 else "msa"))


def coded(case, sizes=(48, 40)):
    args = {**SHAPE, "wss": [3, 2, 2]}
    loaded = o.from_buffered(Twins(num_classes=7, block_cls=CodedBlock, **args), {
        "architecture": "twins", "num_classes": 7, "model_args": {**args, "attn_type": "ecoformer"}})
    x = inputs(case, *sizes)
    least = margin(loaded.module, x["pixel_values"])
    grads = ("blocks.0.1.attn.to_v.weight", "blocks.1.0.attn.proj.weight", "blocks.2.0.attn.qkv.weight", "head.weight")
    run(case, loaded, x, grads, f"No sign is closer to zero than {least:.1e} of the largest value.")


timm("svt", wss=[3, 2, 2], grads=(*GRADS, "blocks.0.0.attn.qkv.weight"))
timm("svt_odd", (45, 70), wss=[3, 4, 3], note="Not square, windows filled up; patches drop the last rows and columns.")
timm("pcpvt", (40, 32), note="No windows.")
coded("ecoformer")
with torch.device("meta"):
    small = dict(embed_dims=[64, 128, 256, 512], depths=[2, 2, 10, 4], num_heads=[2, 4, 8, 16])
    count = sum(p.numel() for p in Twins(block_cls=CodedBlock, **small).parameters())
    print("alt-gvt-small-ecoformer", count)
