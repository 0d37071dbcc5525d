"""MPNet cases, and a folder as sentence-transformers publishes it (golden/mpnet/sentences)."""
import json
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import numpy as np
import torch
import oracle as o
from transformers import (
    MPNetConfig, MPNetForMaskedLM, MPNetForQuestionAnswering, MPNetForSequenceClassification,
    MPNetForTokenClassification, MPNetModel, MPNetTokenizerFast,
)

HERE = o.ROOT / "mpnet"
o.BLOCKS.add("MPNetLayer")


def config(**kw):
    return MPNetConfig(**{
        **dict(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
               max_position_embeddings=18, layer_norm_eps=1e-5), **kw})


BODY = ("word_embeddings.weight", "position_embeddings.weight", "embeddings.LayerNorm.weight",
        "relative_attention_bias.weight", "layer.0.attention.attn.q.weight", "layer.1.output.dense.weight")
o.text_cases(
    "mpnet",
    {"encoder": MPNetModel, "masked_lm": MPNetForMaskedLM, "sequence": MPNetForSequenceClassification,
     "token": MPNetForTokenClassification},
    config,
    {"encoder": BODY, "masked_lm": BODY + ("lm_head.dense.weight", "lm_head.bias"),
     "sequence": BODY + ("classifier.dense.weight", "classifier.out_proj.weight"),
     "token": BODY + ("classifier.weight",)},
    pad=1, token_types=False,
)

loaded = o.from_transformers(MPNetForQuestionAnswering, config())
inputs = o.text_inputs("mpnet", 1, token_types=False)
lengths = inputs["attention_mask"].sum(1)
labels = np.stack([lengths // 2, lengths - 2], 1).astype(np.int64)
o.run_case(HERE / "question", loaded, {**inputs, "labels": labels}, o.span_loss,
           o.first(loaded.tensors, *BODY, "qa_outputs.weight"), rows=inputs["attention_mask"],
           note="As the question case of bert.")

loaded = o.from_transformers(MPNetModel, config())
inputs = o.text_inputs("mpnet", 1, left=True, token_types=False)
o.run_case(HERE / "left_pad", loaded, inputs, rows=inputs["attention_mask"], taps=False,
           note="Padded on the left, outputs only: positions count from pad_token_id + 1 and distances from token to "
           "token; pooler_output is that of the first column even where it is padding.")
o.text_eps("mpnet", MPNetForMaskedLM, config, 1, token_types=False)
o.text_untied("mpnet", MPNetForMaskedLM, config, ("word_embeddings.weight", "lm_head.decoder.weight", "lm_head.bias"), 1,
                  token_types=False)

# Far apart: every bucket is met but 16, which would hold distance 0 to a later key (the last hold distances from 91 on).
loaded = o.from_transformers(MPNetForTokenClassification, config(max_position_embeddings=162, num_labels=5))
n = (160, 47)
rows = (np.arange(max(n)) < np.array(n)[:, None]).astype(np.int64)
ids = np.where(rows != 0, o.integers("golden.mpnet.far.ids", rows.shape, 5, 100), 1)
inputs = o.with_labels({"input_ids": ids, "attention_mask": rows}, "golden.mpnet.far.labels", 5, True)
far = loaded.module.mpnet.encoder.relative_position_bucket(torch.arange(-159, 160))
assert set(far.tolist()) == set(range(32)) - {16}
o.run_case(HERE / "far", loaded, inputs, o.ce_loss, o.first(loaded.tensors, *BODY, "classifier.weight"), rows=rows,
           taps=False, note="Texts of 160 and 47 tokens, so that every bucket of distances is met; no taps. Labels and "
           "loss as the token case.")

# --- a folder of sentence-transformers: tokenizer, mean pooling, length one ------------------------------------------

WORDS = ("the a cat cats dog sat on mat runs fast over hill what is where red blue small very un ##s ##ing ##ed "
         "##like ##ly walk talk jump . , ? ! ' - 1 2 0 ##0").split()
LETTERS = [chr(c) for c in range(ord("a"), ord("z") + 1)]
VOCAB = ["<s>", "<pad>", "</s>", "<unk>", "[UNK]", *dict.fromkeys(WORDS + LETTERS + ["##" + c for c in LETTERS]),
         "<mask>"]
TEXTS = ["The cat sat on the mat.", "a", "", "What is  unlike\tthe RED dog, jumping very fast?", "caf\u00e9 - 100 \u4e2d!",
         "where <mask> is </s> the small cat's hill"]
PAIRS = [("what sat on the mat", "the cats walked")]

folder = HERE / "sentences"
folder.mkdir(exist_ok=True)
with tempfile.TemporaryDirectory() as temp:
    vocab = pathlib.Path(temp) / "vocab.txt"
    vocab.write_text("".join(w + "\n" for w in VOCAB))
    tokenizer = MPNetTokenizerFast(str(vocab), model_max_length=16)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
made = config(vocab_size=len(VOCAB), max_position_embeddings=18)
loaded = o.from_transformers(MPNetModel, made)
ids = [tokenizer(t, truncation=True)["input_ids"] for t in TEXTS]
pairs = [tokenizer(a, b, truncation=True)["input_ids"] for a, b in PAIRS]
batch = tokenizer(TEXTS, truncation=True, padding=True, return_tensors="pt")
with torch.no_grad():
    hidden = loaded.module(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
mask = batch["attention_mask"][..., None].float()
mean = (hidden * mask).sum(1) / mask.sum(1)
embeddings = torch.nn.functional.normalize(mean, dim=1)


def put(name, doc):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(doc, indent=1) + "\n")


KIND = "sentence_transformers.models."
put("config.json", loaded.config)
put("tokenizer_config.json", {"model_max_length": 16, "tokenizer_class": "MPNetTokenizer"})
put("modules.json", [
    {"idx": 0, "name": "0", "path": "", "type": KIND + "Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": KIND + "Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": KIND + "Normalize"},
])
put("1_Pooling/config.json", {
    "word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True,
    "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False})
put("expected.json", {
    "note": "Weights are seeded by the published names of `tensors`. ids: by MPNetTokenizerFast, at most 16 tokens; "
    "embeddings: mean of the rows that are no padding, of length one.",
    "tensors": loaded.tensors, "texts": TEXTS, "ids": ids, "pairs": PAIRS, "pair_ids": pairs,
    "embeddings": embeddings.tolist()})
print(folder, [len(i) for i in ids])
