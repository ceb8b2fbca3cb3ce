"""What a single pass over the data keeps of it, so that thresholds found at its end can be tallied without another."""

from __future__ import annotations

import os
import tempfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from io import FileIO
from math import log
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from ..ops import PackedCells, pack_cells, unpack_cells
from ..ops._grid import Placement
from .kept_labels import ImageLabels, labels_of_images, packed_labels, stacked

_LENGTH = 8  # bytes of a record's length and of its checksum, each
_AT_ONCE = 8 * 2**20  # bytes of maps unpacked at a time: these stay in the cache
_VALUES_KEPT = 4.5  # for each value above the level: itself and the neighbours that it does not share
_TENSORS = PackedCells._fields[:-1]


class KeptBatch(NamedTuple):
    """A batch: its first image's number, labels, and by layer packed maps and where those lie on the label grid."""

    first: int
    labels: torch.Tensor
    image_labels: torch.Tensor
    cells: dict[str, tuple[PackedCells, Placement]]


class Kept(ABC):
    """Batches that were kept."""

    @abstractmethod
    def _all(self) -> Iterator[dict[str, torch.Tensor]]:
        """Their records, in the order they came in."""

    def replay(self) -> Iterator[KeptBatch]:
        """All batches in the order they came in."""
        for batch in self._all():
            layers = [name.removeprefix("shape/") for name in batch if name.startswith("shape/")]
            cells = {layer: _cells(batch, layer) for layer in layers}
            yield KeptBatch(int(batch["first"]), *stacked(labels_of_images(batch)), cells)

    def labels(self) -> dict[int, ImageLabels]:
        """Those of each image, by its number."""
        of_batches = ((int(batch["first"]), labels_of_images(batch)) for batch in self._all())
        return {first + i: image for first, images in of_batches for i, image in enumerate(images)}


class KeptCells(Kept):
    """The cells that thresholds may still light, and the labels, of every batch of a pass.

    In memory up to `budget` bytes. Beyond, the levels that have risen meanwhile are applied again, and what is left
    goes to the end of a file, as records with a checksum each. `flush` sends everything there, for a checkpoint.

    Args:
        path: the file; what it holds is dropped, unless `resume` is called. None: a temporary one.
        budget: bytes of cells and labels held in memory.
        inclusive: keep for masks that compare with >=.
    """

    def __init__(self, path: Path | None, budget: int, inclusive: bool):
        self.path, self.budget, self.inclusive = path, budget, inclusive
        self._batches: list[dict[str, torch.Tensor]] = []
        self.held = self.spilled = 0  # bytes in memory and in the file
        self._file: FileIO | None = None

    def add(
        self,
        first: int,
        labels: torch.Tensor,
        image_labels: torch.Tensor,
        cells: Mapping[str, tuple[PackedCells, Placement]],
        levels: Mapping[str, torch.Tensor],
    ) -> None:
        """A batch: the number of its first image, labels [B, L, H, W] and [B, S], and by layer its packed maps and
        where they lie on the label grid.

        levels [C], by layer, is what thresholds are at least by now.
        """
        batch = packed_labels(labels, image_labels) | {"first": torch.tensor(first)}
        for layer, (packed, placement) in cells.items():
            batch |= {f"{name}/{layer}": getattr(packed, name).cpu() for name in _TENSORS}
            batch[f"shape/{layer}"] = torch.tensor(packed.shape)
            batch[f"placement/{layer}"] = torch.tensor(placement, dtype=torch.float64)
        self._batches.append(batch)
        self.held += _bytes(batch)
        if self.held > self.budget:
            self.flush(levels)

    def flush(self, levels: Mapping[str, torch.Tensor]) -> int:
        """Send to the file what may still matter above the levels; returns how many bytes the file has then.

        OSError where it can not be written, naming the file; nothing is lost then.
        """
        while self._batches:
            record = _framed(save(_above(self._batches[0], levels, self.inclusive)))
            try:
                _write(self._opened(), record)
            except OSError as error:
                if self._file:
                    self._file.truncate(self.spilled)
                    self._file.seek(self.spilled)
                where = self.path or f"a temporary file in {tempfile.gettempdir()}"
                raise OSError(
                    error.errno, f"the cells of a single pass can not be written to {where}: {error.strerror}; make "
                    "room there, or run with passes=2, which keeps none"
                ) from None  # fmt: skip
            self.spilled += len(record)
            self.held -= _bytes(self._batches.pop(0))
        return self.spilled

    def _opened(self) -> FileIO:
        if self._file is None:
            if self.path:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            new = self.path.open if self.path else tempfile.TemporaryFile
            self._file = new("w+b", buffering=0)  # what can not be written would stay in a buffer
        return self._file

    def sync(self) -> None:
        """Have the system write the file to the disk."""
        if self._file:
            os.fsync(self._file.fileno())

    def resume(self, length: int) -> None:
        """Go on with the first `length` bytes of the file, whole records by `check`."""
        self._file = self.path.open("r+b", buffering=0)
        self._file.truncate(length)
        self._file.seek(length)
        self.spilled = length

    @staticmethod
    def check(path: Path, length: int) -> None:
        """ValueError or OSError unless the file begins with undamaged records of this length in all."""
        for _ in KeptFiles({path: length})._all():
            pass

    def _all(self) -> Iterator[dict[str, torch.Tensor]]:
        if self._file:
            self._file.seek(0)
            yield from _records(self._file, self.spilled, self.path)
        yield from self._batches

    def close(self) -> None:
        if self._file:
            self._file.close()


class KeptFiles(Kept):
    """What several `KeptCells` have sent to their files, one after another; these are only read.

    Args:
        lengths: of each file the bytes that count; where there are none it need not exist. ValueError, naming the file,
            for one that is missing or shorter, and when it is read and damaged.
    """

    def __init__(self, lengths: Mapping[Path, int]):
        self._lengths = {path: length for path, length in lengths.items() if length}
        for path, length in self._lengths.items():
            found = path.stat().st_size if path.is_file() else 0
            if found < length:
                raise ValueError(f"{path}, the cells of a single pass, has {found} bytes; it must have {length}")

    def _all(self) -> Iterator[dict[str, torch.Tensor]]:
        for path, length in self._lengths.items():
            with path.open("rb", buffering=0) as file:
                yield from _records(file, length, path)


def estimated_bytes(shape: tuple[int, int, int], n_images: int, quantile: float) -> int:
    """About what is kept of maps [C, h, w] in all: in a random order q (1 + log 1 / q) of the values are above the
    bound as it stands when they come."""
    c, h, w = shape
    kept = _VALUES_KEPT * quantile * (1 + log(1 / quantile)) if quantile else 0
    return int(n_images * c * h * w * (4 * min(1, kept) + 1 / 8))


def _above(batch: dict[str, torch.Tensor], levels: Mapping[str, torch.Tensor], inclusive: bool) -> dict:
    """The batch without what lies below the levels."""
    batch = dict(batch)
    for layer, level in levels.items():
        packed, _ = _cells(batch, layer)
        parts = []
        for images, maps in unpacked_in_parts(packed, torch.device("cpu")):
            part = pack_cells(maps, level.cpu(), inclusive=inclusive)
            parts.append(part._replace(planes=part.planes + images.start * packed.shape[1]))
        for name in _TENSORS:
            batch[f"{name}/{layer}"] = torch.cat([getattr(part, name) for part in parts])
    return batch


def _cells(batch: Mapping[str, torch.Tensor], layer: str) -> tuple[PackedCells, Placement]:
    parts = (batch[f"{name}/{layer}"] for name in _TENSORS)
    packed = PackedCells(*parts, tuple(batch[f"shape/{layer}"].tolist()))
    return packed, Placement(*batch[f"placement/{layer}"].tolist())


def unpacked_in_parts(packed: PackedCells, device: torch.device) -> Iterator[tuple[slice, torch.Tensor]]:
    """The maps of a few images at a time, on a device, and which images those are."""
    n_images, c, h, w = packed.shape
    step = max(1, _AT_ONCE // max(1, 4 * c * h * w))
    for first in range(0, n_images, step):
        images = slice(first, min(first + step, n_images))
        part = _of_images(packed, images)
        yield images, unpack_cells(part._replace(**{name: getattr(part, name).to(device) for name in _TENSORS}))


def _of_images(packed: PackedCells, images: slice) -> PackedCells:
    """The part of some of a batch's images."""
    _, n_units, h, w = packed.shape
    begin, end = images.start, images.stop
    bounds = torch.tensor([begin * n_units, end * n_units], dtype=torch.int32)
    first, last = torch.searchsorted(packed.planes, bounds).tolist()
    skipped, taken = int(packed.counts[:first].sum()), int(packed.counts[first:last].sum())
    return PackedCells(
        packed.planes[first:last] - begin * n_units,
        packed.counts[first:last],
        packed.bits[first:last],
        packed.values[skipped : skipped + taken],
        (end - begin, n_units, h, w),
    )


def _bytes(batch: Mapping[str, torch.Tensor]) -> int:
    return sum(part.nbytes for part in batch.values())


def _framed(record: bytes) -> bytes:
    return len(record).to_bytes(_LENGTH, "little") + zlib.crc32(record).to_bytes(_LENGTH, "little") + record


def _write(file: FileIO, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _read(file: FileIO, size: int) -> bytes:
    """So many bytes, or fewer at the end of the file."""
    parts = []
    while size and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _records(file: FileIO, length: int, path: Path | None) -> Iterator[dict[str, torch.Tensor]]:
    """The records in the first `length` bytes; ValueError for a damaged one."""
    position = 0
    while position < length:
        size, checksum = (int.from_bytes(_read(file, _LENGTH), "little") for _ in range(2))
        position += 2 * _LENGTH + size
        record = _read(file, size) if position <= length else b""
        if len(record) != size or zlib.crc32(record) != checksum:
            raise ValueError(f"{path or 'a temporary file'}, the cells of a single pass, is damaged")
        try:
            yield load(record)
        except SafetensorError as error:
            raise ValueError(f"{path or 'a temporary file'} is damaged: {error}") from None
