"""The two passes of a dissection, each as something that batches are added to and that merges with other parts.

A pass has a title and sections; `state(section)` is what the batches added so far gave, as tensors on the CPU (none
where no batch was added), and `merge(section, state)` adds what another part of the same pass gave. So a part goes on
from a checkpoint, and the parts of several processes become one, in the same way; and in whatever parts the batches
were added, the result is the same to the bit. What is called a layer here is a probe's key: a layer in some basis.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from ..data.protocol import Concept, ConceptDataset, image_name, to_rgb
from ..ops import PackedCells, pack_cells
from ..ops._grid import Placement
from ..ops.unit_concept_overlap import refuse_infinite
from .clock import Clock
from .conventions import Convention
from .kept import KeptBatch, KeptCells, unpacked_in_parts
from .layer_results import LayerDissection, iou
from .probes import ProbeRecording
from .results import Dissection
from .tally import LabelBatch, LayerTally, category_numbers
from .thresholds import TopQuantile
from .top_images import TopImages
from .upsampling import placed, surface

_IMAGES = ""  # the section that belongs to no layer
_THUMBNAIL = 128  # pixels
_THUMBNAILS = 1024  # that may be held before those no longer wanted are dropped
_KEPT = "/kept:"  # of a single pass's checkpoints: what is kept beside them
_FOUND = "/found:"  # begins the sections of the second pass's checkpoints that are the first one's results
_TOP = ("top_images", "top_activations", "top_maps")
State = Mapping[str, torch.Tensor]
Found = Mapping[str, State]  # by the first pass, see `FirstPass.found`


@dataclass
class Setup:
    """What is run on what: the arguments of `dissect` that both passes need."""

    dataset: ConceptDataset
    concepts: list[Concept]
    recording: ProbeRecording
    convention: Convention
    device: torch.device
    iou_threshold: float
    top_images: int
    scale_offset: Mapping[str, tuple[float, float, float, float]]  # by the key of a probe

    def __post_init__(self):
        self.category_of = category_numbers(self.concepts).to(self.device)
        self.clock = Clock(self.device)

    def label_batch(self, first: int, labels: torch.Tensor, image_labels: torch.Tensor) -> LabelBatch:
        """The labels of the images from `first` on; ValueError for an id that is no concept's, naming the image."""
        try:
            batch = LabelBatch(labels, image_labels, self.category_of, self.convention.mask_size)
        except ValueError as error:
            raise ValueError(f"images {first} to {first + labels.shape[0] - 1}: {error}") from None
        unknown = (batch.area.sum(0) > 0) & (self.category_of == 0)
        if unknown.any():
            label = int(unknown.nonzero()[0])
            image = int(batch.area[:, label].nonzero()[0]) + first
            name = image_name(self.dataset, image)
            raise ValueError(f"image {image} ({name}) has the label {label}, which is not the id of a concept")
        return batch

    def kept_labels(self, kept: KeptBatch) -> LabelBatch:
        """The labels of a batch that a single pass has kept; they were checked then."""
        labels, image_labels = kept.labels.to(self.device), kept.image_labels.to(self.device)
        return LabelBatch(labels, image_labels, self.category_of, self.convention.mask_size)

    def placed(self, layer: str, maps: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, Placement]:
        """A layer's maps, made such that the bilinear surface over them is its surface, and where they lie."""
        return placed(maps, size, self.convention.upsampling, self.scale_offset.get(layer))

    def run(self, images: torch.Tensor, first: int, see: Callable[[str, torch.Tensor], None]) -> None:
        """Run the model; see(layer, acts) for each layer. An error there is told with the layer and the images."""

        def seen(layer: str, acts: torch.Tensor) -> None:
            with self.clock.time("tally"):
                try:
                    see(layer, acts)
                except ValueError as error:
                    raise ValueError(f"layer {layer!r}, images from {first} on: {error}") from None

        with self.clock.time("forward"):
            self.recording.run(images, seen)


class FirstPass:
    """Each layer's thresholds, the images that excite its units most, with small pictures, and the concepts' areas.

    With `kept` a single pass: what the tallies will need is put there.
    """

    number = 1

    def __init__(self, setup: Setup, kept: KeptCells | None = None):
        self._setup, self._kept = setup, kept
        self.title = "pass 1 of 2: thresholds" if kept is None else "single pass"
        self.to_be_replayed = kept is not None  # once all batches were added
        self.sections = [*setup.recording.keys, _IMAGES]
        self._quantiles: dict[str, TopQuantile] = {}
        self._top: dict[str, TopImages] = {}
        self._thumbnails: dict[int, bytes] = {}
        self._most_thumbnails = _THUMBNAILS
        self._area = torch.zeros(setup.category_of.numel(), dtype=torch.int64)
        self._label_size: tuple[int, int] | None = None  # None until a batch was added

    def add(self, first: int, images: torch.Tensor, labels: torch.Tensor, image_labels: torch.Tensor) -> None:
        """A batch: the number of its first image, images [B, 3, H, W], labels [B, L, H', W'], image_labels [B, S]."""
        with self._setup.clock.time("tally"):
            batch = self._setup.label_batch(first, labels, image_labels)
            self._area += batch.area.sum(0).cpu()
            self._label_size = batch.size
        exciting: set[int] = set()
        cells: dict[str, tuple[PackedCells, Placement]] = {}

        def see(layer: str, acts: torch.Tensor) -> None:
            maxima = self._quantile(layer, acts).update(self._thresholded(layer, acts))
            exciting.update(self._top[layer].update(maxima, first, acts))
            if self._kept:
                cells[layer] = self._cells(layer, acts)

        self._setup.run(images, first, see)
        with self._setup.clock.time("tally"):
            self._thumbnails |= _thumbnails(images, first, sorted(exciting), self._setup.dataset)
            if len(self._thumbnails) > self._most_thumbnails:
                self._drop_thumbnails()
                self._most_thumbnails = max(_THUMBNAILS, 2 * len(self._thumbnails))
            if self._kept:
                self._kept.add(first, labels, image_labels, cells, self._bounds())

    def _thresholded(self, layer: str, acts: torch.Tensor) -> torch.Tensor:
        """The values of which the threshold is a quantile, as maps."""
        rule = self._setup.convention
        if rule.threshold_from == "raw":
            return acts
        return surface(acts, self._label_size, rule.upsampling, self._setup.scale_offset.get(layer))

    def _quantile(self, layer: str, acts: torch.Tensor) -> TopQuantile:
        if layer not in self._quantiles:
            h, w = acts.shape[2:] if self._setup.convention.threshold_from == "raw" else self._label_size
            self._begin(layer, acts.shape[1], len(self._setup.dataset) * h * w)
        return self._quantiles[layer]

    def _begin(self, layer: str, n_units: int, n_values: int) -> None:
        quantile, device = self._setup.recording.probes[layer].exact_quantile, self._setup.device
        self._quantiles[layer] = TopQuantile(n_units, quantile, n_values, device=device)
        self._top[layer] = TopImages(n_units, self._setup.top_images)

    def _cells(self, layer: str, acts: torch.Tensor) -> tuple[PackedCells, Placement]:
        maps, placement = self._setup.placed(layer, acts, self._label_size)
        refuse_infinite(maps)
        inclusive = self._setup.convention.inclusive
        return pack_cells(maps, self._quantiles[layer].bounds(), inclusive=inclusive), placement

    def _bounds(self) -> dict[str, torch.Tensor]:
        return {layer: quantile.bounds() for layer, quantile in self._quantiles.items()}

    def _drop_thumbnails(self) -> None:
        """Of images that are among the best of no unit any more."""
        wanted = set().union(*(top.images() for top in self._top.values()))
        self._thumbnails = {i: jpeg for i, jpeg in self._thumbnails.items() if i in wanted}

    def state(self, section: str) -> dict[str, torch.Tensor]:
        if self._label_size is None:
            return {}
        if section == _IMAGES:
            self._drop_thumbnails()
            return {"area": self._area, "label_size": torch.tensor(self._label_size)} | _joined(self._thumbnails)
        quantile = self._quantiles[section].state_dict()
        return {
            "largest": quantile["largest"].cpu(),
            "seen": torch.tensor(quantile["seen"]),
            "n_values": torch.tensor(quantile["n_values"]),
        } | dict(zip(_TOP, self._top[section].held(), strict=True))

    def merge(self, section: str, state: State) -> None:
        if not state:
            return
        if section == _IMAGES:
            self._area += state["area"]
            self._label_size = tuple(state["label_size"].tolist())
            self._thumbnails |= _parted(state)
            return
        if section not in self._quantiles:
            self._begin(section, state["largest"].shape[0], int(state["n_values"]))
        mine = self._quantiles[section]
        part = TopQuantile(mine.n_units, mine.quantile, mine.n_values, device=self._setup.device)
        part.load_state_dict(mine.state_dict() | {"largest": state["largest"], "seen": int(state["seen"])})
        mine.merge(part)
        self._top[section].merge(*(state[name] for name in _TOP))

    def saved(self) -> dict[str, dict[str, torch.Tensor]]:
        """What a checkpoint holds, by section."""
        sections = {section: self.state(section) for section in self.sections}
        if self._kept:
            length = self._kept.flush(self._bounds())
            self._kept.sync()
            sections[_KEPT] = {"bytes": torch.tensor(length)}
        return sections

    def resume(self, sections: Mapping[str, State]) -> None:
        """Go on from what `saved` gave; without `kept`, add that of another part of the data."""
        for section in self.sections:
            self.merge(section, sections.get(section, {}))
        if self._kept:
            self._kept.resume(kept_bytes(sections))

    def found(self) -> dict[str, dict[str, torch.Tensor]]:
        """What the second pass needs, once all batches were added, by section: of each layer thresholds [C], top_images
        and top_activations [C, n] and top_maps [C, n, h, w]; concept areas, thumbnails."""
        layers = {
            layer: {"thresholds": quantile.thresholds().cpu()} | dict(zip(_TOP, self._top[layer].result(), strict=True))
            for layer, quantile in self._quantiles.items()
        }
        return layers | {_IMAGES: self.state(_IMAGES)}


class SecondPass:
    """The tallies. `found` is what the first pass found over all the data; checkpoints hold it too, see `found_in`."""

    title = "pass 2 of 2: tallies"
    number = 2
    to_be_replayed = False

    def __init__(self, setup: Setup, found: Found):
        self._setup, self._found = setup, found
        self.sections = setup.recording.keys
        self._tallies = {
            layer: LayerTally(found[layer]["thresholds"].to(setup.device), setup.category_of, setup.convention)
            for layer in self.sections
        }

    def add(self, first: int, images: torch.Tensor, labels: torch.Tensor, image_labels: torch.Tensor) -> None:
        """A batch, as for the first pass."""
        setup = self._setup
        with setup.clock.time("tally"):
            batch = setup.label_batch(first, labels, image_labels)
        setup.run(
            images,
            first,
            lambda layer, acts: self._tallies[layer].update(*setup.placed(layer, acts, batch.size), batch),
        )

    def add_kept(self, kept: KeptBatch) -> None:
        """A batch of which a single pass has kept what matters."""
        setup, batch = self._setup, self._setup.kept_labels(kept)
        for layer, (packed, placement) in kept.cells.items():
            for images, maps in unpacked_in_parts(packed, setup.device):
                self._tallies[layer].update(maps, placement, batch.part(images), check_finite=False)

    def state(self, layer: str) -> dict[str, torch.Tensor]:
        return self._tallies[layer].state()

    def merge(self, layer: str, state: State) -> None:
        self._tallies[layer].merge(state)

    def saved(self) -> dict[str, Mapping[str, torch.Tensor]]:
        """What a checkpoint holds, by section."""
        found = {_FOUND + section: state for section, state in self._found.items()}
        return {layer: self.state(layer) for layer in self.sections} | found

    def resume(self, sections: Mapping[str, State]) -> None:
        """Go on from what `saved` gave."""
        for layer in self.sections:
            self.merge(layer, sections[layer])

    def best_iou(self) -> dict[str, torch.Tensor]:
        """Each unit's largest IoU, by layer: float64 [C]."""
        area = self._found[_IMAGES]["area"]
        return {
            layer: iou(tally.intersection.cpu(), tally.unit_area().cpu(), area).amax(1)
            for layer, tally in self._tallies.items()
        }

    def result(self, settings: dict) -> Dissection:
        """The dissection, once all batches were added."""
        setup, images = self._setup, self._found[_IMAGES]
        layers = {
            layer: LayerDissection(
                name=layer,
                concepts=setup.concepts,
                iou_threshold=setup.iou_threshold,
                intersection=tally.intersection.cpu(),
                unit_area=tally.unit_area().cpu(),
                concept_area=images["area"],
                upsampling=setup.convention.upsampling,
                inclusive=setup.convention.inclusive,
                label_size=tuple(images["label_size"].tolist()),
                scale_offset=setup.scale_offset.get(layer),
                **setup.recording.probes[layer].described(),
                **self._found[layer],
            )
            for layer, tally in self._tallies.items()
        }
        thumbnails = dict(sorted(_parted(images).items()))
        names = {i: image_name(setup.dataset, i) for i in thumbnails}
        return Dissection(layers=layers, settings=settings, thumbnails=thumbnails, image_names=names)


def found_in(sections: Mapping[str, State]) -> Found | None:
    """What the first pass found, from the second one's checkpoint; None where the sections are no such."""
    found = {s.removeprefix(_FOUND): state for s, state in sections.items() if s.startswith(_FOUND)}
    return found or None


def passes_of(sections: Mapping[str, State]) -> int | None:
    """How many passes the run makes that has saved these sections; None where there are none."""
    return (1 if _KEPT in sections else 2) if sections else None


def kept_bytes(sections: Mapping[str, State]) -> int:
    """How much of its file is a single pass's that has saved these sections."""
    return int(sections[_KEPT]["bytes"])


def check_kept(sections: Mapping[str, State], path: Path | None) -> None:
    """ValueError or OSError where a single pass has saved these sections and what it kept is damaged."""
    if _KEPT in sections:
        KeptCells.check(path, kept_bytes(sections))


def _thumbnails(images: torch.Tensor, first: int, wanted: list[int], dataset: ConceptDataset) -> dict[int, bytes]:
    """Small JPEGs of some of a batch of normalised images [B, 3, H, W], whose numbers begin with `first`."""
    shrink = min(1.0, _THUMBNAIL / max(images.shape[2:]))
    size = [max(1, round(side * shrink)) for side in images.shape[2:]]
    chosen = images[[i - first for i in wanted]].cpu().float()
    small = F.interpolate(chosen, size, mode="bilinear", antialias=True) if wanted else chosen
    return {i: _jpeg(to_rgb(image, dataset)) for i, image in zip(wanted, small, strict=True)}


def _jpeg(picture: torch.Tensor) -> bytes:
    """Of uint8 [3, H, W]."""
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(file, "JPEG", quality=85)
    return file.getvalue()


def _joined(thumbnails: Mapping[int, bytes]) -> dict[str, torch.Tensor]:
    """Thumbnails as three tensors, one behind the other."""
    return {
        "thumbnail_images": torch.tensor(list(thumbnails), dtype=torch.int64),
        "thumbnail_sizes": torch.tensor([len(jpeg) for jpeg in thumbnails.values()], dtype=torch.int64),
        "thumbnails": _bytes(thumbnails.values()),
    }


def _bytes(parts: Iterable[bytes]) -> torch.Tensor:
    data = bytearray(b"".join(parts))
    return torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def _parted(state: State) -> dict[int, bytes]:
    """The thumbnails in what `_joined` gave."""
    jpegs = state["thumbnails"].split(state["thumbnail_sizes"].tolist())
    return {i: jpeg.numpy().tobytes() for i, jpeg in zip(state["thumbnail_images"].tolist(), jpegs, strict=True)}
