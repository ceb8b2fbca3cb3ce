"""One step of the exact streaming quantile: keep each unit's largest values."""

from __future__ import annotations

import torch

from .._library import define_op
from ..backends import run_op
from ._checks import FLOATING, check_size, check_tensor


def _reference(acts, keep, buffer, count, bound):
    maxima = acts.amax((2, 3)).float()
    if maxima.isnan().any():
        return maxima
    values = acts.float().transpose(0, 1).flatten(1)
    for unit in range(buffer.shape[0]):
        held = torch.cat([buffer[unit, : count[unit]], values[unit]])
        held = held.topk(min(keep, held.numel())).values
        count[unit] = held.numel()
        buffer[unit, : held.numel()] = held
        if held.numel() == keep:
            bound[unit] = held[-1]
    return maxima


def _fake(acts, keep, buffer, count, bound):
    return acts.new_empty(acts.shape[:2], dtype=torch.float32)


_OP = define_op(
    "top_quantile_update(Tensor acts, SymInt keep, Tensor(a!) buffer, Tensor(b!) count, Tensor(c!) bound) -> Tensor",
    _reference,
    _fake,
)


def top_quantile_update(
    acts: torch.Tensor, keep: int, buffer: torch.Tensor, count: torch.Tensor, bound: torch.Tensor
) -> torch.Tensor:
    """Add the values of acts [B, C, h, w] to each unit's largest `keep` values, in place.

    buffer float32 [C, 2 keep] holds count int64 [C] values a unit, in no order; the `keep` largest seen so far are
    always among them. No value at or below bound float32 [C] can still matter; it starts at -inf.

    Returns float32 [B, C], each unit's maximum on each image. Where one is NaN, nothing was added (for any unit).
    """
    if isinstance(keep, bool) or not isinstance(keep, int):
        raise TypeError(f"keep is {keep!r}; it must be an int")
    if keep < 1:
        raise ValueError(f"keep is {keep}; it must be at least 1")
    check_tensor("buffer", buffer, "[C, 2 keep]", (torch.float32,))
    check_size("buffer", buffer, 1, 2 * keep, "2 keep")
    for name, state, dtype in (("count", count, torch.int64), ("bound", bound, torch.float32)):
        check_tensor(name, state, "[C]", (dtype,), buffer.device)
        check_size(name, state, 0, buffer.shape[0], "the number of units")
    check_tensor("acts", acts, "[B, C, h, w]", FLOATING, buffer.device)
    check_size("acts", acts, 1, buffer.shape[0], "the number of units")
    if 0 in acts.shape[2:]:
        raise ValueError(f"acts has shape {list(acts.shape)}; h and w must be at least 1")
    return run_op(_OP, acts.device, acts.detach().contiguous(), keep, buffer, count, bound)
