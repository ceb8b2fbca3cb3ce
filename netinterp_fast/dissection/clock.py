"""Where the time of a run goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_WORK = {
    "decode": "waiting for images and labels",
    "forward": "the forward pass",
    "tally": "thresholds and tallies",
    "chance": "shuffled labels and samples of the images",
    "checkpoints": "writing checkpoints",
}


_OPEN = 1024  # stretches of time on a GPU that are noted before those that are over are added up


class Clock:
    """Seconds spent on each kind of work; inside another kind, time counts for the inner one.

    On CUDA these are seconds of the device's current stream, which waits while the host decodes or decides; it is not
    stopped to measure them.
    """

    def __init__(self, device: torch.device):
        self._on_gpu = device.type == "cuda"
        self._seconds = dict.fromkeys(_WORK, 0.0)
        self._stretches: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._now_at: str | None = None
        self._since: float | torch.cuda.Event = 0.0

    @contextmanager
    def time(self, work: str) -> Iterator[None]:
        """The block is this kind of work: one of the above."""
        outer = self._now_at
        self._turn_to(work)
        try:
            yield
        finally:
            self._turn_to(outer)

    def _turn_to(self, work: str | None) -> None:
        now = _event() if self._on_gpu else time.perf_counter()
        if self._now_at and self._on_gpu:
            self._stretches.append((self._now_at, self._since, now))
            if len(self._stretches) >= _OPEN:
                self._add_up()
        elif self._now_at:
            self._seconds[self._now_at] += now - self._since
        self._now_at, self._since = work, now

    def _add_up(self) -> None:
        for work, begin, end in self._stretches:
            end.synchronize()
            self._seconds[work] += begin.elapsed_time(end) / 1000
        self._stretches.clear()

    def seconds(self) -> dict[str, float]:
        """By kind of work."""
        self._add_up()
        return dict(self._seconds)

    def shares(self) -> dict[str, float]:
        """The fraction of the time that each kind of work took."""
        seconds = self.seconds()
        total = sum(seconds.values()) or 1.0
        return {work: round(of_work / total, 3) for work, of_work in seconds.items()}

    def settings(self, start: float) -> dict[str, str | float | dict]:
        """What a result notes of a run that began at this time (as `time.time` gives it) and ends now."""
        return {
            "finished": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            "seconds": round(time.time() - start, 3),
            "shares": self.shares(),
        }

    def summary(self, n_images: int) -> str:
        """One line: images a second, what bounded the run, and the shares."""
        shares, total = self.shares(), sum(self.seconds().values())
        most = max(shares, key=shares.get)
        listed = ", ".join(f"{work} {100 * share:.0f} %" for work, share in shares.items() if share)
        return f"{n_images / max(total, 1e-9):.1f} images/s, bounded by {_WORK[most]} ({listed})"


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
