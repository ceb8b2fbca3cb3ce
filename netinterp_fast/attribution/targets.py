"""Which output an attribution explains."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Target = int | torch.Tensor | None
# What the gradient family takes: also an index of outputs with more dimensions, one an example, or a function.
AnyTarget = Target | tuple | Sequence | Callable[[torch.Tensor], torch.Tensor]
# One number for each row of an output; a row belongs to one of the examples, LongTensor [rows].
Selection = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def check_inputs(inputs: object, name: str = "inputs") -> None:
    """Raise TypeError unless `inputs` is a floating-point tensor."""
    if not isinstance(inputs, torch.Tensor):
        raise TypeError(f"{name} is a {type(inputs).__name__}; it must be a tensor")
    if not inputs.is_floating_point():
        raise TypeError(f"{name} has dtype {str(inputs.dtype).removeprefix('torch.')}; it must be floating-point")


def output_weights(output: torch.Tensor, target: Target) -> torch.Tensor:
    """What each output [B, n] counts: 1 for the target class, 0 for others; or `target` itself, a float tensor."""
    if isinstance(target, torch.Tensor) and target.is_floating_point():
        if target.shape != output.shape:
            raise ValueError(f"target has shape {list(target.shape)}; a seed has the output's, {list(output.shape)}")
        return target.to(output)
    return torch.zeros_like(output).scatter_(1, class_targets(output, target)[:, None], 1.0)


def class_targets(output: torch.Tensor, target: Target) -> torch.Tensor:
    """LongTensor [B]: the class of each example. None takes the largest output.

    Raises TypeError, ValueError for a target that does not fit output [B, n].
    """
    if output.dim() != 2:
        raise ValueError(
            f"the model's output has shape {list(output.shape)}; class targets need [B, n]. Pass a seed tensor of the "
            "output's shape as target"
        )
    batch, classes = output.shape
    if target is None:
        return output.detach().argmax(1)
    if isinstance(target, bool) or not isinstance(target, (int, torch.Tensor)):
        raise TypeError(f"target is {target!r}; it must be an int, a LongTensor [B], a float tensor or None")
    if isinstance(target, int):
        target = torch.full((batch,), target, device=output.device)
    if target.dtype == torch.bool:
        raise TypeError("target is a tensor of booleans; it must be a LongTensor [B] or a float tensor")
    if target.shape != (batch,):
        raise ValueError(f"target has shape {list(target.shape)}; it must be [{batch}], one class an example")
    target = target.to(output.device, torch.int64)
    bad = target[(target < 0) | (target >= classes)]
    if bad.numel():
        raise ValueError(f"target has the class {int(bad[0])}; the model has {classes} outputs")
    return target


def checked_targets(targets: object, target: Target) -> list[int] | None:
    """Several classes to explain with one forward pass: `targets`, a LongTensor [T], as a list; None as it is."""
    if targets is None:
        return None
    if target is not None:
        raise ValueError("target and targets are both given; choose one")
    integers = isinstance(targets, torch.Tensor) and not (targets.is_floating_point() or targets.dtype == torch.bool)
    if not integers or targets.dim() != 1:
        raise TypeError("targets must be a LongTensor [T]")
    if targets.numel() == 0:
        raise ValueError("targets is empty")
    return targets.tolist()


def selection(target: AnyTarget, output: torch.Tensor, examples: torch.Tensor, batch: int) -> Selection:
    """What of a model's output is explained, as a function of outputs whose rows may be repeated examples.

    Args:
        target: an int, a LongTensor [B], a list of ints; a tuple of ints that indexes the dimensions of the output
            after the first, or a list of one such tuple an example; a float tensor of the shape of all examples'
            outputs, their weights; a function from an output to one number a row; None for each example's largest
            output, or for the output itself where it is one number an example.
        output: the model's for some of the examples: those that `examples`, LongTensor [rows], names.
        batch: B.

    Raises:
        TypeError, ValueError: for a target that does not fit the output.
    """
    if callable(target):
        return lambda out, rows: _one_a_row(target(out), "target(output)", len(rows))
    if isinstance(target, torch.Tensor) and target.is_floating_point():
        return _weighted(target, output, batch)
    if isinstance(target, tuple):
        _check_index(target, output)
        return lambda out, rows: out[(slice(None), *target)]
    if isinstance(target, list) and target and isinstance(target[0], tuple):
        return _indexed(target, output, batch)
    if isinstance(target, list) and not all(isinstance(one, int) and not isinstance(one, bool) for one in target):
        raise TypeError(f"target is {target!r}; a list must hold ints, or tuples of ints, one an example")
    if target is None and output.numel() == len(output):
        return lambda out, rows: _one_a_row(out.flatten(), "the model's output", len(rows))
    return _class(target, output, examples, batch)


def _one_a_row(values: object, name: str, rows: int) -> torch.Tensor:
    if not isinstance(values, torch.Tensor) or values.shape != (rows,):
        shape = list(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
        raise ValueError(f"{name} is {shape}; it must be a tensor [{rows}], one number an example")
    return values


def _weighted(weights: torch.Tensor, output: torch.Tensor, batch: int) -> Selection:
    expected = (batch, *output.shape[1:])
    if weights.shape != expected:
        raise ValueError(f"target has shape {list(weights.shape)}; a seed has the output's, {list(expected)}")
    weights = weights.to(output)
    return lambda out, rows: (out * weights[rows]).flatten(1).sum(1)


def _check_index(index: tuple, output: torch.Tensor) -> None:
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in index):
        raise TypeError(f"target is {index!r}; a tuple must hold ints")
    sizes = output.shape[1:]
    if len(index) != len(sizes) or not all(-n <= i < n for i, n in zip(index, sizes, strict=True)):
        raise ValueError(f"target is {index}; it must index an output of shape {list(sizes)} an example")


def _indexed(indices: list[tuple], output: torch.Tensor, batch: int) -> Selection:
    if len(indices) != batch:
        raise ValueError(f"target has {len(indices)} entries; it must have {batch}, one an example")
    for index in indices:
        if not isinstance(index, tuple):
            raise TypeError(f"target has the entry {index!r} beside tuples; all must be tuples of ints")
        _check_index(index, output)
    columns = [torch.tensor(column, device=output.device) for column in zip(*indices, strict=True)]
    return lambda out, rows: out[(torch.arange(len(rows), device=out.device), *(column[rows] for column in columns))]


def _class(target: AnyTarget, output: torch.Tensor, examples: torch.Tensor, batch: int) -> Selection:
    if isinstance(target, list):
        target = torch.tensor(target)
    if isinstance(target, torch.Tensor) and target.numel() == 1 and target.dim() < 2:
        target = target.reshape(1).expand(batch)
    if target is None:
        classes = torch.zeros(batch, dtype=torch.int64, device=output.device)
        classes[examples] = class_targets(output, None)
    else:
        classes = class_targets(output[:1].expand(batch, *output.shape[1:]), target)
    return lambda out, rows: out.gather(1, classes[rows][:, None])[:, 0]
