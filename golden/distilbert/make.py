"""DistilBERT cases."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle as o
from transformers import (
    DistilBertConfig, DistilBertForMaskedLM, DistilBertForSequenceClassification, DistilBertForTokenClassification,
    DistilBertModel,
)


def config(**kw):
    return DistilBertConfig(**{
        **dict(vocab_size=100, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=16), **kw})


BODY = ("word_embeddings.weight", "position_embeddings.weight", "embeddings.LayerNorm.weight",
        "layer.0.attention.q_lin.weight", "layer.0.sa_layer_norm.weight", "layer.1.ffn.lin2.weight")
o.text_cases(
    "distilbert",
    {"encoder": DistilBertModel, "masked_lm": DistilBertForMaskedLM, "sequence": DistilBertForSequenceClassification,
     "token": DistilBertForTokenClassification},
    config,
    {"encoder": BODY, "masked_lm": BODY + ("vocab_transform.weight", "vocab_projector.bias"),
     "sequence": BODY + ("pre_classifier.weight", "classifier.weight"), "token": BODY + ("classifier.weight",)},
    pad=0, token_types=False,
)
o.text_untied("distilbert", DistilBertForMaskedLM, config, ("word_embeddings.weight", "vocab_projector.weight", "vocab_projector.bias"), 0,
                  token_types=False)
