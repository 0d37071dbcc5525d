"""XLM-RoBERTa cases."""
from kin import cases

cases("xlm-roberta", "XLMRoberta")
