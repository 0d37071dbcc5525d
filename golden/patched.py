"""Cases of plain vision transformers of transformers: rows of patches behind class tokens. A mask token is in the file and
counts as no parameter, as it is never read."""
import numpy as np
import oracle as o
import torch

SHAPE = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=28, patch_size=7, num_channels=3)


def case(folder, name, cls, config, size=(28, 28), note="", grads=(), v5=False, **kw):
    """`kw` goes to the module, which is called at `size`; a model without logits has a probe on its rows."""
    loaded = o.from_transformers(cls, config)
    inputs = {"pixel_values": o.uniform(f"golden.{folder}.{name}.pixels", (2, config.num_channels, *size))}
    if "Classification" in cls.__name__:
        inputs["labels"] = o.integers(f"golden.{folder}.{name}.labels", (2,), 0, config.num_labels)
        loss, what = o.ce_loss, "mean cross-entropy of logits against in.labels. "
    else:
        with torch.no_grad():
            n = loaded.module(torch.from_numpy(inputs["pixel_values"]), **kw).last_hidden_state.shape
        inputs["probe"] = o.uniform(f"golden.{folder}.probe", tuple(n))
        loss, what = o.probe_loss, "mean over all elements of last_hidden_state * in.probe. "
    o.run_case(o.ROOT / folder / name, loaded, inputs, loss, o.first(loaded.tensors, *grads),
               call=lambda i: loaded.module(**i, output_attentions=True, **kw), note="out.loss: " + what + note)
    masks = [n for n in loaded.tensors if n.endswith("mask_token")]
    if masks:
        o.amend(o.ROOT / folder / name, {"n_params": loaded.n_params - config.hidden_size})
    if v5:
        o.memory_names(o.ROOT / folder / f"{name}_v5", loaded, name)
    return loaded, inputs


def renamed(folder, name, loaded, alias_of, names, note):
    """A case under the names of others: `names` gives those, each seeded by the published name (or names, stacked)."""
    seed_as = dict(names)
    o.write(o.ROOT / folder / name, {
        "config": loaded.config, "tensors": {new: loaded.tensors[old] for new, old in seed_as.items()},
        "n_params": loaded.n_params, "tolerance": o.TOLERANCE, "note": note, "alias_of": alias_of, "seed_as": seed_as,
    }, None)
