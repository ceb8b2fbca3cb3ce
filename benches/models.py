"""Networks that the benchmarks run, written out so that they need no other package.

The parameter names are those of published weights. Weights are random until some are loaded: `he_initialised` and
`random_batch_norms` make them such that activations stay in range and no layer is the identity.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn


class Fire(nn.Module):
    """Squeeze to few channels, expand by 1x1 and 3x3 convolutions (Iandola et al., "SqueezeNet", 2016)."""

    def __init__(self, inputs: int, squeezed: int, expanded: int):
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.squeeze(x))
        return torch.cat([self.relu(self.expand1x1(x)), self.relu(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1, with the parameter names that published weights use."""

    def __init__(self, classes: int = 1000):
        super().__init__()
        pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, 2), nn.ReLU(inplace=True), pool,
            Fire(64, 16, 64), Fire(128, 16, 64), pool,
            Fire(128, 32, 128), Fire(256, 32, 128), pool,
            Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Conv2d(512, classes, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x)).flatten(1)


FIRES = [f"features.{i}" for i in (3, 4, 6, 7, 9, 10, 11, 12)]


class VGG16(nn.Module):
    """Thirteen 3x3 convolutions and three linear layers (Simonyan and Zisserman, 2014, configuration D)."""

    def __init__(self, classes: int = 1000):
        super().__init__()
        self.features = nn.Sequential(*_vgg_layers((64, 64, 0, 128, 128, 0, *(256,) * 3, 0, *((512,) * 3 + (0,)) * 2)))
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096), nn.ReLU(inplace=True), nn.Dropout(),
            nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(),
            nn.Linear(4096, classes),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def _vgg_layers(widths: Iterable[int]) -> Iterable[nn.Module]:
    """A convolution for each width; max pooling for each 0."""
    inputs = 3
    for width in widths:
        if width:
            yield from (nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(inplace=True))
            inputs = width
        else:
            yield nn.MaxPool2d(2)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al., "Deep residual learning", 2016)."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride > 1 or inputs != width:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + identity)


class ResNet18(nn.Module):
    """ResNet-18 for images of any size."""

    def __init__(self, classes: int = 1000):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


class CifarBlock(nn.Module):
    """A basic block whose shortcut has no parameters: every second pixel, new channels zero (option A of the paper)."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.new_channels = width - inputs

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        if not self.new_channels:
            return x
        half = self.new_channels // 2
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, half))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class CifarResNet20(nn.Module):
    """ResNet-20 for CIFAR-10's 32x32 images, in the functional style: ReLUs, pooling and sums are no modules."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(CifarBlock(16, 16, 1) for _ in range(3)))
        self.layer2 = nn.Sequential(CifarBlock(16, 32, 2), CifarBlock(32, 32, 1), CifarBlock(32, 32, 1))
        self.layer3 = nn.Sequential(CifarBlock(32, 64, 2), CifarBlock(64, 64, 1), CifarBlock(64, 64, 1))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.avg_pool2d(x, x.shape[3]).flatten(1))


class SmallViT(nn.Module):
    """A vision transformer (Dosovitskiy et al., 2021) of four layers for images of 224 x 224."""

    def __init__(self, classes: int = 1000, width: int = 192, layers: int = 4, patch: int = 16, side: int = 224):
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, (side // patch) ** 2 + 1, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, 3, 4 * width, activation="gelu", batch_first=True, norm_first=True, dropout=0.0
        )
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.encoder(x)[:, 0])


def he_initialised(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in evaluation mode, weights drawn by He's rule for ReLU networks and small biases."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.05, generator=generator)
    return model.eval()


def random_batch_norms(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model, its batch norms with statistics and parameters as training might leave them (some scales negative)."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return torch.empty_like(like).uniform_(low, high, generator=generator)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(uniform(module.running_mean, -0.3, 0.3))
                module.running_var.copy_(uniform(module.running_var, 0.7, 2.0))
                module.weight.copy_(uniform(module.weight, 0.5, 1.2))
                module.weight[::16] *= -1
                module.bias.copy_(uniform(module.bias, -0.3, 0.3))
    return model


def cifar_resnet20(data: str | Path) -> CifarResNet20:
    """The trained CIFAR-10 network of a data folder (weights/cifar10_resnet20.safetensors), in evaluation mode."""
    model = CifarResNet20()
    model.load_state_dict(load_file(Path(data) / "weights" / "cifar10_resnet20.safetensors"))
    return model.eval()


NETS = {"VGG16": VGG16, "ResNet18": ResNet18, "SqueezeNet": SqueezeNet, "SmallViT": SmallViT}


def network(name: str) -> torch.nn.Module:
    """In evaluation mode, no parameter requiring gradients; weights are random, SqueezeNet's those of
    NETINTERP_FAST_TEST_DATA if set."""
    model = random_batch_norms(he_initialised(NETS[name]()))
    data = os.environ.get("NETINTERP_FAST_TEST_DATA")
    if name == "SqueezeNet" and data:
        model.load_state_dict(load_file(Path(data) / "weights" / "squeezenet1_1.safetensors"))
    return model.requires_grad_(False)
