"""mT5 cases: T5 v1.1's network, never scaled."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "t5"))
import cases as c
from cases import o
from transformers import MT5Config, MT5EncoderModel, MT5ForConditionalGeneration, MT5Model

HERE = o.ROOT / "mt5"
LM = {"lm_head.weight": [100, 32]}
config = lambda: MT5Config(**c.SIZES)
GATED = ("encoder.block.0.layer.1.DenseReluDense.wi_0.weight", "decoder.block.1.layer.2.DenseReluDense.wi_1.weight")
untied = o.from_transformers(MT5ForConditionalGeneration, config(), LM, {"tie_word_embeddings": False})
c.seq2seq(HERE, "seq2seq", untied, c.BODY + c.WRITES + GATED + ("lm_head.weight",))
c.seq2seq(HERE, "tied", o.from_transformers(MT5ForConditionalGeneration, config()), loss=False, taps=False,
          note="Tied by its config: rows are not scaled all the same. ")
c.encoder(HERE, "encoder", o.from_transformers(MT5EncoderModel, config()), c.BODY)
c.seq2seq(HERE, "model", o.from_transformers(MT5Model, config()), loss=False)
c.generated(HERE, "seq2seq", untied)
c.beams(HERE, "seq2seq", o.from_transformers(MT5ForConditionalGeneration, MT5Config(**c.SIZES, eos_token_id=5), LM,
                                             {"tie_word_embeddings": False}))
