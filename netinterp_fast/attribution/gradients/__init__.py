"""Attributions by gradients of a model's output."""

from .full_grad import FullGrad, full_grad
from .rectified import deconvnet, guided_backprop, rect_grad
from .saliency import input_x_gradient, saliency
from .smoothing import smoothgrad

__all__ = [
    "FullGrad",
    "deconvnet",
    "full_grad",
    "guided_backprop",
    "input_x_gradient",
    "rect_grad",
    "saliency",
    "smoothgrad",
]
