"""Switchformer beside the reference, on the same folders and inputs.

    python scripts/referee.py FOLDER.. [--texts FILE] [--images DIR]      folders that people publish
    python scripts/referee.py --random 300 [--seed 1] [--keep DIR]        folders made here: families x heads x files x settings

For each folder the reference (transformers or sentence-transformers, in Python) and the program answer the same inputs. Printed:
the largest difference of every output, every refusal with its code, and every disagreement that the program kept silent about.
The exit code is 1 where there is one. Needs torch, transformers 5, tokenizers, sentencepiece, Pillow; sentence-transformers
for folders with modules.json. BINARY names the program (default: target/release/switchformer).
"""

import argparse
import collections
import inspect
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import numpy as np
import torch
import transformers as tf
from safetensors.numpy import load_file

ROOT = pathlib.Path(__file__).resolve().parents[1]
BINARY = os.environ.get("BINARY", str(ROOT / "target/release/switchformer"))
CLOSE = 2e-4
CORPUS = ("The old town lies by the river. Where does it flow? It flows north, slowly, to the sea! hello world, HELLO World; "
          "über café naïve größe 東京 shows 42 ships.\nA cat sat on the mat and looked at the birds. translate English to German").split("\n")
TEXTS = ["The old town lies by the river.", "hello WORLD 東京 café", "A cat sat on the mat and looked at the birds, slowly! " * 3, "x"]

torch.set_num_threads(1)
tf.logging.set_verbosity_error()
tf.logging.disable_progress_bar()


class Refused(Exception):
    pass


def ours(folder, args):
    """What the program answers: (document, raw outputs, notes)."""
    with tempfile.TemporaryDirectory() as temp:
        out = pathlib.Path(temp) / "o.safetensors"
        generates = "--generate" in args
        args = [a for a in args if a != "--generate"]
        command = [BINARY, "--json", "run", str(folder), *args] + ([] if generates else ["--out", str(out)])
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            try:
                error = json.loads(last)["error"]
                raise Refused(error["code"] + ": " + error["message"][:160])
            except (ValueError, KeyError):
                raise Refused(f"exit {done.returncode}: {last[:160]}") from None
        doc = json.loads(done.stdout)
        return doc, (load_file(out) if out.exists() else {}), doc.get("notes", [])


def distance(a, b):
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        return float("inf")
    return float(np.abs(a - b).max() / max(1.0, np.abs(b).max())) if a.size else 0.0


def reference_class(config):
    name = (getattr(config, "architectures", None) or ["AutoModel"])[0]
    return getattr(tf, name, tf.AutoModel)


def compare_texts(folder, texts):
    """-> {output: largest difference}, notes."""
    if (folder / "modules.json").exists():
        from sentence_transformers import SentenceTransformer
        want = SentenceTransformer(str(folder), device="cpu").encode(texts)
        doc, _, notes = ours(folder, ["--text", *texts])
        return {"sentence_embedding": distance([r["sentence_embedding"] for r in doc["results"]], want)}, notes
    config = tf.AutoConfig.from_pretrained(folder)
    tok = tf.AutoTokenizer.from_pretrained(folder)
    taken = set(inspect.signature(reference_class(config).forward).parameters)
    model = reference_class(config).from_pretrained(folder).eval()
    worst, all_notes = collections.defaultdict(float), set()
    limit = getattr(config, "max_position_embeddings", None) or 512
    for text in texts:
        cut = min(tok.model_max_length, limit - (2 if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet") else 0))
        ids = tok(text, return_tensors="pt", truncation=True, max_length=int(min(cut, 512)))
        ids = {k: v for k, v in ids.items() if k in taken}
        with torch.no_grad():
            if model.can_generate() and config.is_encoder_decoder:
                keep = {k: ids[k] for k in ("input_ids", "attention_mask")}
                own = model.generation_config
                more = {} if "max_length" in own_settings(folder) or "max_new_tokens" in own_settings(folder) else {"max_new_tokens": 16}
                if own.do_sample:
                    continue
                want = model.generate(**keep, **more)[0].tolist()[1:]
                doc, _, notes = ours(folder, ["--text", text, "--generate"] + (["--max-tokens", "16"] if more else []))
                worst["tokens"] = max(worst["tokens"], 0.0 if doc["results"][0]["tokens"] == want else float("inf"))
                all_notes |= set(notes)
                continue
            out = model(**ids)
        if config.architectures and "QuestionAnswering" in config.architectures[0]:
            from safetensors.numpy import save_file
            with tempfile.TemporaryDirectory() as temp:
                file = pathlib.Path(temp) / "in.safetensors"
                save_file({k: v.numpy() for k, v in ids.items()}, file)
                _, raw, notes = ours(folder, ["--tensors", str(file)])
        else:
            _, raw, notes = ours(folder, ["--text", text])
        all_notes |= set(notes)
        for name, value in out.items():
            if torch.is_tensor(value) and name in raw:
                worst[name] = max(worst[name], distance(raw[name], value.numpy()))
    if not worst:
        raise Refused("no output in common")
    return dict(worst), sorted(all_notes)


def own_settings(folder):
    file = folder / "generation_config.json"
    return json.loads(file.read_text()) if file.exists() else {}


def compare_images(folder, images):
    from PIL import Image
    config = tf.AutoConfig.from_pretrained(folder)
    processor = tf.AutoImageProcessor.from_pretrained(folder, use_fast=json_of(folder / "preprocessor_config.json").get("image_processor_type", "").endswith("Fast"))
    model = reference_class(config).from_pretrained(folder).eval()
    worst, all_notes = collections.defaultdict(float), set()
    for image in images:
        with torch.no_grad():
            out = model(**processor(Image.open(image), return_tensors="pt"))
        _, raw, notes = ours(folder, ["--image", str(image)])
        all_notes |= set(notes)
        for name, value in out.items():
            if torch.is_tensor(value) and name in raw:
                worst[name] = max(worst[name], distance(raw[name], value.numpy()))
    if not worst:
        raise Refused("no output in common")
    return dict(worst), sorted(all_notes)


def json_of(path):
    return json.loads(path.read_text()) if path.exists() else {}


# --- folders made here ----------------------------------------------------------------------------------------------------------

SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40)
BERTLIKE = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert", "electra": "Electra",
            "albert": "Albert", "mpnet": "MPNet", "distilbert": "DistilBert", "modernbert": "ModernBert", "deberta-v2": "DebertaV2"}
HEADS = ["Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"]
WRITERS = {"t5": "T5", "mt5": "MT5", "bart": "Bart"}
VISION = {"vit": ("ViT", "ViTImageProcessor"), "deit": ("DeiT", "DeiTImageProcessor"), "swin": ("Swin", "ViTImageProcessor"),
          "pvt_v2": ("PvtV2", "PvtImageProcessor"), "dinov2": ("Dinov2", "BitImageProcessor"), "beit": ("Beit", "BeitImageProcessor"),
          "convnext": ("ConvNext", "ConvNextImageProcessor")}


def tokenizer_files(folder, kind, rng):
    """Writes a tokenizer of a kind; -> its class and the size of its vocabulary."""
    import tokenizers as tk
    if kind == "wordpiece":
        t = tk.BertWordPieceTokenizer(lowercase=rng.random() < 0.7)
        t.train_from_iterator(CORPUS, vocab_size=120, show_progress=False)
        t.save_model(str(folder))
        settings = {"tokenizer_class": "BertTokenizer"}
        for key, values in {"do_lower_case": [None, True, False], "strip_accents": [None, None, True, False],
                            "model_max_length": [None, 24, 12], "truncation_side": [None, None, "left"]}.items():
            value = rng.choice(values)
            if value is not None:
                settings[key] = value
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        n = len((folder / "vocab.txt").read_text().splitlines())
        if rng.random() < 0.3:
            (folder / "added_tokens.json").write_text(json.dumps({"<user>": n, "<url>": n + 1}))
            n += 2
        if rng.random() < 0.4:
            tf.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
        return n
    if kind == "bytes":
        t = tk.ByteLevelBPETokenizer()
        t.train_from_iterator(CORPUS, vocab_size=320, show_progress=False, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
        t.save_model(str(folder))
        settings = {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": rng.choice([False, False, True])}
        if rng.random() < 0.4:
            settings["model_max_length"] = rng.choice([16, 24])
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        if rng.random() < 0.5:
            tf.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
        return len(json.loads((folder / "vocab.json").read_text())) if (folder / "vocab.json").exists() else len(tf.AutoTokenizer.from_pretrained(folder))
    import sentencepiece as spm
    name = {"t5": "spiece.model", "albert": "spiece.model", "xlmr": "sentencepiece.bpe.model", "deberta": "spm.model"}[kind]
    own = {"t5": dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1),
           "albert": dict(pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, control_symbols="[CLS],[SEP],[MASK]"),
           "deberta": dict(pad_id=0, bos_id=1, eos_id=2, unk_id=3, bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]", pad_piece="[PAD]",
                           user_defined_symbols="[MASK]"),
           "xlmr": dict(unk_id=0, bos_id=1, eos_id=2, pad_id=-1)}[kind]
    prefix = folder / "sp"
    spm.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS * 20), model_prefix=str(prefix), vocab_size=90, hard_vocab_limit=False,
                                   minloglevel=2, **own)
    (folder / "sp.model").rename(folder / name)
    (folder / "sp.vocab").unlink()
    cls = {"t5": "T5Tokenizer", "albert": "AlbertTokenizer", "deberta": "DebertaV2Tokenizer", "xlmr": "XLMRobertaTokenizer"}[kind]
    settings = {"tokenizer_class": cls}
    if kind == "t5":
        settings["extra_ids"] = 0
    if rng.random() < 0.4:
        settings["model_max_length"] = rng.choice([16, 24])
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tok = tf.AutoTokenizer.from_pretrained(folder)
    if rng.random() < 0.5:
        tok.save_pretrained(folder)
    return len(tok)


def text_folder(folder, rng):
    family = rng.choice(list(BERTLIKE))
    head = rng.choice(HEADS)
    kind = {"roberta": "bytes", "xlm-roberta": "xlmr", "camembert": "xlmr", "albert": "albert", "deberta-v2": "deberta"}.get(family, "wordpiece")
    if kind == "xlmr" and family == "camembert":
        family = "xlm-roberta"
    vocab = tokenizer_files(folder, kind, rng)
    more = dict(SIZES)
    if family == "distilbert":
        more = dict(dim=32, n_layers=2, n_heads=4, hidden_dim=40)
    if family == "albert":
        more["embedding_size"] = 16
    if family in ("deberta-v2",) and rng.random() < 0.7:
        more.update(relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=rng.random() < 0.5,
                    position_biased_input=False, type_vocab_size=0)
    if family == "modernbert":
        more.update(global_attn_every_n_layers=2, local_attention=8, pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3)
    if family in ("roberta", "xlm-roberta", "mpnet"):
        more["max_position_embeddings"] = 34
        more["pad_token_id"] = 1
    else:
        more["max_position_embeddings"] = 32
    if head == "ForSequenceClassification":
        more["num_labels"] = rng.choice([1, 2, 3, 5])
        problem = rng.choice([None, None, "regression", "multi_label_classification", "single_label_classification"])
        if problem:
            more["problem_type"] = problem
    if head == "ForTokenClassification":
        more["num_labels"] = rng.choice([3, 5])
    if head == "ForMaskedLM" and rng.random() < 0.3:
        more["tie_word_embeddings"] = False
    if rng.random() < 0.3 and family not in ("distilbert", "modernbert"):
        more["hidden_act"] = rng.choice(["relu", "gelu_new", "silu"])
    config = getattr(tf, BERTLIKE[family] + "Config")(vocab_size=max(vocab, 8), **more)
    cls = getattr(tf, BERTLIKE[family] + head, None)
    model = cls(config)
    if head == "Model" and family in ("bert", "roberta", "albert", "xlm-roberta") and rng.random() < 0.4:
        model = cls(config, add_pooling_layer=False)
    return f"{family}/{head}/{kind}", model


def writer_folder(folder, rng):
    family = rng.choice(list(WRITERS))
    kind = "bytes" if family == "bart" else "t5"
    vocab = tokenizer_files(folder, kind, rng)
    if family == "bart":
        settings = json_of(folder / "tokenizer_config.json")
        if settings.get("tokenizer_class") == "RobertaTokenizer":
            settings["tokenizer_class"] = "BartTokenizer"
            (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        config = tf.BartConfig(vocab_size=vocab, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
                               encoder_ffn_dim=40, decoder_ffn_dim=40, max_position_embeddings=64, scale_embedding=rng.random() < 0.5)
        model = tf.BartForConditionalGeneration(config)
    else:
        config = getattr(tf, WRITERS[family] + "Config")(
            vocab_size=vocab, d_model=32, d_kv=8, d_ff=40, num_layers=2, num_heads=4, decoder_start_token_id=0,
            feed_forward_proj=rng.choice(["relu", "gated-gelu"]), relative_attention_num_buckets=8, relative_attention_max_distance=16)
        model = getattr(tf, WRITERS[family] + "ForConditionalGeneration")(config)
    own = {"no_repeat_ngram_size": [0, 0, 2, 3], "repetition_penalty": [1.0, 1.0, 1.5], "num_beams": [1, 1, 3], "length_penalty": [1.0, 0.5],
           "min_length": [0, 0, 6], "max_length": [None, None, 9], "suppress_tokens": [None, None, [4, 9]], "bad_words_ids": [None, None, [[7], [5, 6]]],
           "forced_bos_token_id": [None, None, 8], "forced_eos_token_id": [None, None, 1], "early_stopping": [False, True]}
    for key, values in own.items():
        value = rng.choice(values)
        if value is not None:
            setattr(model.generation_config, key, value)
    if model.generation_config.num_beams == 1:
        model.generation_config.length_penalty, model.generation_config.early_stopping = 1.0, False
    return f"{family}/{kind}", model


def vision_folder(folder, rng):
    family = rng.choice(list(VISION))
    name, processor = VISION[family]
    size = rng.choice([32, 48])
    more = dict(image_size=size, patch_size=8, num_channels=3, num_labels=rng.choice([2, 5]))
    if family in ("vit", "deit", "dinov2", "beit"):
        more.update(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40)
    if family == "dinov2":
        more.update(mlp_ratio=2)
        more.pop("intermediate_size")
    if family == "swin":
        more.update(patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 4], window_size=4)
    if family == "pvt_v2":
        more = dict(image_size=size, num_labels=more["num_labels"], num_encoder_blocks=4, depths=[1] * 4, sr_ratios=[4, 2, 1, 1], hidden_sizes=[8, 16, 24, 32],
                    num_attention_heads=[1, 2, 2, 4])
    if family == "convnext":
        more = dict(image_size=size, num_labels=more["num_labels"], depths=[1, 1, 2, 1], hidden_sizes=[8, 16, 24, 32], patch_size=4)
    config = getattr(tf, name + "Config")(**more)
    cls = getattr(tf, name + rng.choice(["ForImageClassification", "Model"]))
    side = {"shortest_edge": size} if processor in ("BitImageProcessor", "ConvNextImageProcessor") else {"height": size, "width": size}
    own = {"image_processor_type": processor + rng.choice(["", "Fast"]), "size": side, "do_normalize": rng.random() < 0.8,
           "image_mean": [0.5, 0.4, 0.6], "image_std": [0.2, 0.3, 0.25], "resample": rng.choice([2, 3])}
    if processor in ("BitImageProcessor", "BeitImageProcessor", "DeiTImageProcessor"):
        own["crop_size"] = {"height": size, "width": size}
        own["do_center_crop"] = True
    if rng.random() < 0.85:
        (folder / "preprocessor_config.json").write_text(json.dumps(own))
    return f"{family}/{cls.__name__}/{own['image_processor_type']}", cls(config)


def randomise(model, seed):
    """Weights large enough that a wrong setting shows."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            scale = 0.3 if p.dim() > 1 else 0.1
            p.copy_(torch.randn(p.shape, generator=g) * scale + (1.0 if "norm" in name.lower() and name.endswith("weight") and p.dim() == 1 else 0.0))


def made(n, seed, keep):
    """Random folders: (what, path, image or not)."""
    for i in range(n):
        rng = random.Random(f"{seed}-{i}")
        folder = pathlib.Path(keep) / f"{i:03}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make = rng.choices([text_folder, writer_folder, vision_folder], [6, 3, 3])[0]
        try:
            what, model = make(folder, rng)
            randomise(model, i)
            model.save_pretrained(folder)
        except Exception as e:  # noqa: BLE001 - a folder that the reference cannot make is no case
            print(f"{i:03} not made: {type(e).__name__}: {str(e)[:120]}")
            continue
        yield what, folder


def pictures(keep):
    from PIL import Image
    rng = np.random.default_rng(7)
    all_of = []
    for i, (w, h) in enumerate([(64, 48), (40, 90)]):
        small = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        path = pathlib.Path(keep) / f"picture-{i}.png"
        Image.fromarray(small).resize((w, h), Image.BICUBIC).save(path)
        all_of.append(path)
    return all_of


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folders", nargs="*", type=pathlib.Path)
    p.add_argument("--texts", type=pathlib.Path)
    p.add_argument("--images", type=pathlib.Path)
    p.add_argument("--random", type=int, default=0)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--keep", default=None)
    a = p.parse_args()
    keep = a.keep or tempfile.mkdtemp(prefix="referee-")
    texts = a.texts.read_text().splitlines() if a.texts else TEXTS
    images = sorted(a.images.iterdir()) if a.images else None
    cases = [(f.name, f) for f in a.folders]
    agreed, refused, silent = 0, collections.Counter(), []
    for what, folder in [*cases, *made(a.random, a.seed, keep)]:
        try:
            config = json_of(folder / "config.json")
            sees = any(k in config for k in ("image_size", "patch_size", "num_channels"))
            try:
                worst, notes = compare_images(folder, images or pictures(keep)) if sees else compare_texts(folder, texts)
            except Refused as e:
                refused[str(e).split(":")[0] + ": " + what.split("/")[0]] += 1
                print(f"{folder.name} {what}: refused: {e}")
                continue
            bad = {k: v for k, v in worst.items() if not v <= CLOSE}
            said = [n for n in notes if "effect" in n]
            if bad and not said:
                silent.append((folder, what, bad))
            agreed += not bad
            text = ", ".join(f"{k} {v:.1e}" for k, v in worst.items())
            mark = "" if not bad else (" DIFFERS, noted" if said else " DIFFERS")
            print(f"{folder.name} {what}: {text}{mark}" + (f"  [{'; '.join(notes)[:150]}]" if notes else ""), flush=True)
        except Exception as e:  # noqa: BLE001 - the reference itself fails on it
            print(f"{folder.name} {what}: the reference fails: {type(e).__name__}: {str(e)[:200]}")
    print(f"\n{agreed} agree, {sum(refused.values())} refused, {len(silent)} differ in silence")
    for kind, n in refused.most_common():
        print(f"  refused {n} x {kind}")
    for folder, what, bad in silent:
        print(f"  SILENT {folder} {what} {bad}")
    sys.exit(bool(silent))


if __name__ == "__main__":
    main()
