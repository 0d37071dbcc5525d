"""ConvNeXt cases."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle as o
import torch
from timm.models.convnext import ConvNeXt
from transformers import ConvNextConfig, ConvNextForImageClassification, ConvNextModel

HERE = o.ROOT / "convnext"
SHAPE = dict(hidden_sizes=[8, 12, 16], depths=[1, 2, 1], num_stages=3, image_size=32, patch_size=2, num_channels=3,
             num_labels=7)
NOTE = "out.loss: mean cross-entropy of logits against in.labels. "
GRADS = ("patch_embeddings.weight", "embeddings.layernorm.bias", "stages.1.downsampling_layer.0.weight",
         "stages.1.downsampling_layer.1.weight", "stages.1.layers.1.dwconv.weight", "stages.1.layers.1.pwconv1.weight",
         "layernorm.weight")
SCALE = ("stages.1.layers.1.layer_scale_parameter",)


def rows(t):
    return t.permute(0, 2, 3, 1)


def call(module, kw):
    maps, handles = [], []
    base = getattr(module, "convnext", module)
    stages = base.encoder.stages if hasattr(base, "encoder") else base.stages
    for stage in stages:
        handles.append(stage.register_forward_hook(lambda m, a, out: maps.append(rows(out))))
    out = module(kw["pixel_values"])
    out = {"logits": out} if torch.is_tensor(out) else dict(out.items())
    for h in handles:
        h.remove()
    if "last_hidden_state" in out:
        out["last_hidden_state"] = out["last_hidden_state"].flatten(2).transpose(1, 2)
    return {**out, "maps": maps}


def inputs(name, size, probe=None):
    x = {"pixel_values": o.uniform(f"golden.convnext.{name}.pixels", (2, 3, *size))}
    if probe:
        return {**x, "probe": o.uniform("golden.convnext.probe", probe)}
    return {**x, "labels": o.integers(f"golden.convnext.{name}.labels", (2,), 0, 7)}


def run(name, loaded, x, blocks, grads, note=""):
    o.run_maps(HERE / name, loaded, x, blocks, lambda r: r["maps"], o.first(loaded.tensors, *grads), NOTE + note, call,
               pick=lambda out: out.permute(0, 2, 3, 1))


def hf(name, cls, size=(32, 32), grads=GRADS + SCALE, probe=None, note="", **kw):
    loaded = o.from_transformers(cls, ConvNextConfig(**{**SHAPE, "layer_scale_init_value": 0.5, **kw}))
    base = getattr(loaded.module, "convnext", loaded.module)
    blocks = [layer for stage in base.encoder.stages for layer in stage.layers]
    run(name, loaded, inputs(name, size, probe), blocks, grads, note)


hf("image", ConvNextForImageClassification)
hf("encoder", ConvNextModel, probe=(2, 16, 16), grads=GRADS[:-1] + SCALE,
   note="last_hidden_state is stored as rows [b, h * w, c]. out.loss: mean over all of it * in.probe.")
hf("odd", ConvNextForImageClassification, (27, 45), note="Not square, and odd maps.")
hf("unscaled", ConvNextForImageClassification, grads=GRADS, layer_scale_init_value=0.0, hidden_act="gelu_new",
   note="No factors before the residual.")
hf("eps", ConvNextForImageClassification, grads=(), layer_norm_eps=0.05, note="Epsilon of the last norm alone.")

TIMM = ("stem.0.weight", "stem.1.bias", "stages.1.downsample.1.weight", "stages.1.blocks.1.conv_dw.weight",
        "stages.1.blocks.1.mlp.fc1.weight", "stages.1.blocks.1.gamma", "head.norm.weight", "head.fc.weight")


def timm(name, note="", **kw):
    args = dict(in_chans=3, depths=[1, 2, 1, 1], dims=[8, 12, 16, 20], **kw)
    module = ConvNeXt(num_classes=7, **args)
    config = {"architecture": "convnext", "num_classes": 7, "global_pool": "avg", "model_args": args}
    loaded = o.from_timm(module, config)
    run(name, loaded, inputs(name, (32, 32)), [b for s in module.stages for b in s.blocks], TIMM, "timm's names. " + note)


timm("timm")
timm("timm_eps", "Epsilon of all norms.", norm_eps=0.05)
