"""Cases of both versions of Swin, transformers' and timm's."""
import json
import os
import tempfile

import oracle as o
import torch

SHAPE = dict(image_size=32, patch_size=2, num_channels=2, embed_dim=8, depths=[2, 2], num_heads=[2, 4], window_size=4,
             mlp_ratio=2.0, num_labels=7)
NOTE = ("tap.stages.<s>: the map behind the last block of stage s, before any merge. out.loss: mean cross-entropy of "
        "logits against in.labels. ")


def inputs(key, h=32, w=32):
    return {"pixel_values": o.uniform(f"golden.{key}.pixels", (2, 2, h, w)),
            "labels": o.integers(f"golden.{key}.labels", (2,), 0, 7)}


def hf_blocks(module):
    base = getattr(module, "swin", None) or getattr(module, "swinv2", None) or module
    return [b for layer in base.encoder.layers for b in layer.blocks]


def hf_call(module, kw):
    base = getattr(module, "swin", None) or getattr(module, "swinv2", None) or module
    maps, handles = [], []
    for layer in base.encoder.layers:
        at = [None]

        def before(m, args, kwargs, at=at):
            at[0] = args[1] if len(args) > 1 else kwargs["input_dimensions"]

        def after(m, args, kwargs, out, at=at):
            x = out[0] if isinstance(out, tuple) else out
            maps.append(x.reshape(x.shape[0], *at[0], x.shape[-1]))

        handles.append(layer.blocks[-1].register_forward_pre_hook(before, with_kwargs=True))
        handles.append(layer.blocks[-1].register_forward_hook(after, with_kwargs=True))
    out = dict(module(**kw).items())
    for h in handles:
        h.remove()
    return {**out, "maps": maps}


def timm_blocks(module):
    return [b for layer in module.layers for b in layer.blocks]


def timm_call(module, kw):
    maps, handles = [], []
    for layer in module.layers:
        handles.append(layer.blocks[-1].register_forward_hook(lambda m, a, out: maps.append(out)))
    logits = module(kw["pixel_values"])
    for h in handles:
        h.remove()
    return {"logits": logits, "maps": maps}


def stages(result):
    return result["maps"]


def hf(folder, case, cls, config, sizes=(32, 32), note="", grads=(), v5=False):
    loaded = o.from_transformers(cls, config)
    x = inputs(case, *sizes)
    if "Classification" not in cls.__name__:
        x.pop("labels")
        with torch.no_grad():
            n = loaded.module(torch.from_numpy(x["pixel_values"])).last_hidden_state.shape
        x["probe"] = o.uniform(f"golden.{folder}.probe", tuple(n))
    o.run_maps(o.ROOT / folder / case, loaded, x, hf_blocks(loaded.module), stages,
               o.first(loaded.tensors, *grads), NOTE + note, hf_call)
    if v5:
        o.memory_names(o.ROOT / folder / f"{case}_v5", loaded, case)


def timm(folder, case, cls, sizes=(32, 32), note="", grads=(), **kw):
    """timm's class at a size that is its own, or at another one where `sizes` says so."""
    args = dict(img_size=list(sizes), patch_size=2, in_chans=2, embed_dim=8, depths=[2, 2], num_heads=[2, 4],
                window_size=4, mlp_ratio=2.0, **kw)
    module = cls(num_classes=7, drop_path_rate=0.0, **args)
    config = {"architecture": folder, "num_classes": 7, "global_pool": "avg", "model_args": args}
    loaded = o.from_timm(module, config)
    o.run_maps(o.ROOT / folder / case, loaded, inputs(case, *sizes), timm_blocks(module), stages,
               o.first(loaded.tensors, *grads), NOTE + "timm's names. " + note, timm_call)


def authors_names(folder, case):
    """A case of timm under the names of the authors, who count a merge to the stage before it."""
    path = o.ROOT / folder / case
    info = json.loads(path.with_suffix(".json").read_text())

    def renamed(name):
        parts = name.replace("head.fc.", "head.").split(".")
        if "downsample" in parts:
            parts[1] = str(int(parts[1]) - 1)
        return ".".join(parts)

    seed_as = {renamed(name): name for name in info["tensors"]}
    o.write(o.ROOT / folder / f"{case}_renamed", {
        **{k: info[k] for k in ("config", "n_params", "tolerance")},
        "tensors": {new: info["tensors"][old] for new, old in seed_as.items()},
        "note": f"The {case} case under the authors' names. Seed each tensor by timm's name (seed_as); inputs and expected "
        f"numbers are those of {case}.safetensors.",
        "alias_of": case,
        "seed_as": seed_as,
    }, None)
