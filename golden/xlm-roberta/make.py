"""XLM-RoBERTa cases."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle as o
from transformers import (
    XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaForQuestionAnswering, XLMRobertaForSequenceClassification,
    XLMRobertaForTokenClassification, XLMRobertaModel,
)

o.BLOCKS.add("XLMRobertaLayer")


def config(**kw):
    return XLMRobertaConfig(**{
        **dict(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
               max_position_embeddings=18, type_vocab_size=1, layer_norm_eps=1e-5), **kw})


BODY = ("word_embeddings.weight", "position_embeddings.weight", "layer.1.output.dense.weight")
HEADS = {"encoder": BODY, "masked_lm": BODY + ("lm_head.dense.weight", "lm_head.bias"),
         "sequence": BODY + ("classifier.dense.weight", "classifier.out_proj.weight"),
         "token": BODY + ("classifier.weight",)}
o.text_cases("xlm-roberta", {"encoder": XLMRobertaModel}, config, HEADS, pad=1, token_types=False)
o.text_cases(
    "xlm-roberta",
    {"masked_lm": XLMRobertaForMaskedLM, "sequence": XLMRobertaForSequenceClassification,
     "token": XLMRobertaForTokenClassification},
    config, HEADS, pad=1, token_types=False, taps=False)
o.text_question("xlm-roberta", XLMRobertaForQuestionAnswering, config, BODY + ("qa_outputs.weight",), 1, token_types=False)
