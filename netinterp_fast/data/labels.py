"""Label maps: which ids they may hold, how small they can be stored, how they are resized."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .protocol import Concept

MAX_ID = 65535  # the largest label that an R + 256 G or a 16-bit grey PNG can hold


class ConceptIds:
    """The ids that the label maps of a data set may hold: 0 and those of its concepts.

    largest   the largest id
    dtype     the smallest of uint8, int16 and int32 that holds it
    origin    what defines the ids, for messages
    """

    def __init__(self, concepts: Sequence[Concept], origin: str):
        ids = [concept.id for concept in concepts]
        if min(ids, default=1) < 1:
            raise ValueError(f"{origin} defines the id {min(ids)}; ids start at 1")
        if len(set(ids)) < len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise ValueError(f"{origin} defines the id {twice} twice")
        self.origin = origin
        self.largest = max(ids, default=0)
        self.dtype = smallest_dtype(self.largest)
        self._known = np.zeros(self.largest + 1, dtype=bool)
        self._known[[0, *ids]] = True
        self._dense = bool(self._known.all())

    def check(self, labels: np.ndarray, source: str) -> None:
        """Raise ValueError, naming `source` and one id, where `labels` hold an id that no concept has."""
        if labels.size == 0:
            return
        inside = labels.max() <= self.largest and (labels.dtype.kind == "u" or labels.min() >= 0)
        if inside and (self._dense or self._known[labels].all()):
            return
        unknown = np.setdiff1d(labels, np.flatnonzero(self._known))[0]
        raise ValueError(f"{source} holds the label {unknown}, which {self.origin} does not define")


def smallest_dtype(largest: int) -> np.dtype:
    """The smallest of uint8, int16 and int32 that holds ids up to `largest`."""
    return np.dtype(np.uint8 if largest < 1 << 8 else np.int16 if largest < 1 << 15 else np.int32)


def resize_nearest(labels: np.ndarray, size: int) -> np.ndarray:
    """A label map [H, W] at [size, size], each pixel taken from the one under its centre."""
    height, width = labels.shape
    if (height, width) == (size, size):
        return labels
    rows = (2 * np.arange(size) + 1) * height // (2 * size)
    columns = (2 * np.arange(size) + 1) * width // (2 * size)
    return labels[rows[:, None], columns]
