"""The cells of activation maps that a threshold may still light, packed, so that a run can keep them and drop the rest.

A bilinear surface inside a cell of the coarse grid never exceeds the largest of the cell's four corners. So of a map
only the values above a level, and their eight neighbours, can matter to a mask whose threshold is the level or more.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from .._library import define_op
from ..backends import run_op
from ._checks import FLOATING, check_size, check_tensor

_BITS = 8  # of a byte: columns of a row that one byte marks


def _mark_reference(acts, levels, inclusive):
    values, level = acts.float(), levels[:, None, None]
    above = values >= level if inclusive else values > level
    near = F.max_pool2d(above.float().view(-1, 1, *acts.shape[2:]), 3, stride=1, padding=1).view_as(acts) > 0
    by_byte = F.pad(near, (0, -near.shape[3] % _BITS)).unflatten(3, (-1, _BITS))
    weights = 2 ** torch.arange(_BITS, dtype=torch.uint8, device=acts.device)
    return (by_byte * weights).sum(4, dtype=torch.uint8), near.sum((2, 3), dtype=torch.int32)


def _mark_fake(acts, levels, inclusive):
    n_images, n_units, h, w = acts.shape
    bits = acts.new_empty((n_images, n_units, h, (w + _BITS - 1) // _BITS), dtype=torch.uint8)
    return bits, acts.new_empty((n_images, n_units), dtype=torch.int32)


def _marked(bits: torch.Tensor, width: int) -> torch.Tensor:
    """bool [P, h, w] from bits [P, h, bytes]."""
    places = torch.arange(_BITS, dtype=torch.uint8, device=bits.device)
    return (bits[..., None] >> places & 1).bool().flatten(2)[:, :, :width]


def _take_reference(acts, planes, bits, starts, n_values):
    return acts.flatten(0, 1)[planes].float()[_marked(bits, acts.shape[3])]


def _take_fake(acts, planes, bits, starts, n_values):
    return acts.new_empty((n_values,), dtype=torch.float32)


def _put_reference(values, planes, bits, starts, n_images, n_units, width):
    acts = values.new_full((n_images, n_units, bits.shape[1], width), float("-inf"))
    held = acts.new_full((planes.numel(), *acts.shape[2:]), float("-inf"))
    acts.view(-1, *acts.shape[2:])[planes] = held.masked_scatter_(_marked(bits, width), values)
    return acts


def _put_fake(values, planes, bits, starts, n_images, n_units, width):
    return values.new_empty((n_images, n_units, bits.shape[1], width))


_MARK = define_op(
    "mark_cells(Tensor acts, Tensor levels, bool inclusive) -> (Tensor bits, Tensor counts)",
    _mark_reference,
    _mark_fake,
)
_TAKE = define_op(
    "take_cells(Tensor acts, Tensor planes, Tensor bits, Tensor starts, SymInt n_values) -> Tensor",
    _take_reference,
    _take_fake,
)
_PUT = define_op(
    "put_cells(Tensor values, Tensor planes, Tensor bits, Tensor starts, SymInt n_images, SymInt n_units, SymInt width)"
    " -> Tensor",
    _put_reference,
    _put_fake,
)


class PackedCells(NamedTuple):
    """What `pack_cells` keeps of acts [B, C, h, w]: P of the B C maps, and of those the marked values.

    planes  int32 [P]                  which maps, image * C + unit, ascending
    counts  int32 [P]                  how many values of each
    bits    uint8 [P, h, ceil(w / 8)]  which: bit x % 8 of byte x // 8 of a row, lowest first
    values  float32 [sum of counts]    the values, map by map and row by row
    shape   (B, C, h, w)
    """

    planes: torch.Tensor
    counts: torch.Tensor
    bits: torch.Tensor
    values: torch.Tensor
    shape: tuple[int, int, int, int]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self[:4])


def pack_cells(acts: torch.Tensor, levels: torch.Tensor, *, inclusive: bool = False) -> PackedCells:
    """Keep of every map the values above its unit's level, and the eight neighbours of each; drop the others.

    For any thresholds T >= levels and the same `inclusive`, `unit_concept_overlap` of what `unpack_cells` gives back
    counts what it counts of acts (with `check_finite=False`): every cell with a corner above T is there whole, and the
    others stay dark. Differences of finite values must not overflow float32. It holds as well for maps that are padded
    with zeros after unpacking, provided the zeros are not above T; where they may be, pad before packing.

    Packed again with higher levels, what was unpacked gives what acts give with those levels (unless `inclusive`, a
    level of -inf and a NaN meet).

    Args:
        acts: float32, float16 or bfloat16 [B, C, h, w]; kept as float32. A NaN is above no level.
        levels: float32 [C]; nothing is above NaN.
        inclusive: compare with >= instead of >.
    """
    check_tensor("acts", acts, "[B, C, h, w]", FLOATING)
    if 0 in acts.shape[2:]:
        raise ValueError(f"acts has shape {list(acts.shape)}; h and w must be at least 1")
    check_tensor("levels", levels, "[C]", (torch.float32,), acts.device)
    check_size("levels", levels, 0, acts.shape[1], "the C of acts")
    acts = acts.detach().contiguous()
    bits, counts = run_op(_MARK, acts.device, acts, levels.detach().contiguous(), bool(inclusive))
    planes = counts.flatten().nonzero()[:, 0]
    bits, counts = bits.flatten(0, 1)[planes], counts.flatten()[planes]
    values = run_op(_TAKE, acts.device, acts, planes, bits, *_starts(counts))
    return PackedCells(planes.int(), counts, bits, values, tuple(acts.shape))


def unpack_cells(packed: PackedCells) -> torch.Tensor:
    """float32 [B, C, h, w]: the values that `pack_cells` kept, -inf elsewhere."""
    n_images, n_units, _, width = packed.shape
    starts, _ = _starts(packed.counts)
    values, planes = packed.values, packed.planes.long()
    return run_op(_PUT, values.device, values, planes, packed.bits, starts, n_images, n_units, width)


def _starts(counts: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Where each map's values begin, int64, and how many values there are in all."""
    ends = counts.cumsum(0, dtype=torch.int64)
    return ends - counts, int(ends[-1]) if ends.numel() else 0
