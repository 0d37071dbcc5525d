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
CELLS = 7


class Unit(nn.Module):
    """A convolution with its batch norm, or the norm alone."""

    def __init__(self, out, dim=None, k=1, groups=1, stride=1):
        super().__init__()
        if dim:
            self.conv = nn.Conv2d(dim, out, k, stride, k // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x):
        return self.bn(self.conv(x) if hasattr(self, "conv") else x)


class Rep(nn.Module):
    def __init__(self, branches, deploy, out, dim, k, groups):
        super().__init__()
        if deploy:
            self.conv = nn.Conv2d(dim, out, k, 1, k // 2, groups=groups)
        else:
            self.branches = nn.ModuleList(branches)

    def forward(self, x):
        return self.conv(x) if hasattr(self, "conv") else sum(b(x) for b in self.branches)


def wide(a, dim):
    g = dim // a["group_width"]
    return Rep([Unit(dim, dim, 3, g), Unit(dim, dim, 1, g), Unit(dim)], a["deploy"], dim, dim, 3, g)


def point(a, out, dim):
    return Rep([Unit(out, dim, 1, g) for g in (1, 2, 4)], a["deploy"], out, dim, 1, 1)


class Fusion(nn.Module):
    def __init__(self, a, dim):
        super().__init__()
        self.conv, self.out = wide(a, dim), nn.Conv2d(dim, dim, 1)

    def forward(self, x):
        return x + self.out(F.relu(self.conv(x)))


class Mlp(nn.Module):
    def __init__(self, a, dim):
        super().__init__()
        self.fc1, self.fc2 = point(a, dim * a["mlp_ratio"], dim), point(a, dim, dim * a["mlp_ratio"])

    def forward(self, x):
        return x + self.fc2(F.relu(self.fc1(x)))


class Attention(nn.Module):
    def __init__(self, a, dim):
        super().__init__()
        self.heads = dim // a["head_dim"]
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        b, c, h, w = x.shape
        rows = x.flatten(2).transpose(1, 2)
        cells = F.adaptive_avg_pool2d(x, CELLS).flatten(2).transpose(1, 2)
        parts = [self.q(rows), *self.kv(cells).chunk(2, -1)]
        q, k, v = [t.reshape(b, -1, self.heads, c // self.heads).transpose(1, 2) for t in parts]
        mixed = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h * w, c))
        return x + mixed.transpose(1, 2).reshape(x.shape)


class Mixture(nn.Module):
    def __init__(self, a, dim):
        super().__init__()
        half = dim // 2
        self.enter, self.join = nn.Conv2d(dim, half, 1), nn.Conv2d(3 * half, dim, 1)
        self.attn, self.high, self.both = Attention(a, half), Fusion(a, half), Fusion(a, half)

    def forward(self, x):
        low = self.attn(self.enter(x))
        high = self.high(low)
        return x + self.join(torch.cat([low, high, self.both(low + high)], 1))


class Block(nn.Module):
    def __init__(self, a, s, i):
        super().__init__()
        dims = a["embed_dims"]
        if s and not i:
            self.down = Unit(dims[s], dims[s - 1])
        if i + 1 == a["depths"][s]:
            self.mix = Mixture(a, dims[s])
        else:
            self.fuse = Fusion(a, dims[s])
        self.mlp = Mlp(a, dims[s])

    def forward(self, x):
        if hasattr(self, "down"):
            x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
            x = self.down(F.avg_pool2d(x, 2))
        x = self.mix(x) if hasattr(self, "mix") else self.fuse(x)
        return self.mlp(x)


class FmVit(nn.Module):
    def __init__(self, num_classes=7, **a):
        super().__init__()
        d, self.depths = a["embed_dims"], a["depths"]
        h = d[0] // 2
        shapes = [(h, a["in_chans"], 2), (h, h, 1), (h, h, 1), (d[0], h, 2)]
        self.stem = nn.ModuleList(Unit(out, dim, 3, 1, stride) for out, dim, stride in shapes)
        self.blocks = nn.ModuleList(Block(a, s, i) for s, n in enumerate(self.depths) for i in range(n))
        self.norm, self.head = nn.BatchNorm2d(d[-1]), nn.Linear(d[-1], num_classes)

    def forward(self, x):
        for unit in self.stem:
            x = F.relu(unit(x))
        ends, maps = np.cumsum(self.depths) - 1, []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in ends:
                maps.append(x.permute(0, 2, 3, 1))
        return {"logits": self.head(self.norm(x).mean((2, 3))), "maps": maps}


SHAPE = dict(embed_dims=[8, 16, 24], depths=[2, 1, 2], head_dim=4, group_width=4, mlp_ratio=2, img_size=64, in_chans=3,
             deploy=False)
GRADS = ("stem.0.conv.weight", "stem.3.bn.bias", "blocks.2.down.conv.weight", "blocks.1.mix.attn.kv.weight",
         "blocks.1.mix.both.out.weight", "blocks.4.mix.join.bias", "norm.weight", "head.weight")
TRAIN = ("blocks.0.fuse.conv.branches.0.conv.weight", "blocks.0.fuse.conv.branches.2.bn.weight",
         "blocks.1.mix.high.conv.branches.1.conv.weight", "blocks.3.mlp.fc1.branches.2.conv.weight")


def loaded(module, config):
    layout = {n: list(t.shape) for n, t in module.state_dict().items() if not n.endswith("num_batches_tracked")}
    module.load_state_dict({n: torch.from_numpy(o.seeded(n, s)) for n, s in layout.items()}, strict=False)
    out = o.Loaded.__new__(o.Loaded)
    out.module, out.config, out.tensors = module.eval(), config, dict(sorted(layout.items()))
    out.params, out.n_params = dict(module.named_parameters()), sum(p.numel() for p in module.parameters())
    return out


def case(name, size=(64, 64), grads=(), note="", **kw):
    args = {**SHAPE, **kw}
    config = {"model_type": "fmvit", "architectures": ["FMViT"], "num_labels": 7, **args}
    model = loaded(FmVit(**args), config)
    x = {"pixel_values": o.uniform(f"golden.fmvit.{name}.pixels", (2, 3, *size)),
         "labels": o.integers(f"golden.fmvit.{name}.labels", (2,), 0, 7)}
    pick = lambda out: out.permute(0, 2, 3, 1).contiguous()
    o.run_maps(HERE / name, model, x, list(model.module.blocks), lambda r: r["maps"], GRADS + grads, note,
               lambda m, kw: m(kw["pixel_values"]), pick)


if __name__ == "__main__":
    case("image", grads=TRAIN, note="Branches of training.")
    case("deploy", (59, 45), deploy=True, note="Folded layers; not square, divides by nothing.")
    for deploy in (False, True):
        big = dict(embed_dims=[64, 128, 256, 512], depths=[3, 4, 12, 3], head_dim=32, group_width=32, mlp_ratio=3)
        with torch.device("meta"):
            print(deploy, sum(p.numel() for p in FmVit(1000, in_chans=3, deploy=deploy, **big).parameters()))
