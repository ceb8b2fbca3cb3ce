"""Runs that are stopped on the way, in this process or in others, and what they leave in their folder."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import socket
import sys
import time
import traceback
from pathlib import Path

import torch
from tiny import TinyDataset, tiny_model

from netinterp_fast import dissect
from netinterp_fast.dissection.run_folder import UNFINISHED

N_IMAGES, BATCH_SIZE = 22, 4
N_BATCHES = 6  # in each of the two passes
RESULTS = {"dissection.json", "dissection.safetensors", "tables", "unique_detectors.csv", "report"}

_processes = multiprocessing.get_context("forkserver")  # a fork of this process would inherit torch's threads
_processes.set_forkserver_preload(["netinterp_fast", "torch.distributed"])


class Stopped(Exception):
    """Ends a run from inside."""


class Stopping(torch.nn.Module):
    """The tiny model, which counts its batches and raises `Stopped` before the one of a given number."""

    def __init__(self, stop_at: int | None = None):
        super().__init__()
        self.inner, self.stop_at, self.calls = tiny_model(), stop_at, 0

    def forward(self, x):
        if self.calls == self.stop_at:
            raise Stopped
        self.calls += 1
        return self.inner(x)


def run(out: Path | None, model: torch.nn.Module | None = None, dataset: TinyDataset | None = None, **changes):
    settings = {"quantile": 0.1, "progress": False, "batch_size": BATCH_SIZE, "checkpoint_every": 0, "passes": 2}
    settings |= changes
    layers = settings.pop("layers", ["inner.relu", "inner.flat"])
    return dissect(model or Stopping(), dataset or TinyDataset(N_IMAGES), layers, out=out, **settings)


def run_until(out: Path, batches: int, **changes) -> None:
    """A run that stops after so many batches of both passes."""
    try:
        run(out, Stopping(batches), **changes)
    except Stopped:
        return
    raise AssertionError("the run was not stopped")


def checkpoints(out: Path) -> list[Path]:
    """Oldest first."""
    return sorted((out / UNFINISHED).glob("*.safetensors"))


def contents(out: Path) -> dict[Path, bytes]:
    """The files of a finished run, but for the times in them."""
    assert {path.name for path in out.iterdir()} == RESULTS
    files = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    manifest = json.loads(files[Path("dissection.json")])
    del manifest["settings"]["time"]
    files[Path("dissection.json")] = json.dumps(manifest).encode()
    index = Path("report/index.html")
    files[index] = re.sub(rb"at \d{4}-\d\d-\d\d [^<]*", b"", files[index])
    return files


class SlowDataset(TinyDataset):
    """Gives others the time to interfere."""

    def __getitem__(self, index):
        time.sleep(0.004)
        return super().__getitem__(index)


def start(
    out: Path, ranks: int = 1, *, heavier_rank: int | None = None, broken_image: int | None = None, **changes
) -> list:
    """The processes of a run, started as `torchrun` does; an error's text goes to `rank-R.error` beside `out`.

    `model` takes the place of `Stopping()`. The model of `heavier_rank` has other weights than those of the others;
    `broken_image` is not a number.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launched = {"WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = []
    for rank in range(ranks):
        environment = {key: str(value) for key, value in (launched | {"RANK": rank, "LOCAL_RANK": rank}).items()}
        arguments = (out, environment, rank == heavier_rank, broken_image, changes)
        processes.append(_processes.Process(target=_work, args=arguments, daemon=True))
        processes[-1].start()
    return processes


def _work(out: Path, environment: dict[str, str], heavier: bool, broken_image: int | None, changes: dict) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    model, dataset = changes.pop("model", None) or Stopping(), SlowDataset(N_IMAGES)
    if broken_image is not None:
        dataset.images[broken_image] = float("nan")
    if heavier:
        with torch.no_grad():
            model.inner.head.bias += 1
    try:
        run(out, model, dataset, **changes)
    except Exception as error:
        traceback.print_exc()
        (out.parent / f"rank-{environment['RANK']}.error").write_text(str(error))
        sys.exit(1)


def finish(processes: list) -> list[int]:
    """Wait for the processes and return their exit codes."""
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def kill(processes: list) -> None:
    """SIGKILL to all."""
    for process in processes:
        process.kill()
    finish(processes)


def wait_for_checkpoint(out: Path, process, number: int, batches: int, rank: int = 0) -> bool:
    """Wait until a rank has come so far in that pass; False if its process has ended before."""
    wanted = f"rank-{rank}-pass-{number}-{batches:09}.safetensors"
    while not any(path.name >= wanted for path in (out / UNFINISHED).glob(f"rank-{rank}-pass-*.safetensors")):
        if not process.is_alive():
            return False
        time.sleep(0.0005)
    return True


def kill_at_two_moments(out: Path, seed: int, last_pass: int = 2, **changes) -> None:
    """Kill a run at two random moments, the second time after it has gone on."""
    moments = random.Random(seed)
    for number, batches in sorted((moments.randint(1, last_pass), moments.randint(1, N_BATCHES)) for _ in range(2)):
        processes = start(out, **changes)
        if wait_for_checkpoint(out, processes[0], number, batches):
            time.sleep(moments.uniform(0, 0.03))
        kill(processes)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    """One bit, of the last value."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
