"""What a dissection found in one layer: tallies, scores and labels of every unit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch

from ..data.protocol import Concept
from ..ops._grid import Placement, upsample
from .upsampling import placed

_NO_LABEL = {"category": "", "label": ""}


def iou(intersection: torch.Tensor, unit_area: torch.Tensor, concept_area: torch.Tensor) -> torch.Tensor:
    """float64 [C, K]: |M and L| / |M or L| from int64 [C, K], [C, K] and [K]; 0 where the union is empty."""
    union = unit_area + concept_area - intersection
    return torch.where(union > 0, intersection.double() / union.clamp(min=1), 0.0)


class UnitLabel(NamedTuple):
    """The concept that a unit matches best. `concept` is None when no concept has a positive IoU."""

    unit: int
    concept: Concept | None
    iou: float
    detector: bool


@dataclass
class LayerDissection:
    """The result for one layer of C units over K concept ids (column 0, "unlabelled", stays 0).

    name, layer      its key in the dissection, and the layer's name, which is the same for the plain question
    model            the model's name, where several were dissected; else ""
    basis            what the units are: "units" of the layer, "rotation 0.9", "directions", an encoder's name
    tail             "upper", or "lower": all values below are those of the negated maps
    quantile         q, None in results saved before this was noted

    thresholds       float32 [C]        T_k
    intersection     int64 [C, K]       sum over images of |M_k and L_c|
    unit_area        int64 [C, K]       |M_k| over the images that the convention counts for concept c
    concept_area     int64 [K]          |L_c| over all images
    top_images       int64 [C, n]       images with the unit's largest maxima, best first, -1 where there are fewer
    top_activations  float32 [C, n]     those maxima
    top_maps         float32 [C, n, h, w]   the unit's activation maps on them

    upsampling, inclusive, label_size, scale_offset: how the masks were made, see `dissect`; label_size is (H, W).

    Where they were asked for, else None:
    null_iou         float64 [C, n]     the best IoU with the labels shuffled among the images, n times
    iou_interval     float64 [C, 2]     the middle 95 % of the best concept's IoU over other samples of the images
    """

    name: str
    concepts: list[Concept]
    iou_threshold: float
    thresholds: torch.Tensor
    intersection: torch.Tensor
    unit_area: torch.Tensor
    concept_area: torch.Tensor
    top_images: torch.Tensor
    top_activations: torch.Tensor
    top_maps: torch.Tensor
    upsampling: str = "bilinear"
    inclusive: bool = False
    label_size: tuple[int, int] | None = None
    scale_offset: tuple[float, float, float, float] | None = None
    null_iou: torch.Tensor | None = None
    iou_interval: torch.Tensor | None = None
    layer: str = ""  # as the name
    model: str = ""
    basis: str = "units"
    tail: str = "upper"
    quantile: float | None = None

    def __post_init__(self):
        self.layer = self.layer or self.name

    @property
    def question(self) -> str:
        """The name without the model's: "layer6 | lower"."""
        return self.name.removeprefix(f"{self.model}/") if self.model else self.name

    @property
    def n_units(self) -> int:
        return self.thresholds.numel()

    @cached_property
    def iou(self) -> torch.Tensor:
        """float64 [C, K]: |M_k and L_c| / |M_k or L_c|, 0 where the union is empty."""
        return iou(self.intersection, self.unit_area, self.concept_area)

    @property
    def p_values(self) -> torch.Tensor | None:
        """float64 [C]: how often a unit's best IoU is reached where labels know nothing of the images, (1 + the samples
        of `null_iou` that reach it) / (1 + all samples); None where no labels were shuffled."""
        if self.null_iou is None:
            return None
        reached = self.null_iou >= self.iou.amax(1, keepdim=True)
        return (1 + reached.sum(1)).double() / (1 + reached.shape[1])

    @property
    def categories(self) -> list[str]:
        """The categories of the concepts, in order of first appearance."""
        return list(dict.fromkeys(c.category for c in self.concepts))

    def labels(self, category: str | None = None, iou_threshold: float | None = None) -> list[UnitLabel]:
        """Each unit's best concept, over all concepts or within one category; ties go to the smaller id."""
        limit = self.iou_threshold if iou_threshold is None else iou_threshold
        chosen = [c for c in self.concepts if category in (None, c.category)]
        if not chosen:
            raise ValueError(f"category is {category!r}; the concepts have {', '.join(self.categories)}")
        chosen.sort(key=lambda c: c.id)
        best, where = self.iou[:, [c.id for c in chosen]].max(dim=1)
        return [
            UnitLabel(unit, chosen[i] if score > 0 else None, score, score > limit)
            for unit, (score, i) in enumerate(zip(best.tolist(), where.tolist(), strict=True))
        ]

    def detectors(self, iou_threshold: float | None = None) -> list[UnitLabel]:
        """The units whose best concept has an IoU above the threshold, best first."""
        found = [u for u in self.labels(iou_threshold=iou_threshold) if u.detector]
        return sorted(found, key=lambda u: (-u.iou, u.unit))

    def unique_detectors(self, iou_threshold: float | None = None) -> dict[str, list[Concept]]:
        """The distinct concepts that have a detector, by category."""
        unique: dict[str, list[Concept]] = {c: [] for c in self.categories}
        for concept in dict.fromkeys(u.concept for u in self.detectors(iou_threshold)):
            unique[concept.category].append(concept)
        return unique

    def lit_regions(self, units: slice, side: int) -> torch.Tensor:
        """Where the surfaces of the top maps of some units pass the threshold: bool [units, n, side, side]."""
        maps, size = self.top_maps[units], (side, side)
        maps, placement = placed(maps, size, self.upsampling, self._scale_offset_on(size))
        values, level = upsample(maps.float(), size, placement), self.thresholds[units].view(-1, 1, 1, 1)
        return values >= level if self.inclusive else values > level

    def _scale_offset_on(self, size: tuple[int, int]) -> Placement | None:
        """scale_offset, given in label pixels, in the pixels of another grid over the same image."""
        if self.scale_offset is None or self.label_size is None:
            return None
        zoom = [size[0] / self.label_size[0], size[1] / self.label_size[1]]
        scales = [scale * z for scale, z in zip(self.scale_offset[:2], zoom, strict=True)]
        offsets = [(offset + 0.5) * z - 0.5 for offset, z in zip(self.scale_offset[2:], zoom, strict=True)]
        return Placement(*scales, *offsets)

    def rows(self) -> list[dict]:
        """One row a unit, best first, with NetDissect's column names: unit (from 1), category, label, score, and for
        each category its best label, |L_c| (truth), |M_k| (activation), their intersection and iou. Where asked for,
        the score's interval (score-low, score-high) and p-value (p) too."""
        best = {category: self.labels(category) for category in self.categories}
        found = sorted(self.labels(), key=lambda u: (-u.iou, u.unit))
        chance = {}
        if self.iou_interval is not None:
            chance |= dict(zip(("score-low", "score-high"), self.iou_interval.T, strict=True))
        if self.null_iou is not None:
            chance["p"] = self.p_values
        return [self._row(u, {category: labels[u.unit] for category, labels in best.items()}, chance) for u in found]

    def _row(self, found: UnitLabel, best: dict[str, UnitLabel], chance: dict[str, torch.Tensor]) -> dict:
        row = {"unit": found.unit + 1}
        row |= {"category": found.concept.category, "label": found.concept.name} if found.concept else _NO_LABEL
        row["score"] = found.iou
        row |= {name: float(values[found.unit]) for name, values in chance.items()}
        for category, label in best.items():
            c = label.concept.id if label.concept else None
            row[f"{category}-label"] = label.concept.name if label.concept else ""
            row[f"{category}-truth"] = int(self.concept_area[c]) if c else 0
            row[f"{category}-activation"] = int(self.unit_area[found.unit, c]) if c else 0
            row[f"{category}-intersect"] = int(self.intersection[found.unit, c]) if c else 0
            row[f"{category}-iou"] = label.iou
        return row
