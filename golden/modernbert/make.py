"""ModernBERT cases."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import numpy as np
import oracle as o
from transformers import (
    ModernBertConfig, ModernBertForMaskedLM, ModernBertForQuestionAnswering, ModernBertForSequenceClassification,
    ModernBertForTokenClassification, ModernBertModel,
)
from transformers.models.modernbert import modeling_modernbert as reference

# The least f64 is no number in the f32 of the reference's softmax, where a padded place sees padding only.
for name in ("create_bidirectional_mask", "create_bidirectional_sliding_window_mask"):
    setattr(reference, name, lambda make=getattr(reference, name), **kw: make(**kw).clamp(min=-1e30))

HERE = o.ROOT / "modernbert"
o.BLOCKS.add("ModernBertEncoderLayer")
# As published files say it.
OLDER = {"layer_types": None, "rope_parameters": None, "global_attn_every_n_layers": 2, "global_rope_theta": 160000.0,
         "local_rope_theta": 10000.0}


def config(**kw):
    return ModernBertConfig(**{
        **dict(vocab_size=100, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
               max_position_embeddings=64, local_attention=4, global_attn_every_n_layers=2, pad_token_id=0,
               bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3), **kw})


BODY = ("tok_embeddings.weight", "embeddings.norm.weight", "layers.0.attn.Wqkv.weight", "layers.1.mlp.Wi.weight",
        "layers.2.attn_norm.weight")
HEADS = {"encoder": BODY, "masked_lm": BODY + ("head.dense.weight", "head.norm.weight", "decoder.bias"),
         "sequence": BODY + ("head.dense.weight", "classifier.weight"),
         "token": BODY + ("head.norm.weight", "classifier.weight")}
o.text_cases("modernbert", {"encoder": ModernBertModel}, config, HEADS, pad=0, token_types=False)
o.text_cases(
    "modernbert",
    {"masked_lm": ModernBertForMaskedLM, "sequence": ModernBertForSequenceClassification,
     "token": ModernBertForTokenClassification},
    config, HEADS, pad=0, token_types=False, taps=False)
o.text_question("modernbert", ModernBertForQuestionAnswering, config, BODY + ("classifier.weight",), 0,
                token_types=False)


def outputs(case, cls, note, fields=None, hole=False, **kw):
    loaded = o.from_transformers(cls, config(**kw), fields=fields)
    inputs = o.text_inputs("modernbert", 0, left=hole, token_types=False)
    if hole:
        inputs["attention_mask"][0, 4] = 0
    o.run_case(HERE / case, loaded, inputs, rows=inputs["attention_mask"], taps=False, note=f"Outputs only: {note}")


outputs("older", ModernBertModel, "as encoder, under the config that published files have.", OLDER)
outputs("hole", ModernBertModel, "padded on the left, and a place in the middle masked: places count columns.",
        hole=True)
outputs("mean", ModernBertForSequenceClassification, "the head reads the mean of the rows; every bias there is.",
        classifier_pooling="mean", classifier_bias=True, norm_bias=True, attention_bias=True, mlp_bias=True,
        classifier_activation="relu", hidden_activation="gelu_new")
outputs("eps", ModernBertForMaskedLM, o.EPS_NOTE.replace("layer_norm_eps", "norm_eps"), norm_eps=0.05)
outputs("types", ModernBertModel, "kinds of attention one by one, and angles of their own.",
        layer_types=["sliding_attention", "full_attention", "sliding_attention"], local_attention=5,
        rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 500.0},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 20.0}})
# Far apart: angles of hundreds of places.
loaded = o.from_transformers(ModernBertForTokenClassification, config(local_attention=32, num_labels=5,
                                                                      max_position_embeddings=512))
n = (300, 47)
rows = (np.arange(max(n)) < np.array(n)[:, None]).astype(np.int64)
ids = np.where(rows != 0, o.integers("golden.modernbert.far.ids", rows.shape, 5, 100), 0)
o.run_case(HERE / "far", loaded, {"input_ids": ids, "attention_mask": rows}, rows=rows, taps=False,
           note="Texts of 300 and 47 tokens, outputs only.")
