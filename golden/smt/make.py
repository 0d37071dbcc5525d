"""SMT cases. The authors' package is not on PyPI, so the reference here is our own, written from the paper's
description; golden/README.md says how it compares with the authors' code."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle as o
import torch
from torch import nn
from torch.nn import functional as F

HERE = o.ROOT / "smt"


class Modulation(nn.Module):
    def __init__(self, dim, parts, bias, expand):
        super().__init__()
        self.parts = parts
        self.v, self.s, self.proj = nn.Linear(dim, dim, bias), nn.Linear(dim, dim, bias), nn.Linear(dim, dim)
        for i in range(parts):
            width, k = dim // parts, 3 + 2 * i
            setattr(self, f"local_conv_{i + 1}", nn.Conv2d(width, width, k, padding=k // 2, groups=width))
        self.proj0 = nn.Conv2d(dim, expand * dim, 1, groups=dim // parts)
        self.bn = nn.BatchNorm2d(expand * dim)
        self.proj1 = nn.Conv2d(expand * dim, dim, 1)

    def forward(self, x):  # [b, h, w, c]
        slices = self.s(x).permute(0, 3, 1, 2).chunk(self.parts, 1)
        seen = [getattr(self, f"local_conv_{i + 1}")(part) for i, part in enumerate(slices)]
        seen = torch.stack(seen, 2).flatten(1, 2)  # channel g of every part side by side
        gate = self.proj1(F.gelu(self.bn(self.proj0(seen)))).permute(0, 2, 3, 1)
        return self.proj(gate * self.v(x))


class Attention(nn.Module):
    def __init__(self, dim, heads, bias, scale):
        super().__init__()
        self.heads, self.scale = heads, scale
        self.q, self.kv, self.proj = nn.Linear(dim, dim, bias), nn.Linear(dim, 2 * dim, bias), nn.Linear(dim, dim)
        self.local_conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x):
        b, h, w, c = x.shape
        rows = x.reshape(b, h * w, c)
        k, v = self.kv(rows).chunk(2, -1)
        split = [t.reshape(b, h * w, self.heads, c // self.heads).transpose(1, 2) for t in (self.q(rows), k, v)]
        mixed = F.scaled_dot_product_attention(*split, scale=self.scale).transpose(1, 2).reshape(b, h, w, c)
        local = self.local_conv(v.reshape(b, h, w, c).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.proj(mixed + local)


class Inner(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)


class Mlp(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1, self.fc2, self.dwconv = nn.Linear(dim, hidden), nn.Linear(hidden, dim), Inner(hidden)

    def forward(self, x):
        x = self.fc1(x)
        return self.fc2(F.gelu(x + self.dwconv.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)))


class Block(nn.Module):
    def __init__(self, dim, mixer, ratio, factors):
        super().__init__()
        if factors:
            self.gamma_1, self.gamma_2 = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.ones(dim))
        else:
            self.gamma_1 = self.gamma_2 = 1.0
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = mixer, Mlp(dim, int(dim * ratio))

    def forward(self, x):
        x = x + self.gamma_1 * self.attn(self.norm1(x))
        return x + self.gamma_2 * self.mlp(self.norm2(x))


class Patch(nn.Module):
    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


class Smt(nn.Module):
    def __init__(self, embed_dims, depths, ca_num_heads, sa_num_heads, ca_attentions, mlp_ratios, head_conv, in_chans,
                 qkv_bias=False, qk_scale=None, use_layerscale=False, expand_ratio=2, num_stages=4, num_classes=7):
        super().__init__()
        self.n = len(depths)
        d = embed_dims
        stem = nn.Sequential(nn.Conv2d(in_chans, d[0], head_conv, 2, head_conv // 2, bias=False), nn.BatchNorm2d(d[0]),
                             nn.ReLU(), nn.Conv2d(d[0], d[0], 2, 2))
        for s in range(self.n):
            patch = {"conv": stem} if s == 0 else {"proj": nn.Conv2d(d[s - 1], d[s], 3, 2, 1)}
            setattr(self, f"patch_embed{s + 1}", Patch(**patch, norm=nn.LayerNorm(d[s])))
            gated = [ca_attentions[s] == 1 and not (s == 2 and i % 2) for i in range(depths[s])]
            mixers = [Modulation(d[s], ca_num_heads[s], qkv_bias, expand_ratio) if g else
                      Attention(d[s], sa_num_heads[s], qkv_bias, qk_scale) for g in gated]
            blocks = [Block(d[s], m, mlp_ratios[s], use_layerscale) for m in mixers]
            setattr(self, f"block{s + 1}", nn.ModuleList(blocks))
            setattr(self, f"norm{s + 1}", nn.LayerNorm(d[s], eps=1e-6))
        self.head = nn.Linear(d[-1], num_classes)

    def blocks(self):
        return [b for s in range(self.n) for b in getattr(self, f"block{s + 1}")]

    def forward(self, x):
        maps = []
        for s in range(self.n):
            patch = getattr(self, f"patch_embed{s + 1}")
            x = patch.norm((patch.conv if s == 0 else patch.proj)(x).permute(0, 2, 3, 1))
            for block in getattr(self, f"block{s + 1}"):
                x = block(x)
            x = getattr(self, f"norm{s + 1}")(x)
            maps.append(x)
            x = x.permute(0, 3, 1, 2)
        return {"logits": self.head(x.mean((2, 3))), "maps": maps}


SHAPE = dict(embed_dims=[8, 12, 16, 24], depths=[1, 2, 2, 1], ca_num_heads=[4, 4, 4, -1], sa_num_heads=[-1, -1, 2, 3],
             ca_attentions=[1, 1, 1, 0], mlp_ratios=[2, 2, 2, 1], head_conv=3, in_chans=3, qkv_bias=True)
GRADS = ("patch_embed1.conv.0.weight", "patch_embed1.conv.1.weight", "patch_embed1.conv.3.bias",
         "patch_embed2.proj.weight", "block1.0.attn.local_conv_3.weight", "block1.0.attn.proj0.weight",
         "block2.1.attn.bn.bias", "block2.0.attn.proj1.weight", "block3.1.attn.kv.weight",
         "block3.1.attn.local_conv.bias", "block4.0.mlp.dwconv.dwconv.weight", "norm2.weight", "head.weight")


def case(name, size=(64, 64), note="", grads=GRADS, **kw):
    args = {**SHAPE, **kw}
    model = o.from_buffered(Smt(**args), {"architecture": "smt", "num_classes": 7, "model_args": args})
    x = {"pixel_values": o.uniform(f"golden.smt.{name}.pixels", (2, 3, *size)),
         "labels": o.integers(f"golden.smt.{name}.labels", (2,), 0, 7)}
    o.run_maps(HERE / name, model, x, model.module.blocks(), lambda r: r["maps"], grads,
               "Running statistics are tensors on disk and no parameters. " + note, lambda m, kw: m(kw["pixel_values"]))


if __name__ == "__main__":
    case("image")
    case("odd", (59, 45), "Not square, divides by nothing.", head_conv=7)
    case("arguments", (32, 32), "Every argument that is not at its default.",
         (*GRADS, "block1.0.gamma_1", "block4.0.gamma_2"), qkv_bias=False, qk_scale=0.7, use_layerscale=True, expand_ratio=3,
         mlp_ratios=[2.5, 1.5, 2.0, 1], num_stages=4)
