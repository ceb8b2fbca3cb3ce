import csv

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from netinterp_fast.data import Concept, SegmentationFolder, TextureFolder, open_dataset
from netinterp_fast.data.labels import resize_nearest

rng = np.random.default_rng(0)
PICTURE = rng.integers(0, 255, (6, 9, 3), dtype=np.uint8)
LABELS = rng.choice([0, 1, 7], (6, 9)).astype(np.uint8)


@pytest.fixture
def root(tmp_path, write_image, write_csv):
    for name in ("a.jpg", "b.png", "c.JPEG"):
        write_image(tmp_path / "images" / name, PICTURE)
    paletted = Image.fromarray(LABELS).convert("P")
    paletted.putpalette(list(range(200, 224)))  # the palette says nothing about the ids
    (tmp_path / "labels").mkdir()
    paletted.save(tmp_path / "labels" / "a.png")
    write_image(tmp_path / "labels" / "b.png", LABELS)
    write_image(tmp_path / "labels" / "c.png", LABELS.astype(np.uint16))
    write_csv(
        tmp_path / "classes.csv",
        ("id", "name", "category", "images"),
        (0, "void", "void", 3),
        (7, "sky", "object", 3),
        (1, "eye", "part", 3),
    )
    return tmp_path


def test_segmentation_items(root):
    data = SegmentationFolder(root, size=6)
    assert data.concepts == [Concept(7, "sky", "object"), Concept(1, "eye", "part")]
    assert [data.name(i) for i in range(len(data))] == ["a", "b", "c"]
    centres = LABELS[:, [0, 2, 3, 5, 6, 8]]  # of six columns over nine
    for image, labels, image_labels in data:
        assert image.shape == (3, 6, 6)
        assert labels.dtype == torch.uint8
        assert np.array_equal(labels[0], centres)
        assert image_labels.shape == (0,)


def test_segmentation_with_large_ids(root, write_image, write_csv):
    write_csv(root / "classes.csv", ("id", "name", "category"), (300, "x", "object"), (40000, "y", "object"))
    for name in "abc":
        write_image(root / "labels" / f"{name}.png", np.where(LABELS, 40000, 300).astype(np.uint16))
    labels = SegmentationFolder(root, size=6)[1].labels
    assert labels.dtype == torch.int32
    assert labels.unique().tolist() == [300, 40000]


@pytest.mark.parametrize(("height", "width", "size"), [(6, 9, 6), (4, 4, 8), (5, 3, 11), (10, 7, 1)])
def test_resize_nearest_agrees_with_pillow(height, width, size):
    labels = rng.integers(0, 255, (height, width), dtype=np.uint8)
    expected = Image.fromarray(labels).resize((size, size), Image.Resampling.NEAREST)
    assert np.array_equal(resize_nearest(labels, size), expected)


def test_segmentation_loads_with_workers(root):
    image, labels, image_labels = next(iter(DataLoader(SegmentationFolder(root, size=6), 3, num_workers=1)))
    assert image.shape == (3, 3, 6, 6)
    assert labels.shape == (3, 1, 6, 6)
    assert image_labels.shape == (3, 0)


def test_label_of_another_size(root, write_image):
    write_image(root / "labels" / "b.png", LABELS[:5])
    with pytest.raises(ValueError, match=r"images/b.png has 9 x 6 pixels, labels/b.png 9 x 5"):
        SegmentationFolder(root)[1]


def test_unknown_id(root, write_image):
    write_image(root / "labels" / "b.png", LABELS + np.uint8(4))
    with pytest.raises(ValueError, match=r"labels/b.png holds the label 4, which .*classes.csv does not define"):
        SegmentationFolder(root)[1]


def test_label_maps_whose_values_are_no_ids(root, write_image):
    write_image(root / "labels" / "a.png", PICTURE)
    Image.fromarray(LABELS > 0).save(root / "labels" / "b.png")  # 1 bit
    Image.fromarray(LABELS).save(root / "labels" / "c.png", format="JPEG")
    data = SegmentationFolder(root)
    for i in range(3):
        with pytest.raises(ValueError, match=r"labels/.\.png: a label map must be a PNG, paletted or grey"):
            data[i]


def test_grey_of_four_bits_is_refused(root, encode_png):
    """Pillow reads such values multiplied by 17."""
    (root / "labels" / "a.png").write_bytes(encode_png(9, 6, 4, 0, b"\0\x17\x17\x17\x17\x10" * 6))
    with pytest.raises(ValueError, match="grey of 8 or 16 bits"):
        SegmentationFolder(root)[0]


def test_missing_and_ambiguous_files(root, write_image):
    write_image(root / "images" / "a.png", PICTURE)
    with pytest.raises(ValueError, match=r"a.jpg and a.png share the label map a.png"):
        SegmentationFolder(root)
    (root / "images" / "a.png").unlink()
    (root / "labels" / "c.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no c.png, the label map of images/c.JPEG"):
        SegmentationFolder(root)
    for image in (root / "images").iterdir():
        image.unlink()
    with pytest.raises(ValueError, match="images has no images"):
        SegmentationFolder(root)
    (root / "images").rmdir()
    with pytest.raises(FileNotFoundError, match="no folder 'images'"):
        SegmentationFolder(root)


def test_links_out_of_the_root(root, tmp_path_factory, write_image):
    outside = tmp_path_factory.mktemp("outside")
    write_image(outside / "x.png", LABELS)
    (root / "labels" / "b.png").unlink()
    (root / "labels" / "b.png").symlink_to(outside / "x.png")
    with pytest.raises(ValueError, match=r"labels/b.png' leaves the data set's folder"):
        SegmentationFolder(root)[1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((-1, "x", "object"), r"classes\.csv: id in row 1 is '-1'"),
        ((70000, "x", "object"), "expected an integer from 0 to 65535"),
    ],
)
def test_wrong_classes(root, write_csv, row, message):
    write_csv(root / "classes.csv", ("id", "name", "category"), row)
    with pytest.raises(ValueError, match=message):
        SegmentationFolder(root)


def test_class_defined_twice(root, write_csv):
    write_csv(root / "classes.csv", ("id", "name", "category"), (3, "x", "object"), (3, "y", "object"))
    with pytest.raises(ValueError, match=r"classes\.csv defines the id 3 twice"):
        SegmentationFolder(root)


def test_textures(tmp_path, write_image):
    for path in ("woven/1.png", "banded/2.jpg", "banded/1.jpg", "empty/readme.png/x.jpg"):
        write_image(tmp_path / path, PICTURE)
    (tmp_path / "notes.txt").touch()
    data = TextureFolder(tmp_path, size=5, category="pattern")
    assert data.concepts == [Concept(1, "banded", "pattern"), Concept(2, "woven", "pattern")]
    assert [data.name(i) for i in range(len(data))] == ["banded/1.jpg", "banded/2.jpg", "woven/1.png"]
    image, labels, image_labels = next(iter(DataLoader(data, 3)))
    assert image.shape == (3, 3, 5, 5)
    assert labels.shape == (3, 0, 5, 5)
    assert image_labels.tolist() == [[1], [1], [2]]


def test_textures_of_an_empty_folder(tmp_path):
    with pytest.raises(ValueError, match="has no subfolder with images"):
        TextureFolder(tmp_path)


def test_texture_folder_that_links_outside(tmp_path, write_image):
    write_image(tmp_path / "outside" / "1.png", PICTURE)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "banded").symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match="'banded' leaves the data set's folder"):
        TextureFolder(tmp_path / "root")


def test_msrc(real_data):
    data = open_dataset(real_data / "msrc_v2")
    assert len(data) == 591
    images, pixels = np.zeros((2, 24), dtype=np.int64)
    for sample in data:
        assert sample.labels.shape == (1, 224, 224)
        area = np.bincount(sample.labels.flatten(), minlength=24)
        images += area > 0
        pixels += area
    with open(real_data / "msrc_v2" / "classes.csv") as file:
        for row in csv.DictReader(file):
            assert (images[int(row["id"])], pixels[int(row["id"])]) == (
                int(row["images"]),
                int(row["pixels"]),
            )


def test_dtd(real_data):
    data = open_dataset(real_data / "dtd10")
    assert len(data) == 300
    assert len(data.concepts) == 10
    assert data[299].image_labels.tolist() == [10]
    assert data.name(299).startswith("crystalline/")
