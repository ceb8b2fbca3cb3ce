"""Fast, exact network interpretability for PyTorch: native kernels under a Python API."""

__version__ = "0.1.0"

from . import ops
from ._library import build_info
from .attribution import lrp
from .attribution.relevance import composites, rules
from .backends import use_backend, why_not
from .dissection import Dissection, TopQuantile, dissect

__all__ = [
    "Dissection",
    "TopQuantile",
    "build_info",
    "composites",
    "dissect",
    "lrp",
    "ops",
    "rules",
    "use_backend",
    "why_not",
]
