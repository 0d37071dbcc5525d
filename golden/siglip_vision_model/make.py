"""Cases of SigLIP's image tower."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle as o
import patched as p
import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

F = "siglip_vision_model"
GRADS = ("position_embedding.weight", "patch_embedding.weight", "patch_embedding.bias", "layers.0.self_attn.q_proj.weight",
         "layers.1.mlp.fc1.weight", "post_layernorm.weight")


def config(**kw):
    return SiglipVisionConfig(**{**p.SHAPE, **dict(intermediate_size=64), **kw})


p.case(F, "encoder", SiglipVisionModel, config(), grads=GRADS)
p.case(F, "plain", SiglipVisionModel, config(vision_use_head=False), grads=GRADS, note="Nothing is pooled.")
p.case(F, "interpolate", SiglipVisionModel, config(), (42, 14), grads=GRADS, interpolate_pos_encoding=True,
       note="Run with interpolate_pos_encoding=True: 6 x 2 patches on a model for 4 x 4.")
p.case(F, "eps", SiglipVisionModel, config(layer_norm_eps=0.05), note=o.EPS_NOTE)
