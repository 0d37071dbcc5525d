"""M3ViT cases. The authors' package is not on PyPI, so the reference here is our own, written from the paper's
description and the authors' tensor names; golden/README.md says how it compares with the authors' code."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import numpy as np
import oracle as o
import torch
from torch import nn
from torch.nn import functional as F

HERE = o.ROOT / "m3vit"
FLOOR = 0.1


class Stacked(nn.Module):
    """One projection of every expert: weight [experts, out, in], bias [experts, out]."""

    def __init__(self, n, inner, out):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(n, out, inner)), nn.Parameter(torch.zeros(n, out))


class Gate(nn.Module):
    def __init__(self, wide, n):
        super().__init__()
        self.w_gate = nn.Parameter(torch.zeros(wide, n))


class Moe(nn.Module):
    def __init__(self, a):
        super().__init__()
        dim, n, hidden = a["embed_dim"], a["moe_experts"], int(a["embed_dim"] * a["moe_mlp_ratio"])
        self.top_k, self.prune = a["moe_top_k"], a["expert_prune"]
        wide = dim + max(a["gate_task_specific_dim"], 0)
        self.multi = a["multi_gate"]
        self.gate = nn.ModuleList(Gate(wide, n) for _ in range(a["gate_dim"] - dim)) if self.multi else Gate(wide, n)
        self.experts = nn.ModuleDict({"htoh4": Stacked(n, dim, hidden), "h4toh": Stacked(n, hidden, dim)})
        self.windows = None
        if a["regu_experts_fromtask"]:
            some, tasks = a["num_experts_pertask"], a["num_tasks"]
            starts = np.cumsum([int(t * (n - some) / (tasks - 1)) for t in range(tasks)])
            self.windows = [(int(s), some) for s in starts]

    def forward(self, x, seen, task, vector):
        gate = self.gate[task].w_gate if self.multi else self.gate.w_gate
        if vector is not None:
            seen = torch.cat([seen, vector.expand(*seen.shape[:-1], -1)], -1)
        first, n = self.windows[task] if self.windows else (0, gate.shape[1])
        probs = (seen @ gate[:, first:first + n]).softmax(-1)
        value, index = probs.topk(self.top_k, -1)
        if self.prune:
            value = torch.where(value > FLOOR, value, 0.0)
        share = torch.zeros(*probs.shape[:-1], gate.shape[1], dtype=x.dtype).scatter(-1, index + first, value)
        a, b = self.experts["htoh4"], self.experts["h4toh"]
        hidden = F.gelu(torch.einsum("bnd,ehd->bneh", x, a.weight) + a.bias)
        return torch.einsum("bne,bned->bnd", share, torch.einsum("bneh,edh->bned", hidden, b.weight) + b.bias)


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))


class Block(nn.Module):
    def __init__(self, a, i):
        super().__init__()
        dim = a["embed_dim"]
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.sparse, self.ahead = Attention(dim, a["num_heads"]), i % 2 == 1, a["gate_input_ahead"]
        hidden = int(dim * a["mlp_ratio"])
        dense = {"fc1": nn.Linear(dim, hidden), "fc2": nn.Linear(hidden, dim)}
        self.mlp = Moe(a) if self.sparse else nn.ModuleDict(dense)

    def forward(self, x, task, vector):
        came = x
        x = x + self.attn(self.norm1(x))
        y = self.norm2(x)
        if self.sparse:
            return x + self.mlp(y, came if self.ahead else y, task, vector)
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](y)))


class TaskVector(nn.Module):
    def __init__(self, tasks, dim):
        super().__init__()
        self.fc1, self.fc2, self.norm = nn.Linear(tasks, dim), nn.Linear(dim, dim), nn.LayerNorm(dim, eps=1e-6)
        self.tasks = tasks

    def forward(self, task):
        one = F.one_hot(torch.tensor(task), self.tasks).to(self.fc1.weight.dtype)
        return self.norm(self.fc2(F.gelu(self.fc1(one))))


class Encoder(nn.Module):
    def __init__(self, **a):
        super().__init__()
        dim, (h, w), p = a["embed_dim"], a["img_size"], a["patch_size"]
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(a["in_chans"], dim, p, p)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (h // p) * (w // p), dim))
        if a["gate_task_specific_dim"] > 0:
            self.gate_task_represent = TaskVector(a["gate_dim"] - dim, a["gate_task_specific_dim"])
        self.blocks = nn.ModuleList(Block(a, i) for i in range(a["depth"]))

    def forward(self, x, task):
        x = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        vector = self.gate_task_represent(task) if hasattr(self, "gate_task_represent") else None
        for block in self.blocks:
            x = block(x, task, vector)
        return x


class Decoder(nn.Module):
    def __init__(self, dim, width, channels):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        for i in range(4):
            setattr(self, f"conv_{i}", nn.Conv2d(width if i else dim, width, 3, padding=1))
            setattr(self, f"syncbn_fc_{i}", nn.BatchNorm2d(width))
        self.conv_4 = nn.Conv2d(width, channels, 1)

    def forward(self, x, grid, size):
        x = self.norm(x[:, 1:]).transpose(1, 2).reshape(len(x), -1, *grid)
        for i in range(4):
            x = F.relu(getattr(self, f"syncbn_fc_{i}")(getattr(self, f"conv_{i}")(x)))
            x = self.conv_4(x) if i == 3 else x
            x = F.interpolate(x, scale_factor=2, mode="bilinear")
        return F.interpolate(x, size, mode="bilinear")


class MultiTask(nn.Module):
    def __init__(self, args, tasks, task_channels, decoder_width):
        super().__init__()
        self.backbone, self.patch, self.tasks = Encoder(**args), args["patch_size"], tasks
        pairs = zip(tasks, task_channels)
        self.decoders = nn.ModuleDict({t: Decoder(args["embed_dim"], decoder_width, n) for t, n in pairs})

    def forward(self, x, task):
        h, w = x.shape[2:]
        rows = self.backbone(x, task)
        return self.decoders[self.tasks[task]](rows, (h // self.patch, w // self.patch), (h, w))


BASE = dict(img_size=[32, 48], patch_size=8, in_chans=3, embed_dim=24, depth=4, num_heads=3, mlp_ratio=2.0,
            moe_mlp_ratio=1.0, moe_experts=6, moe_top_k=3, gate_dim=27, gate_task_specific_dim=-1, multi_gate=True,
            regu_experts_fromtask=False, num_experts_pertask=-1, num_tasks=-1, gate_input_ahead=False,
            expert_prune=False)
HEADS = dict(tasks=["semseg", "depth", "edge"], task_channels=[5, 1, 2], decoder_width=12)


def fill(module, config, named):
    """Weights by name; `named`: every expert under a name of its own, as our files have it."""
    layout, values = {}, {}
    for name, t in module.state_dict().items():
        shape = list(t.shape)
        if name.endswith("num_batches_tracked"):
            continue
        if named and ".experts." in name:
            front, back = name.split(".experts.")
            parts = [f"{front}.experts.{e}.{back}" for e in range(shape[0])]
            layout.update({part: shape[1:] for part in parts})
            values[name] = np.stack([o.seeded(part, shape[1:]) for part in parts])
        else:
            layout[name], values[name] = shape, o.seeded(name, shape)
    module.load_state_dict({n: torch.from_numpy(v) for n, v in values.items()}, strict=False)
    out = o.Loaded.__new__(o.Loaded)
    out.module, out.config, out.tensors = module.eval(), config, dict(sorted(layout.items()))
    out.params, out.n_params = dict(module.named_parameters()), sum(p.numel() for p in module.parameters())
    return out


def case(name, task, grads, heads=False, named=False, note="", **kw):
    args = {**BASE, **kw}
    if heads:
        module = MultiTask(args, **HEADS)
        config = {"model_type": "m3vit", "architectures": ["MultiTaskModel"], **args, **HEADS}
    else:
        module, config = Encoder(**args), {"architecture": "m3vit", "model_args": args}
    loaded = fill(module, config, named)
    x = {"pixel_values": o.uniform(f"golden.m3vit.{name}.pixels", (2, 3, *args["img_size"]))}

    def call(m, kw):
        out = m(kw["pixel_values"], task)
        return {"logits": out} if heads else {"last_hidden_state": out}

    with torch.no_grad():
        shape = tuple(next(iter(call(module, {"pixel_values": torch.from_numpy(x["pixel_values"])}).values())).shape)
    x["probe"] = o.uniform(f"golden.m3vit.{name}.probe", shape)
    encoder = module.backbone if heads else module
    o.run_maps(HERE / name, loaded, x, list(encoder.blocks), lambda r: [], grads, note, call)
    extra = {"read_only": not named}
    if task:
        extra["point"] = {"experts": {"router": "task", "task": task}}
    o.amend(HERE / name, extra)


GRADS = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight", "blocks.1.attn.qkv.weight",
         "blocks.1.norm2.weight", "blocks.1.mlp.experts.htoh4.weight", "blocks.3.mlp.experts.h4toh.bias")

if __name__ == "__main__":
    case("encoder", 0, GRADS + ("blocks.1.mlp.gate.0.w_gate",), note="The authors' names: experts stacked.")
    case("shared", 0, GRADS + ("blocks.3.mlp.gate.w_gate",), multi_gate=False, gate_dim=-1, gate_input_ahead=True,
         expert_prune=True, note="One gate that reads the input of the block; experts at or below 0.1 count nothing.")
    case("vector", 2, GRADS + ("blocks.3.mlp.gate.w_gate", "gate_task_represent.fc1.weight",
                               "gate_task_represent.norm.bias"), multi_gate=False, gate_task_specific_dim=5,
         note="One gate that reads a vector of the task, the third.")
    case("window", 1, GRADS + ("blocks.3.mlp.gate.w_gate",), multi_gate=False, gate_dim=-1, regu_experts_fromtask=True,
         num_tasks=2, num_experts_pertask=4, note="The second task chooses among the last four experts.")
    case("tasks", 2, tuple("backbone." + g for g in GRADS) + ("decoders.edge.conv_0.weight",
         "decoders.edge.syncbn_fc_2.weight", "decoders.edge.conv_4.bias", "backbone.blocks.3.mlp.gate.2.w_gate"),
         heads=True, note="The authors' names of the whole model; the third task.")
    case("named", 1, ("decoders.depth.norm.weight", "decoders.depth.conv_3.weight",
                      "backbone.blocks.3.mlp.gate.1.w_gate"), heads=True, named=True,
         note="Every expert under a name of its own; the second task.")
