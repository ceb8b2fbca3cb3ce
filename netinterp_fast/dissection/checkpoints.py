"""The state of a running dissection on disk, from which a killed run goes on."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .._folders import flush
from .run_folder import differences, hash_tensor

_KEPT = 2  # the newest checkpoint, and the one before it should that be damaged
State = Mapping[str, torch.Tensor]


class Saved(NamedTuple):
    """How far one rank has come: pass 1 or 2, its batches done in that pass, and by section what they gave."""

    number: int = 1
    batches: int = 0
    sections: Mapping[str, State] = {}


class Checkpoints:
    """Writes and reads one rank's checkpoints: safetensors files `rank-R-pass-P-BATCHES.safetensors`.

    Args:
        folder: where they are; made when the first is written.
        identity: what run this is, as JSON values. Checkpoints of another are refused.
        every: seconds between two checkpoints, up to ten times as long where writing one takes more than a tenth of it;
            0 writes one after every batch.
        rank: whose part of the run it is.
    """

    def __init__(self, folder: Path, identity: dict, every: float, rank: int = 0):
        self.folder, self.every, self.rank = folder, every, rank
        self._identity = json.loads(json.dumps(identity))
        self._due = time.monotonic() + every

    def load(self, resume: bool = True, check: Callable[[Saved], None] = lambda saved: None) -> Saved:
        """The state of the newest undamaged checkpoint, or that of a run which has not begun. `check` raises ValueError
        or OSError for one whose files beside it are damaged.

        A damaged checkpoint is removed, with a warning. With `resume` False all are removed. FileExistsError where a
        checkpoint, of any rank, belongs to another run, naming what differs; PermissionError for one that may not be
        read.
        """
        for path in sorted(self.folder.glob("rank-*.safetensors")):
            if not os.access(path, os.R_OK):
                raise PermissionError(f"{path}, a checkpoint of a run, may not be read; make it readable or delete it")
            self._check_identity(path)
        paths = self._newest_first()
        for path in paths if resume else []:
            try:
                saved = _read(path)
                check(saved)
                return saved
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                then = "starting again" if path == paths[-1] else "going on from the checkpoint before it"
                warnings.warn(f"the checkpoint {path} is damaged ({error}); {then}", RuntimeWarning, stacklevel=2)
                path.unlink(missing_ok=True)
        for path in self._newest_first():
            path.unlink()
        return Saved()

    def offer(self, number: int, batches: int, sections: Callable[[], Mapping[str, State]], last: bool = False) -> None:
        """Write a checkpoint if it is time for one; also the last of a run that was long enough for others. A disk
        error is only a warning: the one before stays."""
        start = time.monotonic()
        if start < self._due and not (last and self._newest_first()):
            return
        try:
            self._write(Saved(number, batches, sections()))
        except (OSError, SafetensorError) as error:
            warnings.warn(
                f"no checkpoint could be written to {self.folder} ({error}); the run goes on, and the last good "
                "checkpoint stays",
                RuntimeWarning,
                stacklevel=2,
            )
        end = time.monotonic()
        self._due = end + max(self.every, 10 * min(end - start, self.every))

    def finish(self, number: int, batches: int, sections: Callable[[], Mapping[str, State]]) -> None:
        """Write the last checkpoint unless `offer` has. OSError, naming the folder, where that can not be done."""
        if self._path(number, batches) in self._newest_first():
            return
        try:
            self._write(Saved(number, batches, sections()))
        except (OSError, SafetensorError) as error:
            raise OSError(f"the last checkpoint can not be written to {self.folder}: {error}") from None

    def batches_done(self) -> int | None:
        """How far in its pass the run has come, by the newest checkpoint's name; None where there is none."""
        newest = self._newest_first()[:1]
        return int(newest[0].stem.rsplit("-", 1)[1]) if newest else None

    def read(self, number: int, batches: int) -> Saved:
        """The state after so many batches of a pass; nothing is changed. ValueError, naming the file, where that is
        missing, damaged, or another run's."""
        path = self._path(number, batches)
        try:
            saved, different = _read(path), differences(_identity(path), self._identity)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ValueError(f"the checkpoint {path} is damaged ({error})") from None
        if different:
            raise ValueError(f"the checkpoint {path} is of another run, with a different {different}")
        return saved

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob(f"rank-{self.rank}-pass-*.safetensors"), reverse=True)

    def _path(self, number: int, batches: int) -> Path:
        return self.folder / f"rank-{self.rank}-pass-{number}-{batches:09}.safetensors"

    def _check_identity(self, path: Path) -> None:
        try:
            found = _identity(path)
            if found != self._identity:
                _read(path)  # an identity that was damaged is no other run's
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            return  # `load` tells
        self.refuse_another(found)

    def refuse_another(self, found: dict) -> None:
        """FileExistsError for the identity of another run, which the folder holds, naming what differs."""
        different = differences(found, self._identity)
        if different:
            raise FileExistsError(
                f"{self.folder.parent} holds an unfinished run, with a different {different}; go on with that one, "
                f"delete {self.folder}, or choose another folder"
            )

    def _write(self, saved: Saved) -> None:
        """Complete under its name or not at all; then what is older than the one before goes."""
        tensors = {
            f"{section}/{name}": tensor.contiguous()
            for section, state in saved.sections.items()
            for name, tensor in state.items()
        }
        metadata = {"identity": json.dumps(self._identity), "pass": str(saved.number), "batches": str(saved.batches)}
        metadata["sha256"] = _checksum(metadata, tensors)
        path = self._path(saved.number, saved.batches)
        partial = self.folder / f"rank-{self.rank}.partial"
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            save_file(tensors, partial, metadata)
            flush(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        flush(self.folder)
        for old in self._newest_first()[_KEPT:]:
            old.unlink()


def _identity(path: Path) -> dict:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["identity"])


def _read(path: Path) -> Saved:
    """ValueError, KeyError, OSError or SafetensorError where the file is damaged."""
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata() or {})
        # Copied, as the file is mapped into memory and will be removed.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
    if metadata.pop("sha256") != _checksum(metadata, tensors):
        raise ValueError("its checksum differs")
    sections: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        section, name = key.rsplit("/", 1)
        sections.setdefault(section, {})[name] = tensor
    return Saved(int(metadata["pass"]), int(metadata["batches"]), sections)


def _checksum(metadata: Mapping[str, str], tensors: State) -> str:
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        hash_tensor(digest, tensor, name)
    return digest.hexdigest()
