"""What a labelled data set is: the protocol that `netinterp_fast.dissect` reads.

A data set is any map-style `torch.utils.data.Dataset` with an attribute `concepts` whose items are

    image         float32 [3, H, W]     what the model receives (already normalised)
    labels        integer [L, H', W']   concept ids of every pixel, 0 = unlabelled; L layers, so that a pixel can
                                        carry up to L concepts (its object, its part, its colour ...)
    image_labels  integer [S]           concepts of the whole image (scene, texture), padded with 0

H' and W' may differ from H and W (Broden labels a 224-pixel image on a 112-pixel grid). All items have the same shapes.

Optional attributes, used for pictures and computed colours:

    mean, std     three floats each; image = (rgb - mean) / std with rgb in [0, 1]
    name(index)   a short name of the image, shown in reports and errors
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch


class Concept(NamedTuple):
    """One visual concept: `id` >= 1 as used in label maps, a display name, and the category it counts under."""

    id: int
    name: str
    category: str


class Sample(NamedTuple):
    """One item of a labelled data set; see the module's text for shapes."""

    image: torch.Tensor
    labels: torch.Tensor
    image_labels: torch.Tensor


@runtime_checkable
class ConceptDataset(Protocol):
    """The protocol as a type, for annotations and `isinstance`."""

    concepts: list[Concept]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


def to_rgb(image: torch.Tensor, dataset: object = None) -> torch.Tensor:
    """The picture behind a normalised image: uint8 [3, H, W], by the data set's `mean` and `std` when it has them."""
    mean = torch.as_tensor(getattr(dataset, "mean", (0.0, 0.0, 0.0)), dtype=torch.float32).view(3, 1, 1)
    std = torch.as_tensor(getattr(dataset, "std", (1.0, 1.0, 1.0)), dtype=torch.float32).view(3, 1, 1)
    return ((image.float() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)


def image_name(dataset: object, index: int) -> str:
    """The data set's own name of image `index`, or "#index"."""
    name = getattr(dataset, "name", None)
    return str(name(index)) if callable(name) else f"#{index}"
