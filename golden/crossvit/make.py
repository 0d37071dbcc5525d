"""CrossViT cases, of timm."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle as o
from timm.models.crossvit import CrossVit

HERE = o.ROOT / "crossvit"
SHAPE = dict(img_size=48, img_scale=[1.0, 2 / 3], patch_size=[12, 16], in_chans=2, embed_dim=[8, 16],
             depth=[[1, 2, 0], [1, 1, 0]], num_heads=[2, 4], mlp_ratio=[3, 2, 1])
GRADS = ("pos_embed_0", "pos_embed_1", "cls_token_1", "blocks.0.blocks.1.1.attn.qkv.weight",
         "blocks.0.projs.0.2.weight", "blocks.1.fusion.0.attn.wq.weight", "blocks.1.fusion.1.attn.wv.weight",
         "blocks.0.revert_projs.1.0.weight", "norm.0.weight", "head.1.weight")


def call(module, kw):
    return {"logits": module(kw["pixel_values"])}


def case(name, size=(48, 48), note="", grads=GRADS, **kw):
    args = {**SHAPE, **kw}
    module = CrossVit(num_classes=7, **args)
    loaded = o.from_timm(module, {"architecture": "crossvit", "num_classes": 7, "model_args": args})
    x = {"pixel_values": o.uniform(f"golden.crossvit.{name}.pixels", (2, 2, *size)),
         "labels": o.integers(f"golden.crossvit.{name}.labels", (2,), 0, 7)}
    o.run_maps(HERE / name, loaded, x, list(module.blocks), lambda r: [], o.first(loaded.tensors, *grads),
               "tap.blocks.<k>: the branch with large patches behind exchange k. " + note, call,
               pick=lambda out: out[1])


case("image", grads=(*GRADS, "patch_embed.0.proj.weight"), note="The second branch sees the image at 32x32, bicubic.")
case("dagger", grads=(*GRADS, "patch_embed.0.proj.2.weight", "patch_embed.1.proj.4.weight"), multi_conv=True)
case("arguments", note="The second branch sees the middle of the image; exchanges of two steps; means of patches.",
     grads=(*GRADS[:5], "blocks.0.fusion.0.1.attn.wv.weight", "blocks.0.fusion.1.0.attn.wv.weight", *GRADS[-3:]),
     crop_scale=True, global_pool="avg", depth=[[1, 2, 2], [1, 1, 1]], mlp_ratio=[2.5, 2.0, 4.0])
case("other_size", (40, 56), "Neither branch's size, not square: both resize it. No biases.", qkv_bias=False)
