"""Quadrature on [0, 1]: where on the path gradients are taken and what they count."""

from __future__ import annotations

import functools

import numpy as np
import torch

from ..._numbers import check_counts

Nodes = tuple[torch.Tensor, torch.Tensor]  # alphas and weights, float64 [K]
METHODS = ("gausslegendre", "riemann_left", "riemann_middle", "riemann_right", "riemann_trapezoid", "graded")


def nodes(method: str | Nodes, steps: int) -> Nodes:
    """Alphas and weights of a rule with `steps` points; or the given ones, checked."""
    if isinstance(method, tuple):
        return _checked(method)
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; it must be one of {', '.join(METHODS)}, or (alphas, weights)")
    check_counts(least=2 if method == "riemann_trapezoid" else 1, steps=steps)
    return _computed(method, steps)


@functools.lru_cache(maxsize=64)
def _computed(method: str, steps: int) -> Nodes:
    if method == "gausslegendre":
        points, weights = np.polynomial.legendre.leggauss(steps)
        return torch.from_numpy((1 + points) / 2), torch.from_numpy(weights / 2)
    places = torch.arange(steps, dtype=torch.float64)
    if method == "graded":
        return _graded(places + 1, steps)
    if method == "riemann_trapezoid":
        weights = torch.full((steps,), 1 / (steps - 1), dtype=torch.float64)
        weights[[0, -1]] /= 2
        return places / (steps - 1), weights
    shift = {"riemann_left": 0.0, "riemann_middle": 0.5, "riemann_right": 1.0}[method]
    return (places + shift) / steps, torch.full((steps,), 1 / steps, dtype=torch.float64)


def _checked(given: tuple) -> Nodes:
    if len(given) != 2:
        raise ValueError(f"method has {len(given)} entries; it must be (alphas, weights)")
    if not all(isinstance(part, (torch.Tensor, list, np.ndarray)) for part in given):
        raise TypeError(f"method is {given!r}; a pair must hold alphas and weights, tensors [K]")
    alphas, weights = (torch.as_tensor(part, dtype=torch.float64, device="cpu") for part in given)
    if alphas.dim() != 1 or alphas.shape != weights.shape or not len(alphas):
        raise ValueError(
            f"method is (alphas {list(alphas.shape)}, weights {list(weights.shape)}); both must be [K], K > 0"
        )
    return alphas, weights


def refinement(steps: int) -> Nodes:
    """What the "graded" rule with `steps` points has beyond half of that with half as many: the points between."""
    return _graded(torch.arange(1, steps, 2, dtype=torch.float64), steps)


def _graded(places: torch.Tensor, steps: int) -> Nodes:
    """The trapezoidal rule in t, alpha = t². Points lie closer near the baseline, where a network's state changes
    fastest (towards zeros its biases take over), and the baseline itself counts nothing."""
    t = places / steps
    weights = 2 * t / steps
    weights[places == steps] /= 2
    return t**2, weights
