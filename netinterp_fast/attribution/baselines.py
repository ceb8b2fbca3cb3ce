"""The input that stands for the absence of what is explained."""

from __future__ import annotations

from typing import Any

import torch

Baseline = torch.Tensor | float | tuple | None


def checked_baseline(baseline: Any, inputs: torch.Tensor) -> torch.Tensor:
    """The baseline of a tensor of inputs, alike: from a tensor [B, ...] or [1, ...], a number, or None (zeros)."""
    if baseline is None:
        return torch.zeros_like(inputs, requires_grad=False)
    if isinstance(baseline, (int, float)):
        return torch.full_like(inputs, baseline, requires_grad=False)
    if not isinstance(baseline, torch.Tensor):
        raise TypeError(f"baseline is a {type(baseline).__name__}; it must be a tensor, a number or None")
    if baseline.dim() == 0:
        return torch.full_like(inputs, baseline.item(), requires_grad=False)
    if baseline.shape[1:] != inputs.shape[1:] or baseline.shape[0] not in (1, inputs.shape[0]):
        raise ValueError(
            f"baseline has shape {list(baseline.shape)}; it must be {list(inputs.shape)} or [1, ...] for one for all"
        )
    return baseline.detach().to(inputs).expand_as(inputs)


def checked_baselines(baseline: Any, parts: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """The same for each tensor of the inputs: from one baseline for all of them where it fits, or a tuple."""
    given = baseline if isinstance(baseline, tuple) else (baseline,) * len(parts)
    if len(given) != len(parts):
        raise ValueError(f"baseline has {len(given)} entries; it must have {len(parts)}, one for each tensor of inputs")
    return tuple(checked_baseline(one, part) for one, part in zip(given, parts, strict=True))
