"""EcoFormer's attention and its controls, written from the paper's description (see golden/README.md)."""
import math

import torch
from torch import nn
from torch.nn import functional as F


class Sign(torch.autograd.Function):
    """Signs whose gradient is that of a value cut to -1..1."""

    @staticmethod
    def forward(ctx, y):
        ctx.save_for_backward(y)
        return y.sign()

    @staticmethod
    def backward(ctx, g):
        return g * (ctx.saved_tensors[0].abs() < 1)


class Hash(nn.Module):
    def __init__(self, heads, dim, bits, anchors):
        super().__init__()
        for name, shape in (("A", (heads, bits, anchors)), ("mvec", (1, heads, 1, anchors)),
                            ("anchor", (1, heads, anchors, dim))):
            self.register_buffer(name, torch.zeros(shape))
        self.margin, self.varies = None, None

    def forward(self, x):  # [b, heads, n, d]
        apart = ((x[..., None, :] - self.anchor[..., None, :, :]) ** 2).sum(-1)
        kernels = (-apart / (2 * apart.mean((-1, -2), keepdim=True))).exp() - self.mvec
        y = torch.einsum("bhnm,hkm->bhnk", kernels, self.A)
        self.margin = float((y.abs() / y.abs().amax()).detach().min())
        self.varies = float((y.sign().mean(2).abs() < 1).float().mean())
        return Sign.apply(y)


class RandomFeatures(nn.Module):
    """Positive random features (arXiv 2009.14794); the largest logarithm is that of the image."""

    def __init__(self, dim):
        super().__init__()
        self.register_buffer("projection_matrix", torch.zeros(int(dim * math.log(dim)), dim))

    def forward(self, x, over):
        x = x * x.shape[-1] ** -0.25
        along = x @ self.projection_matrix.T
        return (along - (x * x).sum(-1, keepdim=True) / 2 - along.amax(over, keepdim=True)).exp() + 1e-4


class Attention(nn.Module):
    def __init__(self, dim, heads, bits, anchors, kind):
        super().__init__()
        self.heads, self.kind, self.proj = heads, kind, nn.Linear(dim, dim)
        if kind == "ecoformer":
            self.to_qk, self.to_v = nn.Linear(dim, dim), nn.Linear(dim, dim)
            self.fast_attention = nn.ModuleDict({"ksh": Hash(heads, dim // heads, bits, anchors)})
        else:
            self.qkv = nn.Linear(dim, 3 * dim)
        if kind == "performer":
            self.fast_attention = RandomFeatures(dim // heads)

    def forward(self, x):
        b, h, w, c = x.shape

        def split(t):
            return t.reshape(b, h * w, self.heads, -1).transpose(1, 2)

        if self.kind == "performer":
            q, k, v = [split(t) for t in self.qkv(x).chunk(3, -1)]
            weights = self.fast_attention(q, -1) @ self.fast_attention(k, (1, 2, 3)).transpose(-1, -2)
            mixed = weights @ v / weights.sum(-1, keepdim=True)
        elif self.kind == "ecoformer":
            codes = self.fast_attention["ksh"](F.normalize(split(self.to_qk(x)), dim=-1))
            v, always = split(self.to_v(x)), codes.shape[-1] + 1
            weights = codes @ codes.transpose(-1, -2)  # every pair, where the model needs none
            mixed = (weights @ v + always * v) / (weights + always).sum(-1, keepdim=True)
        else:
            mixed = F.scaled_dot_product_attention(*[split(t) for t in self.qkv(x).chunk(3, -1)])
        return self.proj(mixed.transpose(1, 2).reshape(b, h, w, c))


def margin(module, pixels):
    """How close to zero a value comes before its sign, relative to the largest: f32 moves one by about 1e-7 of that."""
    with torch.no_grad():
        module(torch.from_numpy(pixels))
    hashes = [m for m in module.modules() if isinstance(m, Hash)]
    least = min(m.margin for m in hashes)
    print("margin", least, "bits that differ between rows", [round(m.varies, 2) for m in hashes])
    assert least > 5e-7, least
    return least
