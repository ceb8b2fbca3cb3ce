"""FullGrad: an output as the sum of what its inputs and its biases add (Srinivas and Fleuret, "Full-gradient
representation for neural network visualization", NeurIPS 2019).

By Euler's theorem f(x) = x . df/dx + sum over operations of b . df/dy, where b = y - J x is what an operation adds to
its linear part: a layer's bias, a batch norm's shift, an added constant, or f(z) - z f'(z) of a smooth activation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...interpose import Call, Interposition, NoRuleError
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
        NoRuleError: where the parts do not sum to the output, for what the model does out of sight.
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
        values = [*leaves, *(bias for _, bias in biases.found.values())]
        # Where no gradient comes back the value may be infinite: scores that a mask shuts out.
        parts = [torch.where(grad == 0, 0, grad * value) for grad, value in zip(grads, values, strict=True)]
        _check_complete(parts, choose(output, explained.everyone))
    bias_parts = dict(zip(biases.found, parts[len(leaves) :], strict=True))
    return FullGrad(explained.formatted(parts[: len(leaves)]), bias_parts)


def _check_complete(parts: list[torch.Tensor], chosen: torch.Tensor) -> None:
    """Raise NoRuleError unless all parts sum to the chosen outputs."""
    if not chosen.numel():
        return
    total, size = sum(part.sum() for part in parts), sum(part.abs().sum() for part in parts)
    missing = (total - chosen.sum()).abs()
    if missing > (1e-3 + 16 * torch.finfo(chosen.dtype).eps) * (size + chosen.abs().sum()):
        raise NoRuleError(
            f"the parts of the output sum to {float(total):.6g} instead of {float(chosen.sum()):.6g}: the model "
            "computes something out of sight, such as TorchScript or a function with its own backward pass"
        )


class _Biases(Interposition):
    """Runs a model and notes the output of each operation that adds something to its linear part, and what it adds."""

    def __init__(self, model: Callable):
        super().__init__(model)
        self.found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def answer(self, call: Call):
        result = call.with_tensors(lambda tensor: tensor)
        parts = [result] if isinstance(result, torch.Tensor) else result if isinstance(result, (tuple, list)) else []
        if any(isinstance(part, torch.Tensor) and part.requires_grad for part in parts):
            with torch.no_grad():
                biases = self._biases(call, parts)
            for part, bias in zip(parts, biases, strict=True):
                if bias is not None:
                    self.found[self._name(call)] = (part, bias)
        return self.mark_all(result, lambda out: out.requires_grad or None)

    def _biases(self, call: Call, parts: list[torch.Tensor]) -> list[torch.Tensor | None]:
        """What the operation adds to its linear part, for each of its results."""
        if call.name in types.AFFINE and self._is_layer(call):
            bias, weight = call.argument(2, "bias"), call.argument(1, "weight")
            channels = -1 if call.name == "linear" else 1 - weight.dim()
            return [None if bias is None else _by_channel(bias, parts[0], channels)]
        if call.name == "batch_norm":
            return [_by_channel(BatchNorm.of_call(call).shift, parts[0], 1)]
        marked = [tensor for tensor in call.tensors() if self.known(tensor) is not None]
        constants = any(t.dtype != torch.bool for t in call.tensors() if self.known(t) is None)
        if call.name in _HOMOGENEOUS and not constants and not _has_numbers(call):
            return [None] * len(parts)
        biases = [y.detach() - linear for y, linear in zip(parts, self._linear_parts(call, marked), strict=True)]
        return [bias if bias.is_floating_point() and bias.any() else None for bias in biases]

    def _is_layer(self, call: Call) -> bool:
        """Only the first argument depends on the input."""
        return all(tensor is call.argument(0, "input") or self.known(tensor) is None for tensor in call.tensors())

    def _linear_parts(self, call: Call, marked: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """J x, the directional derivative along the inputs themselves, for each result."""

        def function(*values: torch.Tensor):
            by_input = {id(tensor): value for tensor, value in zip(marked, values, strict=True)}
            result = call.with_tensors(lambda tensor: by_input.get(id(tensor), tensor.detach()))
            return (result,) if isinstance(result, torch.Tensor) else tuple(result)

        values = tuple(tensor.detach() for tensor in marked)
        along = tuple(torch.where(value.isfinite(), value, 0) for value in values)
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):  # the only attention with such a derivative
            warnings.filterwarnings("ignore", category=DeprecationWarning)  # torch's own, of what it imports for it
            return torch.func.jvp(function, values, along)[1]

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


def _by_channel(bias: torch.Tensor, result: torch.Tensor, channels: int) -> torch.Tensor:
    shape = [1] * result.dim()
    shape[channels] = -1
    return bias.detach().view(shape).expand_as(result)
