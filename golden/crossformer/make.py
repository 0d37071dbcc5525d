"""CrossFormer cases. The authors' package is not on PyPI, so the reference here is our own, written from the papers'
description; golden/README.md says how it compares with the authors' code."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle as o
import torch
from torch import nn
from torch.nn import functional as F

HERE = o.ROOT / "crossformer"


def rows_last(conv, x):  # a convolution over [b, h, w, c]
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def side_by_side(kernels, channels, dim, stride):
    last = len(kernels) - 1
    return nn.ModuleList(nn.Conv2d(channels, dim // 2 ** min(i + 1, last), k, stride, (k - stride) // 2)
                         for i, k in enumerate(kernels))


class Embed(nn.Module):
    def __init__(self, kernels, channels, dim, norm):
        super().__init__()
        self.projs = side_by_side(kernels, channels, dim, kernels[0])
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()

    def forward(self, x):
        return self.norm(torch.cat([rows_last(conv, x) for conv in self.projs], -1))


class Merge(nn.Module):
    def __init__(self, kernels, dim):
        super().__init__()
        self.reductions, self.norm = side_by_side(kernels, dim, 2 * dim, 2), nn.LayerNorm(dim)

    def forward(self, x):
        x = self.norm(x)
        return torch.cat([rows_last(conv, x) for conv in self.reductions], -1)


class Place(nn.Module):
    """Bias of every pair of places of a window, [heads, n, n]."""

    def __init__(self, dim, heads):
        super().__init__()
        self.pos_proj = nn.Linear(2, dim)
        for i, out in ((1, dim), (2, dim), (3, heads)):
            setattr(self, f"pos{i}", nn.Sequential(nn.LayerNorm(dim), nn.ReLU(), nn.Linear(dim, out)))

    def forward(self, h, w):
        at = torch.cartesian_prod(torch.arange(h), torch.arange(w)).to(self.pos_proj.weight.dtype)
        apart = at[:, None] - at[None]  # every pair on its own: slow and plain
        return self.pos3(self.pos2(self.pos1(self.pos_proj(apart)))).permute(2, 0, 1)


class Attention(nn.Module):
    def __init__(self, dim, heads, bias, scale):
        super().__init__()
        self.qkv, self.proj, self.pos = nn.Linear(dim, 3 * dim, bias), nn.Linear(dim, dim), Place(dim // 16, heads)
        self.heads, self.scale = heads, scale or (dim // heads) ** -0.5

    def forward(self, x, shape, valid):  # [b, groups, n, c], [groups, n]
        b, groups, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, groups, n, 3, self.heads, -1).permute(3, 0, 1, 4, 2, 5)
        scores = q @ k.transpose(-1, -2) * self.scale + self.pos(*shape)
        scores = scores.masked_fill(~valid[:, None, None], -torch.inf)
        # A group beyond the edge has nobody to look at and is thrown away.
        return self.proj((scores.softmax(-1).nan_to_num() @ v).transpose(2, 3).reshape(b, groups, n, c))


class Block(nn.Module):
    def __init__(self, args, stage, i, group):
        super().__init__()
        dim = args["embed_dim"] << stage
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = Attention(dim, args["num_heads"][stage], args.get("qkv_bias", True), args.get("qk_scale"))
        hidden = int(dim * args["mlp_ratio"][stage])
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, hidden), "fc2": nn.Linear(hidden, dim)})
        self.group, self.far, self.interval = group, i % 2 == 1, args["crs_interval"][stage]
        self.centred, self.masked = args.get("pad_type", 0) == 1, not args.get("no_mask", False)
        self.adaptive = args.get("adaptive_interval", False)
        if args.get("use_acl", False) and i % 3 == 2 and i + 1 < args["depths"][stage]:
            self.ex_conv, self.ex_ln = nn.Conv2d(dim, dim, 3, padding=1, groups=dim), nn.LayerNorm(dim)

    def mix(self, x):
        b, h, w, c = x.shape
        g, apart = (self.group, self.group), 1
        if min(h, w) <= self.group:
            g = (h, w)
        elif self.far:
            apart = -(-max(h, w) // self.group) if self.adaptive else self.interval
        stretch = (g[0] * apart, g[1] * apart)
        more = [-side % s for side, s in zip((h, w), stretch)]
        before = [m // 2 if self.centred else 0 for m in more]
        pad = (before[1], more[1] - before[1], before[0], more[0] - before[0])
        at = F.pad(torch.arange(h * w).reshape(h, w) + 1, pad)  # 0 is beyond the edge
        index = torch.stack([at[y + dy:y + stretch[0]:apart, x + dx:x + stretch[1]:apart].flatten()
                             for y in range(0, at.shape[0], stretch[0]) for x in range(0, at.shape[1], stretch[1])
                             for dy in range(apart) for dx in range(apart)])
        rows = torch.cat([torch.zeros_like(x[:, :1, 0]), x.reshape(b, h * w, c)], 1)
        valid = index > 0 if self.masked else torch.ones_like(index, dtype=torch.bool)
        mixed = self.attn(rows[:, index], g, valid)
        back = torch.empty(h * w, dtype=torch.long)
        back[index[index > 0] - 1] = torch.arange(index.numel()).reshape(index.shape)[index > 0]
        return mixed.reshape(b, -1, c)[:, back].reshape(b, h, w, c)

    def forward(self, x):
        x = x + self.mix(self.norm1(x))
        x = x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))
        return self.ex_ln(rows_last(self.ex_conv, x)) if hasattr(self, "ex_conv") else x


class Stage(nn.Module):
    def __init__(self, args, stage, groups):
        super().__init__()
        self.blocks = nn.ModuleList(Block(args, stage, i, g) for i, g in enumerate(groups))
        if stage + 1 < len(args["depths"]):
            self.downsample = Merge(args["merge_size"][stage], args["embed_dim"] << stage)


class CrossFormer(nn.Module):
    """`groups`: side of the groups of every block; what `group_type` makes of group_size is tested in the model."""

    def __init__(self, args, groups):
        super().__init__()
        dim, n = args["embed_dim"], len(args["depths"])
        self.patch_embed = Embed(args["patch_size"], args["in_chans"], dim, args.get("patch_norm", True))
        if args.get("ape"):
            side = args["img_size"] // args["patch_size"][0]
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, side * side, dim))
        self.layers = nn.ModuleList(Stage(args, s, groups[s]) for s in range(n))
        self.norm, self.head = nn.LayerNorm(dim << (n - 1)), nn.Linear(dim << (n - 1), 7)

    def blocks(self):
        return [b for layer in self.layers for b in layer.blocks]

    def forward(self, x):
        x, maps = self.patch_embed(x.permute(0, 2, 3, 1)), []
        if hasattr(self, "absolute_pos_embed"):
            x = x + self.absolute_pos_embed.reshape(1, *x.shape[1:])
        for layer in self.layers:
            for block in layer.blocks:
                x = block(x)
            maps.append(x)
            x = layer.downsample(x) if hasattr(layer, "downsample") else x
        maps[-1] = self.norm(x)
        return {"logits": self.head(maps[-1].mean((1, 2))), "maps": maps}


SHAPE = dict(img_size=64, patch_size=[4, 8, 16, 32], in_chans=3, embed_dim=48, depths=[2, 2, 1, 1],
             num_heads=[2, 3, 4, 6], group_size=[3, 3, 2, 7], crs_interval=[2, 2, 1, 1], mlp_ratio=[1.0, 1.0, 0.5, 0.5],
             merge_size=[[2, 4], [2, 4], [2, 4]])
PLACE = [f"layers.{{}}.blocks.{{}}.attn.pos.{part}.{kind}" for kind in ("weight", "bias")
         for part in ("pos_proj", "pos1.0", "pos1.2", "pos2.0", "pos2.2", "pos3.0")]
GRADS = ("patch_embed.projs.1.weight", *[p.format(0, 0) for p in PLACE], *[p.format(1, 1) for p in PLACE],
         "layers.1.blocks.1.attn.pos.pos3.2.weight",
         "layers.1.blocks.1.attn.qkv.weight", "layers.0.downsample.norm.weight", "layers.1.downsample.reductions.0.bias",
         "layers.1.blocks.0.mlp.fc1.bias", "head.weight")


def case(name, size=(64, 64), note="", groups=None, grads=(), n=1, **kw):
    args = {**SHAPE, **kw}
    module = CrossFormer(args, groups or [[g] * d for g, d in zip(args["group_size"], args["depths"])])
    loaded = o.from_timm(module, {"architecture": "crossformer", "num_classes": 7, "model_args": args})
    x = {"pixel_values": o.uniform(f"golden.crossformer.{name}.pixels", (n, 3, *size)),
         "labels": o.integers(f"golden.crossformer.{name}.labels", (n,), 0, 7)}
    o.run_maps(HERE / name, loaded, x, module.blocks(), lambda r: r["maps"], (*GRADS, *grads),
               "The map of the last stage is behind the final norm. " + note, lambda m, kw: m(kw["pixel_values"]))


PLUS = dict(depths=[1, 2, 4, 1], group_size=[4, 4, 2, 2], mlp_ratio=[1.0, 0.5, 0.5, 0.5], use_acl=True)

if __name__ == "__main__":
    case("image", n=2, note="Groups that do not divide the maps: places beyond the edge.")
    case("plus", grads=("layers.2.blocks.2.ex_conv.weight", "layers.2.blocks.2.ex_ln.weight"), **PLUS,
         note="CrossFormer++: larger groups in deeper stages, a cooling layer behind the third block of stage 3.")
    case("arguments", groups=[[4, 6], [4, 5], [4, 4], [4]], depths=[2, 2, 2, 1], group_type="linear", pad_type=1,
         no_mask=True, adaptive_interval=True, qkv_bias=True, qk_scale=0.3, patch_norm=False, patch_size=[4, 8],
         merge_size=[[2], [2, 4, 6], [4]], note="Every argument that is not at its default.")
    case("positions", (32, 32), "Learned positions.", grads=("absolute_pos_embed",), img_size=32, ape=True)
    case("wide", (60, 92), note="Not square and of another size than the trained one: an odd row is left out.")
