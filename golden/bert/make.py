"""BERT cases."""
import json
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import numpy as np
import torch
import oracle as o
from transformers import (
    BertConfig, BertForMaskedLM, BertForQuestionAnswering, BertForSequenceClassification, BertForTokenClassification,
    BertModel,
)

HERE = o.ROOT / "bert"


def config(**kw):
    return BertConfig(**{
        **dict(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
               max_position_embeddings=16, type_vocab_size=2), **kw})


BODY = ("word_embeddings.weight", "position_embeddings.weight", "embeddings.LayerNorm.weight",
        "layer.0.attention.self.query.weight", "layer.0.attention.output.LayerNorm.bias", "layer.1.output.dense.weight")
o.text_cases(
    "bert",
    {"encoder": BertModel, "masked_lm": BertForMaskedLM, "sequence": BertForSequenceClassification,
     "token": BertForTokenClassification},
    config,
    {"encoder": BODY, "masked_lm": BODY + ("predictions.transform.dense.weight", "predictions.bias"),
     "sequence": BODY + ("pooler.dense.weight", "classifier.weight"), "token": BODY + ("classifier.weight",)},
    pad=0,
)

for case, kw in {"gelu_new": dict(hidden_act="gelu_new", layer_norm_eps=1e-5),
                 "relu": dict(hidden_act="relu", hidden_size=48, intermediate_size=80)}.items():
    loaded = o.from_transformers(BertModel, config(**kw))
    inputs = o.with_probe(o.text_inputs("bert", 0), loaded.config["hidden_size"], "golden.bert.probe")
    o.run_case(HERE / case, loaded, inputs, o.probe_loss, o.first(loaded.tensors, *BODY), rows=inputs["attention_mask"],
               note=f"As encoder, with {kw}.")

loaded = o.from_transformers(BertForQuestionAnswering, config())
inputs = o.text_inputs("bert", 0)
lengths = inputs["attention_mask"].sum(1)
labels = np.stack([lengths // 2, lengths - 2], 1).astype(np.int64)
o.run_case(HERE / "question", loaded, {**inputs, "labels": labels}, o.span_loss,
           o.first(loaded.tensors, *BODY, "qa_outputs.weight"), rows=inputs["attention_mask"],
           note="Padded rows of taps, maps and outputs are stored as zeros. labels [b, 2]: first and last place of the "
           "answer. out.loss: mean over both of the cross-entropy among the places that are no padding (the reference's "
           "own loss counts padding in; packed rows have none).")

loaded = o.from_transformers(BertModel, config())
inputs = o.text_inputs("bert", 0, left=True)
o.run_case(HERE / "left_pad", loaded, inputs, rows=inputs["attention_mask"], taps=False,
           note="Padded on the left, outputs only: positions count from the first column, padding included, and "
           "pooler_output is that of the first column even where it is padding.")

# The first generation of names: a "bert." prefix, LayerNorm.gamma and LayerNorm.beta.
seed_as = {}
for name in loaded.tensors:
    old = "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    seed_as[old] = name
inputs = o.text_inputs("bert", 0)
with tempfile.TemporaryDirectory() as folder:
    o.save_file({old: o.seeded(new, loaded.tensors[new]) for old, new in seed_as.items()}, folder + "/model.safetensors",
                metadata={"format": "pt"})
    json.dump(loaded.config, open(folder + "/config.json", "w"))
    module = BertModel.from_pretrained(folder, attn_implementation="eager").eval()
with torch.no_grad():
    got = module(**{k: torch.from_numpy(v) for k, v in inputs.items()})
    want = loaded.module(**{k: torch.from_numpy(v) for k, v in inputs.items()})
assert torch.equal(got.last_hidden_state, want.last_hidden_state) and torch.equal(got.pooler_output, want.pooler_output)
o.write(HERE / "old_names", {
    "config": loaded.config,
    "tensors": {old: loaded.tensors[new] for old, new in seed_as.items()},
    "n_params": loaded.n_params,
    "tolerance": o.TOLERANCE,
    "note": "The encoder case under the first generation of names. Seed each tensor by its new name (seed_as); inputs "
    "and expected numbers are those of encoder.safetensors.",
    "alias_of": "encoder",
    "seed_as": seed_as,
}, None)
o.text_eps("bert", BertForMaskedLM, config, 0)
o.text_untied("bert", BertForMaskedLM, config, ("word_embeddings.weight", "predictions.decoder.weight", "predictions.bias"), 0)
