"""CamemBERT cases."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "xlm-roberta"))
from kin import cases

cases("camembert", "Camembert")
