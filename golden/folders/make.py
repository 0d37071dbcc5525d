"""Folders as people publish them, and what the reference answers when it is given one.

Each case is a folder: config.json, the files of its tokenizer and its settings, and `expected.json`: the tensors that the
file holds (name on disk -> shape; each filled by its name, see `oracle.seeded`; `same_as` names another that it repeats),
what is asked (a request as JSON) and what the reference answers. Made with transformers 5.23.

    python golden/folders/make.py
"""

import json
import pathlib
import sys
import tempfile

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import oracle  # noqa: E402
import transformers as tf  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "river", "flows", "north", "old", "town", "lies", "by", "where",
         "does", "it", "hello", "world", ".", ",", "?", "##s", "##ing", "##ly"] + list(LETTERS) + ["##" + c for c in LETTERS]
BERT = dict(vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
            max_position_embeddings=40, type_vocab_size=2)
ROBERTA = dict(BERT, type_vocab_size=1, max_position_embeddings=42)
ALBERT = dict(BERT, embedding_size=16, hidden_act="gelu_new")
DISTIL = dict(vocab_size=len(WORDS), dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=40)
T5 = dict(vocab_size=60, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=2, num_heads=4,
          relative_attention_num_buckets=8, relative_attention_max_distance=16, decoder_start_token_id=0)
TEXTS = ["the old town lies by the river .", "hello world", "where does it flow, slowly?"]
PAIR = ["where does it flow?", "the river flows north ."]
NER = {"0": "O", "1": "B-PER", "2": "I-PER", "3": "B-LOC", "4": "I-LOC"}


def publish(folder, model, drop=(), alias=None, extra=None):
    """Writes config and tensors as the reference names them; -> {name on disk: entry for expected.json}."""
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(folder)
    file = pathlib.Path(folder) / "model.safetensors"
    stored = oracle.load_file(file)
    alias, tensors, out = alias or {}, {}, {}
    for name, t in sorted(stored.items()):
        if any(name.startswith(d) for d in drop):
            continue
        name = alias.get(name, name)
        tensors[name], out[name] = oracle.seeded(name, t.shape), {"shape": list(t.shape)}
    for name, (shape, source) in (extra or {}).items():
        tensors[name], out[name] = oracle.seeded(source or name, shape), {"shape": list(shape)}
        if source:
            out[name]["same_as"] = source
    oracle.save_file(tensors, file, metadata={"format": "pt"})
    return out


def vocabulary(folder):
    (pathlib.Path(folder) / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (pathlib.Path(folder) / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')


def case(name, folder, tensors, request, answer, note):
    out = HERE / name
    out.mkdir(exist_ok=True)
    for file in pathlib.Path(folder).iterdir():
        if file.name != "model.safetensors" and file.is_file():
            (out / file.name).write_text(file.read_text())
    doc = {"note": note, "tensors": tensors, "request": request, "answer": answer}
    (out / "expected.json").write_text(json.dumps(doc, ensure_ascii=False, indent=1) + "\n")
    print(name)


def numbers(t):
    return [round(float(v), 7) for v in np.asarray(t, dtype=np.float64).reshape(-1)]


def opened(cls, folder):
    model, info = cls.from_pretrained(folder, output_loading_info=True)
    return model.eval(), info


def classes(cls, config, name, note, **changes):
    with tempfile.TemporaryDirectory() as folder:
        model = cls(config(**changes))
        tensors = publish(folder, model)
        vocabulary(folder)
        model, _ = opened(cls, folder)
        tok = tf.AutoTokenizer.from_pretrained(folder)
        pipe = tf.pipeline("text-classification", model=model, tokenizer=tok, top_k=None)
        results = []
        for text in TEXTS:
            with torch.no_grad():
                logits = model(**tok(text, return_tensors="pt")).logits[0]
            scores = pipe([text])[0]
            if model.config.problem_type == "regression":
                named = sorted(scores, key=lambda s: s["label"])
                results.append({"values": [{"label": s["label"], "value": s["score"]} for s in named], "logits": numbers(logits)})
            else:
                results.append({"labels": [{"label": s["label"], "probability": s["score"]} for s in scores], "logits": numbers(logits)})
        case(name, folder, tensors, {"inputs": {"texts": TEXTS}}, {"results": results}, note)


def bert(**changes):
    return tf.BertConfig(**{**BERT, **changes})


def pairs():
    with tempfile.TemporaryDirectory() as folder:
        model = tf.BertForSequenceClassification(bert(num_labels=1))
        tensors = publish(folder, model)
        vocabulary(folder)
        model, _ = opened(tf.BertForSequenceClassification, folder)
        tok = tf.AutoTokenizer.from_pretrained(folder)
        all_pairs = [PAIR, [TEXTS[0], TEXTS[2]]]
        results = []
        for pair in all_pairs:
            with torch.no_grad():
                logit = model(**tok(*pair, return_tensors="pt")).logits[0]
            results.append({"pair": pair[1], "labels": [{"label": "LABEL_0", "probability": float(torch.sigmoid(logit))}],
                            "logits": numbers(logit)})
        case("reranker", folder, tensors, {"inputs": {"pairs": all_pairs}}, {"results": results}, "one score for a pair of texts")
    with tempfile.TemporaryDirectory() as folder:
        tensors = publish(folder, tf.BertForNextSentencePrediction(bert()))
        vocabulary(folder)
        model, _ = opened(tf.BertForNextSentencePrediction, folder)
        with torch.no_grad():
            logits = model(**tok(*PAIR, return_tensors="pt")).logits[0]
        case("next-sentence", folder, tensors, {"inputs": {"pairs": [PAIR]}}, {"results": [{"logits": numbers(logits)}]},
             "whether one text follows the other")
    with tempfile.TemporaryDirectory() as folder:
        tensors = publish(folder, tf.BertForMultipleChoice(bert()))
        vocabulary(folder)
        model, _ = opened(tf.BertForMultipleChoice, folder)
        ends = [PAIR[1], TEXTS[1], TEXTS[0]]
        both = tok([PAIR[0]] * 3, ends, return_tensors="pt", padding=True)
        with torch.no_grad():
            logits = model(**{k: v[None] for k, v in both.items()}).logits[0]
        shares = torch.softmax(logits, 0)
        results = [{"labels": [{"label": e, "probability": float(p)}]} for e, p in zip(ends, shares)]
        case("multiple-choice", folder, tensors, {"inputs": {"pairs": [[PAIR[0], e] for e in ends]}}, {"results": results},
             "one of several ways to go on")
    with tempfile.TemporaryDirectory() as folder:
        tensors = publish(folder, tf.BertForPreTraining(bert()))
        vocabulary(folder)
        model, _ = opened(tf.BertForPreTraining, folder)
        text = "the [MASK] lies by the river ."
        with torch.no_grad():
            out = model(**tok(text, return_tensors="pt"))
        top = torch.softmax(out.prediction_logits[0, 2], 0).topk(5)
        masks = [[{"label": WORDS[i], "probability": float(p)} for p, i in zip(*top)]]
        case("pre-training", folder, tensors, {"inputs": {"texts": [text]}},
             {"results": [{"masks": masks, "logits": numbers(out.seq_relationship_logits[0])}]}, "both heads of pre-training")


def rerankers():
    """Rerankers of sentence-transformers, whose folders say what their scores go through: in its own file, and in two older places."""
    from sentence_transformers import CrossEncoder
    identity = "torch.nn.modules.linear.Identity"
    own = {"__version__": {"sentence_transformers": "6.2.0"}, "activation_fn": identity, "default_prompt_name": None,
           "model_type": "CrossEncoder", "prompts": {}}
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}]
    bert_file = {"transformer_task": "sequence-classification", "module_output_name": "scores",
                 "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}}}
    for name, in_config, files in [
        ("reranker-own", {}, {"config_sentence_transformers.json": own, "modules.json": modules, "sentence_bert_config.json": bert_file}),
        ("reranker-v4", {"sentence_transformers": {"activation_fn": identity, "version": "4.0.1"}}, {}),
        ("reranker-old", {"sbert_ce_default_activation_function": identity}, {}),
    ]:
        with tempfile.TemporaryDirectory() as folder:
            tensors = publish(folder, tf.BertForSequenceClassification(bert(num_labels=1)))
            vocabulary(folder)
            config = pathlib.Path(folder) / "config.json"
            config.write_text(json.dumps({**json.loads(config.read_text()), **in_config}, indent=1))
            for file, doc in files.items():
                (pathlib.Path(folder) / file).write_text(json.dumps(doc))
            scores = CrossEncoder(folder, device="cpu").predict([PAIR, [TEXTS[0], TEXTS[2]]])
            results = [{"values": [{"label": "LABEL_0", "value": float(s)}]} for s in scores]
            case(name, folder, tensors, {"inputs": {"pairs": [PAIR, [TEXTS[0], TEXTS[2]]]}}, {"results": results}, "bare scores of pairs")
    # A default prompt, which stands in front of the first text of every pair; and documents in order.
    prompted = own | {"prompts": {"query": "the old ", "web": "Hello "}, "default_prompt_name": "query"}
    with tempfile.TemporaryDirectory() as folder:
        tensors = publish(folder, tf.BertForSequenceClassification(bert(num_labels=1)))
        vocabulary(folder)
        for file, doc in {"config_sentence_transformers.json": prompted, "modules.json": modules, "sentence_bert_config.json": bert_file}.items():
            (pathlib.Path(folder) / file).write_text(json.dumps(doc))
        model = CrossEncoder(folder, device="cpu")
        documents = TEXTS[1:]
        for name, ask in [("reranker-prompt", {}), ("reranker-prompt-named", {"prompt_name": "web"}), ("reranker-prompt-none", {"prompt": ""})]:
            ranking = [{"rank": i + 1, "document": r["corpus_id"], "score": float(r["score"]), "text": documents[r["corpus_id"]]}
                       for i, r in enumerate(model.rank(TEXTS[0], documents, **ask))]
            scores = model.predict([[TEXTS[0], d] for d in documents], **ask)
            results = [{"input": TEXTS[0], "pair": d, "values": [{"label": "LABEL_0", "value": float(s)}]} for d, s in zip(documents, scores)]
            case(name, folder, tensors, {"inputs": {"ranking": {"query": TEXTS[0], "documents": documents}}, **ask},
                 {"results": results, "ranking": ranking}, "documents in order, behind a prompt")


def entities():
    for how in ["simple", "first", "average", "max"]:
        with tempfile.TemporaryDirectory() as folder:
            config = bert(id2label={int(k): v for k, v in NER.items()}, label2id={v: int(k) for k, v in NER.items()})
            tensors = publish(folder, tf.BertForTokenClassification(config))
            vocabulary(folder)
            model, _ = opened(tf.BertForTokenClassification, folder)
            tok = tf.AutoTokenizer.from_pretrained(folder)
            pipe = tf.pipeline("token-classification", model=model, tokenizer=tok, aggregation_strategy=how)
            texts = TEXTS + ["hello worldly towns, 東 slowing by the rivers"]
            results = []
            for text in texts:
                found = [{"label": e["entity_group"], "word": e["word"], "probability": float(e["score"]),
                          "bytes": [len(text[: e["start"]].encode()), len(text[: e["end"]].encode())]} for e in pipe(text)]
                results.append({"entities": found})
            case(f"entities-{how}", folder, tensors, {"inputs": {"texts": texts}, "aggregation": how}, {"results": results},
                 "tokens joined to entities")


def questions():
    for family, cls, config in [("roberta", tf.RobertaForQuestionAnswering, tf.RobertaConfig(**ROBERTA)),
                                ("albert", tf.AlbertForQuestionAnswering, tf.AlbertConfig(**ALBERT)),
                                ("distilbert", tf.DistilBertForQuestionAnswering, tf.DistilBertConfig(**DISTIL))]:
        with tempfile.TemporaryDirectory() as folder:
            tensors = publish(folder, cls(config))
            model, _ = opened(cls, folder)
            ids = [[2, 13, 14, 15, 3, 5, 6, 7, 8, 18, 3]]
            with torch.no_grad():
                out = model(input_ids=torch.tensor(ids))
            asked = {"inputs": {"tensors": {"input_ids": {"shape": [1, len(ids[0])], "data": ids[0]}}}, "tensors": True}
            answer = {"tensors": {n: {"shape": [1, len(ids[0])], "data": numbers(out[n])} for n in ["start_logits", "end_logits"]}}
            case(f"questions-{family}", folder, tensors, asked, answer, "where an answer begins and ends")


def tables():
    """Word tables that are tied or not, by config and by content."""
    ids = [2, 5, 6, 4, 8, 3]
    asked = {"inputs": {"tensors": {"input_ids": {"shape": [1, 6], "data": ids}}}, "tensors": True}

    def logits(name, cls, config, note, **how):
        with tempfile.TemporaryDirectory() as folder:
            tensors = publish(folder, cls(config), **how)
            model, _ = opened(cls, folder)
            more = {"decoder_input_ids": torch.tensor([[0, 7, 9]])} if config.is_encoder_decoder else {}
            with torch.no_grad():
                out = model(input_ids=torch.tensor([ids]), **more).logits
            request = json.loads(json.dumps(asked))
            if more:
                request["inputs"]["tensors"]["decoder_input_ids"] = {"shape": [1, 3], "data": [0, 7, 9]}
            case(name, folder, tensors, request, {"tensors": {"logits": {"shape": list(out.shape), "data": numbers(out)}}}, note)

    v = len(WORDS)
    own = "an own projection onto the vocabulary, with a bias of its own"
    logits("untied-bert", tf.BertForMaskedLM, bert(tie_word_embeddings=False), own)
    logits("untied-roberta", tf.RobertaForMaskedLM, tf.RobertaConfig(**ROBERTA, tie_word_embeddings=False), own)
    logits("untied-albert", tf.AlbertForMaskedLM, tf.AlbertConfig(**ALBERT, tie_word_embeddings=False), own)
    logits("untied-distilbert", tf.DistilBertForMaskedLM, tf.DistilBertConfig(**DISTIL, tie_word_embeddings=False), own)
    logits("tied-but-other", tf.BertForMaskedLM, bert(), "config.json ties what the file stores apart: the content decides",
           extra={"cls.predictions.decoder.weight": ([v, 32], None)})
    words = {"bert.embeddings.word_embeddings.weight": "cls.predictions.decoder.weight"}
    logits("table-as-decoder", tf.BertForMaskedLM, bert(), "the one table is stored under the name of the projection", alias=words)
    logits("t5-own-activation", tf.T5ForConditionalGeneration, tf.T5Config(**T5, dense_act_fn="gelu", is_gated_act=True),
           "feed_forward_proj says relu, and the fields that are derived from it say otherwise")
    for other in ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"]:
        logits(f"t5-table-as-{other.split('.')[0]}", tf.T5ForConditionalGeneration, tf.T5Config(**T5),
               f"the one table is stored as {other}", alias={"shared.weight": other})


def parts():
    """Files that hold less, or more, than the architecture."""
    def rows(name, cls, config, note, ask=None, **how):
        with tempfile.TemporaryDirectory() as folder:
            tensors = publish(folder, cls(config), **how)
            vocabulary(folder)
            model = tf.AutoModel.from_pretrained(folder).eval()
            tok = tf.AutoTokenizer.from_pretrained(folder)
            with torch.no_grad():
                out = model(**tok(TEXTS[1], return_tensors="pt")).last_hidden_state
            for file, text in (ask or {}).items():
                (pathlib.Path(folder) / file).parent.mkdir(exist_ok=True)
                (pathlib.Path(folder) / file).write_text(text)
            answer = {"tensors": {"last_hidden_state": {"shape": list(out.shape), "data": numbers(out)}}}
            case(name, folder, tensors, {"inputs": {"texts": [TEXTS[1]]}, "tensors": True}, answer, note)

    rows("no-pooler", tf.BertModel, bert(), "an encoder that was saved without its pooler", drop=["pooler."])
    rows("other-heads", tf.BertModel, bert(), "an encoder in a file that holds heads as well",
         extra={"cls.predictions.bias": ([len(WORDS)], None), "classifier.weight": ([3, 32], None),
                "cls.seq_relationship.weight": ([2, 32], None)})


def written():
    """Settings of generation."""
    base = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    settings = {
        "ends": {"eos_token_id": [1, 34, 12]}, "start": {"decoder_start_token_id": 5}, "length": {"max_length": 7},
        "new-tokens": {"max_new_tokens": 4}, "penalty": {"repetition_penalty": 1.7},
        "encoder-penalty": {"encoder_repetition_penalty": 1.6}, "no-repeat": {"no_repeat_ngram_size": 2},
        "no-repeat-source": {"encoder_no_repeat_ngram_size": 2}, "bad-words": {"bad_words_ids": [[26], [34, 59], [1]]},
        "bias": {"sequence_bias": [[[34], -2.0], [[34, 34], 3.0], [[7], 1.0]]}, "suppress": {"suppress_tokens": [26, 34]},
        "begin-suppress": {"begin_suppress_tokens": [26, 34, 1]}, "forced-bos": {"forced_bos_token_id": 7},
        "forced-bos-begin": {"forced_bos_token_id": 7, "begin_suppress_tokens": [34, 26, 59]},
        "forced-eos": {"forced_eos_token_id": 1, "max_new_tokens": 6}, "min-length": {"min_length": 9, "eos_token_id": [1, 34, 59]},
        "min-new": {"min_new_tokens": 5, "eos_token_id": [1, 34, 59, 26]},
        "decay": {"exponential_decay_length_penalty": [3, 1.4], "eos_token_id": [1, 2, 3]},
        "beams": {"num_beams": 3}, "beams-long": {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True},
        "beams-rules": {"num_beams": 3, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3, "min_length": 6},
        "beams-forced": {"num_beams": 2, "forced_bos_token_id": 9, "forced_eos_token_id": 1, "max_length": 9},
        "all": {"no_repeat_ngram_size": 3, "repetition_penalty": 1.2, "bad_words_ids": [[34, 34]], "min_new_tokens": 3,
                "suppress_tokens": [59], "forced_bos_token_id": 11},
    }
    source = [[8, 26, 34, 5, 59, 1], [17, 3, 22, 1]]
    with tempfile.TemporaryDirectory() as folder:
        tensors = publish(folder, tf.T5ForConditionalGeneration(tf.T5Config(**T5)))
        cases = {}
        for name, own in settings.items():
            config = {**base, **own}
            (pathlib.Path(folder) / "generation_config.json").write_text(json.dumps(config))
            model, _ = opened(tf.T5ForConditionalGeneration, folder)
            limit = {} if "max_length" in own or "max_new_tokens" in own else {"max_new_tokens": 12}
            out = []
            for ids in source:
                got = model.generate(input_ids=torch.tensor([ids]), **limit)[0].tolist()[1:]
                out.append(got)
            cases[name] = {"settings": config, "max_tokens": limit.get("max_new_tokens"), "written": out}
        (pathlib.Path(folder) / "generation_config.json").unlink()
        case("generation", folder, tensors, {"source": source}, cases, "settings of generation and what is written under them")


def byte_level():
    """Checkpoints of ByT5, which name their tokenizer's class and have no file for it."""
    said = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0, "max_new_tokens": 14}
    texts = ["Größe & 東京", "a<extra_id_0>b </s>", "😀"]
    kinds = {"byt5": (tf.T5ForConditionalGeneration, tf.T5Config, {}),
             "byt5-mt5": (tf.MT5ForConditionalGeneration, tf.MT5Config,
                          dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False))}
    for name, (cls, config, own) in kinds.items():
        with tempfile.TemporaryDirectory() as folder:
            at = pathlib.Path(folder)
            shape = {**T5, "vocab_size": 384, **own}
            extra = {"lm_head.weight": ([384, T5["d_model"]], None)} if own else None
            tensors = publish(folder, cls(config(**shape)), extra=extra)
            (at / "generation_config.json").write_text(json.dumps(said))
            (at / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer", "extra_ids": 125}))
            tokenizer = tf.AutoTokenizer.from_pretrained(folder)
            model, _ = opened(cls, folder)
            replies = []
            for text in texts:
                ids = model.generate(**tokenizer(text, return_tensors="pt"))[0]
                replies.append({"input": text, "tokens": ids[1:].tolist(),
                                "text": tokenizer.decode(ids, skip_special_tokens=True)})
            case(name, folder, tensors, {"inputs": {"texts": texts}}, {"results": replies},
                 "bytes as tokens, without a file of a tokenizer")


if __name__ == "__main__":
    four = {i: n for i, n in enumerate(["anger", "joy", "fear", "calm"])}
    names = dict(id2label=four, label2id={n: i for i, n in four.items()})
    one = tf.BertForSequenceClassification
    classes(one, bert, "single-label", "softmax over the classes", **names)
    classes(one, bert, "multi-label", "each class for itself", problem_type="multi_label_classification", **names)
    classes(one, bert, "one-label", "one class is yes or no", num_labels=1)
    classes(one, bert, "regression", "a bare number", num_labels=1, problem_type="regression")
    classes(one, bert, "regressions", "bare numbers", num_labels=3, problem_type="regression")
    pairs()
    rerankers()
    entities()
    questions()
    tables()
    parts()
    written()
    byte_level()
