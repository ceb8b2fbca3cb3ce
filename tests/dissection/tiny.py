"""A model and a data set of a few numbers: exact in float32, so that no batch size changes a bit."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from netinterp_fast.data.protocol import Concept, Sample

CONCEPTS = [
    Concept(2, "sky", "object"),
    Concept(3, "tree", "object"),
    Concept(1, "red", "color"),
    Concept(5, "leaf", "part"),
    Concept(7, "indoor", "scene"),
    Concept(8, "outdoor", "scene"),
    Concept(11, "knitted", "texture"),  # a category without a single label
]
LAYERS = {"conv": 8, "relu": 8, "pool": 4, "flat": 1}  # side of the maps


def tiny_model() -> nn.Sequential:
    """Weights are multiples of 2^-6, images of 2^-8: all sums are exact. Unit 4 is dead behind the ReLU."""
    random = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
    with torch.no_grad():
        conv.weight.copy_(torch.randint(-64, 65, conv.weight.shape, generator=random) / 64)
        conv.bias.copy_(torch.tensor([0.0, 0.25, -0.25, 0.5, -100.0, 0.0]))
    head = nn.Linear(6, 3)
    nn.init.eye_(head.weight)
    nn.init.zeros_(head.bias)
    return nn.Sequential(
        OrderedDict(
            conv=conv,
            relu=nn.ReLU(),
            pool=nn.AvgPool2d(2),
            squeeze=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            drop=nn.Dropout(),
            head=head,
        )
    )


class TinyDataset(torch.utils.data.Dataset):
    """Images [3, 16, 16] with two label layers on a grid of 10 x 10 and up to two whole-image labels.

    The layers repeat ids of each other; "object" is missing in some images, "scene" in others.
    """

    def __init__(self, n: int = 7, grid: tuple[int, int] = (10, 10)):
        random = torch.Generator().manual_seed(1)
        self.concepts = CONCEPTS
        self.images = torch.randint(0, 256, (n, 3, 16, 16), generator=random) / 256
        objects = torch.tensor([0, 2, 2, 3, 5])[torch.randint(0, 5, (n, 5, 5), generator=random)]
        parts = torch.tensor([0, 0, 5, 1, 2])[torch.randint(0, 5, (n, 5, 5), generator=random)]
        objects[::3] = 0
        parts[::3][parts[::3] == 2] = 0
        coarse = torch.stack([objects, parts], dim=1)
        rows, columns = (torch.arange(side) * 5 // side for side in grid)
        self.labels = coarse[:, :, rows][:, :, :, columns]
        scenes = torch.tensor([[7, 0], [0, 0], [8, 1], [0, 8], [7, 7], [0, 0], [8, 0]])
        self.image_labels = scenes[torch.arange(n) % 7]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.images[index], self.labels[index], self.image_labels[index])

    def name(self, index: int) -> str:
        return f"picture-{index}.png"
