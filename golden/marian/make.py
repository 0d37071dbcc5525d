"""Marian cases."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bart"))
import cases as c
from cases import o
from transformers import MarianConfig, MarianModel, MarianMTModel

HERE = o.ROOT / "marian"
o.BLOCKS |= {"MarianEncoderLayer", "MarianDecoderLayer"}
TOKENS = START, END, PAD = 99, 0, 99


def config(**kw):
    return MarianConfig(**{**c.SIZES, **dict(pad_token_id=PAD, decoder_start_token_id=START, scale_embedding=True,
                                             activation_function="swish"), **kw})


def loaded(cls, **kw):
    return o.from_transformers(cls, config(**kw), fixed=("embed_positions.weight",))


# The reference keeps the row of the padding, with which writing starts, from learning: no gradient of the word table.
c.seq2seq(HERE, "words", loaded(MarianMTModel), TOKENS, c.BODY[1:])
c.seq2seq(HERE, "odd", loaded(
    MarianMTModel, d_model=27, encoder_attention_heads=3, decoder_attention_heads=3, scale_embedding=False), TOKENS,
    taps=False, note="Outputs only; an odd width has a sine more than it has cosines. ")
c.seq2seq(HERE, "stored", loaded(MarianModel), TOKENS, taps=False,
          note="Outputs only; the file stores tables of positions, which are read. ")
