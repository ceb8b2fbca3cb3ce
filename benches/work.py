"""What each kernel has to do at least: every tensor that it reads or writes moved once, and its arithmetic.

Caches may save no byte of that, so bytes over the time of a kernel can be held against the bandwidth of a copy. What a
kernel moves beyond that, and what it computes twice, counts as time lost.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from netinterp_fast.ops import Overlap, PackedCells

# Of csrc/core/noise.h. A block of four numbers takes ten rounds of Philox, two products, four xor and two sums each,
# and two pairs: 29 operations for the radius, 37 for the direction, two products. A number then takes a product and a
# sum.
_PER_BLOCK, _PER_PAIR = 10 * 8, 29 + 37 + 2
OPERATIONS_PER_NOISE = (_PER_BLOCK + 2 * _PER_PAIR) // 4 + 2
OPERATIONS_PER_PIXEL = 10  # three interpolations, a + w (b - a), and a comparison


class Work(NamedTuple):
    bytes: int
    operations: int


def moved(*tensors: torch.Tensor) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def of_overlap(acts: torch.Tensor, thresholds: torch.Tensor, labels: torch.Tensor, found: Overlap) -> Work:
    """A comparison for each value; for each lit pixel its surface and an addition a label layer. Of the tally the
    entries that change are read and written. `found` is this call's alone."""
    changed = 2 * found.intersection.element_size() * int(found.intersection.count_nonzero())
    per_lit_pixel = OPERATIONS_PER_PIXEL + labels.shape[1]
    return Work(
        moved(acts, thresholds, labels, found.unit_area) + changed,
        acts.numel() + int(found.unit_area.sum()) * per_lit_pixel,
    )


def of_concept_area(labels: torch.Tensor, area: torch.Tensor) -> Work:
    """An addition for each label."""
    return Work(moved(labels, area), labels.numel())


def of_quantile_update(acts: torch.Tensor, bound: torch.Tensor, maxima: torch.Tensor) -> Work:
    """Two comparisons for each value, with the maximum and with the bound. What few values are kept is left out."""
    return Work(moved(acts, bound, maxima), 2 * acts.numel())


def of_mark_cells(acts: torch.Tensor, levels: torch.Tensor, bits: torch.Tensor, counts: torch.Tensor) -> Work:
    """A comparison for each value."""
    return Work(moved(acts, levels, bits, counts), acts.numel())


def of_take_cells(planes: torch.Tensor, bits: torch.Tensor, values: torch.Tensor) -> Work:
    """The marked values are read and written; nothing is computed."""
    return Work(moved(planes, planes, bits) + 2 * values.nbytes, 0)


def of_put_cells(planes: torch.Tensor, bits: torch.Tensor, values: torch.Tensor, acts: torch.Tensor) -> Work:
    """The marked values are read and whole maps written; nothing is computed."""
    return Work(moved(planes, planes, bits, values, acts), 0)


def of_pack_cells(acts: torch.Tensor, levels: torch.Tensor, packed: PackedCells) -> Work:
    """Marking, and the parts that are kept."""
    return Work(moved(acts, levels, *packed[:4]), acts.numel())


def of_elementwise(operations: int, *tensors: torch.Tensor) -> Work:
    """Tensors that are alike, the last of them the result, with so many operations an element."""
    return Work(moved(*tensors), operations * tensors[0].numel())


def of_path_points(inputs: torch.Tensor, alphas: torch.Tensor, points: torch.Tensor) -> Work:
    """A difference for each element, then a product and a sum for each point."""
    return Work(moved(inputs, inputs, alphas, points), inputs.numel() + 2 * points.numel())


def of_path_accumulate(grads: torch.Tensor, weights: torch.Tensor, out: torch.Tensor) -> Work:
    """A product and a sum for each gradient; the sums are read and written."""
    return Work(moved(grads, weights, out, out), 2 * grads.numel())


def of_noise_points(inputs: torch.Tensor, points: torch.Tensor) -> Work:
    return Work(moved(inputs, points), OPERATIONS_PER_NOISE * points.numel())
