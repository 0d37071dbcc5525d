"""Times timm's models on PyTorch, the same graphs in ONNX Runtime, and ours: random weights, one image size, in turns.

Needs torch and timm; with --onnx also onnx and onnxruntime. Prints a table and, with --json FILE, its numbers:
    cargo build --release
    python scripts/peers_vision.py --threads 2 --onnx [--batch 1 16] [--rounds 5] [--iters 5] [MODEL ...]
Every contestant's median of some runs is one round; a ratio is taken within a round. Run it on an idle machine.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

# timm's name and ours of the smallest sizes; the other families are not in timm.
MODELS = {
    "vit_small_patch16_224": "vit-small-patch16-224",
    "deit_tiny_distilled_patch16_224": "deit-tiny-distilled-patch16-224",
    "swin_tiny_patch4_window7_224": "swin-tiny-patch4-window7-224",
    "swinv2_tiny_window8_256": "swinv2-tiny-window8-256",
    "pvt_v2_b0": "pvt-v2-b0",
    "tnt_s_legacy_patch16_224": "tnt-s-legacy-patch16-224",
    "crossvit_tiny_240": "crossvit-tiny-240",
    "beit_base_patch16_224": "beit-base-patch16-224",
    "convnext_tiny": "convnext-tiny",
    "resnet50": "resnet-50",
    "vit_base_patch16_clip_224": "clip-vit-base-patch16",
    "vit_base_patch16_siglip_224": "siglip-base-patch16-224",
    "vit_small_patch14_dinov2": "dinov2-small",
}
# Sides of images other than a model's own: that of DINOv2 as its processor makes them.
SIDES = {"vit_small_patch14_dinov2": 224}


def median_of(call, warmup, iters):
    """Median seconds of a call."""
    taken = []
    for i in range(warmup + iters):
        start = time.perf_counter()
        call()
        if i >= warmup:
            taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def ours(a, name, side, batch):
    """Median seconds as `switchformer bench` says."""
    cmd = [*a.ours.split(), "--threads", str(a.threads), "bench", name, "--side", str(side), "--batch", str(batch), "--warmup", str(a.warmup), "--iters", str(a.iters), "--json"]
    run = subprocess.run(cmd, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{' '.join(cmd)}: {run.stderr}")
    return batch / json.loads(run.stdout)["cases"][0]["items_per_s"]


def session_of(model, x, threads):
    import io

    import onnxruntime
    import torch

    file = io.BytesIO()
    torch.onnx.export(model, (x,), file, input_names=["x"], dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    feed = {"x": x.numpy()}
    return lambda: session.run(None, feed)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("models", nargs="*", default=list(MODELS))
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--iters", type=int, default=5)
    p.add_argument("--warmup", type=int, default=2)
    p.add_argument("--onnx", action="store_true", help="also export and time ONNX Runtime")
    p.add_argument("--ours", default="target/release/switchformer")
    p.add_argument("--json", metavar="FILE", help="write the rounds' seconds")
    a = p.parse_args()
    for var in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[var] = str(a.threads)
    import timm
    import torch

    torch.set_num_threads(a.threads)
    print(f"{a.threads} threads, {a.rounds} rounds of {a.iters} runs, torch {torch.__version__}, timm {timm.__version__}; images/s, and theirs/ours in time (min-max)")
    kept = []
    for name in a.models:
        if name not in MODELS:
            sys.exit(f"{name}: not one of {', '.join(MODELS)}")
        own = {"img_size": SIDES[name]} if name in SIDES else {}
        model = timm.create_model(name, pretrained=False, **own).eval()
        side = SIDES.get(name, model.pretrained_cfg["input_size"][-1])
        for b in a.batch:
            x = torch.rand(b, 3, side, side) * 2 - 1
            sides = {"ours": lambda: ours(a, MODELS[name], side, b), "torch": lambda: median_of(lambda: model(x), a.warmup, a.iters)}
            if a.onnx:
                run = session_of(model, x, a.threads)
                sides["onnxruntime"] = lambda: median_of(run, a.warmup, a.iters)
            taken = {s: [] for s in sides}
            with torch.inference_mode():
                for _ in range(a.rounds):
                    for s, call in sides.items():
                        taken[s].append(call())
            kept.append({"model": name, "batch": b, "side": side, "seconds": taken})
            line = f"{name:30} batch {b:3}  ours {b / statistics.median(taken['ours']):7.1f}"
            for s in [s for s in sides if s != "ours"]:
                ratios = sorted(t / o for t, o in zip(taken[s], taken["ours"]))
                line += f"   {s} {b / statistics.median(taken[s]):7.1f} {statistics.median(ratios):5.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
            print(line, flush=True)
    if a.json:
        json.dump({"threads": a.threads, "torch": torch.__version__, "timm": timm.__version__, "models": kept}, open(a.json, "w"))


if __name__ == "__main__":
    main()
