"""RMT cases. The authors' package is not on PyPI, so the reference here is our own, written from the paper's
description; golden/README.md says how it compares with the authors' code."""
import math
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle as o
import torch
from torch import nn
from torch.nn import functional as F

HERE = o.ROOT / "rmt"


def rows_last(f, x):  # over [b, h, w, c]
    return f(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Depthwise(nn.Module):
    def __init__(self, dim, kernel):
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)

    def forward(self, x):
        return rows_last(self.conv, x)


class Retention(nn.Module):
    def __init__(self, dim, heads, initial, reach, split):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = [nn.Linear(dim, dim) for _ in range(4)]
        self.lepe, self.heads, self.split = Depthwise(dim, 5), heads, split
        self.fades = [math.log(1 - 2 ** (-initial - reach * h / heads)) for h in range(heads)]

    def turn(self, x):
        """[b, h, w, heads, d] as complex numbers, turned by the place."""
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
        angles = 10000.0 ** -torch.linspace(0, 1, pairs.shape[-1], dtype=torch.float64)
        place = torch.arange(x.shape[1] * x.shape[2], dtype=torch.float64).reshape(*x.shape[1:3], 1, 1)
        turned = pairs * torch.polar(torch.ones_like(place * angles), place * angles).to(pairs.dtype)
        return torch.view_as_real(turned).flatten(-2)

    def attend(self, q, k, v, apart):  # [.., n, heads, d] within n, apart [n, n]
        scores = torch.einsum("...qhd,...khd->...hqk", q, k) / math.sqrt(q.shape[-1])
        scores = scores + torch.tensor(self.fades, dtype=q.dtype)[:, None, None] * apart
        return torch.einsum("...hqk,...khd->...qhd", scores.softmax(-1), v)

    def forward(self, x):
        b, h, w, c = x.shape
        v = self.v_proj(x)
        near = self.lepe(v)
        q, k, v = [t.reshape(b, h, w, self.heads, -1) for t in (self.q_proj(x), self.k_proj(x), v)]
        q, k = self.turn(q), self.turn(k)
        line = [(torch.arange(n)[:, None] - torch.arange(n)).abs() for n in (h, w)]
        if self.split:
            v = self.attend(q, k, v, line[1])
            q, k, v = [t.transpose(1, 2) for t in (q, k, v)]
            mixed = self.attend(q, k, v, line[0]).transpose(1, 2)
        else:
            apart = (line[0][:, None, :, None] + line[1][None, :, None, :]).reshape(h * w, h * w)
            mixed = self.attend(*[t.flatten(1, 2) for t in (q, k, v)], apart)
        return self.out_proj(mixed.reshape(b, h, w, c) + near)


class Ffn(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1, self.fc2, self.dwconv = nn.Linear(dim, hidden), nn.Linear(hidden, dim), Depthwise(hidden, 3)

    def forward(self, x):
        x = F.gelu(self.fc1(x))
        return self.fc2(x + self.dwconv(x))


class Block(nn.Module):
    def __init__(self, a, s):
        super().__init__()
        dim = a["embed_dims"][s]
        self.retention = Retention(dim, a["num_heads"][s], a["init_values"][s], a["heads_ranges"][s],
                                   a["chunkwise_recurrents"][s])
        self.retention_layer_norm, self.final_layer_norm = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.ffn, self.pos = Ffn(dim, int(dim * a["mlp_ratios"][s])), Depthwise(dim, 3)
        self.gamma_1, self.gamma_2 = 1, 1
        if a["layerscales"][s]:
            self.gamma_1, self.gamma_2 = [nn.Parameter(torch.ones(1, 1, 1, dim)) for _ in range(2)]

    def forward(self, x):
        x = x + self.pos(x)
        x = x + self.gamma_1 * self.retention(self.retention_layer_norm(x))
        return x + self.gamma_2 * self.ffn(self.final_layer_norm(x))


class Down(nn.Module):
    def __init__(self, dim, to):
        super().__init__()
        self.reduction, self.norm = nn.Conv2d(dim, to, 3, 2, 1), nn.BatchNorm2d(to)

    def forward(self, x):
        return rows_last(lambda x: self.norm(self.reduction(x)), x)


class Stage(nn.Module):
    def __init__(self, a, s):
        super().__init__()
        self.blocks = nn.ModuleList(Block(a, s) for _ in range(a["depths"][s]))
        if s + 1 < len(a["depths"]):
            self.downsample = Down(*a["embed_dims"][s:s + 2])


class Stem(nn.Module):
    def __init__(self, channels, dim):
        super().__init__()
        parts, width = [], channels
        for i, to in enumerate((dim // 2, dim // 2, dim, dim)):
            parts += [nn.Conv2d(width, to, 3, 2 - i % 2, 1), nn.BatchNorm2d(to), nn.GELU()]
            width = to
        self.proj = nn.Sequential(*parts[:-1])


class Rmt(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.patch_embed = Stem(a["in_chans"], a["embed_dims"][0])
        self.layers = nn.ModuleList(Stage(a, s) for s in range(len(a["depths"])))
        self.proj, self.norm = nn.Linear(a["embed_dims"][-1], a["projection"]), nn.BatchNorm2d(a["projection"])
        self.head = nn.Linear(a["projection"], 7)

    def blocks(self):
        return [b for layer in self.layers for b in layer.blocks]

    def forward(self, x):
        x, maps = self.patch_embed.proj(x).permute(0, 2, 3, 1), []
        for layer in self.layers:
            for block in layer.blocks:
                x = block(x)
            maps.append(x)
            x = layer.downsample(x) if hasattr(layer, "downsample") else x
        x = F.silu(rows_last(self.norm, self.proj(x)))
        return {"logits": self.head(x.mean((1, 2))), "maps": maps}


SHAPE = dict(in_chans=3, embed_dims=[8, 12, 24, 32], depths=[1, 2, 2, 1], num_heads=[2, 3, 3, 4],
             init_values=[2, 1.5, 2, 2], heads_ranges=[4, 4, 6, 5.5], mlp_ratios=[2, 2, 1.5, 1],
             chunkwise_recurrents=[True, True, False, False], layerscales=[False, True, True, False], projection=40)
GRADS = ("patch_embed.proj.0.weight", "patch_embed.proj.7.weight", "layers.0.blocks.0.pos.conv.weight",
         "layers.0.blocks.0.retention.q_proj.weight", "layers.1.blocks.1.retention.lepe.conv.weight",
         "layers.2.blocks.0.retention.k_proj.bias", "layers.1.blocks.0.gamma_1", "layers.0.downsample.norm.weight",
         "layers.1.blocks.0.ffn.dwconv.conv.bias", "layers.3.blocks.0.final_layer_norm.weight", "norm.bias",
         "head.weight")


def case(name, size=(64, 64), note="", **kw):
    args = {**SHAPE, **kw}
    loaded = o.from_buffered(Rmt(args), {"architecture": "rmt", "num_classes": 7, "model_args": args})
    x = {"pixel_values": o.uniform(f"golden.rmt.{name}.pixels", (2, 3, *size)),
         "labels": o.integers(f"golden.rmt.{name}.labels", (2,), 0, 7)}
    o.run_maps(HERE / name, loaded, x, loaded.module.blocks(), lambda r: r["maps"], GRADS, note,
               lambda m, kw: m(kw["pixel_values"]))


if __name__ == "__main__":
    case("image", note="Rows and columns in stages 1 and 2, whole maps in 3 and 4; factors in stages 2 and 3.")
    case("odd", (59, 45), "Not square, divides by nothing; rows and columns everywhere but in stage 1.",
         chunkwise_recurrents=[False, True, True, True])
