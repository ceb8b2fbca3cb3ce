"""Which output an attribution explains."""

from __future__ import annotations

import torch

Target = int | torch.Tensor | None


def check_inputs(inputs: object) -> None:
    """Raise TypeError unless `inputs` is a floating-point tensor."""
    if not isinstance(inputs, torch.Tensor):
        raise TypeError(f"inputs is a {type(inputs).__name__}; it must be a tensor")
    if not inputs.is_floating_point():
        raise TypeError(f"inputs has dtype {str(inputs.dtype).removeprefix('torch.')}; it must be floating-point")


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
