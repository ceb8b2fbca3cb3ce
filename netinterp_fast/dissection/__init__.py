"""Network dissection: which concepts the units of a network detect."""

from .conventions import CONVENTIONS, Convention, get_convention
from .dissect import dissect
from .results import Dissection, LayerDissection, UnitLabel
from .thresholds import TopQuantile

__all__ = [
    "CONVENTIONS",
    "Convention",
    "Dissection",
    "LayerDissection",
    "TopQuantile",
    "UnitLabel",
    "dissect",
    "get_convention",
]
