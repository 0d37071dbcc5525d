"""Times timm's models as `switchformer bench zoo` times ours: random weights, the same threads, batch 1 and 16.

Needs torch and timm; with onnx and onnxruntime, ONNX Runtime too. One JSON line per model and program:
    python scripts/peers_vision.py --threads 2 [--batch 1 16] [--iters 10] [--onnx] [MODEL ...]
Run it and `switchformer --threads 2 bench zoo` one after the other on an idle machine; compare images per second.
"""
import argparse
import json
import os
import statistics
import sys
import time

# timm's names of the sizes that `bench zoo` takes; smt and cswin are not in timm.
MODELS = [
    "vit_tiny_patch16_224",
    "deit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "pvt_v2_b0",
    "tnt_s_legacy_patch16_224",
    "crossvit_tiny_240",
]


def timed(call, warmup, iters):
    """Median milliseconds."""
    all_ms = []
    for i in range(warmup + iters):
        start = time.perf_counter()
        call()
        if i >= warmup:
            all_ms.append(1e3 * (time.perf_counter() - start))
    return statistics.median(all_ms)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("models", nargs="*", default=MODELS)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    p.add_argument("--iters", type=int, default=10)
    p.add_argument("--warmup", type=int, default=2)
    p.add_argument("--onnx", action="store_true", help="also export and time ONNX Runtime")
    a = p.parse_args()
    for var in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[var] = str(a.threads)
    import timm
    import torch

    torch.set_num_threads(a.threads)
    for name in a.models:
        try:
            model = timm.create_model(name, pretrained=False).eval()
        except Exception as e:  # a name that this timm does not know
            print(f"{name}: {e}", file=sys.stderr)
            continue
        side = model.pretrained_cfg["input_size"][-1]
        for b in a.batch:
            x = torch.rand(b, 3, side, side) * 2 - 1
            with torch.inference_mode():
                ms = timed(lambda: model(x), a.warmup, a.iters)
            line = {"model": name, "side": side, "batch": b, "threads": a.threads}
            say = lambda program, ms: print(json.dumps({**line, "program": program, "ms": ms, "images_per_s": 1e3 * b / ms}), flush=True)
            say(f"torch {torch.__version__}, timm {timm.__version__}", ms)
            if a.onnx:
                say(*onnx(model, x, a))


def onnx(model, x, a):
    import io

    import onnxruntime
    import torch

    file = io.BytesIO()
    torch.onnx.export(model, (x,), file, input_names=["x"], dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = a.threads
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    feed = {"x": x.numpy()}
    return f"onnxruntime {onnxruntime.__version__}", timed(lambda: session.run(None, feed), a.warmup, a.iters)


if __name__ == "__main__":
    main()
