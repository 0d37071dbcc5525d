"""timm's vision transformers as golden cases: taps, an equivalent config.json, and a check against transformers."""
import json
import os
import tempfile

import numpy as np
import torch
import oracle as o


def hf_config(config, architecture):
    """config.json as save_pretrained would write it for this architecture."""
    config.architectures = [architecture]
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        with open(os.path.join(folder, "config.json")) as f:
            return json.load(f)


def folder(architecture, args, classes, pool="token"):
    """config.json as timm writes it; the trained size stands beside the weights."""
    args = dict(args)
    size = args.pop("img_size")
    cfg = {"input_size": [args["in_chans"], size, size], "fixed_input_size": True}
    return {"architecture": architecture, "num_classes": classes, "global_pool": pool, "model_args": args,
            "pretrained_cfg": cfg}


def blocks_call(module):
    """A call that returns logits, or all rows and the pooled one where there are no classes, and the attention
    probabilities of every block."""

    def call(kw):
        probs, handles = [], []
        for block in module.blocks:
            assert not block.attn.fused_attn
            handles.append(block.attn.attn_drop.register_forward_hook(lambda m, args, out: probs.append(args[0])))
        rows = module.forward_features(kw["pixel_values"])
        answer = module.forward_head(rows)
        for h in handles:
            h.remove()
        if module.num_classes:
            return {"logits": answer, "attentions": tuple(probs)}
        return {"last_hidden_state": rows, "pooler_output": answer, "attentions": tuple(probs)}

    return call


PARTS = {
    "norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
}


def to_hf(loaded, prefix):
    """Weights of a timm case under the published names of transformers, by the mapping of its conversion scripts."""
    out = {}
    for name, shape in loaded.tensors.items():
        a = o.seeded(name, shape)
        parts = name.split(".")
        if parts[0] == "blocks":
            at = f"{prefix}.encoder.layer.{parts[1]}."
            inner, kind = ".".join(parts[2:-1]), parts[-1]
            if inner == "attn.qkv":
                for key, rows in zip(("query", "key", "value"), np.split(a, 3)):
                    out[f"{at}attention.attention.{key}.{kind}"] = rows
            else:
                out[f"{at}{PARTS[inner]}.{kind}"] = a
            continue
        distilled = "dist_token" in loaded.tensors
        new = {
            "cls_token": f"{prefix}.embeddings.cls_token", "dist_token": f"{prefix}.embeddings.distillation_token",
            "pos_embed": f"{prefix}.embeddings.position_embeddings",
            "patch_embed.proj.weight": f"{prefix}.embeddings.patch_embeddings.projection.weight",
            "patch_embed.proj.bias": f"{prefix}.embeddings.patch_embeddings.projection.bias",
            "norm.weight": f"{prefix}.layernorm.weight", "norm.bias": f"{prefix}.layernorm.bias",
            "head.weight": "cls_classifier.weight" if distilled else "classifier.weight",
            "head.bias": "cls_classifier.bias" if distilled else "classifier.bias",
            "head_dist.weight": "distillation_classifier.weight", "head_dist.bias": "distillation_classifier.bias",
        }[name]
        out[new] = a
    return out


def check_same(cls, config, weights, inputs, stored):
    """transformers gives the same logits and taps with the renamed weights."""
    with tempfile.TemporaryDirectory() as folder:
        cls(config).save_pretrained(folder)
        o.save_file(weights, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
        module, info = cls.from_pretrained(folder, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    taps = o.Taps(module.eval())
    with torch.no_grad():
        logits = module(torch.from_numpy(inputs["pixel_values"])).logits.numpy()
    worst = np.abs(logits - stored["out.logits"]).max()
    for i, block in enumerate(taps.blocks):
        worst = max(worst, np.abs(block.numpy() - stored[f"tap.blocks.{i}"]).max())
    assert worst < o.TOLERANCE / 5, worst
    print(f"  {cls.__name__} agrees with timm to {worst:.1e}")
