"""Train the demo network: `python -m netinterp_fast.demo.train [--out FILE] [--steps N] [--seed 0]`.

The network learns to name the scene from its averaged last maps. So that single units come to stand for
something, three further questions are asked at the depth where the answer can be seen, each through a linear
readout that is thrown away afterwards:

    the share of each colour         from the averages of the maps of layers 1 and 2
    the share of each texture        from the averages of the maps of layers 3 and 4
    the objects and parts present    from the maxima of the maps of layer 6

All labels are of whole images: where things are, the network has to find by itself. With the same arguments,
on the same machine and torch version, the result is the same to the byte.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import trange

from .canvas import SIZE, Picture
from .dataset import colour_mask
from .model import DEMO_MEAN, DEMO_STD, WEIGHTS, WIDTHS, DemoNet, save_weights
from .scenes import paint
from .vocabulary import CATEGORIES, NUMBERS

SERIES = 1_000_000  # training pictures are the painter's series from here on, the demo data set is series 0
MIN_PIXELS = 12  # a concept counts as present from this many pixels on
BATCH = 32


class Answers(NamedTuple):
    """What is to be learnt about each picture of a set."""

    scenes: torch.Tensor  # int64 [N]
    colours: torch.Tensor  # float32 [N, 11], shares of the picture
    textures: torch.Tensor  # float32 [N, 7], shares of the picture, the last one without a texture
    things: torch.Tensor  # float32 [N, 55], objects and parts, 1 where present

    def select(self, chosen: torch.Tensor) -> Answers:
        return Answers(*(answer[chosen] for answer in self))


def pixel_counts(mask: np.ndarray, category: str) -> np.ndarray:
    """The number of pixels of each concept of `category`, in the vocabulary's order."""
    first, count = NUMBERS[category, CATEGORIES[category][0]], len(CATEGORIES[category])
    return np.bincount(mask.ravel(), minlength=first + count)[first : first + count]


def shares(mask: np.ndarray, category: str) -> np.ndarray:
    """The share of the picture that each concept of `category` covers."""
    return pixel_counts(mask, category) / SIZE**2


def present(picture: Picture, category: str) -> np.ndarray:
    """Which concepts of `category` the picture shows, bool."""
    return pixel_counts(picture.masks[category], category) >= MIN_PIXELS


def training_set(n_images: int, seed: int) -> tuple[torch.Tensor, Answers]:
    """Pictures uint8 [N, 3, S, S] and what they show."""
    rgb, rows = [], []
    for index in trange(n_images, desc="painting"):
        picture = paint(index, SERIES + seed)
        rgb.append(np.moveaxis(picture.rgb, 2, 0))
        colours = shares(colour_mask(picture), "colour")
        textures = shares(picture.masks["texture"], "texture")
        things = np.concatenate([present(picture, "object"), present(picture, "part")])
        rows.append((picture.scene, colours, np.append(textures, 1 - textures.sum()), things))
    scenes, *others = (np.stack(column) for column in zip(*rows, strict=True))
    scenes = torch.from_numpy(scenes) - NUMBERS["scene", CATEGORIES["scene"][0]]
    return torch.from_numpy(np.stack(rgb)), Answers(scenes, *(torch.from_numpy(o).float() for o in others))


class Readouts(nn.Module):
    """Linear readouts of single layers, needed in training only."""

    def __init__(self):
        super().__init__()
        n_colours, n_textures = len(CATEGORIES["colour"]), len(CATEGORIES["texture"]) + 1
        n_things = len(CATEGORIES["object"]) + len(CATEGORIES["part"])
        self.colours = nn.ModuleList(nn.Linear(width, n_colours) for width in WIDTHS[:2])
        self.textures = nn.ModuleList(nn.Linear(width, n_textures) for width in WIDTHS[2:4])
        self.things = nn.Conv2d(WIDTHS[5], n_things, 1)

    def loss(self, maps: list[torch.Tensor], answers: Answers) -> torch.Tensor:
        """The sum of the readouts' losses; the weights were found by trial."""
        averages = [layer.mean(dim=(2, 3)) for layer in maps]
        things = self.things(maps[5]).amax(dim=(2, 3))
        loss = 10 * F.binary_cross_entropy_with_logits(things, answers.things)
        for readout, average in zip(self.colours, averages[:2], strict=True):
            loss = loss + 3 * F.cross_entropy(readout(average), answers.colours)
        for readout, average in zip(self.textures, averages[2:4], strict=True):
            loss = loss + 5 * F.cross_entropy(readout(average), answers.textures)
        return loss


def normalise(rgb: torch.Tensor) -> torch.Tensor:
    """uint8 [B, 3, H, W] to the model's input."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (DEMO_MEAN, DEMO_STD))
    return (rgb.float() / 255 - mean) / std


def train(steps: int, n_images: int, seed: int) -> DemoNet:
    """Train a new network for `steps` batches of 32 on `n_images` pictures."""
    for argument, value in (("steps", steps), ("n_images", n_images)):
        if value < 1:
            raise ValueError(f"{argument} is {value}; expected at least 1")
    torch.manual_seed(seed)
    rgb, answers = training_set(n_images, seed)
    model = DemoNet().to(memory_format=torch.channels_last).train()
    readouts = Readouts()
    optimiser = torch.optim.AdamW([*model.parameters(), *readouts.parameters()], weight_decay=1e-2)
    bar = trange(steps, desc="training")
    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps)
        chosen = torch.randint(n_images, (BATCH,))
        images = normalise(rgb[chosen])
        if torch.rand(()) < 0.5:
            images = images.flip(3)
        maps = model.maps(images.contiguous(memory_format=torch.channels_last))
        shown = answers.select(chosen)
        scene_loss = F.cross_entropy(model.classify(maps[-1]), shown.scenes)
        readout_loss = readouts.loss(maps, shown)
        optimiser.zero_grad()
        (scene_loss + readout_loss).backward()
        optimiser.step()
        bar.set_postfix(scene=f"{scene_loss.item():.3f}", readouts=f"{readout_loss.item():.3f}")
    return model.eval()


def learning_rate(step: int, steps: int) -> float:
    """Fifty steps of linear warm-up, then half a cosine down to 0."""
    return 3e-3 * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the demo network on painted scenes.")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="file to write (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=800, help="batches of 32 (default: %(default)s)")
    parser.add_argument("--images", type=int, default=3500, help="training pictures (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    save_weights(train(options.steps, options.images, options.seed), options.out)


if __name__ == "__main__":
    main()
