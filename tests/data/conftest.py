"""Small data sets to read: files written on the spot, and a data set in memory."""

import csv
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from netinterp_fast.data import Concept, Sample


@pytest.fixture
def write_image():
    """write_image(path, pixels): a file by its extension; uint8 [H, W, 3] or [H, W], or uint16 [H, W]."""

    def write(path: Path, pixels: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)

    return write


@pytest.fixture
def encode_png():
    """encode_png(width, height, bits, colour, rows): the bytes of a PNG file, whatever its content."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    def encode(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
        header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
        chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + chunks

    return encode


@pytest.fixture
def write_csv():
    """write_csv(path, header, *rows)."""

    def write(path: Path, *rows: tuple) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)

    return write


class MemoryDataset(torch.utils.data.Dataset):
    """Any tensors as a data set of the protocol."""

    def __init__(self, concepts, samples, **attributes):
        self.concepts = [Concept(*concept) for concept in concepts]
        self.samples = [Sample(*sample) for sample in samples]
        for name, value in attributes.items():
            setattr(self, name, value)

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


@pytest.fixture
def memory_dataset():
    return MemoryDataset


@pytest.fixture
def real_data():
    """The folder of real data sets."""
    folder = os.environ.get("NETINTERP_FAST_TEST_DATA")
    if not folder:
        pytest.skip("NETINTERP_FAST_TEST_DATA is not set")
    return Path(folder)
