"""Times a training step of a small T5 beside PyTorch's: the same weights, batch, threads and optimiser, in turns.

Needs torch and transformers. Forward, backward and AdamW without dropout, no padding; the losses of the first steps are
compared before any time is believed:
    cargo build --release --example peers
    python scripts/peers_t5.py --threads 2 [--rounds 5] [--ours "target/release/examples/peers t5"]
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

CONFIG = dict(
    model_type="t5", vocab_size=4096, d_model=256, d_kv=64, d_ff=1024, num_heads=4, num_layers=4, num_decoder_layers=4,
    feed_forward_proj="relu", dropout_rate=0.0, tie_word_embeddings=True, decoder_start_token_id=0, pad_token_id=0,
    eos_token_id=1, architectures=["T5ForConditionalGeneration"], initializer_factor=1.0,
)
BATCH, SOURCE, TARGET = 32, 128, 32
WARM_STEPS = 3  # of both sides, as in examples/peers.rs: first steps take pages from the system
LR, DECAY, AT_LEAST = 3e-4, 0.01, 0.5


def torch_side(weights, batch, threads):
    """One contestant's round: seconds of each step, losses from the first step on, peak memory in kB."""
    import torch
    from safetensors.torch import load_file
    from transformers import T5Config, T5ForConditionalGeneration

    torch.set_num_threads(threads)
    model = T5ForConditionalGeneration(T5Config(**CONFIG)).train()
    model.load_state_dict(load_file(weights), strict=False)
    groups = [[p for p in model.parameters() if p.dim() > 1], [p for p in model.parameters() if p.dim() <= 1]]
    optimiser = torch.optim.AdamW(
        [{"params": groups[0], "weight_decay": DECAY}, {"params": groups[1], "weight_decay": 0.0}],
        lr=LR, betas=(0.9, 0.999), eps=1e-8, fused=True)
    source, target = torch.tensor(batch["source"]), torch.tensor(batch["target"])
    labels = torch.tensor(batch["labels"]).view(target.shape)
    losses, seconds = [], []

    def step():
        start = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        logits = model(input_ids=source, decoder_input_ids=target, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        return time.perf_counter() - start

    for _ in range(WARM_STEPS):
        step()
    start = time.perf_counter()
    while not seconds or time.perf_counter() - start < AT_LEAST:
        seconds.append(step())
    peak = next(l.split()[1] for l in open("/proc/self/status") if l.startswith("VmHWM"))
    return {"seconds": seconds, "losses": losses, "peak": f"{peak} kB"}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--ours", default="target/release/examples/peers t5")
    p.add_argument("--torch-round", nargs=2, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.torch_round:
        weights, batch = a.torch_round
        print(json.dumps(torch_side(weights, json.load(open(batch)), a.threads)))
        return
    import torch
    from safetensors.torch import save_file
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(**CONFIG))
    with tempfile.TemporaryDirectory() as d:
        weights, batch, config = (os.path.join(d, n) for n in ("model.safetensors", "batch.json", "config.json"))
        state = {k: v.contiguous() for k, v in model.state_dict().items() if "embed_tokens" not in k and k != "lm_head.weight"}
        save_file(state, weights)
        json.dump(CONFIG, open(config, "w"))
        ids = lambda n: torch.randint(2, CONFIG["vocab_size"], (BATCH, n)).tolist()
        target = ids(TARGET)
        shifted = [[0, *row[:-1]] for row in target]
        json.dump({"source": ids(SOURCE), "target": shifted, "labels": [i for row in target for i in row]}, open(batch, "w"))
        env = {**os.environ, "PEERS_THREADS": str(a.threads), "PEERS_WEIGHTS": weights, "PEERS_BATCH": batch, "PEERS_CONFIG": config,
               "OMP_NUM_THREADS": str(a.threads), "MKL_NUM_THREADS": str(a.threads)}
        torch_cmd = [sys.executable, __file__, "--threads", str(a.threads), "--torch-round", weights, batch]
        rounds = {"torch": [], "ours": []}
        for _ in range(a.rounds):
            for name, cmd in (("torch", torch_cmd), ("ours", a.ours.split())):
                out = subprocess.run(cmd, env=env, capture_output=True, text=True)
                if out.returncode:
                    sys.exit(f"{name}: {out.stderr}")
                rounds[name].append(json.loads(out.stdout.splitlines()[-1]))
    steps = min(len(r["losses"]) for rs in rounds.values() for r in rs)
    apart = max(abs(x - y) for x, y in zip(rounds["torch"][0]["losses"][:steps], rounds["ours"][0]["losses"][:steps]))
    print(f"losses of the first {steps} steps: {rounds['torch'][0]['losses'][0]:.4f} to {rounds['torch'][0]['losses'][steps - 1]:.4f}, apart by {apart:.1e} at most")
    if not apart < 1e-3:
        sys.exit("the losses differ: no time is reported")
    medians = {name: [statistics.median(r["seconds"]) for r in rs] for name, rs in rounds.items()}
    ratios = sorted(t / o for t, o in zip(medians["torch"], medians["ours"]))
    for name, m in medians.items():
        peak = statistics.median(int(r["peak"].split()[0]) for r in rounds[name]) / 1024
        print(f"{name:6} {1e3 * statistics.median(m):8.1f} ms a step, peak memory {peak:6.0f} MiB")
    print(f"torch / ours {statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f}), {a.threads} threads, {a.rounds} rounds, torch {torch.__version__}")


if __name__ == "__main__":
    main()
