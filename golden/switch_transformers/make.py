"""Switch Transformer cases, with transformers 4: the router of 5.x before its repair is not the paper's."""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "t5"))
import cases as c
import torch
import transformers
from cases import o
from transformers import (SwitchTransformersConfig, SwitchTransformersEncoderModel,
                          SwitchTransformersForConditionalGeneration, SwitchTransformersModel)
from transformers.models.switch_transformers import modeling_switch_transformers as reference

assert transformers.__version__.startswith("4."), transformers.__version__
HERE = o.ROOT / "switch_transformers"


def config(**kw):
    # Without jitter, as gradients are recorded out of training.
    sizes = {**c.SIZES, "router_jitter_noise": 0.0, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "num_experts": 4}
    return SwitchTransformersConfig(**{**sizes, **kw})


# Losses of the routers are recorded on their own, below.
PLAIN = dict(asked=dict(output_router_logits=False))
SPARSE = "block.1.layer.{}.mlp."
FF = ("encoder.block.0.layer.1.mlp.wi.weight", "encoder." + SPARSE.format(1) + "router.classifier.weight",
      "encoder." + SPARSE.format(1) + "experts.expert_0.wi.weight")
WRITES = ("decoder." + SPARSE.format(2) + "router.classifier.weight",
          "decoder." + SPARSE.format(2) + "experts.expert_1.wo.weight")
ALL = dict(num_sparse_encoder_layers=2, num_sparse_decoder_layers=2, router_bias=True)
words = o.from_transformers(SwitchTransformersForConditionalGeneration, config())
c.seq2seq(HERE, "words", words, c.BODY + c.WRITES + FF + WRITES, **PLAIN)
c.seq2seq(HERE, "all_sparse", o.from_transformers(SwitchTransformersForConditionalGeneration, config(**ALL)),
          c.BODY + c.WRITES, note="Every block is sparse; gates have biases. ", **PLAIN)
c.seq2seq(HERE, "capacity", o.from_transformers(SwitchTransformersForConditionalGeneration,
                                                config(expert_capacity=2, **ALL)), loss=False,
          note="An expert takes two rows of a member at most; padding stands on the right and takes places last. ",
          extra={"point": {"experts": {"router": "learned", "capacity": 2}}}, **PLAIN)
c.encoder(HERE, "encoder", o.from_transformers(SwitchTransformersEncoderModel, config()), c.BODY + FF)
c.encoder(HERE, "none", o.from_transformers(SwitchTransformersEncoderModel,
                                            config(num_layers=3, num_sparse_encoder_layers=0)), c.BODY,
          note="No sparse layer asked for: the step is then the depth, which leaves block 1 sparse. ")
c.seq2seq(HERE, "model", o.from_transformers(SwitchTransformersModel, config()), loss=False, **PLAIN)
c.generated(HERE, "words", words)
c.beams(HERE, "words", o.from_transformers(SwitchTransformersForConditionalGeneration, config(eos_token_id=47)))

# Losses of the routers, per bank, on one text without padding.
ids = c.inputs("switch_transformers", target=False)["input_ids"][:1]
every = o.from_transformers(SwitchTransformersForConditionalGeneration, config(**ALL))
with torch.no_grad():
    out = every.module(input_ids=torch.from_numpy(ids), decoder_input_ids=torch.tensor([[0, 7, 8, 9]]),
                       output_router_logits=True)
losses = []
for logits, chosen in (*out.encoder_router_logits, *out.decoder_router_logits):
    losses.append({"balance": reference.load_balancing_loss_func(logits.softmax(-1), chosen).item(),
                   "router-z": reference.router_z_loss_func(logits).item()})
with open(HERE / "generate" / "losses.json", "w") as f:
    json.dump({"config": every.config, "source": ids[0].tolist(), "target": [0, 7, 8, 9], "losses": losses}, f, indent=1)
    f.write("\n")
