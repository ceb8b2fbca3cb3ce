import pytest
import torch
from PIL import ImageColor
from torch.utils.data import DataLoader

from netinterp_fast.data import COLOUR_NAMES, Concept, combine, name_colours, with_colours

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


def picture(*colours: str) -> torch.Tensor:
    """uint8 [3, 1, n]: one pixel a CSS colour."""
    return torch.tensor([ImageColor.getrgb(c) for c in colours], dtype=torch.uint8).T[:, None]


def normalised(rgb: torch.Tensor) -> torch.Tensor:
    return (rgb / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def names(indices: torch.Tensor) -> list[str]:
    return [COLOUR_NAMES[i - 1] for i in indices.flatten().tolist()]


@pytest.mark.parametrize(
    ("name", "css"),
    [
        ("black", "black #0a0a0a #101014"),
        ("blue", "blue navy royalblue skyblue lightblue steelblue"),
        ("brown", "saddlebrown sienna brown chocolate #5c4033"),
        ("grey", "grey lightgrey dimgrey silver #787c80"),
        ("green", "green lime darkgreen forestgreen limegreen lightgreen olivedrab"),
        ("orange", "orange darkorange #ff8000"),
        ("pink", "pink hotpink lightpink deeppink"),
        ("purple", "purple indigo darkviolet rebeccapurple"),
        ("red", "red crimson firebrick darkred"),
        ("white", "white snow ivory whitesmoke"),
        ("yellow", "yellow gold khaki"),
    ],
)
def test_obvious_colours(name, css):
    colours = css.split()
    assert names(name_colours(picture(*colours))) == [name] * len(colours)


def test_every_colour_has_a_name():
    cube = torch.cartesian_prod(*[torch.arange(0, 256, 5, dtype=torch.uint8)] * 3).T
    found = name_colours(cube)
    assert found.dtype == torch.uint8
    assert found.shape == (52**3,)
    assert found.unique().tolist() == list(range(1, 12))


def test_greys_are_ordered_by_lightness():
    greys = torch.arange(256, dtype=torch.uint8).expand(3, 256)
    assert list(dict.fromkeys(names(name_colours(greys)))) == ["black", "grey", "white"]


@pytest.mark.parametrize("rgb", [torch.zeros(3, 2), torch.zeros(2, 3, dtype=torch.uint8), torch.tensor(1)])
def test_name_colours_refuses(rgb):
    with pytest.raises(ValueError, match=r"rgb is .*; expected uint8 \[3, ...\]"):
        name_colours(rgb)


@pytest.fixture
def dataset(memory_dataset):
    rgb = picture("red", "green", "blue", "white").expand(3, 4, 4)
    labels = torch.tensor([[[0, 7], [7, 0]]], dtype=torch.uint8)
    concepts = [(7, "sky", "object"), (2, "eye", "part")]
    sample = (normalised(rgb), labels.repeat_interleave(2, 1).repeat_interleave(2, 2), torch.tensor([2]))
    return memory_dataset(concepts, [sample], mean=MEAN, std=STD, name=lambda i: f"image{i}")


def test_with_colours(dataset):
    data = with_colours(dataset)
    assert data.concepts[:3] == [*dataset.concepts, Concept(8, "black", "colour")]
    assert data.concepts[-1] == Concept(18, "yellow", "colour")
    assert (len(data), data.name(0), data.mean, data.std) == (1, "image0", MEAN, STD)
    image, labels, image_labels = data[0]
    assert torch.equal(image, dataset[0].image)
    assert torch.equal(labels[:1], dataset[0].labels)
    assert names(labels[1, 2] - 7) == ["red", "green", "blue", "white"]
    assert image_labels.tolist() == [2]
    assert next(iter(DataLoader(data))).labels.shape == (1, 2, 4, 4)


def test_colours_are_averaged_to_the_label_maps(dataset):
    """Pixels of 2 x 2: black with white is grey in the left half; the right half is red."""
    rgb = picture("black", "white", "red", "red").expand(3, 4, 4)
    dataset.samples = [(normalised(rgb), torch.zeros(1, 2, 2, dtype=torch.uint8), torch.tensor([2]))]
    assert names(with_colours(dataset)[0].labels[1] - 7) == ["grey", "red"] * 2


@pytest.mark.parametrize(
    ("last", "dtype", "expected"),
    [
        (244, torch.uint8, torch.uint8),
        (245, torch.uint8, torch.int16),
        (32760, torch.int16, torch.int32),
        (9, torch.int64, torch.int64),
    ],
)
def test_ids_do_not_overflow(dataset, last, dtype, expected):
    dataset.concepts = [Concept(last, "sky", "object")]
    image, _, image_labels = dataset[0]
    dataset.samples = [(image, torch.full((1, 4, 4), last).to(dtype), image_labels)]
    labels = with_colours(dataset)[0].labels
    assert labels.dtype == expected
    assert labels[0].unique().tolist() == [last]
    assert names(labels[1, 0].int() - last) == ["red", "green", "blue", "white"]


def test_without_label_layers(dataset):
    image, _, image_labels = dataset[0]
    dataset.samples = [(image, torch.empty(0, 4, 4, dtype=torch.uint8), image_labels)]
    assert with_colours(dataset)[0].labels.shape == (1, 4, 4)
    assert with_colours(combine(dataset))[0].labels.shape == (1, 4, 4)


def test_a_second_colour_category_is_refused(dataset):
    with pytest.raises(ValueError, match='already has a category "colour"'):
        with_colours(with_colours(dataset))
