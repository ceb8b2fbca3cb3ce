"""Patterns learnt from data, in one pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import nn
from tqdm import tqdm

from ...interpose import Call
from ..relevance.layer import BatchNorm
from .layers import Layer, LayerCalls
from .patterns import ESTIMATORS, Patterns

_RELATIVE_VARIANCE = 1e-12  # of y, below which it is the rounding of a constant


@dataclass(eq=False)
class _Moments:
    """What is summed over the patches that a layer's units saw; all float64.

    weight    the layer's, as it is
    patches   how many there were
    y         [units]: sum of y
    firing    [units]: how many patches count for E+
    x, xy     of the weight's shape: sums of x and x y over those
    """

    weight: torch.Tensor
    patches: int = 0
    y: torch.Tensor | float = 0.0
    firing: torch.Tensor | float = 0.0
    x: torch.Tensor | float = 0.0
    xy: torch.Tensor | float = 0.0

    def pattern(self) -> torch.Tensor:
        """a = (E+[x y] - E+[x] E[y]) / w^T (E+[x y] - E+[x] E[y]), 0 for units that never fire or never change."""
        per_unit = (-1, *[1] * (self.weight.dim() - 1))
        firing, y = self.firing.clamp(min=1).view(per_unit), self.y.view(per_unit) / self.patches
        direction = (self.xy - self.x * y) / firing
        variance, power = (
            (self.weight.double() * t).flatten(1).sum(1).view(per_unit) for t in (direction, self.xy / firing)
        )
        varies = variance.abs() > _RELATIVE_VARIANCE * power.abs()
        return torch.where(varies, direction / variance, 0.0).to(self.weight.dtype)


@dataclass(eq=False)
class _Output:
    """A layer's output y for the input x, not counted yet: a batch norm may follow, whose sign is then the unit's."""

    layer: Layer
    x: torch.Tensor
    y: torch.Tensor = field(repr=False)


class _Fit(LayerCalls):
    """Sums the moments of all layers while the model runs. What is known of a tensor is its `_Output`, else True."""

    def __init__(self, model: nn.Module, estimator: str):
        super().__init__(model)
        self.linear = estimator == "linear"
        self.moments: dict[str, _Moments] = {}
        self._waiting: dict[int, _Output] = {}

    def add(self, model: nn.Module, inputs: torch.Tensor) -> None:
        """Count a batch."""
        try:
            with self:
                model(self.mark(inputs.detach().view_as(inputs), True))
            for output in list(self._waiting.values()):
                self._count(output, output.y)
        finally:
            self._waiting.clear()

    def answer(self, call: Call):
        if call.name != "batch_norm":
            for tensor in call.tensors():
                self._count(self.known(tensor), tensor)
        return super().answer(call)

    def layer(self, call: Call, layer: Layer) -> torch.Tensor:
        y = self.gradient(call)
        self._waiting[id(y)] = output = _Output(layer, call.argument(0, "input"), y)
        return self.mark(y, output)

    def batch_norm(self, call: Call, norm: BatchNorm) -> torch.Tensor:
        y = self.gradient(call)
        self._count(self.known(call.argument(0, "input")), y)
        return y

    def gradient(self, call: Call):
        return self.mark_all(call.with_tensors(torch.Tensor.detach), lambda t: True)

    def _count(self, output: _Output | bool | None, sign: torch.Tensor) -> None:
        """Add a layer's output, whose units fire where `sign` is positive."""
        if not isinstance(output, _Output):
            return
        self.mark(output.y, True)
        del self._waiting[id(output.y)]
        layer, x, y = output.layer, output.x.double(), output.layer.without_bias(output.y)
        moments = self.moments.setdefault(layer.name, _Moments(layer.weight))
        moments.patches += y.numel() // max(len(layer.weight), 1)
        moments.y += layer.of_each_unit(y).sum(1)
        fires = torch.ones_like(y) if self.linear else (sign > 0).double()
        moments.firing += layer.of_each_unit(fires).sum(1)
        moments.xy += layer.patch_sum(x, y * fires)
        moments.x += self._sum_of_all(layer, x, fires) if self.linear else layer.patch_sum(x, fires)

    @staticmethod
    def _sum_of_all(layer: Layer, x: torch.Tensor, ones: torch.Tensor) -> torch.Tensor:
        """Sum over all patches of x: the same for all units of a group."""
        one_each = ones.narrow(1 - layer.weight.dim(), 0, layer.groups)
        return layer.patch_sum(x, one_each).repeat_interleave(len(layer.weight) // layer.groups, 0)


def fit_patterns(
    model: nn.Module, loader: Iterable, *, estimator: str = "two_component", progress: bool = False
) -> Patterns:
    """Learn the patterns of a model's layers from data, in one pass (Kindermans et al., ICLR 2018, section 4).

    Layers are linear layers and convolutions, as modules or as functions, told apart by their weight; one that is used
    again counts all its uses. A batch norm that takes a convolution's output decides whether a unit fires; y stays the
    convolution's output. A bias changes only that too: it cancels in the formula. Padding is part of the patches.

    Args:
        model: any `nn.Module` in evaluation mode that takes one tensor; it is not changed.
        loader: yields floating-point tensors [B, ...], or tuples that begin with one; they are moved to the model's
            device.
        estimator: "two_component", over the patches that make a unit fire, or "linear", over all patches.
        progress: show a progress bar of the batches.

    Returns:
        `Patterns` of the layers that ran. 0 for units that never fire or whose output never changes.

    Raises:
        TypeError, ValueError: for arguments that do not fit, an empty loader, values that are not finite, or a batch
            norm in training mode.
        NoRuleError: for layers of another kind.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator is {estimator!r}; it must be 'two_component' or 'linear'")
    if isinstance(loader, torch.Tensor):
        raise TypeError("loader is a tensor; it must yield batches: pass [tensor]")
    device = next((parameter.device for parameter in model.parameters()), None)
    fit = _Fit(model, estimator)
    examples = 0
    with torch.no_grad():
        for number, item in enumerate(tqdm(loader, desc="patterns", unit="batch", disable=not progress)):
            inputs = _inputs_of(item, number)
            examples += len(inputs)
            if len(inputs):
                fit.add(model, inputs.to(device))
        if not examples:
            raise ValueError("loader is empty: patterns are learnt from data")
        patterns = {name: moments.pattern() for name, moments in fit.moments.items()}
    for name, moments in fit.moments.items():
        if not (moments.xy.isfinite().all() and patterns[name].isfinite().all()):
            raise ValueError(f"layer {name!r} has inputs or outputs that are not finite, so it has no pattern")
    return Patterns(patterns, estimator)


def _inputs_of(item, number: int) -> torch.Tensor:
    inputs = item[0] if isinstance(item, (tuple, list)) and len(item) else item
    if not isinstance(inputs, torch.Tensor) or not inputs.is_floating_point():
        kind = inputs.dtype if isinstance(inputs, torch.Tensor) else type(inputs).__name__
        raise TypeError(f"batch {number} of the loader has inputs of type {kind}; they must be floating-point tensors")
    if inputs.dim() == 0:
        raise ValueError(f"batch {number} of the loader has a single number as its inputs; they must be [B, ...]")
    if not inputs.isfinite().all():
        raise ValueError(f"batch {number} of the loader has values that are not finite")
    return inputs
