"""How label pixels fall on the coarse grid of an activation map, and the bilinear surface over it.

The same operations in the same order as `csrc/core/bilinear.h`: that is what makes the masks identical on every
backend.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch


class Placement(NamedTuple):
    """Where the coarse grid lies, in label pixels: the centre of cell i is at offset + i * scale."""

    scale_y: float
    scale_x: float
    offset_y: float
    offset_x: float


def checked_placement(scale_offset: object) -> Placement:
    """`scale_offset` as the user gave it; ValueError unless it is four finite numbers, the scales above 0."""
    try:
        placement = Placement(*map(float, scale_offset))
    except (TypeError, ValueError):
        raise ValueError(
            f"scale_offset is {scale_offset!r}; it must be (scale_y, scale_x, offset_y, offset_x)"
        ) from None
    if not all(map(math.isfinite, placement)) or min(placement[:2]) <= 0:
        raise ValueError(f"scale_offset is {scale_offset!r}; it must be finite, with scales above 0")
    return placement


def half_pixel(coarse: tuple[int, int], size: tuple[int, int]) -> Placement:
    """Both grids cover the same area (`F.interpolate(align_corners=False)`)."""
    (h, w), (height, width) = coarse, size
    return Placement(height / h, width / w, 0.5 * height / h - 0.5, 0.5 * width / w - 0.5)


def aligned_corners(coarse: tuple[int, int], size: tuple[int, int]) -> Placement:
    """The outermost centres coincide (`F.interpolate(align_corners=True)`)."""

    def scale(n: int, pixels: int) -> float:
        return (pixels - 1) / (n - 1) if n > 1 and pixels > 1 else float(pixels)

    return Placement(scale(coarse[0], size[0]), scale(coarse[1], size[1]), 0.0, 0.0)


def grid_points(
    cells: int, pixels: int, scale: float, offset: float, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For each label pixel of one axis: its cell, the next cell (int64 [pixels]) and the weight (float32 [pixels]).

    Positions are clamped to the outermost centres and rounded to 2^-20 of a cell, which keeps the weight below 1 by
    enough that no pixel exceeds its cell's largest corner in float32.
    """
    pixel = torch.arange(pixels, dtype=torch.float64, device=device)
    position = ((pixel - offset) / scale).clamp(0.0, float(cells - 1))
    position = torch.floor(position * 1048576.0 + 0.5) / 1048576.0
    cell = torch.floor(position)
    weight = (position - cell).float()
    cell = cell.long()
    return cell, (cell + 1).clamp(max=cells - 1), weight


def upsample(maps: torch.Tensor, size: tuple[int, int], placement: Placement) -> torch.Tensor:
    """The bilinear surface of float32 maps [..., h, w] on the label grid: [..., H, W]; a lerp of lerps, columns first.

    a + w (b - a), not (1 - w) a + w b: equal corners give exactly their value, so a plateau at T is never lit by
    rounding.
    """
    h, w = maps.shape[-2:]
    top, bottom, weight_y = grid_points(h, size[0], placement.scale_y, placement.offset_y, maps.device)
    left, right, weight_x = grid_points(w, size[1], placement.scale_x, placement.offset_x, maps.device)
    upper = maps.index_select(-2, top)
    rows = upper + weight_y[:, None] * (maps.index_select(-2, bottom) - upper)
    start = rows.index_select(-1, left)
    return start + weight_x * (rows.index_select(-1, right) - start)
