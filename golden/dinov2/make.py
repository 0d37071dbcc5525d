"""DINOv2 cases."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle as o
import patched as p
from transformers import Dinov2Config, Dinov2ForImageClassification, Dinov2Model

GRADS = ("cls_token", "position_embeddings", "patch_embeddings.projection.weight", "layer.0.norm1.weight",
         "layer.0.attention.attention.query.weight", "layer.0.layer_scale1.lambda1", "layer.1.layer_scale2.lambda1")
PLAIN = (*GRADS, "layer.1.mlp.fc1.weight")


def config(**kw):
    return Dinov2Config(**{**p.SHAPE, **dict(mlp_ratio=2, use_mask_token=False, num_labels=7), **kw})


p.case("dinov2", "image", Dinov2ForImageClassification, config(), grads=(*PLAIN, "classifier.weight"), v5=True)
p.case("dinov2", "encoder", Dinov2Model, config(qkv_bias=False, use_mask_token=True), grads=PLAIN,
       note="No bias of query, key and value. The mask token is in the file and not read.")
p.case("dinov2", "gated", Dinov2ForImageClassification, config(use_swiglu_ffn=True),
       grads=(*GRADS, "mlp.weights_in.weight", "mlp.weights_out.bias"), note="Gate and values are one tensor.")
p.case("dinov2", "interpolate", Dinov2ForImageClassification, config(), (42, 14), grads=PLAIN,
       note="6 x 2 patches on a model for 4 x 4.")
p.case("dinov2", "border", Dinov2Model, config(image_size=30), (30, 30), note="The border of two pixels is not read.")
p.case("dinov2", "eps", Dinov2ForImageClassification, config(layer_norm_eps=0.05), note=o.EPS_NOTE)
