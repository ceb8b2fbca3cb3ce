"""Network dissection, end to end: thresholds in one pass over the data, tallies in a second."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from .. import __version__
from .._memory import parsed_budget
from .._numbers import check_counts, check_seed
from ..data.protocol import Concept, ConceptDataset
from ..ops._grid import checked_placement
from .bases import UNITS, BasisItem
from .chance import Chance, iou_intervals, null_iou
from .checkpoints import Checkpoints, Saved
from .conventions import get_convention
from .kept import KeptCells
from .passes import FirstPass, Found, SecondPass, Setup, check_kept, found_in, passes_of
from .plan import Room, planned_passes
from .probes import ProbeRecording, exact_quantiles, expand
from .ranks import Ranks
from .recording import Recording, named_models
from .results import Dissection
from .run_folder import UNFINISHED, differences, fingerprint, finished_run, publish

_Pass = TypeVar("_Pass", FirstPass, SecondPass)
_MAX_ID = 2**24  # a larger concept id is a mistake, and a table of this many columns a unit would not fit anyway


def dissect(
    model: torch.nn.Module | Mapping[str, torch.nn.Module],
    dataset: ConceptDataset,
    layers: Sequence[str],
    quantile: float | Sequence[float] | None = None,
    iou_threshold: float = 0.04,
    convention: str = "netdissect",
    batch_size: int = 32,
    device: torch.device | str | None = None,
    num_workers: int = 0,
    top_images: int = 9,
    progress: bool = True,
    out: str | os.PathLike | None = None,
    resume: bool = True,
    *,
    basis: BasisItem | Sequence[BasisItem] = UNITS,
    tail: str = "upper",
    token_grid: Mapping[str, tuple[int, int, int]] | None = None,
    threshold_from: str | None = None,
    upsampling: str | None = None,
    inclusive: bool | None = None,
    unit_area_over: str | None = None,
    mask_size: int | None = None,
    scale_offset: Mapping[str, tuple[float, float, float, float]] | None = None,
    checkpoint_every: float = 60,
    passes: int | str = "auto",
    memory_budget: int | str = "1GiB",
    null_samples: int = 0,
    bootstrap: int = 0,
    seed: int = 0,
) -> Dissection:
    """Find which concepts the units of a network detect (Bau et al., "Network Dissection", CVPR 2017).

    Each unit's activation maps are thresholded at T_k, the exact value that a fraction `quantile` of all its values
    exceeds, upsampled to the label grid and compared with every concept by IoU. All layers, bases, tails and quantiles
    are done in the same one or two passes over the data, and each combination of them is an entry of the result: the
    layer's name is the key of its units' upper tail at the first quantile, the others are "layer6 | rotation 0.9",
    "layer6 | lower", "layer6 | q 0.01", "layer6 | rotation 0.9 | lower" and so on.

    So are several models, such as the checkpoints of a training: each batch is read and decoded once, and all run on
    it. Their entries are "epoch 3/layer6", "epoch 3/layer6 | lower" and so on, and as in a run of their own.

    Several processes share the work where each calls this with the same arguments, under `torchrun` or in a process
    group of your own: each takes whole batches, all get the same result, to the bit that of one, and the first writes.

    Args:
        model: any `nn.Module`; it is run in eval mode and left as it was. Or several that have these layers, a mapping
            of names (text without "/") to modules: then what follows names layers alone, and holds for each model. All
            are in memory, and on the device, at once.
        dataset: images with concept labels, see `netinterp_fast.data.protocol`.
        layers: names of modules (as in `model.named_modules()`) whose outputs are [B, C, h, w], or [B, C], or
            tokens [B, T, C].
        quantile: q, or several; None takes the convention's (0.005 for all but "dissect", 0.01).
        iou_threshold: a unit is a detector when its best IoU is above this.
        convention: "netdissect" (the paper), "netdissect_lite", "dissect", "compexp" or "concept": see
            `netinterp_fast.dissection.conventions`, whose switches (threshold_from, upsampling, inclusive,
            unit_area_over, mask_size) can be set alone here.
        batch_size, num_workers: how the images are loaded.
        device: where the model runs; None leaves it where it is, and takes several to where the first is. "cuda" is the
            GPU of the process's LOCAL_RANK where several share the work.
        top_images: how many images with the highest activation to keep for each unit.
        progress: show a progress bar for each pass.
        out: a folder for the results, their tables and the HTML report; written at the end, all or nothing. Until then
            it holds checkpoints.
        resume: if `out` holds the finished results of this very run (same weights, data and settings), return those; if
            it holds its checkpoints (same batches, processes and versions too), go on from the last. Without, an
            unfinished run starts again. A folder that holds anything else is never written to: FileExistsError.
        basis: what takes the place of a layer's units, or several such: "units"; `Rotation(angle, seed)`, a random
            rotation of them, and "rotation" for `Rotation()`; or a mapping of some layers' names to a float matrix
            [n, C] of directions in the space of the units, or to a callable that takes the maps [B, C, h, w] and gives
            others, [B, F, h, w]: see `per_position`. A matrix product is taken in float32, or float64 for such maps.
            Modules are run in eval mode on the maps' device; a run is known by a module's state, and by the name alone
            of a callable that is neither a module nor a method of one.
        tail: "upper", "lower" (the negated maps: what a unit's most negative values show), or "both".
        token_grid: for a layer of tokens, (n_prefix_tokens, h, w): after the prefix tokens, which are left out, come
            h * w tokens row by row. Without, they are a square after one class token or none.
        scale_offset: for a layer name, (scale_y, scale_x, offset_y, offset_x) in label pixels: the centre of its
            cell i is at offset + i * scale. Without, the map covers the image evenly.
        checkpoint_every: seconds from one checkpoint in `out` to the next, up to ten times as long where writing one
            takes more than a tenth of it; 0 for one after every batch.
        passes: 2 finds the thresholds in one pass and tallies in a second. 1 runs the model once and keeps, beside the
            labels, the cells of the maps that may still be lit, in memory and then in a file; the result is the same to
            the bit. "auto" takes 1 where there is room for about as much as that will be.
        memory_budget: bytes, or text such as "512MiB", of what a single pass keeps in memory. The file is in `out`, or
            where temporary files are.
        null_samples: how often to shuffle the labels among the images: each unit's best IoU then is what chance gives
            it, `result[layer].null_iou`, from which `p_values` follow. Needs a single pass, as the next does.
        bootstrap: how many samples of the images to draw, for an interval of each unit's IoU, `iou_interval`.
        seed: of both.

    Returns:
        A `Dissection`; `result[key]` has thresholds, intersection, unit_area, iou and labels.

    Raises:
        TypeError: for a model that is no `nn.Module`.
        ValueError: for models with names that can not be, unknown layers (naming near matches), NaN (naming layer, unit
            and image), ids without a concept, processes that were given different models, data or settings.
        FileExistsError: for an `out` that holds another run or something else, naming what differs.
    """
    switches = {
        "threshold_from": threshold_from,
        "upsampling": upsampling,
        "inclusive": inclusive,
        "unit_area_over": unit_area_over,
        "mask_size": mask_size,
    }
    if passes not in (1, 2, "auto") or isinstance(passes, bool):
        raise ValueError(f"passes is {passes!r}; it must be 1, 2 or 'auto'")
    _check_numbers(
        iou_threshold=iou_threshold, batch_size=batch_size, num_workers=num_workers, top_images=top_images,
        checkpoint_every=checkpoint_every,
    )  # fmt: skip
    check_counts(0, null_samples=null_samples, bootstrap=bootstrap)
    check_seed(seed)
    chance = Chance(null_samples, bootstrap, seed)
    if chance and passes == 2:
        raise ValueError("null_samples and bootstrap need what a single pass keeps; passes is 2")
    rule = get_convention(convention, **switches)
    recording = Recording(named_models(model), layers, token_grid)
    probes = expand(recording.models, recording.layers, basis, tail, exact_quantiles(rule, quantile))
    run = _Run(
        dataset, ProbeRecording(recording, probes), rule, iou_threshold, batch_size, device, num_workers, top_images,
        progress, dict(scale_offset or {}), chance,
    )  # fmt: skip
    room = Room(parsed_budget(memory_budget), None if out is None else Path(out) / UNFINISHED)
    settings = run.settings(convention)
    identity = run.identity(settings) | {"passes": passes}
    _check_agreement(run.ranks.gather(identity))
    checkpoints, saved = None, Saved()
    if out is not None:
        finished = finished_run(Path(out), settings, resume)
        if finished:
            return finished
        checkpoints = Checkpoints(Path(out) / UNFINISHED, identity, checkpoint_every, run.ranks.rank)
        saved = checkpoints.load(resume, lambda saved: check_kept(saved.sections, room.cells(run.ranks.rank)))
    start = time.time()
    result = run.result(settings, checkpoints, saved, 1 if chance else passes, room)
    settings["time"] = {
        "finished": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "seconds": round(time.time() - start, 3),
        "shares": run.setup.clock.shares(),
    }
    if out is not None and run.ranks.rank == 0:
        publish(result, Path(out))
    run.ranks.gather(None)  # no rank returns before the results are written
    return result


class _Run:
    """One dissection: what is run on what, by whom, and in which batches."""

    def __init__(
        self, dataset, recording, convention, iou_threshold, batch_size, device, num_workers, top_images, progress,
        scale_offset, chance,
    ):  # fmt: skip
        concepts = _check_concepts(dataset)
        for layer in scale_offset:
            if layer not in recording.layers:
                raise ValueError(f"scale_offset names {layer!r}; layers has {', '.join(recording.layers)}")
            checked_placement(scale_offset[layer])
            if convention.upsampling == "pil":
                raise ValueError(f"scale_offset is given for {layer!r} and upsampling is 'pil', which has none")
        self.models = recording.models
        parameter = next(next(iter(self.models.values())).parameters(), torch.empty(0))
        self.ranks = Ranks(torch.device(device) if device is not None else parameter.device)
        self.setup = Setup(
            dataset, concepts, recording, convention, self.ranks.device, iou_threshold, top_images,
            {key: scale_offset[probe.layer] for key, probe in recording.probes.items() if probe.layer in scale_offset},
        )  # fmt: skip
        self.batch_size, self.num_workers = batch_size, num_workers
        self.scale_offset, self.chance = scale_offset, chance
        self.progress = progress and self.ranks.rank == 0
        # Of all ranks, and the same for any number of them: a model may give other floats in another batch.
        self.batches = [range(i, min(i + batch_size, len(dataset))) for i in range(0, len(dataset), batch_size)]

    def settings(self, preset: str) -> dict:
        """What was run, as JSON values; together with the fingerprint of weights and data it identifies the run."""
        setup, rule = self.setup, self.setup.convention
        return {
            "model": ", ".join(dict.fromkeys(type(model).__name__ for model in self.models.values())),
            "dataset": getattr(setup.dataset, "title", type(setup.dataset).__name__),
            "images": len(setup.dataset),
            **setup.recording.settings(),
            "convention": preset,
            "threshold_from": rule.threshold_from,
            "upsampling": rule.upsampling,
            "inclusive": rule.inclusive,
            "unit_area_over": rule.unit_area_over,
            "mask_size": rule.mask_size,
            "scale_offset": {layer: list(place) for layer, place in self.scale_offset.items()},
            "iou_threshold": setup.iou_threshold,
            "top_images": setup.top_images,
            "fingerprint": fingerprint(self.models, setup.dataset),
        } | (asdict(self.chance) if self.chance else {})

    def identity(self, settings: dict) -> dict:
        """What a checkpoint must agree in, beyond the settings: whatever could change a float or the batches."""
        return settings | {
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
        for model in self.models.values():
            model.to(setup.device)
        with setup.recording:
            kept = None
            if self._passes(saved, passes, room) == 1:
                kept = KeptCells(room.cells(self.ranks.rank), room.memory, setup.convention.inclusive)
            # What pass 1 found is the same on every rank: where one has come to pass 2, all go on there.
            found = next(filter(None, self.ranks.gather(found_in(saved.sections))), None)
            if found is None:
                first = self._added(FirstPass(setup, kept), checkpoints, saved)
                found = self.ranks.merged(first, FirstPass(setup)).found()
            second = SecondPass(setup, found)
            if kept:
                self._add_kept(second, kept)
            else:
                second = self._added(second, checkpoints, saved)
            result = self.ranks.merged(second, SecondPass(setup, found)).result(settings)
            if self.chance:
                self._judge(result, found, kept)
        if kept:
            kept.close()
        self._tell(setup.clock.summary(len(setup.dataset)))
        return result

    def _passes(self, saved: Saved, asked: int | str, room: Room) -> int:
        """One or two: what an interrupted run has begun with, else what was asked for, else by the room there is."""
        begun = next(filter(None, self.ranks.gather(passes_of(saved.sections))), None)
        if begun or asked == 2 or (asked == 1 and not self.progress):  # nothing to find out, or nobody to tell
            return begun or asked
        passes, why = planned_passes(self.setup, room, asked)
        self._tell(why)
        return self.ranks.gather(passes)[0]

    def _tell(self, line: str) -> None:
        if self.progress:
            tqdm.write(line, file=sys.stderr)

    def _added(self, part: _Pass, checkpoints: Checkpoints | None, saved: Saved) -> _Pass:
        """A pass with this rank's batches added, from the saved state on."""
        begun = saved.batches if saved.number == part.number else 0
        if begun:
            part.resume(saved.sections)
        n_batches = len(self.batches[self.ranks.rank :: self.ranks.size])
        for done, batch in enumerate(self._loaded(part.title, begun), start=begun + 1):
            part.add(*batch)
            if checkpoints:
                with self.setup.clock.time("checkpoints"):
                    checkpoints.offer(part.number, done, part.saved, last=part.to_be_replayed and done == n_batches)
        return part

    def _add_kept(self, second: SecondPass, kept: KeptCells) -> None:
        """The tallies of what a single pass has kept."""
        mine = sum(map(len, self.batches[self.ranks.rank :: self.ranks.size]))
        with tqdm(desc="tallies", unit="img", total=mine, disable=not self.progress) as bar:
            for batch in kept.replay():
                second.add_kept(batch)
                bar.update(batch.labels.shape[0])

    def _judge(self, result: Dissection, found: Found, kept: KeptCells) -> None:
        """Complete the result by what tells chance from more."""
        n = self.chance.null_samples
        with tqdm(desc="shuffled labels", unit="sample", total=n, disable=not (n and self.progress)) as bar:
            null = null_iou(self.setup, found, kept, self.ranks, self.chance, bar.update)
        for key, layer in result.layers.items():
            layer.null_iou = null.get(key)
        if self.chance.bootstrap:
            for key, interval in iou_intervals(self.setup, result.layers, kept, self.ranks, self.chance).items():
                result.layers[key].iou_interval = interval

    def _loaded(self, title: str, done: int) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """First image, images, labels, image_labels of each of this rank's batches after the `done` first, on the
        device; a progress bar counts images."""
        mine = self.batches[self.ranks.rank :: self.ranks.size]
        loader = DataLoader(self.setup.dataset, batch_sampler=mine[done:], num_workers=self.num_workers)
        counts = {"total": sum(map(len, mine)), "initial": sum(map(len, mine[:done]))}
        with tqdm(desc=title, unit="img", disable=not self.progress, **counts) as bar:
            batches = iter(loader)
            for numbers in mine[done:]:
                with self.setup.clock.time("decode"):
                    batch = next(batches)
                images, labels, image_labels = (part.to(self.setup.device, non_blocking=True) for part in batch)
                yield numbers[0], images, labels, image_labels
                bar.update(len(numbers))


def _check_concepts(dataset: ConceptDataset) -> list[Concept]:
    """The data set's concepts, checked: ids at least 1 and distinct."""
    concepts = getattr(dataset, "concepts", None)
    if concepts is None:
        raise TypeError(f"dataset is a {type(dataset).__name__} without `concepts`, a list of (id, name, category)")
    if len(dataset) == 0:
        raise ValueError("dataset has no images")
    concepts = [Concept(int(i), str(name), str(category)) for i, name, category in concepts]
    ids = [c.id for c in concepts]
    for concept in concepts:
        if not 1 <= concept.id <= _MAX_ID:
            raise ValueError(f"concept {concept.name!r} has the id {concept.id}; ids lie in [1, {_MAX_ID}]")
    if not ids or len(set(ids)) != len(ids):
        raise ValueError("dataset.concepts is empty or has an id twice")
    return concepts


def _check_agreement(identities: Sequence[dict]) -> None:
    """ValueError unless all ranks run the same."""
    for rank, identity in enumerate(identities):
        different = differences(identity, identities[0], (f"on rank {rank}", "on rank 0"))
        if different:
            raise ValueError(f"the ranks were given different runs: {different}")


def _check_numbers(**values: float) -> None:
    for name, value in values.items():
        least = 1 if name == "batch_size" else 0
        if not value >= least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
