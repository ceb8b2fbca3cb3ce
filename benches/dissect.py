"""What dissection costs: `python -m benches.dissect [--quick]`.

1. The fused tally and the concepts' areas against plain torch, each formulation written as well as we can.
2. How the tally's cost grows with images, units, concepts and the side of the label maps.
3. The whole job on SqueezeNet 1.1, against the same forward passes without dissection (needs NETINTERP_FAST_TEST_DATA:
   weights/squeezenet1_1.safetensors and the labelled photos msrc_v2/).
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from netinterp_fast import TopQuantile, dissect, ops
from netinterp_fast.data import open_dataset
from netinterp_fast.data.models import load_model

from . import suite, work
from .family import DATA, Part, Setting
from .kernels import Kernel, measure
from .models import FIRES
from .timing import Rotating, cache_bytes, interleaved, own_peak_mb, printed_by, ratio, seconds_of, spread

CONCEPTS, LAYERS, SITES = 1200, 4, 24
FEW = 2  # images that the slow ones see
# (units, coarse side, label side) and the factor over plain torch that the design asks for
SIZES = {(512, 14, 112): 100, (512, 14, 224): 300, (512, 7, 224): 600, (256, 28, 224): 100}
IMAGES = 32  # a batch
AREA_SIDES = (112, 224)
# One at a time is varied, the others are as here: (images, units, concepts, side)
GROWTH_FROM = {"images": 8, "units": 256, "concepts": CONCEPTS, "side": 112}
GROWTH = {"images": (1, 2, 4, 8, 16, 32, 64), "units": (32, 64, 128, 256, 512, 1024, 2048),
          "concepts": (75, 300, 1200, 4800, 19200), "side": (28, 56, 112, 224, 448)}  # fmt: skip
JOB_AIM, JOB_MEMORY_AIM_MB = 1.1, 300


def ragged_labels(n_images: int, side: int, concepts: int = CONCEPTS) -> torch.Tensor:
    """int16 [B, LAYERS, side, side]: in each layer every pixel has the concept of the nearest of SITES sites."""
    pixels = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
    labels = torch.empty(n_images, LAYERS, side * side, dtype=torch.int16)
    for image in range(n_images):
        for layer in range(LAYERS):
            nearest = torch.cdist(pixels, torch.rand(SITES, 2) * side).argmin(1)
            labels[image, layer] = torch.randint(1, concepts, (SITES,))[nearest].short()
    return labels.view(n_images, LAYERS, side, side)


def smooth_activations(n_images: int, n_units: int, side: int) -> torch.Tensor:
    """ReLU of Gaussian noise smoothed over a cell, its gain varying from image to image.

    With SqueezeNet's features.12 on photos 23 % of the maps have a value above the threshold and a value lights 2.5
    cells; with features.7 54 % and 2.8. These give about the same at 14 and 28 cells a side.
    """
    reach = torch.arange(-4.0, 5.0)
    kernel = torch.exp(-(reach**2) / 2)
    kernel /= kernel.sum()
    noise = torch.randn(n_images * n_units, 1, side + 8, side + 8)
    smooth = F.conv2d(F.conv2d(noise, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1)).view(
        n_images, n_units, side, side
    )
    return (smooth / smooth.std() * torch.exp(0.3 * torch.randn(n_images, n_units, 1, 1))).relu_()


def one_hot_product(acts, thresholds, labels, n_concepts):
    """Masks [C, HW] times the one-hot labels of the concepts that the image has [HW, K']."""
    tally = acts.new_zeros((acts.shape[1], n_concepts), dtype=torch.int64)
    for image in range(acts.shape[0]):
        lit = _surface(acts[image], labels.shape[2:]) > thresholds[:, None]
        ids = labels[image].flatten(1).long()
        present, place = ids.unique(return_inverse=True)
        one_hot = acts.new_zeros((ids.shape[1], present.numel()), dtype=torch.float32).scatter_(1, place.T, 1.0)
        tally[:, present] += (lit.float() @ one_hot).long()
    tally[:, 0] = 0
    return tally


def nonzero_bincount(acts, thresholds, labels, n_concepts, units_at_once=None):
    """Positions above the threshold, and a histogram of (unit, concept) over them for each label layer."""
    n_units = acts.shape[1]
    tally = acts.new_zeros((n_units, n_concepts), dtype=torch.int64)
    for image in range(acts.shape[0]):
        layers = labels[image].flatten(1).long()
        for units in torch.arange(n_units).split(units_at_once or n_units):
            units = slice(int(units[0]), int(units[-1]) + 1)
            lit = _surface(acts[image, units], labels.shape[2:]) > thresholds[units, None]
            unit, pixel = lit.nonzero(as_tuple=True)
            cell = unit * n_concepts
            for ids in layers:
                counts = torch.bincount(cell + ids[pixel], minlength=lit.shape[0] * n_concepts)
                tally[units] += counts.view(-1, n_concepts)
    tally[:, 0] = 0
    return tally


def _surface(maps, size):
    return F.interpolate(maps[None], size=tuple(size), mode="bilinear")[0].flatten(1)


FORMULATIONS = {
    "one-hot product": one_hot_product,
    "nonzero, bincount": nonzero_bincount,
    "nonzero, bincount in blocks of 16": lambda *a: nonzero_bincount(*a, units_at_once=16),
    "nonzero, bincount in blocks of 64": lambda *a: nonzero_bincount(*a, units_at_once=64),
}


def exact_thresholds(acts: torch.Tensor) -> torch.Tensor:
    top = TopQuantile(acts.shape[1], 0.005, acts[:, 0].numel(), device=acts.device)
    top.update(acts)
    return top.thresholds()


def without_repeats(labels: torch.Tensor) -> torch.Tensor:
    """The same id in two layers of a pixel removed, as plain formulations would count it twice."""
    for layer in range(1, labels.shape[1]):
        labels[:, layer][(labels[:, :layer] == labels[:, layer : layer + 1]).any(1)] = 0
    return labels


def overlap_kernel(images: int, units: int, coarse: int, side: int, concepts: int, device: torch.device) -> Kernel:
    distinct = min(images, IMAGES)
    which = torch.arange(images, device=device) % distinct
    acts = smooth_activations(distinct, units, coarse).to(device)[which]
    labels = without_repeats(ragged_labels(distinct, side, concepts)).to(device)[which]
    thresholds, out = exact_thresholds(acts), torch.zeros(units, concepts, dtype=torch.int64, device=device)

    def run(acts, thresholds, labels, out, check_finite=False):
        return ops.unit_concept_overlap(acts, thresholds, labels, concepts, out=out, check_finite=check_finite)

    def nearly(counts, ours):  # pixels within rounding of the threshold
        return int((counts - ours).abs().sum()) <= 1e-4 * int(ours.sum())

    return Kernel(
        "unit_concept_overlap",
        f"{images}x {units} units {coarse}x{coarse} to {side}x{side}, {concepts} concepts",
        (acts, thresholds, labels, out),
        run,
        work.of_overlap(acts, thresholds, labels, run(acts, thresholds, labels, torch.zeros_like(out))),
        {name: partial(_formulated, plain, concepts) for name, plain in FORMULATIONS.items()},
        {"check_finite": partial(run, check_finite=True)},
        few=lambda tensors: (tensors[0][:FEW], tensors[1], tensors[2][:FEW], tensors[3]),
        share=min(FEW, images) / images,
        outcome=lambda tensors, result: getattr(result, "intersection", result),
        agrees=nearly,
        shape={"images": images, "units": units, "coarse": coarse, "side": side, "concepts": concepts},
    )


def _formulated(plain, concepts, acts, thresholds, labels, out):
    return plain(acts, thresholds, labels, concepts)


def counted_by_bincount(labels: torch.Tensor) -> torch.Tensor:
    n_images = len(labels)
    first = CONCEPTS * torch.arange(n_images, device=labels.device).unsqueeze(1)
    area = torch.bincount((labels.flatten(1).long() + first).flatten(), minlength=n_images * CONCEPTS)
    return _without_unlabelled(area.view(n_images, CONCEPTS))


def counted_by_scatter(labels: torch.Tensor) -> torch.Tensor:
    ids = labels.flatten(1).long()
    area = ids.new_zeros((len(ids), CONCEPTS)).scatter_add_(1, ids, torch.ones_like(ids))
    return _without_unlabelled(area)


def _without_unlabelled(area: torch.Tensor) -> torch.Tensor:
    area[:, 0] = 0
    return area


def area_kernel(images: int, side: int, device: torch.device) -> Kernel:
    labels = without_repeats(ragged_labels(images, side)).to(device)

    def run(labels):
        return ops.concept_area(labels, CONCEPTS)

    return Kernel(
        "concept_area",
        f"{images}x {LAYERS} layers {side}x{side}, {CONCEPTS} concepts",
        (labels,),
        run,
        work.of_concept_area(labels, run(labels)),
        {"bincount": counted_by_bincount, "scatter_add": counted_by_scatter},
        shape={"images": images, "side": side, "concepts": CONCEPTS},
    )


def kernels(setting: Setting) -> list[dict]:
    rows = []
    for (units, coarse, side), asked in SIZES.items():
        kernel = overlap_kernel(IMAGES * setting.larger, units, coarse, side, CONCEPTS, setting.device)
        rows.append(measure(kernel, setting, 3 if setting.quick else 9) | {"asked": asked})
    return rows + [measure(area_kernel(IMAGES * setting.larger, side, setting.device), setting) for side in AREA_SIDES]


def growth(setting: Setting, sizes: dict[str, tuple[int, ...]] = GROWTH) -> dict[str, list[dict]]:
    """Milliseconds of the tally alone."""
    found = {}
    for what, values in sizes.items():
        runs = {value: _tally_of(GROWTH_FROM | {what: value}, setting) for value in values}
        seconds = interleaved(runs, 3 if setting.quick else 9, 0.02, setting.device)
        found[what] = [{what: value, "ms": 1e3 * spread(of_value)["median"]} for value, of_value in seconds.items()]
        print(f"{what}: " + ", ".join(f"{row[what]}: {row['ms']:.3g} ms" for row in found[what]), flush=True)
    return found


def _tally_of(size: dict[str, int], setting: Setting):
    kernel = overlap_kernel(size["images"], size["units"], 14, size["side"], size["concepts"], setting.device)
    return Rotating(kernel.tensors, 2 * cache_bytes(setting.device)).calling(kernel.run)


def whole_job(setting: Setting, rounds: int = 5) -> dict:
    """All eight Fire outputs of SqueezeNet 1.1 on the labelled photos in two passes, against two without dissection."""
    dataset, model = _squeezenet()
    plain_seconds, full_seconds = [], []
    for _ in range(rounds):
        plain_seconds.append(seconds_of(lambda: _bare_passes(model, dataset)))
        full_seconds.append(seconds_of(lambda: _dissection(model, dataset)))
    memory = {mode: _peak_of(mode) for mode in ("bare", "dissect")}
    times = ratio(full_seconds, plain_seconds)
    print(
        f"SqueezeNet 1.1, 8 layers, {len(dataset)} photos: {times:.2f}x two bare passes "
        f"({min(full_seconds):.1f} s against {min(plain_seconds):.1f} s; asked {JOB_AIM}x), peak memory "
        f"{memory['dissect']:.0f} MB against {memory['bare']:.0f} MB (asked {JOB_MEMORY_AIM_MB} more at most)",
        flush=True,
    )
    return {
        "times_bare_passes": times, "bare_seconds": spread(plain_seconds), "seconds": spread(full_seconds),
        "peak_mb": memory, "summary": _dissection(model, dataset).summary(),
    }  # fmt: skip


def _peak_of(mode: str) -> float:
    return float(printed_by("benches.dissect", "--memory", mode, returning_memory=False))


def _squeezenet():
    data = Path(os.environ[DATA])
    model = load_model(
        f"{Path(__file__).parent / 'models.py'}:SqueezeNet", data / "weights" / "squeezenet1_1.safetensors"
    )
    return open_dataset(data / "msrc_v2"), model


def _bare_passes(model, dataset) -> None:
    with torch.no_grad():
        for _ in range(2):
            for images, _, _ in torch.utils.data.DataLoader(dataset, batch_size=32):
                model(images)


def _dissection(model, dataset):
    return dissect(model, dataset, FIRES, progress=False, passes=2)


PARTS = {
    "kernels": Part(kernels),
    "growth": Part(growth),
    "whole_job": Part(whole_job, in_quick=False, on_cuda=False, needs=(DATA,)),
}


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--memory", choices=("bare", "dissect"))
    options, others = parser.parse_known_args()
    if options.memory is None:
        return suite.main(["dissect", *others])
    dataset, model = _squeezenet()
    (_bare_passes if options.memory == "bare" else _dissection)(model, dataset)
    print(own_peak_mb())


if __name__ == "__main__":
    main()
