"""Token ids by rxnmapper's own tokenizer, as JSON on stdout: tokens.py VOCAB SENTENCES.json

Its own environment, because rxnmapper wants transformers < 5:
    pip install "transformers<5" rdkit rxn-chem-utils && pip install --no-deps rxnmapper==0.4.3
"""
import importlib.util
import json
import sys
import types

package = types.ModuleType("rxnmapper")  # its __init__ would import torch
package.__path__ = list(importlib.util.find_spec("rxnmapper").submodule_search_locations)
sys.modules["rxnmapper"] = package
from rxnmapper.tokenization_smiles import SmilesTokenizer

tokenizer = SmilesTokenizer(sys.argv[1], max_len=512)
with open(sys.argv[2]) as f:
    texts = json.load(f)
json.dump([tokenizer.batch_encode_plus([t])["input_ids"][0] for t in texts], sys.stdout)
