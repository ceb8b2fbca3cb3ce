"""Layer-wise relevance propagation: rules, composites, and `lrp`."""

from . import composites, rules
from .lrp import lrp

__all__ = ["composites", "lrp", "rules"]
