"""The demo network: a small convolutional classifier of the painted scenes, shipped with its weights."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import nn

from .vocabulary import CATEGORIES

WEIGHTS = Path(__file__).with_name("demo_net.safetensors")

DEMO_LAYERS = ("layer1", "layer2", "layer3", "layer4", "layer5", "layer6")
DEMO_MEAN = (0.5, 0.5, 0.5)
DEMO_STD = (0.25, 0.25, 0.25)

WIDTHS = (24, 32, 64, 96, 128, 128)  # units of the layers


def block(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class DemoNet(nn.Module):
    """Images float32 [B, 3, 112, 112], normalised with `DEMO_MEAN` and `DEMO_STD`, to scene logits [B, 14].

    The outputs of `layer1` to `layer6` are non-negative maps: 56, 56, 28, 14, 14 and 14 pixels square.
    """

    def __init__(self):
        super().__init__()
        self.layer1 = block(3, WIDTHS[0], kernel=5, stride=2)
        self.layer2 = block(WIDTHS[0], WIDTHS[1])
        self.layer3 = block(WIDTHS[1], WIDTHS[2])
        self.layer4 = block(WIDTHS[2], WIDTHS[3])
        self.layer5 = block(WIDTHS[3], WIDTHS[4])
        self.layer6 = block(WIDTHS[4], WIDTHS[5])
        self.scene = nn.Linear(WIDTHS[5], len(CATEGORIES["scene"]))

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The outputs of all layers, [B, C, h, w] each."""
        first = self.layer1(images)
        second = self.layer2(first)
        third = self.layer3(F.max_pool2d(second, 2))
        fourth = self.layer4(F.max_pool2d(third, 2))
        fifth = self.layer5(fourth)
        return [first, second, third, fourth, fifth, self.layer6(fifth)]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classify(self.maps(images)[-1])

    def classify(self, last: torch.Tensor) -> torch.Tensor:
        """Scene logits from the last layer's maps."""
        return self.scene(last.mean(dim=(2, 3)))


def save_weights(model: DemoNet, path: Path) -> None:
    """Write the model's state with its floating-point tensors rounded to float16."""
    state = {
        name: value.half().contiguous() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(save(state))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load_demo_model(path: Path = WEIGHTS) -> DemoNet:
    """The trained demo network in evaluation mode, float32 on the CPU."""
    model = DemoNet()
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()})
    return model.eval()
