"""CSWin cases. The authors' package is not on PyPI, so the reference here is our own, written from the paper's
description; golden/README.md says how it compares with the authors' code."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle as o
import torch
from torch import nn
from torch.nn import functional as F

HERE = o.ROOT / "cswin"


class Branch(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.get_v = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)


class Block(nn.Module):
    def __init__(self, dim, heads, stripe, ratio, scale):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.n, self.stripe = (1 if stripe is None else 2), stripe
        self.heads, self.scale = heads // self.n, scale
        self.attns = nn.ModuleList(Branch(dim // self.n) for _ in range(self.n))
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, int(ratio * dim)), "fc2": nn.Linear(int(ratio * dim), dim)})

    def windows(self, i, h, w):
        return (h, w) if self.stripe is None else ((h, self.stripe), (self.stripe, w))[i]

    def attend(self, qkv, i):
        b, h, w, c = qkv[0].shape
        th, tw = self.windows(i, h, w)

        def cut(t):  # [b * windows, th, tw, c]
            t = t.reshape(b, h // th, th, w // tw, tw, c).transpose(2, 3)
            return t.reshape(-1, th, tw, c)

        q, k, v = [cut(t) for t in qkv]
        place = self.attns[i].get_v(v.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        split = [t.reshape(-1, th * tw, self.heads, c // self.heads).transpose(1, 2) for t in (q, k, v)]
        mixed = F.scaled_dot_product_attention(*split, scale=self.scale).transpose(1, 2).reshape(-1, th, tw, c) + place
        return mixed.reshape(b, h // th, w // tw, th, tw, c).transpose(2, 3).reshape(b, h, w, c)

    def forward(self, x):
        parts = [t.chunk(self.n, -1) for t in self.qkv(self.norm1(x)).chunk(3, -1)]
        x = x + self.proj(torch.cat([self.attend([p[i] for p in parts], i) for i in range(self.n)], -1))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class Merge(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(dim, 2 * dim, 3, 2, 1), nn.LayerNorm(2 * dim)


class CsWin(nn.Module):
    def __init__(self, img_size, embed_dim, depth, split_size, num_heads, mlp_ratio, in_chans, qk_scale=None,
                 patch_size=4, num_classes=7):
        super().__init__()
        self.n = len(depth)
        self.stage1_conv_embed = nn.ModuleDict({"0": nn.Conv2d(in_chans, embed_dim, 7, 4, 2),
                                                "2": nn.LayerNorm(embed_dim)})
        for s in range(self.n):
            dim, whole = embed_dim << s, s + 1 == self.n or (img_size // 4) >> s == split_size[s]
            stripe = None if whole else split_size[s]
            blocks = [Block(dim, num_heads[s], stripe, mlp_ratio, qk_scale) for _ in range(depth[s])]
            setattr(self, f"stage{s + 1}", nn.ModuleList(blocks))
            if s + 1 < self.n:
                setattr(self, f"merge{s + 1}", Merge(dim))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, num_classes)

    def blocks(self):
        return [b for s in range(self.n) for b in getattr(self, f"stage{s + 1}")]

    def forward(self, x):
        maps = []
        for s in range(self.n):
            first = self.stage1_conv_embed
            conv, norm = (first["0"], first["2"]) if s == 0 else (merge.conv, merge.norm)
            x = norm(conv(x).permute(0, 2, 3, 1))
            for block in getattr(self, f"stage{s + 1}"):
                x = block(x)
            merge = getattr(self, f"merge{s + 1}", None)
            maps.append(x if merge else self.norm(x))
            x = maps[-1].permute(0, 3, 1, 2)
        return {"logits": self.head(x.mean((2, 3))), "maps": maps}


SHAPE = dict(img_size=64, embed_dim=8, depth=[1, 2, 1, 1], split_size=[1, 2, 4, 2], num_heads=[2, 4, 4, 8],
             mlp_ratio=2.0, in_chans=3)
GRADS = ("stage1_conv_embed.0.weight", "stage1_conv_embed.2.weight", "stage1.0.qkv.weight",
         "stage1.0.attns.0.get_v.weight", "stage2.1.attns.1.get_v.bias", "stage3.0.attns.0.get_v.weight",
         "stage2.0.mlp.fc1.weight", "merge1.conv.weight", "merge2.norm.weight", "stage4.0.proj.weight", "head.weight")


def case(name, size=(64, 64), note="", **kw):
    args = {**SHAPE, **kw}
    module = CsWin(**args)
    loaded = o.from_timm(module, {"architecture": "cswin", "num_classes": 7, "model_args": args})
    x = {"pixel_values": o.uniform(f"golden.cswin.{name}.pixels", (2, 3, *size)),
         "labels": o.integers(f"golden.cswin.{name}.labels", (2,), 0, 7)}
    o.run_maps(HERE / name, loaded, x, module.blocks(), lambda r: r["maps"], GRADS,
               "The map of the last stage is behind the final norm. " + note, lambda m, kw: m(kw["pixel_values"]))


if __name__ == "__main__":
    case("image", note="Stage 3 is as large as its stripe and has one window.")
    case("wide", (64, 96), "Not square, which the authors' code does not run.", split_size=[2, 4, 2, 1])
    case("arguments", (32, 32), "No stripe named for the last stage; the size of patches has no effect.", img_size=32,
         split_size=[2, 2, 1], qk_scale=0.7, patch_size=16)
