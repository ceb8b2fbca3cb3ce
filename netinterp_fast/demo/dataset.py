"""Writes the demo data set: painted pictures with exact masks in the directory format of Broden."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..data.colours import name_colours
from .canvas import SIZE, Picture
from .scenes import paint
from .vocabulary import CATEGORIES, NUMBERS

DEMO_VERSION = 1  # of the painter and the files: changes whenever their bytes do
DEMO_IMAGES = 504  # 36 pictures of each scene

_MARKER = "demo.json"
_MASKED = tuple(category for category in CATEGORIES if category != "scene")
_NAMES = {number: name for (_, name), number in NUMBERS.items()}


def write_demo_dataset(
    root: str | os.PathLike,
    n_images: int = DEMO_IMAGES,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `n_images` painted pictures with their masks as a Broden folder at `root` and return its path.

        root/index.csv  category.csv  label.csv  c_<category>.csv  demo.json
        root/images/<scene>_<index>.png             the picture, 112 x 112
        root/images/<scene>_<index>_<category>.png  concept numbers, R + 256 G, 0 = unlabelled

    The scene is a label of the whole image, the other categories label pixels: objects, their parts,
    materials, textures, and the basic colour of every pixel. The same arguments give the same bytes. The
    folder appears complete or not at all; one that already holds the same data set is left as it is.
    `progress(done, n_images)` is called after each picture.

    Raises ValueError for a bad number and FileExistsError where `root` holds anything else.
    """
    if not isinstance(n_images, int) or n_images < 1:
        raise ValueError(f"n_images is {n_images!r}; expected an integer >= 1")
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed is {seed!r}; expected an integer >= 0")
    root = Path(root)
    marker = {"version": DEMO_VERSION, "n_images": n_images, "seed": seed}
    if _holds(root, marker):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as work:
        folder = Path(work) / root.name
        (folder / "images").mkdir(parents=True)
        _write_files(folder, n_images, seed, progress)
        (folder / _MARKER).write_text(json.dumps(marker) + "\n", encoding="utf-8")
        try:
            folder.rename(root)
        except OSError:
            if not _holds(root, marker):  # another process may have written the same in the meantime
                raise
    return root


def _holds(root: Path, marker: dict) -> bool:
    """Whether `root` is the data set of `marker`; FileExistsError where it is anything else but empty."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        if json.loads((root / _MARKER).read_text(encoding="utf-8")) == marker:
            return True
    except (OSError, ValueError):
        pass
    raise FileExistsError(f"root is {os.fspath(root)!r}; it exists and does not hold the demo data set {marker}")


def _write_files(folder: Path, n_images: int, seed: int, progress: Callable[[int, int], None] | None) -> None:
    rows = []
    pixels = np.zeros((n_images, len(NUMBERS) + 1), np.int64)  # of each concept in each picture
    for index in range(n_images):
        picture = paint(index, seed)
        masks = picture.masks | {"colour": colour_mask(picture)}
        name = f"{_NAMES[picture.scene].replace(' ', '_')}_{index:05d}"
        row = {"image": f"{name}.png", "split": "val" if index % 5 == 4 else "train", "scene": picture.scene}
        row |= dict.fromkeys(("ih", "iw", "sh", "sw"), SIZE)
        _save_png(picture.rgb, folder / "images" / row["image"])
        pixels[index, picture.scene] = SIZE * SIZE
        for category, mask in masks.items():
            if mask.any():
                row[category] = f"{name}_{category}.png"
                _save_png(_encode(mask), folder / "images" / row[category])
            pixels[index] += np.bincount(mask[mask > 0], minlength=pixels.shape[1])
        rows.append(row)
        if progress:
            progress(index + 1, n_images)
    columns = ("image", "split", "ih", "iw", "sh", "sw", *CATEGORIES)
    _write_csv(folder / "index.csv", columns, rows)
    _write_statistics(folder, pixels)


def colour_mask(picture: Picture) -> np.ndarray:
    """The number of the basic colour of each pixel, int64 [SIZE, SIZE]."""
    colours = name_colours(torch.from_numpy(np.moveaxis(picture.rgb, 2, 0).copy()))
    return colours.numpy().astype(np.int64) + NUMBERS["colour", CATEGORIES["colour"][0]] - 1


def _encode(mask: np.ndarray) -> np.ndarray:
    """Concept numbers as colours: R + 256 G."""
    return np.stack([mask % 256, mask // 256, np.zeros_like(mask)], axis=2).astype(np.uint8)


def _save_png(rgb: np.ndarray, path: Path) -> None:
    Image.fromarray(rgb).save(path, compress_level=1)


def _write_csv(path: Path, columns: tuple[str, ...], rows: Iterable[dict]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_statistics(folder: Path, pixels: np.ndarray) -> None:
    """label.csv, category.csv and c_<category>.csv from the pixel counts [n_images, numbers]."""
    frequency = (pixels > 0).sum(0)
    coverage = pixels.sum(0) / (SIZE * SIZE)
    labels, categories = [], []
    for category, names in CATEGORIES.items():
        rows = []
        for code, name in enumerate(names):
            number = NUMBERS[category, name]
            rows.append({
                "code": code, "number": number, "name": name, "category": f"{category}({frequency[number]})",
                "frequency": frequency[number], "coverage": f"{coverage[number]:.6f}", "syns": "",
            })  # fmt: skip
        _write_csv(folder / f"c_{category}.csv", ("code", "number", "name", "frequency", "coverage"), rows)
        labels += rows
        first, last = rows[0]["number"], rows[-1]["number"]
        images = int(pixels[:, first : last + 1].any(1).sum())
        categories.append({"name": category, "first": first, "last": last, "count": len(rows), "frequency": images})
    _write_csv(folder / "label.csv", ("number", "name", "category", "frequency", "coverage", "syns"), labels)
    _write_csv(folder / "category.csv", ("name", "first", "last", "count", "frequency"), categories)
