"""EcoFormer cases. The authors' package is not on PyPI, so the reference here is our own, written from the paper's
description; golden/README.md says how it compares with the authors' code."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle as o
import torch
from torch import nn
from torch.nn import functional as F

from ecoformer_pvt_v2.reference import Attention, margin

HERE = o.ROOT / "ecoformer_pvt_v2"


def rows_last(conv, x):  # a convolution over [b, h, w, c]
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Inner(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)


class Mlp(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1, self.dwconv, self.fc2 = nn.Linear(dim, hidden), Inner(hidden), nn.Linear(hidden, dim)

    def forward(self, x):
        return self.fc2(F.gelu(rows_last(self.dwconv.dwconv, self.fc1(x))))


class Block(nn.Module):
    def __init__(self, dim, ratio, attn):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.mlp = attn, Mlp(dim, dim * ratio)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Patch(nn.Module):
    def __init__(self, channels, dim, kernel, stride):
        super().__init__()
        self.proj, self.norm = nn.Conv2d(channels, dim, kernel, stride, kernel // 2), nn.LayerNorm(dim)


class EcoFormer(nn.Module):
    def __init__(self, embed_dims, depths, num_heads, mlp_ratios, in_chans, nbits, m, attn_type="ecoformer"):
        super().__init__()
        self.n, d = len(depths), [in_chans, *embed_dims]
        for s in range(self.n):
            setattr(self, f"patch_embed{s + 1}", Patch(d[s], d[s + 1], 3 if s else 7, 2 if s else 4))
            attn = [Attention(d[s + 1], num_heads[s], nbits, m, attn_type if s + 1 < self.n else "msa") for _ in range(depths[s])]
            setattr(self, f"block{s + 1}", nn.ModuleList(Block(d[s + 1], mlp_ratios[s], a) for a in attn))
            setattr(self, f"norm{s + 1}", nn.LayerNorm(d[s + 1]))
        self.head = nn.Linear(d[-1], 7)

    def blocks(self):
        return [b for s in range(self.n) for b in getattr(self, f"block{s + 1}")]

    def forward(self, x):
        maps = []
        for s in range(self.n):
            patch = getattr(self, f"patch_embed{s + 1}")
            x = patch.norm(patch.proj(x).permute(0, 2, 3, 1))
            for block in getattr(self, f"block{s + 1}"):
                x = block(x)
            maps.append(getattr(self, f"norm{s + 1}")(x))
            x = maps[-1].permute(0, 3, 1, 2)
        return {"logits": self.head(x.mean((2, 3))), "maps": maps}


SHAPE = dict(embed_dims=[8, 16, 20, 24], depths=[1, 2, 1, 1], num_heads=[1, 2, 5, 4], mlp_ratios=[2, 2, 1, 1],
             in_chans=3)
GRADS = ("patch_embed1.proj.weight", "block1.0.attn.to_qk.weight", "block2.1.attn.to_v.bias",
         "block2.0.attn.to_qk.bias", "block3.0.mlp.dwconv.dwconv.weight", "block4.0.attn.qkv.weight", "norm2.weight",
         "head.weight")


def control(name, kind, grads):
    """Another attention in the hash's place."""
    shape = dict(embed_dims=[8, 16, 16, 24], depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4], mlp_ratios=[2, 2, 1, 1],
                 in_chans=3)
    args = {**shape, "qkv_bias": True, "attn_type": kind}
    loaded = o.from_buffered(EcoFormer(**shape, nbits=16, m=25, attn_type=kind), {
        "architecture": "ecoformer_pvt_v2", "num_classes": 7, "model_args": args})
    x = {"pixel_values": o.uniform(f"golden.ecoformer_pvt_v2.{name}.pixels", (2, 3, 32, 40)),
         "labels": o.integers(f"golden.ecoformer_pvt_v2.{name}.labels", (2,), 0, 7)}
    o.run_maps(HERE / name, loaded, x, loaded.module.blocks(), lambda r: r["maps"], grads,
               "tap.stages.<s>: the map behind the norm of stage s.", lambda m, kw: m(kw["pixel_values"]))
    return loaded


def case(name, size=(64, 64), note="", **hash):
    kw = {"nbits": 16, "m": 25, **hash}
    loaded = o.from_buffered(EcoFormer(**SHAPE, **kw), {
        "architecture": "ecoformer_pvt_v2", "num_classes": 7, "model_args": {**SHAPE, "qkv_bias": True, **hash}})
    x = {"pixel_values": o.uniform(f"golden.ecoformer_pvt_v2.{name}.pixels", (2, 3, *size)),
         "labels": o.integers(f"golden.ecoformer_pvt_v2.{name}.labels", (2,), 0, 7)}
    least = margin(loaded.module, x["pixel_values"])
    o.run_maps(HERE / name, loaded, x, loaded.module.blocks(), lambda r: r["maps"], GRADS,
               f"tap.stages.<s>: the map behind the norm of stage s. No sign is closer to zero than {least:.1e} of the "
               f"largest value. {note}", lambda m, kw: m(kw["pixel_values"]))


def fitted(x, at, a, top_k, steps=100, rate=5e-4, momentum=0.9):
    """Hash of unit rows x [b, heads, n, d]: anchors are rows `at` of the first image, a [heads, bits, m] the first values."""
    (_, _, n, _), bits = x.shape, a.shape[1]
    anchor, alike = x[:1, :, at], x @ x.mT
    wanted = torch.zeros_like(alike).scatter(3, alike.topk(top_k).indices, 1.0)
    left = bits * wanted.scatter(3, alike.topk(top_k, largest=False).indices, -1.0)
    apart = ((x[..., None, :] - anchor[..., None, :, :]) ** 2).sum(-1)
    kernels = (-apart / (2 * apart.mean((-1, -2), keepdim=True))).exp()
    means = kernels.mean((0, 2), keepdim=True)
    kernels = kernels - means

    def loss(y):
        return -(y * (left @ y[..., None])[..., 0]).sum(-1).mean() / (n * bits)

    a, better = a.clone(), []
    for r in range(bits):
        moving = torch.nn.Parameter(a[:, r].clone())
        descent = torch.optim.SGD([moving], lr=rate, momentum=momentum, nesterov=True)
        for _ in range(steps):
            descent.zero_grad()
            loss(torch.tanh(torch.einsum("bhnm,hm->bhn", kernels, moving) / 2)).backward()
            descent.step()
        hard = [torch.where(torch.einsum("bhnm,hm->bhn", kernels, v.detach()) > 0, 1.0, -1.0).to(x) for v in (moving, a[:, r])]
        better.append(bool(loss(hard[0]) < loss(hard[1])))
        if better[-1]:
            a[:, r] = moving.detach()
        y = hard[0] if better[-1] else hard[1]
        left = left - y[..., :, None] * y[..., None, :]
    return {"out.anchor": anchor[0], "out.means": means[0, :, 0], "out.matrix": a, "out.better": torch.tensor(better)}


def fitting(b=2, heads=2, n=40, d=8, bits=16, m=25, top_k=10):
    """Numbers of a fit; rows lie around six centres, so that some are alike."""
    draw = lambda name, shape: torch.from_numpy(o.uniform(f"golden.ecoformer_pvt_v2.fit.{name}", shape))
    rows = draw("centres", (6, heads * d))[torch.arange(b * n) % 6] + 0.5 * draw("rows", (b * n, heads * d))
    start, at = 1.5 * draw("start", (heads, bits, m)), torch.arange(m) * 3 % n
    x = F.normalize(rows.double().reshape(b, n, heads, d).transpose(1, 2), dim=-1)
    out = fitted(x, at, start.double(), top_k)
    stored = {"in.rows": rows, "in.start": start, "in.places": at.int(), **out}
    narrow = {k: v.float() if v.is_floating_point() else v.int() for k, v in stored.items()}
    o.save_file({k: v.numpy() for k, v in narrow.items()}, HERE / "fit.safetensors")
    return x, at, start, top_k, out


if __name__ == "__main__":
    fitting()
    qkv = "block1.0.attn.qkv.weight"
    control("performer", "performer", (qkv, "block1.0.attn.qkv.bias", "patch_embed1.proj.weight", "head.weight"))
    control("msa", "msa", (qkv, "head.weight"))
    case("image")
    case("odd", (59, 45), "Not square, divides by nothing; other hash sizes than the usual.", nbits=8, m=11)
