"""Fast, exact network interpretability for PyTorch: native kernels under a Python API."""

__version__ = "0.1.0"

from . import ops
from ._library import build_info
from .attribution import Patterns, deep_lift, fit_patterns, lrp, pattern_attribution, pattern_net
from .attribution.relevance import composites, rules
from .backends import use_backend, why_not
from .dissection import Dissection, TopQuantile, dissect

__all__ = [
    "Dissection",
    "Patterns",
    "TopQuantile",
    "build_info",
    "composites",
    "deep_lift",
    "dissect",
    "fit_patterns",
    "lrp",
    "ops",
    "pattern_attribution",
    "pattern_net",
    "rules",
    "use_backend",
    "why_not",
]
