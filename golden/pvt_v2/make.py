"""PVT v2 cases, of transformers and of timm."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle as o
import torch
from timm.models.pvt_v2 import PyramidVisionTransformerV2
from transformers import PvtV2Config, PvtV2ForImageClassification, PvtV2Model

HERE = o.ROOT / "pvt_v2"
SHAPE = dict(image_size=32, num_channels=2, hidden_sizes=[8, 16, 20], depths=[2, 1, 1], num_attention_heads=[1, 2, 5],
             sr_ratios=[4, 2, 1], mlp_ratios=[2, 2, 1], patch_sizes=[7, 3, 3], strides=[4, 2, 2], num_encoder_blocks=3,
             num_labels=7)
NOTE = ("tap.stages.<s>: the map behind the norm of stage s. out.loss: mean cross-entropy of logits against in.labels. ")
HF = ("0.patch_embedding.proj.weight", "1.patch_embedding.layer_norm.weight", "0.blocks.1.attention.query.weight",
      "0.blocks.1.attention.value.bias", "0.blocks.0.attention.spatial_reduction.weight",
      "0.blocks.0.mlp.dwconv.dwconv.weight", "1.layer_norm.weight")
TIMM = ("patch_embed.proj.weight", "stages.1.downsample.proj.weight", "stages.0.blocks.1.attn.kv.weight",
        "stages.0.blocks.0.attn.sr.weight", "stages.0.blocks.0.mlp.dwconv.bias", "stages.1.norm.weight")


def config(**kw):
    return PvtV2Config(**{**SHAPE, **kw})


def inputs(key, h=32, w=32):
    return {"pixel_values": o.uniform(f"golden.pvt_v2.{key}.pixels", (2, 2, h, w)),
            "labels": o.integers(f"golden.pvt_v2.{key}.labels", (2,), 0, 7)}


def base(module):
    return getattr(module, "pvt_v2", module)


def hf_call(module, kw):
    out = module(**kw, output_hidden_states=True)
    maps = [h.permute(0, 2, 3, 1) for h in out["hidden_states"]]
    result = {"maps": maps}
    if "logits" in out:
        result["logits"] = out["logits"]
    else:
        x = out["last_hidden_state"]  # [b, c, h, w]: rows here
        result["last_hidden_state"] = x.flatten(2).transpose(1, 2)
    return result


def hf(case, cls, c, sizes=(32, 32), note="", grads=HF):
    loaded = o.from_transformers(cls, c)
    x = inputs(case, *sizes)
    if cls is PvtV2Model:
        x.pop("labels")
        x["probe"] = o.uniform("golden.pvt_v2.probe", (2, 4, 20))
    blocks = [b for layer in base(loaded.module).encoder.layers for b in layer.blocks]
    o.run_maps(HERE / case, loaded, x, blocks, lambda r: r["maps"], o.first(loaded.tensors, *grads), NOTE + note,
               hf_call)


def timm_call(module, kw):
    maps, handles = [], []
    for stage in module.stages:
        handles.append(stage.register_forward_hook(lambda m, a, out: maps.append(out.permute(0, 2, 3, 1))))
    logits = module(kw["pixel_values"])
    for h in handles:
        h.remove()
    return {"logits": logits, "maps": maps}


def timm(case, sizes=(32, 32), note="", grads=TIMM, **kw):
    args = dict(in_chans=2, embed_dims=[8, 16, 20, 24], depths=[2, 1, 1, 1], num_heads=[1, 2, 5, 4],
                sr_ratios=[4, 2, 1, 1], mlp_ratios=[2, 2, 1, 1])
    authors = {k: kw.pop(k) for k in ("img_size", "num_stages", "patch_size", "qk_scale") if k in kw}
    args = {**args, "qkv_bias": True, **kw}
    # A bare family is the authors' constructor, whose norms have PyTorch's epsilon; timm's have 1e-6.
    module = PyramidVisionTransformerV2(num_classes=7, **args, norm_layer=torch.nn.LayerNorm)
    for block in [b for stage in module.stages for b in stage.blocks]:
        block.attn.scale = authors.get("qk_scale") or block.attn.scale
    args = {**args, **authors}
    loaded = o.from_timm(module, {"architecture": "pvt_v2", "num_classes": 7, "model_args": args})
    blocks = [b for stage in module.stages for b in stage.blocks]
    o.run_maps(HERE / case, loaded, inputs(case, *sizes), blocks, lambda r: r["maps"],
               o.first(loaded.tensors, *grads), NOTE + "timm's names. " + note, timm_call)


hf("image", PvtV2ForImageClassification, config(), grads=(*HF, "classifier.weight"))
hf("encoder", PvtV2Model, config(qkv_bias=False), grads=HF[:3],
   note="last_hidden_state is stored as rows [b, h * w, c]. out.loss: mean over all of it * in.probe.")
hf("odd", PvtV2ForImageClassification, config(), (45, 37),
   note="Not square, divides by nothing; the reduction drops the last rows and columns.")
hf("linear", PvtV2ForImageClassification, config(linear_attention=True), (64, 44),
   note="Keys from 7x7 means, of maps both larger and smaller.")
hf("eps", PvtV2ForImageClassification, config(layer_norm_eps=0.05), grads=HF[:1], note=o.EPS_NOTE)
timm("timm", grads=(*TIMM, "head.weight"))
timm("timm_odd", (45, 37), note="Not square, divides by nothing.")
timm("timm_authors", note="Arguments of the authors' constructor.", qkv_bias=False, mlp_ratios=[2.5, 2.0, 1.5, 1],
     img_size=32, num_stages=4, patch_size=16, qk_scale=0.7)
timm("timm_linear", (64, 44), linear=True)
