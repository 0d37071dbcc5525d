"""CamemBERT cases."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle as o
from transformers import (
    CamembertConfig, CamembertForMaskedLM, CamembertForQuestionAnswering, CamembertForSequenceClassification,
    CamembertForTokenClassification, CamembertModel,
)

o.BLOCKS.add("CamembertLayer")


def config(**kw):
    return CamembertConfig(**{
        **dict(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
               max_position_embeddings=18, type_vocab_size=1, layer_norm_eps=1e-5), **kw})


BODY = ("word_embeddings.weight", "position_embeddings.weight", "layer.1.output.dense.weight")
HEADS = {"encoder": BODY, "masked_lm": BODY + ("lm_head.dense.weight", "lm_head.bias"),
         "sequence": BODY + ("classifier.dense.weight", "classifier.out_proj.weight"),
         "token": BODY + ("classifier.weight",)}
o.text_cases("camembert", {"encoder": CamembertModel}, config, HEADS, pad=1, token_types=False)
o.text_cases(
    "camembert",
    {"masked_lm": CamembertForMaskedLM, "sequence": CamembertForSequenceClassification,
     "token": CamembertForTokenClassification},
    config, HEADS, pad=1, token_types=False, taps=False)
o.text_question("camembert", CamembertForQuestionAnswering, config, BODY + ("qa_outputs.weight",), 1, token_types=False)
