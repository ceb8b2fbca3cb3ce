import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from netinterp_fast.data import IMAGENET_MEAN, IMAGENET_STD, BrodenDataset, Concept, to_rgb

HEADER = ("image", "split", "ih", "iw", "sh", "sw", "object", "part", "scene")
rng = np.random.default_rng(0)
OBJECTS = rng.choice([0, 2, 300], (4, 6))
PARTS = rng.choice([0, 3], (4, 6))
FINE_PARTS = rng.choice([0, 511, 1000], (4, 6))
PICTURE = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)


def encode(labels: np.ndarray) -> np.ndarray:
    """R + 256 G, with something in B that readers must ignore."""
    return np.stack([labels % 256, labels // 256, np.full_like(labels, 9)], axis=-1).astype(np.uint8)


@pytest.fixture
def root(tmp_path, write_image, write_csv):
    """Two images: one with three label maps and a whole-image label, one with whole-image labels alone."""
    images = tmp_path / "images"
    write_image(images / "ade" / "a.png", PICTURE)
    write_image(images / "ade" / "b.jpg", PICTURE)
    for name, labels in {"a_object": OBJECTS, "a_part1": PARTS, "a_part2": FINE_PARTS}.items():
        write_image(images / "ade" / f"{name}.png", encode(labels))
    write_csv(
        tmp_path / "index.csv",
        HEADER,
        ("ade/a.png", "train", 8, 12, 4, 6, "ade/a_object.png", "ade/a_part1.png;ade/a_part2.png", 700),
        ("ade/b.jpg", "val", 8, 12, 4, 6, "", "", "0;701;700"),
    )
    write_csv(
        tmp_path / "category.csv",
        ("name", "first", "last", "count", "frequency"),
        *[(c, 0, 0, 0, 0) for c in HEADER[6:]],
    )
    write_csv(
        tmp_path / "label.csv",
        ("number", "name", "category", "frequency", "coverage", "syns"),
        (0, "-", "", 0, 0, ""),
        (2, "cat", "object(2)", 0, 0, "cat;puss"),
        (3, "leg", "part(9);object(2)", 0, 0, ""),
        (300, "head", "object(5);part(9)", 0, 0, ""),
        (511, "eye", "part(1)", 0, 0, ""),
        (1000, "wheel", "object(4);part(4)", 0, 0, ""),
        (700, "street", "scene(2)", 0, 0, ""),
        (701, "room", "scene(2)", 0, 0, ""),
    )
    header = ("code", "number", "name", "frequency", "coverage")
    write_csv(tmp_path / "c_object.csv", header, (0, 300, "head", 5, "80.5"), (1, 1000, "wheel", 4, "3e-1"))
    write_csv(tmp_path / "c_part.csv", header, (0, 300, "head", 9, "2.0"), (1, 1000, "wheel", 4, "0.3"))
    return tmp_path


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_items(root):
    data = BrodenDataset(root, size=8)
    assert len(data) == 2
    assert data.name(0) == "ade/a.png"

    image, labels, image_labels = data[0]
    assert image.shape == (3, 8, 8)
    assert image.dtype == torch.float32
    assert labels.dtype == torch.int16
    assert np.array_equal(labels, np.stack([OBJECTS, PARTS, FINE_PARTS]))
    assert image_labels.tolist() == [700, 0]

    _, labels, image_labels = data[1]
    assert labels.shape == (3, 4, 6)
    assert labels.count_nonzero() == 0
    assert image_labels.tolist() == [701, 700]  # the 0 is "unlabelled"


def test_image_is_resized_and_normalised(root):
    data = BrodenDataset(root, size=5)
    resized = np.array(Image.fromarray(PICTURE).resize((5, 5), Image.Resampling.BILINEAR))
    rgb = torch.from_numpy(resized).permute(2, 0, 1)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    image = data[0].image
    torch.testing.assert_close(image, (rgb / 255 - mean) / std)
    assert torch.equal(to_rgb(image, data), rgb)


def test_primary_category(root):
    concepts = {c.name: c for c in BrodenDataset(root).concepts}
    assert concepts["head"] == Concept(300, "head", "object")  # by coverage, though part has the larger number
    assert concepts["leg"].category == "part"  # no coverage is known: by the number
    assert concepts["wheel"].category == "object"  # equal: the first
    assert "-" not in concepts
    (root / "c_object.csv").unlink()
    (root / "c_part.csv").unlink()
    assert {c.name: c.category for c in BrodenDataset(root).concepts}["head"] == "part"


def test_categories(root):
    data = BrodenDataset(root, categories=["part"])
    assert {c.name: c.category for c in data.concepts} == dict.fromkeys(["leg", "head", "eye", "wheel"], "part")
    _, labels, image_labels = data[0]
    assert np.array_equal(labels, np.stack([PARTS, FINE_PARTS]))
    assert image_labels.shape == (0,)
    with pytest.raises(ValueError, match=r"categories is \['parts'\]; .*category.csv has object, part, scene"):
        BrodenDataset(root, categories=["parts"])


def test_split_keeps_the_shapes(root):
    data = BrodenDataset(root, split="val")
    assert [data.name(i) for i in range(len(data))] == ["ade/b.jpg"]
    assert data[0].labels.shape == (3, 4, 6)
    with pytest.raises(ValueError, match=r"split is 'test'; .*index.csv has train, val"):
        BrodenDataset(root, split="test")


def test_largest_id_does_not_overflow(root, write_image):
    edit(root / "label.csv", "1000,wheel", "65535,wheel")
    write_image(root / "images" / "ade" / "a_part2.png", np.full((4, 6, 3), 255, np.uint8))
    labels = BrodenDataset(root)[0].labels
    assert labels.dtype == torch.int32
    assert (labels[2] == 65535).all()


def test_loads_with_workers(root):
    image, labels, image_labels = next(iter(DataLoader(BrodenDataset(root, size=8), 2, num_workers=1)))
    assert image.shape == (2, 3, 8, 8)
    assert labels.shape == (2, 3, 4, 6)
    assert image_labels.tolist() == [[700, 0], [701, 700]]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("label.csv", "511,eye", "x,eye", "label.csv: number in row 5 is 'x'; expected an integer"),
        ("label.csv", "511,eye", "65536,eye", "number in row 5 is '65536'"),
        ("label.csv", "511,eye", "300,eye", "label.csv .* defines the id 300 twice"),
        ("label.csv", "part(1)", "part", r"category in row 5 is 'part'; expected name\(number\)"),
        ("label.csv", "number,", "nr,", "label.csv: it has no column number"),
        ("label.csv", "701,room", "702,room", "index.csv: the row of ade/b.jpg holds the label 701"),
        ("c_part.csv", "2.0", "lots", "c_part.csv: coverage in row 1 is 'lots'; expected a number"),
        ("category.csv", "scene", "texture", "index.csv: it has no column texture"),
        ("index.csv", "8,12,4,6,,", "8,12,4,7,,", r"index.csv: .* sizes \(sh x sw\) 4 x 6, 4 x 7"),
        ("index.csv", "4,6", "4,x", "index.csv: sw is 'x'"),
        ("index.csv", "0;701", "0;99999999999999999999", "label of ade/b.jpg is '9+'"),
    ],
)
def test_wrong_tables(root, file, old, new, message):
    edit(root / file, old, new)
    with pytest.raises(ValueError, match=message):
        BrodenDataset(root)


def test_empty_index(root, write_csv):
    write_csv(root / "index.csv", HEADER)
    with pytest.raises(ValueError, match=r"index\.csv has no rows"):
        BrodenDataset(root)


def test_missing_files(root):
    (root / "images" / "ade" / "a_part2.png").unlink()
    data = BrodenDataset(root)
    with pytest.raises(FileNotFoundError, match="a_part2"):
        data[0]
    (root / "label.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"label\.csv"):
        BrodenDataset(root)
    with pytest.raises(FileNotFoundError, match=r"nowhere.*expected an existing folder"):
        BrodenDataset(root / "nowhere")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (encode(np.full((4, 6), 44)), "a_object.png holds the label 44, which .*label.csv"),
        (encode(np.full((4, 6), 60000)), "a_object.png holds the label 60000"),
        (encode(OBJECTS.T), "a_object.png: 4 x 6 pixels, but index.csv says sw x sh = 6 x 4"),
        (OBJECTS.astype(np.uint8), "a_object.png: a label map must be an RGB image, this one has the mode L"),
    ],
)
def test_wrong_label_maps(root, write_image, mask, message):
    write_image(root / "images" / "ade" / "a_object.png", mask)
    with pytest.raises(ValueError, match=message):
        BrodenDataset(root)[0]


@pytest.mark.parametrize("path", ["../label.csv", "/etc/hostname", "link.png"])
@pytest.mark.parametrize("column", ["ade/a.png", "ade/a_object.png"])
def test_paths_outside(root, path, column, tmp_path_factory):
    (root / "images" / "link.png").symlink_to(tmp_path_factory.mktemp("outside") / "x.png")
    edit(root / "index.csv", column, path)
    data = BrodenDataset(root)
    with pytest.raises(ValueError, match=f"{path}' leaves the data set's folder"):
        data[0]


@pytest.mark.parametrize(
    "arguments",
    [{"size": 0}, {"size": 1.5}, {"mean": (0, 0)}, {"std": (1, 1, 0)}],
    ids=lambda a: next(iter(a)),
)
def test_wrong_arguments(root, arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} .*expected"):
        BrodenDataset(root, **arguments)
