"""The fused upsample-threshold-tally of network dissection (Bau et al., "Network Dissection", CVPR 2017)."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .._library import define_op
from ..backends import run_op
from ._checks import FLOATING, check_labels, check_size, check_tensor, raise_for_bad_label
from ._grid import Placement, aligned_corners, checked_placement, half_pixel, upsample
from ._labels import first_bad_label, without_duplicates

# Units a step of the reference looks at together: the upsampled maps are what costs memory there.
_UNITS_AT_ONCE = 32


class Overlap(NamedTuple):
    """intersection int64 [C, K]: pixels where unit k is lit and concept c is labelled, summed over images;
    unit_area int64 [B, C]: lit pixels of each unit on each image."""

    intersection: torch.Tensor
    unit_area: torch.Tensor


def _reference(
    acts, thresholds, labels, image_labels, n_concepts, inclusive, scale_y, scale_x, offset_y, offset_x, intersection
):
    n_images, n_units = acts.shape[:2]
    unit_area = acts.new_zeros((n_images, n_units), dtype=torch.int64)
    first_bad = first_bad_label(labels, image_labels, n_concepts)
    if (first_bad >= 0).any():
        return unit_area, first_bad
    placement = Placement(scale_y, scale_x, offset_y, offset_x)
    for image in range(n_images):
        whole = without_duplicates(image_labels[image])
        layers = without_duplicates(labels[image].flatten(1), covered=whole)
        for start in range(0, n_units, _UNITS_AT_ONCE):
            units = slice(start, start + _UNITS_AT_ONCE)
            surface = upsample(acts[image, units].float(), tuple(labels.shape[2:]), placement).flatten(1)
            level = thresholds[units, None]
            unit, pixel = (surface >= level if inclusive else surface > level).nonzero(as_tuple=True)
            area = torch.bincount(unit, minlength=surface.shape[0])
            unit_area[image, units] = area
            tally = intersection[units]
            for ids in layers:
                cells = unit * n_concepts + ids[pixel]
                tally += torch.bincount(cells, minlength=tally.numel()).view_as(tally)
            tally.index_add_(1, whole, area[:, None].expand(-1, whole.numel()))
    intersection[:, 0] = 0
    return unit_area, first_bad


def _fake(acts, thresholds, labels, image_labels, n_concepts, inclusive, sy, sx, oy, ox, intersection):
    return acts.new_empty(acts.shape[:2], dtype=torch.int64), acts.new_empty((2,), dtype=torch.int64)


_OP = define_op(
    "unit_concept_overlap(Tensor acts, Tensor thresholds, Tensor labels, Tensor image_labels, SymInt n_concepts, "
    "bool inclusive, float scale_y, float scale_x, float offset_y, float offset_x, Tensor(a!) intersection) "
    "-> (Tensor unit_area, Tensor first_bad_label)",
    _reference,
    _fake,
)


def unit_concept_overlap(
    acts: torch.Tensor,
    thresholds: torch.Tensor,
    labels: torch.Tensor,
    n_concepts: int,
    *,
    image_labels: torch.Tensor | None = None,
    inclusive: bool = False,
    align_corners: bool = False,
    scale_offset: tuple[float, float, float, float] | None = None,
    out: torch.Tensor | None = None,
    check_finite: bool = True,
) -> Overlap:
    """Count, for every unit k and concept c, the pixels where M_k = [S_k > T_k] and L_c are both on.

    S_k is the bilinear upsampling of unit k's map to the label grid. Counts are identical on every backend.

    Args:
        acts: float32, float16 or bfloat16 [B, C, h, w], the units' activation maps (narrow types are widened).
        thresholds: float32 [C]; +-inf allowed, NaN refused.
        labels: uint8, int16, uint16, int32 or int64 [B, L, H, W]: concept ids, 0 = unlabelled. A pixel may carry up
            to L concepts; the same id in two layers counts once.
        n_concepts: K; ids lie in [0, K).
        image_labels: integer [B, S], concepts of whole images, 0 = none.
        inclusive: compare with >= instead of >.
        align_corners: outermost centres coincide, instead of equal areas with half-pixel centres.
        scale_offset: (scale_y, scale_x, offset_y, offset_x) in label pixels: the centre of cell i is at offset + i *
            scale (receptive-field centres); excludes align_corners.
        out: int64 [C, K] to add to in place, instead of a new tensor of zeros. Left as it was when an error is raised.
        check_finite: refuse activations that are NaN or infinite, or whose range overflows float32. False skips the
            check for callers that have made it.

    Returns:
        `Overlap(intersection int64 [C, K], unit_area int64 [B, C])`; column 0 of intersection is 0.

    Raises:
        TypeError, ValueError: for a wrong dtype, shape, device or value, naming the argument. Inside `torch.compile`
            the checks of values (NaN, ids out of range) do not run; such ids are then counted nowhere.
    """
    check_tensor("acts", acts, "[B, C, h, w]", FLOATING)
    if 0 in acts.shape[2:]:
        raise ValueError(f"acts has shape {list(acts.shape)}; h and w must be at least 1")
    check_tensor("thresholds", thresholds, "[C]", (torch.float32,), acts.device)
    check_size("thresholds", thresholds, 0, acts.shape[1], "the C of acts")
    image_labels = check_labels(labels, image_labels, n_concepts, acts.device)
    check_size("labels", labels, 0, acts.shape[0], "the B of acts")
    placement = _placement(acts, labels, align_corners, scale_offset)
    if out is None:
        out = acts.new_zeros((acts.shape[1], n_concepts), dtype=torch.int64)
    else:
        _check_out(out, acts, n_concepts)
    compiling = torch.compiler.is_compiling()
    if not compiling:
        _check_thresholds(thresholds)
        if check_finite:
            refuse_infinite(acts)

    acts, thresholds, labels = acts.detach().contiguous(), thresholds.detach().contiguous(), labels.contiguous()
    unit_area, first_bad = run_op(
        _OP, acts.device, acts, thresholds, labels, image_labels, n_concepts, bool(inclusive), *placement, out
    )
    if not compiling:
        raise_for_bad_label(first_bad, labels, image_labels, n_concepts)
    return Overlap(out, unit_area)


def _placement(acts, labels, align_corners, scale_offset) -> Placement:
    if scale_offset is None:
        rule = aligned_corners if align_corners else half_pixel
        return rule(tuple(acts.shape[2:]), tuple(labels.shape[2:]))
    if align_corners:
        raise ValueError("align_corners is True and scale_offset is given; choose one")
    return checked_placement(scale_offset)


def _check_out(out, acts, n_concepts) -> None:
    check_tensor("out", out, "[C, K]", (torch.int64,), acts.device)
    if tuple(out.shape) != (acts.shape[1], n_concepts) or not out.is_contiguous():
        raise ValueError(
            f"out has shape {list(out.shape)}, strides {list(out.stride())}; it must be a contiguous "
            f"[{acts.shape[1]}, {n_concepts}]"
        )


def _check_thresholds(thresholds) -> None:
    if thresholds.isnan().any():
        unit = int(thresholds.isnan().to(torch.int8).argmax())
        raise ValueError(f"thresholds[{unit}] is NaN; a threshold is a number, +inf for a unit that never passes")


def refuse_infinite(acts: torch.Tensor) -> None:
    """ValueError, naming the first, for activations that are NaN or infinite, or whose range overflows float32."""
    if acts.numel() == 0:
        return
    low, high = (bound.float() for bound in acts.detach().aminmax())
    if not (high - low).isfinite():
        bad = (~acts.isfinite()).flatten()
        if not bad.any():
            raise ValueError(f"acts ranges from {low} to {high}; the difference overflows float32")
        where = [int(i) for i in torch.unravel_index(bad.to(torch.int8).argmax(), acts.shape)]
        raise ValueError(f"acts{where} is {float(acts[tuple(where)])}; activations must be finite")
