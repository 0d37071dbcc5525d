"""What the T5 and mT5 scripts share: sizes, inputs with two sides, cases, sequences by generate."""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import numpy as np
import oracle as o
import torch

SOURCE, TARGET = (9, 6, 3), (4, 7, 2)
SIZES = dict(vocab_size=100, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=2, num_heads=3,
             relative_attention_num_buckets=8, relative_attention_max_distance=10)
BODY = ("shared.weight", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "encoder.block.1.layer.0.SelfAttention.q.weight", "encoder.block.0.layer.0.layer_norm.weight")
WRITES = ("decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
          "decoder.block.1.layer.0.SelfAttention.k.weight", "decoder.block.0.layer.1.EncDecAttention.k.weight",
          "decoder.block.1.layer.1.EncDecAttention.o.weight", "encoder.final_layer_norm.weight",
          "decoder.final_layer_norm.weight")
NOTE = ("Padded rows of taps, of attention probabilities (query rows) and of outputs are stored as zeros. Blocks count "
        "through encoder, then decoder; cross.probs is the decoder's attention to the source. ")


def side(key, lens, left=False, hole=False):
    """Padded ids and mask; `hole` masks a place in the middle of the first member."""
    n = max(lens)
    ids, mask = np.zeros((len(lens), n), np.int64), np.zeros((len(lens), n), np.int64)
    words = o.integers(key, ids.shape, 2, 100)
    for b, k in enumerate(lens):
        at = slice(n - k, n) if left else slice(0, k)
        ids[b, at], mask[b, at] = words[b, :k], 1
    if hole:
        mask[0, 4] = 0
    return ids, mask


def inputs(family, target=True, **kw):
    ids, mask = side(f"golden.{family}.source", SOURCE, **kw)
    out = {"input_ids": ids, "attention_mask": mask}
    if target:
        ids, mask = side(f"golden.{family}.target", TARGET)
        ids[:, 0] = 0
        out |= {"decoder_input_ids": ids, "decoder_attention_mask": mask}
    return out


def seq2seq(folder, case, loaded, grads=(), loss=True, note="", taps=True, extra=None, asked=None, **kw):
    given = inputs(folder.name, **kw)
    rows, target = given["attention_mask"], given["decoder_attention_mask"]
    if loss:
        given["labels"] = np.where(target != 0, o.integers(f"golden.{folder.name}.labels", target.shape, 0, 100), -100)
    call = lambda kw: loaded.module(**kw, output_attentions=True, use_cache=False, **(asked or {}))
    o.run_case(folder / case, loaded, given, o.ce_loss if loss else None, list(grads), rows=rows, target_rows=target,
               call=call, taps=taps, extra=extra,
               note=NOTE + note + ("out.loss: mean cross-entropy over labels that are not -100." if loss else ""))


def encoder(folder, case, loaded, grads, note="", **kw):
    given = o.with_probe(inputs(folder.name, target=False, **kw), 32, f"golden.{folder.name}.probe")
    o.run_case(folder / case, loaded, given, o.probe_loss, list(grads), rows=given["attention_mask"],
               note=NOTE + note + "out.loss: mean over all b*n*d elements of last_hidden_state * in.probe.")


def generated(folder, name, loaded, max_new=12):
    """Greedy sequences, and the logits behind each choice, that the reference writes one by one with its cache."""
    given = inputs(folder.name, target=False)
    doc = {"config": loaded.config, "tensors": loaded.tensors, "n_params": loaded.n_params, "max_tokens": max_new,
           "note": "Greedy generation without padding: source ids, written ids (start token left out), and the "
           "smallest lead of a chosen logit over the next.", "members": []}
    for ids, mask in zip(given["input_ids"], given["attention_mask"]):
        ids = ids[mask != 0]
        with torch.no_grad():
            got = loaded.module.generate(
                input_ids=torch.from_numpy(ids)[None], max_new_tokens=max_new, do_sample=False, num_beams=1,
                decoder_start_token_id=0, pad_token_id=0, eos_token_id=loaded.config["eos_token_id"],
                return_dict_in_generate=True, output_scores=True)
        lead = min(float(np.subtract(*np.sort(s[0].numpy())[::-1][:2])) for s in got.scores)
        assert lead > o.TOLERANCE, lead
        doc["members"].append({"source": ids.tolist(), "written": got.sequences[0, 1:].tolist(), "lead": lead})
        print(name, doc["members"][-1])
    path = folder / "generate"
    path.mkdir(exist_ok=True)
    with open(path / f"{name}.json", "w") as f:
        json.dump(doc, f, indent=1)
        f.write("\n")


def beams(folder, name, loaded):
    """Beam search one text at a time: all returned sequences with their scores, at several settings."""
    given = inputs(folder.name, target=False)
    doc = {"config": loaded.config, "tensors": loaded.tensors, "n_params": loaded.n_params, "cases": [],
           "note": "Beam search without padding, best first; the start token and padding behind the end are left out."}
    eos = loaded.config["eos_token_id"]
    for width, penalty, early, most in ((2, 1.0, False, 8), (4, 1.0, False, 12), (3, 0.0, "never", 12), (4, 2.0, True, 12),
                                        (3, 2.0, "never", 10), (5, -1.0, False, 9), (4, 0.6, True, 12),
                                        (2, 1.0, "never", 12), (3, 1.0, "never", 12)):
        case = {"width": width, "length_penalty": penalty, "early": early, "max_tokens": most, "members": []}
        for ids, mask in zip(given["input_ids"], given["attention_mask"]):
            ids = ids[mask != 0]
            with torch.no_grad():
                got = loaded.module.generate(
                    input_ids=torch.from_numpy(ids)[None], max_new_tokens=most, do_sample=False, num_beams=width,
                    num_return_sequences=width, length_penalty=penalty, early_stopping=early, decoder_start_token_id=0,
                    pad_token_id=99, eos_token_id=eos, return_dict_in_generate=True, output_scores=True)
            texts = []
            for row, score in zip(got.sequences[:, 1:].tolist(), got.sequences_scores.tolist()):
                ends = [i for i, t in enumerate(row) if t == eos]
                texts.append({"tokens": row[:ends[0] + 1] if ends else row, "score": score})
            case["members"].append({"source": ids.tolist(), "texts": texts})
        doc["cases"].append(case)
    ended = sum(t["tokens"][-1] == eos for c in doc["cases"] for m in c["members"] for t in m["texts"])
    print(name, "beams:", ended, "texts end,", sum(len(m["texts"]) for c in doc["cases"] for m in c["members"]))
    path = folder / "generate"
    path.mkdir(exist_ok=True)
    with open(path / f"beams_{name}.json", "w") as f:
        json.dump(doc, f)
        f.write("\n")
