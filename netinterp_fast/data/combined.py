"""Several data sets as one, their concepts merged."""

from __future__ import annotations

import bisect
import itertools

import numpy as np
import torch
from torch.utils.data import Dataset

from .labels import ConceptIds, smallest_dtype
from .protocol import Concept, ConceptDataset, Sample, image_name


def combine(*datasets: ConceptDataset) -> CombinedDataset:
    """One data set with the items of all, in the order given.

    Concepts of the same name and category become one; the ids are renumbered 1, 2, 3 ... in order of first
    appearance. Items with fewer label layers or image labels than others are padded with 0.

    Raises ValueError where a set is empty, where the normalisations differ, or where the sizes of the images
    or of the label maps differ (read from the first item of each set).
    """
    if not datasets:
        raise ValueError("combine needs at least one data set")
    return CombinedDataset(datasets)


class CombinedDataset(Dataset):
    """What `combine` returns. Items: image float32 [3, H, W]; labels [L, H', W'] in the smallest of uint8,
    int16 and int32 that holds the new ids; image_labels int64 [S]."""

    def __init__(self, datasets: tuple[ConceptDataset, ...]):
        self.datasets = datasets
        self.mean, self.std = _common_normalisation(datasets)
        self._ends = list(itertools.accumulate(len(dataset) for dataset in datasets))
        self._n_layers, self._n_image_labels = _common_shape(datasets)

        new_ids: dict[tuple[str, str], int] = {}
        for dataset in datasets:
            for concept in dataset.concepts:
                new_ids.setdefault((concept.name, concept.category), len(new_ids) + 1)
        self.concepts = [Concept(i, name, category) for (name, category), i in new_ids.items()]
        dtype = smallest_dtype(len(self.concepts))
        self._renumberings = [_Renumbering(dataset, n, new_ids, dtype) for n, dataset in enumerate(datasets, start=1)]

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        part, item = self._locate(index)
        image, labels, image_labels = self.datasets[part][item]
        renumber, source = self._renumberings[part], image_name(self.datasets[part], item)
        labels, image_labels = renumber(labels, source), renumber(image_labels, source).long()
        return Sample(image, _pad(labels, self._n_layers), _pad(image_labels, self._n_image_labels))

    def name(self, index: int) -> str:
        """The name that the image has in its own data set."""
        part, item = self._locate(index)
        return image_name(self.datasets[part], item)

    def _locate(self, index: int) -> tuple[int, int]:
        """Which data set holds item `index`, and where."""
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"index is {index}; the combined data set has {len(self)} items")
        part = bisect.bisect_right(self._ends, position)
        return part, position - (self._ends[part - 1] if part else 0)


class _Renumbering:
    """Replaces the ids of one data set by the combined ones, by a lookup table."""

    def __init__(self, dataset: ConceptDataset, number: int, new_ids: dict[tuple[str, str], int], dtype: np.dtype):
        self._ids = ConceptIds(dataset.concepts, f"data set {number}")
        self._table = np.zeros(self._ids.largest + 1, dtype=dtype)
        for concept in dataset.concepts:
            self._table[concept.id] = new_ids[concept.name, concept.category]
        self._identity = np.array_equal(self._table, np.arange(self._table.size))

    def __call__(self, labels: torch.Tensor, source: str) -> torch.Tensor:
        old = labels.numpy()
        self._ids.check(old, source)
        new = old.astype(self._table.dtype, copy=False) if self._identity else self._table.take(old)
        return torch.from_numpy(new)


def _common_normalisation(
    datasets: tuple[ConceptDataset, ...],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The (mean, std) of all data sets; one without them has images in [0, 1]."""
    found = []
    for dataset in datasets:
        mean, std = getattr(dataset, "mean", (0.0, 0.0, 0.0)), getattr(dataset, "std", (1.0, 1.0, 1.0))
        found.append((tuple(map(float, mean)), tuple(map(float, std))))
        if found[-1] != found[0]:
            raise ValueError(
                f"data set {len(found)} has (mean, std) {found[-1]}, data set 1 {found[0]}; they must agree"
            )
    return found[0]


def _common_shape(datasets: tuple[ConceptDataset, ...]) -> tuple[int, int]:
    """The largest (L, S) of the data sets' first items, whose images and label maps must agree in size."""
    samples = []
    for number, dataset in enumerate(datasets, start=1):
        if len(dataset) == 0:
            raise ValueError(f"data set {number} has no items")
        samples.append(Sample(*dataset[0]))
        for what in ("image", "labels"):
            size, first = (tuple(getattr(sample, what).shape[1:]) for sample in (samples[-1], samples[0]))
            if size != first:
                raise ValueError(f"{what} of data set {number} have the size {size}, of data set 1 {first}")
    return max(s.labels.shape[0] for s in samples), max(s.image_labels.shape[0] for s in samples)


def _pad(labels: torch.Tensor, length: int) -> torch.Tensor:
    """`labels` [n, ...] with zeros appended up to [length, ...]."""
    missing = length - labels.shape[0]
    return torch.cat([labels, labels.new_zeros(missing, *labels.shape[1:])]) if missing else labels
