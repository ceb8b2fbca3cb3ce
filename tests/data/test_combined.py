import pytest
import torch
from torch.utils.data import DataLoader

from netinterp_fast.data import Concept, combine

IMAGE = torch.zeros(3, 4, 4)
NONE = torch.empty(0, dtype=torch.int64)


@pytest.fixture
def first(memory_dataset):
    """Ids 1 and 300 in two layers."""
    labels = torch.tensor([[[0, 1], [300, 1]], [[300, 0], [0, 0]]], dtype=torch.int16)
    concepts = [(1, "sky", "object"), (300, "eye", "part")]
    return memory_dataset(concepts, [(IMAGE, labels, NONE)] * 2, name=lambda i: f"first{i}")


@pytest.fixture
def second(memory_dataset):
    """ "eye" is a part as in the first set, "sky" is a scene and so another concept."""
    labels = torch.tensor([[[5, 0], [2, 5]]], dtype=torch.uint8)
    concepts = [(2, "eye", "part"), (5, "sky", "scene")]
    return memory_dataset(concepts, [(IMAGE + 1, labels, torch.tensor([5, 0, 2]))] * 3)


def test_concepts_are_merged(first, second):
    concepts = [Concept(1, "sky", "object"), Concept(2, "eye", "part"), Concept(3, "sky", "scene")]
    assert combine(first, second).concepts == concepts


def test_items(first, second):
    data = combine(first, second)
    assert len(data) == 5
    image, labels, image_labels = data[1]
    assert image.max() == 0
    assert labels.dtype == torch.uint8
    assert labels.tolist() == [[[0, 1], [2, 1]], [[2, 0], [0, 0]]]
    assert image_labels.tolist() == [0, 0, 0]
    image, labels, image_labels = data[2]
    assert image.min() == 1
    assert labels.tolist() == [[[3, 0], [2, 3]], [[0, 0], [0, 0]]]
    assert image_labels.tolist() == [3, 0, 2]
    assert torch.equal(data[-1].labels, labels)
    assert first[0].labels.max() == 300  # the sets themselves are untouched


def test_names_and_ends(first, second):
    data = combine(first, second)
    assert [data.name(i) for i in range(5)] == ["first0", "first1", "#0", "#1", "#2"]
    assert sum(1 for _ in data) == 5
    for index in (5, -6):
        with pytest.raises(IndexError, match="has 5 items"):
            data[index]


def test_batches(first, second):
    _, labels, image_labels = next(iter(DataLoader(combine(first, second), batch_size=5)))
    assert labels.shape == (5, 2, 2, 2)
    assert image_labels.shape == (5, 3)


def test_many_concepts_need_a_wider_type(memory_dataset, first):
    concepts = [(i, f"c{i}", "object") for i in range(1, 400)]
    labels = torch.full((1, 2, 2), 399, dtype=torch.int64)
    data = combine(first, memory_dataset(concepts, [(IMAGE, labels, NONE)]))
    assert data[2].labels.dtype == torch.int16
    assert data[2].labels.max() == 401


@pytest.mark.parametrize("wrong", [3, -1, 301])
def test_id_without_concept(first, wrong):
    first.samples[1] = first.samples[1]._replace(labels=torch.full((1, 2, 2), wrong))
    with pytest.raises(ValueError, match=f"first1 holds the label {wrong}, which data set 1 does not define"):
        combine(first)[1]


def test_ids_start_at_1(memory_dataset):
    with pytest.raises(ValueError, match="data set 1 defines the id 0; ids start at 1"):
        combine(memory_dataset([(0, "void", "void")], [(IMAGE, torch.zeros(1, 2, 2).int(), NONE)]))


def test_normalisation_must_agree(first, second):
    first.mean, first.std = (0, 0, 0), (1, 1, 1)  # what images without them have
    assert combine(first, second).mean == (0, 0, 0)
    second.mean = (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match=r"data set 2 has \(mean, std\) .*0.5.* must agree"):
        combine(first, second)


def test_sizes_must_agree(memory_dataset, first):
    labels = first.samples[0].labels
    for what, image, maps in (("image", torch.zeros(3, 4, 5), labels), ("labels", IMAGE, labels[:, :1])):
        other = memory_dataset([(1, "sky", "object")], [(image, maps, NONE)])
        with pytest.raises(ValueError, match=f"{what} of data set 2 have the size .*, of data set 1 "):
            combine(first, other)


def test_nothing_to_combine(memory_dataset, first):
    with pytest.raises(ValueError, match="at least one data set"):
        combine()
    with pytest.raises(ValueError, match="data set 2 has no items"):
        combine(first, memory_dataset([], []))
