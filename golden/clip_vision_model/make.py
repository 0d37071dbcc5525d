"""Cases of CLIP's image tower."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle as o
import patched as p
from transformers import CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

F = "clip_vision_model"
GRADS = ("class_embedding", "position_embedding.weight", "patch_embedding.weight", "pre_layrnorm.weight",
         "layers.0.self_attn.q_proj.weight", "layers.1.mlp.fc1.weight", "layers.0.layer_norm2.bias")


def config(**kw):
    return CLIPVisionConfig(**{**p.SHAPE, **dict(intermediate_size=64, projection_dim=24), **kw})


loaded, _ = p.case(F, "encoder", CLIPVisionModel, config(), grads=GRADS)
p.renamed(F, "encoder_prefixed", loaded, "encoder", {f"vision_model.{name}": name for name in loaded.tensors},
          "The encoder case under the names of earlier releases. Seed each tensor by today's name (seed_as).")
p.case(F, "projection", CLIPVisionModelWithProjection, config(hidden_act="gelu"), grads=GRADS)
p.case(F, "interpolate", CLIPVisionModelWithProjection, config(), (42, 14), grads=GRADS, interpolate_pos_encoding=True,
       note="Run with interpolate_pos_encoding=True: 6 x 2 patches on a model for 4 x 4.")
p.case(F, "eps", CLIPVisionModel, config(layer_norm_eps=0.05), note=o.EPS_NOTE)
