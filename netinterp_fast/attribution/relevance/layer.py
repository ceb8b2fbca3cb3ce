"""One call of an affine layer, as the rules of relevance propagation see it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ...interpose import Call

# (modified weight, modified bias or None)
Parameters = tuple[torch.Tensor, torch.Tensor | None]
Factors = tuple[float, float]  # of positive and of negative weights


class BatchNorm(NamedTuple):
    """A batch norm in evaluation mode, y * scale + shift for each channel. All are [channels]."""

    mean: torch.Tensor
    var: torch.Tensor
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    eps: float

    @classmethod
    def of_call(cls, call: Call) -> BatchNorm:
        """Of a call of batch_norm, or of instance_norm with running statistics: their arguments stand alike."""
        names = ("running_mean", "running_var", "weight", "bias")
        if call.name == "batch_norm" and call.argument(5, "training", False):
            raise ValueError(
                "a batch norm is in training mode: its outputs mix the batch's examples; call model.eval()"
            )
        return cls(*(call.argument(i, name) for i, name in enumerate(names, 1)), call.argument(7, "eps", 1e-5))

    @property
    def scale(self) -> torch.Tensor:
        scale = torch.rsqrt(self.var + self.eps)
        return scale if self.weight is None else scale * self.weight.detach()

    @property
    def shift(self) -> torch.Tensor:
        shift = -self.mean * self.scale
        return shift if self.bias is None else shift + self.bias.detach()


class Variants:
    """Modified weights of a run. Each is made once; those that no other call of a layer, nor another backward pass,
    needs again are not kept: memory that is used again is cheaper than fresh memory."""

    def __init__(self, many_passes: bool):
        self.many_passes = many_passes
        self.calls: Counter[int] = Counter()  # of layers, by the address of their weight
        self._kept: dict[tuple, tuple] = {}

    def get(self, layer: AffineLayer, name: Hashable, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        if not self.many_passes and self.calls[layer.weight.data_ptr()] == 1:
            return make()
        weight = layer.weight
        key = (weight.data_ptr(), weight.shape, weight.stride(), *(norm.var.data_ptr() for norm in layer.norms), name)
        if key not in self._kept:  # together with the parameters: only the addresses of living ones are unique
            self._kept[key] = (make(), weight, layer.norms)
        return self._kept[key][0]


@dataclass(eq=False)
class AffineLayer:
    """y = op(x, weight, bias): a convolution, a linear layer or a product with a constant; or that followed by batch
    norms, as one layer.

    variants      modified weights, shared by all layers of a run
    nonneg        x is known to be non-negative
    relu_follows  a ReLU takes y; output is y where something else does too
    linear        the layer's own gradient can be used by the rule
    transposed    weight counts its inputs first, then its outputs in `groups`
    """

    op: Callable[..., torch.Tensor]
    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    variants: Variants
    norms: tuple[BatchNorm, ...] = ()
    nonneg: bool = False
    relu_follows: bool = False
    output: torch.Tensor | None = None
    linear: bool = False
    transposed: bool = False
    groups: int = 1

    @classmethod
    def of_call(cls, call: Call, variants: Variants, nonneg: bool = False) -> AffineLayer:
        """Of a call of linear, a convolution or a transposed one."""
        func, rest = call.func, call.args[3:]
        options = {k: v for k, v in call.kwargs.items() if k not in ("input", "weight", "bias")}
        x, weight, bias = (call.argument(i, name) for i, name in enumerate(("input", "weight", "bias")))
        variants.calls[weight.data_ptr()] += 1
        return cls(
            op=lambda x, w, b: func(x, w, b, *rest, **options),
            x=x,
            weight=weight.detach(),
            bias=None if bias is None else bias.detach(),
            variants=variants,
            nonneg=nonneg,
            transposed="transpose" in call.name,
            groups=call.argument(6, "groups", 1),
        )

    @property
    def positive_only(self) -> bool:
        """No relevance arrives where y <= 0."""
        return self.relu_follows and self.output is None

    def with_batch_norm(self, norm: BatchNorm) -> AffineLayer:
        return replace(self, norms=(*self.norms, norm), relu_follows=False, output=None)

    def signed(self, positive: float, negative: float, zero: tuple[str, ...] = ()) -> Parameters:
        """Weight and bias, positive values times one factor and negative ones times another; those in `zero` are 0."""
        if (positive, negative) == (1, 1):
            return self._modified("plain", lambda p: p, zero)
        if positive == 0:
            return self._modified(f"0 and {negative}", lambda p: p.clamp(max=0) * negative, zero)
        slope = negative / positive
        return self._modified(
            f"{positive} and {negative}", lambda p: F.leaky_relu(p, slope), zero, before=float(positive)
        )

    def modified(self, modify: Callable[[torch.Tensor], torch.Tensor], zero: tuple[str, ...] = ()) -> Parameters:
        """Weight and bias, each modified by a function; those in `zero` are 0."""
        return self._modified(modify, modify, zero)

    def _modified(self, name, modify: Callable, zero: tuple[str, ...], before: float = 1.0) -> Parameters:
        """`before`: a factor that comes first, together with the batch norms'."""
        bias = None if "bias" in zero else self._merged_bias()
        if bias is not None:
            bias = modify(bias * before)
        if "weight" in zero:
            return torch.zeros_like(self.weight), bias
        return self.variants.get(self, name, lambda: modify(self._merged_weight(before))), bias

    def _merged_weight(self, factor: float) -> torch.Tensor:
        weight = self.weight if self.norms or factor == 1 else self.weight * factor
        for i, norm in enumerate(self.norms):
            scale = norm.scale * factor if i == 0 else norm.scale
            if self.transposed:
                per_group = scale.view(self.groups, 1, -1).expand(-1, weight.shape[0] // self.groups, -1)
                scale = per_group.reshape(weight.shape[0], -1, *[1] * (weight.dim() - 2))
            else:
                scale = scale.view(-1, *[1] * (weight.dim() - 1))
            weight = weight * scale
        return weight

    def _merged_bias(self) -> torch.Tensor | None:
        bias = self.bias
        for norm in self.norms:
            bias = norm.shift if bias is None else bias * norm.scale + norm.shift
        return bias

    def pull(self, xs: list[torch.Tensor], weights: list[torch.Tensor], bias: torch.Tensor | None = None):
        """z = sum_k op(x_k, weight_k) + bias, and a function that gives W_k^T s for all k."""
        again = torch.is_grad_enabled()  # the result is to be differentiable
        with torch.enable_grad():
            xs = [x if again and x.requires_grad else x.detach().requires_grad_() for x in xs]
            z = self._sum(xs, weights, bias)

        def pulled(s: torch.Tensor) -> list[torch.Tensor]:
            return list(torch.autograd.grad(z, xs, s, create_graph=again))

        return (z if again else z.detach()), pulled

    def _sum(self, xs, weights, bias) -> torch.Tensor:
        stackable = self.groups == 1 and not self.transposed and xs[0].dim() == weights[0].dim()
        if len(xs) > 1 and stackable:  # as one layer with more inputs
            return self.op(torch.cat(xs, 1), torch.cat(weights, 1), bias)
        first, *others = (
            self.op(x, w, bias if k == 0 else None) for k, (x, w) in enumerate(zip(xs, weights, strict=True))
        )
        return sum(others, first)

    def pull_signed(self, x: torch.Tensor, for_positive: Factors, for_negative: Factors, zero: tuple[str, ...]):
        """z = x+ W' + x- W'' + b', W' and b' being `signed` by one pair of factors and W'' by another, and a function
        from s to the multipliers of x: what comes back along the part that x belongs to. Non-negative x: half the work.
        """
        weight, bias = self.signed(*for_positive, zero)
        if self.nonneg:
            z, pulled = self.pull([x], [weight], bias)
            return z, lambda s: pulled(s)[0]
        z, pulled = self.pull([x.clamp(min=0), x.clamp(max=0)], [weight, self.signed(*for_negative, zero)[0]], bias)
        return z, lambda s: torch.where(x > 0, *pulled(s))
