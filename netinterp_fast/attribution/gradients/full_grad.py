"""FullGrad: an output as the sum of what its inputs and its biases add (Srinivas and Fleuret, "Full-gradient
representation for neural network visualization", NeurIPS 2019).

By Euler's theorem f(x) = x . df/dx + sum over operations of b . df/dy, where b = y - J x is what an operation adds to
its linear part: a layer's bias, a batch norm's shift, an added constant, or f(z) - z f'(z) of a smooth activation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from ...interpose import Call, Interposition
from ..relevance import layer_types as types
from ..relevance import operations
from ..relevance.layer import BatchNorm
from ..targets import AnyTarget, selection
from .explained import Explained, Inputs, gradients_of, gradients_on, run_interposed

# Linear in what they are given, or positively homogeneous, where no constant is among the arguments.
_HOMOGENEOUS = (
    operations.STRUCTURE | operations.SCALED | operations.DROPOUTS | set(types.SUMS) | set(types.MEANS)
    | set(types.RESIZES) | {"relu", "leaky_relu", "abs"}
)  # fmt: skip


class FullGrad(NamedTuple):
    """`input_part` [B, ...], or a tuple of them, and `bias_parts`, what each biased operation adds at each place of its
    output, [B, ...], in the order of the forward pass, by the name of the layer or operation."""

    input_part: Inputs
    bias_parts: dict[str, torch.Tensor]

    def saliency_map(self) -> torch.Tensor:
        """[B, 1, H, W]: the paper's map for images. Absolute values of every part with channels and places, scaled to
        [0, 1] in each example, upsampled bilinearly to the input's size and summed."""
        parts = (self.input_part, *self.bias_parts.values())
        maps = [part for part in parts if isinstance(part, torch.Tensor) and part.dim() == 4]
        if not isinstance(self.input_part, torch.Tensor) or self.input_part.dim() != 4:
            raise ValueError("the input is not one tensor of images [B, C, H, W]")
        return sum(_upsampled(_scaled(part.abs()), self.input_part.shape[2:]) for part in maps)


def _scaled(part: torch.Tensor) -> torch.Tensor:
    low, high = part.amin((1, 2, 3), keepdim=True), part.amax((1, 2, 3), keepdim=True)
    return (part - low) / (high - low).clamp(min=torch.finfo(part.dtype).tiny)


def _upsampled(part: torch.Tensor, size: torch.Size) -> torch.Tensor:
    return F.interpolate(part, size, mode="bilinear", align_corners=False).sum(1, keepdim=True)


def full_grad(
    model: Callable, inputs: Inputs, target: AnyTarget = None, *, additional_forward_args: Any = None
) -> FullGrad:
    """What the inputs and each biased operation add to an output: their sum, over everything, is the output.

    Args:
        model, inputs, target, additional_forward_args: as for `saliency`. A target that is a function must be linear.

    Returns:
        FullGrad(input_part, bias_parts), with `.saliency_map()`.

    Raises:
        TypeError, ValueError: for arguments that do not fit.
    """
    explained = Explained(model, inputs, additional_forward_args)
    biases = _Biases(model)
    with gradients_on():
        leaves = tuple(value.detach().requires_grad_() for value in explained.values())
        output = run_interposed(explained, leaves, biases)
        choose = selection(target, output, explained.everyone, explained.batch)
        places = [place for place, _ in biases.found.values()]
        grads = gradients_of(output, explained.everyone, [choose], [*leaves, *places])[0]
    with torch.no_grad():
        input_parts = [leaf.detach() * grad for leaf, grad in zip(leaves, grads, strict=False)]
        bias_parts = {
            name: grad * bias
            for (name, (_, bias)), grad in zip(biases.found.items(), grads[len(leaves) :], strict=True)
        }
    return FullGrad(explained.formatted(input_parts), bias_parts)


class _Biases(Interposition):
    """Runs a model and notes the output of each operation that adds something to its linear part, and what it adds."""

    def __init__(self, model: Callable):
        super().__init__(model)
        self.found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def answer(self, call: Call):
        result = call.with_tensors(lambda tensor: tensor)
        if isinstance(result, torch.Tensor) and result.requires_grad:
            with torch.no_grad():
                bias = self._bias(call, result.detach())
            if bias is not None:
                self.found[self._name(call)] = (result, bias)
        return self.mark_all(result, lambda out: out.requires_grad or None)

    def _bias(self, call: Call, result: torch.Tensor) -> torch.Tensor | None:
        if call.name in types.AFFINE and self._is_layer(call):
            bias = call.argument(2, "bias")
            return None if bias is None else self._by_channel(bias, result, last=call.name == "linear")
        if call.name == "batch_norm":
            return self._by_channel(BatchNorm.of_call(call).shift, result)
        marked = [tensor for tensor in call.tensors() if self.known(tensor) is not None]
        constants = any(tensor.is_floating_point() for tensor in call.tensors() if self.known(tensor) is None)
        if call.name in _HOMOGENEOUS and not constants and not _has_numbers(call):
            return None
        bias = result - self._linear_part(call, marked)
        return bias if bias.any() else None

    def _is_layer(self, call: Call) -> bool:
        """Only the first argument depends on the input."""
        return all(tensor is call.argument(0, "input") or self.known(tensor) is None for tensor in call.tensors())

    @staticmethod
    def _by_channel(bias: torch.Tensor, result: torch.Tensor, last: bool = False) -> torch.Tensor:
        bias = bias.detach()
        return bias.expand_as(result) if last else bias.view(-1, *[1] * (result.dim() - 2)).expand_as(result)

    def _linear_part(self, call: Call, marked: list[torch.Tensor]) -> torch.Tensor:
        """J x, the directional derivative along the inputs themselves."""

        def function(*values: torch.Tensor) -> torch.Tensor:
            by_input = {id(tensor): value for tensor, value in zip(marked, values, strict=True)}
            return call.with_tensors(lambda tensor: by_input.get(id(tensor), tensor.detach()))

        values = tuple(tensor.detach() for tensor in marked)
        return torch.func.jvp(function, values, values)[1]

    def _name(self, call: Call) -> str:
        names = [name for name, _ in map(self.layer_of, call.tensors()) if name]
        base = names[0] if names else call.name
        name, number = base, 1
        while name in self.found:
            number += 1
            name = f"{base}:{number}"
        return name


def _has_numbers(call: Call) -> bool:
    """Whether a number is among what an operation puts into its result."""
    if call.name in ("where", "masked_fill", "setitem", "pad", "maximum", "minimum", *types.SUMS):
        numbers = [v for v in (*call.args[1:], *call.kwargs.values()) if isinstance(v, (int, float)) and v]
        return bool(numbers)
    return False
