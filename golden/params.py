"""params.json: how many parameters the published variants have, counted by transformers on the meta device."""
import json
import os
import tempfile

import oracle as o
import torch
import transformers as t


def bert(**kw):
    return "bert", t.BertConfig, {**dict(vocab_size=30522), **kw}


def roberta(**kw):
    return "roberta", t.RobertaConfig, {
        **dict(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5), **kw}


def distilbert(**kw):
    return "distilbert", t.DistilBertConfig, kw


def albert(**kw):
    return "albert", t.AlbertConfig, {
        **dict(hidden_size=768, num_attention_heads=12, intermediate_size=3072), **kw}


def mpnet(**kw):
    return "mpnet", t.MPNetConfig, {**dict(max_position_embeddings=514, layer_norm_eps=1e-5), **kw}


def image(kind, dim, depth, heads, patch=16, **kw):
    return kind, {"vit": t.ViTConfig, "deit": t.DeiTConfig}[kind], dict(
        hidden_size=dim, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=4 * dim, image_size=224,
        patch_size=patch, num_channels=3, num_labels=1000, **kw)


def t5(**kw):
    return "t5", t.T5Config, kw


def mt5(**kw):
    return "mt5", t.MT5Config, kw


TINY, SMALL, BASE, LARGE, HUGE = (192, 12, 3), (384, 12, 6), (768, 12, 12), (1024, 24, 16), (1280, 32, 16)
LARGE_TEXT = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
TEXT = ("{}Model", "{}ForMaskedLM")
T5 = ("{}ForConditionalGeneration", "{}Model", "{}EncoderModel")
V11 = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
VIT = ("ViTModel", "ViTForImageClassification")
DEIT = ("DeiTModel", "DeiTForImageClassification", "DeiTForImageClassificationWithTeacher")
ROWS = [
    ("bert-base-uncased", bert(), TEXT + ("{}ForSequenceClassification", "{}ForTokenClassification")),
    ("bert-large-uncased", bert(**LARGE_TEXT), TEXT),
    ("MiniLM-L6-H384-uncased",
     bert(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536), ("{}Model",)),
    ("roberta-base", roberta(), TEXT + ("{}ForSequenceClassification",)),
    ("roberta-large", roberta(**LARGE_TEXT), TEXT),
    ("distilroberta-base", roberta(num_hidden_layers=6), TEXT),
    ("distilbert-base-uncased", distilbert(), TEXT + ("{}ForSequenceClassification",)),
    ("albert-base-v2", albert(num_hidden_layers=12), TEXT),
    ("albert-large-v2",
     albert(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096), TEXT),
    ("mpnet-base", mpnet(), TEXT + ("{}ForSequenceClassification", "{}ForTokenClassification", "{}ForQuestionAnswering")),
    ("vit-tiny-patch16-224", image("vit", *TINY), VIT),
    ("vit-small-patch16-224", image("vit", *SMALL), VIT),
    ("vit-base-patch16-224", image("vit", *BASE), VIT),
    ("vit-base-patch32-224", image("vit", *BASE, patch=32), VIT),
    ("vit-large-patch16-224", image("vit", *LARGE), VIT),
    ("vit-huge-patch14-224", image("vit", *HUGE, patch=14), VIT),
    ("t5-small", t5(), T5),
    ("t5-base", t5(d_model=768, d_ff=3072, num_layers=12, num_heads=12), T5),
    ("t5-v1.1-small", t5(d_ff=1024, num_layers=8, num_heads=6, **V11), T5),
    ("t5-v1.1-base", t5(d_model=768, d_ff=2048, num_layers=12, num_heads=12, **V11), T5),
    ("mt5-small", mt5(), T5),
    ("mt5-base", mt5(d_model=768, d_ff=2048, num_layers=12, num_heads=12), T5),
    # Plain DeiT has no distillation token; its published config.json says model_type vit.
    ("deit-tiny-patch16-224", image("vit", *TINY), VIT),
    ("deit-small-patch16-224", image("vit", *SMALL), VIT),
    ("deit-base-patch16-224", image("vit", *BASE), VIT),
    ("deit-tiny-distilled-patch16-224", image("deit", *TINY), DEIT),
    ("deit-small-distilled-patch16-224", image("deit", *SMALL), DEIT),
    ("deit-base-distilled-patch16-224", image("deit", *BASE), DEIT),
]
CLASS = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert", "albert": "Albert", "mpnet": "MPNet",
         "t5": "T5", "mt5": "MT5"}

rows = []
for variant, (kind, make, kw), architectures in ROWS:
    for architecture in architectures:
        architecture = architecture.format(CLASS.get(kind, ""))
        config = make(**kw)
        config.architectures = [architecture]
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
            with open(os.path.join(folder, "config.json")) as f:
                written = json.load(f)
        # A thousand LABEL_i say no more than their number.
        if "id2label" in written:
            del written["id2label"], written["label2id"]
            written["num_labels"] = config.num_labels
        with torch.device("meta"):
            module = getattr(t, architecture)(config)
            # transformers 5 ties every T5 until a file shows two tables; published v1.1 and mT5 files have both.
            if architecture.endswith("ForConditionalGeneration") and "gated" in config.feed_forward_proj:
                written["tie_word_embeddings"] = False
                module.lm_head.weight = torch.nn.Parameter(torch.empty_like(module.shared.weight))
        n = sum(p.numel() for p in module.parameters())  # tied parameters come once
        rows.append({"model": kind, "variant": variant, "architecture": architecture, "n_params": n, "config": written})
        print(f"{variant:36s} {architecture:40s} {n:>13,}")

known = {(r["variant"], r["architecture"]): r["n_params"] for r in rows}
assert known["bert-base-uncased", "BertModel"] == 109_482_240
assert known["mpnet-base", "MPNetModel"] == 109_486_464
assert known["MiniLM-L6-H384-uncased", "BertModel"] == 22_713_216
for variant, n in (("t5-small", 60_506_624), ("t5-base", 222_903_552), ("t5-v1.1-small", 76_961_152)):
    assert known[variant, "T5ForConditionalGeneration"] == n
assert known["mt5-small", "MT5ForConditionalGeneration"] == 300_176_768
assert known["vit-base-patch16-224", "ViTForImageClassification"] == 86_567_656
assert known["deit-tiny-patch16-224", "ViTForImageClassification"] == 5_717_416
with open(o.ROOT / "params.json", "w") as f:
    f.write("[\n" + ",\n".join(json.dumps(r) for r in rows) + "\n]\n")
