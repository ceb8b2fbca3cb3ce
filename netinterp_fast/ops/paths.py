"""Paths from a baseline to an input: all the points on them at once, and the weighted sum of what came back from them
(Sundararajan et al., "Axiomatic attribution for deep networks", ICML 2017).

The raw ops see examples as rows [B, N] in the order they lie in memory: the wrappers keep a memory format that way.
"""

from __future__ import annotations

import math

import torch

from .._library import define_op
from ..backends import run_op
from ._checks import check_alike, check_tensor, real_dtype

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
VALUES = ("signed", "absolute", "square")  # the raw op and csrc/core/paths.h take the index


# As csrc/core/paths.h: each operation is rounded by itself.
def _path_points(inputs, baseline, alphas, relu):
    wide_inputs, wide_baseline = inputs.to(alphas.dtype), baseline.to(alphas.dtype)
    points = wide_baseline + alphas.unsqueeze(2) * (wide_inputs - wide_baseline)
    if relu:
        points = torch.where(points <= 0, 0.0, points)
    return points.to(inputs.dtype).view(alphas.shape[0] * inputs.shape[0], inputs.shape[1])


def _fake_path_points(inputs, baseline, alphas, relu):
    return inputs.new_empty((alphas.shape[0] * inputs.shape[0], inputs.shape[1]))


def _path_accumulate(grads, gate, weights, value, out):
    shape = (weights.shape[0], *out.shape)
    of_value = (lambda v: v, torch.abs, lambda v: v * v)[value]
    gates = [None] * shape[0] if gate is None else gate.view(shape)
    for step_grads, step_gate, weight in zip(grads.view(shape), gates, weights.unsqueeze(2), strict=True):
        values = step_grads.to(out.dtype)
        if step_gate is not None:
            values = torch.where(step_gate <= 0, 0.0, values)
        out += weight * of_value(values)


def _fake_path_accumulate(grads, gate, weights, value, out):
    return None


_POINTS = define_op(
    "path_points(Tensor inputs, Tensor baseline, Tensor alphas, bool relu) -> Tensor", _path_points, _fake_path_points
)
_ACCUMULATE = define_op(
    "path_accumulate(Tensor grads, Tensor? gate, Tensor weights, int value, Tensor(a!) out) -> ()",
    _path_accumulate,
    _fake_path_accumulate,
)


def path_points(
    inputs: torch.Tensor, baseline: torch.Tensor, alphas: torch.Tensor, *, relu: bool = False
) -> torch.Tensor:
    """The points baseline + alpha (inputs - baseline) for every alpha: row k B + b is step k of example b.

    Args:
        inputs, baseline: [B, ...], float32, float64, float16 or bfloat16, alike in shape, dtype and device. float64 is
            computed in float64, the others in float32 and rounded once.
        alphas: [K] or, by example, [K, B]; float32 or float64, rounded to what is computed in.
        relu: 0 for what is <= 0; NaN stays NaN.

    Returns:
        A new tensor [K B, ...]; identical on every backend, detached whatever requires grad. Examples lie in memory as
        those of inputs and baseline where both have the same strides without gaps; else it is contiguous.

    Raises:
        TypeError, ValueError: for a wrong dtype, shape or device, naming the argument.
    """
    check_alike(("inputs", "baseline"), (inputs, baseline), DTYPES)
    check_batched("inputs", inputs)
    alphas = _by_step("alphas", alphas, inputs)
    order = _memory_order(inputs)
    if order and not (_lies_in(inputs, order) and _lies_in(baseline, order)):
        order = None
    points = run_op(_POINTS, inputs.device, _rows(inputs, order), _rows(baseline, order), alphas, bool(relu))
    if order is None:
        return points.view(points.shape[0], *inputs.shape[1:])
    lying = points.view(points.shape[0], *(inputs.shape[dim] for dim in order[1:]))
    return lying.permute([order.index(dim) for dim in range(inputs.dim())])


def path_accumulate(
    grads: torch.Tensor,
    weights: torch.Tensor,
    out: torch.Tensor,
    *,
    value: str = "signed",
    gate: torch.Tensor | None = None,
) -> torch.Tensor:
    """out[b] += weights[k] v(grads[k B + b]) for k = 0, 1, ..., in that order, each operation rounded.

    Args:
        grads: [K B, ...], float32, float64, float16 or bfloat16; detached.
        weights: [K] or, by example, [K, B]; float32 or float64, rounded to the dtype of out.
        out: [B, ...], added to in place: float64 for float64 grads and float32 for others. Without gaps, the batch
            outermost in memory; grads that lie otherwise are copied.
        value: v is the value itself ("signed"), its absolute value ("absolute") or its square ("square").
        gate: None or alike grads; where it is <= 0 the gradient counts as 0: a ReLU's backward pass from its output.

    Returns:
        out; identical on every backend.

    Raises:
        TypeError, ValueError: for a wrong dtype, shape, device or value, naming the argument.
    """
    given = {"grads": grads} if gate is None else {"grads": grads, "gate": gate}
    check_alike(tuple(given), tuple(given.values()), DTYPES)
    check_batched("grads", grads)
    _check_out(out, grads)
    weights = _by_step("weights", weights, out)
    if grads.shape[0] != weights.shape[0] * out.shape[0]:
        raise ValueError(
            f"grads has shape {list(grads.shape)}; its dimension 0 must be {weights.shape[0] * out.shape[0]}: "
            f"the K of weights, {weights.shape[0]}, times the B of out, {out.shape[0]}"
        )
    if value not in VALUES:
        raise ValueError(f"value is {value!r}; it must be one of {', '.join(VALUES)}")
    order = _memory_order(out)
    gate = None if gate is None else _rows(gate, order)
    run_op(_ACCUMULATE, out.device, _rows(grads, order), gate, weights, VALUES.index(value), _rows(out, order))
    return out


def check_batched(name: str, tensor: torch.Tensor) -> None:
    if tensor.dim() == 0:
        raise ValueError(f"{name} has shape []; it must be [B, ...]")


def _by_step(name: str, value: torch.Tensor, examples: torch.Tensor) -> torch.Tensor:
    """alphas or weights, checked, as [K, 1] or [K, B] of what is computed in."""
    by_example = isinstance(value, torch.Tensor) and value.dim() == 2
    check_tensor(name, value, "[K, B]" if by_example else "[K]", (torch.float32, torch.float64), examples.device)
    if by_example and value.shape[1] != examples.shape[0]:
        raise ValueError(f"{name} has shape {list(value.shape)}; it must be [K] or [K, B] with B = {examples.shape[0]}")
    value = value.detach().to(real_dtype(examples.dtype)).contiguous()
    return value if by_example else value.unsqueeze(1)


def _check_out(out: torch.Tensor, grads: torch.Tensor) -> None:
    check_alike(("out",), (out,), (real_dtype(grads.dtype),))
    if out.device != grads.device:
        raise ValueError(f"out is on {out.device}, grads on {grads.device}; they must be the same")
    if out.dim() != grads.dim() or out.shape[1:] != grads.shape[1:]:
        raise ValueError(
            f"out has shape {list(out.shape)}; it must be [B, ...] where grads, {list(grads.shape)}, is [K B, ...]"
        )
    if out.requires_grad:
        raise ValueError("out requires grad; it is added to in place and must not")
    if not _lies_in(out, _memory_order(out)):
        raise ValueError(
            f"out has shape {list(out.shape)} and strides {list(out.stride())}; it must have no gaps, and the batch "
            "must be its outermost dimension in memory"
        )


def _memory_order(tensor: torch.Tensor) -> tuple[int, ...] | None:
    """The dimensions from the outermost in memory to the innermost, but the batch first wherever it lies; None where
    that is their own order.
    """
    if tensor.is_contiguous():
        return None
    return (0, *sorted(range(1, tensor.dim()), key=lambda dim: -tensor.stride(dim)))


def _lies_in(tensor: torch.Tensor, order: tuple[int, ...] | None) -> bool:
    return (tensor.permute(order) if order else tensor).is_contiguous()


def _rows(tensor: torch.Tensor, order: tuple[int, ...] | None) -> torch.Tensor:
    """[B, N], detached: a view where the tensor lies in this order, else a copy that does."""
    lying = tensor.detach().permute(order) if order else tensor.detach()
    return lying.contiguous().view(tensor.shape[0], math.prod(tensor.shape[1:]))
