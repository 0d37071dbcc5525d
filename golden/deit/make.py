"""DeiT cases, timm's names included."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle as o
from timm_names import blocks_call, check_same, folder, hf_config, to_hf
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from transformers import (
    DeiTConfig, DeiTForImageClassification, DeiTForImageClassificationWithTeacher, DeiTModel, ViTConfig,
    ViTForImageClassification,
)

HERE = o.ROOT / "deit"
SHAPE = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32,
             patch_size=8, num_channels=3, num_labels=10)


def config(**kw):
    return DeiTConfig(**{**SHAPE, **kw})


def images(labels=True):
    inputs = {"pixel_values": o.uniform("golden.deit.pixels", (3, 3, 32, 32))}
    if labels:
        inputs["labels"] = o.integers("golden.deit.labels", (3,), 0, 10)
    return inputs


BODY = ("cls_token", "distillation_token", "position_embeddings", "patch_embeddings.projection.weight",
        "layernorm_before.weight", "layer.0.attention.attention.query.weight", "layer.1.intermediate.dense.weight")
NOTE = "out.loss: mean cross-entropy of logits against in.labels. "
loaded = o.from_transformers(DeiTForImageClassification, config())
o.run_case(HERE / "image", loaded, images(), o.ce_loss, o.first(loaded.tensors, *BODY, "classifier.weight"),
           note=NOTE + "The distillation token is there but only the class token is classified.")
loaded = o.from_transformers(DeiTForImageClassificationWithTeacher, config())
o.run_case(HERE / "teacher", loaded, images(), o.ce_loss,
           o.first(loaded.tensors, *BODY, "cls_classifier.weight", "distillation_classifier.weight"),
           note=NOTE + "logits = (cls_logits + distillation_logits) / 2.")
o.memory_names(HERE / "teacher_v5", loaded, "teacher")
loaded = o.from_transformers(DeiTModel, config())
inputs = images(labels=False)
inputs["probe"] = o.uniform("golden.deit.probe", (3, 18, 32))
o.run_case(HERE / "encoder", loaded, inputs, o.probe_loss, o.first(loaded.tensors, *BODY),
           note="out.loss: mean over all elements of last_hidden_state * in.probe. pooler_output: tanh(dense(class "
           "token after the final norm)).")

# 30 by 21 pixels hold 3 by 2 patches of 8; the border is not read.
loaded = o.from_transformers(DeiTForImageClassification, config(image_size=[30, 21]))
inputs = {**images(), "pixel_values": o.uniform("golden.deit.border.pixels", (3, 3, 30, 21))}
o.run_case(HERE / "border", loaded, inputs, o.ce_loss, o.first(loaded.tensors, *BODY, "classifier.weight"),
           note=NOTE + "Sides are no multiple of the patch.")

loaded = o.from_transformers(DeiTForImageClassificationWithTeacher, config(layer_norm_eps=0.05))
o.run_case(HERE / "eps", loaded, images(labels=False), note=o.EPS_NOTE)

SIZES = dict(img_size=32, patch_size=8, in_chans=3, num_classes=10, embed_dim=32, depth=2, num_heads=4, mlp_ratio=2)
TIMM = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.norm1.weight", "blocks.0.attn.qkv.weight",
        "blocks.1.mlp.fc1.weight", "head.weight")
plain = VisionTransformer(**SIZES)
loaded = o.from_timm(plain, hf_config(config(layer_norm_eps=1e-6), "DeiTForImageClassification"))
stored = o.run_case(
    HERE / "timm_plain", loaded, images(), o.ce_loss, o.first(loaded.tensors, *TIMM), call=blocks_call(plain),
    note=NOTE + "timm's names. A plain DeiT has no distillation token (pos_embed has 1 + patches rows): among the "
    "modules of transformers ViTForImageClassification computes it, DeiTForImageClassification does not.",
    extra={"computed_by": "ViTForImageClassification"})
check_same(ViTForImageClassification, ViTConfig(**SHAPE, layer_norm_eps=1e-6), to_hf(loaded, "vit"), images(), stored)
distilled = VisionTransformerDistilled(**SIZES)
loaded = o.from_timm(distilled, hf_config(config(layer_norm_eps=1e-6), "DeiTForImageClassificationWithTeacher"))
stored = o.run_case(
    HERE / "timm_distilled", loaded, images(), o.ce_loss,
    o.first(loaded.tensors, *TIMM, "dist_token", "head_dist.weight"), call=blocks_call(distilled),
    note=NOTE + "timm's names. logits = (head + head_dist) / 2, as timm has it outside distilled training.")
check_same(DeiTForImageClassificationWithTeacher, config(layer_norm_eps=1e-6), to_hf(loaded, "deit"), images(), stored)

named = VisionTransformerDistilled(**{**SIZES, "img_size": 40})
args = {k: v for k, v in {**SIZES, "img_size": 40}.items() if k != "num_classes"}
loaded = o.from_timm(named, folder("deit", args, 10))
inputs = {**images(), "pixel_values": o.uniform("golden.deit.folder.pixels", (3, 3, 40, 40))}
o.run_case(HERE / "timm_folder", loaded, inputs, o.ce_loss,
           o.first(loaded.tensors, *TIMM, "dist_token", "head_dist.weight"), call=blocks_call(named),
           note=NOTE + "timm's names and config. logits = (head + head_dist) / 2.")
