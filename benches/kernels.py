"""The kernels: each against the reference, against plain torch, and against what the device can do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from netinterp_fast import use_backend, why_not

from .family import Setting, large_copy
from .timing import Rotating, cache_bytes, interleaved, ratio, seconds_of, spread
from .work import Work


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a, b)


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """To rounding, in float32."""
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


@dataclass(frozen=True)
class Kernel:
    """A call of an op at some size, and what else gives the same.

    `run` and the functions of `plain` and `also` get the tensors. The reference and plain torch get the `few` of them
    where all would take long, `share` of the work. `outcome(tensors, result)` is what has to be the same for all, a
    tensor or several: that of the reference exactly, that of plain torch as `agrees` says.
    """

    op: str
    size: str
    tensors: Sequence[torch.Tensor]
    run: Callable
    work: Work
    plain: dict[str, Callable] = field(default_factory=dict)
    also: dict[str, Callable] = field(default_factory=dict)
    few: Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]] = tuple
    share: float = 1.0
    outcome: Callable = lambda tensors, result: result
    agrees: Callable[[torch.Tensor, torch.Tensor], bool] = _same
    shape: dict[str, int] = field(default_factory=dict)
    raw_ops: tuple[str, ...] = ()  # that it runs, where not `op` alone


def on_reference(run: Callable) -> Callable:
    def call(*tensors):
        with use_backend("reference"):
            return run(*tensors)

    return call


def check(kernel: Kernel) -> None:
    """AssertionError unless all give the same."""

    def outcome(run: Callable) -> tuple:
        tensors = [tensor.clone() for tensor in kernel.few(kernel.tensors)]
        found = kernel.outcome(tensors, run(*tensors))
        return (found,) if isinstance(found, torch.Tensor) else tuple(found)

    ours = outcome(kernel.run)
    if not all(map(_same, ours, outcome(on_reference(kernel.run)))):
        raise AssertionError(f"{kernel.op}, {kernel.size}: the kernel differs from the reference")
    for name, plain in kernel.plain.items():
        if not all(map(kernel.agrees, outcome(plain), ours)):
            raise AssertionError(f"{kernel.op}, {kernel.size}: {name} in plain torch gives something else")


def measure(kernel: Kernel, setting: Setting, repeats: int | None = None, turn: float = 0.02) -> dict:
    """A row of the table. All are timed with cold caches; `warm` is the kernel on the same tensors every time. Copies
    take turns with the rest, as what memory gives changes with what else the machine does."""
    check(kernel)
    rotating = Rotating(kernel.tensors, 2 * cache_bytes(setting.device))
    slow = {"reference": on_reference(kernel.run)} | kernel.plain
    candidates = {
        "copy": large_copy(setting.device),
        "native": rotating.calling(kernel.run),
        "warm": partial(kernel.run, *kernel.tensors),
    }
    candidates |= {name: rotating.calling(run) for name, run in kernel.also.items()}
    candidates |= {name: rotating.calling(run, kernel.few) for name, run in slow.items()}
    for run in candidates.values():
        _settle(run, 2 * len(rotating.copies), setting)
    seconds = interleaved(candidates, repeats or (5 if setting.quick else 15), turn, setting.device)
    for name in slow:
        seconds[name] = [s / kernel.share for s in seconds[name]]
    row = _row(kernel, setting, seconds)
    print(described(row), flush=True)
    return row


def _settle(run: Callable[[], object], times: int, setting: Setting, most: float = 0.5) -> None:
    """So many runs, or as many as take `most` seconds: until the results kept before are the memory of new ones."""
    elapsed = 0.0
    for _ in range(times):
        elapsed += seconds_of(run, setting.device)
        if elapsed > most:
            return


def _row(kernel: Kernel, setting: Setting, seconds: dict[str, list[float]]) -> dict:
    of_native = spread(seconds["native"])
    rate, operations = (amount / of_native["median"] for amount in kernel.work)
    as_many_bytes = kernel.work.bytes / large_copy(setting.device).bytes
    of_copy = ratio([as_many_bytes * s for s in seconds["copy"]], seconds["native"])
    best = min(kernel.plain, key=lambda name: spread(seconds[name])["median"], default=None)
    whys = {op: why_not(op, setting.device) for op in kernel.raw_ops or (kernel.op,)}
    return {
        "op": kernel.op, "size": kernel.size, **kernel.shape,
        "native": not any(whys.values()),
        "ms": 1e3 * of_native["median"], "ms_spread": [1e3 * of_native["min"], 1e3 * of_native["max"]],
        "warm_ms": 1e3 * spread(seconds["warm"])["median"],
        "bytes": kernel.work.bytes, "operations": kernel.work.operations,
        "gb_per_second": rate / 1e9, "of_copy": of_copy,
        "gflop_per_second": operations / 1e9, "of_peak": operations / setting.ceilings.operations_per_second,
        "times_reference": ratio(seconds["reference"], seconds["native"]),
        "times_best_plain": ratio(seconds[best], seconds["native"]) if best else None, "best_plain": best,
        "also_ms": {name: 1e3 * spread(seconds[name])["median"] for name in kernel.also},
        "plain_ms": {name: 1e3 * spread(seconds[name])["median"] for name in kernel.plain},
    }  # fmt: skip


def described(row: dict) -> str:
    plain = f", {row['times_best_plain']:.1f}x plain torch ({row['best_plain']})" if row["best_plain"] else ""
    least, most = row["ms_spread"]
    return (
        f"{row['op']} {row['size']}: {row['ms']:.3g} ms ({least:.3g} to {most:.3g}), {row['gb_per_second']:.1f} GB/s, "
        f"{row['of_copy']:.2f} of a copy; {row['times_reference']:.1f}x the reference{plain}"
    )
