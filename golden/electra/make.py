"""ELECTRA cases."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle as o
from transformers import (
    ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining, ElectraForQuestionAnswering,
    ElectraForSequenceClassification, ElectraForTokenClassification, ElectraModel,
)

o.BLOCKS.add("ElectraLayer")


def config(**kw):
    return ElectraConfig(**{
        **dict(vocab_size=100, embedding_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
               intermediate_size=64, max_position_embeddings=16), **kw})


BODY = ("word_embeddings.weight", "embeddings_project.weight", "layer.1.output.dense.weight")
HEADS = {"encoder": BODY, "wide": BODY[:1] + BODY[2:],
         "masked_lm": BODY + ("generator_predictions.dense.weight", "generator_lm_head.bias"),
         "sequence": BODY + ("classifier.dense.weight", "classifier.out_proj.weight"),
         "token": BODY + ("classifier.weight",)}
o.text_cases("electra", {"encoder": ElectraModel}, config, HEADS, pad=0)
o.text_cases(
    "electra",
    {"masked_lm": ElectraForMaskedLM, "sequence": ElectraForSequenceClassification,
     "token": ElectraForTokenClassification},
    config, HEADS, pad=0, taps=False)
o.text_question("electra", ElectraForQuestionAnswering, config, BODY + ("qa_outputs.weight",), 0)

# Tables as wide as the blocks need no map between them.
for case, cls, kw in (("wide", ElectraModel, dict(embedding_size=32)),
                      ("discriminator", ElectraForPreTraining, dict(hidden_act="gelu_new"))):
    loaded = o.from_transformers(cls, config(**kw))
    inputs = o.text_inputs("electra", 0)
    # One number a token is no map that the oracle would know: padded places are zeroed here.
    call = None if case == "wide" else lambda kw: {"logits": loaded.module(**kw).logits * kw["attention_mask"]}
    o.run_case(o.ROOT / "electra" / case, loaded, inputs, rows=inputs["attention_mask"], taps=False, call=call,
               note="Outputs only: " + (f"as encoder, with {kw}." if case == "wide" else
                                        "one number for each token, above zero where it was replaced."))
o.text_eps("electra", ElectraForMaskedLM, config, 0)
