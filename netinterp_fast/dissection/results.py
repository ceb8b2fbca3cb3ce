"""What a dissection found: tallies, scores and labels of every unit, and how to write them down."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..data.protocol import Concept

FORMAT = 1  # of the saved files


class UnitLabel(NamedTuple):
    """The concept that a unit matches best. `concept` is None when no concept has a positive IoU."""

    unit: int
    concept: Concept | None
    iou: float
    detector: bool


@dataclass
class LayerDissection:
    """The result for one layer of C units over K concept ids (column 0, "unlabelled", stays 0).

    thresholds       float32 [C]        T_k
    intersection     int64 [C, K]       sum over images of |M_k and L_c|
    unit_area        int64 [C, K]       |M_k| over the images that the convention counts for concept c
    concept_area     int64 [K]          |L_c| over all images
    top_images       int64 [C, n]       images with the largest maximum of the unit, best first, -1 where there are fewer
    top_activations  float32 [C, n]     those maxima
    top_maps         float32 [C, n, h, w]   the unit's activation maps on them
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

    @property
    def n_units(self) -> int:
        return self.thresholds.numel()

    @property
    def iou(self) -> torch.Tensor:
        """float64 [C, K]: |M_k and L_c| / |M_k or L_c|, 0 where the union is empty."""
        union = self.unit_area + self.concept_area - self.intersection
        return torch.where(union > 0, self.intersection.double() / union.clamp(min=1), 0.0)

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


@dataclass
class Dissection:
    """The result of `dissect`: one `LayerDissection` a layer, in the order asked for.

    settings      what was run: model, layers, data set, quantile, convention ... (JSON values)
    thumbnails    image index -> JPEG bytes, for every image that some `top_images` names
    image_names   image index -> name, for the same images
    """

    layers: dict[str, LayerDissection]
    settings: dict
    thumbnails: dict[int, bytes] = field(default_factory=dict)
    image_names: dict[int, str] = field(default_factory=dict)

    def __getitem__(self, layer: str) -> LayerDissection:
        if layer not in self.layers:
            raise KeyError(f"no layer {layer!r} in this dissection; it has {', '.join(self.layers)}")
        return self.layers[layer]

    def __iter__(self) -> Iterable[str]:
        return iter(self.layers)

    def report(self, directory: str | os.PathLike, overwrite: bool = False) -> Path:
        """Write the HTML report into `directory` and return the path of its index.html."""
        from ..report import write_report

        return write_report(self, directory, overwrite=overwrite)
