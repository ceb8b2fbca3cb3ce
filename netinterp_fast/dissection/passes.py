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

import torch
from PIL import Image

from ..data.protocol import Concept, ConceptDataset, image_name, to_rgb
from .conventions import Convention
from .probes import ProbeRecording
from .results import Dissection, LayerDissection
from .tally import LabelBatch, LayerTally, category_numbers
from .thresholds import TopQuantile
from .top_images import TopImages, TopMaps
from .upsampling import surface

_IMAGES = ""  # the section that belongs to no layer
_THUMBNAIL = 128  # pixels
_FOUND = ("thresholds", "top_images", "top_activations")  # by the first pass, of each layer
State = Mapping[str, torch.Tensor]


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


class FirstPass:
    """Each layer's thresholds, and the images that excite its units most."""

    title = "pass 1 of 2: thresholds"
    number = 1

    def __init__(self, setup: Setup):
        self._setup = setup
        self.sections = setup.recording.keys
        self._quantiles: dict[str, TopQuantile] = {}
        self._top: dict[str, TopImages] = {}

    def add(self, first: int, images: torch.Tensor, labels: torch.Tensor, image_labels: torch.Tensor) -> None:
        """A batch: the number of its first image, images [B, 3, H, W], labels [B, L, H', W'], image_labels [B, S]."""
        rule, scale_offset = self._setup.convention, self._setup.scale_offset
        size = (rule.mask_size,) * 2 if rule.mask_size else tuple(labels.shape[2:])

        def see(layer: str, acts: torch.Tensor) -> None:
            maps = acts
            if rule.threshold_from == "upsampled":
                maps = surface(acts, size, rule.upsampling, scale_offset.get(layer))
            if layer not in self._quantiles:
                n_values = len(self._setup.dataset) * maps.shape[2] * maps.shape[3]
                self._quantiles[layer] = self._quantile(layer, maps.shape[1], n_values)
                self._top[layer] = TopImages(maps.shape[1], self._setup.top_images)
            maxima = _explained(layer, first, lambda: self._quantiles[layer].update(maps))
            self._top[layer].update(maxima, first)

        self._setup.recording.run(images, see)

    def _quantile(self, layer: str, n_units: int, n_values: int) -> TopQuantile:
        quantile = self._setup.recording.probes[layer].exact_quantile
        return TopQuantile(n_units, quantile, n_values, device=self._setup.device)

    def state(self, layer: str) -> dict[str, torch.Tensor]:
        if layer not in self._quantiles:
            return {}
        quantile = self._quantiles[layer].state_dict()
        images, activations = self._top[layer].held()
        return {
            "largest": quantile["largest"].cpu(),
            "seen": torch.tensor(quantile["seen"]),
            "n_values": torch.tensor(quantile["n_values"]),
            "top_images": images,
            "top_activations": activations,
        }

    def merge(self, layer: str, state: State) -> None:
        if not state:
            return
        n_units = state["largest"].shape[0]
        part = self._quantile(layer, n_units, int(state["n_values"]))
        part.load_state_dict(part.state_dict() | {"largest": state["largest"], "seen": int(state["seen"])})
        if layer in self._quantiles:
            self._quantiles[layer].merge(part)
        else:
            self._quantiles[layer] = part
            self._top[layer] = TopImages(n_units, self._setup.top_images)
        self._top[layer].merge(state["top_images"], state["top_activations"])

    def found(self) -> dict[str, dict[str, torch.Tensor]]:
        """What the second pass needs, by layer: thresholds [C], and top_images and top_activations [C, n]."""
        return {
            layer: dict(zip(_FOUND, (quantile.thresholds().cpu(), *self._top[layer].result()), strict=True))
            for layer, quantile in self._quantiles.items()
        }


class SecondPass:
    """The tallies, the maps of the top images, and a small picture of each of those images.

    `found` is what the first pass found over all the data; each layer's state holds it too, see `found_in`.
    """

    title = "pass 2 of 2: tallies"
    number = 2

    def __init__(self, setup: Setup, found: Mapping[str, State]):
        self._setup = setup
        self.sections = [*setup.recording.keys, _IMAGES]
        self._found = {layer: dict(found[layer]) for layer in setup.recording.keys}
        self._tallies = {
            layer: LayerTally(state["thresholds"].to(setup.device), setup.category_of, setup.convention,
                              setup.scale_offset.get(layer))
            for layer, state in self._found.items()
        }  # fmt: skip
        self._maps = {layer: TopMaps(state["top_images"]) for layer, state in self._found.items()}
        top_images = (state["top_images"].unique().tolist() for state in self._found.values())
        self._wanted = {image for images in top_images for image in images if image >= 0}
        self._thumbnails: dict[int, bytes] = {}
        self._area = torch.zeros(setup.category_of.numel(), dtype=torch.int64)
        self._label_size: tuple[int, int] | None = None  # None until a batch was added

    def add(self, first: int, images: torch.Tensor, labels: torch.Tensor, image_labels: torch.Tensor) -> None:
        """A batch, as for the first pass."""
        batch = self._label_batch(first, labels, image_labels)
        self._area += batch.area.sum(0).cpu()
        self._label_size = batch.size

        def see(layer: str, acts: torch.Tensor) -> None:
            _explained(layer, first, lambda: self._tallies[layer].update(acts, batch))
            self._maps[layer].update(first, acts)

        self._setup.recording.run(images, see)
        for i in self._wanted.intersection(range(first, first + images.shape[0])):
            self._thumbnails[i] = _thumbnail(images[i - first], self._setup.dataset)

    def _label_batch(self, first: int, labels: torch.Tensor, image_labels: torch.Tensor) -> LabelBatch:
        category_of = self._setup.category_of
        try:
            batch = LabelBatch(labels, image_labels, category_of, self._setup.convention.mask_size)
        except ValueError as error:
            raise ValueError(f"images {first} to {first + labels.shape[0] - 1}: {error}") from None
        unknown = (batch.area.sum(0) > 0) & (category_of == 0)
        if unknown.any():
            label = int(unknown.nonzero()[0])
            image = int(batch.area[:, label].nonzero()[0]) + first
            name = image_name(self._setup.dataset, image)
            raise ValueError(f"image {image} ({name}) has the label {label}, which is not the id of a concept")
        return batch

    def state(self, section: str) -> dict[str, torch.Tensor]:
        if self._label_size is None:
            return {}
        if section == _IMAGES:
            size = torch.tensor(self._label_size)
            return {"area": self._area, "label_size": size} | _joined(self._thumbnails)
        slots, maps = self._maps[section].held()
        return self._found[section] | self._tallies[section].state() | {"slots": slots, "maps": maps}

    def merge(self, section: str, state: State) -> None:
        if not state:
            return
        if section == _IMAGES:
            self._area += state["area"]
            self._label_size = tuple(state["label_size"].tolist())
            self._thumbnails |= _parted(state)
        else:
            self._tallies[section].merge(state)
            self._maps[section].merge(state["slots"], state["maps"])

    def result(self, settings: dict) -> Dissection:
        """The dissection, once all batches were added."""
        setup = self._setup
        layers = {
            layer: LayerDissection(
                name=layer,
                concepts=setup.concepts,
                iou_threshold=setup.iou_threshold,
                intersection=tally.intersection.cpu(),
                unit_area=tally.unit_area().cpu(),
                concept_area=self._area,
                top_maps=self._maps[layer].result(),
                upsampling=setup.convention.upsampling,
                inclusive=setup.convention.inclusive,
                label_size=self._label_size,
                scale_offset=setup.scale_offset.get(layer),
                **setup.recording.probes[layer].described(),
                **self._found[layer],
            )
            for layer, tally in self._tallies.items()
        }
        thumbnails = {i: self._thumbnails[i] for i in sorted(self._wanted)}
        names = {i: image_name(setup.dataset, i) for i in sorted(self._wanted)}
        return Dissection(layers=layers, settings=settings, thumbnails=thumbnails, image_names=names)


def found_in(sections: Mapping[str, State]) -> dict[str, dict[str, torch.Tensor]]:
    """What the first pass found, from the second one's states by section."""
    return {layer: {name: state[name] for name in _FOUND} for layer, state in sections.items() if layer != _IMAGES}


def _explained(layer: str, first: int, step: Callable):
    """Run a step on one layer's output; its error is told with the layer's and the images' names."""
    try:
        return step()
    except ValueError as error:
        raise ValueError(f"layer {layer!r}, images from {first} on: {error}") from None


def _thumbnail(image: torch.Tensor, dataset: ConceptDataset) -> bytes:
    """A small JPEG of a normalised image."""
    picture = Image.fromarray(to_rgb(image.cpu(), dataset).permute(1, 2, 0).contiguous().numpy())
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
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
