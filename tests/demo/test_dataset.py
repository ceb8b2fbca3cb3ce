"""The demo data set's folder, read back with csv and Pillow alone."""

import csv
import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from netinterp_fast.data.broden import BrodenDataset
from netinterp_fast.demo import DEMO_MEAN, DEMO_SIZE, DEMO_STD, dataset, write_demo_dataset
from netinterp_fast.demo.dataset import colour_mask
from netinterp_fast.demo.scenes import paint
from netinterp_fast.demo.vocabulary import CATEGORIES, NUMBERS

N_IMAGES = 14


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_demo_dataset(tmp_path_factory.mktemp("demo") / "set", N_IMAGES)


def read(path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_mask(path) -> np.ndarray:
    rgb = np.asarray(Image.open(path)).astype(np.int64)
    assert not rgb[..., 2].any()
    return rgb[..., 0] + 256 * rgb[..., 1]


def digest(folder) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_index_and_masks_are_the_painters(root):
    rows = read(root / "index.csv")
    assert len(rows) == N_IMAGES
    assert list(rows[0]) == ["image", "split", "ih", "iw", "sh", "sw", *CATEGORIES]
    for index, row in enumerate(rows):
        picture = paint(index)
        np.testing.assert_array_equal(np.asarray(Image.open(root / "images" / row["image"])), picture.rgb)
        assert int(row["scene"]) == picture.scene
        assert {row[side] for side in ("ih", "iw", "sh", "sw")} == {str(DEMO_SIZE)}
        for category, mask in (picture.masks | {"colour": colour_mask(picture)}).items():
            assert bool(row[category]) == mask.any()
            if row[category]:
                np.testing.assert_array_equal(read_mask(root / "images" / row[category]), mask)


def test_no_file_is_missing_or_left_over(root):
    rows = read(root / "index.csv")
    named = {row[c] for row in rows for c in ("image", *CATEGORIES) if c != "scene"} - {""}
    assert {path.name for path in (root / "images").iterdir()} == named
    tables = {"index.csv", "label.csv", "category.csv", "demo.json", "images"}
    assert {path.name for path in root.iterdir()} == tables | {f"c_{c}.csv" for c in CATEGORIES}
    assert [path.name for path in root.parent.iterdir()] == [root.name]


def test_statistics_count_pictures_and_pixels(root):
    frequency, coverage = dict.fromkeys(NUMBERS, 0), dict.fromkeys(NUMBERS, 0.0)
    images = dict.fromkeys(CATEGORIES, 0)
    for row in read(root / "index.csv"):
        for category in CATEGORIES:
            if category == "scene":
                mask = np.full((DEMO_SIZE, DEMO_SIZE), int(row["scene"]))
            elif row[category]:
                mask = read_mask(root / "images" / row[category])
            else:
                continue
            images[category] += 1
            for name in CATEGORIES[category]:
                share = (mask == NUMBERS[category, name]).mean()
                frequency[category, name] += share > 0
                coverage[category, name] += share
    labels = {int(row["number"]): row for row in read(root / "label.csv")}
    assert sorted(labels) == sorted(NUMBERS.values())
    for key, number in NUMBERS.items():
        category, name = key
        row = labels[number]
        assert (row["name"], row["category"]) == (name, f"{category}({frequency[key]})")
        assert int(row["frequency"]) == frequency[key]
        assert float(row["coverage"]) == pytest.approx(coverage[key], abs=1e-6)
        entry = next(r for r in read(root / f"c_{category}.csv") if r["number"] == str(number))
        assert int(entry["code"]) == CATEGORIES[category].index(name)
        assert (entry["frequency"], entry["coverage"]) == (row["frequency"], row["coverage"])
    for row in read(root / "category.csv"):
        numbers = [NUMBERS[row["name"], name] for name in CATEGORIES[row["name"]]]
        assert [int(row[c]) for c in ("first", "last", "count")] == [min(numbers), max(numbers), len(numbers)]
        assert int(row["frequency"]) == images[row["name"]]
    assert all(images.values())


def test_the_same_arguments_give_the_same_bytes(root, tmp_path):
    files = digest(root)
    assert digest(write_demo_dataset(tmp_path / "again", N_IMAGES)) == files
    other = digest(write_demo_dataset(tmp_path / "other", N_IMAGES, seed=1))
    pictures = [f"images/{row['image']}" for row in read(root / "index.csv")]
    assert not any(other[picture] == files[picture] for picture in pictures)


def test_a_set_that_is_there_is_reused(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert write_demo_dataset(root, N_IMAGES) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


@pytest.mark.parametrize(
    "content", [{"notes.txt": "mine"}, {"demo.json": "{"}, {"demo.json": json.dumps({"version": 0})}]
)
def test_anything_else_is_left_alone(tmp_path, content):
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(FileExistsError, match="does not hold the demo data set"):
        write_demo_dataset(tmp_path, 1)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == content


def test_a_file_in_the_way_is_left_alone(tmp_path):
    (tmp_path / "set").write_text("mine")
    with pytest.raises(FileExistsError):
        write_demo_dataset(tmp_path / "set", 1)
    assert (tmp_path / "set").read_text() == "mine"


def test_other_settings_do_not_reuse(root):
    with pytest.raises(FileExistsError):
        write_demo_dataset(root, N_IMAGES, seed=1)


def test_nothing_half_written_stays(tmp_path, monkeypatch):
    def fail(index, seed):
        if index == 2:
            raise KeyboardInterrupt
        return paint(index, seed)

    monkeypatch.setattr(dataset, "paint", fail)
    with pytest.raises(KeyboardInterrupt):
        write_demo_dataset(tmp_path / "set", 4)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_pictures(tmp_path):
    seen = []
    write_demo_dataset(tmp_path / "a" / "b", 3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(("name", "value"), [("n_images", 0), ("n_images", 2.0), ("seed", -1), ("seed", "0")])
def test_bad_arguments_are_named(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        write_demo_dataset(tmp_path / "set", **{name: value})
    assert list(tmp_path.iterdir()) == []


def test_the_broden_reader_reads_it(root):
    broden = BrodenDataset(root, size=DEMO_SIZE, mean=DEMO_MEAN, std=DEMO_STD)
    assert [(c.category, c.name) for c in broden.concepts] == list(NUMBERS)
    image, labels, image_labels = broden[8]
    picture = paint(8)
    np.testing.assert_allclose(image.permute(1, 2, 0).numpy() * 0.25 + 0.5, picture.rgb / 255, atol=1e-6)
    assert image_labels.tolist() == [picture.scene]
    for mask in (picture.masks | {"colour": colour_mask(picture)}).values():
        assert any((layer.numpy() == mask).all() for layer in labels) or not mask.any()
