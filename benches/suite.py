"""Runs families of benchmarks: `python -m benches [family ...]`, and each family's own module."""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from . import results, tables
from .family import PEERS, Part, Setting, measured_ceilings, peer_version
from .timing import warn_of_load

FAMILIES = ("dissect", "thresholds", "relevance", "paths", "scale", "rotation", "endtoend")
PRODUCT_SIDE = {"cpu": 2048, "cuda": 8192}


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = _parser()
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here")
    families = {name: importlib.import_module(f"benches.{name}").PARTS for name in options.families or FAMILIES}
    known = sorted({part for parts in families.values() for part in parts})
    for part in options.only or known:
        if part not in known:
            parser.error(f"--only {part}: the parts are {', '.join(known)}")
    start = time.perf_counter()
    setting = _begun(device, options.quick)
    path = options.json or results.RESULTS / ("quick" if options.quick else "") / f"{results.slug(device)}.json"
    about = {
        "command": shlex.join(["python", "-m", "benches", *arguments]),
        "environment": results.environment(device),
        "load_before": warn_of_load(),
        "ceilings": setting.ceilings._asdict(),
    }
    measured, left_out = {}, []
    for family, parts in families.items():
        figures = measure(family, _chosen(parts, options.only), setting, left_out)
        if figures:
            measured[family] = figures
            results.replace_family(path, device, family, about, figures, keep=bool(options.only))
    _tell(measured, left_out)
    if measured:
        _draw(path)
        print(f"written to {path}; {time.perf_counter() - start:.0f} s in all")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benches", description="Benchmarks of netinterp_fast, by family; without a name all of them."
    )
    add = parser.add_argument
    add("families", nargs="*", type=_family, metavar="family", help=", ".join(FAMILIES))
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--quick", action="store_true", help="small sizes, few repeats; what takes long is left out")
    add("--only", nargs="+", metavar="PART", help="measure these parts again and keep the file's other figures")
    add(
        "--json", type=Path, metavar="FILE", help="where the figures go, the plots beside it (default: benches/results)"
    )
    return parser


def _family(name: str) -> str:
    if name not in FAMILIES:
        raise argparse.ArgumentTypeError(f"{name!r} is none of the families {', '.join(FAMILIES)}")
    return name


def _begun(device: torch.device, quick: bool) -> Setting:
    warnings.filterwarnings("ignore", message="Input Tensor 0 did not already require gradients")
    torch.manual_seed(0)
    print(", ".join(f"{key} {value}" for key, value in results.environment(device).items()))
    ceilings = measured_ceilings(device, PRODUCT_SIDE[device.type])
    print(
        f"{results.device_name(device)}: copies {ceilings.bytes_per_second / 1e9:.1f} GB/s, read and written; "
        f"float32 matrix product {ceilings.operations_per_second / 1e9:.0f} GFLOP/s",
        flush=True,
    )
    return Setting(device, quick, ceilings)


def _chosen(parts: dict[str, Part], only: list[str] | None) -> dict[str, Part]:
    return {name: part for name, part in parts.items() if only is None or name in only}


def measure(family: str, parts: dict[str, Part], setting: Setting, left_out: list[str]) -> dict:
    """The figures of a family's parts; adds to `left_out` what is left out and why."""
    figures = {}
    for name, part in parts.items():
        why = part.why_not(setting)
        if why:
            left_out.append(f"{family}, {name}: {why}")
            continue
        print(f"\n{family}, {name}", flush=True)
        start = time.perf_counter()
        figures[name] = part.measure(setting)
        print(f"({time.perf_counter() - start:.0f} s)", flush=True)
    return figures


def _tell(measured: dict[str, dict], left_out: list[str]) -> None:
    kernels = [row for figures in measured.values() for row in figures.get("kernels", [])]
    methods = [row for figures in measured.values() for row in figures.get("speed", [])]
    if kernels:
        print(f"\nKernels\n\n{tables.of_kernels(kernels)}")
        print(
            "\nMB: the least that must move. of copy: of the speed of large copies, which took turns with the kernel."
        )
        print("of peak: of a float32 matrix product. reference, plain torch: times faster than those.")
    if methods:
        print(f"\nMethods\n\n{tables.of_methods(methods)}")
        print("\nFB: a forward pass and the gradient of the chosen outputs, same model and batch.")
        missing = [peer for peer in PEERS if peer_version(peer) is None]
        if missing:
            print(f"Without {' and '.join(missing)}, not installed.")
    print("".join(f"\nleft out: {what}" for what in left_out))


def _draw(path: Path) -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        print('no plots: they need matplotlib (pip install "netinterp_fast[plot]")')
        return
    from . import plots

    for picture in plots.draw(results.load(path)["families"], path):
        print(f"drawn: {picture}")
