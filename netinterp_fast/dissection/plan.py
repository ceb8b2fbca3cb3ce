"""How many passes over the data a dissection makes: one, where there is room for what it keeps."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

from .kept import estimated_bytes
from .passes import Setup


class Room(NamedTuple):
    """Where a single pass keeps what it must: up to `memory` bytes in memory, the rest in files of `folder`, or with
    the temporary files where that is None."""

    memory: int
    folder: Path | None

    def cells(self, rank: int) -> Path | None:
        """The file of one of the processes that share the work."""
        return self.folder and self.folder / f"rank-{rank}.cells"

    def free(self) -> int:
        """Bytes that may be filled: the memory, and half of what is free on the disk."""
        existing = (self.folder or Path(tempfile.gettempdir())).absolute()
        while not existing.exists():
            existing = existing.parent
        return self.memory + shutil.disk_usage(existing).free // 2


def planned_passes(setup: Setup, room: Room, asked: int | str) -> tuple[int, str]:
    """1 or 2, and a line that says why; `asked` is 1 or "auto"."""
    needed, free = _estimate(setup), room.free()
    where = room.folder or tempfile.gettempdir()
    if asked == "auto" and needed > free:
        return 2, f"two passes: a single one would keep about {_size(needed)}, and there is room for {_size(free)}"
    line = f"single pass: about {_size(needed)} to keep"
    if needed > room.memory:
        line += f", {_size(room.memory)} in memory and the rest in {where}"
    return 1, line


def _estimate(setup: Setup) -> int:
    """Bytes that a single pass will keep of all layers' maps, from the shapes that one image gives."""
    image, labels, _ = setup.dataset[0]
    size = (setup.convention.mask_size,) * 2 if setup.convention.mask_size else tuple(torch.as_tensor(labels).shape[1:])
    total = 0

    def see(layer: str, acts: torch.Tensor) -> None:
        nonlocal total
        maps, _ = setup.placed(layer, acts, size)
        quantile = float(setup.recording.probes[layer].exact_quantile)
        total += estimated_bytes(tuple(maps.shape[1:]), len(setup.dataset), quantile)

    setup.recording.run(torch.as_tensor(image)[None].to(setup.device), see)
    return total


def _size(n_bytes: int) -> str:
    for unit in ("B", "KB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} GB"
