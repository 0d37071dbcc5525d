"""Swin v2 cases."""
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "swin")]
import cases as c
from timm.models.swin_transformer_v2 import SwinTransformerV2
from transformers import Swinv2Config, Swinv2ForImageClassification, Swinv2Model

HF = ("patch_embeddings.projection.weight", "embeddings.norm.weight", "blocks.1.attention.self.logit_scale",
      "blocks.1.attention.self.continuous_position_bias_mlp.2.weight", "blocks.1.attention.self.key.weight",
      "blocks.1.attention.self.query.bias", "downsample.reduction.weight", "downsample.norm.bias")
TIMM = ("patch_embed.proj.weight", "blocks.1.attn.logit_scale", "blocks.1.attn.cpb_mlp.0.weight",
        "blocks.1.attn.qkv.weight", "blocks.1.attn.v_bias", "layers.1.downsample.reduction.weight", "head.fc.weight")


def config(**kw):
    return Swinv2Config(**{**c.SHAPE, **kw})


c.hf("swinv2", "image", Swinv2ForImageClassification, config(), grads=(*HF, "classifier.weight"))
c.hf("swinv2", "encoder", Swinv2Model, config(qkv_bias=False), grads=HF[:3],
     note="out.loss: mean over all elements of last_hidden_state * in.probe. No bias of query and value.")
c.hf("swinv2", "pretrained", Swinv2ForImageClassification, config(pretrained_window_sizes=[3, 2]), grads=HF[3:4],
     note="Positions trained at windows 3 and 2, run at 4.")
c.hf("swinv2", "padded", Swinv2ForImageClassification, config(), (27, 35), grads=HF,
     note="Not square, no whole number of patches, windows or squares.")
c.hf("swinv2", "small", Swinv2ForImageClassification, config(depths=[2, 1, 2], num_heads=[2, 2, 4], window_size=5),
     grads=HF[:2], note="The window of the last stages shrinks to the map, which rests.")
c.timm("swinv2", "timm", SwinTransformerV2, grads=TIMM)
c.timm("swinv2", "timm_whole", SwinTransformerV2, (12, 8), grads=TIMM, always_partition=True, act_layer="silu",
       note="Windows as large on maps that are smaller, which are filled up and move.")
c.timm("swinv2", "timm_padded", SwinTransformerV2, (28, 36), grads=TIMM, pretrained_window_sizes=[3, 2],
       note="Not square, no whole number of windows or squares: timm fills up after moving.")
c.authors_names("swinv2", "timm")
