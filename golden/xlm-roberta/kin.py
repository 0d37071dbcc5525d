"""Cases of families that are RoBERTa under another name."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle as o
import transformers

BODY = ("word_embeddings.weight", "position_embeddings.weight", "layer.1.output.dense.weight")
HEADS = {"encoder": BODY, "masked_lm": BODY + ("lm_head.dense.weight", "lm_head.bias"),
         "sequence": BODY + ("classifier.dense.weight", "classifier.out_proj.weight"),
         "token": BODY + ("classifier.weight",)}


def cases(family, name):
    """All cases of the classes of transformers that begin with `name`."""
    of = lambda head: getattr(transformers, name + head)

    def config(**kw):
        return of("Config")(**{
            **dict(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
                   max_position_embeddings=18, type_vocab_size=1, layer_norm_eps=1e-5), **kw})

    o.BLOCKS.add(name + "Layer")
    o.text_cases(family, {"encoder": of("Model")}, config, HEADS, pad=1, token_types=False)
    heads = {"masked_lm": of("ForMaskedLM"), "sequence": of("ForSequenceClassification"),
             "token": of("ForTokenClassification")}
    o.text_cases(family, heads, config, HEADS, pad=1, token_types=False, taps=False)
    o.text_question(family, of("ForQuestionAnswering"), config, BODY + ("qa_outputs.weight",), 1, token_types=False)
