"""Networks of every kind that an ablation has to go on in, with exact sums: weights are multiples of 2^-6."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

N_CLASSES = 4


def problem(net: type[nn.Module], n: int = 11) -> tuple[nn.Module, TensorDataset]:
    """A network and images [n, 3, 8, 8] of multiples of 2^-4 with classes int64 [n], of which it recognises most.

    Its parameters are multiples of 2^-6 in [-1/4, 1/4]; the biases at the end are such that the classes are close.
    """
    random = torch.Generator().manual_seed(0)
    model = net()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-16, 17, parameter.shape, generator=random) / 64)
        images = torch.randint(-16, 17, (n, 3, 8, 8), generator=random) / 16
        outputs = copy.deepcopy(model).eval()(images.clone())
        shift = (outputs.median(0).values * 64).round() / 64
        [*model.modules()][-1].bias -= shift
    classes = (outputs - shift).argmax(1)
    classes[::4] = (classes[::4] + 1) % N_CLASSES
    return model, TensorDataset(images, classes)


class Plain(nn.Sequential):
    """The layer is followed by an in-place ReLU."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(24, N_CLASSES),
        )


class Residual(nn.Module):
    """Skips bypass both layers; sums in place and not."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 1)
        self.first, self.second = nn.Conv2d(5, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5, eps=0.0)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(5, N_CLASSES)

    def forward(self, x):
        x = self.relu(self.stem(x))
        identity = x
        x = self.norm(self.first(x))
        x += identity
        x = self.relu(x)
        x = identity + self.second(x) + x.mean((2, 3), keepdim=True)
        return self.head(x.view(x.size(0), 5, -1).sum(-1))


class Reused(nn.Module):
    """The layer and a ReLU run three times."""

    def __init__(self):
        super().__init__()
        self.stem, self.layer = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu, self.head = nn.ReLU(), nn.Linear(4, N_CLASSES)

    def forward(self, x):
        x = self.stem(x)
        for _ in range(3):
            x = self.relu(self.layer(x))
        return self.head(x.amax((2, 3)))


class Branches(nn.Module):
    """Branches from before the layer are concatenated with what comes behind it; the input comes back at the end."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 4, 3, padding=1)
        self.join, self.head = nn.Conv2d(7, 5, 1), nn.Linear(8, N_CLASSES)

    def forward(self, x):
        branches = [self.left(x), self.right(x)]
        low, high = self.join(torch.cat(branches, dim=1)).split([2, 3], dim=1)
        x = torch.cat((low.relu(), F.relu(high), x), 1)
        return F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), self.head.weight, self.head.bias)


class Functional(nn.Module):
    """Functions, views, constants made on the way and decisions by the values before the layer."""

    def __init__(self):
        super().__init__()
        self.stem, self.layer, self.head = nn.Conv2d(3, 4, 1), nn.Linear(64, 6), nn.Linear(6, N_CLASSES)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = x / 2 if x.mean() > 0 else x / 4
        if float(x.max()) > 1 and x.shape[0] > 0:
            x.clamp_(max=2.0)
        positions = torch.arange(64, device=x.device) / 64
        x = x.flatten(2).amax(1) + positions
        with torch.no_grad():
            h = self.layer(x)
        scratch = torch.zeros_like(h) + h
        return self.head(scratch.clamp(min=0) + positions[:6])


class Decides(nn.Module):
    """Python decides by values behind the layer."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, N_CLASSES)

    def forward(self, x):
        x = self.layer(x).mean((2, 3))
        return self.head(x) if x[:, 0].abs().sum() > 0 else self.head(-x)


class _Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


class OwnFunction(nn.Module):
    """Autograd functions of its own before and behind the layer."""

    def __init__(self):
        super().__init__()
        self.stem, self.layer = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, N_CLASSES)

    def forward(self, x):
        stem = _Double.apply(self.stem(x))
        return self.head(_Double.apply(self.layer(stem).relu() + stem).sum((2, 3)))


class ChangesSkip(nn.Module):
    """What bypasses the layer is changed in place behind it."""

    def __init__(self):
        super().__init__()
        self.stem, self.layer, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, N_CLASSES)

    def forward(self, x):
        skip = self.stem(x)
        x = self.layer(skip)
        skip.relu_()
        return self.head((x + skip).sum((2, 3)))


class ChangesImages(nn.Module):
    """The images are changed in place, the memory of a constant too, and a NumPy array is made on the way."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, N_CLASSES)

    def forward(self, x):
        x.mul_(2).sub_(0.25)
        table = torch.Tensor(3, 1, 1)
        table.copy_(x.amax((0, 2, 3))[:, None, None])
        scale = torch.from_numpy(x.amin((0, 2, 3)).numpy() * 2)
        return self.head(self.layer(x + table).relu().sum((2, 3))) + scale.sum()


class KeepsAGrid(nn.Module):
    """Something is made in the first pass and kept for the others."""

    def __init__(self):
        super().__init__()
        self.layer, self.head, self.grid = nn.Conv2d(3, 4, 1), nn.Linear(4, N_CLASSES), None

    def forward(self, x):
        if self.grid is None:
            self.grid = torch.arange(64.0).view(8, 8) / 64
        return self.head((self.layer(x + self.grid).relu() + self.grid).sum((2, 3)))


class MixesImages(nn.Module):
    """Each image's output depends on the others in its batch, before the layer and behind it."""

    def __init__(self):
        super().__init__()
        self.stem, self.layer, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, N_CLASSES)

    def forward(self, x):
        x = self.stem(x - x.amax(0) / 8)
        x = self.layer(x + x.roll(1, 0) / 8).relu()
        return self.head((x - x.amin(0, keepdim=True) / 8).sum((2, 3)))


class Tokens(nn.Module):
    """Tokens [B, T, C] with attention behind the layer."""

    def __init__(self):
        super().__init__()
        self.embed, self.layer = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 8)
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, N_CLASSES)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.layer(x)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(x[:, 0])
