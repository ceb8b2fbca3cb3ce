"""How much of a dissection could be chance: shuffled labels, and other samples of the images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from ..ops import unit_concept_overlap
from ..ops._grid import Placement
from .conventions import Convention
from .kept import Kept, KeptBatch, unpacked_in_parts
from .kept_labels import ImageLabels, stacked
from .layer_results import LayerDissection
from .passes import Found, SecondPass, Setup
from .ranks import Ranks
from .tally import LabelBatch

_LEVEL = 0.95  # of the intervals
_SEEDS = 2**63
_SPREAD = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: seeds and numbers of images do not fall together


@dataclass(frozen=True)
class Chance:
    """What is asked for: how many times labels are shuffled and images are drawn anew, and the seed of both."""

    null_samples: int = 0
    bootstrap: int = 0
    seed: int = 0

    def __bool__(self) -> bool:
        return bool(self.null_samples or self.bootstrap)


def generator(seed: int, number: int) -> torch.Generator:
    """Random numbers that depend on these two alone."""
    return torch.Generator().manual_seed((seed * _SPREAD + number) % _SEEDS)


class ShuffledLabels:
    """A data set's labels, each image's given to another: what units would score if they knew nothing of concepts.

    Masks and concepts keep their sizes, shapes and places; only which image shows what is lost.
    """

    def __init__(self, labels: Iterable[Mapping[int, ImageLabels]], seed: int):
        self._labels: dict[int, ImageLabels] = {}
        for part in labels:
            self._labels.update(part)
        self._seed = seed

    def order(self, sample: int) -> list[int]:
        """For each image the one whose labels it gets."""
        return torch.randperm(len(self._labels), generator=generator(self._seed, sample)).tolist()

    def relabelled(self, batch: KeptBatch, order: list[int]) -> KeptBatch:
        images = order[batch.first : batch.first + batch.labels.shape[0]]
        labels, image_labels = stacked([self._labels[image] for image in images])
        return batch._replace(labels=labels, image_labels=image_labels)


def null_iou(
    setup: Setup, found: Found, kept: Kept, ranks: Ranks, chance: Chance, done: Callable[[], object]
) -> dict[str, torch.Tensor]:
    """By layer each unit's best IoU with the labels shuffled, float64 [C, n], from what a single pass has kept. Calls
    done() after each sample."""
    shuffled = ShuffledLabels(ranks.gather(kept.labels()), chance.seed)
    best: dict[str, list[torch.Tensor]] = {}
    for sample in range(chance.null_samples):
        tallies, order = SecondPass(setup, found), shuffled.order(sample)
        for batch in kept.replay():
            tallies.add_kept(shuffled.relabelled(batch, order))
        for layer, scores in ranks.merged(tallies, SecondPass(setup, found)).best_iou().items():
            best.setdefault(layer, []).append(scores)
        done()
    return {layer: torch.stack(samples, dim=1) for layer, samples in best.items()}


def iou_intervals(
    setup: Setup,
    layers: Mapping[str, LayerDissection],
    kept: Kept,
    ranks: Ranks,
    chance: Chance,
    done: Callable[[int], object],
) -> dict[str, torch.Tensor]:
    """By layer an interval of each unit's IoU with its best concept, float64 [C, 2], from what a single pass has kept.
    Calls done(n) after each n images."""
    part, empty = (Bootstraps(setup, layers, chance) for _ in range(2))
    for batch in kept.replay():
        part.add_kept(batch)
        done(batch.labels.shape[0])
    return ranks.merged(part, empty).intervals()


class Bootstraps:
    """A `Bootstrap` of each layer."""

    def __init__(self, setup: Setup, layers: Mapping[str, LayerDissection], chance: Chance):
        self._setup, self.sections = setup, list(layers)
        self._of_layer = {
            name: Bootstrap(layer, setup.category_of, setup.convention, chance) for name, layer in layers.items()
        }

    def add_kept(self, kept: KeptBatch) -> None:
        batch = self._setup.kept_labels(kept)
        for layer, (packed, placement) in kept.cells.items():
            for images, maps in unpacked_in_parts(packed, self._setup.device):
                self._of_layer[layer].add(kept.first + images.start, maps, placement, batch.part(images))

    def state(self, layer: str) -> dict[str, torch.Tensor]:
        return self._of_layer[layer].state()

    def merge(self, layer: str, state: Mapping[str, torch.Tensor]) -> None:
        self._of_layer[layer].merge(state)

    def intervals(self) -> dict[str, torch.Tensor]:
        return {layer: bootstrap.interval() for layer, bootstrap in self._of_layer.items()}


class Bootstrap:
    """The IoU of each unit with its concept over other samples of the images, drawn with replacement.

    A sample takes each image as often as a Poisson variable of mean 1 says, so that samples grow with the stream
    (Chamandy et al., "Estimating uncertainty for massive data streams", 2012).
    """

    def __init__(self, layer: LayerDissection, category_of: torch.Tensor, convention: Convention, chance: Chance):
        device = category_of.device
        self._convention, self._category_of, self._chance = convention, category_of, chance
        self._thresholds = layer.thresholds.to(device)
        concepts = [found.concept.id if found.concept else 0 for found in layer.labels()]
        self._concept = torch.tensor(concepts, dtype=torch.int64, device=device)  # of each unit
        sums = torch.zeros((chance.bootstrap, layer.n_units), dtype=torch.float64, device=device)
        self._intersection, self._union = sums, sums.clone()  # whole numbers far below 2^53

    def add(self, first: int, maps: torch.Tensor, placement: Placement, batch: LabelBatch) -> None:
        """maps [B, C, h, w] of the images from `first` on, as a `LayerTally` gets them."""
        parts = [self._of_image(maps, placement, batch, image) for image in range(maps.shape[0])]
        intersection, union = (torch.stack(part).double() for part in zip(*parts, strict=True))
        times = torch.stack([self._times(first + image) for image in range(maps.shape[0])]).to(intersection)
        self._intersection += times.T @ intersection
        self._union += times.T @ union

    def _times(self, image: int) -> torch.Tensor:
        """How often each sample has the image, float32 [R]."""
        return torch.poisson(torch.ones(self._chance.bootstrap), generator=generator(self._chance.seed, image))

    def _of_image(
        self, maps: torch.Tensor, placement: Placement, batch: LabelBatch, image: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each unit and its concept |M and L| and |M or L| on one image, int64 [C]; M where it counts."""
        here = slice(image, image + 1)
        concepts = batch.area[image].nonzero()[:, 0]  # that the image has: a short table
        place = torch.zeros_like(batch.area[image])
        place[concepts] = torch.arange(1, concepts.numel() + 1, device=place.device)
        overlap = unit_concept_overlap(
            maps[here],
            self._thresholds,
            place[batch.labels[here].long()],
            concepts.numel() + 1,
            image_labels=place[batch.image_labels[here].long()],
            inclusive=self._convention.inclusive,
            scale_offset=placement,
            check_finite=False,
        )
        intersection = overlap.intersection.gather(1, place[self._concept][:, None])[:, 0]
        mask = overlap.unit_area[0] * self._counts(overlap.intersection[:, 1:] > 0, concepts, batch, image)
        return intersection, mask + batch.area[image, self._concept] - intersection

    def _counts(self, meets: torch.Tensor, concepts: torch.Tensor, batch: LabelBatch, image: int) -> torch.Tensor:
        """bool [C]: whether the image counts for the unit's concept; meets bool [C, n], by the image's concepts."""
        category = self._category_of[self._concept]
        if self._convention.unit_area_over == "all":
            return torch.ones_like(category, dtype=torch.bool)
        if self._convention.unit_area_over == "concept":
            return batch.area[image, self._concept] > 0
        if self._convention.unit_area_over == "category":
            return batch.in_category[image, category]
        return (meets & (self._category_of[concepts] == category[:, None])).any(1)

    def state(self) -> dict[str, torch.Tensor]:
        return {"intersection": self._intersection.cpu(), "union": self._union.cpu()}

    def merge(self, state: Mapping[str, torch.Tensor]) -> None:
        """Add the sums over another part of the data."""
        self._intersection += state["intersection"].to(self._intersection.device)
        self._union += state["union"].to(self._union.device)

    def interval(self) -> torch.Tensor:
        """float64 [C, 2]: the middle 95 % of the samples' IoU."""
        iou = torch.where(self._union > 0, self._intersection / self._union.clamp(min=1), 0.0)
        ends = torch.tensor([(1 - _LEVEL) / 2, (1 + _LEVEL) / 2], dtype=torch.float64, device=iou.device)
        return iou.quantile(ends, dim=0).T.cpu().contiguous()
