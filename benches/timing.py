"""Honest timing: interleaved runs in one process, cold caches, medians with their spread, peak memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

CPU = torch.device("cpu")


def seconds_of(run: Callable[[], object], device: torch.device = CPU) -> float:
    """By the host's clock; on CUDA by events, from when the device begins with it until it is done."""
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000


def interleaved(
    candidates: dict[str, Callable[[], object]], repeats: int, turn: float = 0.1, device: torch.device = CPU
) -> dict[str, list[float]]:
    """Seconds a run of every candidate, `repeats` times: they take turns, each running for at least `turn` seconds,
    of which the mean is taken. So all see the same noise, and each works with the caches as its own last run left them.
    The first run of each is not counted.
    """
    for run in candidates.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, run in candidates.items():
            seconds[name].append(_turn(run, turn, device))
    return seconds


def _turn(run: Callable[[], object], least: float, device: torch.device) -> float:
    """The mean of a turn. Runs are queued 1, 2, 4, ... at a time, so that reading the clock costs nothing."""
    elapsed, runs, at_once = 0.0, 0, 1

    def several() -> None:
        for _ in range(at_once):
            run()

    while not runs or elapsed < least:
        elapsed += seconds_of(several, device)
        runs, at_once = runs + at_once, 2 * at_once
    return elapsed / runs


class Rotating:
    """Copies of tensors, at least two and of more than `beyond` bytes in all. What `calling` makes of a function gets
    the next copy with every call, so that the caches have lost it by the time it comes again. Results are kept until
    the later ones are of as many bytes, so that new ones go to memory that is as cold.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], beyond: int):
        n_copies = max(2, beyond // max(1, _bytes_of(tensors)) + 1)
        self.copies = [tuple(tensors), *(tuple(t.clone() for t in tensors) for _ in range(n_copies - 1))]
        self._beyond = beyond

    def calling(self, function: Callable, part: Callable = lambda tensors: tensors) -> Callable[[], object]:
        """Call `function` with what `part` takes of a copy; the next one with every call."""
        place, results = 0, deque(maxlen=len(self.copies))

        def call() -> object:
            nonlocal place
            result = function(*part(self.copies[place]))
            place = (place + 1) % len(self.copies)
            results.append(result)
            while len(results) > 1 and _bytes_of(list(results)[1:]) > self._beyond:
                results.popleft()
            return result

        return call


def _bytes_of(value: object) -> int:
    """Of a tensor, or of all tensors in a sequence."""
    if isinstance(value, (list, tuple)):
        return sum(map(_bytes_of, value))
    return value.nbytes if isinstance(value, torch.Tensor) else 0


def cache_bytes(device: torch.device) -> int:
    """The size of the last cache before memory; 64 MiB where it is not known."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if size[-1] in units), default=64 * 2**20)


def spread(seconds: list[float]) -> dict[str, float]:
    """Minimum, median and maximum, in seconds."""
    return {"min": min(seconds), "median": statistics.median(seconds), "max": max(seconds)}


def ratio(slow: list[float], fast: list[float]) -> float:
    """The median of the ratios of neighbouring runs: what the machine did to one of a pair it did to the other."""
    return statistics.median(s / f for s, f in zip(slow, fast, strict=True))


def warn_of_load() -> float:
    """Processes running before this one starts; others make the threads of a layer wait for each other, not work."""
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"other processes are running (load {load:.1f}): do not trust times or ratios", flush=True)
    return load


def own_peak_mb() -> float:
    """MB that this process has held at most. Not `ru_maxrss`, which starts from the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def peak_starts_anew() -> None:
    """From now on `own_peak_mb` counts from what is in use now."""
    Path("/proc/self/clear_refs").write_text("5")


def printed_by(module: str, *arguments: object, returning_memory: bool = True) -> str:
    """The last word that a module prints, run in a process of its own; with `returning_memory` freed memory goes back
    to the system at once (which takes time): what is kept for later would count by chance."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = os.environ | ({"MALLOC_MMAP_THRESHOLD_": "65536"} if returning_memory else {})
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()[-1]
