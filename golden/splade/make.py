"""fixtures/splade: what transformers computes with models/splade-tiny (scripts/fetch-models.sh), a BertForMaskedLM
whose LayerNorm tensors are named gamma and beta and whose decoder is tied."""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import numpy as np
import torch
import oracle as o
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import BertForMaskedLM

OUT = o.ROOT.parent / "fixtures" / "splade"
MODEL = o.ROOT.parent / "models" / "splade-tiny"
TEXTS = [
    "The capital of France is Paris.",
    "how to prune tokens of a transformer",
    "Supply chain delays hit car makers in Europe",
    "solar panels",
]
TOP = 20

with safe_open(str(MODEL / "model.safetensors"), "pt") as f:
    names = list(f.keys())
assert any(n.endswith("LayerNorm.gamma") for n in names) and "cls.predictions.decoder.weight" not in names
module, info = BertForMaskedLM.from_pretrained(str(MODEL), attn_implementation="eager", dtype=torch.float32,
                                               output_loading_info=True)
for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
    assert not info[key], (key, info[key])
module.eval()
tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
encoded = tokenizer.encode_batch(TEXTS)  # padded to the longest by the file's own setting
ids = np.array([e.ids for e in encoded], dtype=np.int64)
mask = np.array([e.attention_mask for e in encoded], dtype=np.int64)
with torch.no_grad():
    logits = module(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits
# SPLADE: the largest log(1 + relu(logit)) over the tokens of the mask, per word of the vocabulary.
sparse = (torch.log1p(torch.relu(logits)) * torch.from_numpy(mask)[..., None]).amax(dim=1)
values, top = sparse.topk(TOP + 1, dim=1)
gap = float(torch.where(values[:, :-1] > 0, values[:, :-1] - values[:, 1:], 1.0).min())
assert gap > 1e-4, gap
top[values == 0] = -1  # a row may have fewer than TOP words
cls_values, cls_top = logits[:, 0].topk(TOP, dim=1)
OUT.mkdir(parents=True, exist_ok=True)
with open(OUT / "texts.json", "w") as f:
    json.dump(TEXTS, f, indent=1)
    f.write("\n")
o.save_file({
    "input_ids": ids, "attention_mask": mask,
    "sparse.ids": np.ascontiguousarray(top[:, :TOP].numpy()),
    "sparse.values": np.ascontiguousarray(values[:, :TOP].numpy()),
    "sparse.nonzero": (sparse > 0).sum(dim=1).numpy(),
    "cls.ids": cls_top.numpy(), "cls.values": cls_values.numpy(),
    "cls.logits": logits[:, 0].numpy(),
}, str(OUT / "expected.safetensors"))
print("nonzero", (sparse > 0).sum(dim=1).tolist(), "least gap of the top", gap)
for row, v in zip(top.tolist(), values.tolist()):
    print([(tokenizer.id_to_token(i), round(x, 2)) for i, x in zip(row[:8], v) if i >= 0])
