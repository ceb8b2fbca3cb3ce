"""Whole methods on whole networks, on the CPU or a GPU: `python -m benches.endtoend [--device cuda] [--quick]`.

1. A dissection in one pass against the same forward passes without it, data in memory, and the share of the tally.
2. Integrated gradients at 50 steps in FB: in float32, in bfloat16 and, on CUDA, as a recorded graph.
3. Composites of relevance in FB.

The last two against Captum and zennit, where they are installed; that they agree is checked first. On the CPU
everything is small.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import torch
from torch import nn

from netinterp_fast import dissect
from netinterp_fast.data import Concept, Sample

from . import paths, relevance, suite
from .dissect import CONCEPTS, ragged_labels
from .family import Part, Setting
from .models import FIRES, network
from .timing import ratio, seconds_of, spread

LAYERS = {"SqueezeNet": FIRES, "ResNet18": ["layer1", "layer2", "layer3", "layer4"]}
POOL, GRID, BATCH = 64, 112, 32


class Size(NamedTuple):
    networks: tuple[str, ...]
    side: int  # of the images
    batch: int
    images: int  # of a dissection
    rounds: int


ON_GPU = Size(("SqueezeNet", "ResNet18"), 224, 32, 4096, 5)
QUICK_ON_GPU = ON_GPU._replace(networks=("ResNet18",), images=1024, rounds=2)
ON_CPU = Size(("SqueezeNet", "ResNet18"), 112, 4, 256, 3)
QUICK_ON_CPU = Size(("SqueezeNet",), 112, 1, 64, 2)


def size_for(setting: Setting) -> Size:
    sizes = (ON_GPU, QUICK_ON_GPU) if setting.device.type == "cuda" else (ON_CPU, QUICK_ON_CPU)
    return sizes[setting.quick]


class InMemory(torch.utils.data.Dataset):
    """So many images from a pool of random ones, with four layers of labels."""

    def __init__(self, n_images: int, side: int):
        self.concepts = [Concept(i, f"concept {i}", "object") for i in range(1, CONCEPTS)]
        self.images, self.labels = torch.randn(POOL, 3, side, side), ragged_labels(POOL, GRID)
        self.none, self.n_images = torch.zeros(0, dtype=torch.int64), n_images

    def __len__(self) -> int:
        return self.n_images

    def __getitem__(self, i: int) -> Sample:
        return Sample(self.images[i % POOL], self.labels[i % POOL], self.none)


def bare_pass(model: nn.Module, dataset: InMemory, device: torch.device) -> None:
    with torch.no_grad():
        for images, _, _ in torch.utils.data.DataLoader(dataset, batch_size=BATCH, pin_memory=device.type == "cuda"):
            model(images.to(device, non_blocking=True))


def dissection(name: str, size: Size, device: torch.device) -> dict:
    model, dataset = network(name).to(device), InMemory(size.images, size.side)
    bare, ours = [], []
    for _ in range(size.rounds + 1):  # the first is not counted
        bare.append(seconds_of(lambda: bare_pass(model, dataset, device), device))
        ours.append(seconds_of(lambda: _dissected(model, dataset, LAYERS[name], device), device))
    shares = _dissected(model, dataset, LAYERS[name], device).settings["time"]["shares"]
    row = {
        "network": name, "side": size.side, "images": size.images, "layers": len(LAYERS[name]),
        "seconds": spread(ours[1:]), "bare_seconds": spread(bare[1:]), "times_bare_pass": ratio(ours[1:], bare[1:]),
        "shares": shares, "tally_of_forward": shares["tally"] / max(shares["forward"], 1e-3),
    }  # fmt: skip
    print(
        f"dissection of {name}, {len(LAYERS[name])} layers, {size.images} images: {row['times_bare_pass']:.2f}x the "
        f"forward passes; thresholds and tallies take {row['tally_of_forward']:.2f} of the forward pass",
        flush=True,
    )
    return row


def _dissected(model: nn.Module, dataset: InMemory, layers: list[str], device: torch.device):
    return dissect(
        model, dataset, layers, passes=1, batch_size=BATCH, device=device, progress=False, top_images=0
    )  # fmt: skip


def modes(device: torch.device) -> dict[str, dict]:
    """Of `integrated_gradients`, beside float32."""
    found = {"bfloat16": {"autocast": torch.bfloat16}}
    if device.type == "cuda":
        found["graph"] = {"cuda_graph": True}
        found["bfloat16, graph"] = {"autocast": torch.bfloat16, "cuda_graph": True}
    return found


def dissections(setting: Setting) -> list[dict]:
    size = size_for(setting)
    return [dissection(name, size, setting.device) for name in size.networks]


def methods(setting: Setting) -> list[dict]:
    size, rows = size_for(setting), []
    for name in size.networks:
        rows.append(paths.speed(name, size.batch, setting, size.side, modes(setting.device)))
        rows += relevance.speed(name, size.side, size.batch, setting)
    return rows


def agreements(setting: Setting) -> dict[str, dict[str, dict[str, float]]]:
    return {
        name: {
            "captum": paths.agreement(name, setting.device),
            "zennit": relevance.agreement(name, setting.device),
        }
        for name in size_for(setting).networks
    }


PARTS = {
    "dissection": Part(dissections),
    "agreement": Part(agreements, needs=("captum", "zennit")),
    "speed": Part(methods),
}


if __name__ == "__main__":
    suite.main(["endtoend", *sys.argv[1:]])
