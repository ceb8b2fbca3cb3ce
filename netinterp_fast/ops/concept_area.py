"""How many pixels each concept covers on each image."""

from __future__ import annotations

import torch

from .._library import define_op
from ..backends import run_op
from ._checks import check_labels, raise_for_bad_label
from ._labels import first_bad_label, without_duplicates


def _reference(labels, image_labels, n_concepts):
    n_images, n_pixels = labels.shape[0], labels.shape[2] * labels.shape[3]
    area = labels.new_zeros((n_images, n_concepts), dtype=torch.int64)
    first_bad = first_bad_label(labels, image_labels, n_concepts)
    if (first_bad >= 0).any():
        return area, first_bad
    for image in range(n_images):
        whole = without_duplicates(image_labels[image])
        for ids in without_duplicates(labels[image].flatten(1), covered=whole):
            area[image] += torch.bincount(ids, minlength=n_concepts)
        area[image, whole] = n_pixels
    area[:, 0] = 0
    return area, first_bad


def _fake(labels, image_labels, n_concepts):
    return (
        labels.new_empty((labels.shape[0], n_concepts), dtype=torch.int64),
        labels.new_empty((2,), dtype=torch.int64),
    )


_OP = define_op(
    "concept_area(Tensor labels, Tensor image_labels, SymInt n_concepts) -> (Tensor area, Tensor first_bad_label)",
    _reference,
    _fake,
)


def concept_area(labels: torch.Tensor, n_concepts: int, *, image_labels: torch.Tensor | None = None) -> torch.Tensor:
    """|L_c| on each image: int64 [B, K], column 0 is 0.

    Args:
        labels: uint8, int16, uint16, int32 or int64 [B, L, H, W]: concept ids, 0 = unlabelled; the same id in two
            layers of one pixel counts once.
        n_concepts: K; ids lie in [0, K).
        image_labels: integer [B, S], concepts that cover the whole image, 0 = none.

    Raises:
        TypeError, ValueError: for a wrong dtype, shape, device or id, naming the argument.
    """
    image_labels = check_labels(labels, image_labels, n_concepts, None)
    labels = labels.contiguous()
    area, first_bad = run_op(_OP, labels.device, labels, image_labels, n_concepts)
    if not torch.compiler.is_compiling():
        raise_for_bad_label(first_bad, labels, image_labels, n_concepts)
    return area
