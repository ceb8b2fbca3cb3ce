"""Network dissection: which concepts the units of a network detect."""

from .bases import Rotation, per_position
from .conventions import CONVENTIONS, Convention, get_convention
from .dissect import dissect
from .results import Dissection, LayerDissection, UnitLabel
from .thresholds import TopQuantile

__all__ = [
    "CONVENTIONS",
    "Convention",
    "Dissection",
    "LayerDissection",
    "Rotation",
    "TopQuantile",
    "UnitLabel",
    "dissect",
    "get_convention",
    "per_position",
]
