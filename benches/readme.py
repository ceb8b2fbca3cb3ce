"""Fills in README's tables of figures from the results file: `python -m benches.readme`.

A table stands between `<!-- figures: NAME -->` and `<!-- end of figures -->`; what is between them is written anew.
"""

from __future__ import annotations

import re
from pathlib import Path

from .dissect import SIZES
from .paths import AIMS as PATH_AIMS
from .paths import BATCHES
from .relevance import medians
from .results import RESULTS, load
from .scale import BUDGETS

README = Path(__file__).parents[1] / "README.md"
SOURCE = RESULTS / "cpu-amd-epyc-avx512.json"
NETWORKS = {
    "ResNet18": "ResNet-18",
    "SqueezeNet": "SqueezeNet 1.1",
    "SmallViT": "a small vision transformer",
    "VGG16": "VGG-16",
}
SCALE_JOBS = {
    "SqueezeNet, features.12": "SqueezeNet 1.1, features.12",
    "ResNet-18, layer1 to layer4": "ResNet-18 (random weights), layer1 to layer4",
    "SqueezeNet, all 8 Fires": "SqueezeNet 1.1, all eight Fire outputs",
}
_BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(\n<!-- end of figures -->)", re.DOTALL)


def dissect(figures: dict) -> str:
    rows = [row for row in figures["kernels"] if row["op"] == "unit_concept_overlap"]
    tallies = {(row["units"], row["coarse"], row["side"]): row for row in rows}
    lines = []
    for (units, coarse, side), aim in SIZES.items():
        row = tallies[units, coarse, side]
        lines.append([
            f"{units} units, {coarse}x{coarse} to {side}x{side}", f"{row['ms'] / row['images']:.2f} ms",
            f"{row['times_best_plain']:.0f}x", f"{row['times_reference']:.0f}x", f"{aim}x",
        ])  # fmt: skip
    return table(["size", "an image", "plain torch", "reference", "aim"], lines)


def relevance(figures: dict) -> str:
    lines = []
    for composite, found in medians(figures["speed"]).items():
        times, aim = found["times_zennit"], found["times_zennit_asked"]
        range_ = " ({:.1f}x to {:.1f}x)".format(*found["times_zennit_range"]) if round(times, 1) < aim else ""
        lines.append([
            f"`{composite}`", f"{found['FB']:.2f} FB", f"{found['FB_asked']:g}", f"{times:.1f}x{range_}", f"{aim:g}x",
        ])  # fmt: skip
    return table(["composite", "cost", "aim", "faster than Zennit", "aim"], lines)


def paths(figures: dict) -> str:
    times = {(row["network"], row["batch"]): row["times_faster_than"]["Captum"] for row in figures["speed"]}
    sizes = sorted({size for batches in BATCHES.values() for size in batches})
    lines = [
        [NETWORKS[name], *(f"{times[name, n]:.2f}x" if n in BATCHES[name] else "" for n in sizes), f"{aim:g}x"]
        for name, aim in PATH_AIMS.items()
    ]
    return table(["network", *(f"batch {size}" for size in sizes), "aim"], lines)


def scale(figures: dict) -> str:
    lines = []
    for job in SCALE_JOBS:
        found = figures["single_pass"][job]
        roomy, tight = (found["memory"][budget] for budget in BUDGETS)
        more, less = (of["peak_mb"] - found["bare_peak_mb"] for of in (roomy, tight))
        memory = f"{more:.0f} MB"
        if less < more / 2:  # worth a mention
            in_file = tight["bytes_in_file"] / 1e6
            memory += f'; {less:.0f} MB with `memory_budget="{BUDGETS[1]}"`, {in_file:.0f} MB in a file'
        lines.append([SCALE_JOBS[job], f"{found['times_bare_pass']:.2f}x", f"{found['aim']:g}x", memory])
    return table(["single pass over 591 photos", "against one bare forward pass", "aim", "more memory"], lines)


TABLES = {"dissect": dissect, "scale": scale, "relevance": relevance, "paths": paths}


def table(header: list[str], lines: list[list[str]]) -> str:
    return "\n".join(["| " + " | ".join(header) + " |", "|" + "---|" * len(header),
                      *("| " + " | ".join(line) + " |" for line in lines)])  # fmt: skip


def filled(text: str, families: dict[str, dict]) -> str:
    """README's text with every table written from the figures; ValueError for a name without one."""

    def written(block: re.Match) -> str:
        opening, name, end = block.groups()
        if name not in TABLES:
            raise ValueError(f"README.md asks for figures {name!r}; there are {', '.join(TABLES)}")
        return opening + TABLES[name](families[name]) + end

    return _BLOCK.sub(written, text)


def main() -> None:
    README.write_text(filled(README.read_text(encoding="utf-8"), load(SOURCE)["families"]), encoding="utf-8")
    print(f"written to {README} from {SOURCE}")


if __name__ == "__main__":
    main()
