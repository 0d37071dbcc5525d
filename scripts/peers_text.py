"""Times text encoders beside PyTorch and ONNX Runtime: base sizes, random weights, a ragged batch of 16, in turns.

Needs torch and transformers; with --onnx also onnx, onnxscript and onnxruntime. Hidden states are compared before any time is believed:
    cargo build --release --example peers
    python scripts/peers_text.py --threads 2 --onnx [--rounds 5] [--isa avx2] [FAMILY ...]
PyTorch (transformers' model) and ONNX Runtime run the padded batch with its mask and, apart, one sequence after the other without
padding. Only the tokens of the texts count as work. A ratio is taken within a round. Run it on an idle machine.
"""
import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

VOCAB, LONGEST, BATCH = 1000, 256, 16
WORDS = dict(vocab_size=VOCAB, pad_token_id=0)
# The published base size of each family but for its word table.
FAMILIES = {
    "bert": dict(cls="Bert"),
    "xlm-roberta": dict(cls="XLMRoberta", max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1),
    "electra": dict(cls="Electra", embedding_size=768, hidden_size=768, intermediate_size=3072, num_attention_heads=12),
    "mpnet": dict(cls="MPNet", max_position_embeddings=514, pad_token_id=1),
    "deberta-v2": dict(cls="DebertaV2", relative_attention=True, position_buckets=256, norm_rel_ebd="layer_norm", share_att_key=True,
                       pos_att_type=["p2c", "c2p"], position_biased_input=False, max_relative_positions=-1, type_vocab_size=0,
                       hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, layer_norm_eps=1e-7),
    "modernbert": dict(cls="ModernBert", cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2),
    "nomic_bert": dict(cls="NomicBert"),
    "gte": dict(cls="Gte"),
}


def lengths():
    """Uniform in a fifth of the longest to the longest, one of them the longest, six tenths of it in the mean."""
    import random

    r = random.Random(1234)
    lens = [LONGEST] + [r.randint(LONGEST // 5, LONGEST) for _ in range(BATCH - 1)]
    at = 1
    while sum(lens) != round(0.6 * BATCH * LONGEST):
        lens[at] += 1 if sum(lens) < round(0.6 * BATCH * LONGEST) and lens[at] < LONGEST else -1 if lens[at] > LONGEST // 5 else 0
        at = at % (BATCH - 1) + 1
    return lens


def build(name):
    import torch
    import transformers

    given = dict(FAMILIES[name])
    cls = given.pop("cls")
    config = getattr(transformers, cls + "Config")(**{**WORDS, **given})
    torch.manual_seed(0)
    extra = {"add_pooling_layer": False} if cls in ("Bert", "XLMRoberta", "MPNet") else {}
    return getattr(transformers, cls + "Model")(config, **extra).eval()


def export(model, ids, mask, threads):
    """ONNX Runtime over the graph of the padded batch; batch and length stay free."""
    import onnxruntime
    import torch

    class Hidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask):
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    batch, length = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("length", min=2, max=512)
    free = {0: batch, 1: length}
    program = torch.onnx.export(Hidden(), (ids, mask), dynamo=True, dynamic_shapes={"input_ids": free, "attention_mask": free}, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as dir:
        path = os.path.join(dir, "model.onnx")
        program.save(path, external_data=True)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    return lambda i, m: session.run(None, dict(zip(names, (i.numpy(), m.numpy()))))[0]


def seconds_of(call, at_least=0.5):
    """Median seconds of a call, after one that is not timed."""
    call()
    taken, start = [], time.perf_counter()
    while not taken or time.perf_counter() - start < at_least:
        at = time.perf_counter()
        call()
        taken.append(time.perf_counter() - at)
    return statistics.median(taken)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("families", nargs="*", default=list(FAMILIES))
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--onnx", action="store_true", help="also export and time ONNX Runtime")
    p.add_argument("--isa", help="keep Switchformer to an instruction set; the others keep to AVX2 by their own settings")
    p.add_argument("--ours", default="target/release/examples/peers text")
    p.add_argument("--json", metavar="FILE", help="write the rounds' seconds")
    a = p.parse_args()
    for var in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[var] = str(a.threads)
    if a.isa == "avx2":
        # PyTorch's own kernels, oneDNN and MKL. ONNX Runtime has no such setting.
        os.environ.update(ATEN_CPU_CAPABILITY="avx2", DNNL_MAX_CPU_ISA="AVX2", ONEDNN_MAX_CPU_ISA="AVX2", MKL_ENABLE_INSTRUCTIONS="AVX2")
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(a.threads)
    lens = lengths()
    print(f"{a.threads} threads, {a.rounds} rounds, {sum(lens)} tokens in {BATCH} texts, torch {torch.__version__}, transformers {transformers.__version__}; theirs/ours in time (min-max)")
    kept = []
    for name in a.families:
        if name not in FAMILIES:
            sys.exit(f"{name}: not one of {', '.join(FAMILIES)}")
        model = build(name)
        torch.manual_seed(1)
        ids = torch.randint(10, VOCAB, (BATCH, LONGEST))
        mask = torch.tensor([[1] * n + [0] * (LONGEST - n) for n in lens])
        ids[mask == 0] = model.config.pad_token_id
        alone = [(ids[i : i + 1, :n].contiguous(), mask[i : i + 1, :n].contiguous()) for i, n in enumerate(lens)]
        with tempfile.TemporaryDirectory() as dir, torch.inference_mode():
            model.save_pretrained(dir)
            save_file({"input_ids": ids[mask == 1].contiguous(), "lens": torch.tensor(lens)}, f"{dir}/input.safetensors")
            env = {**os.environ, "PEERS_FOLDER": dir, "PEERS_INPUT": f"{dir}/input.safetensors", "PEERS_OUTPUT": f"{dir}/output.safetensors",
                   "PEERS_THREADS": str(a.threads), **({"PEERS_ISA": a.isa} if a.isa else {})}

            def ours():
                run = subprocess.run(a.ours.split(), env=env, capture_output=True, text=True)
                if run.returncode:
                    sys.exit(run.stderr)
                return statistics.median(json.loads(run.stdout.splitlines()[-1])["seconds"])

            ours()
            valid = lambda y: torch.as_tensor(y)[mask == 1]
            want = model(input_ids=ids, attention_mask=mask).last_hidden_state
            got = load_file(f"{dir}/output.safetensors")["y"]
            apart = ((got - valid(want)).abs().max() / valid(want).abs().max()).item()
            if apart > 1e-4:
                sys.exit(f"{name}: the hidden states differ by {apart:.1e}")
            torch_one = lambda: [model(input_ids=i, attention_mask=m) for i, m in alone]
            sides = {
                "ours": ours,
                "torch, padded": lambda: seconds_of(lambda: model(input_ids=ids, attention_mask=mask)),
                "torch, one at a time": lambda: seconds_of(torch_one),
            }
            if a.onnx:
                try:
                    with torch.no_grad():
                        run = export(model, ids, mask, a.threads)
                    apart_onnx = ((valid(run(ids, mask)) - valid(want)).abs().max() / valid(want).abs().max()).item()
                    if apart_onnx > 1e-4:
                        raise ValueError(f"its graph's hidden states differ by {apart_onnx:.1e}")
                    sides["ONNX Runtime, padded"] = lambda: seconds_of(lambda: run(ids, mask))
                    run(*alone[1])
                    sides["ONNX Runtime, one at a time"] = lambda: seconds_of(lambda: [run(i, m) for i, m in alone])
                except Exception as e:
                    print(f"{name}: ONNX: {type(e).__name__}: {str(e)[:300]}")
            taken = {s: [] for s in sides}
            for _ in range(a.rounds):
                for s, call in sides.items():
                    taken[s].append(call())
            kept.append({"family": name, "apart": apart, "seconds": taken})
            line = f"{name:12} {apart:.0e}  ours {sum(lens) / statistics.median(taken['ours']):7.0f} tokens/s"
            for s in [s for s in sides if s != "ours"]:
                ratios = sorted(t / o for t, o in zip(taken[s], taken["ours"]))
                line += f" | {s} {statistics.median(ratios):5.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
            print(line, flush=True)
    if a.json:
        json.dump({"threads": a.threads, "torch": torch.__version__, "lens": lens, "families": kept}, open(a.json, "w"))


if __name__ == "__main__":
    main()
