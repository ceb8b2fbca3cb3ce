"""What rotating a layer's units costs in interpretability, and not in accuracy: `python -m benches.rotation`.

Bau et al., "Network Dissection", CVPR 2017, section 3.2: a network whose layer gives Q a in place of a, Q a rotation,
with the inverse folded into the layer behind, computes the same; but fewer of its units detect a concept. Here
SqueezeNet 1.1 (published weights) on the photos of NETINTERP_FAST_TEST_DATA, colours added; all angles are dissected in
one pass.
"""

from __future__ import annotations

import copy
import os
import sys
from pathlib import Path

import torch
from torch import nn

from netinterp_fast import Rotation, dissect
from netinterp_fast.data import open_dataset, with_colours

from . import suite
from .family import DATA, Part, Setting
from .models import network

ANGLES = [i / 10 for i in range(11)]
SEEDS = (0, 1, 2)
FOLDED_INTO = {
    "features.10": "features.11.squeeze",
    "features.11": "features.12.squeeze",
    "features.12": "classifier.1",
}
IOU = (0.04, 0.08)
FEW = 64  # photos that --quick looks at


def rotated(model: nn.Module, layer: str, rotation: Rotation) -> nn.Module:
    """The same network, whose layer gives rotated units: a 1 x 1 convolution with Q behind it, Q^-1 in the next one."""
    model = copy.deepcopy(model)
    inside, outside = model.get_submodule(layer), model.get_submodule(FOLDED_INTO[layer])
    q = rotation.matrix(outside.in_channels)
    turn = nn.Conv2d(len(q), len(q), 1, bias=False)
    with torch.no_grad():
        turn.weight.copy_(q[:, :, None, None])
        outside.weight.copy_(torch.einsum("ochw,dc->odhw", outside.weight.double(), q))
    model.set_submodule(layer, nn.Sequential(inside, turn))
    return model.eval()


def predictions(model: nn.Module, dataset) -> torch.Tensor:
    """Outputs [n, classes]."""
    with torch.no_grad():
        return torch.cat([model(images) for images, _, _ in torch.utils.data.DataLoader(dataset, batch_size=32)])


def photos(n: int | None = None):
    dataset = with_colours(open_dataset(Path(os.environ[DATA]) / "msrc_v2"))
    return dataset if n is None else torch.utils.data.Subset(dataset, range(n))


def same_network(setting: Setting) -> dict:
    """How far a network moves by a rotation of 90 % of the way: the largest difference of an output over the largest
    output, and for how many images the class changes."""
    model, moved, dataset = network("SqueezeNet").eval(), {}, photos(FEW if setting.quick else None)
    expected = predictions(model, dataset)
    for layer in FOLDED_INTO:
        got = predictions(rotated(model, layer, Rotation(0.9)), dataset)
        moved[layer] = {
            "largest_difference": float((got - expected).abs().max() / expected.abs().max()),
            "other_classes": int((got.argmax(1) != expected.argmax(1)).sum()),
            "images": len(expected),
        }
        print(f"{layer} rotated: outputs move by {moved[layer]['largest_difference']:.1e} of the largest; "
              f"{moved[layer]['other_classes']} of {len(expected)} images get another class", flush=True)  # fmt: skip
    return moved


def detectors(setting: Setting) -> list[dict]:
    """By layer, seed and angle: detectors and unique detectors."""
    bases = {(seed, angle): Rotation(angle, seed) for seed in SEEDS for angle in ANGLES if angle}
    result = dissect(network("SqueezeNet"), photos(), list(FOLDED_INTO), basis=["units", *bases.values()], top_images=0)
    rows = []
    for layer in FOLDED_INTO:
        for seed, angle in ((seed, angle) for seed in SEEDS for angle in ANGLES):
            of = result[layer] if angle == 0 else result[f"{layer} | {bases[seed, angle].name}"]
            counts = {f"iou_{limit}": [len(of.detectors(limit)), sum(map(len, of.unique_detectors(limit).values()))]
                      for limit in IOU}  # fmt: skip
            rows.append({"layer": layer, "seed": seed, "angle": angle, **counts})
    table(rows)
    return rows


def table(rows: list[dict]) -> None:
    """Means over the seeds, by angle."""
    for layer in FOLDED_INTO:
        of_layer = [row for row in rows if row["layer"] == layer]
        for limit in IOU:
            for place, what in enumerate(("detectors", "unique detectors")):
                sums = [sum(row[f"iou_{limit}"][place] for row in of_layer if row["angle"] == a) for a in ANGLES]
                means = "  ".join(f"{total / len(SEEDS):.0f}" for total in sums)
                print(f"{layer}, IoU > {limit}, {what} from 0 to 1: {means}")


PARTS = {
    "same_network": Part(same_network, on_cuda=False, needs=(DATA,)),
    "detectors": Part(detectors, in_quick=False, on_cuda=False, needs=(DATA,)),
}


if __name__ == "__main__":
    suite.main(["rotation", *sys.argv[1:]])
