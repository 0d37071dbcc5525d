"""Activator cases. The authors' package is not on PyPI, so the reference here is our own, written from the paper's
description; golden/README.md says how it compares with the authors' code."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle as o
import torch
from torch import nn
from torch.nn import functional as F

HERE = o.ROOT / "activator"


class Block(nn.Module):
    def __init__(self, dim, hidden, only):
        super().__init__()
        self.norm, self.only = nn.LayerNorm(dim), only
        self.actgu = nn.ModuleDict({"proj_1": nn.Linear(dim, hidden), "proj_2": nn.Linear(dim, hidden),
                                    "proj_3": nn.Linear(hidden, dim), "norm": nn.LayerNorm(hidden)})
        if not only:
            net = {"0": nn.Linear(dim, hidden), "3": nn.Linear(hidden, dim)}
            self.ffn = nn.ModuleDict({"net": nn.ModuleDict(net)})

    def forward(self, x):
        unit, y = self.actgu, self.norm(x)
        gate = unit["norm"](F.gelu(unit["proj_1"](y)))
        x = x + unit["proj_3"](gate * unit["norm"](unit["proj_2"](y)))
        if self.only:
            return x
        net = self.ffn["net"]
        return x + net["3"](F.gelu(net["0"](self.norm(x))))


class Activator(nn.Module):
    def __init__(self, d_model, d_ffn, num_layers, image_size, patch_size, in_channels, only_geglu, num_classes=7):
        super().__init__()
        self.patcher = nn.Conv2d(in_channels, d_model, patch_size, patch_size)
        self.model = nn.ModuleList(Block(d_model, d_ffn, only_geglu) for _ in range(num_layers))
        self.classifier = nn.Linear(d_model, num_classes)

    def forward(self, x):
        x = self.patcher(x).flatten(2).transpose(1, 2)
        for block in self.model:
            x = block(x)
        return {"logits": self.classifier(x.mean(1))}


SHAPE = dict(d_model=24, d_ffn=40, num_layers=3, image_size=16, patch_size=4, in_channels=3, only_geglu=False)
GRADS = ("patcher.weight", "patcher.bias", "model.0.norm.weight", "model.0.actgu.norm.bias",
         "model.1.actgu.proj_1.weight", "model.2.actgu.proj_2.weight", "model.2.actgu.proj_3.bias", "classifier.weight")


def case(name, size=(16, 16), note="", grads=(), **kw):
    args = {**SHAPE, **kw}
    module = Activator(**args)
    loaded = o.from_timm(module, {"architecture": "activator", "num_classes": 7, "model_args": args})
    x = {"pixel_values": o.uniform(f"golden.activator.{name}.pixels", (2, 3, *size)),
         "labels": o.integers(f"golden.activator.{name}.labels", (2,), 0, 7)}
    o.run_maps(HERE / name, loaded, x, list(module.model), lambda r: [], GRADS + grads, note,
               lambda m, kw: m(kw["pixel_values"]))


if __name__ == "__main__":
    case("image", grads=("model.1.ffn.net.0.weight", "model.2.ffn.net.3.bias"))
    case("only_geglu", (19, 26), "Gated units alone; rows and columns behind the last whole patch are not seen.",
         only_geglu=True)
