"""One dissection as it runs: over which batches, in one pass or two, with whom, and from where on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TypeVar

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from .. import __version__
from .chance import Chance
from .checkpoints import Checkpoints, Saved
from .kept import KeptCells
from .passes import FirstPass, SecondPass, Setup, found_in, passes_of
from .plan import Room, planned_passes
from .ranks import Ranks
from .replay import replayed
from .results import Dissection
from .run_folder import fingerprint
from .transfer import transferred

_Pass = TypeVar("_Pass", FirstPass, SecondPass)


class Run:
    """This process's part of a dissection: that of its rank, or a shard (i, n)."""

    def __init__(
        self,
        setup: Setup,
        ranks: Ranks,
        shard: tuple[int, int] | None,
        batch_size: int,
        num_workers: int,
        chance: Chance,
        progress: bool,
    ):
        self.setup, self.ranks, self.shard, self.chance = setup, ranks, shard, chance
        self.batch_size, self.num_workers = batch_size, num_workers
        self.progress = progress and ranks.rank == 0
        self.kept: dict[str, int] = {}  # how much a single pass has kept, once it is over
        # Of all parts, and the same for any number of them: a model may give other floats in another batch.
        n = len(setup.dataset)
        self.batches = [range(i, min(i + batch_size, n)) for i in range(0, n, batch_size)]
        self.part, n_parts = shard or (ranks.rank, ranks.size)
        self.mine = self.batches[self.part :: n_parts]
        self.n_images = sum(map(len, self.mine))

    def settings(self, preset: str) -> dict:
        """What was run, as JSON values; together with the fingerprint of weights and data it identifies the run."""
        setup, rule = self.setup, self.setup.convention
        return {
            "model": ", ".join(dict.fromkeys(type(model).__name__ for model in self.setup.recording.models.values())),
            "dataset": getattr(setup.dataset, "title", type(setup.dataset).__name__),
            "images": len(setup.dataset),
            **setup.recording.settings(),
            "convention": preset,
            "threshold_from": rule.threshold_from,
            "upsampling": rule.upsampling,
            "inclusive": rule.inclusive,
            "unit_area_over": rule.unit_area_over,
            "mask_size": rule.mask_size,
            "scale_offset": {setup.recording.probes[key].layer: list(at) for key, at in setup.scale_offset.items()},
            "iou_threshold": setup.iou_threshold,
            "top_images": setup.top_images,
            "fingerprint": fingerprint(setup.recording.models, setup.dataset),
        } | (asdict(self.chance) if self.chance else {})

    def identity(self, settings: dict) -> dict:
        """What a checkpoint must agree in, beyond the settings: whatever could change a float or the batches."""
        shard = dict(zip(("shard", "shards"), self.shard, strict=True)) if self.shard else {}
        return settings | {
            **shard,
            "batch_size": self.batch_size,
            "batches": len(self.batches),
            "ranks": self.ranks.size,
            "device": self.setup.device.type,
            "versions": {"netinterp_fast": __version__, "torch": torch.__version__},
        }

    def result(
        self, settings: dict, checkpoints: Checkpoints | None, saved: Saved, passes: int | str, room: Room
    ) -> Dissection:
        """Run one or two passes, or what `saved` leaves of them; every rank gets the whole result."""
        setup = self.setup
        self._move_models()
        with setup.recording:
            if self._passes(saved, passes, room) == 1:
                first, kept = self._single_pass(checkpoints, saved, room)
                result = replayed(setup, first, kept, self.n_images, self.ranks, self.chance, settings, self.progress)
                self.kept = {"bytes_in_memory": kept.held, "bytes_in_file": kept.spilled}
                kept.close()
            else:
                result = self._two_passes(checkpoints, saved).result(settings)
        self._tell(setup.clock.summary(len(setup.dataset)))
        return result

    def leave_shard(self, checkpoints: Checkpoints, saved: Saved, room: Room) -> None:
        """Run this shard's part of a single pass, or what `saved` leaves of it; its checkpoint and its cells stay."""
        if saved.sections and saved.batches == len(self.mine):
            return
        self._move_models()
        with self.setup.recording:
            first, kept = self._single_pass(checkpoints, saved, room)
        checkpoints.finish(first.number, len(self.mine), first.saved)
        kept.close()
        self._tell(self.setup.clock.summary(self.n_images))

    def _move_models(self) -> None:
        for model in self.setup.recording.models.values():
            model.to(self.setup.device)

    def _single_pass(self, checkpoints: Checkpoints | None, saved: Saved, room: Room) -> tuple[FirstPass, KeptCells]:
        """This part of the only pass over the data, and what it has kept."""
        kept = KeptCells(room.cells(self.part), room.memory, self.setup.convention.inclusive)
        return self._added(FirstPass(self.setup, kept), checkpoints, saved), kept

    def _two_passes(self, checkpoints: Checkpoints | None, saved: Saved) -> SecondPass:
        """The tallies of all ranks."""
        # What pass 1 found is the same on every rank: where one has come to pass 2, all go on there.
        found = next(filter(None, self.ranks.gather(found_in(saved.sections))), None)
        if found is None:
            first = self._added(FirstPass(self.setup), checkpoints, saved)
            found = self.ranks.merged(first, FirstPass(self.setup)).found()
        second = self._added(SecondPass(self.setup, found), checkpoints, saved)
        return self.ranks.merged(second, SecondPass(self.setup, found))

    def _passes(self, saved: Saved, asked: int | str, room: Room) -> int:
        """One or two: what an interrupted run has begun with, else what was asked for, else by the room there is."""
        begun = next(filter(None, self.ranks.gather(passes_of(saved.sections))), None)
        if begun or asked == 2:
            return begun or asked
        if asked == "auto" or self.progress:
            asked, why = planned_passes(self.setup, room, asked)
            self._tell(why)
        return self.ranks.gather(asked)[0]

    def _tell(self, line: str) -> None:
        if self.progress:
            tqdm.write(line, file=sys.stderr)

    def _added(self, part: _Pass, checkpoints: Checkpoints | None, saved: Saved) -> _Pass:
        """A pass with this part's batches added, from the saved state on."""
        begun, n_batches = saved.batches if saved.number == part.number else 0, len(self.mine)
        if begun:
            part.resume(saved.sections)
        for done, batch in enumerate(self._loaded(part.title, begun), start=begun + 1):
            part.add(*batch)
            if checkpoints:
                with self.setup.clock.time("checkpoints"):
                    checkpoints.offer(part.number, done, part.saved, last=part.to_be_replayed and done == n_batches)
        return part

    def _loaded(self, title: str, done: int) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """First image, images, labels, image_labels of each of this part's batches after the `done` first, on the
        device; a progress bar counts images."""
        left, device = self.mine[done:], self.setup.device
        pinned = device.type == "cuda"
        loader = DataLoader(self.setup.dataset, batch_sampler=left, num_workers=self.num_workers, pin_memory=pinned)
        counts = {"total": self.n_images, "initial": self.n_images - sum(map(len, left))}
        with tqdm(desc=title, unit="img", disable=not self.progress, **counts) as bar:
            batches = transferred(loader, device)
            for numbers in left:
                with self.setup.clock.time("decode"):
                    batch = next(batches)
                yield numbers[0], *batch
                bar.update(len(numbers))
