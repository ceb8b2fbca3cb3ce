"""Network dissection, end to end: thresholds in one pass over the data, tallies in a second."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..data.protocol import Concept, ConceptDataset, image_name, to_rgb
from ..ops._grid import checked_placement
from .conventions import get_convention
from .recording import Recording
from .results import Dissection, LayerDissection
from .run_folder import fingerprint, finished_run
from .tally import LabelBatch, LayerTally, category_numbers
from .thresholds import TopQuantile
from .top_images import TopImages, TopMaps
from .upsampling import surface

_THUMBNAIL = 128  # pixels
_MAX_ID = 2**24  # a larger concept id is a mistake, and a table of this many columns a unit would not fit anyway


def dissect(
    model: torch.nn.Module,
    dataset: ConceptDataset,
    layers: Sequence[str],
    quantile: float | None = None,
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
    threshold_from: str | None = None,
    upsampling: str | None = None,
    inclusive: bool | None = None,
    unit_area_over: str | None = None,
    mask_size: int | None = None,
    scale_offset: Mapping[str, tuple[float, float, float, float]] | None = None,
) -> Dissection:
    """Find which concepts the units of a network detect (Bau et al., "Network Dissection", CVPR 2017).

    Each unit's activation maps are thresholded at T_k, the exact value that a fraction `quantile` of all its values
    exceeds, upsampled to the label grid and compared with every concept by IoU. All layers are done in the same two
    passes.

    Args:
        model: any `nn.Module`; it is run in eval mode and left as it was.
        dataset: images with concept labels, see `netinterp_fast.data.protocol`.
        layers: names of modules (as in `model.named_modules()`) whose outputs are [B, C, h, w], or [B, C].
        quantile: q; None takes the convention's (0.005 for all but "dissect", 0.01).
        iou_threshold: a unit is a detector when its best IoU is above this.
        convention: "netdissect" (the paper), "netdissect_lite", "dissect", "compexp" or "concept": see
            `netinterp_fast.dissection.conventions`, whose switches (threshold_from, upsampling, inclusive,
            unit_area_over, mask_size) can be set alone here.
        batch_size, num_workers: how the images are loaded.
        device: where the model runs; None leaves it where it is.
        top_images: how many images with the highest activation to keep for each unit.
        progress: show a progress bar for each pass.
        out: a folder for the results, their tables and the HTML report; written at the end, all or nothing.
        resume: if `out` holds the finished results of this very run (same weights, data and settings), return those. A
            folder that holds anything else is never written to: FileExistsError.
        scale_offset: for a layer name, (scale_y, scale_x, offset_y, offset_x) in label pixels: the centre of its
            cell i is at offset + i * scale. Without, the map covers the image evenly.

    Returns:
        A `Dissection`; `result[layer]` has thresholds, intersection, unit_area, iou and labels.

    Raises:
        ValueError: for unknown layers (naming near matches), NaN (naming layer, unit and image), ids without a concept.
    """
    switches = {
        "threshold_from": threshold_from,
        "upsampling": upsampling,
        "inclusive": inclusive,
        "unit_area_over": unit_area_over,
        "mask_size": mask_size,
        "quantile": quantile,
    }
    run = _Run(
        model, dataset, layers, get_convention(convention, **switches), iou_threshold, batch_size, device, num_workers,
        top_images, progress, dict(scale_offset or {}),
    )  # fmt: skip
    settings = run.settings(convention)
    if out is not None:
        finished = finished_run(Path(out), settings, resume)
        if finished:
            return finished
    start = time.time()
    result = run.result(settings)
    settings["time"] = {
        "finished": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "seconds": round(time.time() - start, 3),
    }
    if out is not None:
        result.save(out, tables=True, report=True)
    return result


class _Run:
    """One dissection: what is run on what, and the two passes."""

    def __init__(
        self, model, dataset, layers, convention, iou_threshold, batch_size, device, num_workers, top_images, progress,
        scale_offset,
    ):  # fmt: skip
        _check_numbers(iou_threshold, batch_size, num_workers, top_images)
        self.model, self.dataset, self.convention = model, dataset, convention
        self.concepts = check_concepts(dataset)
        self.category_of = category_numbers(self.concepts)
        self.recording = Recording(model, layers)
        for layer in scale_offset:
            if layer not in layers:
                raise ValueError(f"scale_offset names {layer!r}; layers has {', '.join(layers)}")
            checked_placement(scale_offset[layer])
            if convention.upsampling == "pil":
                raise ValueError(f"scale_offset is given for {layer!r} and upsampling is 'pil', which has none")
        parameter = next(model.parameters(), torch.empty(0))
        self.device = torch.device(device) if device is not None else parameter.device
        self.iou_threshold, self.top_images, self.scale_offset = iou_threshold, top_images, scale_offset
        self.batch_size, self.num_workers, self.progress = batch_size, num_workers, progress

    def settings(self, preset: str) -> dict:
        """What was run, as JSON values; together with the fingerprint of weights and data it identifies the run."""
        rule = self.convention
        return {
            "model": type(self.model).__name__,
            "dataset": getattr(self.dataset, "title", type(self.dataset).__name__),
            "images": len(self.dataset),
            "layers": self.recording.layers,
            "convention": preset,
            "quantile": float(rule.quantile),
            "threshold_from": rule.threshold_from,
            "upsampling": rule.upsampling,
            "inclusive": rule.inclusive,
            "unit_area_over": rule.unit_area_over,
            "mask_size": rule.mask_size,
            "scale_offset": {layer: list(place) for layer, place in self.scale_offset.items()},
            "iou_threshold": self.iou_threshold,
            "top_images": self.top_images,
            "fingerprint": fingerprint(self.model, self.dataset),
        }

    def result(self, settings: dict) -> Dissection:
        self.model.to(self.device)
        with self.recording:
            thresholds, top = self._first_pass()
            return self._second_pass(thresholds, top, settings)

    def _batches(self, title: str) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """First image, images, labels, image_labels of each batch, on the device; a progress bar counts images."""
        loader = DataLoader(self.dataset, self.batch_size, num_workers=self.num_workers)
        first = 0
        with tqdm(total=len(self.dataset), desc=title, unit="img", disable=not self.progress) as bar:
            for batch in loader:
                images, labels, image_labels = (part.to(self.device, non_blocking=True) for part in batch)
                yield first, images, labels, image_labels
                first += images.shape[0]
                bar.update(images.shape[0])

    def _first_pass(self) -> tuple[dict[str, torch.Tensor], dict[str, TopImages]]:
        """Each layer's thresholds, and the images that excite its units most."""
        quantiles: dict[str, TopQuantile] = {}
        top: dict[str, TopImages] = {}
        for first, images, labels, _ in self._batches("pass 1 of 2: thresholds"):
            size = (self.convention.mask_size,) * 2 if self.convention.mask_size else tuple(labels.shape[2:])

            def see(layer: str, acts: torch.Tensor, first=first, size=size) -> None:
                maps = acts
                if self.convention.threshold_from == "upsampled":
                    maps = surface(acts, size, self.convention.upsampling, self.scale_offset.get(layer))
                if layer not in quantiles:
                    n_values = len(self.dataset) * maps.shape[2] * maps.shape[3]
                    q = self.convention.exact_quantile()
                    quantiles[layer] = TopQuantile(maps.shape[1], q, n_values, device=self.device)
                    top[layer] = TopImages(maps.shape[1], self.top_images)
                maxima = self._explained(layer, first, lambda: quantiles[layer].update(maps))
                top[layer].update(maxima)

            self.recording.run(images, see)
        return {layer: quantile.thresholds() for layer, quantile in quantiles.items()}, top

    def _second_pass(self, thresholds, top: dict[str, TopImages], settings: dict) -> Dissection:
        """The tallies, the maps of the top images, and a small picture of each of those images."""
        ranked = {layer: top[layer].result() for layer in self.recording.layers}
        maps = {layer: TopMaps(images) for layer, (images, _) in ranked.items()}
        tallies = {
            layer: LayerTally(thresholds[layer], self.category_of.to(self.device), self.convention,
                              self.scale_offset.get(layer))
            for layer in self.recording.layers
        }  # fmt: skip
        wanted = {i for images, _ in ranked.values() for i in images.unique().tolist() if i >= 0}
        thumbnails: dict[int, bytes] = {}
        area = torch.zeros(self.category_of.numel(), dtype=torch.int64)
        for first, images, labels, image_labels in self._batches("pass 2 of 2: tallies"):
            batch = self._label_batch(first, labels, image_labels)
            area += batch.area.sum(0).cpu()

            def see(layer: str, acts: torch.Tensor, first=first, batch=batch) -> None:
                self._explained(layer, first, lambda: tallies[layer].update(acts, batch))
                maps[layer].update(first, acts)

            self.recording.run(images, see)
            for i in wanted.intersection(range(first, first + images.shape[0])):
                thumbnails[i] = _thumbnail(images[i - first], self.dataset)
        return Dissection(
            layers={
                layer: LayerDissection(
                    name=layer,
                    concepts=self.concepts,
                    iou_threshold=self.iou_threshold,
                    thresholds=thresholds[layer].cpu(),
                    intersection=tally.intersection.cpu(),
                    unit_area=tally.unit_area().cpu(),
                    concept_area=area,
                    top_images=ranked[layer][0],
                    top_activations=ranked[layer][1],
                    top_maps=maps[layer].result(),
                    upsampling=self.convention.upsampling,
                    inclusive=self.convention.inclusive,
                    label_size=batch.size,
                    scale_offset=self.scale_offset.get(layer),
                )
                for layer, tally in tallies.items()
            },
            settings=settings,
            thumbnails=thumbnails,
            image_names={i: image_name(self.dataset, i) for i in sorted(wanted)},
        )

    def _label_batch(self, first: int, labels: torch.Tensor, image_labels: torch.Tensor) -> LabelBatch:
        try:
            batch = LabelBatch(labels, image_labels, self.category_of.to(self.device), self.convention.mask_size)
        except ValueError as error:
            raise ValueError(f"images {first} to {first + labels.shape[0] - 1}: {error}") from None
        unknown = (batch.area.sum(0) > 0) & (self.category_of.to(self.device) == 0)
        if unknown.any():
            label = int(unknown.nonzero()[0])
            image = int(batch.area[:, label].nonzero()[0]) + first
            name = image_name(self.dataset, image)
            raise ValueError(f"image {image} ({name}) has the label {label}, which is not the id of a concept")
        return batch

    def _explained(self, layer: str, first: int, step: Callable):
        """Run a step on one layer's output; its error is told with the layer's and the images' names."""
        try:
            return step()
        except ValueError as error:
            raise ValueError(f"layer {layer!r}, images from {first} on: {error}") from None


def check_concepts(dataset: ConceptDataset) -> list[Concept]:
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


def _check_numbers(iou_threshold, batch_size, num_workers, top_images) -> None:
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("num_workers", num_workers, 0),
        ("top_images", top_images, 0),
        ("iou_threshold", iou_threshold, 0),
    ):
        if not value >= least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")


def _thumbnail(image: torch.Tensor, dataset: ConceptDataset) -> bytes:
    """A small JPEG of a normalised image."""
    picture = Image.fromarray(to_rgb(image.cpu(), dataset).permute(1, 2, 0).contiguous().numpy())
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()
