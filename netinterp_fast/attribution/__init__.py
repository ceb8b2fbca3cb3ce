"""Attributions: which parts of an input a prediction rests on."""

from .relevance import lrp

__all__ = ["lrp"]
