"""Opening a data set whose format is told by what its folder contains."""

from __future__ import annotations

import os
from collections.abc import Sequence

from .base import IMAGENET_MEAN, IMAGENET_STD, ImageFolder
from .broden import BrodenDataset
from .folders import SegmentationFolder, TextureFolder
from .io import existing_folder, list_images


def open_dataset(
    path: str | os.PathLike,
    size: int = 224,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> ImageFolder:
    """The data set in the folder `path`: a `BrodenDataset` where it has an index.csv, a `SegmentationFolder`
    where it has a classes.csv, a `TextureFolder` where it has subfolders with images.

    Raises FileNotFoundError where the folder does not exist, ValueError where none of the formats fits.
    """
    root = existing_folder(path)
    if (root / "index.csv").is_file():
        reader = BrodenDataset
    elif (root / "classes.csv").is_file():
        reader = SegmentationFolder
    elif not (root / "labels").is_dir() and any(f.is_dir() and list_images(f) for f in root.iterdir()):
        reader = TextureFolder
    else:
        raise ValueError(
            f"{root} is no data set of a known format; expected index.csv, category.csv, label.csv and "
            "images/ (Broden), classes.csv, images/ and labels/ (segmentation), or one subfolder of images a "
            "label (texture)"
        )
    return reader(root, size=size, mean=mean, std=std)
