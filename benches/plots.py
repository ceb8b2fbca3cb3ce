"""Pictures of what a results file holds: a roofline, ratios by size, growth of the tally, and rotated units."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

NO_ARITHMETIC = 2**-5  # operations a byte at which kernels are drawn that only move


def draw(families: dict[str, dict], path: Path) -> list[Path]:
    """Those that the figures suffice for, beside `path`; returns where they are."""
    drawn = []
    for name, picture in PICTURES.items():
        figure = picture(families)
        if figure is not None:
            drawn.append(path.with_name(f"{path.stem}-{name}.png"))
            figure.savefig(drawn[-1])
    return drawn


def _figure(width: float, height: float, columns: int = 1, **options):
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = list(figure.subplots(1, columns, squeeze=False, **options).flat)
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _look(i: int) -> dict[str, str]:
    """Colour and marker of the op with this number."""
    return {"color": f"C{i % 10}", "marker": "os^Dv"[i // 3 % 5]}


def _log(axes: Axes, *which: str) -> None:
    """Logarithmic axes, their ticks written as people do."""
    for name in which:
        getattr(axes, f"set_{name}scale")("log")
        axis = getattr(axes, f"{name}axis")
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter("")


def _kernels(families: dict[str, dict]) -> dict[str, list[tuple[dict, dict]]]:
    """Rows with the ceilings that they were measured beside, by op."""
    by_op: dict[str, list] = {}
    for figures in families.values():
        for row in figures.get("kernels", []):
            about = figures.get("later", {}).get("kernels", figures)
            if "ceilings" in about and "of_copy" in row:
                by_op.setdefault(row["op"], []).append((row, about["ceilings"]))
    return by_op


def roofline(families: dict[str, dict]) -> Figure | None:
    """GB/s by operations a byte, all sizes of an op in one colour."""
    by_op = _kernels(families)
    if not by_op:
        return None
    figure, (axes,) = _figure(8.5, 5)
    for i, (op, rows) in enumerate(by_op.items()):
        points = [(max(row["operations"] / row["bytes"], NO_ARITHMETIC), row["gb_per_second"]) for row, _ in rows]
        sizes = [30 + 25 * j for j in range(len(points))]
        axes.scatter(*zip(*points, strict=True), s=sizes, **_look(i), alpha=0.75, label=op, linewidths=0)
    _log(axes, "x", "y")
    measured = [row for rows in by_op.values() for row in rows]
    copies = [row["gb_per_second"] / row["of_copy"] for row, _ in measured]
    _ceilings(axes, copies, statistics.median(each["operations_per_second"] / 1e9 for _, each in measured))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.set_xlabel("operations a byte (at the left edge: none)")
    axes.set_ylabel("GB/s of the least that must move")
    figure.legend(loc="outside right center", frameon=False, fontsize=8, title="larger marks: larger sizes",
                  title_fontsize=8)  # fmt: skip
    return figure


def _ceilings(axes: Axes, copies: list[float], peak: float) -> None:
    """Those of the bandwidth, GB/s of the copies beside each kernel: their median in black, all of them in grey."""
    bandwidth = statistics.median(copies)
    right = max(4 * peak / bandwidth, 2 * axes.get_xlim()[1])
    axes.plot([NO_ARITHMETIC, peak / bandwidth, right], [bandwidth, bandwidth, peak / right], color="black", lw=1.2)
    at = [NO_ARITHMETIC, peak / max(copies), peak / min(copies)]
    axes.fill_between(at, [min(copies)] * 3, [max(copies)] * 2 + [min(copies)], color="black", alpha=0.08, lw=0)
    text = f"copies {bandwidth:.0f} GB/s ({min(copies):.0f} to {max(copies):.0f})"
    axes.annotate(text, (NO_ARITHMETIC, max(copies)), (2, 4), textcoords="offset points", fontsize=8)
    middle = (peak / bandwidth * right) ** 0.5
    axes.annotate(f"float32 product\n{peak:.0f} GFLOP/s", (middle, peak / middle), (6, 6), textcoords="offset points",
                  fontsize=8)  # fmt: skip
    axes.set_xlim(NO_ARITHMETIC / 1.5, 2 * right)


def ratios(families: dict[str, dict]) -> Figure | None:
    """How many times faster than the reference and than plain torch, by the bytes of a call; and than the peers."""
    by_op = _kernels(families)
    methods = [row for figures in families.values() for row in figures.get("speed", []) if row["times_faster_than"]]
    panels: list[tuple[str, Callable]] = []
    if by_op:
        panels.append(("the reference", _by_size("times_reference")))
        panels.append(("the best plain torch", _by_size("times_best_plain")))
    if methods:
        panels.append(("peers", lambda axes, _: _against_peers(axes, methods)))
    if not panels:
        return None
    height = max(5, 1.5 + 0.15 * sum(len(row["times_faster_than"]) for row in methods))
    figure, all_axes = _figure(1.5 + 4.2 * len(panels), height, len(panels))
    for (title, panel), axes in zip(panels, all_axes, strict=True):
        panel(axes, by_op)
        axes.set_title(f"times faster than {title}", fontsize=10)
    if by_op:
        handles, labels = all_axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def _by_size(what: str) -> Callable:
    def panel(axes: Axes, by_op: dict) -> None:
        for i, (op, rows) in enumerate(by_op.items()):
            points = sorted((row["bytes"] / 1e6, row[what]) for row, _ in rows if row[what])
            if points:
                axes.plot(*zip(*points, strict=True), color=f"C{i % 10}", lw=1, alpha=0.25)
                axes.plot(*zip(*points, strict=True), **_look(i), ms=5, lw=0, label=op)
        axes.axhline(1, color="black", lw=0.8)
        _log(axes, "x", "y")
        axes.set_xlabel("MB of a call")

    return panel


def _against_peers(axes: Axes, methods: list[dict]) -> None:
    """A bar for each method, network, batch and peer, in the order measured."""
    bars = [
        (f"{row['method']}, {row['network']} {row['side']}, batch {row['batch']}", peer, times)
        for row in methods
        for peer, times in row["times_faster_than"].items()
    ]
    colours = {"zennit": "C0", "captum": "C1"}
    for y, (_, peer, times) in enumerate(bars):
        axes.barh(y, times, color=colours[peer.lower()], height=0.7)
    for peer, colour in colours.items():
        axes.barh(0, 0, color=colour, label=peer.capitalize())
    axes.set_yticks(range(len(bars)), [name for name, _, _ in bars], fontsize=7)
    axes.invert_yaxis()
    axes.axvline(1, color="black", lw=0.8)
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def growth(families: dict[str, dict]) -> Figure | None:
    """Milliseconds of the tally, one of four sizes varied at a time; a dashed line grows in proportion."""
    found = families.get("dissect", {}).get("growth")
    if not found:
        return None
    figure, all_axes = _figure(11, 3.2, len(found), sharey=True)
    slowest = max(row["ms"] for rows in found.values() for row in rows)
    fastest = min(row["ms"] for rows in found.values() for row in rows)
    for (what, rows), axes in zip(found.items(), all_axes, strict=True):
        xs, ys = [row[what] for row in rows], [row["ms"] for row in rows]
        axes.plot(xs, ys, marker="o", ms=4)
        axes.plot(xs, [ys[-1] * x / xs[-1] for x in xs], color="grey", ls="--", lw=0.8)
        _log(axes, "x", "y")
        axes.set_xticks(xs[:: math.ceil(len(xs) / 4)])
        axes.set_xlabel({"side": "side of the label maps"}.get(what, what))
        axes.minorticks_off()
    all_axes[0].set_ylim(fastest / 2, slowest * 2)
    all_axes[0].set_ylabel("ms")
    return figure


def rotation(families: dict[str, dict]) -> Figure | None:
    """Unique detectors by the angle that the units are rotated by."""
    rows = families.get("rotation", {}).get("detectors")
    if not rows:
        return None
    limits = [name for name in rows[0] if name.startswith("iou_")]
    figure, all_axes = _figure(8, 3.4, len(limits))
    for limit, axes in zip(limits, all_axes, strict=True):
        for i, layer in enumerate(dict.fromkeys(row["layer"] for row in rows)):
            for seed in sorted({row["seed"] for row in rows}):
                line = [(row["angle"], row[limit][1]) for row in rows if (row["layer"], row["seed"]) == (layer, seed)]
                label = layer if seed == 0 else None
                axes.plot(*zip(*line, strict=True), color=f"C{i}", marker="o", ms=3, lw=1, label=label)
        axes.set_xlabel("rotation (share of the way)")
        axes.set_ylabel(f"unique detectors (IoU > {limit.removeprefix('iou_')})")
        axes.set_ylim(bottom=0)
    all_axes[-1].legend(frameon=False)
    return figure


PICTURES = {"roofline": roofline, "ratios": ratios, "growth": growth, "rotation": rotation}
