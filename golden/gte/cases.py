"""What the scripts of GTE under both names share."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle as o
from transformers import GteConfig, GteForMaskedLM, GteForSequenceClassification, GteForTokenClassification, GteModel

o.BLOCKS.add("GteLayer")
WIDTH, THETA, FACTOR = 8, 1000.0, 8.0
# NTK scaling of the authors: a larger base, and every angle smaller by the same share; transformers says it as "linear".
NTK = {"rope_type": "linear", "rope_theta": THETA * FACTOR, "factor": FACTOR ** (2 / WIDTH)}
CLASSES = {"encoder": GteModel, "masked_lm": GteForMaskedLM, "sequence": GteForSequenceClassification,
           "token": GteForTokenClassification}

BODY = ("word_embeddings.weight", "embeddings.LayerNorm.weight", "layer.0.attention.qkv_proj.weight",
        "layer.1.attention.qkv_proj.bias", "layer.1.mlp.up_gate_proj.weight", "layer.0.mlp.down_proj.bias",
        "layer.0.mlp_ln.bias")
HEADS = {"encoder": BODY, "masked_lm": BODY + ("lm_head.dense.weight", "lm_head.decoder.bias"),
         "sequence": BODY + ("pooler.dense.weight", "classifier.weight"), "token": BODY + ("classifier.weight",)}


def config(**kw):
    return GteConfig(**{
        **dict(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
               max_position_embeddings=64, type_vocab_size=2, pad_token_id=0, rope_parameters=dict(NTK)), **kw})
