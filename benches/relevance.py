"""What relevance costs: `python -m benches.relevance [--quick]`.

1. Agreement of `lrp` with zennit in float64, for every network and composite, before anything is timed.
2. Time against FB, which is a forward pass and the gradient of the chosen outputs with respect to the input (no
   parameter requires gradients, here as everywhere), and against zennit and, for epsilon, Captum. The peers are
   prepared beforehand (`benches.relevance_peers`); `lrp` has nothing to prepare.
3. Peak memory over that of a forward pass, in processes of their own, against the activations and modified weights.
4. Twenty targets of one image in one call, against as many calls of Captum's LRP.
5. The kernels `stabilized_ratio`, `product_ratio` and `relu_gate` against plain torch.

Weights are random, SqueezeNet's those of NETINTERP_FAST_TEST_DATA if set.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch

from netinterp_fast import ops

from . import suite, work
from .family import Part, Setting, peer_version
from .kernels import Kernel, close, measure
from .models import network
from .relevance_peers import CaptumPeer, ZennitPeer
from .timing import interleaved, own_peak_mb, peak_starts_anew, printed_by, ratio, seconds_of, spread

CASES = [("VGG16", 224), ("ResNet18", 64), ("ResNet18", 224), ("SqueezeNet", 224)]
# at most as many FB, and at least as many times faster than zennit; medians over the cases
AIMS = {
    "epsilon": (1.15, 1.9), "epsilon_plus": (1.8, 1.9), "epsilon_gamma_box": (2.2, 4.0),
    "epsilon_alpha2_beta1": (2.8, 2.1),
}  # fmt: skip
VARIANTS = {  # modified copies of the convolutions' weights
    "epsilon": 0, "epsilon_plus": 1, "epsilon_gamma_box": 1, "epsilon_alpha2_beta1": 2,
}  # fmt: skip
MEMORY_CASES = [("VGG16", 224, 1), ("ResNet18", 224, 8)]
TOLERANCE = 1e-5  # of the largest relevance
SMALL = 64  # side of the images for agreement
TARGETS, TARGETS_AIM = 20, 2.0
KERNEL_SHAPES = ((1, 512, 14, 14), (8, 256, 28, 28), (8, 64, 112, 112))
EPSILON = 1e-6


def ours(model: torch.nn.Module, x: torch.Tensor, target=None, *, composite: str, **options) -> torch.Tensor:
    from netinterp_fast import composites, lrp

    rules = composites.epsilon_gamma_box(low=-3.0, high=3.0) if composite == "epsilon_gamma_box" else composite
    return lrp(model, x, target, composite=rules, **options)


def forward_backward(model: torch.nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The gradient of the sum of the chosen outputs."""
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(model(x).gather(1, target[:, None]).sum(), x)[0]


def chosen(model: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest output of each image: its index [B], and the seed [B, n] that holds it and zeros."""
    with torch.no_grad():
        output = model(x)
    target = output.argmax(1)
    return target, seeds(output, target)


def seeds(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(output).scatter_(1, target[:, None], output.gather(1, target[:, None]))


def agreement(name: str, device: torch.device) -> dict[str, float]:
    """The largest difference from zennit in float64, relative to the largest relevance; AssertionError if too large."""
    model = network(name).double().to(device)
    x = torch.randn(2, 3, SMALL, SMALL, dtype=torch.float64, device=device)
    _, seed = chosen(model, x)
    differences = {}
    for composite in AIMS:
        theirs = ZennitPeer(model, composite)(x, seed)
        differences[composite] = _difference(ours(model, x, seed, composite=composite), theirs)
    several = torch.tensor([7, 0, 7], device=device)
    with torch.no_grad():
        output = model(x[:1])
    theirs = ZennitPeer(model, "epsilon")(x[:1].repeat(3, 1, 1, 1), seeds(output.repeat(3, 1), several))
    differences["targets"] = _difference(ours(model, x[:1], composite="epsilon", targets=several)[:, 0], theirs)
    print(f"{name}: {max(differences.values()):.1e} of the largest relevance apart from zennit at most", flush=True)
    wrong = {what: d for what, d in differences.items() if not d <= TOLERANCE}
    if wrong:
        raise AssertionError(f"relevance of {name} differs from zennit's: {wrong}")
    return differences


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    if a.shape != b.shape:
        raise AssertionError(f"relevance has shape {list(a.shape)}, zennit's {list(b.shape)}")
    return float((a - b).abs().max() / b.abs().max())


def speed(
    name: str, side: int, batch: int, setting: Setting, composites: tuple[str, ...] = tuple(AIMS), most: int = 9
) -> list[dict]:
    """Composites on one network and size, against FB and the peers that are installed."""
    device = setting.device
    model, x = network(name).to(device), torch.randn(batch, 3, side, side, device=device)
    target, seed = chosen(model, x)
    baseline = partial(forward_backward, model, x, target)
    baseline()
    repeats = max(2, min(3 if setting.quick else most, int(2 / seconds_of(baseline, device))))  # few of what takes long
    rows = []
    for composite in composites:
        candidates: dict[str, Callable[[], object]] = {
            "FB": baseline, "ours": partial(ours, model, x, seed, composite=composite)
        } | _peers(model, x, target, seed, composite)  # fmt: skip
        seconds = interleaved(candidates, repeats, device=device)
        rows.append(_speed_row(seconds, name, side, batch, composite))
    return rows


def _peers(model, x, target, seed, composite: str) -> dict[str, Callable[[], object]]:
    peers = {}
    if peer_version("zennit"):
        peers["zennit"] = partial(ZennitPeer(model, composite), x, seed)
    if peer_version("captum") and composite == "epsilon":
        peers["Captum"] = partial(CaptumPeer(model), x, target)
    return peers


def _speed_row(seconds: dict[str, list[float]], name: str, side: int, batch: int, composite: str) -> dict:
    peers = [who for who in seconds if who not in ("FB", "ours")]
    row = {
        "method": f"lrp, {composite}", "network": name, "side": side, "batch": batch, "composite": composite,
        "repeats": len(seconds["FB"]),
        "FB_ms": {what: 1e3 * value for what, value in spread(seconds["FB"]).items()},
        "ms": {who: 1e3 * spread(runs)["median"] for who, runs in seconds.items()},
        "FB_multiples": {who: ratio(runs, seconds["FB"]) for who, runs in seconds.items() if who != "FB"},
        "times_faster_than": {who: ratio(seconds[who], seconds["ours"]) for who in peers},
    }  # fmt: skip
    multiples = ", ".join(f"{who} {m:.2f}" for who, m in row["FB_multiples"].items())
    times = ", ".join(f"{t:.2f}x {who}" for who, t in row["times_faster_than"].items())
    case = f"{name} {side}x{side}, batch {batch}, {composite}"
    print(f"{case}: FB {row['ms']['FB']:.1f} ms; in FB {multiples}; ours {times}", flush=True)
    return row


def medians(rows: list[dict]) -> dict[str, dict]:
    """Over the cases: what a composite costs in FB and how many times faster than zennit it is, against the aims."""
    found = {}
    for composite, (most, least) in AIMS.items():
        these = [row for row in rows if row["composite"] == composite]
        times = [row["times_faster_than"]["zennit"] for row in these if "zennit" in row["times_faster_than"]]
        found[composite] = {
            "FB": statistics.median(row["FB_multiples"]["ours"] for row in these), "FB_asked": most,
            "times_zennit": statistics.median(times) if times else None, "times_zennit_asked": least,
            "times_zennit_range": [min(times), max(times)] if times else None,
        }  # fmt: skip
    return found


def memory(setting: Setting, cases: list[tuple[str, int, int]] = MEMORY_CASES) -> list[dict]:
    """MB over the peak of a forward pass without gradients."""
    rows = []
    for name, side, batch in cases:
        activations, weights = _activations_and_weights(name, side, batch)
        measure = partial(_peak_memory, name, side, batch)
        base = measure("FB", "epsilon")
        for composite in AIMS:
            mb = {"FB": base} | {who: measure(who, composite) for who in ("ours", "zennit")}
            most = activations + VARIANTS[composite] * weights
            row = {
                "network": name,
                "side": side,
                "batch": batch,
                "composite": composite,
                "mb": mb,
                "asked_over_FB": most,
            }
            rows.append(row)
            text = ", ".join(f"{who} {value:.0f}" for who, value in mb.items())
            print(
                f"{name} {side}x{side}, batch {batch}, {composite}: MB over a forward pass: {text}; "
                f"ours {mb['ours'] - base:.0f} over FB (asked {most:.0f} at most: activations and modified weights)",
                flush=True,
            )
    return rows


def _activations_and_weights(name: str, side: int, batch: int) -> tuple[float, float]:
    """MB of all layers' outputs, those computed in place left out, and of the convolutions' weights."""
    model, sizes = network(name), []

    def add(module, inputs, output):
        if not getattr(module, "inplace", False):
            sizes.append(output.nbytes)

    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(add)
    with torch.no_grad():
        model(torch.randn(batch, 3, side, side))
    weights = sum(parameter.nbytes for parameter in model.parameters() if parameter.dim() == 4)
    return sum(sizes) / 2**20, weights / 2**20


def _peak_memory(name: str, side: int, batch: int, who: str, composite: str) -> float:
    return float(printed_by("benches.relevance", "--memory", name, side, batch, who, composite))


def _own_memory(name: str, side: str, batch: str, who: str, composite: str) -> float:
    """What one run adds to this process's peak; zennit's copy of the network takes the place of the network."""
    torch.manual_seed(0)
    model, x = network(name), torch.randn(int(batch), 3, int(side), int(side))
    target, seed = chosen(model, x)
    if who == "zennit":
        peer = ZennitPeer(model, composite)
        model = peer.model
        run = partial(peer, x, seed)
    elif who == "ours":
        run = partial(ours, model, x, seed, composite=composite)
    elif who == "FB":
        run = partial(forward_backward, model, x, target)
    else:
        raise ValueError(f"who is {who!r}; it must be FB, ours or zennit")
    peak_starts_anew()
    with torch.no_grad():
        model(x)
    before = own_peak_mb()
    run()
    return own_peak_mb() - before


def many_targets(setting: Setting) -> dict:
    """Relevance of 20 outputs of VGG16, by the epsilon rule, which is Captum's default."""
    device = setting.device
    model, x = network("VGG16").to(device), torch.randn(1, 3, 224, 224, device=device)
    targets = torch.randperm(1000)[:TARGETS].to(device)
    captum, calls = CaptumPeer(model), 5 if setting.quick else TARGETS

    def one_by_one():
        for target in targets[:calls]:
            captum(x, target[None])

    candidates = {"ours": partial(ours, model, x, composite="epsilon", targets=targets), "captum": one_by_one}
    seconds = interleaved(candidates, 1 if setting.quick else 2, device=device)
    seconds["captum"] = [s * TARGETS / calls for s in seconds["captum"]]
    times = ratio(seconds["captum"], seconds["ours"])
    print(
        f"VGG16, {TARGETS} targets of one image: {spread(seconds['ours'])['median']:.1f} s in one call, {times:.2f}x "
        f"as fast as {TARGETS} calls of Captum (asked {TARGETS_AIM}x; {calls} calls timed)",
        flush=True,
    )
    return {
        "targets": TARGETS, "seconds": spread(seconds["ours"]), "captum_seconds": spread(seconds["captum"]),
        "captum_calls_timed": calls, "times_captum": times, "asked": TARGETS_AIM,
    }  # fmt: skip


def ratio_kernels(shape: tuple[int, ...], device: torch.device) -> list[Kernel]:
    x, grad, z = torch.randn(3, *shape, device=device)
    small = torch.tensor(EPSILON, device=device)
    size, numbers = "x".join(map(str, shape)), {"numbers": x.numel()}

    def stabilized(z):
        return torch.where(z < 0, z - EPSILON, z + EPSILON)

    return [
        Kernel(
            "stabilized_ratio", size, (grad, z), partial(ops.stabilized_ratio, epsilon=EPSILON),
            work.of_elementwise(2, grad, z, x),
            {"where": lambda r, z: r / stabilized(z), "copysign": lambda r, z: r / (z + torch.copysign(small, z))},
            agrees=close, shape=numbers,
        ),
        Kernel(
            "product_ratio", size, (x, grad, z), partial(ops.product_ratio, epsilon=EPSILON),
            work.of_elementwise(3, x, grad, z, x),
            {"where": lambda x, g, z: x * g / stabilized(z),
             "copysign": lambda x, g, z: x * g / (z + torch.copysign(small, z))},
            agrees=close, shape=numbers,
        ),
        Kernel(
            "relu_gate", size, (grad, z.relu()), partial(ops.relu_gate, epsilon=EPSILON),
            work.of_elementwise(4, grad, z, x),
            {"product and ratio": lambda g, output: g * output / (output + EPSILON)},
            agrees=close, shape=numbers,
        ),
    ]  # fmt: skip


def kernels(setting: Setting) -> list[dict]:
    shapes = [(batch * setting.larger, *rest) for batch, *rest in KERNEL_SHAPES]
    return [measure(kernel, setting) for shape in shapes for kernel in ratio_kernels(shape, setting.device)]


def every_speed(setting: Setting) -> list[dict]:
    cases, batches = (CASES[1:2], (1,)) if setting.quick else (CASES, (1, 8))
    rows = [row for name, side in cases for batch in batches for row in speed(name, side, batch, setting)]
    for composite, found in medians(rows).items():
        cost, times = found["FB"], found["times_zennit"]
        against = "" if times is None else f", {times:.2f}x zennit (asked {found['times_zennit_asked']}x)"
        print(f"{composite}: {cost:.2f} FB (asked {found['FB_asked']} at most){against}", flush=True)
    return rows


PARTS = {
    "agreement": Part(
        lambda setting: {
            name: agreement(name, setting.device) for name in ([CASES[1][0]] if setting.quick else dict(CASES))
        },
        needs=("zennit",),
    ),
    "kernels": Part(kernels),
    "speed": Part(every_speed),
    "memory": Part(memory, in_quick=False, on_cuda=False, needs=("zennit",)),
    "many_targets": Part(many_targets, in_quick=False, needs=("captum",)),
}


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--memory", nargs=5)
    options, others = parser.parse_known_args()
    if options.memory is None:
        return suite.main(["relevance", *others])
    print(_own_memory(*options.memory))


if __name__ == "__main__":
    main()
