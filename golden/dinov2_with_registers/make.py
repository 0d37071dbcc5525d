"""Cases of DINOv2 with registers."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import patched as p
from transformers import (Dinov2WithRegistersConfig, Dinov2WithRegistersForImageClassification,
                          Dinov2WithRegistersModel)

F = "dinov2_with_registers"
GRADS = ("cls_token", "register_tokens", "position_embeddings", "patch_embeddings.projection.weight",
         "layer.0.attention.attention.query.weight", "layer.1.mlp.fc1.weight")


def config(**kw):
    return Dinov2WithRegistersConfig(**{**p.SHAPE, **dict(mlp_ratio=2, num_register_tokens=3, num_labels=7), **kw})


p.case(F, "image", Dinov2WithRegistersForImageClassification, config(), grads=(*GRADS, "classifier.weight"),
       note="The mean of the patches leaves the registers out.")
p.case(F, "encoder", Dinov2WithRegistersModel, config(), grads=GRADS)
p.case(F, "smaller", Dinov2WithRegistersForImageClassification, config(), (14, 35), grads=GRADS,
       note="2 x 5 patches on a model for 4 x 4, resized with antialiasing (a = -0.5).")
p.case(F, "larger", Dinov2WithRegistersModel, config(image_size=35), (14, 42), grads=GRADS,
       note="2 x 6 patches on a model for 5 x 5.")
