"""Label maps in little memory: each image's apart, compressed, in the narrowest type that holds the batch's ids."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import NamedTuple

import torch

_TYPES = (torch.uint8, torch.int16, torch.int32, torch.int64)
_EFFORT = 1  # of zlib: a tenth of the size already, and label maps are many


class ImageLabels(NamedTuple):
    """An image's label maps [L, H, W], compressed, and the labels of the whole of it, int64 [S]."""

    compressed: bytes
    dtype: torch.dtype
    shape: tuple[int, ...]
    whole: torch.Tensor

    def pixels(self) -> torch.Tensor:
        data = bytearray(zlib.decompress(self.compressed))
        return (
            torch.frombuffer(data, dtype=self.dtype).view(self.shape)
            if data
            else torch.empty(self.shape).to(self.dtype)
        )


def packed_labels(labels: torch.Tensor, image_labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """A batch's labels [B, L, H, W] and [B, S] as tensors for a record."""
    labels = labels.cpu()
    low, high = (int(x) for x in labels.long().aminmax()) if labels.numel() else (0, 0)
    kind = next(i for i, t in enumerate(_TYPES) if torch.iinfo(t).min <= low and high <= torch.iinfo(t).max)
    blobs = [zlib.compress(image.to(_TYPES[kind]).contiguous().numpy().tobytes(), _EFFORT) for image in labels]
    return {
        "labels": torch.frombuffer(bytearray(b"".join(blobs)), dtype=torch.uint8),
        "label_sizes": torch.tensor([len(blob) for blob in blobs]),
        "label_shape": torch.tensor([kind, *labels.shape[1:]]),
        "image_labels": image_labels.cpu(),
    }


def labels_of_images(record: Mapping[str, torch.Tensor]) -> list[ImageLabels]:
    """What `packed_labels` gave, image by image."""
    kind, *shape = record["label_shape"].tolist()
    blobs = record["labels"].split(record["label_sizes"].tolist())
    return [
        ImageLabels(blob.numpy().tobytes(), _TYPES[kind], tuple(shape), whole)
        for blob, whole in zip(blobs, record["image_labels"], strict=True)
    ]


def stacked(images: list[ImageLabels]) -> tuple[torch.Tensor, torch.Tensor]:
    """The labels of a batch of these images, [B, L, H, W] in their widest type and [B, S]."""
    widest = max((image.dtype for image in images), key=_TYPES.index)
    pixels = torch.stack([image.pixels().to(widest) for image in images])
    return pixels, torch.stack([image.whole for image in images])
