"""Attributions: which parts of an input a prediction rests on."""

from .deep_lift import deep_lift
from .gradients import (
    FullGrad,
    deconvnet,
    full_grad,
    guided_backprop,
    input_x_gradient,
    rect_grad,
    saliency,
    smoothgrad,
)
from .paths import PathInfo, expected_gradients, integrated_gradients
from .patterns import Patterns, fit_patterns, pattern_attribution, pattern_net
from .relevance import lrp

__all__ = [
    "FullGrad",
    "PathInfo",
    "Patterns",
    "deconvnet",
    "deep_lift",
    "expected_gradients",
    "fit_patterns",
    "full_grad",
    "guided_backprop",
    "input_x_gradient",
    "integrated_gradients",
    "lrp",
    "pattern_attribution",
    "pattern_net",
    "rect_grad",
    "saliency",
    "smoothgrad",
]
