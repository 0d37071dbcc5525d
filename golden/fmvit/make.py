"""FMViT-style cases. No code and no weights of the paper are published; this is an independent twin, in another
framework and channels first, of the clean-room design that crates/zoo/src/models/fmvit.rs describes."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import numpy as np
import oracle as o
import torch
from torch import nn
from torch.nn import functional as F

HERE = o.ROOT / "fmvit"
ACTS = {"relu": F.relu, "gelu": F.gelu}


class Unit(nn.Module):
    """A convolution with its batch norm, or the norm alone."""

    def __init__(self, out, dim=None, k=1, groups=1, stride=1):
        super().__init__()
        if dim:
            self.conv = nn.Conv2d(dim, out, k, stride, k // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x):
        return self.bn(self.conv(x) if hasattr(self, "conv") else x)


class Layer(nn.Module):
    """A sum of units, or the one convolution they fold into; one of a single place is stored as a matrix."""

    def __init__(self, a, units, out, dim, k=1, groups=1, stride=1):
        super().__init__()
        self.step = dict(stride=stride, padding=k // 2, groups=groups)
        if a["deploy"]:
            shape = (out, dim) if k == 1 else (out, dim // groups, k, k)
            self.weight, self.bias = nn.Parameter(torch.empty(shape)), nn.Parameter(torch.empty(out))
        else:
            self.branches = nn.ModuleList(units)

    def forward(self, x):
        if hasattr(self, "branches"):
            return sum(b(x) for b in self.branches)
        weight = self.weight if self.weight.dim() == 4 else self.weight[:, :, None, None]
        return F.conv2d(x, weight, self.bias, **self.step)


def wide(a, out, dim, groups=1, stride=1):
    units = [Unit(out, dim, 3, groups, stride), Unit(out, dim, 1, groups, stride)]
    if out == dim and stride == 1:
        units.append(Unit(out))
    return Layer(a, units, out, dim, 3, groups, stride)


def point(a, out, dim, all_groups=(1,)):
    return Layer(a, [Unit(out, dim, 1, g) for g in all_groups], out, dim)


class Fusion(nn.Module):
    def __init__(self, a, dim):
        super().__init__()
        self.act = ACTS[a.get("hidden_act", "relu")]
        self.conv, self.out = wide(a, dim, dim, dim // a["group_width"]), nn.Linear(dim, dim)

    def forward(self, x):
        return x + each(self.out, self.act(self.conv(x)))


def each(linear, x):
    return linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Mlp(nn.Module):
    def __init__(self, a, dim):
        super().__init__()
        self.act, hidden = ACTS[a.get("hidden_act", "relu")], dim * a["mlp_ratio"]
        self.fc1, self.fc2 = point(a, hidden, dim, (1, 2, 4)), point(a, dim, hidden, (1, 2, 4))

    def forward(self, x):
        return x + self.fc2(self.act(self.fc1(x)))


class Attention(nn.Module):
    def __init__(self, a, dim, reduction):
        super().__init__()
        self.heads, self.reduction = dim // a["head_dim"], reduction
        self.q, self.kv, self.proj = point(a, dim, dim), point(a, 2 * dim, dim), nn.Linear(dim, dim)

    def forward(self, x):
        b, c, h, w = x.shape
        seen = pool(x, self.reduction)
        parts = [self.q(x), *self.kv(seen).chunk(2, 1)]
        q, k, v = [t.reshape(b, self.heads, c // self.heads, -1).transpose(2, 3) for t in parts]
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(b, c, h, w)
        return x + each(self.proj, mixed)


def pool(x, side):
    return F.avg_pool2d(x, side, ceil_mode=True, count_include_pad=False)


class Mixture(nn.Module):
    def __init__(self, a, dim, reduction):
        super().__init__()
        half, which = dim // 2, a.get("frequencies", "mixed")
        self.enter = nn.Linear(dim, half)
        self.join = nn.Linear(3 * half if which == "mixed" else half, dim)
        if which != "high":
            self.attn = Attention(a, half, reduction)
        if which != "low":
            self.high = Fusion(a, half)
        if which == "mixed":
            self.both = Fusion(a, half)

    def forward(self, x):
        low = each(self.enter, x)
        if hasattr(self, "attn"):
            low = self.attn(low)
        paths = [low]
        if hasattr(self, "high"):
            paths = [self.high(low)]
        if hasattr(self, "both"):
            paths = [low, *paths, self.both(low + paths[0])]
        return x + each(self.join, torch.cat(paths, 1))


class Block(nn.Module):
    def __init__(self, a, s, i):
        super().__init__()
        mixes = {"last": i + 1 == a["depths"][s], "all": True, "none": False}[a.get("mixtures", "last")]
        dim = a["embed_dims"][s]
        if mixes:
            self.mix = Mixture(a, dim, a["sr_ratios"][s])
        else:
            self.fuse = Fusion(a, dim)
        self.mlp = Mlp(a, dim)

    def forward(self, x):
        return self.mlp(self.mix(x) if hasattr(self, "mix") else self.fuse(x))


class FmVit(nn.Module):
    def __init__(self, num_classes=7, **a):
        super().__init__()
        d, self.depths = a["embed_dims"], a["depths"]
        self.act, h, n = ACTS[a.get("hidden_act", "relu")], d[0] // 2, len(d)
        shapes = [(h, a["in_chans"], 2), (h, h, 1), (h, h, 1), (d[0], h, 2)]
        self.stem = nn.ModuleList(wide(a, out, dim, 1, stride) for out, dim, stride in shapes)
        self.downs = nn.ModuleDict({str(s): point(a, d[s], d[s - 1]) for s in range(1, n)})
        self.blocks = nn.ModuleList(Block(a, s, i) for s in range(n) for i in range(self.depths[s]))
        self.norm = nn.Identity() if a["deploy"] else nn.BatchNorm2d(d[-1])
        self.head = nn.Linear(d[-1], num_classes)

    def forward(self, x):
        for layer in self.stem:
            x = self.act(layer(x))
        ends, maps = list(np.cumsum(self.depths)), []
        for i, block in enumerate(self.blocks):
            if i in ends:
                x = self.downs[str(ends.index(i) + 1)](pool(x, 2))
            x = block(x)
            if i + 1 in ends:
                maps.append(x.permute(0, 2, 3, 1))
        return {"logits": self.head(self.norm(x).mean((2, 3))), "maps": maps}


SHAPE = dict(embed_dims=[16, 32, 64], depths=[2, 1, 2], sr_ratios=[4, 2, 1], head_dim=8, group_width=8, mlp_ratio=2,
             img_size=64, in_chans=3, deploy=False)
GRADS = ("stem.{}", "downs.1.{}", "blocks.1.mix.attn.q.{}", "blocks.1.mix.attn.kv.{}", "blocks.1.mix.high.conv.{}",
         "blocks.3.mlp.fc1.{}")
ALL = ("blocks.1.mix.both.out.weight", "blocks.4.mix.join.bias", "head.weight")
TRAIN = ("blocks.0.fuse.conv.branches.1.conv.weight", "blocks.0.fuse.conv.branches.2.bn.weight",
         "blocks.3.mlp.fc1.branches.2.conv.weight", "stem.0.branches.1.bn.bias", "norm.weight")


def case(name, size=(64, 64), grads=(), note="", **kw):
    args = {**SHAPE, **kw}
    config = {"model_type": "fmvit", "architectures": ["FMViT"], "num_labels": 7, **args}
    model = o.from_buffered(FmVit(**args), config)
    x = {"pixel_values": o.uniform(f"golden.fmvit.{name}.pixels", (2, 3, *size)),
         "labels": o.integers(f"golden.fmvit.{name}.labels", (2,), 0, 7)}
    part = "weight" if args["deploy"] else "branches.0.conv.weight"
    grads = [g.format("0." + part if g == "stem.{}" else part) for g in GRADS] + list(grads)
    grads = [g for g in grads if g in model.params]
    o.run_maps(HERE / name, model, x, list(model.module.blocks), lambda r: r["maps"], grads, note,
               lambda m, kw: m(kw["pixel_values"]), lambda out: out.permute(0, 2, 3, 1).contiguous())


if __name__ == "__main__":
    case("image", grads=ALL + TRAIN, note="Branches of training.")
    case("deploy", (59, 45), grads=ALL, deploy=True, note="Folded layers; not square, divides by nothing.")
    case("low", (32, 32), mixtures="all", frequencies="low", hidden_act="gelu", note="Attention alone, GELU.")
    case("high", (32, 32), mixtures="all", frequencies="high", note="Convolution alone.")
    for deploy in (False, True):
        big = dict(embed_dims=[64, 128, 256, 512], depths=[3, 4, 12, 3], sr_ratios=[8, 4, 2, 1], head_dim=32,
                   group_width=32, mlp_ratio=3)
        with torch.device("meta"):
            print(deploy, sum(p.numel() for p in FmVit(1000, in_chans=3, deploy=deploy, **big).parameters()))
