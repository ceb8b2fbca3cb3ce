"""The backward steps of relevance propagation between two tensors of the forward pass.

Each step takes the value of its output, computed before, in a list: it is not one of its inputs. `plain` are the values
that its backward pass uses where the result is to be differentiated: the same numbers, with the model's own gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import torch

from ...ops import product_ratio, relu_gate
from .layer import AffineLayer
from .rules import AffineRule, Stabilizer, ratio

Plain = tuple[torch.Tensor, ...] | None


class Arrives(Enum):
    """What the gradient that reaches a tensor t is: c with R = t c, R / (t + epsilon sign t), or R."""

    MULTIPLIER = 0
    RATIO = 1
    RELEVANCE = 2


@dataclass(eq=False)
class Traced:
    """What is known of a tensor of the forward pass.

    nonneg      it has no negative value
    gate        it is an attention weight or a gate (softmax, sigmoid): a constant factor where it multiplies
    layer, rule the affine layer that it is the direct output of: a batch norm or a ReLU that follows belongs to it
    linear      the same output with the layer's own gradient, where the rule goes through it
    relevance   the same tensor, expecting R; or how to make it
    multiplier  the same tensor, expecting c
    read        its values are needed in the backward pass
    plain       the same tensor with the model's own gradient, where the result is to be differentiated
    """

    arrives: Arrives = Arrives.MULTIPLIER
    stabilizer: Stabilizer = 0.0
    nonneg: bool = False
    gate: bool = False
    read: bool = False
    layer: AffineLayer | None = None
    rule: AffineRule | None = None
    linear: torch.Tensor | None = None
    relevance: torch.Tensor | Callable[[], torch.Tensor] | None = None
    multiplier: torch.Tensor | None = field(default=None, repr=False)
    plain: torch.Tensor | None = field(default=None, repr=False)

    def forget(self) -> None:
        """Drop all tensors."""
        self.layer = self.linear = self.relevance = self.multiplier = self.plain = None


class Activation(torch.autograd.Function):
    """y = f(z), which passes the relevance y * c on to z, as z expects it."""

    @staticmethod
    def forward(ctx, z, value, plain, traced, is_relu):
        (y,) = value
        ctx.arrives, ctx.stabilizer = traced.arrives, traced.stabilizer
        ctx.from_output = traced.arrives is Arrives.RELEVANCE or (is_relu and not callable(traced.stabilizer))
        y_saved, z_saved = plain or (y, z)
        ctx.save_for_backward(*((y_saved,) if ctx.from_output else (y_saved, z_saved)))
        return y

    @staticmethod
    def backward(ctx, c):
        y, *z = ctx.saved_tensors
        if ctx.arrives is Arrives.RELEVANCE:
            to_z = y * c
        elif ctx.from_output:
            to_z = relu_gate(c, y, ctx.stabilizer)
        elif callable(ctx.stabilizer):
            to_z = ratio(y * c, *z, ctx.stabilizer)
        else:
            to_z = product_ratio(y, c, *z, ctx.stabilizer)
        return to_z, None, None, None, None


class Ratio(torch.autograd.Function):
    """z, expecting R where z itself expects R / (z + epsilon sign z)."""

    @staticmethod
    def forward(ctx, z, plain, stabilizer):
        ctx.stabilizer = stabilizer
        ctx.save_for_backward(*(plain or (z,)))
        return z.view_as(z)

    @staticmethod
    def backward(ctx, relevance):
        return ratio(relevance, *ctx.saved_tensors, ctx.stabilizer), None, None


class Quotient(torch.autograd.Function):
    """y = f(x) with f(0) = 0 of a tensor x that expects a multiplier: R = y c = x (y c / x)."""

    @staticmethod
    def forward(ctx, x, value, plain):
        (y,) = value
        ctx.save_for_backward(*(plain or (y, x)))
        return y

    @staticmethod
    def backward(ctx, c):
        y, x = ctx.saved_tensors
        zero = x == 0
        return torch.where(zero, 0, y * c / torch.where(zero, 1, x)), None, None


class Same(torch.autograd.Function):
    """The value y, whose gradient goes to `source` as it is."""

    @staticmethod
    def forward(ctx, source, value):
        return value[0].view_as(value[0])

    @staticmethod
    def backward(ctx, grad):
        return grad, None


class WithRule(torch.autograd.Function):
    """The output y of an affine layer, with the rule's backward pass from its relevance."""

    @staticmethod
    def forward(ctx, x, linear, value, plain, layer, rule):
        ctx.layer, ctx.rule = layer, rule
        ctx.save_for_backward(*(plain or (x,)))
        return value[0]

    @staticmethod
    def backward(ctx, relevance):
        (x,) = ctx.saved_tensors
        result = ctx.rule.backward(ctx.layer, x, relevance)
        to_x, to_linear = result if isinstance(result, tuple) else (result, None)
        return to_x, to_linear, None, None, None, None


class ActivationGradient(torch.autograd.Function):
    """y = f(x) with the gradient that an `ActivationRule` gives it."""

    @staticmethod
    def forward(ctx, x, value, plain, rule):
        (y,) = value
        ctx.rule = rule
        ctx.save_for_backward(*(plain or (y, x)))
        return y

    @staticmethod
    def backward(ctx, grad):
        y, x = ctx.saved_tensors
        return ctx.rule.backward(grad, x, y), None, None, None


class PlainGradient(torch.autograd.Function):
    """y = function(inputs) with the gradient that it has at `plain`, which may be differentiated."""

    @staticmethod
    def forward(ctx, function, plain, *inputs):
        ctx.function, ctx.plain = function, plain
        return function(*inputs)

    @staticmethod
    def backward(ctx, grad):
        with torch.enable_grad():
            inputs = [t.view_as(t) for t in ctx.plain]  # one may depend on another: not as seen from here
            y = ctx.function(*inputs)
        grads = torch.autograd.grad(y, inputs, grad, create_graph=torch.is_grad_enabled(), allow_unused=True)
        return None, None, *grads
