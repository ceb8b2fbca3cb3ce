"""Network dissection: which concepts the units of a network detect."""

from .ablation import unit_ablation
from .ablation_results import Ablation
from .bases import Rotation, per_position
from .conventions import CONVENTIONS, Convention, get_convention
from .dissect import dissect
from .layer_results import LayerDissection, UnitLabel
from .results import Dissection
from .shards import merge_shards
from .thresholds import TopQuantile

__all__ = [
    "CONVENTIONS",
    "Ablation",
    "Convention",
    "Dissection",
    "LayerDissection",
    "Rotation",
    "TopQuantile",
    "UnitLabel",
    "dissect",
    "get_convention",
    "merge_shards",
    "per_position",
    "unit_ablation",
]
