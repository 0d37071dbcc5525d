"""fixtures/dinov2-small: rows of the folder models/dinov2-small (scripts/fetch-models.sh, converted) by transformers, and
by ONNX Runtime from the graph that its weights came in, on one small picture of noise. Needs onnx and onnxruntime too."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import numpy as np
import onnx
import onnxruntime
import oracle as o
import torch
from transformers import Dinov2Model

MODEL = o.ROOT.parent / "models" / "dinov2-small"
OUT = o.ROOT.parent / "fixtures" / "dinov2-small"

pixels = o.uniform("golden.dinov2_small.pixels", (1, 3, 56, 70)) * np.float32(2)
module = Dinov2Model.from_pretrained(MODEL, attn_implementation="eager").eval()
with torch.no_grad():
    answer = module(torch.from_numpy(pixels), output_hidden_states=True)
rows = answer.last_hidden_state[0].numpy()

model = onnx.load(MODEL / "vit_s_focus.onnx")
last = [n for n in model.graph.node if n.name.startswith("/backbone/layernorm/Add")][-1].output[0]
model.graph.output.append(onnx.helper.make_empty_tensor_value_info(last))
for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
    dim.dim_param = f"side{dim.dim_value}"
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
graph = session.run([last], {"input_image": pixels})[0][0]
print(f"transformers against ONNX Runtime: {np.abs(rows - graph).max() / np.abs(graph).max():.1e}")

OUT.mkdir(exist_ok=True)
o.save_file({"pixel_values": pixels, "last_hidden_state": rows, "graph": graph,
             "pooler_output": answer.pooler_output.numpy()}, OUT / "expected.safetensors")
