"""Zennit itself, where it is installed, and two small networks that it can explain."""

import copy

import pytest
import torch
from torch import nn

from netinterp_fast.compat.zennit.layer import Sum


class VGG(nn.Module):
    """Convolutions with batch norms, both kinds of pooling, a classifier."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Linear(32, 10), nn.ReLU(), nn.Dropout(), nn.Linear(10, 4))

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


class Residual(nn.Module):
    """A block with a shortcut of a convolution, and a global average."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.shortcut = nn.Sequential(nn.Conv2d(6, 8, 1, stride=2), nn.BatchNorm2d(8))
        self.sum, self.relu2, self.pool = Sum(), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        x = self.relu2(self.sum(torch.stack([y, self.shortcut(x)], -1)))
        return self.head(self.pool(x).flatten(1))


@pytest.fixture(params=[VGG, Residual])
def model(request):
    """With batch norms as after training, in double precision."""
    torch.manual_seed(3)
    model = request.param().double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return model


@pytest.fixture
def inputs():
    return torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def for_zennit(zennit):
    """The model as zennit needs it: its own Sum, and eps in the running variance, for its canonizer leaves eps out."""

    def convert(model: nn.Module) -> nn.Module:
        model = copy.deepcopy(model)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var += module.eps
                module.eps = 0.0
        if hasattr(model, "sum"):
            model.sum = zennit.layer.Sum()
        return model

    return convert
