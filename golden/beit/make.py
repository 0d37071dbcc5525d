"""BEiT cases."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle as o
import patched as p
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
