"""Plain folders of images as data sets: images beside label maps, and one subfolder of images a label."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from .base import IMAGENET_MEAN, IMAGENET_STD, ImageFolder
from .io import integer, list_images, open_image, read_csv, read_image, resolve_inside
from .labels import MAX_ID, ConceptIds, resize_nearest
from .protocol import Concept, Sample


class SegmentationFolder(ImageFolder):
    """Images with one label map each.

        root/images/<stem>.jpg   (or .jpeg, .png)
        root/labels/<stem>.png   of the image's size; paletted or grey of 8 or 16 bits, the value is the id
        root/classes.csv         columns id, name, category (others are ignored); id 0 is unlabelled ("void")

    Items: image float32 [3, size, size]; labels [1, size, size], resized by nearest neighbour, in the
    smallest of uint8, int16 and int32 that holds the ids; image_labels int64 [0].

    Raises FileNotFoundError for a missing file, and ValueError, naming the file, for a label map of another
    size than its image, an id that classes.csv does not define, or an image that cannot be decoded.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        *,
        size: int = 224,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ):
        super().__init__(root, size, mean, std)
        classes = resolve_inside(self.root, "classes.csv")
        self.concepts = _read_classes(classes)
        self._ids = ConceptIds(self.concepts, str(classes))
        self._pairs = _pair_images_with_labels(self.root)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Sample:
        image_path, label_path = self._pairs[index]
        image = read_image(resolve_inside(self.root, image_path))
        labels = read_label_map(resolve_inside(self.root, label_path))
        height, width = labels.shape
        if image.size != (width, height):
            sizes = f"{image_path} has {image.width} x {image.height} pixels, {label_path} {width} x {height}"
            raise ValueError(f"{self.root}: {sizes}; an image and its label map must have the same size")
        self._ids.check(labels, str(self.root / label_path))
        labels = resize_nearest(labels, self.size).astype(self._ids.dtype, copy=False)
        no_image_labels = torch.empty(0, dtype=torch.int64)
        return Sample(self._normalise(image), torch.from_numpy(labels)[None], no_image_labels)

    def name(self, index: int) -> str:
        """The name of the image file without its extension."""
        return PurePosixPath(self._pairs[index][0]).stem


class TextureFolder(ImageFolder):
    """Images labelled as a whole by the name of their subfolder: root/<label>/*.jpg (or .jpeg, .png).

    The labels are numbered from 1 in alphabetical order and belong to `category`; subfolders without images
    are ignored. Items: image float32 [3, size, size]; labels uint8 [0, size, size], as there are no label
    maps; image_labels int64 [1].
    """

    def __init__(
        self,
        root: str | os.PathLike,
        *,
        size: int = 224,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        category: str = "texture",
    ):
        super().__init__(root, size, mean, std)
        self.concepts = []
        self._items: list[tuple[str, int]] = []
        for label in sorted(folder.name for folder in self.root.iterdir() if folder.is_dir()):
            files = list_images(resolve_inside(self.root, label))
            if files:
                self.concepts.append(Concept(len(self.concepts) + 1, label, category))
                self._items += [(f"{label}/{file}", self.concepts[-1].id) for file in files]
        if not self._items:
            raise ValueError(f"{self.root} has no subfolder with images (.jpg, .jpeg, .png)")

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Sample:
        path, label = self._items[index]
        labels = torch.empty(0, self.size, self.size, dtype=torch.uint8)
        image = read_image(resolve_inside(self.root, path))
        return Sample(self._normalise(image), labels, torch.tensor([label]))

    def name(self, index: int) -> str:
        """The path of the image below the root."""
        return self._items[index][0]


def read_label_map(path: Path) -> np.ndarray:
    """The values of a label map PNG, uint8 or uint16 [H, W]."""
    with open_image(path) as image:
        # Pillow widens grey of 2 or 4 bits to 0..255, which would change the ids.
        widened = image.mode == "L" and image.tile[0][3] != "L"
        if image.format != "PNG" or image.mode not in ("P", "L", "I;16", "I") or widened:
            raise ValueError("a label map must be a PNG, paletted or grey of 8 or 16 bits")
        image.load()
        return np.array(image)


def _read_classes(path: Path) -> list[Concept]:
    rows = read_csv(path, ("id", "name", "category"))
    ids = [integer(row["id"], 0, MAX_ID, f"{path}: id in row {n}") for n, row in enumerate(rows, start=1)]
    return [Concept(i, row["name"], row["category"]) for i, row in zip(ids, rows, strict=True) if i > 0]


def _pair_images_with_labels(root: Path) -> list[tuple[str, str]]:
    """The paths of every image and its label map, relative to `root` and sorted."""
    folders = {name: resolve_inside(root, name) for name in ("images", "labels")}
    for name, folder in folders.items():
        if not folder.is_dir():
            raise FileNotFoundError(f"{root} has no folder {name!r}")
    images, labels = (list_images(folders[name]) for name in ("images", "labels"))
    if not images:
        raise ValueError(f"{folders['images']} has no images (.jpg, .jpeg, .png)")
    available = set(labels)
    pairs, taken = [], {}
    for image in images:
        label = f"{PurePosixPath(image).stem}.png"
        if label not in available:
            raise FileNotFoundError(f"{folders['labels']} has no {label}, the label map of images/{image}")
        if label in taken:
            raise ValueError(f"{folders['images']}: {taken[label]} and {image} share the label map {label}")
        taken[label] = image
        pairs.append((f"images/{image}", f"labels/{label}"))
    return pairs
