"""The format of Broden, the broadly and densely labelled data set of Bau et al., "Network Dissection:
Quantifying Interpretability of Deep Visual Representations", CVPR 2017."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from .base import IMAGENET_MEAN, IMAGENET_STD, ImageFolder
from .io import integer, open_image, read_csv, read_image, resolve_inside
from .labels import MAX_ID, ConceptIds
from .protocol import Concept, Sample


class IndexRow(NamedTuple):
    """One image of index.csv: its split, its label map files and its whole-image labels (0 left out)."""

    image: str
    split: str
    masks: list[str]
    labels: list[int]


class BrodenDataset(ImageFolder):
    """A data set in the directory format of Broden.

        root/index.csv          image, split, sh, sw (height and width of the label maps, equal in all rows)
                                and a column a category, its cell `;`-joined items: an integer is a label of
                                the whole image, anything else the path of a label map below root/images
        root/category.csv       name: the categories
        root/label.csv          number, name, category: the concept id, its name, and where it occurs, like
                                material(36);object(3)
        root/c_<category>.csv   number, coverage (optional)
        root/images/            the images, and the label maps: RGB PNGs, label = R + 256 G, B is ignored

    Other columns are ignored. `categories` (default: all of category.csv) restricts the labels and `split`
    (such as "train"; default: all) the images. A concept's category is the one that it covers most, by the
    coverage in c_<category>.csv or else by the number in brackets, the first one of equals.

    Items: image float32 [3, size, size]; labels [L, sh, sw] in the smallest of uint8, int16 and int32 that
    holds the ids; image_labels int64 [S]. L and S are the largest numbers of label maps and of whole-image
    labels that an image of the index has (in any split); items with fewer are padded with 0.

    Label 0 is "unlabelled" here, in label maps and in the index: a row with number 0 in label.csv ("-", in
    some editions a scene) gives no concept, and its occurrences count as unlabelled.

    Raises FileNotFoundError for a missing file, and ValueError, naming the file, for a label map of another
    size than (sh, sw), a label that label.csv does not define, or an image that cannot be decoded.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        *,
        size: int = 224,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        categories: Iterable[str] | None = None,
        split: str | None = None,
    ):
        super().__init__(root, size, mean, std)
        self._images = resolve_inside(self.root, "images")
        self.categories = _choose_categories(resolve_inside(self.root, "category.csv"), categories)
        label_file = resolve_inside(self.root, "label.csv")
        self.concepts = _read_concepts(label_file, self.categories, _read_coverage(self.root, self.categories))
        self._ids = ConceptIds(self.concepts, f"{label_file} ({', '.join(self.categories)})")

        index_file = resolve_inside(self.root, "index.csv")
        rows, self._mask_size = _read_index(index_file, self.categories)
        for row in rows:
            self._ids.check(np.array(row.labels, dtype=np.int64), f"{index_file}: the row of {row.image}")
        self._n_layers = max(len(row.masks) for row in rows)
        self._n_image_labels = max(len(row.labels) for row in rows)
        self._rows = _choose_split(rows, split, index_file)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        row = self._rows[index]
        image = read_image(resolve_inside(self._images, row.image))
        labels = np.zeros((self._n_layers, *self._mask_size), dtype=self._ids.dtype)
        for layer, mask in enumerate(row.masks):
            labels[layer] = self._read_mask(mask)
        image_labels = torch.zeros(self._n_image_labels, dtype=torch.int64)
        image_labels[: len(row.labels)] = torch.tensor(row.labels, dtype=torch.int64)
        return Sample(self._normalise(image), torch.from_numpy(labels), image_labels)

    def name(self, index: int) -> str:
        """The path of the image below root/images."""
        return self._rows[index].image

    def _read_mask(self, relative: str) -> np.ndarray:
        """A label map, int32 [sh, sw]: R + 256 G."""
        path = resolve_inside(self._images, relative)
        height, width = self._mask_size
        with open_image(path) as image:
            if image.size != (width, height):
                size = f"{image.width} x {image.height}"
                raise ValueError(f"{size} pixels, but index.csv says sw x sh = {width} x {height}")
            if image.mode not in ("RGB", "RGBA"):
                raise ValueError(f"a label map must be an RGB image, this one has the mode {image.mode}")
            image.load()
            channels = np.asarray(image)
        labels = channels[..., 0] + (channels[..., 1].astype(np.int32) << 8)
        self._ids.check(labels, str(path))
        return labels


def _choose_categories(path: Path, wanted: Iterable[str] | None) -> list[str]:
    available = [row["name"] for row in read_csv(path, ("name",))]
    chosen = available if wanted is None else list(wanted)
    unknown = [category for category in chosen if category not in available]
    if unknown or not chosen:
        raise ValueError(f"categories is {chosen!r}; {path} has {', '.join(available) or 'none'}")
    return chosen


def _read_coverage(root: Path, categories: Sequence[str]) -> dict[tuple[str, int], float]:
    """(category, label) -> coverage, from those files c_<category>.csv that exist."""
    coverage = {}
    for category in categories:
        path = resolve_inside(root, f"c_{category}.csv")
        if not path.exists():
            continue
        for n, row in enumerate(read_csv(path, ("number", "coverage")), start=1):
            label = integer(row["number"], 0, MAX_ID, f"{path}: number in row {n}")
            try:
                coverage[category, label] = float(row["coverage"])
            except ValueError:
                raise ValueError(f"{path}: coverage in row {n} is {row['coverage']!r}; expected a number") from None
    return coverage


def _read_concepts(path: Path, categories: Sequence[str], coverage: dict[tuple[str, int], float]) -> list[Concept]:
    """The concepts of label.csv that belong to one of `categories`, sorted by id."""
    concepts = []
    for n, row in enumerate(read_csv(path, ("number", "name", "category")), start=1):
        label = integer(row["number"], 0, MAX_ID, f"{path}: number in row {n}")
        if label == 0:
            continue
        extent = {}  # category -> how much of it the concept covers
        for item in row["category"].split(";"):
            match = re.fullmatch(r"\s*([^()]+)\((\d+)\)\s*", item)
            if not match:
                raise ValueError(f"{path}: category in row {n} is {row['category']!r}; expected name(number);...")
            if match[1] in categories:
                extent[match[1]] = coverage.get((match[1], label), float(match[2]))
        if extent:
            concepts.append(Concept(label, row["name"], max(extent, key=extent.get)))
    return sorted(concepts)


def _read_index(path: Path, categories: Sequence[str]) -> tuple[list[IndexRow], tuple[int, int]]:
    """The rows of index.csv with the items of `categories`, and (sh, sw), which all label maps share."""
    table = read_csv(path, ("image", "split", "sh", "sw", *categories))
    if not table:
        raise ValueError(f"{path} has no rows")
    sizes = dict.fromkeys((row["sh"], row["sw"]) for row in table)
    if len(sizes) > 1:
        found = ", ".join(f"{sh} x {sw}" for sh, sw in list(sizes)[:4])
        raise ValueError(f"{path}: the label maps have the sizes (sh x sw) {found} ...; they must share one")
    ((sh, sw),) = sizes
    size = integer(sh, 1, 1 << 13, f"{path}: sh"), integer(sw, 1, 1 << 13, f"{path}: sw")

    rows = []
    for row in table:
        items = [item.strip() for category in categories for item in row[category].split(";") if item.strip()]
        masks = [item for item in items if not item.isdecimal()]
        where = f"{path}: a whole-image label of {row['image']}"
        labels = [integer(item, 0, MAX_ID, where) for item in items if item.isdecimal()]
        rows.append(IndexRow(row["image"], row["split"], masks, [label for label in labels if label > 0]))
    return rows, size


def _choose_split(rows: list[IndexRow], split: str | None, path: Path) -> list[IndexRow]:
    chosen = [row for row in rows if split in (None, row.split)]
    if not chosen:
        raise ValueError(f"split is {split!r}; {path} has {', '.join(sorted({row.split for row in rows}))}")
    return chosen
