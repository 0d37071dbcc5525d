"""Cases of GTE under the name and with the settings of its authors; transformers has it as `gte`."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "gte"))
import torch
from cases import BODY, CLASSES, FACTOR, HEADS, THETA, config, o
from transformers import GteModel, GtePreTrainedModel
from transformers.modeling_outputs import QuestionAnsweringModelOutput

NAMES = {"encoder": "NewModel", "masked_lm": "NewForMaskedLM", "sequence": "NewForSequenceClassification",
         "token": "NewForTokenClassification", "question": "NewForQuestionAnswering"}
# What a published config says beside the sizes.
PUBLISHED = {"model_type": "new", "rope_theta": THETA, "rope_scaling": {"type": "ntk", "factor": FACTOR},
             "position_embedding_type": "rope", "layer_norm_type": "layer_norm", "pack_qkv": True, "unpad_inputs": False,
             "use_memory_efficient_attention": False, "logn_attention_scale": False, "logn_attention_clip1": False}


class Question(GtePreTrainedModel):
    """The head that transformers leaves out."""

    def __init__(self, config):
        super().__init__(config)
        self.gte = GteModel(config, add_pooling_layer=False)
        self.qa_outputs = torch.nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(self, output_attentions=None, **kw):
        start, end = self.qa_outputs(self.gte(**kw)[0]).unbind(-1)
        return QuestionAnsweringModelOutput(start_logits=start, end_logits=end)


def load(cls, case, **kw):
    loaded = o.from_transformers(cls, config(**kw), prefix=("gte.", "new."))
    own = {k: v for k, v in loaded.config.items() if k != "rope_parameters"}
    loaded.config = {**own, **PUBLISHED, "architectures": [NAMES[case]]}
    return loaded


for case, cls in CLASSES.items():
    labels = {"num_labels": o.LABELS[case]} if case in o.LABELS else {}
    o.text_case("new", case, load(cls, case, **labels), HEADS[case], 0, taps=case == "encoder")
o.text_question("new", None, None, BODY[:-1] + ("qa_outputs.weight",), 0, loaded=load(Question, "question"))
ids = o.text_inputs("new", 0, token_types=False)
o.run_case(o.ROOT / "new" / "untyped", load(CLASSES["encoder"], "encoder", type_vocab_size=0), ids,
           rows=ids["attention_mask"], taps=False, note="Outputs only: no token types.")
