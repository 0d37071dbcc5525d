"""BEiT cases."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle as o
import patched as p
from timm.models.beit import Beit
from timm_names import blocks_call, folder
from transformers import BeitConfig, BeitForImageClassification, BeitModel

GRADS = ("cls_token", "patch_embeddings.projection.weight", "layer.0.layernorm_before.weight",
         "layer.0.attention.attention.query.bias", "layer.0.attention.attention.key.weight", "layer.0.lambda_1",
         "layer.1.intermediate.dense.weight", "layer.1.lambda_2")
OWN = ("layer.1.attention.attention.relative_position_bias.relative_position_bias_table",)
SHARED = ("encoder.relative_position_bias.relative_position_bias_table",)


def config(**kw):
    return BeitConfig(**{**p.SHAPE, **dict(intermediate_size=64, drop_path_rate=0.0, num_labels=7), **kw})


def unscaled(grads):
    return [g for g in grads if "lambda" not in g]


own, shared = dict(use_relative_position_bias=True), dict(use_shared_relative_position_bias=True)
p.case("beit", "image", BeitForImageClassification, config(**own), grads=(*GRADS, *OWN, "classifier.weight"))
p.case("beit", "shared", BeitForImageClassification, config(**shared, use_mean_pooling=False), grads=(*GRADS, *SHARED),
       note="All blocks share the numbers for pairs of places; the class row is read.")
p.case("beit", "both", BeitModel, config(**own, **shared, layer_scale_init_value=0.0, use_mask_token=True),
       grads=(*unscaled(GRADS), *OWN, *SHARED), note="Both tables, no factors. The mask token is in the file and not read.")
p.case("beit", "absolute", BeitForImageClassification, config(use_absolute_position_embeddings=True),
       grads=(*GRADS, "position_embeddings"), note="Learned positions alone.", v5=True)
p.case("beit", "resized", BeitForImageClassification,
       config(**own, **shared, use_absolute_position_embeddings=True), (42, 14),
       grads=(*GRADS, *OWN, *SHARED, "position_embeddings"), note="6 x 2 patches on a model for 4 x 4.")
p.case("beit", "plain", BeitModel, config(**own, use_mean_pooling=False), (14, 35), grads=GRADS,
       note="2 x 5 patches on a model for 4 x 4.")
p.case("beit", "eps", BeitForImageClassification, config(**own, layer_norm_eps=0.05), note=o.EPS_NOTE)

# timm's folders.
PARTS = ("cls_token", "patch_embed.proj.weight", "blocks.0.norm1.weight", "blocks.0.attn.qkv.weight",
         "blocks.0.attn.v_bias", "blocks.1.mlp.fc1.weight", "fc_norm.weight")


def timm_case(name, classes, parts, note, **kw):
    args = dict(img_size=28, patch_size=7, in_chans=3, embed_dim=32, depth=2, num_heads=4, mlp_ratio=2, **kw)
    module = Beit(num_classes=classes, **args)
    loaded = o.from_timm(module, folder("beit", args, classes, "avg"))
    inputs = {"pixel_values": o.uniform(f"golden.beit.{name}.pixels", (2, 3, 28, 28))}
    if classes:
        inputs["labels"] = o.integers(f"golden.beit.{name}.labels", (2,), 0, classes)
    else:
        inputs["probe"] = o.uniform("golden.beit.probe", (2, 17, 32))
    o.run_case(o.ROOT / "beit" / name, loaded, inputs, o.ce_loss if classes else o.probe_loss,
               o.first(loaded.tensors, *parts), call=blocks_call(module), note="timm's names. " + note)


TABLE = "blocks.0.attn.relative_position_bias_table"
timm_case("timm", 5, (*PARTS, TABLE, "blocks.1.gamma_2", "head.weight"),
          "As the published sizes. out.loss: mean cross-entropy of logits against in.labels.",
          init_values=0.1, use_abs_pos_emb=False, use_rel_pos_bias=True)
timm_case("timm_shared", 0, ("pos_embed", "rel_pos_bias.relative_position_bias_table", *PARTS[:-1]),
          "No factors, one table, no classes. out.loss: mean over all of last_hidden_state * in.probe.",
          use_shared_rel_pos_bias=True)
