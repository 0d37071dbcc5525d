"""fixtures/rxnmapper-albert: the ALBERT of rxnmapper 0.4.3 (MIT) as a folder of today, and what transformers computes
with it. Needs models/rxnmapper (scripts/fetch-models.sh) and the python of a second environment (see tokens.py):

    python golden/rxnmapper/make.py OTHER_ENVIRONMENT/bin/python
"""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import numpy as np
import torch
import oracle as o
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import AlbertConfig, AlbertForMaskedLM

OUT = o.ROOT.parent / "fixtures" / "rxnmapper-albert"
SOURCE = o.ROOT.parent / "models" / "rxnmapper"
# rxnmapper/smiles_utils.py, SMI_REGEX_PATTERN, less its needless escapes.
PATTERN = r"\[[^\]]+\]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|/|:|~|@|\?|>>?|\*|\$|%[0-9]{2}|[0-9]"

REACTIONS = [
    # tests of rxnmapper
    "CC(C)S.CN(C)C=O.Fc1cccnc1F.O=C([O-])[O-].[K+].[K+]>>CC(C)Sc1ncccc1F",
    "C1COCCO1.CC(C)(C)OC(=O)CONC(=O)NCc1cccc2ccccc12.Cl>>O=C(O)CONC(=O)NCc1cccc2ccccc12",
    "C=CCN=C=S.CNCc1ccc(C#N)cc1.NNC(=O)c1cn2c(n1)CCCC2>>C=CCN1C(C2=CN3CCCCC3=N2)=NN=C1N(C)CC1=CC=C(C#N)C=C1",
    "CC[O-]~[Na+].BrCC>>CCOCC",
    # textbook: Fischer esterification, Diels-Alder, Suzuki coupling, a peptide bond with stereo centres
    "CC(=O)O.CCO>>CC(=O)OCC.O",
    "C=CC=C.C=C>>C1=CCCCC1",
    "Brc1ccccc1.OB(O)c1ccccc1>>c1ccc(-c2ccccc2)cc1",
    "C[C@H](N)C(=O)O.N[C@@H](CO)C(=O)O>>C[C@H](N)C(=O)N[C@@H](CO)C(=O)O",
]
# Tokenizer only: unknown atoms, letters the pattern does not know, blanks, two-digit rings, an empty string.
EDGES = ["", "[Xx]CC", "AAgCC[O-]~[Na+].BrCC>>C(C)COCC", "CC[O-].[Na+].BrCC>>CCOCC |f:0.1|", " C C\tO\n", "C%12CCCC%12",
         "F/C=C/F", "F\\C=C/F", "[nH]1cccc1", "[13CH3]O", "BrBBrClCCl", "*C?$@", "é中🚀", ">>", "C>CC>C"]

config = AlbertConfig(
    vocab_size=591, embedding_size=128, hidden_size=256, num_hidden_layers=12, num_hidden_groups=1, inner_group_num=1,
    num_attention_heads=8, intermediate_size=512, hidden_act="gelu", hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.1, classifier_dropout_prob=0.1, max_position_embeddings=512, type_vocab_size=2,
    layer_norm_eps=1e-12, initializer_range=0.02, pad_token_id=0, bos_token_id=None, eos_token_id=None)
with open(SOURCE / "config.json") as f:
    legacy = json.load(f)
for key, value in legacy.items():  # what the two configs share, they agree on
    if hasattr(config, key) and key not in ("architectures", "bos_token_id", "id2label", "label2id"):
        assert getattr(config, key) == value, (key, value, getattr(config, key))

state = torch.load(SOURCE / "pytorch_model.bin", map_location="cpu", weights_only=True)
assert torch.equal(state["predictions.decoder.weight"], state["albert.embeddings.word_embeddings.weight"])
assert torch.equal(state["predictions.decoder.bias"], state["predictions.bias"])
model = AlbertForMaskedLM(config)
result = model.load_state_dict(state, strict=False)
assert not result.missing_keys, result
assert sorted(result.unexpected_keys) == ["albert.pooler.bias", "albert.pooler.weight"], result  # not part of this class
OUT.mkdir(parents=True, exist_ok=True)
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(pathlib.Path(folder) / name, OUT / name)
    weights = o.load_file(OUT / "model.safetensors")
assert "predictions.decoder.weight" not in weights
for name, a in weights.items():
    assert np.array_equal(a, state[name].numpy()), name
shutil.copyfile(SOURCE / "vocab.txt", OUT / "vocab.txt")
licence = (SOURCE / "LICENSE").read_text()
(OUT / "LICENSE").write_text(
    "Weights and vocabulary: albert_heads_8_uspto_all_1310k of the Python package rxnmapper 0.4.3 (MIT),\n"
    "https://github.com/rxn4chemistry/rxnmapper, converted from pytorch_model.bin by golden/rxnmapper/make.py.\n"
    "Left out: albert.pooler.* and the stored copies of the tied decoder. The notice of the package:\n\n" + licence)

vocab = {line: i for i, line in enumerate((SOURCE / "vocab.txt").read_text(encoding="utf-8").splitlines())}
assert len(vocab) == 591
tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PATTERN), behavior="removed", invert=True)
cls, sep = vocab["[CLS]"], vocab["[SEP]"]
tokenizer.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", cls), ("[SEP]", sep)])
tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False)
                              for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")])
assert tokenizer.get_vocab_size() == 591
tokenizer.save(str(OUT / "tokenizer.json"))
(OUT / "tokenizer_config.json").write_text(json.dumps({
    "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, "unk_token": "[UNK]", "sep_token": "[SEP]",
    "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}, indent=1) + "\n")

tokenizer = Tokenizer.from_file(str(OUT / "tokenizer.json"))
texts = REACTIONS + EDGES
ids = [tokenizer.encode(t).ids for t in texts]
with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
    json.dump(texts, f)
    f.flush()
    own = json.loads(subprocess.run(
        [sys.argv[1], str(pathlib.Path(__file__).with_name("tokens.py")), str(SOURCE / "vocab.txt"), f.name],
        check=True, stdout=subprocess.PIPE, text=True).stdout)
for text, a, b in zip(texts, ids, own):
    assert a == b, (text, a, b)
with open(OUT / "sentences.json", "w") as f:
    json.dump({"reactions": REACTIONS, "tokens": [{"text": t, "ids": i} for t, i in zip(texts, ids)]}, f, indent=1)
    f.write("\n")

model, info = AlbertForMaskedLM.from_pretrained(str(OUT), attn_implementation="eager", dtype=torch.float32,
                                                output_loading_info=True)
for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
    assert not info[key], (key, info[key])
model.eval()
n = max(len(i) for i in ids[:8])
batch = np.zeros((8, n), dtype=np.int64)
mask = np.zeros_like(batch)
for row, i in enumerate(ids[:8]):
    batch[row, : len(i)], mask[row, : len(i)] = i, 1
with torch.no_grad():
    inputs = {"input_ids": torch.from_numpy(batch), "attention_mask": torch.from_numpy(mask)}
    out = model(**inputs, output_attentions=True)
    hidden = model.albert(**inputs).last_hidden_state
# Each position as a masked-LM question of its own would be 8 * n runs; the plain logits at all positions will do.
logits = o.masked(out.logits.numpy(), mask, 1)
best = np.where(mask != 0, logits.argmax(axis=2), -1)
two = np.sort(logits, axis=2)[:, :, -2:]
gap = np.where(mask != 0, two[:, :, 1] - two[:, :, 0], np.inf)
assert gap.min() > 1e-2, gap.min()
k = len(ids[0])
o.save_file({
    "input_ids": batch, "attention_mask": mask,
    "last_hidden_state.0": hidden[0, :k].numpy(),
    "attn.probs.10.head.5.0": out.attentions[10][0, 5, :k, :k].numpy(),  # what rxnmapper maps atoms by
    "logits.0": logits[0, :k], "logits.argmax": best.astype(np.int64), "logits.max": logits.max(axis=2) * mask.astype(np.float32),
}, str(OUT / "expected.safetensors"))
hit = (best == batch)[mask != 0].mean()
print("lens", [len(i) for i in ids], f"argmax equals the input at {hit:.0%}, least gap {gap.min():.2g}",
      "params", sum(p.numel() for p in model.parameters()))
