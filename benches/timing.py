"""Honest timing: interleaved runs in one process, medians with their spread, and where the figures come from."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import netinterp_fast

RESULTS = Path(__file__).parent / "results"


def interleaved(candidates: dict[str, Callable[[], object]], repeats: int, turn: float = 0.1) -> dict[str, list[float]]:
    """Seconds a run of every candidate, `repeats` times: they take turns, each running for at least `turn` seconds,
    of which the mean is taken. So all see the same noise, and each works with the caches as its own last run left them.
    """
    for run in candidates.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, run in candidates.items():
            start, runs, elapsed = time.perf_counter(), 0, 0.0
            while elapsed < turn:
                run()
                runs += 1
                elapsed = time.perf_counter() - start
            seconds[name].append(elapsed / runs)
    return seconds


def spread(seconds: list[float]) -> dict[str, float]:
    """Minimum, median and maximum, in seconds."""
    return {"min": min(seconds), "median": statistics.median(seconds), "max": max(seconds)}


def ratio(slow: list[float], fast: list[float]) -> float:
    """The median of the ratios of neighbouring runs: what the machine did to one of a pair it did to the other."""
    return statistics.median(s / f for s, f in zip(slow, fast, strict=True))


def own_peak_mb() -> float:
    """MB that this process has held at most. Not `ru_maxrss`, which starts from the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def warn_of_load() -> float:
    """Processes running before this one starts; others make the threads of a layer wait for each other, not work."""
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"other processes are running (load {load:.1f}): do not trust times or ratios", flush=True)
    return load


def seconds_of(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def printed_by(module: str, *arguments: object, returning_memory: bool = True) -> str:
    """The last word that a module prints, run in a process of its own; with `returning_memory` freed memory goes back
    to the system at once (which takes time): what is kept for later would count by chance."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = os.environ | ({"MALLOC_MMAP_THRESHOLD_": "65536"} if returning_memory else {})
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()[-1]


def peak_starts_anew() -> None:
    """From now on `own_peak_mb` counts from what is in use now."""
    Path("/proc/self/clear_refs").write_text("5")


def environment() -> dict:
    """What the figures were measured on."""
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "cpu_level": netinterp_fast.build_info()["cpu_level"],
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "netinterp_fast": netinterp_fast.__version__,
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def save(name: str, figures: dict) -> Path:
    """Write figures, with their environment, to benches/results/<name>.json; return the path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"environment": environment()} | figures, indent=1) + "\n", encoding="utf-8")
    return path
