"""The surfaces S_k over the label grid, under each convention."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F

from ..ops._grid import Placement, half_pixel, upsample


def placed(
    maps: torch.Tensor, size: tuple[int, int], kind: str, scale_offset: tuple[float, ...] | None = None
) -> tuple[torch.Tensor, Placement]:
    """Maps [..., h, w] and where they lie on the label grid, such that the bilinear surface over them is S of this
    kind.

    Only "pil" with a map larger than the label grid costs anything: there the surface itself is computed.
    """
    coarse = tuple(maps.shape[-2:])
    placement = Placement(*scale_offset) if scale_offset else half_pixel(coarse, size)
    if kind == "zero_padded":
        ring = Placement(
            placement.scale_y,
            placement.scale_x,
            placement.offset_y - placement.scale_y,
            placement.offset_x - placement.scale_x,
        )
        return F.pad(maps, (1, 1, 1, 1)), ring
    if kind == "pil" and (coarse[0] > size[0] or coarse[1] > size[1]):
        return pillow_resize(maps.float(), size), half_pixel(size, size)
    return maps, placement


def surface(
    maps: torch.Tensor, size: tuple[int, int], kind: str = "bilinear", scale_offset: tuple[float, ...] | None = None
) -> torch.Tensor:
    """S, float32 [..., H, W], for maps [..., h, w]."""
    maps, placement = placed(maps, size, kind, scale_offset)
    return upsample(maps.float(), size, placement)


def pillow_resize(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Pillow's bilinear resize of float images [..., h, w]: a triangle filter, widened by the factor of shrinking."""
    rows = _triangle_filter(maps.shape[-2], size[0]).to(maps.device)
    columns = _triangle_filter(maps.shape[-1], size[1]).to(maps.device)
    across = (maps.double() @ columns.T).float()  # Pillow keeps float32 between its two passes
    return (rows @ across.double()).float()


@lru_cache(maxsize=64)
def _triangle_filter(n: int, pixels: int) -> torch.Tensor:
    """float64 [pixels, n]: the weight of each coarse value in each pixel; rows sum to 1."""
    scale = n / pixels
    centre = (torch.arange(pixels, dtype=torch.float64) + 0.5) * scale
    distance = (torch.arange(n, dtype=torch.float64) + 0.5 - centre[:, None]) / max(scale, 1.0)
    weight = (1.0 - distance.abs()).clamp(min=0.0)
    return weight / weight.sum(1, keepdim=True)
