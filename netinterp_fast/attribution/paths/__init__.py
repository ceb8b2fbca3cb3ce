"""Attributions by gradients along paths from baselines to the input."""

from .expected import expected_gradients
from .integrated import PathInfo, integrated_gradients

__all__ = ["PathInfo", "expected_gradients", "integrated_gradients"]
