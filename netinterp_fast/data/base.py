"""What the readers of image folders share: the root, the size of the images and their normalisation."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from .io import existing_folder
from .protocol import Concept

# Mean and standard deviation of ImageNet's training images by channel (RGB in [0, 1]), as most models expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageFolder(Dataset):
    """A data set whose images are files under `root`.

    size        the images are resized to [size, size], bilinearly and without keeping their aspect ratio
    mean, std   three floats each; image = (rgb - mean) / std with rgb in [0, 1]
    """

    concepts: list[Concept]

    def __init__(self, root: str | os.PathLike, size: int, mean: Sequence[float], std: Sequence[float]):
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"size is {size!r}; expected a positive number of pixels")
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"mean is {mean}, std {std}; expected three numbers each, those of std positive")
        self.root = existing_folder(root)
        self.size = size
        self.mean = tuple(float(m) for m in mean)
        self.std = tuple(float(s) for s in std)

    def _normalise(self, image: Image.Image) -> torch.Tensor:
        """What the model receives of an RGB image: float32 [3, size, size]."""
        if image.size != (self.size, self.size):
            image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        pixels = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))  # in uint8: a quarter of the bytes
        mean, std = (np.array(v, dtype=np.float32).reshape(3, 1, 1) for v in (self.mean, self.std))
        normalised = pixels.astype(np.float32)  # by numpy, as torch would start threads for so little
        normalised /= 255
        normalised -= mean
        normalised /= std
        return torch.from_numpy(normalised)
