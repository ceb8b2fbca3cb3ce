import numpy as np
import pytest

from netinterp_fast.data import BrodenDataset, SegmentationFolder, TextureFolder, open_dataset

PICTURE = np.zeros((4, 4, 3), dtype=np.uint8)
ZEROS = np.zeros((4, 4), dtype=np.uint8)


def test_broden(tmp_path, write_image, write_csv):
    write_image(tmp_path / "images" / "a.png", PICTURE)
    header = ("image", "split", "ih", "iw", "sh", "sw", "scene")
    write_csv(tmp_path / "index.csv", header, ("a.png", "train", 4, 4, 4, 4, 1))
    write_csv(tmp_path / "category.csv", ("name",), ("scene",))
    write_csv(tmp_path / "label.csv", ("number", "name", "category"), (1, "street", "scene(1)"))
    data = open_dataset(tmp_path, 6)
    assert isinstance(data, BrodenDataset)
    assert data[0].image.shape == (3, 6, 6)
    assert data[0].labels.shape == (0, 4, 4)


def test_segmentation(tmp_path, write_image, write_csv):
    write_csv(tmp_path / "classes.csv", ("id", "name", "category"), (1, "sky", "object"))
    with pytest.raises(FileNotFoundError, match="no folder 'images'"):
        open_dataset(tmp_path)
    write_image(tmp_path / "images" / "a.png", PICTURE)
    write_image(tmp_path / "labels" / "a.png", ZEROS)
    data = open_dataset(tmp_path, mean=(0, 0, 0), std=(1, 1, 1))
    assert isinstance(data, SegmentationFolder)
    assert data[0].image.shape == (3, 224, 224)
    assert data[0].image.abs().max() == 0


def test_textures(tmp_path, write_image):
    write_image(tmp_path / "banded" / "a.png", PICTURE)
    assert isinstance(open_dataset(tmp_path), TextureFolder)


def test_unknown(tmp_path, write_image):
    with pytest.raises(ValueError, match=r"index\.csv.*classes\.csv.*one subfolder of images a label"):
        open_dataset(tmp_path)
    write_image(tmp_path / "images" / "a.png", PICTURE)
    write_image(tmp_path / "labels" / "a.png", ZEROS)  # a segmentation folder without classes.csv, no textures
    with pytest.raises(ValueError, match="no data set of a known format"):
        open_dataset(tmp_path)
    with pytest.raises(FileNotFoundError, match="expected an existing folder"):
        open_dataset(tmp_path / "nowhere")
