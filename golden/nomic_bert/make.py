"""Nomic BERT cases."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import numpy as np
import oracle as o
from transformers import (
    NomicBertConfig, NomicBertForMaskedLM, NomicBertForSequenceClassification, NomicBertForTokenClassification,
    NomicBertModel,
)

HERE = o.ROOT / "nomic_bert"
o.BLOCKS.add("NomicBertLayer")
# As the first published files say it.
OLDER = {
    **{new: None for new in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "head_dim",
                             "max_position_embeddings", "layer_norm_eps", "hidden_act", "rope_parameters")},
    "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "n_positions": 64, "layer_norm_epsilon": 1e-12,
    "rotary_emb_base": 1000, "activation_function": "swiglu", "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False, "rotary_emb_scale_base": None, "prenorm": False, "causal": False,
    "qkv_proj_bias": False, "mlp_fc1_bias": False, "mlp_fc2_bias": False}


def config(**kw):
    return NomicBertConfig(**{
        **dict(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
               max_position_embeddings=64), **kw})


BODY = ("word_embeddings.weight", "emb_ln.weight", "layers.0.attn.Wqkv.weight", "layers.1.mlp.fc11.weight",
        "layers.1.mlp.fc12.weight")
HEADS = {"encoder": BODY, "masked_lm": BODY + ("transform.dense.weight", "predictions.bias"),
         "sequence": BODY + ("pooler.dense.weight", "classifier.weight"), "token": BODY + ("classifier.weight",)}
o.text_cases("nomic_bert", {"encoder": NomicBertModel}, config, HEADS, pad=0)
o.text_cases(
    "nomic_bert",
    {"masked_lm": NomicBertForMaskedLM, "sequence": NomicBertForSequenceClassification,
     "token": NomicBertForTokenClassification},
    config, HEADS, pad=0, taps=False)

ids = o.text_inputs("nomic_bert", 0)
loaded = o.from_transformers(NomicBertModel, config())
o.run_case(HERE / "older", loaded, ids, rows=ids["attention_mask"], taps=False,
           note="Outputs only: as encoder, under the config that the first published files have.")
written = {k: v for k, v in {**loaded.config, **OLDER}.items() if k not in OLDER or OLDER[k] is not None}
o.amend(HERE / "older", {"config": written})
hole = o.text_inputs("nomic_bert", 0, left=True)
hole["attention_mask"][0, 4] = 0
o.run_case(HERE / "hole", loaded, hole, rows=hole["attention_mask"], taps=False,
           note="Outputs only: padded on the left, and a place in the middle masked: places count columns.")
o.text_eps("nomic_bert", NomicBertForMaskedLM, config, 0)
n = (300, 47)
rows = (np.arange(max(n)) < np.array(n)[:, None]).astype(np.int64)
words = np.where(rows != 0, o.integers("golden.nomic_bert.far.ids", rows.shape, 5, 100), 0)
far = o.from_transformers(NomicBertForTokenClassification, config(max_position_embeddings=512, num_labels=5))
o.run_case(HERE / "far", far, {"input_ids": words, "attention_mask": rows}, rows=rows, taps=False,
           note="Texts of 300 and 47 tokens, outputs only.")
