"""TNT cases, of timm."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle as o
import torch
from timm.models.tnt import TNT

HERE = o.ROOT / "tnt"
SHAPE = dict(img_size=32, patch_size=8, in_chans=2, embed_dim=24, inner_dim=6, depth=2, num_heads_outer=4,
             num_heads_inner=2, mlp_ratio=2.0)
GRADS = ("pixel_embed.proj.weight", "pixel_pos", "patch_pos", "cls_token", "blocks.0.attn_in.qk.weight",
         "blocks.1.mlp_in.fc1.weight", "blocks.0.proj.weight", "blocks.1.norm1_proj.weight",
         "blocks.1.attn_out.v.weight", "head.weight")


def case(name, note="", **kw):
    args = {**SHAPE, **kw}
    module = TNT(num_classes=7, **args)
    loaded = o.from_timm(module, {"architecture": "tnt", "num_classes": 7, "model_args": args})
    h, w = args["img_size"] if isinstance(args["img_size"], list) else (32, 32)
    x = {"pixel_values": o.uniform(f"golden.tnt.{name}.pixels", (2, 2, h, w)),
         "labels": o.integers(f"golden.tnt.{name}.labels", (2,), 0, 7)}
    o.run_maps(HERE / name, loaded, x, list(module.blocks), lambda r: [], o.first(loaded.tensors, *GRADS),
               "tap.blocks.<i>: class token and patches behind block i. " + note,
               lambda m, kw: {"logits": m(kw["pixel_values"])}, pick=lambda out: out[1])


case("image")
case("legacy", "An older network of timm: the convolution sees beyond its patch.", legacy=True)
case("average", "The head reads the mean of the patches.", global_pool="avg")
case("biased", "Not square; query, key and value have biases.", qkv_bias=True, img_size=[24, 40])

PARTS = {"outer_pos": "patch_pos", "patch_embed": "pixel_embed", "proj_norm1": "norm1_proj", "proj_norm2": "norm2_proj",
         "inner_norm1": "norm_in", "inner_attn": "attn_in", "inner_norm2": "norm_mlp_in", "inner_mlp": "mlp_in",
         "outer_norm1": "norm_out", "outer_attn": "attn_out", "outer_norm2": "norm_mlp", "outer_mlp": "mlp",
         "inner_pos": "pixel_pos"}


def authors(name):
    """timm's model under the authors' names, with what only their files have."""
    module = TNT(num_classes=7, **SHAPE)
    theirs = {new: old for old, new in PARTS.items()}
    names = {n: ".".join(theirs.get(part, part) for part in n.split(".")) for n in module.state_dict()}
    shapes = {names[n]: list(t.shape) for n, t in module.state_dict().items()}
    _, inner, down, across = shapes["inner_pos"]
    shapes["inner_pos"] = [1, down * across, inner]
    values = {n: torch.from_numpy(o.seeded(n, s)) for n, s in shapes.items()}
    values["inner_pos"] = values["inner_pos"].transpose(1, 2).reshape(1, inner, down, across)
    loaded = o.from_timm(module, {"architecture": "tnt", "num_classes": 7, "model_args": SHAPE})
    module.load_state_dict({n: values[new] for n, new in names.items()})
    loaded.params = {names[n]: p for n, p in loaded.params.items()}
    loaded.tensors = dict(sorted({**shapes, "outer_tokens": [1, 16, 24]}.items()))
    x = {"pixel_values": o.uniform(f"golden.tnt.{name}.pixels", (2, 2, 32, 32)),
         "labels": o.integers(f"golden.tnt.{name}.labels", (2,), 0, 7)}
    o.run_maps(HERE / name, loaded, x, list(module.blocks), lambda r: [],
               ("patch_embed.proj.weight", "outer_pos", "blocks.0.inner_attn.qk.weight", "blocks.1.proj_norm1.weight",
                "blocks.1.outer_mlp.fc2.weight"), "The authors' names.",
               lambda m, kw: {"logits": m(kw["pixel_values"])}, pick=lambda out: out[1])
    o.amend(HERE / name, {"read_only": True})


authors("authors")
