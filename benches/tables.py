"""What was measured, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .family import PEERS, peer_version


def aligned(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as they need; the first two to the left, the others, numbers, to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = ["<" if i < 2 else ">" for i in range(len(widths))]
    texts = [
        "  ".join(f"{text:{side}{width}}" for text, side, width in zip(line, sides, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([texts[0], "  ".join("-" * width for width in widths), *texts[1:]])


def of_kernels(rows: list[dict]) -> str:
    """Bytes are the least that must move; `of copy` and `of peak` are shares of what the device was found to do."""
    header = ["op", "size", "ms", "spread", "MB", "GB/s", "of copy", "GFLOP/s", "of peak", "reference", "plain torch"]
    return aligned(header, map(_kernel_line, rows))


def _kernel_line(row: dict) -> list[str]:
    least, most = row["ms_spread"]
    computes = row["operations"] > 0
    return [
        row["op"] if row["native"] else f"{row['op']} (reference)",
        row["size"],
        f"{row['ms']:.3g}",
        f"{least:.3g}-{most:.3g}",
        f"{row['bytes'] / 1e6:.3g}",
        f"{row['gb_per_second']:.1f}",
        f"{row['of_copy']:.2f}",
        f"{row['gflop_per_second']:.1f}" if computes else "",
        f"{row['of_peak']:.2f}" if computes else "",
        f"{row['times_reference']:.1f}x",
        f"{row['times_best_plain']:.1f}x" if row["best_plain"] else "",
    ]


def of_methods(rows: list[dict]) -> str:
    """FB multiples, and how many times faster than each peer."""
    versions = {name: peer_version(name) for name in PEERS}
    peers = {name: f"x {name} {version}" for name, version in versions.items() if version}
    header = ["method", "network", "side", "batch", "FB", *(f"{name}: FB" for name in peers), *peers.values()]
    return aligned(header, (_method_line(row, list(peers)) for row in rows))


def _method_line(row: dict, peers: list[str]) -> list[str]:
    def by_peer(numbers: dict[str, float], form: str) -> list[str]:
        lower = {name.lower(): value for name, value in numbers.items()}
        return [format(lower[peer], form) if peer in lower else "" for peer in peers]

    multiples, times = row["FB_multiples"], row["times_faster_than"]
    return [
        row["method"], row["network"], str(row["side"]), str(row["batch"]), f"{multiples['ours']:.2f}",
        *by_peer(multiples, ".2f"), *by_peer(times, ".2f"),
    ]  # fmt: skip
