"""Times f32 products at BERT-base's shapes beside torch and numpy, in turns: the share of the better one that ours reach.

Needs torch and numpy:
    cargo build --release -p switchformer-kernels --example bench
    python scripts/peers_gemm.py --threads 2 [--rounds 5] [--ours target/release/examples/bench]
"""
import argparse
import json
import os
import statistics
import subprocess
import time


def least(call):
    """The least seconds of a call, as our side measures: tries of 5 ms and more."""
    call()
    start = time.perf_counter()
    call()
    inner = max(1, int(0.005 / max(time.perf_counter() - start, 1e-7)))
    best = float("inf")
    for _ in range(25):
        start = time.perf_counter()
        for _ in range(inner):
            call()
        best = min(best, (time.perf_counter() - start) / inner)
    return best


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--ours", default="target/release/examples/bench")
    a = p.parse_args()
    for var in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[var] = str(a.threads)
    import numpy as np
    import torch

    torch.set_num_threads(a.threads)
    shapes = [(m, i, o) for m in (2458, 128, 16, 1) for i, o in ((768, 768), (768, 3072), (3072, 768))]
    seen = {s: {"torch": [], "numpy": [], "ours": []} for s in shapes}
    for _ in range(a.rounds):
        run = subprocess.run([a.ours, str(a.threads), "best", "gemm"], capture_output=True, text=True, check=True)
        ours = json.loads(run.stdout.splitlines()[-1])
        for m, i, o in shapes:
            x, w = np.random.rand(m, i).astype(np.float32) - 0.5, np.random.rand(o, i).astype(np.float32) - 0.5
            tx, tw, y = torch.from_numpy(x), torch.from_numpy(w), np.empty((m, o), np.float32)
            with torch.inference_mode():
                seen[m, i, o]["torch"].append(least(lambda: torch.nn.functional.linear(tx, tw)))
            seen[m, i, o]["numpy"].append(least(lambda: np.matmul(x, w.T, out=y)))
            seen[m, i, o]["ours"].append(ours[f"{m}x{i}x{o}"])
    print(f"{a.threads} threads, {a.rounds} rounds, torch {torch.__version__}, numpy {np.__version__}; medians in GFLOP/s")
    print(f"{'rows x in x out':18} {'ours':>7} {'torch':>7} {'numpy':>7}   ours / better (min-max)")
    for (m, i, o), t in seen.items():
        ratios = sorted(min(b, n) / u for b, n, u in zip(t["torch"], t["numpy"], t["ours"]))
        rate = {k: 2e-9 * m * i * o / statistics.median(v) for k, v in t.items()}
        print(f"{f'{m} x {i} x {o}':18} {rate['ours']:7.1f} {rate['torch']:7.1f} {rate['numpy']:7.1f}   {statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
