"""ResNet cases."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle as o
import torch
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel

HERE = o.ROOT / "resnet"
SHAPE = dict(embedding_size=8, hidden_sizes=[8, 12, 16], depths=[1, 2, 1], num_channels=3, num_labels=7)
NOTE = ("Running statistics are tensors on disk and no parameters. out.loss: mean cross-entropy of logits against "
        "in.labels. ")
GRADS = ("embedder.embedder.convolution.weight", "embedder.embedder.normalization.bias",
         "stages.0.layers.0.layer.0.convolution.weight", "stages.1.layers.0.shortcut.convolution.weight",
         "stages.1.layers.0.shortcut.normalization.weight", "stages.1.layers.1.layer.1.convolution.weight",
         "stages.2.layers.0.layer.1.normalization.weight")


def rows(t):
    return t.permute(0, 2, 3, 1)


def call(module, kw):
    maps, handles = [], []
    for stage in getattr(module, "resnet", module).encoder.stages:
        handles.append(stage.register_forward_hook(lambda m, a, out: maps.append(rows(out))))
    out = dict(module(kw["pixel_values"]).items())
    for h in handles:
        h.remove()
    if "last_hidden_state" in out:
        out["last_hidden_state"] = out["last_hidden_state"].flatten(2).transpose(1, 2)
        out["pooler_output"] = out["pooler_output"].flatten(1)
    return {**out, "maps": maps}


def case(name, cls, size=(36, 48), probe=None, grads=GRADS, note="", **kw):
    config = ResNetConfig(**{**SHAPE, **kw})
    module = cls(config)
    config.architectures = [cls.__name__]
    loaded = o.from_buffered(module, config.to_diff_dict() | {"model_type": "resnet"})
    loaded.config = {k: v for k, v in loaded.config.items() if k not in ("id2label", "label2id")} | {"num_labels": 7}
    x = {"pixel_values": o.uniform(f"golden.resnet.{name}.pixels", (2, 3, *size))}
    if probe:
        x["probe"] = o.uniform("golden.resnet.probe", probe)
    else:
        x["labels"] = o.integers(f"golden.resnet.{name}.labels", (2,), 0, 7)
    layers = [layer for stage in getattr(module, "resnet", module).encoder.stages for layer in stage.layers]
    o.run_maps(HERE / name, loaded, x, layers, lambda r: r["maps"], o.first(loaded.tensors, *grads), NOTE + note, call,
               pick=rows)


case("image", ResNetForImageClassification, grads=(*GRADS, "classifier.1.weight"))
case("basic", ResNetForImageClassification, layer_type="basic", note="Two convolutions in a layer.")
case("encoder", ResNetModel, (37, 52), probe=(2, 12, 16), note="last_hidden_state is stored as rows [b, h * w, c]. out.loss: mean "
     "over all of it * in.probe. Odd maps.")
case("early", ResNetForImageClassification, downsample_in_bottleneck=True, downsample_in_first_stage=True,
     hidden_act="gelu", note="The first convolution of a layer has the stride, in every stage.")
