"""Colour as a concept: a basic colour term (Berlin and Kay, "Basic Color Terms", 1969) for every pixel."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from .protocol import Concept, ConceptDataset, Sample, image_name, to_rgb

COLOUR_NAMES = (
    "black", "blue", "brown", "grey", "green", "orange", "pink", "purple", "red", "white", "yellow",
)  # fmt: skip

_BITS = 5  # of each channel that decide the colour name
_INDEX = {name: i for i, name in enumerate(COLOUR_NAMES, start=1)}


def name_colours(rgb: torch.Tensor) -> torch.Tensor:
    """The basic colour term of each pixel: `rgb` uint8 [3, ...] -> uint8 [...], i for COLOUR_NAMES[i - 1].

    Each channel is first rounded down to 32 levels, so that a table answers; `_name_lab` has the rule.
    """
    if rgb.dtype != torch.uint8 or rgb.dim() == 0 or rgb.shape[0] != 3:
        raise ValueError(f"rgb is {rgb.dtype} {list(rgb.shape)}; expected uint8 [3, ...]")
    red, green, blue = (rgb >> (8 - _BITS)).int()
    return _colour_table()[(red << 2 * _BITS) + (green << _BITS) + blue]


def with_colours(dataset: ConceptDataset) -> ColouredDataset:
    """`dataset` with one more label layer, of category "colour": the colour name of every pixel.

    The colours are those of the image (by the data set's `mean` and `std`, see `protocol.to_rgb`), averaged
    over the area that a pixel of the label maps covers. Their ids follow the largest id of the data set.
    Raises ValueError where the data set already has a category "colour".
    """
    return ColouredDataset(dataset)


class ColouredDataset(Dataset):
    """What `with_colours` returns. Items as those of the data set within, with labels [L + 1, H', W']."""

    def __init__(self, dataset: ConceptDataset):
        if any(concept.category == "colour" for concept in dataset.concepts):
            raise ValueError('the data set already has a category "colour"')
        self.dataset = dataset
        for attribute in ("mean", "std"):
            if hasattr(dataset, attribute):
                setattr(self, attribute, getattr(dataset, attribute))
        self._last_id = max((concept.id for concept in dataset.concepts), default=0)
        colours = [Concept(self._last_id + i, name, "colour") for name, i in _INDEX.items()]
        self.concepts = [*dataset.concepts, *colours]
        self._largest = self.concepts[-1].id

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        image, labels, image_labels = self.dataset[index]
        rgb = to_rgb(image, self.dataset)
        if rgb.shape[1:] != labels.shape[1:]:
            area = F.interpolate(rgb[None].float(), size=labels.shape[1:], mode="area")[0]
            rgb = area.round().to(torch.uint8)
        if torch.iinfo(labels.dtype).max < self._largest:
            labels = labels.to(torch.int16 if self._largest < 1 << 15 else torch.int32)
        colours = name_colours(rgb).to(labels.dtype) + self._last_id
        return Sample(image, torch.cat([labels, colours[None]]), image_labels)

    def name(self, index: int) -> str:
        """The name that the image has in the data set within."""
        return image_name(self.dataset, index)


@functools.cache
def _colour_table() -> torch.Tensor:
    """uint8 [32 * 32 * 32]: the colour name at the middle of every cell of the RGB cube.

    Computed in float64, so that rounding does not change a name from one machine to another.
    """
    levels = (torch.arange(1 << _BITS, dtype=torch.float64) + 0.5) / (1 << _BITS)
    levels = levels.where(levels > levels[0], 0.0).where(levels < levels[-1], 1.0)  # pure colours stay pure
    return _name_lab(_rgb_to_lab(torch.cartesian_prod(levels, levels, levels)))


def _rgb_to_lab(rgb: torch.Tensor) -> torch.Tensor:
    """sRGB in [0, 1] (IEC 61966-2-1) to CIELAB (CIE 15) under D65; [n, 3] both."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = torch.tensor([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).to(rgb)
    xyz = linear @ to_xyz.T / to_xyz.sum(dim=1)
    x, y, z = torch.where(xyz > (6 / 29) ** 3, xyz.pow(1 / 3), xyz * (29 / 6) ** 2 / 3 + 4 / 29).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def _name_lab(lab: torch.Tensor) -> torch.Tensor:
    """Colour names of CIELAB colours [n, 3], as uint8 [n].

    Dark or weak colours are black, grey or white by their lightness. The others are named by the hue angle,
    and then by lightness and chroma: a dark or dull orange is brown, a light red or purple is pink.
    """
    lightness, a, b = lab.unbind(1)
    chroma = torch.hypot(a, b)
    hue = torch.rad2deg(torch.atan2(b, a)) % 360

    names = torch.full_like(lightness, _INDEX["pink"], dtype=torch.uint8)  # hues from 345 round to 20 degrees

    def put(name: str, where: torch.Tensor) -> None:
        names[where] = _INDEX[name]

    def hues(low: float, high: float) -> torch.Tensor:
        return (low <= hue) & (hue < high)

    put("purple", ((hue >= 345) | (hue < 20)) & (lightness < 42))
    put("red", hues(20, 45))
    put("pink", hues(20, 45) & (lightness > 63))
    put("brown", hues(20, 45) & (lightness < 48) & (chroma < 60))
    put("orange", hues(45, 82))
    put("brown", hues(45, 82) & (lightness < 62) & (chroma < 75))
    put("yellow", hues(82, 112))
    put("brown", hues(45, 90) & (lightness < 80) & (chroma < 40))
    put("brown", hues(82, 95) & (lightness < 60))
    put("green", hues(95, 112) & (lightness < 65))
    put("green", hues(112, 185))
    put("blue", hues(185, 309))
    put("purple", hues(309, 345))
    put("pink", hues(309, 345) & (lightness > 65))
    weak = chroma < torch.where(lightness > 86, 13.0, 10.0)
    put("grey", weak)
    put("white", weak & (lightness > 86))
    put("black", (lightness < 10) & (chroma < 30) | (lightness < 24) & (chroma < 15))
    return names
