"""DeBERTa v2 and v3 cases."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import numpy as np
import oracle as o
import torch
from transformers import (
    DebertaV2Config, DebertaV2ForMaskedLM, DebertaV2ForQuestionAnswering, DebertaV2ForSequenceClassification,
    DebertaV2ForTokenClassification, DebertaV2Model,
)
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

HERE = o.ROOT / "deberta-v2"
o.BLOCKS.add("DebertaV2Layer")


def config(**kw):
    """As v3 is published: shared projections, logarithmic buckets, normed vectors of distances."""
    return DebertaV2Config(**{
        **dict(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
               max_position_embeddings=16, relative_attention=True, position_buckets=6, norm_rel_ebd="layer_norm",
               share_att_key=True, pos_att_type="p2c|c2p", position_biased_input=False), **kw})


BODY = ("word_embeddings.weight", "rel_embeddings.weight", "encoder.LayerNorm.weight",
        "layer.0.attention.self.query_proj.weight", "layer.1.attention.self.key_proj.weight",
        "layer.1.output.dense.weight")
HEADS = {"encoder": BODY, "masked_lm": BODY + ("predictions.transform.dense.weight", "predictions.bias"),
         "sequence": BODY + ("pooler.dense.weight", "classifier.weight"), "token": BODY + ("classifier.weight",)}
o.text_cases("deberta-v2", {"encoder": DebertaV2Model}, config, HEADS, pad=0, token_types=False)
o.text_cases(
    "deberta-v2",
    {"masked_lm": DebertaV2ForMaskedLM, "sequence": DebertaV2ForSequenceClassification,
     "token": DebertaV2ForTokenClassification},
    config, HEADS, pad=0, token_types=False, taps=False)
o.text_question("deberta-v2", DebertaV2ForQuestionAnswering, config, BODY + ("qa_outputs.weight",), 0,
                token_types=False)

# Projections of their own, every distance its own, tables of places and segments.
V2 = dict(position_buckets=-1, max_relative_positions=5, norm_rel_ebd="none", share_att_key=False,
          position_biased_input=True, type_vocab_size=2, pos_att_type=["c2p", "p2c"], layer_norm_eps=0.05)
loaded = o.from_transformers(DebertaV2ForTokenClassification, config(**V2, num_labels=5))
inputs = o.with_labels(o.text_inputs("deberta-v2", 0), "golden.deberta-v2.v2.labels", 5, True)
o.run_case(HERE / "v2", loaded, inputs, o.ce_loss, o.first(
    loaded.tensors, "position_embeddings.weight", "layer.0.attention.self.pos_key_proj.weight",
    "layer.1.attention.self.pos_query_proj.weight"), rows=inputs["attention_mask"], taps=False,
    note="Labels and loss as the token case, without taps; layer_norm_eps 0.05. ")


def outputs(case, cls, note, hole=False, **kw):
    loaded = o.from_transformers(cls, config(**kw))
    inputs = o.text_inputs("deberta-v2", 0, left=hole, token_types=False)
    if hole:
        inputs["attention_mask"][0, 4] = 0
    o.run_case(HERE / case, loaded, inputs, rows=inputs["attention_mask"], taps=False, note=f"Outputs only: {note}")


outputs("hole", DebertaV2Model, "padded on the left, and a place in the middle masked: distances count columns.",
        hole=True)
outputs("c2p", DebertaV2Model, "keys of distances alone.", pos_att_type="c2p", share_att_key=False)
outputs("p2c", DebertaV2Model, "queries of distances alone.", pos_att_type="p2c")
outputs("own_head", DebertaV2ForMaskedLM, "the head of v3, which reads the word table.", legacy=False)

# Far apart: every bucket of the published settings that texts of the published length can meet.
loaded = o.from_transformers(DebertaV2Model, config(max_position_embeddings=512, position_buckets=256,
                                                    num_hidden_layers=1, hidden_size=16, num_attention_heads=2))
n = (512, 300)
rows = (np.arange(max(n)) < np.array(n)[:, None]).astype(np.int64)
ids = np.where(rows != 0, o.integers("golden.deberta-v2.far.ids", rows.shape, 5, 100), 0)
o.run_case(HERE / "far", loaded, {"input_ids": ids, "attention_mask": rows}, rows=rows, taps=False,
           note="Texts of 512 and 300 tokens, one block, outputs only.")

# The buckets themselves, by distance.
buckets = []
for size, farthest in ((256, 512), (6, 16), (32, 128), (50, 300), (2, 7), (7, 40)):
    d = torch.arange(0, farthest + 40)
    own = make_log_bucket_position(d, size, farthest).long()
    assert torch.equal(make_log_bucket_position(-d, size, farthest).long(), -own)
    buckets.append({"buckets": size, "farthest": farthest, "of": own.tolist()})
o.amend(HERE / "far", {"distances": buckets})
