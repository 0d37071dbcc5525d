"""T5 cases: v1.0 (tied, plain ReLU) and v1.1 (own head, gated)."""
import cases as c
from cases import o
from transformers import T5Config, T5EncoderModel, T5ForConditionalGeneration, T5Model

HERE = o.ROOT / "t5"
LM = {"lm_head.weight": [100, 32]}
# As published v1.1 files say it; recent files call every head tied.
UNTIED = {"tie_word_embeddings": False, "scale_decoder_outputs": None}


def config(**kw):
    return T5Config(**{**c.SIZES, **kw})


def gated(**kw):
    return config(feed_forward_proj="gated-gelu", tie_word_embeddings=False, **kw)


FF = ("encoder.block.0.layer.1.DenseReluDense.wi.weight", "decoder.block.1.layer.2.DenseReluDense.wo.weight")
GATED = ("encoder.block.0.layer.1.DenseReluDense.wi_0.weight", "decoder.block.1.layer.2.DenseReluDense.wi_1.weight")
v10 = o.from_transformers(T5ForConditionalGeneration, config())
v11 = o.from_transformers(T5ForConditionalGeneration, gated(), LM, UNTIED)
c.seq2seq(HERE, "v1_0", v10, c.BODY + c.WRITES + FF)
c.seq2seq(HERE, "v1_1", v11, c.BODY + c.WRITES + GATED + ("lm_head.weight",))
c.seq2seq(HERE, "v1_1_recent", o.from_transformers(T5ForConditionalGeneration, gated(), LM), loss=False, taps=False,
          note="As v1_1 under the config that transformers 5 writes: it calls the head tied and says that rows are not "
          "scaled. ")
c.encoder(HERE, "encoder", o.from_transformers(T5EncoderModel, config()), c.BODY + FF[:1])
c.encoder(HERE, "hole", o.from_transformers(T5EncoderModel, config(feed_forward_proj="gated-silu")), c.BODY,
          left=True, hole=True, note="Padded on the left, and a place in the middle masked: distances count columns. ")
c.seq2seq(HERE, "model", o.from_transformers(T5Model, config()), loss=False)
c.seq2seq(HERE, "eps", o.from_transformers(T5ForConditionalGeneration, config(layer_norm_epsilon=0.05)), loss=False,
          note="layer_norm_epsilon 0.05, which every norm must take from the config. ")
# Ends among the words that are written, so that some members end early and others do not.
for name, cfg, more in (("v1_0", config(eos_token_id=14), {}), ("v1_1", gated(eos_token_id=31), (LM, UNTIED))):
    args = more if more else ()
    writer = o.from_transformers(T5ForConditionalGeneration, cfg, *args)
    c.generated(HERE, name, writer)
    c.beams(HERE, name, writer)
