"""Shards of a dissection: parts of a single pass that run apart, without a network between them, and are merged later.

Shard i of n is what rank i of n processes would be. In `dissection.unfinished`, in a folder of its own, it leaves
`shard.json`, its last checkpoint and the cells that it kept; merging needs these, and neither model nor data set.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import torch

from .._folders import flush
from ..data.protocol import Concept, image_name
from .chance import Chance
from .checkpoints import Checkpoints
from .conventions import Convention
from .kept import KeptFiles
from .passes import FirstPass, Setup, kept_bytes
from .plan import Room
from .ranks import Ranks, check_alone
from .replay import replayed
from .results import Dissection
from .run_folder import UNFINISHED, differences, finished_run, is_free, publish

SHARD = "shard.json"
_FORMAT = 1  # of that file
_OWN = {"shard"}  # what shards of one run differ in


def checked_shard(
    shard: tuple[int, int] | None, out: str | os.PathLike | None, passes: int | str
) -> tuple[int, int] | None:
    """The argument of `dissect`; TypeError or ValueError for what is no shard, or goes with no shard."""
    if shard is None:
        return None
    numbers = tuple(shard) if isinstance(shard, Sequence) else ()
    if len(numbers) != 2 or any(isinstance(n, bool) or not isinstance(n, int) for n in numbers):
        raise TypeError(f"shard is {shard!r}; it must be two ints, (i, n)")
    if not 0 <= numbers[0] < numbers[1]:
        raise ValueError(f"shard is {numbers}; it must be (i, n), i counted from 0 to n - 1")
    if out is None:
        raise ValueError("a shard needs out, a folder of its own, where merge_shards finds it; out is None")
    if passes == 2:
        raise ValueError("a shard is part of a single pass; passes is 2")
    check_alone("a shard")
    return numbers


class Shard:
    """One shard and its folder.

    Args:
        folder: where the results would be, were it a run of its own.
        manifest: what is known of it, as JSON values, see `manifest_of`.
    """

    def __init__(self, folder: Path, manifest: dict):
        self.folder, self.manifest = folder, manifest
        self.number, self.of, self.batches = (manifest[key] for key in ("shard", "shards", "batches"))
        self.name = f"shard {self.number} of {self.of}"

    @classmethod
    def load(cls, folder: Path) -> Shard:
        """ValueError, naming the folder, where it holds none, or a damaged one."""
        path = folder / UNFINISHED / SHARD
        if not path.is_file():
            raise ValueError(f"{folder} holds no shard of a dissection ({UNFINISHED}/{SHARD} is missing)")
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if manifest.pop("sha256") != _checksum(manifest):
                raise ValueError("its checksum differs")
            if manifest["format"] != _FORMAT:
                raise ValueError(f"its format is {manifest['format']}, this version reads {_FORMAT}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        return cls(folder, manifest)

    def refuse_another(self, checkpoints: Checkpoints) -> None:
        """FileExistsError where the folder holds anything but this shard, naming what differs."""
        if not is_free(self.folder):
            raise FileExistsError(f"{self.folder} is not empty and holds no unfinished run; choose another folder")
        try:
            found = Shard.load(self.folder)
        except ValueError:  # none, or one that was damaged: `save` writes it again
            return
        checkpoints.refuse_another(found.manifest["identity"])

    def save(self) -> None:
        """Write the manifest, complete or not at all."""
        path = self.folder / UNFINISHED / SHARD
        partial = path.with_suffix(".partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        manifest = self.manifest | {"sha256": _checksum(self.manifest)}
        partial.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        flush(partial)
        partial.replace(path)
        flush(path.parent)

    def checkpoints(self) -> Checkpoints:
        """To read from alone."""
        return Checkpoints(self.folder / UNFINISHED, self.manifest["identity"], 0, self.number)

    def cells(self) -> Path:
        return Room(0, self.folder / UNFINISHED).cells(self.number)


def manifest_of(
    setup: Setup, shard: tuple[int, int], batches: Sequence[range], settings: dict, identity: dict, chance: Chance
) -> dict:
    """What merging needs to know of a shard, as JSON values: whose part of what run it is, what was asked, and how
    concepts and images are called."""
    manifest = {
        "format": _FORMAT,
        "shard": shard[0],
        "shards": shard[1],
        "batches": len(batches),
        "settings": settings,
        "identity": identity,
        "convention": asdict(setup.convention),
        "chance": asdict(chance),
        "iou_threshold": setup.iou_threshold,
        "top_images": setup.top_images,
        "concepts": setup.concepts,
        "probes": {
            key: {
                "described": probe.described(),
                "exact_quantile": str(probe.exact_quantile),
                "scale_offset": setup.scale_offset.get(key),
            }
            for key, probe in setup.recording.probes.items()
        },
        "image_names": {image: image_name(setup.dataset, image) for batch in batches for image in batch},
    }
    return json.loads(json.dumps(manifest))


def _checksum(manifest: dict) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def merge_shards(
    folders: Iterable[str | os.PathLike],
    out: str | os.PathLike,
    *,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Dissection:
    """Join the shards of a dissection: thresholds over all images, then the tallies of what each shard has kept.

    The results are, to the byte, those of one process that saw all the data. Neither the model nor the data set is
    needed, and the shards' folders, which may have been copied from elsewhere, are only read.

    Args:
        folders: those that `dissect(..., shard=(i, n), out=folder)` was given, for each i once, in any order.
        out: a folder for the results, their tables and the HTML report; written at the end, all or nothing. If it holds
            the results of this very run already, those are returned.
        device: where the tallies are computed; None is the CPU.
        progress: show a progress bar.

    Returns:
        A `Dissection`, as `dissect` does without `shard`; the times in its settings are those of merging.

    Raises:
        ValueError: for a folder that holds no shard, one that is unfinished or damaged or of another run, naming what
            differs; for shards that are missing or there twice.
        FileExistsError: for an `out` that holds anything else.
    """
    check_alone("merging shards")
    if isinstance(folders, (str, os.PathLike)):
        raise TypeError(f"folders is {str(folders)!r}; it must be a list of the shards' folders")
    out, start = Path(out), time.time()
    shards = _complete_set([Shard.load(Path(folder)) for folder in folders])
    settings, chance = shards[0].manifest["settings"], Chance(**shards[0].manifest["chance"])
    if (out / UNFINISHED).exists():
        raise FileExistsError(f"{out} holds an unfinished run; choose another folder")
    finished = finished_run(out, settings, resume=True)
    if finished:
        return finished
    setup = _setup(shards, torch.device(device or "cpu"))
    first, lengths = FirstPass(setup), {}
    for shard in shards:
        sections = shard.checkpoints().read(first.number, shard.batches).sections
        first.resume(sections)
        lengths[shard.cells()] = kept_bytes(sections)
    kept, n_images = KeptFiles(lengths), settings["images"]
    result = replayed(setup, first, kept, n_images, Ranks(setup.device), chance, settings, progress)
    settings["time"] = setup.clock.settings(start)
    publish(result, out)
    return result


def _complete_set(shards: Sequence[Shard]) -> list[Shard]:
    """The shards by number; ValueError unless they are those of one run, each once, and finished."""
    if not shards:
        raise ValueError("folders is empty; it must name the folders of all shards of a run")
    by_number: dict[int, Shard] = {}
    for shard in shards:
        _check_same_run(shard, shards[0])
        twin = by_number.setdefault(shard.number, shard)
        if twin is not shard:
            raise ValueError(f"{twin.folder} and {shard.folder} both hold {shard.name}; name each shard once")
    missing = sorted(set(range(shards[0].of)) - set(by_number))
    if missing:
        raise ValueError(f"of {shards[0].of} shards {len(missing)} are missing: {', '.join(map(str, missing))}")
    ordered = [by_number[number] for number in sorted(by_number)]
    unfinished = [text for shard in ordered if (text := _unfinished(shard))]
    if unfinished:
        raise ValueError("; ".join(unfinished))
    return ordered


def _check_same_run(shard: Shard, other: Shard) -> None:
    mine, wanted = ({k: v for k, v in s.manifest["identity"].items() if k not in _OWN} for s in (shard, other))
    different = differences(mine, wanted, (f"in {shard.folder}", f"in {other.folder}"))
    if different:
        raise ValueError(f"{shard.folder} and {other.folder} hold shards of different runs: {different}")


def _unfinished(shard: Shard) -> str:
    """What is to be said of a shard that has not come to its end."""
    done = shard.checkpoints().batches_done()
    if done == shard.batches:
        return ""
    return f"{shard.folder}: {shard.name} is unfinished: {done or 0} of {shard.batches} batches"


class _Names(NamedTuple):
    """In place of a data set, once all of it was seen: the names of its images."""

    by_image: Mapping[int, str]

    def name(self, image: int) -> str:
        return self.by_image[image]


class _Asked(NamedTuple):
    """In place of a probe, once the model has run: what was asked."""

    description: Mapping[str, object]
    exact_quantile: Fraction

    def described(self) -> Mapping[str, object]:
        return self.description


class _Probes(NamedTuple):
    """In place of a recording, once the model has run."""

    probes: Mapping[str, _Asked]

    @property
    def keys(self) -> list[str]:
        return list(self.probes)


def _setup(shards: Sequence[Shard], device: torch.device) -> Setup:
    """What was run on what, as far as it matters once the model has run on all the data."""
    manifest = shards[0].manifest
    asked = manifest["probes"].items()
    names = {int(image): name for shard in shards for image, name in shard.manifest["image_names"].items()}
    return Setup(
        _Names(names),
        [Concept(*concept) for concept in manifest["concepts"]],
        _Probes({key: _Asked(of["described"], Fraction(of["exact_quantile"])) for key, of in asked}),
        Convention(**manifest["convention"]),
        device,
        manifest["iou_threshold"],
        manifest["top_images"],
        {key: tuple(of["scale_offset"]) for key, of in asked if of["scale_offset"]},
    )
