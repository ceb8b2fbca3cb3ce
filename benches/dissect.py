"""What dissection costs: `python -m benches.dissect [--quick]`.

1. The fused tally against plain torch, each formulation written as well as we can, and against a read of the
activations. 2. `TopQuantile.update` against a read of the activations.
3. The whole job on SqueezeNet 1.1, against the same forward passes without dissection (needs NETINTERP_FAST_TEST_DATA:
   weights/squeezenet1_1.safetensors and the labelled photos msrc_v2/).

Prints a table and writes benches/results/dissect.json.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from netinterp_fast import TopQuantile, dissect, ops, use_backend
from netinterp_fast.data import open_dataset
from netinterp_fast.data.models import load_model

from .timing import environment, interleaved, own_peak_mb, ratio, save, spread

CONCEPTS, LAYERS, SITES = 1200, 4, 24
FEW = slice(0, 2)  # images that the slow ones see
# (units, coarse side, label side) and the factor over plain torch that the design asks for
SIZES = {(512, 14, 112): 100, (512, 14, 224): 300, (512, 7, 224): 600, (256, 28, 224): 100}


def ragged_labels(n_images: int, side: int) -> torch.Tensor:
    """int16 [B, LAYERS, side, side]: in each layer every pixel has the concept of the nearest of SITES sites."""
    pixels = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
    labels = torch.empty(n_images, LAYERS, side * side, dtype=torch.int16)
    for image in range(n_images):
        for layer in range(LAYERS):
            nearest = torch.cdist(pixels, torch.rand(SITES, 2) * side).argmin(1)
            labels[image, layer] = torch.randint(1, CONCEPTS, (SITES,))[nearest].short()
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
    tally = torch.zeros(acts.shape[1], n_concepts, dtype=torch.int64)
    for image in range(acts.shape[0]):
        lit = _surface(acts[image], labels.shape[2:]) > thresholds[:, None]
        ids = labels[image].flatten(1).long()
        present, place = ids.unique(return_inverse=True)
        one_hot = torch.zeros(ids.shape[1], present.numel()).scatter_(1, place.T, 1.0)
        tally[:, present] += (lit.float() @ one_hot).long()
    tally[:, 0] = 0
    return tally


def nonzero_bincount(acts, thresholds, labels, n_concepts, units_at_once=None):
    """Positions above the threshold, and a histogram of (unit, concept) over them for each label layer."""
    n_units = acts.shape[1]
    tally = torch.zeros(n_units, n_concepts, dtype=torch.int64)
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
    top = TopQuantile(acts.shape[1], 0.005, acts[:, 0].numel())
    top.update(acts)
    return top.thresholds()


def without_repeats(labels: torch.Tensor) -> torch.Tensor:
    """The same id in two layers of a pixel removed, as plain formulations would count it twice."""
    for layer in range(1, labels.shape[1]):
        labels[:, layer][(labels[:, :layer] == labels[:, layer : layer + 1]).any(1)] = 0
    return labels


def tally(repeats: int, n_images: int = 32) -> list[dict]:
    """The fused tally, for each size, against everything else."""
    rows = []
    for (units, coarse, side), asked in SIZES.items():
        acts, labels = smooth_activations(n_images, units, coarse), without_repeats(ragged_labels(n_images, side))
        thresholds = exact_thresholds(acts)
        out = torch.zeros(units, CONCEPTS, dtype=torch.int64)

        def native(acts=acts, thresholds=thresholds, labels=labels, out=out, check_finite=False):
            ops.unit_concept_overlap(acts, thresholds, labels, CONCEPTS, out=out, check_finite=check_finite)

        def reference(acts=acts, thresholds=thresholds, labels=labels):
            with use_backend("reference"):
                return ops.unit_concept_overlap(acts[FEW], thresholds, labels[FEW], CONCEPTS).intersection

        counts = ops.unit_concept_overlap(acts[FEW], thresholds, labels[FEW], CONCEPTS).intersection
        if not torch.equal(counts, reference()):
            raise AssertionError("the native tally differs from the reference")
        plain = {
            name: (lambda f=f, a=acts, t=thresholds, x=labels: f(a[FEW], t, x[FEW], CONCEPTS))
            for name, f in FORMULATIONS.items()
        }
        ties = max(int((run() - counts).abs().sum()) for run in plain.values())
        if ties > 1e-4 * int(counts.sum()):
            raise AssertionError(f"plain torch differs from the native tally in {ties} of {int(counts.sum())} counts")

        ours = {"native": native, "checked": lambda: native(check_finite=True), "read": acts.sum}
        seconds = interleaved(ours | {"reference": reference} | plain, repeats)
        per_image = {name: [s / (n_images if name in ours else 2) for s in runs] for name, runs in seconds.items()}
        best = min(plain, key=lambda name: spread(per_image[name])["median"])
        rows.append({
            "units": units, "coarse": coarse, "side": side,
            "native_ms": 1e3 * spread(per_image["native"])["median"],
            "native_with_check_finite_ms": 1e3 * spread(per_image["checked"])["median"],
            "best_plain": best,
            "times_best_plain": ratio(per_image[best], per_image["native"]),
            "asked": asked,
            "times_reference": ratio(per_image["reference"], per_image["native"]),
            "reads_of_the_activations": ratio(per_image["native"], per_image["read"]),
            "counts": int(counts.sum()), "ties_against_interpolate": ties,
            "plain_ms": {name: 1e3 * spread(per_image[name])["median"] for name in plain},
        })  # fmt: skip
        row = rows[-1]
        print(
            f"{units} units {coarse}x{coarse} -> {side}x{side}: {row['native_ms']:.3f} ms an image; "
            f"{row['times_best_plain']:.0f}x the best plain torch ({best}; asked {asked}x), "
            f"{row['times_reference']:.0f}x the reference, {row['reads_of_the_activations']:.1f} reads; "
            f"{ties} ties in {row['counts']:,} counts",
            flush=True,
        )
    return rows


def quantile_update(passes: int) -> dict:
    """TopQuantile over a whole run of 63,296 images of 14x14, against reading as many activations from memory."""
    n_images, units, coarse = 32, 512, 14
    acts = [smooth_activations(n_images, units, coarse) for _ in range(12)]
    shares, batches = [], 63296 // n_images
    for _ in range(passes):
        top = TopQuantile(units, 0.005, batches * n_images * coarse * coarse)
        update = read = 0.0
        for batch in itertools.islice(itertools.cycle(acts), batches):
            batch.mul_(random.uniform(0.99, 1.01))  # no two batches alike, and each out of the way of the next
            batch_after = acts[random.randrange(len(acts))]
            read += _seconds(batch_after.sum)
            update += _seconds(partial(top.update, batch))
        shares.append(read / update)
    share = statistics.median(shares)
    print(f"TopQuantile.update: {share:.2f} of the speed of reading the activations once (asked 0.33)", flush=True)
    return {"share_of_read_speed": share, "update_ms": 1e3 * update / (batches * n_images)}


def whole_job(data: Path, rounds: int) -> dict:
    """All eight Fire outputs of SqueezeNet 1.1 on the labelled photos, against two passes without dissection."""
    dataset, model = _squeezenet(data)
    plain_seconds, full_seconds = [], []
    for _ in range(rounds):
        plain_seconds.append(_seconds(lambda: _bare_passes(model, dataset)))
        full_seconds.append(_seconds(lambda: _dissection(model, dataset)))
    memory = {mode: _peak_memory(mode, data) for mode in ("bare", "dissect")}
    times = ratio(full_seconds, plain_seconds)
    print(
        f"SqueezeNet 1.1, 8 layers, {len(dataset)} photos: {times:.2f}x two bare passes "
        f"({min(full_seconds):.1f} s against {min(plain_seconds):.1f} s; asked 1.10x), "
        f"peak memory {memory['dissect']:.0f} MB against {memory['bare']:.0f} MB (asked 300 more at most)",
        flush=True,
    )
    return {
        "times_bare_passes": times, "bare_seconds": spread(plain_seconds), "seconds": spread(full_seconds),
        "peak_mb": memory, "summary": _dissection(model, dataset).summary(),
    }  # fmt: skip


def _squeezenet(data: Path):
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
    from .models import FIRES

    return dissect(model, dataset, FIRES, progress=False, passes=2)


def _seconds(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _peak_memory(mode: str, data: Path) -> float:
    """MB at most in use by a process that does nothing else."""
    command = [sys.executable, "-m", "benches.dissect", "--memory", mode, "--data", str(data)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benches.dissect", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("NETINTERP_FAST_TEST_DATA"), help="folder for the whole job"
    )
    parser.add_argument("--memory", choices=("bare", "dissect"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        dataset, model = _squeezenet(options.data)
        (_bare_passes if options.memory == "bare" else _dissection)(model, dataset)
        print(own_peak_mb())
        return
    torch.manual_seed(0)
    print(", ".join(f"{key} {value}" for key, value in environment().items()))
    figures = {"tally": tally(3 if options.quick else 9), "top_quantile": quantile_update(1 if options.quick else 3)}
    if options.data:
        figures["whole_job"] = whole_job(Path(options.data), 1 if options.quick else 5)
    else:
        print("the whole job is left out: NETINTERP_FAST_TEST_DATA is not set")
    print(f"written to {save('dissect', figures)}")


if __name__ == "__main__":
    main()
