"""Fast, exact network interpretability for PyTorch: native kernels under a Python API."""

__version__ = "0.1.0"

from . import ops
from ._library import build_info
from .attribution import (
    FullGrad,
    PathInfo,
    Patterns,
    deconvnet,
    deep_lift,
    expected_gradients,
    fit_patterns,
    full_grad,
    guided_backprop,
    input_x_gradient,
    integrated_gradients,
    lrp,
    pattern_attribution,
    pattern_net,
    rect_grad,
    saliency,
    smoothgrad,
)
from .attribution.relevance import composites, rules
from .backends import use_backend, why_not
from .compat import accelerate
from .dissection import (
    Ablation,
    Dissection,
    Rotation,
    TopQuantile,
    dissect,
    merge_shards,
    per_position,
    unit_ablation,
)

__all__ = [
    "Ablation",
    "Dissection",
    "FullGrad",
    "PathInfo",
    "Patterns",
    "Rotation",
    "TopQuantile",
    "accelerate",
    "build_info",
    "composites",
    "deconvnet",
    "deep_lift",
    "dissect",
    "expected_gradients",
    "fit_patterns",
    "full_grad",
    "guided_backprop",
    "input_x_gradient",
    "integrated_gradients",
    "lrp",
    "merge_shards",
    "ops",
    "pattern_attribution",
    "pattern_net",
    "per_position",
    "rect_grad",
    "rules",
    "saliency",
    "smoothgrad",
    "unit_ablation",
    "use_backend",
    "why_not",
]
