"""SVT cases. The authors' package is not on PyPI, so the reference here is our own, written from the paper's
description; golden/README.md says how it compares with the authors' code and with the package of wavelets it uses."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle as o
import torch
from torch import nn
from torch.nn import functional as F

HERE = o.ROOT / "svt"
# The constructor's own; the authors' sizes have 1e-6, which the cases do not tell from it.
EPS = 1e-5
LOW = [0.55546875, 0.296875, -0.0482421875, -0.046875, 0.022265625, 0.0, -0.0017578125]
HIGH = [0.5594308035714286, -0.29975760323660716, -0.05168805803571428, 0.05564313616071428, 0.023856026785714284,
        -0.007156808035714285, -0.0018833705357142855, 0.0013419015066964285, 0.0, -7.062639508928571e-05]


def turned(taps):
    """Every second sign turned: the filter of the way back."""
    return [v * (-1) ** k for k, v in enumerate(taps)]


def along(x, taps, axis):
    """A symmetric filter along an axis, the edge repeated backwards."""
    n = x.shape[axis]
    at, reach = torch.arange(n), len(taps) - 1
    out = 0
    for k in range(-reach, reach + 1):
        i = (at + k) % (2 * n)
        out = out + taps[abs(k)] * x.index_select(axis, torch.where(i < n, i, 2 * n - 1 - i))
    return out


def split(x):
    """[b, c, h, w], even sides -> coarse part [b, c, h, w], complex maps [6, b, c, h/2, w/2]."""
    lo, hi = along(x, LOW, 3), along(x, HIGH, 3)
    first, second = [], []
    for m in (along(lo, HIGH, 2), along(hi, HIGH, 2), along(hi, LOW, 2)):
        a, b, c, d = [m[..., y::2, x::2] / 2 ** 0.5 for y in (0, 1) for x in (0, 1)]
        first.append(torch.complex(a - d, b + c))
        second.append(torch.complex(a + d, b - c))
    return along(lo, LOW, 2), torch.stack(first + second[::-1])


def join(low, high):
    maps = []
    for k in range(3):
        z, other = high[k], high[5 - k]
        m = torch.zeros_like(low)
        m[..., 0::2, 0::2], m[..., 1::2, 1::2] = z.real + other.real, other.real - z.real
        m[..., 0::2, 1::2], m[..., 1::2, 0::2] = z.imag + other.imag, z.imag - other.imag
        maps.append(m / 2 ** 0.5)
    lh, hh, hl = maps
    back_low, back_high = turned(HIGH), turned(LOW)
    lo = along(lh, back_high, 2) + along(low, back_low, 2)
    hi = along(hh, back_high, 2) + along(hl, back_low, 2)
    return along(hi, back_high, 3) + along(lo, back_low, 3)


class Scatter(nn.Module):
    def __init__(self, dim, side):
        super().__init__()
        self.complex_weight_ll = nn.Parameter(torch.zeros(dim, *side))
        for i in (1, 2):
            setattr(self, f"complex_weight_lh_{i}", nn.Parameter(torch.zeros(2, 4, dim // 4, dim // 4)))
            setattr(self, f"complex_weight_lh_b{i}", nn.Parameter(torch.zeros(2, 4, dim // 4)))

    def forward(self, x):  # [b, h, w, c]
        h, w = x.shape[1:3]
        x = F.pad(x.permute(0, 3, 1, 2), (0, w % 2, 0, h % 2), mode="replicate")
        low, high = split(x)
        gains = self.complex_weight_ll
        if gains.shape[1:] != low.shape[2:]:
            gains = F.interpolate(gains[None], low.shape[2:], mode="bilinear")[0]
        z = high.movedim(2, -1).unflatten(-1, (4, -1))
        for i in (1, 2):
            weight, bias = getattr(self, f"complex_weight_lh_{i}"), getattr(self, f"complex_weight_lh_b{i}")
            z = torch.einsum("...gd,gdk->...gk", z, torch.complex(*weight)) + torch.complex(*bias)
            z = torch.complex(F.relu(z.real), F.relu(z.imag)) if i == 1 else z
        x = join(low * gains, z.flatten(-2).movedim(-1, 2))[..., :h, :w]
        return x.permute(0, 2, 3, 1)


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def ask(self, asking, seen):
        b, n, c = asking.shape
        parts = [self.q(asking), *self.kv(seen).chunk(2, -1)]
        q, k, v = [t.reshape(b, -1, self.heads, c // self.heads).transpose(1, 2) for t in parts]
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))

    def forward(self, x):
        rows = x.flatten(1, 2)
        return self.ask(rows, rows).reshape(x.shape)


class Inner(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)


class Mlp(nn.Module):
    def __init__(self, dim, hidden, conv=True):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        if conv:
            self.dwconv = Inner(hidden)

    def forward(self, x):
        x = self.fc1(x)
        if hasattr(self, "dwconv"):
            x = self.dwconv.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.fc2(F.gelu(x))


class Block(nn.Module):
    def __init__(self, dim, mixer, ratio):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=EPS), nn.LayerNorm(dim, eps=EPS)
        self.attn, self.mlp = mixer, Mlp(dim, dim * ratio)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ClassRow(nn.Module):
    def __init__(self, dim, heads, ratio):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=EPS), nn.LayerNorm(dim, eps=EPS)
        self.attn, self.mlp = Attention(dim, heads), Mlp(dim, dim * ratio, conv=False)

    def forward(self, rows):
        row = rows.mean(1, keepdim=True)
        every = self.norm1(torch.cat([row, rows], 1))
        row = row + self.attn.ask(every[:, :1], every)
        return (row + self.mlp(self.norm2(row)))[:, 0]


class Patch(nn.Module):
    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


class Svt(nn.Module):
    def __init__(self, stem_hidden_dim, embed_dims, depths, num_heads, mlp_ratios, in_chans, img_size, token_label,
                 num_stages, num_classes=7):
        super().__init__()
        self.n, d, h = num_stages, embed_dims, stem_hidden_dim
        stem = []
        for i in range(3):
            conv = nn.Conv2d(h, h, 3, 1, 1, bias=False) if i else nn.Conv2d(in_chans, h, 7, 2, 3, bias=False)
            stem += [conv, nn.BatchNorm2d(h), nn.ReLU()]
        for s in range(self.n):
            proj = nn.Conv2d(d[s - 1] if s else h, d[s], 3, 2, 1)
            first = {} if s else {"conv": nn.Sequential(*stem)}
            setattr(self, f"patch_embed{s + 1}", Patch(**first, proj=proj, norm=nn.LayerNorm(d[s])))
            side = [v // 4 for v in img_size]
            mixers = [Attention(d[s], num_heads[s]) if s else Scatter(d[0], side) for _ in range(depths[s])]
            setattr(self, f"block{s + 1}", nn.ModuleList(Block(d[s], m, mlp_ratios[s]) for m in mixers))
            setattr(self, f"norm{s + 1}", nn.LayerNorm(d[s], eps=EPS))
        self.post_network = nn.ModuleList([ClassRow(d[-1], num_heads[-1], mlp_ratios[-1])])
        self.head = nn.Linear(d[-1], num_classes)
        self.aux_head = nn.Linear(d[-1], num_classes) if token_label else None

    def blocks(self):
        return [b for s in range(self.n) for b in getattr(self, f"block{s + 1}")]

    def forward(self, x):
        maps = []
        for s in range(self.n):
            patch, norm = getattr(self, f"patch_embed{s + 1}"), getattr(self, f"norm{s + 1}")
            x = patch.norm(patch.proj(x if s else patch.conv(x)).permute(0, 2, 3, 1))
            for block in getattr(self, f"block{s + 1}"):
                x = block(x)
            last, x = x, norm(x)
            maps.append(x)
            x = x.permute(0, 3, 1, 2)
        logits = self.head(norm(self.post_network[0](last.flatten(1, 2))))
        if self.aux_head is not None:
            logits = logits + 0.5 * self.aux_head(maps[-1].flatten(1, 2)).amax(1)
        return {"logits": logits, "maps": maps}


SHAPE = dict(stem_hidden_dim=6, embed_dims=[8, 12, 16, 24], depths=[2, 1, 1, 1], num_heads=[1, 2, 2, 3],
             mlp_ratios=[2, 2, 2, 1], in_chans=3, img_size=[64, 64], token_label=True, num_stages=4)
GRADS = ("patch_embed1.conv.0.weight", "patch_embed1.conv.4.bias", "patch_embed1.proj.weight", "head.weight",
         "block1.0.attn.complex_weight_ll", "block1.0.attn.complex_weight_lh_1", "block1.0.attn.complex_weight_lh_2",
         "block1.1.attn.complex_weight_lh_b1", "block1.1.attn.complex_weight_lh_b2",
         "block1.1.norm1.weight", "block2.0.mlp.dwconv.dwconv.weight", "block3.0.attn.kv.weight", "norm4.weight",
         "post_network.0.attn.q.weight", "post_network.0.mlp.fc2.weight")


def loaded(module, config):
    layout = {n: list(t.shape) for n, t in module.state_dict().items() if not n.endswith("num_batches_tracked")}
    module.load_state_dict({n: torch.from_numpy(o.seeded(n, s)) for n, s in layout.items()}, strict=False)
    out = o.Loaded.__new__(o.Loaded)
    out.module, out.config, out.tensors = module.eval(), config, dict(sorted(layout.items()))
    out.params, out.n_params = dict(module.named_parameters()), sum(p.numel() for p in module.parameters())
    return out


def case(name, size=(64, 64), note="", grads=(), **kw):
    args = {**SHAPE, **kw}
    model = loaded(Svt(**args), {"architecture": "svt", "num_classes": 7, "model_args": args})
    x = {"pixel_values": o.uniform(f"golden.svt.{name}.pixels", (2, 3, *size)),
         "labels": o.integers(f"golden.svt.{name}.labels", (2,), 0, 7)}
    o.run_maps(HERE / name, model, x, model.module.blocks(), lambda r: r["maps"], GRADS + grads,
               "Running statistics are tensors on disk and no parameters; the map of the last stage is behind the last "
               "norm. " + note, lambda m, kw: m(kw["pixel_values"]))


if __name__ == "__main__":
    case("image", grads=("aux_head.weight",))
    case("plain", (32, 48), "No second head.", token_label=False, img_size=[32, 48])
    case("odd", (59, 45), "Neither square nor of the trained size; the first map has an odd side.")
