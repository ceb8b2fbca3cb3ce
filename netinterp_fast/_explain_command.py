"""`netinterp-fast explain`: photos to pictures that show which pixels speak for a class.

`METHODS` names the ways to explain; another one is one more entry.
"""

from __future__ import annotations

import argparse
import io
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from .data import load_model
from .data.io import open_image
from .visual import heatmap

_SHOWN = 448  # pixels: the least side of each half of a picture
_GAP = 8  # pixels between the halves
_LARGEST = 1 << 13  # a larger input side is a mistake
_BOXED = ("epsilon_gamma_box", "deep_taylor")  # composites that depend on the range of the inputs
_ORIENTATION = 0x0112  # in EXIF
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Preparation(NamedTuple):
    """How a photo becomes what the model receives: its central square resized to [size, size], (rgb - mean) / std."""

    size: int
    mean: Sequence[float]
    std: Sequence[float]

    def check(self) -> None:
        if not 1 <= self.size <= _LARGEST:
            raise ValueError(f"--size is {self.size}; expected a number of pixels from 1 to {_LARGEST}")
        if not all(math.isfinite(v) for v in (*self.mean, *self.std)) or min(self.std) <= 0:
            raise ValueError(f"--mean is {self.mean}, --std {self.std}; expected finite numbers, those of std positive")

    def inputs(self, photo: Image.Image) -> torch.Tensor:
        """An RGB photo as float32 [1, 3, size, size]."""
        pixels = np.array(central_square(photo, self.size))
        return self._normalised(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)

    def bounds(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What black and white become: the lowest and the highest input, [1, 3, 1, 1] each."""
        black = torch.zeros(1, 3, 1, 1)
        return self._normalised(black), self._normalised(black + 1)

    def _normalised(self, rgb: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.tensor(v, dtype=torch.float32).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return ((rgb - mean) / std).contiguous()


def _lrp(
    model: torch.nn.Module, inputs: torch.Tensor, target: int, preparation: Preparation, options: argparse.Namespace
) -> torch.Tensor:
    from . import lrp

    composite = options.composite or "epsilon_plus_flat"
    if composite in _BOXED:
        from . import composites

        low, high = (bound.to(inputs.device) for bound in preparation.bounds())
        composite = getattr(composites, composite)(low=low, high=high)
    return lrp(model, inputs, target, composite=composite)


def _by_function(name: str, **settings: object) -> Callable[..., torch.Tensor]:
    """A function of the package by its name, with its defaults but for some settings."""

    def method(
        model: torch.nn.Module, inputs: torch.Tensor, target: int, preparation: Preparation, options: argparse.Namespace
    ) -> torch.Tensor:
        import netinterp_fast

        return getattr(netinterp_fast, name)(model, inputs, target, **settings)

    return method


# What explains inputs [1, 3, size, size], by name: function(model, inputs, target, preparation, options) that returns
# relevance of the inputs' shape; `options` are those of the command line.
METHODS: dict[str, Callable[..., torch.Tensor]] = {
    "lrp": _lrp,
    "rect_grad": _by_function("rect_grad", quantile=0.98),  # the paper's
    **{
        name: _by_function(name)
        for name in (
            "saliency", "input_x_gradient", "deconvnet", "guided_backprop", "smoothgrad", "integrated_gradients",
            "deep_lift",
        )
    },
}  # fmt: skip


def explain(options: argparse.Namespace, preparation: Preparation) -> int:
    """Explain the photos options.images; returns the exit code.

    Each picture is written whole or not at all, and none before all photos could be read. Raises ValueError, TypeError,
    OSError or ImportError for what is wrong with the options or the files.
    """
    preparation.check()
    if options.composite and options.method != "lrp":
        raise ValueError(f"--composite is for --method lrp; the method is {options.method}")
    target = _target(options.target)
    names = _class_names(options)
    pictures = _pictures(options)
    for file in pictures:
        read_photo(file)
    model = _on_device(load_model(options.model, options.weights), options.device)
    explainer = _Explainer(model, preparation, target, names, options)
    for file, picture in pictures.items():
        found, content = explainer.explain(file)
        _save(content, picture)
        print(f"{file}: {found}, written to {picture}", flush=True)
    return 0


def _target(text: str) -> int | None:
    """The index of a class, None for the model's own choice."""
    if text == "top":
        return None
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"--target is {text!r}; expected top or the index of a class, from 0")
    return int(text)


def _class_names(options: argparse.Namespace) -> list[str] | None:
    """The names of the model's classes in order, where they are known."""
    if options.labels:
        try:
            lines = Path(options.labels).read_text(encoding="utf-8-sig").rstrip().split("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"--labels {options.labels} is not a UTF-8 text ({error})") from None
        return [re.sub(r"^n\d{8}\s+", "", line.strip()) for line in lines]
    if options.model == "demo":
        from .demo.vocabulary import CATEGORIES

        return list(CATEGORIES["scene"])
    return None


def _pictures(options: argparse.Namespace) -> dict[Path, Path]:
    """Photo -> picture to write, each of them checked to be free (or to be replaced, by --force)."""
    out = Path(options.out) if options.out else None
    if out and out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out is {options.out!r}, which is a file; expected a folder")
    pictures = {file: (out or file.parent) / f"{file.stem}-{options.method}.png" for file in map(Path, options.images)}
    photos = {file.resolve() for file in pictures}
    written: dict[Path, Path] = {}
    for file, picture in pictures.items():
        place = picture.resolve()
        if place in photos:
            raise FileExistsError(f"{picture}, the picture for {file}, is itself among the photos")
        if place in written:
            raise FileExistsError(
                f"{written[place]} and {file} would both be written to {picture}; explain one at a time"
            )
        if picture.exists() and not options.force:
            raise FileExistsError(f"{picture} exists; choose another folder by --out, or replace it by --force")
        written[place] = file
    return pictures


def read_photo(file: Path) -> Image.Image:
    """A decoded RGB photo, upright as its EXIF orientation has it."""
    with open_image(file) as image:
        photo = image.convert("RGB")
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION))  # ImageOps would write the EXIF anew: damage stops it
    return photo if turn is None else photo.transpose(turn)


def central_square(photo: Image.Image, size: int) -> Image.Image:
    """The middle [size, size] of a photo whose shorter side is resized to `size`, bilinearly.

    No more than the square is computed, so that a very long photo needs no more memory than others.
    """
    side = min(photo.size)
    left, top = (photo.width - side) / 2, (photo.height - side) / 2
    box = (left, top, left + side, top + side)
    return photo.resize((size, size), Image.Resampling.BILINEAR, box=box)


def _on_device(model: torch.nn.Module, device: str | None) -> torch.nn.Module:
    try:
        return model.to(device or "cpu")
    except (RuntimeError, AssertionError) as error:  # the latter from a torch without that kind of device
        raise ValueError(f"--device is {device!r}: {error}") from error


class _Explainer(NamedTuple):
    """What stays the same from photo to photo."""

    model: torch.nn.Module
    preparation: Preparation
    target: int | None
    names: list[str] | None
    options: argparse.Namespace

    def explain(self, file: Path) -> tuple[str, Image.Image]:
        """The class and its score as text, and the picture."""
        photo = read_photo(file)
        inputs = self.preparation.inputs(photo).to(self.options.device or "cpu")
        try:
            target, score = self._class_and_score(inputs)
            method = METHODS[self.options.method]
            heat = heatmap(method(self.model, inputs, target, self.preparation, self.options)[0])
        except (ValueError, RuntimeError) as error:  # the latter where a layer cannot take inputs of this shape
            raise ValueError(f"{file}: {error}") from error
        name = f" ({self.names[target]})" if self.names else ""
        return f"class {target}{name}, score {score:.4g}", beside(photo, heat)

    def _class_and_score(self, inputs: torch.Tensor) -> tuple[int, float]:
        """The class to explain and its output for inputs [1, 3, size, size]."""
        with torch.no_grad():
            outputs = self.model(inputs)
        if not isinstance(outputs, torch.Tensor) or outputs.dim() != 2 or len(outputs) != 1 or outputs.numel() == 0:
            found = list(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
            raise ValueError(f"the model returned {found}; a classifier must return [1, classes] for one image")
        scores = outputs[0]
        if not scores.isfinite().all():
            raise ValueError("the model's outputs are not all finite")
        if self.names and len(self.names) != len(scores):
            raise ValueError(f"--labels has {len(self.names)} class names; the model has {len(scores)} outputs")
        target = int(scores.argmax()) if self.target is None else self.target
        if target >= len(scores):
            raise ValueError(f"--target is {target}; the model has the classes 0 to {len(scores) - 1}")
        return target, float(scores[target])


def beside(photo: Image.Image, heat: Image.Image) -> Image.Image:
    """The photo's central square on the left and its heat map on the right, of the same size.

    A small map is enlarged by a whole factor, its pixels kept as squares.
    """
    side = heat.width * max(1, math.ceil(_SHOWN / heat.width))
    picture = Image.new("RGB", (2 * side + _GAP, side), "white")
    picture.paste(central_square(photo, side), (0, 0))
    picture.paste(heat.resize((side, side), Image.Resampling.NEAREST), (side + _GAP, 0))
    return picture


def _save(picture: Image.Image, path: Path) -> None:
    """Write a PNG that appears complete or not at all."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(file.getvalue())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
