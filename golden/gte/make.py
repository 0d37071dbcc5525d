"""GTE cases. transformers writes the layout of the authors."""
from cases import CLASSES, HEADS, THETA, config, o

heads = dict(CLASSES)
o.text_cases("gte", {"encoder": heads.pop("encoder")}, config, HEADS, pad=0)
o.text_cases("gte", heads, config, HEADS, pad=0, taps=False)
o.text_eps("gte", CLASSES["masked_lm"], config, 0)
plain = o.from_transformers(CLASSES["encoder"], config(type_vocab_size=0, hidden_act="silu", rope_parameters={
    "rope_type": "default", "rope_theta": THETA}))
ids = o.text_inputs("gte", 0, left=True, token_types=False)
o.run_case(o.ROOT / "gte" / "plain", plain, ids, rows=ids["attention_mask"], taps=False,
           note="Outputs only: no token types, plain angles, SiLU, padded on the left.")
ids = o.text_inputs("gte", 0)
recent = o.from_transformers(CLASSES["masked_lm"], config(), save={"save_original_format": False})
assert any("self_attn.q_proj" in name for name in recent.tensors)
o.run_case(o.ROOT / "gte" / "recent", recent, ids, rows=ids["attention_mask"], taps=False,
           note="Outputs only: the names of transformers' modules, which are read and not written.")
o.amend(o.ROOT / "gte" / "recent", {"read_only": True})
