"""ViT cases, timm's names included."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import numpy as np
import torch
import oracle as o
from timm_names import blocks_call, check_same, folder, hf_config, to_hf
from timm.models.vision_transformer import VisionTransformer
from transformers import ViTConfig, ViTForImageClassification, ViTModel

HERE = o.ROOT / "vit"
SHAPE = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)


def config(**kw):
    return ViTConfig(**{**SHAPE, **dict(image_size=28, patch_size=4, num_channels=1, num_labels=10), **kw})


def images(case, shape, classes=None):
    inputs = {"pixel_values": o.uniform(f"golden.vit.{case}.pixels", shape)}
    if classes:
        inputs["labels"] = o.integers(f"golden.vit.{case}.labels", (shape[0],), 0, classes)
    return inputs


BODY = ("cls_token", "position_embeddings", "patch_embeddings.projection.weight", "layernorm_before.weight",
        "layer.0.attention.attention.query.weight", "layer.1.intermediate.dense.weight", "classifier.weight")
NOTE = "out.loss: mean cross-entropy against in.labels."

image = o.from_transformers(ViTForImageClassification, config())
o.run_case(HERE / "image", image, images("image", (2, 1, 28, 28), 10), o.ce_loss, o.first(image.tensors, *BODY),
           note=NOTE)
rgb = dict(image_size=32, patch_size=8, num_channels=3)
loaded = o.from_transformers(ViTForImageClassification, config(**rgb))
o.run_case(HERE / "rgb", loaded, images("rgb", (3, 3, 32, 32), 10), o.ce_loss, o.first(loaded.tensors, *BODY),
           note=NOTE)
loaded = o.from_transformers(ViTForImageClassification, config(**rgb, qkv_bias=False))
o.run_case(HERE / "no_qkv_bias", loaded, images("rgb", (3, 3, 32, 32), 10), o.ce_loss,
           o.first(loaded.tensors, *BODY), note=NOTE + " No bias in query, key and value.")
loaded = o.from_transformers(ViTForImageClassification, config(**rgb))
o.run_case(
    HERE / "interpolate", loaded, images("interpolate", (2, 3, 48, 40), 10), o.ce_loss, o.first(loaded.tensors, *BODY),
    call=lambda kw: loaded.module(**kw, output_attentions=True, interpolate_pos_encoding=True),
    note=NOTE + " Run with interpolate_pos_encoding=True: 48 rows by 40 columns on a model for 32 by 32, so the 4 x 4 "
    "position grid becomes 6 x 5 (bicubic, a = -0.75, align_corners false, no antialiasing, borders clamped).")
loaded = o.from_transformers(ViTModel, config(**rgb))
inputs = images("rgb", (3, 3, 32, 32))
inputs["probe"] = o.uniform("golden.vit.probe", (3, 17, 32))
o.run_case(HERE / "encoder", loaded, inputs, o.probe_loss, o.first(loaded.tensors, *BODY[:-1]),
           note="out.loss: mean over all elements of last_hidden_state * in.probe. pooler_output: tanh(dense(class "
           "token after the final norm)).")

# 30 pixels hold three patches of 8; the border of 6 is not read.
loaded = o.from_transformers(ViTForImageClassification, config(image_size=30, patch_size=8, num_channels=3))
o.run_case(HERE / "border", loaded, images("border", (2, 3, 30, 30), 10), o.ce_loss, o.first(loaded.tensors, *BODY),
           note=NOTE + " Sides are no multiple of the patch.")

o.memory_names(HERE / "image_v5", image, "image")

loaded = o.from_transformers(ViTForImageClassification, config(**rgb, layer_norm_eps=0.05))
o.run_case(HERE / "eps", loaded, images("rgb", (3, 3, 32, 32)), note=o.EPS_NOTE)

# timm (the AugReg checkpoints' layout): qkv in one tensor, eps 1e-6.
timm = VisionTransformer(img_size=32, patch_size=8, in_chans=3, num_classes=10, embed_dim=32, depth=2, num_heads=4,
                         mlp_ratio=2, class_token=True)
loaded = o.from_timm(timm, hf_config(config(**rgb, layer_norm_eps=1e-6), "ViTForImageClassification"))
inputs = images("rgb", (3, 3, 32, 32), 10)
stored = o.run_case(
    HERE / "timm_augreg", loaded, inputs, o.ce_loss,
    o.first(loaded.tensors, "cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.norm1.weight",
            "blocks.0.attn.qkv.weight", "blocks.1.mlp.fc1.weight", "head.weight"),
    call=blocks_call(timm),
    note=NOTE + " timm's names; rows of qkv are query, key, value, each heads x head_dim.")
check_same(ViTForImageClassification, config(**rgb, layer_norm_eps=1e-6), to_hf(loaded, "vit"), inputs, stored)

# timm's folders: what its constructor has beside plain ViT.
ARGS = dict(img_size=32, patch_size=8, in_chans=3, embed_dim=32, depth=2, num_heads=4, mlp_ratio=2)
PARTS = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.norm1.weight", "blocks.0.attn.qkv.weight",
         "blocks.1.mlp.fc1.weight", "blocks.1.ls2.gamma", "norm.weight")


def timm_case(name, classes, parts, note, **kw):
    args = {**ARGS, **kw}
    module = VisionTransformer(num_classes=classes, **args)
    loaded = o.from_timm(module, folder("vit", args, classes))
    inputs = images("rgb", (3, 3, 32, 32), 10 if classes else None)
    if not classes:
        inputs["probe"] = o.uniform("golden.vit.probe", (3, 17 + kw.get("reg_tokens", 0), 32))
    o.run_case(HERE / name, loaded, inputs, o.ce_loss if classes else o.probe_loss, o.first(loaded.tensors, *parts),
               call=blocks_call(module), note=(NOTE if classes else "out.loss: mean over all elements of "
               "last_hidden_state * in.probe. pooler_output: the class row.") + " timm's names. " + note)


timm_case("timm_scaled", 10, (*PARTS, "head.weight"), "Factors on both branches.", init_values=0.5)
timm_case("timm_dinov2", 0, PARTS, "As its DINOv2: no classes.", init_values=0.5)
timm_case("timm_registers", 0, (*PARTS, "reg_token"), "As its DINOv2 with registers: positions of patches alone.",
          init_values=0.5, reg_tokens=4, no_embed_class=True)
timm_case("timm_deit3", 10, (*PARTS, "head.weight"), "As DeiT III.", init_values=0.5, no_embed_class=True)
