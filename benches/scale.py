"""A single pass over the data, and one of Broden's size: `python -m benches.scale [--quick]`.

1. Time of dissections in a single pass against a bare forward pass over the same loader, on the photos of
   NETINTERP_FAST_TEST_DATA, if set; that two passes give the same is checked first. Peak memory beyond that of the bare
   pass, and how much is kept, in memory and with 64 MiB of it, in processes of their own.
2. The rehearsal: 512 x 14 x 14 activations of 63,305 images, replayed from a small pool with a gain for each image, and
   1,197 concepts in six layers of label maps; a hundredth and a tenth of it first. Rate, peak memory and file sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from netinterp_fast import Dissection, dissect
from netinterp_fast.data import Concept, Sample, open_dataset

from . import suite
from .dissect import ragged_labels, smooth_activations
from .family import DATA, Part, Setting
from .models import FIRES, network
from .timing import own_peak_mb, peak_starts_anew, printed_by, ratio, seconds_of, spread

AIM = 1.15
JOBS = {
    "SqueezeNet, features.12": ("SqueezeNet", ["features.12"]),
    "SqueezeNet, all 8 Fires": ("SqueezeNet", FIRES),
    "ResNet-18, layer1 to layer4": ("ResNet18", ["layer1", "layer2", "layer3", "layer4"]),
}
BRODEN_IMAGES, BRODEN_CONCEPTS = 63_305, 1_197
SHARES = {"1/100": 633, "1/10": 6_330, "1": BRODEN_IMAGES}
UNITS, COARSE, GRID = 512, 14, 112
POOL = 128  # images
PEAK_AIM_MB = 2000


# 1. against bare passes


def photos():
    return open_dataset(Path(os.environ[DATA]) / "msrc_v2")


def bare_pass(model: nn.Module, dataset) -> None:
    with torch.no_grad():
        for images, _, _ in torch.utils.data.DataLoader(dataset, batch_size=32):
            model(images)


def single(job: str, dataset, **changes) -> Dissection:
    name, layers = JOBS[job]
    return dissect(network(name), dataset, layers, progress=False, **{"passes": 1} | changes)


def check_equal(job: str, dataset) -> None:
    """AssertionError unless one and two passes give the same."""
    one, two = single(job, dataset), single(job, dataset, passes=2)
    for layer in one:
        for name in ("thresholds", "intersection", "unit_area", "concept_area", "top_images", "top_maps"):
            if not torch.equal(getattr(one[layer], name), getattr(two[layer], name)):
                raise AssertionError(f"{job}: {name} of {layer} differs between one pass and two")


def against_bare_passes(job: str, rounds: int) -> dict:
    dataset = photos()
    check_equal(job, dataset)
    name, layers = JOBS[job]
    model = network(name).eval()
    bare, ours = [], []
    for _ in range(rounds):
        bare.append(seconds_of(lambda: bare_pass(model, dataset)))
        ours.append(seconds_of(lambda: dissect(model, dataset, layers, progress=False, passes=1)))
    times = ratio(ours, bare)
    memory = {budget: json.loads(printed_by("benches.scale", "--job", job, "--budget", budget)) for budget in BUDGETS}
    bare_peak = json.loads(printed_by("benches.scale", "--job", job, "--budget", "bare"))["peak_mb"]
    for budget, of_budget in memory.items():
        kept = [round(of_budget[name] / 1e6) for name in ("bytes_in_memory", "bytes_in_file")]
        print(
            f"{job}, {budget}: {of_budget['peak_mb'] - bare_peak:.0f} MB more than the bare pass; kept {kept[0]} MB in "
            f"memory, {kept[1]} MB in a file",
            flush=True,
        )
    print(
        f"{job}: {times:.2f}x one bare forward pass (aim {AIM}; {min(ours):.1f} s against {min(bare):.1f} s)",
        flush=True,
    )
    return {
        "times_bare_pass": times, "aim": AIM, "seconds": spread(ours), "bare_seconds": spread(bare),
        "bare_peak_mb": bare_peak, "memory": memory,
    }  # fmt: skip


BUDGETS = ("1GiB", "64MiB")


def memory_of(job: str, budget: str) -> dict:
    """Peak memory in MB of this process, and what was kept; of the bare pass with "bare"."""
    dataset = photos()
    model = network(JOBS[job][0]).eval()
    peak_starts_anew()
    if budget == "bare":
        bare_pass(model, dataset)
        return {"peak_mb": own_peak_mb()}
    kept = dissect(model, dataset, JOBS[job][1], progress=False, passes=1, memory_budget=budget).settings["time"]
    return {"peak_mb": own_peak_mb()} | {name: kept[name] for name in ("bytes_in_memory", "bytes_in_file")}


# 2. the rehearsal


class Replayed(nn.Module):
    """Gives activations [B, 512, 14, 14] for images that are numbers: those of a pool, each image with its own gain."""

    def __init__(self):
        super().__init__()
        self.register_buffer("pool", smooth_activations(POOL, UNITS, COARSE))
        self.layer = nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        number = images[:, 0, 0, 0].double() * BRODEN_IMAGES
        gain = 1 + 0.3 * torch.sin(number * 12.9898).float()
        return self.layer(self.pool[number.round().long() % POOL] * gain[:, None, None, None])


class BrodenSized(torch.utils.data.Dataset):
    """Six label layers of 112 x 112 from a pool; an image [3, 8, 8] is its number over that of Broden's images."""

    def __init__(self, n_images: int):
        categories = ("object", "part", "material", "color", "scene", "texture")
        self.concepts = [Concept(i, f"concept {i}", categories[i % 6]) for i in range(1, BRODEN_CONCEPTS + 1)]
        maps = torch.cat([ragged_labels(POOL, GRID), ragged_labels(POOL, GRID)[:, :2]], dim=1)
        self.labels = maps % (BRODEN_CONCEPTS + 1)
        self.n_images = n_images

    def __len__(self) -> int:
        return self.n_images

    def __getitem__(self, i: int) -> Sample:
        image = torch.full((3, 8, 8), i / BRODEN_IMAGES)
        return Sample(image, self.labels[i * 7 % POOL], torch.zeros(0, dtype=torch.int64))


def rehearsal(n_images: int) -> dict:
    """A dissection of so many images in this process: images a second, peak memory, sizes of files."""
    torch.manual_seed(0)
    model, dataset = Replayed(), BrodenSized(n_images)
    peak_starts_anew()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        result = dissect(
            model, dataset, ["layer"], progress=False, passes=1, memory_budget="256MiB", out=Path(folder) / "run"
        )
        seconds = time.perf_counter() - start
        files = {path.name: path.stat().st_size for path in (Path(folder) / "run").iterdir() if path.is_file()}
    kept = result.settings["time"]
    return {
        "images": n_images, "images_per_second": n_images / seconds, "seconds": seconds, "peak_mb": own_peak_mb(),
        "cells_mb_in_memory": kept["bytes_in_memory"] / 1e6, "cells_mb_in_file": kept["bytes_in_file"] / 1e6,
        "results_mb": sum(files.values()) / 1e6, "shares": kept["shares"], "aim_peak_mb": PEAK_AIM_MB,
    }  # fmt: skip


def rehearsals(setting: Setting) -> list[dict]:
    rows = []
    for n_images in list(SHARES.values())[: 1 if setting.quick else None]:
        rows.append(json.loads(printed_by("benches.scale", "--rehearse", n_images, returning_memory=False)))
        row = rows[-1]
        print(
            f"{row['images']} images: {row['images_per_second']:.0f} images/s ({row['seconds']:.0f} s), peak "
            f"{row['peak_mb']:.0f} MB (aim {PEAK_AIM_MB}), cells kept {row['cells_mb_in_memory']:.0f} MB in memory and "
            f"{row['cells_mb_in_file']:.0f} MB in a file, results {row['results_mb']:.1f} MB",
            flush=True,
        )
    return rows


PARTS = {
    "single_pass": Part(
        lambda setting: {job: against_bare_passes(job, 7) for job in JOBS}, in_quick=False, on_cuda=False, needs=(DATA,)
    ),
    "rehearsal": Part(rehearsals, on_cuda=False),
}


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--job", choices=JOBS)
    parser.add_argument("--budget")
    parser.add_argument("--rehearse", type=int)
    options, others = parser.parse_known_args()
    if options.job:
        print(json.dumps(memory_of(options.job, options.budget), separators=(",", ":")))
    elif options.rehearse:
        print(json.dumps(rehearsal(options.rehearse), separators=(",", ":")))
    else:
        suite.main(["scale", *others])


if __name__ == "__main__":
    main()
