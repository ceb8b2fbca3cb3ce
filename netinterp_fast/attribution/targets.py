"""Which output an attribution explains."""

from __future__ import annotations

import torch


def class_targets(output: torch.Tensor, target: int | torch.Tensor | None) -> torch.Tensor:
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
    if target.shape != (batch,):
        raise ValueError(f"target has shape {list(target.shape)}; it must be [{batch}], one class an example")
    target = target.to(output.device, torch.int64)
    if batch and (int(target.min()) < 0 or int(target.max()) >= classes):
        bad = int(target[((target < 0) | (target >= classes)).nonzero()[0, 0]])
        raise ValueError(f"target has the class {bad}; the model has {classes} outputs")
    return target
