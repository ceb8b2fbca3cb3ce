"""What gradients along paths cost: `python -m benches.paths [--quick]`.

1. Agreement of `integrated_gradients` with Captum's in float64, for every network and rule, before anything is timed.
2. Time of 50 steps against Captum's with the internal_batch_size that is fastest for it.
3. Peak memory of 50 steps beyond the model, asked for 64 MiB, against Captum's default and its smallest batches, in
   processes of their own.
4. `tolerance=0.05` on the photos of NETINTERP_FAST_TEST_DATA, if set: the true error and the steps that were taken.
5. Twenty targets of one image in one call, against as many calls of Captum.
6. The kernels against copies.

Weights are random, SqueezeNet's those of NETINTERP_FAST_TEST_DATA if set. Prints a table and writes
benches/results/paths.json.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from captum import attr as captum

from netinterp_fast import integrated_gradients, ops, saliency
from netinterp_fast.data.io import read_image

from .models import network
from .timing import (
    RESULTS,
    environment,
    interleaved,
    own_peak_mb,
    peak_starts_anew,
    printed_by,
    ratio,
    save,
    seconds_of,
    spread,
    warn_of_load,
)  # fmt: skip

STEPS = 50
RULES = ("gausslegendre", "riemann_left", "riemann_middle", "riemann_right")
AIMS = {"ResNet18": 1.25, "SqueezeNet": 1.25, "SmallViT": 1.0, "VGG16": 1.0}
BATCHES = {"ResNet18": (1, 4), "SqueezeNet": (1, 4), "SmallViT": (1, 4), "VGG16": (1,)}
CAPTUM_SIZES = (1, 4, 8, 16, None)  # of its internal batches, times the examples
TOLERANCE = 1e-4  # of the largest attribution
BUDGET = "64MiB"
TARGETS, TARGETS_AIM = 20, 2.0
PHOTO_TOLERANCE, REFERENCE_STEPS = 0.05, 1024
COPY_AIM = 0.7


def ours(model: torch.nn.Module, x: torch.Tensor, target: int, **options) -> torch.Tensor:
    return integrated_gradients(model, x, target, steps=STEPS, **options)


def theirs(model: torch.nn.Module, x: torch.Tensor, target: int, size: int | None, **options) -> torch.Tensor:
    """Captum's; size: examples times so many steps at once, None all of them."""
    batch = None if size is None else size * len(x)
    method = captum.IntegratedGradients(model)
    return method.attribute(x, target=target, n_steps=STEPS, internal_batch_size=batch, **options)


def agreement(name: str) -> dict[str, float]:
    """The largest difference from Captum in float64, of the largest attribution; AssertionError if it is too large."""
    model = network(name).double()
    # Not a flat baseline: where all pixels are alike, max pools choose by rounding.
    x, baseline = torch.randn(2, 2, 3, 224, 224, dtype=torch.float64)
    differences = {}
    for rule in RULES:
        mine = integrated_gradients(model, x, 7, baseline=baseline, steps=4, method=rule)
        peer = captum.IntegratedGradients(model).attribute(x, baseline, target=7, n_steps=4, method=rule)
        differences[rule] = float((mine - peer).abs().max() / peer.abs().max())
    print(f"{name}: {max(differences.values()):.1e} of the largest attribution apart from Captum at most", flush=True)
    wrong = {rule: d for rule, d in differences.items() if not d <= TOLERANCE}
    if wrong:
        raise AssertionError(f"integrated gradients of {name} differ from Captum's: {wrong}")
    return differences


def speed(name: str, batch: int, quick: bool) -> dict:
    """50 steps, both sides with what suits them."""
    model, x = network(name), torch.randn(batch, 3, 224, 224)
    sizes = CAPTUM_SIZES[1:3] if quick or name == "VGG16" else CAPTUM_SIZES
    tried = {size: seconds_of(partial(theirs, model, x, 7, size)) for size in sizes}
    best = min(tried, key=tried.get)
    candidates = {"ours": partial(ours, model, x, 7), "captum": partial(theirs, model, x, 7, best)}
    if name != "VGG16":
        candidates["ours, not hoisted"] = partial(ours, model, x, 7, hoist=False)
    seconds = interleaved(candidates, 2 if quick or name == "VGG16" else 5)
    row = {
        "network": name, "batch": batch, "captum_internal_batch_size": None if best is None else best * batch,
        "seconds": {who: spread(runs) for who, runs in seconds.items()},
        "times_captum": ratio(seconds["captum"], seconds["ours"]), "asked": AIMS[name],
    }  # fmt: skip
    print(
        f"{name} 224x224, batch {batch}, {STEPS} steps: {row['seconds']['ours']['median']:.2f} s, "
        f"{row['times_captum']:.2f}x Captum with internal_batch_size={row['captum_internal_batch_size']} "
        f"(asked {AIMS[name]}x)",
        flush=True,
    )
    return row


def memory(name: str, batch: int) -> dict:
    """MB beyond the model and its inputs."""
    who = {"ours": "ours", "captum": "", "captum, smallest batches": "1"}
    mb = {label: float(printed_by("benches.paths", "--memory", name, batch, arg)) for label, arg in who.items()}
    text = ", ".join(f"{label} {value:.0f}" for label, value in mb.items())
    print(f"{name}, batch {batch}, {STEPS} steps: MB beyond the model: {text} (asked 64 at most of ours)", flush=True)
    return {"network": name, "batch": batch, "budget": BUDGET, "mb": mb}


def _own_memory(name: str, batch: str, who: str) -> float:
    torch.manual_seed(0)
    model, x = network(name), torch.randn(int(batch), 3, 224, 224)
    captums = partial(theirs, size=int(who) if who.isdigit() else None)
    run = partial(ours, memory_budget=BUDGET) if who == "ours" else captums
    run(model, torch.randn(1, 3, 64, 64), 7)  # libraries load their code
    peak_starts_anew()
    before = own_peak_mb()
    run(model, x, 7)
    return own_peak_mb() - before


def least_budget(name: str) -> str:
    """What a budget that is too small is answered with."""
    model, x = network(name), torch.randn(1, 3, 224, 224)
    try:
        ours(model, x, 7, memory_budget="1MiB")
    except ValueError as error:
        print(f"{name}: {error}", flush=True)
        return str(error)
    raise AssertionError("a memory budget of 1 MiB was accepted")


def photos(quick: bool) -> list[dict]:
    """The true error of `tolerance` on every photo: relative L1 distance from very many midpoints."""
    data = os.environ.get("NETINTERP_FAST_TEST_DATA")
    if quick or not data:
        return []
    model, rows = network("SqueezeNet"), []
    for path in sorted((Path(data) / "photos").glob("*.png")):
        x = _photo(path)
        truth = integrated_gradients(model, x, steps=REFERENCE_STEPS, method="riemann_middle")
        found, info = integrated_gradients(model, x, tolerance=PHOTO_TOLERANCE, return_info=True)
        peer = captum.IntegratedGradients(model).attribute(x, target=int(model(x).argmax()), internal_batch_size=8)
        errors = {
            who: float((a - truth).abs().sum() / truth.abs().sum()) for who, a in (("ours", found), ("captum", peer))
        }
        row = {
            "photo": path.stem, "steps": int(info.steps), "estimated_error": float(info.error),
            "error": errors["ours"], "captum_steps": STEPS, "captum_error": errors["captum"],
        }  # fmt: skip
        print(
            f"{path.stem}: {row['steps']} steps, error {row['error']:.1%} (estimated {row['estimated_error']:.1%}, "
            f"asked {PHOTO_TOLERANCE:.0%} at most); Captum's {STEPS} steps: {row['captum_error']:.1%}",
            flush=True,
        )
        rows.append(row)
    return rows


def _photo(path: Path) -> torch.Tensor:
    """[1, 3, 224, 224]: the middle of a photo whose shorter side is 256, as SqueezeNet was trained."""
    image = read_image(path)
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)))
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)).convert("RGB"), dtype=np.float32) / 255
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((torch.from_numpy(pixels) - mean) / deviation).permute(2, 0, 1)[None].contiguous()


def many_targets(quick: bool) -> dict:
    """Twenty classes of one image, gradients and integrated gradients."""
    result = {}
    for name in ("SqueezeNet", "ResNet18"):
        model, x = network(name), torch.randn(1, 3, 224, 224)
        targets = torch.randperm(1000)[:TARGETS]
        for method in ("saliency", "integrated_gradients"):
            calls = TARGETS if method == "saliency" or not quick else 3
            seconds = interleaved(_many(method, model, x, targets, calls), 1 if quick else 3)
            times = ratio(seconds["captum"], seconds["ours"]) * TARGETS / calls
            print(
                f"{method} of {TARGETS} targets of one image, {name}: {times:.2f}x as fast as {TARGETS} calls of "
                f"Captum (asked {TARGETS_AIM}x; {calls} calls timed)",
                flush=True,
            )
            result[f"{name} {method}"] = {
                "targets": TARGETS, "seconds": spread(seconds["ours"]), "captum_calls_timed": calls,
                "captum_seconds": spread(seconds["captum"]), "times_captum": times, "asked": TARGETS_AIM,
            }  # fmt: skip
    return result


def _many(method: str, model: torch.nn.Module, x: torch.Tensor, targets: torch.Tensor, calls: int) -> dict:
    def one_by_one():
        for target in targets[:calls].tolist():
            if method == "saliency":
                captum.Saliency(model).attribute(x, target=target, abs=False)
            else:
                theirs(model, x, target, 8)

    function = saliency if method == "saliency" else partial(integrated_gradients, steps=STEPS)
    return {"ours": partial(function, model, x, targets=targets), "captum": one_by_one}


def kernels() -> list[dict]:
    """The ops at an image and at a first convolution's output, against copying the tensor of all steps, which they
    write or read, and against a copy that moves as many bytes as they do in all: both into memory that is there."""
    rows = []
    for shape, steps in (((1, 3, 224, 224), 8), ((1, 64, 112, 112), 8), ((4, 64, 56, 56), 8)):
        inputs, baseline, alphas = torch.randn(shape), torch.randn(shape), torch.rand(steps)
        all_steps, sums = torch.randn(steps * shape[0], *shape[1:]), torch.zeros(shape)
        source = torch.randn((steps + 2) * inputs.numel() // 2)
        copies = {
            "copy": partial(torch.empty_like(all_steps).copy_, all_steps),
            "copy of as many bytes": partial(torch.empty_like(source).copy_, source),
        }
        run = {
            "path_points": partial(ops.path_points, inputs, baseline, alphas),
            "path_accumulate": partial(ops.path_accumulate, all_steps, alphas, sums),
        }
        for name, op in run.items():
            seconds = interleaved({name: op, **copies}, 25, turn=0.02)
            of_copy, of_bytes = (ratio(seconds[copy], seconds[name]) for copy in copies)
            print(
                f"{name} {list(shape)}, {steps} steps: {of_copy:.2f} of the speed of copying all steps "
                f"(asked {COPY_AIM}), {of_bytes:.2f} of that of a copy that moves as many bytes",
                flush=True,
            )
            row = {"op": name, "shape": shape, "steps": steps, "of_a_copy": of_copy, "asked": COPY_AIM}
            rows.append(row | {"of_a_copy_of_as_many_bytes": of_bytes})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benches.paths", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="single images, fewer repeats, no photos, no VGG16")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, help="measure these again and keep the file's other figures"
    )
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="Input Tensor 0 did not already require gradients")
    if options.memory:
        print(_own_memory(*options.memory))
        return
    torch.manual_seed(0)
    print(", ".join(f"{key} {value}" for key, value in environment().items()))
    figures = json.loads((RESULTS / "paths.json").read_text()) if options.only else {}
    figures["load_before"] = warn_of_load()
    for part in options.only or PARTS:
        measured = PARTS[part](options.quick)
        if measured:
            figures[part] = measured
    print(f"written to {save('paths', figures)}")


def _names(quick: bool) -> list[str]:
    return [name for name in AIMS if not (quick and name == "VGG16")]


PARTS = {
    "agreement": lambda quick: {name: agreement(name) for name in _names(quick)},
    "kernels": lambda quick: kernels(),
    "speed": lambda quick: [
        speed(name, batch, quick) for name in _names(quick) for batch in BATCHES[name] if batch == 1 or not quick
    ],
    "many_targets": many_targets,
    "memory": lambda quick: [memory(name, batch) for name in ("SqueezeNet", "ResNet18") for batch in (1, 4)],
    "least_budget": lambda quick: {name: least_budget(name) for name in ("SqueezeNet", "ResNet18")},
    "tolerance": photos,
}


if __name__ == "__main__":
    main()
