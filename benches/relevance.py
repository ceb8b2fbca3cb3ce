"""What relevance costs: `python -m benches.relevance [--quick]`.

1. Agreement of `lrp` with zennit in float64, for every network and composite, before anything is timed.
2. Time against FB, which is a forward pass and the gradient of the chosen outputs with respect to the input (no
   parameter requires gradients, here as everywhere), and against zennit and, for epsilon, Captum. The peers are
   prepared beforehand (`benches.relevance_peers`); `lrp` has nothing to prepare.
3. Peak memory over that of a forward pass, in processes of their own, against the activations and modified weights.
4. Twenty targets of one image in one call, against as many calls of Captum's LRP.

Weights are random, SqueezeNet's those of NETINTERP_FAST_TEST_DATA if set. Prints a table and writes
benches/results/relevance.json.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch

from .models import network
from .relevance_peers import CaptumPeer, ZennitPeer
from .timing import (
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
)

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


def agreement(name: str) -> dict[str, float]:
    """The largest difference from zennit in float64, relative to the largest relevance; AssertionError if too large."""
    model, x = network(name).double(), torch.randn(2, 3, SMALL, SMALL, dtype=torch.float64)
    _, seed = chosen(model, x)
    differences = {}
    for composite in AIMS:
        theirs = ZennitPeer(model, composite)(x, seed)
        differences[composite] = _difference(ours(model, x, seed, composite=composite), theirs)
    several = torch.tensor([7, 0, 7])
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


def speed(name: str, side: int, batch: int, quick: bool) -> list[dict]:
    """Every composite on one network and size."""
    model, x = network(name), torch.randn(batch, 3, side, side)
    target, seed = chosen(model, x)
    baseline = partial(forward_backward, model, x, target)
    baseline()
    repeats = _repeats(seconds_of(baseline), quick)
    rows = []
    for composite in AIMS:
        candidates: dict[str, Callable[[], object]] = {
            "FB": baseline,
            "ours": partial(ours, model, x, seed, composite=composite),
            "zennit": partial(ZennitPeer(model, composite), x, seed),
        }
        if composite == "epsilon":
            candidates["Captum"] = partial(CaptumPeer(model), x, target)
        rows.append(_speed_row(interleaved(candidates, repeats), name, side, batch, composite))
    return rows


def _repeats(seconds: float, quick: bool) -> int:
    """Few where a run takes long."""
    return max(2, min(3 if quick else 9, int(2 / seconds)))


def _speed_row(seconds: dict[str, list[float]], name: str, side: int, batch: int, composite: str) -> dict:
    peers = [who for who in seconds if who not in ("FB", "ours")]
    row = {
        "network": name, "side": side, "batch": batch, "composite": composite, "repeats": len(seconds["FB"]),
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


def summary(rows: list[dict]) -> dict[str, dict[str, float]]:
    """The medians over the cases, against the aims."""
    medians = {}
    for composite, (most, least) in AIMS.items():
        these = [row for row in rows if row["composite"] == composite]
        cost = statistics.median(row["FB_multiples"]["ours"] for row in these)
        times = statistics.median(row["times_faster_than"]["zennit"] for row in these)
        print(f"{composite}: {cost:.2f} FB (asked {most} at most), {times:.2f}x zennit (asked {least}x)", flush=True)
        medians[composite] = {"FB": cost, "FB_asked": most, "times_zennit": times, "times_zennit_asked": least}
    return medians


def memory(cases: list[tuple[str, int, int]]) -> list[dict]:
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


def many_targets(quick: bool) -> dict:
    """Relevance of 20 outputs of VGG16, by the epsilon rule, which is Captum's default."""
    model, x = network("VGG16"), torch.randn(1, 3, 224, 224)
    targets = torch.randperm(1000)[:TARGETS]
    captum, calls = CaptumPeer(model), 5 if quick else TARGETS

    def one_by_one():
        for target in targets[:calls]:
            captum(x, target[None])

    candidates = {"ours": partial(ours, model, x, composite="epsilon", targets=targets), "captum": one_by_one}
    seconds = interleaved(candidates, 1 if quick else 2)
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benches.relevance", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="single images, fewer repeats, memory of one network")
    parser.add_argument("--memory", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print(_own_memory(*options.memory))
        return
    torch.manual_seed(0)
    print(", ".join(f"{key} {value}" for key, value in environment().items()))
    load = warn_of_load()
    agreed = {name: agreement(name) for name in dict(CASES)}
    batches = (1,) if options.quick else (1, 8)
    rows = [row for name, side in CASES for batch in batches for row in speed(name, side, batch, options.quick)]
    figures = {"load_before": load, "agreement": agreed, "speed": rows, "medians": summary(rows)}
    figures["memory"] = memory(MEMORY_CASES[:1] if options.quick else MEMORY_CASES)
    figures["many_targets"] = many_targets(options.quick)
    print(f"written to {save('relevance', figures)}")


if __name__ == "__main__":
    main()
