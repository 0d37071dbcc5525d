"""RoBERTa cases."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle as o
from transformers import (
    RobertaConfig, RobertaForMaskedLM, RobertaForSequenceClassification, RobertaForTokenClassification, RobertaModel,
)


def config(**kw):
    return RobertaConfig(**{
        **dict(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
               max_position_embeddings=18, type_vocab_size=1, layer_norm_eps=1e-5), **kw})


BODY = ("word_embeddings.weight", "position_embeddings.weight", "embeddings.LayerNorm.weight",
        "layer.0.attention.self.query.weight", "layer.1.output.dense.weight")
# No token_type_ids: the table has one row. Positions count from pad_token_id + 1 over the tokens that are not padding.
o.text_cases(
    "roberta",
    {"encoder": RobertaModel, "masked_lm": RobertaForMaskedLM, "sequence": RobertaForSequenceClassification,
     "token": RobertaForTokenClassification},
    config,
    {"encoder": BODY, "masked_lm": BODY + ("lm_head.dense.weight", "lm_head.bias"),
     "sequence": BODY + ("classifier.dense.weight", "classifier.out_proj.weight"),
     "token": BODY + ("classifier.weight",)},
    pad=1, token_types=False,
)
loaded = o.from_transformers(RobertaModel, config())
inputs = o.text_inputs("roberta", 1, left=True, token_types=False)
o.run_case(o.ROOT / "roberta" / "left_pad", loaded, inputs, rows=inputs["attention_mask"], taps=False,
           note="Padded on the left, outputs only: unlike BERT the position of a token does not depend on padding; "
           "pooler_output is that of the first column even where it is padding.")
o.text_eps("roberta", RobertaForMaskedLM, config, 1, token_types=False)
o.text_untied("roberta", RobertaForMaskedLM, config, ("word_embeddings.weight", "lm_head.decoder.weight", "lm_head.bias"), 1, token_types=False)
