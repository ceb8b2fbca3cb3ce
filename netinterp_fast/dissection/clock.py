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
    "checkpoints": "writing checkpoints",
}


class Clock:
    """Seconds spent on each kind of work; inside another kind, time counts for the inner one."""

    def __init__(self, device: torch.device):
        self._device = device
        self.seconds = dict.fromkeys(_WORK, 0.0)
        self._now_at: str | None = None
        self._since = 0.0

    @contextmanager
    def time(self, work: str) -> Iterator[None]:
        """The block is this kind of work: "decode", "forward", "tally" or "checkpoints"."""
        outer = self._now_at
        self._turn_to(work)
        try:
            yield
        finally:
            self._turn_to(outer)

    def _turn_to(self, work: str | None) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if self._now_at:
            self.seconds[self._now_at] += now - self._since
        self._now_at, self._since = work, now

    def shares(self) -> dict[str, float]:
        """The fraction of the time that each kind of work took."""
        total = sum(self.seconds.values()) or 1.0
        return {work: round(seconds / total, 3) for work, seconds in self.seconds.items()}

    def settings(self, start: float) -> dict[str, str | float | dict]:
        """What a result notes of a run that began at this time (as `time.time` gives it) and ends now."""
        return {
            "finished": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            "seconds": round(time.time() - start, 3),
            "shares": self.shares(),
        }

    def summary(self, n_images: int) -> str:
        """One line: images a second, what bounded the run, and the shares."""
        shares, total = self.shares(), sum(self.seconds.values())
        most = max(shares, key=shares.get)
        listed = ", ".join(f"{work} {100 * share:.0f} %" for work, share in shares.items() if share)
        return f"{n_images / max(total, 1e-9):.1f} images/s, bounded by {_WORK[most]} ({listed})"
