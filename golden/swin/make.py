"""Swin cases."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import cases as c
import torch
from timm.models.swin_transformer import SwinTransformer
from transformers import SwinConfig, SwinForImageClassification, SwinModel

HF = ("patch_embeddings.projection.weight", "embeddings.norm.weight",
      "blocks.1.attention.self.relative_position_bias_table", "blocks.1.attention.self.query.weight",
      "downsample.reduction.weight", "downsample.norm.bias", "blocks.0.intermediate.dense.weight")
TIMM = ("patch_embed.proj.weight", "blocks.1.attn.relative_position_bias_table", "blocks.1.attn.qkv.weight",
        "layers.1.downsample.reduction.weight", "blocks.0.mlp.fc1.weight", "head.fc.weight")


def config(**kw):
    return SwinConfig(**{**c.SHAPE, **kw})


c.hf("swin", "image", SwinForImageClassification, config(), grads=(*HF, "classifier.weight"), v5=True)
c.hf("swin", "encoder", SwinModel, config(qkv_bias=False), grads=HF[:3],
     note="out.loss: mean over all elements of last_hidden_state * in.probe. No bias of query, key and value.")
c.hf("swin", "padded", SwinForImageClassification, config(), (27, 35), grads=HF,
     note="Not square, no whole number of patches, windows or squares.")
c.hf("swin", "small", SwinForImageClassification, config(depths=[2, 1, 2], num_heads=[2, 2, 4]), (32, 32), grads=HF,
     note="Three stages; the last two maps are no larger than a window and rest.")
c.hf("swin", "eps", SwinForImageClassification, config(layer_norm_eps=0.05), grads=HF[:1],
     note="layer_norm_eps 0.05 for the norms that read it; those of patches and merges have 1e-5.")
c.timm("swin", "timm", SwinTransformer, grads=TIMM)


class Authors(SwinTransformer):
    """What the authors' constructor has and timm's has not: learned positions, patches without a norm, a scale."""

    def __init__(self, ape, patch_norm, qk_scale, **kw):
        super().__init__(**kw)
        if ape:
            self.absolute_pos_embed = torch.nn.Parameter(torch.zeros(1, self.patch_embed.num_patches, self.embed_dim))
        if not patch_norm:
            self.patch_embed.norm = torch.nn.Identity()
        for block in c.timm_blocks(self):
            block.attn.scale = qk_scale
            rests = min(block.input_resolution) <= min(block.window_size)
            assert block.window_size[0] == block.window_size[1]
            if rests and any(block.shift_size):
                block.shift_size, block.attn_mask = (0, 0), None

    def forward_features(self, x):
        x = self.patch_embed(x)
        if hasattr(self, "absolute_pos_embed"):
            x = x + self.absolute_pos_embed.reshape(1, *x.shape[1:])
        return self.norm(self.layers(x))



# The shorter side of a map decides about both: stage 2 has 4x8 and rests.
c.timm("swin", "timm_authors", Authors, (16, 32), grads=(*TIMM, "absolute_pos_embed"), ape=True, patch_norm=False,
       qk_scale=0.7, note="Learned positions, patches without a norm, a factor of scores; the second stage rests.")
c.timm("swin", "timm_whole", SwinTransformer, (12, 8), grads=TIMM, always_partition=True,
       note="Windows as large on maps that are smaller, which are filled up and move.")
c.timm("swin", "timm_padded", SwinTransformer, (28, 36), grads=TIMM,
       note="Not square, no whole number of windows or squares: timm fills up after moving.")
c.authors_names("swin", "timm_authors")
