"""ALBERT cases. tap.stem is the input of the first layer call, that is after embedding_hidden_mapping_in."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle as o
from transformers import (
    AlbertConfig, AlbertForMaskedLM, AlbertForSequenceClassification, AlbertForTokenClassification, AlbertModel,
)


def config(**kw):
    return AlbertConfig(**{
        **dict(vocab_size=100, embedding_size=16, hidden_size=32, num_hidden_layers=3, num_hidden_groups=1,
               inner_group_num=1, num_attention_heads=4, intermediate_size=64, max_position_embeddings=16,
               type_vocab_size=2), **kw})


BODY = ("word_embeddings.weight", "embeddings.LayerNorm.weight", "embedding_hidden_mapping_in.weight",
        "attention.query.weight", "full_layer_layer_norm.weight", "ffn_output.weight")
o.text_cases(
    "albert",
    {"encoder": AlbertModel, "masked_lm": AlbertForMaskedLM, "sequence": AlbertForSequenceClassification,
     "token": AlbertForTokenClassification},
    config,
    {"encoder": BODY, "masked_lm": BODY + ("predictions.dense.weight", "predictions.bias"),
     "sequence": BODY + ("pooler.weight", "classifier.weight"), "token": BODY + ("classifier.weight",)},
    pad=0,
)
o.text_eps("albert", AlbertForMaskedLM, config, 0)
o.text_untied("albert", AlbertForMaskedLM, config, ("word_embeddings.weight", "predictions.decoder.weight", "predictions.bias"), 0)
