"""BART cases."""
import numpy as np
import cases as c
from cases import o
from transformers import (
    BartConfig, BartForConditionalGeneration, BartForQuestionAnswering, BartForSequenceClassification, BartModel,
)

HERE = o.ROOT / "bart"
o.BLOCKS |= {"BartEncoderLayer", "BartDecoderLayer"}
TOKENS = START, END, PAD = 2, 2, 1


def config(**kw):
    return BartConfig(**{**c.SIZES, **kw})


BODY = c.BODY + ("encoder.embed_positions.weight", "decoder.layernorm_embedding.weight")
c.seq2seq(HERE, "words", o.from_transformers(BartForConditionalGeneration, config()), TOKENS, BODY)
c.seq2seq(HERE, "model", o.from_transformers(BartModel, config(activation_function="relu", scale_embedding=True)),
          TOKENS, taps=False, note="Outputs only; scale_embedding, relu. ")
c.seq2seq(HERE, "left_pad", o.from_transformers(BartForConditionalGeneration, config()), TOKENS, taps=False, left=True,
          note="Outputs only; the source is padded on the left: places count columns. ")

# Both let the decoder read the source once more; what is read counts as one text.
for case, cls, grads in (("sequence", BartForSequenceClassification, ("classification_head.dense.weight",)),
                         ("question", BartForQuestionAnswering, ("qa_outputs.weight",))):
    loaded = o.from_transformers(cls, config())
    given = c.inputs("bart", *TOKENS, target=False)
    lengths = given["attention_mask"].sum(1)
    given["labels"] = (o.integers("golden.bart.labels", (3,), 0, 3) if case == "sequence"
                       else np.stack([lengths // 2, lengths - 2], 1).astype(np.int64))
    keep = ("logits", "start_logits", "end_logits", "encoder_last_hidden_state")
    call = lambda kw: {k: v for k, v in loaded.module(**kw, use_cache=False).items() if k in keep}
    o.run_case(HERE / case, loaded, given, o.ce_loss if case == "sequence" else o.span_loss,
               o.first(loaded.tensors, *BODY, *grads), rows=given["attention_mask"], taps=False, call=call,
               note="Outputs, loss and gradients. " + ("" if case == "sequence" else "Loss as the question case of bert."))
