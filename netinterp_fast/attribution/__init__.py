"""Attributions: which parts of an input a prediction rests on."""

from .deep_lift import deep_lift
from .patterns import Patterns, fit_patterns, pattern_attribution, pattern_net
from .relevance import lrp

__all__ = ["Patterns", "deep_lift", "fit_patterns", "lrp", "pattern_attribution", "pattern_net"]
