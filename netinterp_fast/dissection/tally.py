"""Tallies of one layer under a convention: intersections, unit areas and concept areas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy

import torch

from ..data.protocol import Concept
from ..ops import concept_area, unit_concept_overlap
from ..ops._grid import Placement
from .conventions import Convention


class LabelBatch:
    """The labels of one batch on the label grid, with what every layer needs of them.

    labels int [B, L, H, W], image_labels int64 [B, S], area int64 [B, K] (pixels of each concept on each image),
    in_category bool [B, n_categories] (whether the image has a label of the category, 1 ... n).
    """

    def __init__(
        self, labels: torch.Tensor, image_labels: torch.Tensor, category_of: torch.Tensor, mask_size: int | None
    ):
        self.labels = _resized(labels, mask_size) if mask_size else labels
        self.image_labels = image_labels
        self._category_of = category_of
        self.area = concept_area(self.labels, category_of.numel(), image_labels=image_labels)
        n_categories = int(category_of.max()) + 1
        self.in_category = self.area.new_zeros((self.area.shape[0], n_categories), dtype=torch.bool)
        image, concept = self.area.nonzero(as_tuple=True)
        self.in_category[image, category_of[concept]] = True

    @property
    def size(self) -> tuple[int, int]:
        return tuple(self.labels.shape[2:])

    def part(self, images: slice) -> LabelBatch:
        """That of some of the images."""
        part = copy(self)
        for name in ("labels", "image_labels", "area", "in_category"):
            setattr(part, name, getattr(self, name)[images])
        return part

    def by_category(self) -> tuple[torch.Tensor, torch.Tensor]:
        """labels and image_labels with category numbers in place of concept ids."""
        return self._category_of[self.labels.long()], self._category_of[self.image_labels.long()]


def category_numbers(concepts: Sequence[Concept]) -> torch.Tensor:
    """int64 [K], K one more than the largest id: 0 for an id that is no concept, else 1, 2, ... by category."""
    number: dict[str, int] = {}
    of = torch.zeros(max((c.id for c in concepts), default=0) + 1, dtype=torch.int64)
    for concept in concepts:
        of[concept.id] = number.setdefault(concept.category, len(number) + 1)
    return of


def _resized(labels: torch.Tensor, side: int) -> torch.Tensor:
    """The nearest label of each pixel of a [side, side] grid."""
    for dim in (2, 3):
        n = labels.shape[dim]
        nearest = ((2 * torch.arange(side, device=labels.device) + 1) * n).div(2 * side, rounding_mode="floor")
        labels = labels.index_select(dim, nearest)
    return labels


class LayerTally:
    """Adds up one layer's masks against the labels, batch by batch.

    A unit's area counts over different images for different concepts (`Convention.unit_area_over`), so it is summed
    over groups of images: all of them, those of each category, or those of each concept.
    """

    def __init__(
        self,
        thresholds: torch.Tensor,
        category_of: torch.Tensor,
        convention: Convention,
    ):
        self.thresholds, self.convention = thresholds, convention
        self._category_of = category_of
        n_units, n_concepts, n_categories = thresholds.numel(), category_of.numel(), int(category_of.max()) + 1
        groups = {"all": 1, "concept": n_concepts}.get(convention.unit_area_over, n_categories)
        self.intersection = torch.zeros((n_units, n_concepts), dtype=torch.int64, device=thresholds.device)
        self._area_by_group = torch.zeros((n_units, groups), dtype=torch.float64, device=thresholds.device)

    def update(self, maps: torch.Tensor, placement: Placement, batch: LabelBatch, check_finite: bool = True) -> None:
        """maps [B, C, h, w] of the batch's images, over which S is the bilinear surface, and where they lie."""
        overlap = unit_concept_overlap(
            maps,
            self.thresholds,
            batch.labels,
            self.intersection.shape[1],
            image_labels=batch.image_labels,
            inclusive=self.convention.inclusive,
            scale_offset=placement,
            out=self.intersection,
            check_finite=check_finite,
        )
        area = overlap.unit_area.double()  # sums of pixel counts stay far below 2^53
        if self.convention.unit_area_over == "overlap":
            for image in range(maps.shape[0]):
                meets = self._categories_met(maps[image : image + 1], placement, batch, image)
                self._area_by_group += area[image, :, None] * meets
        else:
            self._area_by_group += area.T @ self._images_in_group(batch).double()

    def _images_in_group(self, batch: LabelBatch) -> torch.Tensor:
        """bool [B, groups]: the images over which a unit's area counts."""
        if self.convention.unit_area_over == "all":
            return torch.ones_like(batch.in_category[:, :1])
        return batch.area > 0 if self.convention.unit_area_over == "concept" else batch.in_category

    def _categories_met(self, maps, placement, batch: LabelBatch, image: int) -> torch.Tensor:
        """bool [C, n_categories]: whether the unit's mask on one image overlaps a label of the category."""
        labels, image_labels = (part[image : image + 1] for part in batch.by_category())
        return (
            unit_concept_overlap(
                maps,
                self.thresholds,
                labels,
                self._area_by_group.shape[1],
                image_labels=image_labels,
                inclusive=self.convention.inclusive,
                scale_offset=placement,
                check_finite=False,
            ).intersection
            > 0
        )

    def state(self) -> dict[str, torch.Tensor]:
        """The sums so far, on the CPU."""
        return {"intersection": self.intersection.cpu(), "area_by_group": self._area_by_group.cpu()}

    def merge(self, state: Mapping[str, torch.Tensor]) -> None:
        """Add the sums over another part of the data; whole numbers, so in any order."""
        self.intersection += state["intersection"].to(self.intersection.device)
        self._area_by_group += state["area_by_group"].to(self._area_by_group.device)

    def unit_area(self) -> torch.Tensor:
        """int64 [C, K]: the unit's area over the images that count for each concept."""
        groups = {"all": torch.zeros_like(self._category_of), "concept": torch.arange(self._category_of.numel())}
        group = groups.get(self.convention.unit_area_over, self._category_of)
        return self._area_by_group[:, group.to(self._area_by_group.device)].to(torch.int64)
