"""What gradients along paths cost: `python -m benches.paths [--quick]`.

1. Agreement of `integrated_gradients` with Captum's in float64, for every network and rule, before anything is timed.
2. Time of 50 steps against Captum's with the internal_batch_size that is fastest for it.
3. Peak memory of 50 steps beyond the model, asked for 64 MiB, against Captum's default and its smallest batches, in
   processes of their own.
4. `tolerance=0.05` on the photos of NETINTERP_FAST_TEST_DATA, if set: the true error and the steps that were taken.
5. Twenty targets of one image in one call, against as many calls of Captum.
6. The kernels `path_points`, `path_accumulate` and `noise_points` against plain torch; the first two also against
   copies of what they write or read, into memory that is there.

Weights are random, SqueezeNet's those of NETINTERP_FAST_TEST_DATA if set.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

import numpy as np
import torch

from netinterp_fast import integrated_gradients, ops, saliency
from netinterp_fast.data.io import read_image

from . import suite, work
from .family import DATA, Part, Setting, peer_version
from .kernels import Kernel, close, measure
from .models import network
from .relevance import chosen, forward_backward
from .timing import interleaved, own_peak_mb, peak_starts_anew, printed_by, ratio, seconds_of, spread

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
KERNEL_SHAPES = (((1, 3, 224, 224), 8), ((1, 64, 112, 112), 8), ((4, 64, 56, 56), 8))  # examples, and steps of each
SIGMA, SEED = 0.3, 7


def ours(model: torch.nn.Module, x: torch.Tensor, target: int, **options) -> torch.Tensor:
    return integrated_gradients(model, x, target, steps=STEPS, **options)


def theirs(model: torch.nn.Module, x: torch.Tensor, target: int, size: int | None, **options) -> torch.Tensor:
    """Captum's; size: examples times so many steps at once, None all of them."""
    batch = None if size is None else size * len(x)
    from captum import attr

    method = attr.IntegratedGradients(model)
    return method.attribute(x, target=target, n_steps=STEPS, internal_batch_size=batch, **options)


def agreement(name: str, device: torch.device) -> dict[str, float]:
    """The largest difference from Captum in float64, of the largest attribution; AssertionError if it is too large."""
    from captum import attr

    model = network(name).double().to(device)
    # Not a flat baseline: where all pixels are alike, max pools choose by rounding.
    x, baseline = torch.randn(2, 2, 3, 224, 224, dtype=torch.float64, device=device)
    differences = {}
    for rule in RULES:
        mine = integrated_gradients(model, x, 7, baseline=baseline, steps=4, method=rule)
        peer = attr.IntegratedGradients(model).attribute(x, baseline, target=7, n_steps=4, method=rule)
        differences[rule] = float((mine - peer).abs().max() / peer.abs().max())
    print(f"{name}: {max(differences.values()):.1e} of the largest attribution apart from Captum at most", flush=True)
    wrong = {rule: d for rule, d in differences.items() if not d <= TOLERANCE}
    if wrong:
        raise AssertionError(f"integrated gradients of {name} differ from Captum's: {wrong}")
    return differences


def speed(name: str, batch: int, setting: Setting, side: int = 224, modes: dict[str, dict] | None = None) -> dict:
    """50 steps, against FB and against Captum with what suits it. Our `modes` are arguments by name."""
    device = setting.device
    model, x = network(name).to(device), torch.randn(batch, 3, side, side, device=device)
    target, _ = chosen(model, x)
    few = setting.quick or name == "VGG16"
    candidates = {"FB": partial(forward_backward, model, x, target), "ours": partial(ours, model, x, 7)}
    candidates |= {what: partial(ours, model, x, 7, **options) for what, options in (modes or {}).items()}
    row = {"method": f"integrated_gradients, {STEPS} steps", "network": name, "side": side, "batch": batch}
    if peer_version("captum"):
        sizes = CAPTUM_SIZES[1:3] if few else CAPTUM_SIZES
        tried = {size: seconds_of(partial(theirs, model, x, 7, size), device) for size in sizes}
        best = min(tried, key=tried.get)
        row["captum_internal_batch_size"] = None if best is None else best * batch
        candidates["Captum"] = partial(theirs, model, x, 7, best)
    seconds = interleaved(candidates, 2 if few else 5, device=device)
    row |= {
        "seconds": {who: spread(runs) for who, runs in seconds.items()},
        "FB_multiples": {who: ratio(runs, seconds["FB"]) for who, runs in seconds.items() if who != "FB"},
        "times_faster_than": {who: ratio(seconds[who], seconds["ours"]) for who in seconds if who == "Captum"},
        "asked": AIMS[name],
    }
    multiples = ", ".join(f"{who} {m:.1f}" for who, m in row["FB_multiples"].items())
    times = "".join(f"; {t:.2f}x {who} (asked {AIMS[name]}x)" for who, t in row["times_faster_than"].items())
    print(f"{name} {side}x{side}, batch {batch}, {STEPS} steps: in FB {multiples}{times}", flush=True)
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


def photos(setting: Setting) -> list[dict]:
    """The true error of `tolerance` on every photo: relative L1 distance from very many midpoints."""
    from captum import attr

    model, rows = network("SqueezeNet").to(setting.device), []
    for path in sorted((Path(os.environ[DATA]) / "photos").glob("*.png")):
        x = _photo(path).to(setting.device)
        truth = integrated_gradients(model, x, steps=REFERENCE_STEPS, method="riemann_middle")
        found, info = integrated_gradients(model, x, tolerance=PHOTO_TOLERANCE, return_info=True)
        peer = attr.IntegratedGradients(model).attribute(x, target=int(model(x).argmax()), internal_batch_size=8)
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


def many_targets(setting: Setting) -> dict:
    """Twenty classes of one image, gradients and integrated gradients."""
    result = {}
    for name in ("SqueezeNet", "ResNet18"):
        model, x = network(name).to(setting.device), torch.randn(1, 3, 224, 224, device=setting.device)
        targets = torch.randperm(1000)[:TARGETS].to(setting.device)
        for method in ("saliency", "integrated_gradients"):
            seconds = interleaved(_many(method, model, x, targets), 3, device=setting.device)
            times = ratio(seconds["captum"], seconds["ours"])
            print(
                f"{method} of {TARGETS} targets of one image, {name}: {times:.2f}x as fast as {TARGETS} calls of "
                f"Captum (asked {TARGETS_AIM}x)",
                flush=True,
            )
            result[f"{name} {method}"] = {
                "targets": TARGETS, "seconds": spread(seconds["ours"]),
                "captum_seconds": spread(seconds["captum"]), "times_captum": times, "asked": TARGETS_AIM,
            }  # fmt: skip
    return result


def _many(method: str, model: torch.nn.Module, x: torch.Tensor, targets: torch.Tensor) -> dict:
    from captum import attr

    def one_by_one():
        for target in targets.tolist():
            if method == "saliency":
                attr.Saliency(model).attribute(x, target=target, abs=False)
            else:
                theirs(model, x, target, 8)

    function = saliency if method == "saliency" else partial(integrated_gradients, steps=STEPS)
    return {"ours": partial(function, model, x, targets=targets), "captum": one_by_one}


def path_kernels(shape: tuple[int, ...], steps: int, device: torch.device) -> list[Kernel]:
    inputs, baseline = torch.randn(2, *shape, device=device)
    alphas = torch.rand(steps, device=device)
    points, sums = torch.randn(steps * shape[0], *shape[1:], device=device), torch.zeros(shape, device=device)
    size, numbers = f"{'x'.join(map(str, shape))}, {steps} steps", {"numbers": points.numel()}

    def by_lerp(x, x0, a):
        return torch.lerp(x0, x, a.view(-1, *[1] * x.dim())).flatten(0, 1)

    def by_sums(x, x0, a):
        return (x0 + a.view(-1, *[1] * x.dim()) * (x - x0)).flatten(0, 1)

    def by_matrix(grads, weights, out):
        out.view(-1).addmv_(grads.view(len(weights), -1).T, weights)
        return out

    def by_sum(grads, weights, out):
        return out.add_((weights.view(-1, *[1] * out.dim()) * grads.view(-1, *out.shape)).sum(0))

    return [
        Kernel(
            "path_points", size, (inputs, baseline, alphas), ops.path_points,
            work.of_path_points(inputs, alphas, points), {"lerp": by_lerp, "sums": by_sums},
            agrees=close, shape=numbers,
        ),
        Kernel(
            "path_accumulate", size, (points, alphas, sums), ops.path_accumulate,
            work.of_path_accumulate(points, alphas, sums), {"addmv_": by_matrix, "sum": by_sum},
            agrees=close, shape=numbers,
        ),
        noise_kernel(inputs, steps),
    ]  # fmt: skip


def noise_kernel(inputs: torch.Tensor, samples: int) -> Kernel:
    def run(inputs):
        return ops.noise_points(inputs, SIGMA, SEED, samples)

    def by_randn(inputs):
        noise = torch.randn(samples, *inputs.shape, device=inputs.device)
        return noise.mul_(SIGMA).add_(inputs).flatten(0, 1)

    def as_distributed(theirs, ours):  # other numbers of the same distribution
        n = ours.numel()
        same_mean = abs(float((theirs - ours).mean())) < 6 * SIGMA * (2 / n) ** 0.5
        return theirs.shape == ours.shape and same_mean and abs(float(theirs.std() / ours.std()) - 1) < 6 / n**0.5

    return Kernel(
        "noise_points", f"{'x'.join(map(str, inputs.shape))}, {samples} samples", (inputs,), run,
        work.of_noise_points(inputs, run(inputs)), {"randn": by_randn}, agrees=as_distributed,
        shape={"numbers": samples * inputs.numel()},
    )  # fmt: skip


def kernels(setting: Setting) -> list[dict]:
    return [
        measure(kernel, setting)
        for (batch, *rest), steps in KERNEL_SHAPES
        for kernel in path_kernels((batch * setting.larger, *rest), steps, setting.device)
    ]


def against_copies(setting: Setting) -> list[dict]:
    """Two ops against copying the tensor of all steps, which they write or read, and against a copy that moves as many
    bytes as they do in all: all of them into memory that is there."""
    rows, device = [], setting.device
    for shape, steps in KERNEL_SHAPES:
        points, sums, _ = path_kernels(shape, steps, device)
        all_steps = sums.tensors[0]
        source = torch.randn((steps + 2) * points.tensors[0].numel() // 2, device=device)
        copies = {
            "copy": partial(torch.empty_like(all_steps).copy_, all_steps),
            "copy of as many bytes": partial(torch.empty_like(source).copy_, source),
        }
        for kernel in (points, sums):
            runs = {kernel.op: partial(kernel.run, *kernel.tensors), **copies}
            seconds = interleaved(runs, 5 if setting.quick else 25, 0.02, device)
            of_copy, of_bytes = (ratio(seconds[copy], seconds[kernel.op]) for copy in copies)
            print(
                f"{kernel.op} {kernel.size}: {of_copy:.2f} of the speed of copying all steps (asked {COPY_AIM}), "
                f"{of_bytes:.2f} of that of a copy that moves as many bytes",
                flush=True,
            )
            row = {"op": kernel.op, "shape": shape, "steps": steps, "of_a_copy": of_copy, "asked": COPY_AIM}
            rows.append(row | {"of_a_copy_of_as_many_bytes": of_bytes})
    return rows


def every_speed(setting: Setting) -> list[dict]:
    if setting.quick:
        return [speed("SqueezeNet", 1, setting)]
    modes = {"ours, not hoisted": {"hoist": False}}
    return [
        speed(name, batch, setting, modes={} if name == "VGG16" else modes) for name in AIMS for batch in BATCHES[name]
    ]


PARTS = {
    "agreement": Part(
        lambda setting: {name: agreement(name, setting.device) for name in (["SqueezeNet"] if setting.quick else AIMS)},
        needs=("captum",),
    ),
    "kernels": Part(kernels),
    "copies": Part(against_copies),
    "speed": Part(every_speed),
    "many_targets": Part(many_targets, in_quick=False, needs=("captum",)),
    "memory": Part(
        lambda setting: [memory(name, batch) for name in ("SqueezeNet", "ResNet18") for batch in (1, 4)],
        in_quick=False, on_cuda=False, needs=("captum",),
    ),
    "least_budget": Part(
        lambda setting: {name: least_budget(name) for name in ("SqueezeNet", "ResNet18")},
        in_quick=False, on_cuda=False,
    ),
    "tolerance": Part(photos, in_quick=False, needs=("captum", DATA)),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--memory", nargs=3)
    options, others = parser.parse_known_args()
    if options.memory is None:
        return suite.main(["paths", *others])
    print(_own_memory(*options.memory))


if __name__ == "__main__":
    main()
