"""Reading files of a data set safely: paths stay inside its root, and the size of an image is bounded before
it is decoded.

Whatever is wrong with a file is said in one line that names it: a FileNotFoundError where it is missing, a
ValueError where its content is not what it must be.
"""

from __future__ import annotations

import csv
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

MAX_PIXELS = 1 << 26  # 8192 x 8192: 192 MiB once decoded to RGB

# What Pillow's JPEG and PNG readers raise for damaged files.
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def existing_folder(root: str | os.PathLike) -> Path:
    """`root` as a resolved path. Raises FileNotFoundError where it is no folder."""
    folder = Path(root)
    if not folder.is_dir():
        raise FileNotFoundError(f"root is {os.fspath(root)!r}; expected an existing folder")
    return folder.resolve()


def resolve_inside(root: Path, relative: str) -> Path:
    """The file `relative` (with forward slashes) under `root`, a resolved path, with links followed.

    Raises ValueError for an absolute path, for one with `..` and for one that leaves `root` through a link.
    """
    path = os.path.realpath(os.path.join(root, relative))
    leaves = path != str(root) and not path.startswith(os.path.join(root, ""))
    if leaves or os.path.isabs(relative) or ".." in relative.split("/"):
        raise ValueError(f"path {relative!r} leaves the data set's folder {root}")
    return Path(path)


def read_csv(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header, as dictionaries; ValueError where one of `columns` is missing."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                found = ", ".join(reader.fieldnames or ()) or "none"
                raise ValueError(f"it has no column {', '.join(missing)}; its columns are {found}")
            rows = list(reader)
        for number, row in enumerate(rows, start=1):
            if None in row or None in row.values():
                raise ValueError(f"row {number} does not have {len(reader.fieldnames)} cells")
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: {error}") from error
    return rows


def integer(text: str, smallest: int, largest: int, where: str) -> int:
    """A CSV cell as an integer in [smallest, largest]; ValueError, with `where` in front, if it is none."""
    try:
        value = int(text)
    except ValueError:
        value = None
    if value is None or not smallest <= value <= largest:
        raise ValueError(f"{where} is {text!r}; expected an integer from {smallest} to {largest}")
    return value


@contextmanager
def open_image(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open a JPEG or PNG file, not yet decoded, its size checked from the header.

    Errors of decoding inside the `with` block, and any ValueError there, leave it as a ValueError that names
    the file.
    """
    with open(path, "rb") as file:
        try:
            image = Image.open(file, formats=("JPEG", "PNG"))
            if image.width * image.height > max_pixels:
                raise ValueError(f"{image.width} x {image.height} pixels; at most {max_pixels} are decoded")
            yield image
        except Image.UnidentifiedImageError as error:
            raise ValueError(f"{path}: not a JPEG or PNG image") from error
        except _DECODING_ERRORS as error:
            raise ValueError(f"{path}: {' '.join(str(error).split())}") from error


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A decoded RGB image. EXIF orientation is not applied, so that the pixels match those of a label map."""
    with open_image(path, max_pixels) as image:
        return image.convert("RGB")


def list_images(folder: Path) -> list[str]:
    """The names of the files .jpg, .jpeg and .png (in any case) in `folder`, sorted."""
    files = (entry.name for entry in os.scandir(folder) if entry.is_file())
    return sorted(name for name in files if name.lower().endswith((".jpg", ".jpeg", ".png")))
