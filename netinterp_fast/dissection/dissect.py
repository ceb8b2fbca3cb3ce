"""Network dissection, end to end: thresholds in one pass over the data, tallies in a second."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from .._memory import parsed_budget
from .._numbers import check_counts, check_seed
from ..data.protocol import Concept, ConceptDataset
from ..ops._grid import checked_placement
from .bases import UNITS, BasisItem
from .chance import Chance
from .checkpoints import Checkpoints, Saved
from .conventions import Convention, get_convention
from .passes import Setup, check_kept
from .plan import Room
from .probes import Probe, ProbeRecording, exact_quantiles, expand
from .ranks import Ranks
from .recording import Recording, named_models
from .results import Dissection
from .run import Run
from .run_folder import UNFINISHED, differences, finished_run, publish
from .shards import Shard, checked_shard, manifest_of

Place = tuple[float, float, float, float]  # of `scale_offset`
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
    scale_offset: Mapping[str, Place] | None = None,
    checkpoint_every: float = 60,
    passes: int | str = "auto",
    memory_budget: int | str = "1GiB",
    null_samples: int = 0,
    bootstrap: int = 0,
    seed: int = 0,
    shard: tuple[int, int] | None = None,
) -> Dissection | None:
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
    Processes without a network between them run a `shard` each, which `merge_shards` joins.

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
        shard: (i, n), i from 0 to n - 1: run only the batches i, i + n, i + 2 n and so on, in a single pass, and leave
            in `out`, a folder of this shard's own, what `merge_shards` needs. A shard's bound on its thresholds is that
            of its own images, so that n shards keep more than one process: up to n times as many cells.

    Returns:
        A `Dissection`; `result[key]` has thresholds, intersection, unit_area, iou and labels. None for a shard.

    Raises:
        TypeError: for a model that is no `nn.Module`.
        ValueError: for models with names that can not be, unknown layers (naming near matches), NaN (naming layer, unit
            and image), ids without a concept, processes that were given different models, data or settings, a shard
            without `out`, with passes=2 or in several processes.
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
    shard = checked_shard(shard, out, passes)
    chance = Chance(null_samples, bootstrap, seed)
    if chance and passes == 2:
        raise ValueError("null_samples and bootstrap need what a single pass keeps; passes is 2")
    rule = get_convention(convention, **switches)
    recording = Recording(named_models(model), layers, token_grid)
    probes = expand(recording.models, recording.layers, basis, tail, exact_quantiles(rule, quantile))
    ranks = Ranks(_device(recording.models, device))
    setup = Setup(
        dataset, _checked_concepts(dataset), ProbeRecording(recording, probes), rule, ranks.device, iou_threshold,
        top_images, _places(scale_offset or {}, recording.layers, probes, rule),
    )  # fmt: skip
    run = Run(setup, ranks, shard, batch_size, num_workers, chance, progress)
    room = Room(parsed_budget(memory_budget), None if out is None else Path(out) / UNFINISHED)
    settings = run.settings(convention)
    identity = run.identity(settings) | {"passes": 1 if shard else passes}
    _check_agreement(ranks.gather(identity))
    checkpoints, saved = None, Saved()
    if out is not None:
        checkpoints = Checkpoints(Path(out) / UNFINISHED, identity, checkpoint_every, run.part)
        if shard:
            begun = Shard(Path(out), manifest_of(setup, shard, run.mine, settings, identity, chance))
            begun.refuse_another(checkpoints)
        elif finished := finished_run(Path(out), settings, resume):
            return finished
        saved = checkpoints.load(resume, lambda saved: check_kept(saved.sections, room.cells(run.part)))
    if shard:
        begun.save()
        return run.leave_shard(checkpoints, saved, room)
    start = time.time()
    result = run.result(settings, checkpoints, saved, 1 if chance else passes, room)
    settings["time"] = setup.clock.settings(start) | run.kept
    if out is not None and ranks.rank == 0:
        publish(result, Path(out))
    ranks.gather(None)  # no rank returns before the results are written
    return result


def _device(models: Mapping[str, torch.nn.Module], device: torch.device | str | None) -> torch.device:
    """Where the models run: the device asked for, or that of the first."""
    if device is not None:
        return torch.device(device)
    return next(next(iter(models.values())).parameters(), torch.empty(0)).device


def _places(
    scale_offset: Mapping[str, Place], layers: Sequence[str], probes: Mapping[str, Probe], rule: Convention
) -> dict[str, Place]:
    """`scale_offset`, checked, by the keys of the probes."""
    for layer, place in scale_offset.items():
        if layer not in layers:
            raise ValueError(f"scale_offset names {layer!r}; layers has {', '.join(layers)}")
        checked_placement(place)
        if rule.upsampling == "pil":
            raise ValueError(f"scale_offset is given for {layer!r} and upsampling is 'pil', which has none")
    return {key: scale_offset[probe.layer] for key, probe in probes.items() if probe.layer in scale_offset}


def _checked_concepts(dataset: ConceptDataset) -> list[Concept]:
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
