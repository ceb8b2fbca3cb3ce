"""One call of an affine layer, as the rules of relevance propagation see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

Pull = Callable[[torch.Tensor], torch.Tensor]


@dataclass(eq=False)
class AffineLayer:
    """y = op(x, weight, bias): a convolution, a linear layer or a product with a constant.

    variants      modified weights, shared by all layers of a run: a parameter is modified once
    nonneg        x is known to be non-negative
    relu_follows, otherwise_used   what is done with y
    out_dim       the dimension of weight that counts outputs; `groups` of them where the layer is transposed
    """

    op: Callable[..., torch.Tensor]
    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    variants: dict[tuple, tuple]
    nonneg: bool = False
    relu_follows: bool = False
    otherwise_used: bool = False
    out_dim: int = 0
    groups: int = 1

    @property
    def positive_only(self) -> bool:
        """No relevance arrives where y <= 0."""
        return self.relu_follows and not self.otherwise_used

    def parameters(self, name: str, modify: Callable, zero: tuple[str, ...] = ()) -> tuple[torch.Tensor, Any]:
        """Weight and bias modified by a function; those named in `zero` are 0. `name` says which modification it is."""
        return tuple(self._variant(which, name, modify, zero) for which in ("weight", "bias"))

    def _variant(self, which: str, name: str, modify: Callable, zero: tuple[str, ...]) -> torch.Tensor | None:
        parameter = getattr(self, which)
        if parameter is None or (which == "bias" and "bias" in zero):
            return None
        if which in zero:
            return torch.zeros_like(parameter)
        key = (id(parameter), parameter._version, name)
        if key not in self.variants:
            with torch.no_grad():
                self.variants[key] = (parameter, modify(parameter))  # with its source: ids of the living are unique
        return self.variants[key][1]

    def pull(self, x: torch.Tensor, parameters: tuple) -> tuple[torch.Tensor, Pull]:
        """z = op(x, weight, bias) for modified parameters, and s -> W^T s."""
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x if again and x.requires_grad else x.detach().requires_grad_()
            z = self.op(x, *parameters)
        return (z if again else z.detach()), lambda s: torch.autograd.grad(
            z, x, s, create_graph=again, retain_graph=True
        )[0]

    def pull_signed(self, x: torch.Tensor, for_positive: tuple, for_negative: tuple) -> tuple[torch.Tensor, Pull]:
        """z of the positive part of x with one set of parameters plus its negative part with another one, and
        s -> the multiplier of x: what comes back along the part that x belongs to. For non-negative x half the work."""
        if self.nonneg:
            return self.pull(x, for_positive)
        z_positive, pull_positive = self.pull(x.clamp(min=0), for_positive)
        z_negative, pull_negative = self.pull(x.clamp(max=0), (for_negative[0], None))
        return z_positive + z_negative, lambda s: torch.where(x > 0, pull_positive(s), pull_negative(s))

    def after_batch_norm(self, scale: torch.Tensor, shift: torch.Tensor) -> AffineLayer:
        """The layer followed by y * scale + shift (each [channels]) as one layer."""
        key = (id(self.weight), self.weight._version, id(scale))
        if key not in self.variants:
            self.variants[key] = (self.weight, scale), (self.weight * self._by_output(scale))
        bias = shift if self.bias is None else self.bias * scale + shift
        weight = self.variants[key][1]
        return replace(self, weight=weight, bias=bias, relu_follows=False, otherwise_used=False)

    def _by_output(self, scale: torch.Tensor) -> torch.Tensor:
        weight = self.weight
        if self.out_dim == 0:
            return scale.view(-1, *[1] * (weight.dim() - 1))
        per_group = scale.view(self.groups, 1, -1).expand(-1, weight.shape[0] // self.groups, -1)
        return per_group.reshape(weight.shape[0], -1, *[1] * (weight.dim() - 2))
