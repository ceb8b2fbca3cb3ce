"""Small networks for gradients and paths, and what these are by definition, in plain torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

DOUBLE = torch.float64


def net(*sizes: int, inplace: bool = False) -> nn.Sequential:
    """Linear layers with ReLUs between them; float64, evaluation mode, reproducible."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=inplace)]
    return nn.Sequential(*layers[:-1]).double().eval()


class ConvNet(nn.Module):
    """Two convolutions, batch norm, ReLUs (modules, in place), pooling, [B, 2, 8, 8] to [B, 4]; no scale trivial."""

    def __init__(self, inplace: bool = False):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 5, 3, padding=1)
        self.bn = nn.BatchNorm2d(5)
        self.relu1 = nn.ReLU(inplace)
        self.conv2 = nn.Conv2d(5, 6, 3, stride=2)
        self.relu2 = nn.ReLU(inplace)
        self.fc = nn.Linear(6 * 9, 4)
        with torch.no_grad():
            for part, low, high in (("running_mean", -1, 1), ("running_var", 0.5, 2), ("weight", -1.5, 1.5)):
                getattr(self.bn, part).uniform_(low, high)
            self.bn.bias.normal_()
        self.double().eval()

    def forward(self, x):
        x = self.relu1(self.bn(self.conv1(x)))
        return self.fc(self.relu2(self.conv2(x)).flatten(1))


class WithArguments(nn.Module):
    """forward(x, scale [B, 5], power): one argument that goes with the examples and one that does not."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 4)
        self.double().eval()

    def forward(self, x, scale, power=1):
        return self.b(torch.relu(self.a(x) * scale) ** power)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 5), nn.Conv1d(2, 5, 3), nn.Linear(5, 4)
        self.double().eval()

    def forward(self, x, y):
        return self.c(torch.relu(self.a(x) + self.b(y).mean(2)) + torch.tanh(self.a(x)))


def gradient(model: Callable, x: torch.Tensor, choose: Callable, *arguments) -> torch.Tensor:
    """d choose(model(x)).sum() / dx, without changing x if the model does."""
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        return torch.autograd.grad(choose(model(leaf.clone(), *arguments)).sum(), leaf)[0]


def points_of(method: str, n: int) -> list[tuple[float, float]]:
    """(alpha, weight) of a quadrature rule on [0, 1], as textbooks have them."""
    if method == "gausslegendre":
        roots = np.polynomial.legendre.Legendre.basis(n).roots()
        slope = np.polynomial.legendre.Legendre.basis(n).deriv()(roots)
        return [((1 + r) / 2, 1 / ((1 - r * r) * d * d)) for r, d in zip(roots, slope, strict=True)]
    if method == "riemann_trapezoid":
        return [(k / (n - 1), (0.5 if k in (0, n - 1) else 1.0) / (n - 1)) for k in range(n)]
    if method == "graded":  # the trapezoidal rule in the root of alpha
        return [((k / n) ** 2, (1.0 if k == n else 2.0) * k / n**2) for k in range(1, n + 1)]
    shift = {"riemann_left": 0.0, "riemann_middle": 0.5, "riemann_right": 1.0}[method]
    return [((k + shift) / n, 1 / n) for k in range(n)]


def integrated(
    model: Callable,
    x: torch.Tensor,
    choose: Callable,
    *arguments,
    baseline: torch.Tensor | float = 0.0,
    points: list[tuple[float, float]] | None = None,
) -> torch.Tensor:
    """Integrated gradients by their definition, one point of the path at a time; nine Gauss-Legendre points."""
    start = torch.zeros_like(x) + baseline
    total = torch.zeros_like(x)
    for alpha, weight in points or points_of("gausslegendre", 9):
        total += weight * gradient(model, start + alpha * (x - start), choose, *arguments)
    return (x - start) * total


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-10) -> bool:
    """Shapes are the same, and nothing differs by more than a part of the largest value."""
    assert a.shape == b.shape, (a.shape, b.shape)
    assert a.isfinite().all()
    return bool((a - b).abs().max() <= tolerance * b.abs().max())
