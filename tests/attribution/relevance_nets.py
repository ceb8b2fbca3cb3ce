"""Networks to explain, float64 and in evaluation mode, no weight trivial; and composites of one rule for all layers."""

from __future__ import annotations

import torch
from torch import nn

from benches.models import CifarResNet20, ResNet18, SqueezeNet, he_initialised, random_batch_norms


class SmallVGG(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.AvgPool2d(2),
            nn.Conv2d(12, 16, 3, padding=1, groups=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 20), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(20, 10)
        )

    def forward(self, x):
        return self.classifier(self.features(x))


NETS = {  # and the side of the images
    "SmallVGG": (SmallVGG, 16),
    "CifarResNet20": (CifarResNet20, 32),
    "SqueezeNet": (SqueezeNet, 64),
    "ResNet18": (ResNet18, 64),
}


def network(name: str) -> nn.Module:
    return random_batch_norms(he_initialised(NETS[name][0]())).double().requires_grad_(False)


def images(name: str, batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 3, NETS[name][1], NETS[name][1], dtype=torch.float64)


def seed_of_largest(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The largest output of each image; 0 elsewhere."""
    with torch.no_grad():
        output = model(x.clone())
    return torch.zeros_like(output).scatter_(1, output.argmax(1, keepdim=True), output.amax(1, keepdim=True))
