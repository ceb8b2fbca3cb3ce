"""The elementwise steps of layer-wise relevance propagation (Bach et al., "On pixel-wise explanations for non-linear
classifier decisions by layer-wise relevance propagation", PLoS ONE 2015).

They sit in backward passes: the checks are light, and tensors that lie alike in memory are not copied.
"""

from __future__ import annotations

import torch

from .._library import define_op, reference
from ..backends import run_op
from ._checks import check_alike, real_dtype

# The largest epsilon beside values of a type: what float32, which narrow types are computed in, can hold.
_LARGEST = {
    torch.float32: torch.finfo(torch.float32).max,
    torch.float64: torch.finfo(torch.float64).max,
    torch.float16: torch.finfo(torch.float32).max,
    torch.bfloat16: torch.finfo(torch.float32).max,
}
_DTYPES = tuple(_LARGEST)


def _widened(*tensors):
    return [tensor.to(real_dtype(tensor.dtype)) for tensor in tensors]


# As csrc/core/relevance.h. A number that torch adds to a float32 tensor is rounded to float32 first.
def _stabilized(z, epsilon):
    return torch.where(z < 0, z - epsilon, z + epsilon)


def _stabilized_ratio(relevance, z, epsilon):
    wide_relevance, wide_z = _widened(relevance, z)
    return (wide_relevance / _stabilized(wide_z, epsilon)).to(z.dtype)


def _product_ratio(x, grad, z, epsilon):
    wide_x, wide_grad, wide_z = _widened(x, grad, z)
    return ((wide_x * wide_grad) / _stabilized(wide_z, epsilon)).to(z.dtype)


def _relu_gate(grad, output, epsilon):
    wide_grad, wide_output = _widened(grad, output)
    shut = wide_output <= 0
    passing = torch.where(shut, 1.0, wide_output)  # 0 / 0 where the gate is shut would make its derivatives NaN
    return torch.where(shut, 0.0, (wide_grad * passing) / (passing + epsilon)).to(output.dtype)


def _fake(first, *others):
    return torch.empty_like(first)


_STABILIZED_RATIO = define_op(
    "stabilized_ratio(Tensor relevance, Tensor z, float epsilon) -> Tensor", _stabilized_ratio, _fake
)
_PRODUCT_RATIO = define_op(
    "product_ratio(Tensor x, Tensor grad, Tensor z, float epsilon) -> Tensor", _product_ratio, _fake
)
_RELU_GATE = define_op("relu_gate(Tensor grad, Tensor output, float epsilon) -> Tensor", _relu_gate, _fake)


def stabilized_ratio(relevance: torch.Tensor, z: torch.Tensor, epsilon: float = 1e-6) -> torch.Tensor:
    """relevance / (z + epsilon sign(z)) with sign(0) = 1: what LRP-epsilon hands back through a linear layer.

    Args:
        relevance, z: float32, float64, float16 or bfloat16, alike in shape, dtype and device. float64 is computed in
            float64, the others in float32 and rounded once; epsilon is rounded to float32 there.
        epsilon: finite, >= 0.

    Returns:
        A new tensor; identical on every backend. It keeps the memory format of dense arguments with equal strides and
        is contiguous otherwise. In grad mode, where an argument requires grad, it is computed by differentiable torch.

    Raises:
        TypeError, ValueError: for a wrong dtype, shape, device or value, naming the argument.
    """
    return _run(_STABILIZED_RATIO, ("relevance", "z"), (relevance, z), epsilon)


def product_ratio(x: torch.Tensor, grad: torch.Tensor, z: torch.Tensor, epsilon: float = 1e-6) -> torch.Tensor:
    """(x * grad) / (z + epsilon sign(z)): the product that ends one layer's rule and the ratio that begins the next's.

    Arguments, result and errors as for `stabilized_ratio`.
    """
    return _run(_PRODUCT_RATIO, ("x", "grad", "z"), (x, grad, z), epsilon)


def relu_gate(grad: torch.Tensor, output: torch.Tensor, epsilon: float = 1e-6) -> torch.Tensor:
    """(grad * output) / (output + epsilon), and 0 where output <= 0: `product_ratio` for the ReLU between two layers,
    from its output alone. NaN where output is NaN.

    Arguments, result and errors as for `stabilized_ratio`.
    """
    return _run(_RELU_GATE, ("grad", "output"), (grad, output), epsilon)


def _run(op: str, names: tuple[str, ...], tensors: tuple[torch.Tensor, ...], epsilon: float) -> torch.Tensor:
    check_alike(names, tensors, _DTYPES)
    if isinstance(epsilon, bool) or not isinstance(epsilon, (float, int)):
        raise TypeError(f"epsilon is {epsilon!r}; it must be a float")
    if not 0 <= epsilon <= _LARGEST[tensors[0].dtype]:
        raise ValueError(f"epsilon is {epsilon}; it must be finite, >= 0 and within the range of the computation")
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return reference(op)(*tensors, epsilon)
    return run_op(op, tensors[0].device, *_aligned(tensors), epsilon)


def _aligned(tensors: tuple[torch.Tensor, ...]) -> list[torch.Tensor] | tuple[torch.Tensor, ...]:
    """The tensors as they are where a kernel can read them in the order they lie in memory; else contiguous ones."""
    if all(tensor.is_contiguous() for tensor in tensors):
        return tensors
    strides = torch.empty_like(tensors[0], device="meta").stride()  # its own only if it has no gaps
    if all(tensor.stride() == strides for tensor in tensors):
        return tensors
    return [tensor.contiguous() for tensor in tensors]
