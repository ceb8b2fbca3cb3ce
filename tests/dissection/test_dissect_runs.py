"""How dissect() treats the model, the layers, the data and wrong arguments."""

import re

import pytest
import torch
from tiny import LAYERS, TinyDataset, tiny_model
from torch import nn

from netinterp_fast import dissect
from netinterp_fast.data.protocol import Concept
from netinterp_fast.dissection.top_images import TopImages

TENSORS = (
    "thresholds",
    "intersection",
    "unit_area",
    "concept_area",
    "iou",
    "top_images",
    "top_activations",
    "top_maps",
)


def run(model, dataset, layers=("relu",), **changes):
    return dissect(model, dataset, list(layers), **{"quantile": 0.1, "progress": False} | changes)


def assert_equal(result, other):
    assert list(result) == list(other)
    for layer in result:
        for name in TENSORS:
            assert torch.equal(getattr(result[layer], name), getattr(other[layer], name)), (layer, name)
        assert result[layer].labels() == other[layer].labels()
    assert result.thumbnails == other.thumbnails
    assert result.image_names == other.image_names


@pytest.mark.parametrize("convention", ["netdissect", "netdissect_lite", "dissect"])
@pytest.mark.parametrize("loading", [{"batch_size": 1}, {"batch_size": 3}, {"batch_size": 3, "num_workers": 2}])
def test_batches_and_workers_change_nothing(model, dataset, loading, convention):
    whole = run(model, dataset, LAYERS, batch_size=100, convention=convention)
    assert_equal(run(model, dataset, LAYERS, convention=convention, **loading), whole)


def test_layers_together_are_as_alone_and_in_the_order_asked_for(model, dataset):
    together = run(model, dataset, ["flat", "conv", "relu"])
    assert list(together) == ["flat", "conv", "relu"]
    for layer in together:
        alone = run(model, dataset, [layer])
        assert all(torch.equal(getattr(alone[layer], n), getattr(together[layer], n)) for n in TENSORS)


def test_an_inplace_module_behind_a_layer_does_not_change_it(dataset):
    inplace = tiny_model()
    inplace.relu.inplace = True
    assert_equal(run(inplace, dataset, ["conv"]), run(tiny_model(), dataset, ["conv"]))


def test_a_layer_of_units_is_one_of_1x1_maps(model, dataset):
    """A unit is lit on a whole image or not at all: on the three above the fourth largest of seven."""
    result = run(model, dataset, ["flat"], quantile=0.5)["flat"]
    with torch.no_grad():
        units = model.eval().flat(model.squeeze(model.pool(model.relu(model.conv(dataset.images)))))
    assert torch.equal(result.thresholds, units.sort(0, descending=True).values[3])
    lit = (units > result.thresholds).long()
    red = ((dataset.labels == 1).any(1).sum((1, 2))).where(~(dataset.image_labels == 1).any(1), 100)
    assert torch.equal(result.intersection[:, 1], (lit * red[:, None]).sum(0))
    assert lit.sum(0).tolist() == [3, 3, 3, 3, 0, 3]  # unit 4 is dead
    assert result.top_maps.shape == (6, 9, 1, 1)


def hooks(model):
    return [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks]


class FailsAt(TinyDataset):
    """An image that does not load."""

    def __getitem__(self, index):
        if index == 4:
            raise OSError("no such picture")
        return super().__getitem__(index)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("data", [TinyDataset, FailsAt])
def test_the_model_is_left_as_it_was(model, data, training):
    model.train(training)
    model.pool.train(not training)  # a mode of its own
    model.conv.weight.requires_grad_(False)
    modes = {name: module.training for name, module in model.named_modules()}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        run(model, data(), LAYERS, batch_size=2)
    except OSError:
        assert data is FailsAt
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert not hooks(model)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not model.conv.weight.requires_grad
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 3)


def test_the_model_runs_in_eval_mode(dataset):
    """With dropout before the layer, training mode would show."""
    plain = tiny_model()
    dropping = nn.Sequential(nn.Dropout(0.9), plain).train()
    assert torch.equal(run(dropping, dataset, ["1.relu"])["1.relu"].iou, run(plain, dataset)["relu"].iou)


class Shared(nn.Module):
    """One module that runs twice, on different inputs, and one that never runs."""

    def __init__(self):
        super().__init__()
        self.twice, self.never = nn.ReLU(), nn.ReLU()
        self.inner = tiny_model()

    def forward(self, x):
        return self.twice(self.inner(self.twice(x)))


def test_a_reused_layer_is_seen_the_first_time(dataset):
    result = run(Shared(), dataset, ["twice"])["twice"]
    assert result.n_units == 3  # the image's channels
    assert torch.equal(result.top_activations[:, 0], dataset.images.amax((0, 2, 3)))


def test_a_layer_that_never_runs(dataset):
    with pytest.raises(ValueError, match=r"the forward pass does not run the layer\(s\) never$"):
        run(Shared(), dataset, ["twice", "never"])


class Tuples(nn.Module):
    def __init__(self):
        super().__init__()
        self.pair = nn.LSTM(16, 4, batch_first=True)
        self.tokens = nn.Flatten(2)

    def forward(self, x):
        return self.pair(self.tokens(x)[:, :, :16])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("pair", r"tuple; dissection needs maps \[B, C, h, w\], units \[B, C\] or tokens"),
        ("tokens", r"\[\d, 3, 256\], 3 tokens, which make no square grid, .* token_grid={'tokens': \(n_prefix_tokens"),
    ],
)
def test_outputs_that_are_not_maps(dataset, layer, message):
    with pytest.raises(ValueError, match=f"layer '{layer}' gives {message}"):
        run(Tuples(), dataset, [layer])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"layers": ["rely"]}, ValueError, "the model has no layer 'rely'; near matches: relu"),
        ({"layers": ["zzz"]}, ValueError, "the model has no layer 'zzz'; near matches: conv, relu, pool"),
        ({"layers": [""]}, ValueError, "the model has no layer ''"),
        ({"layers": []}, ValueError, "layers is empty"),
        ({"layers": ["relu", "relu"]}, ValueError, "layers names one twice: relu, relu"),
        ({"convention": "paper"}, ValueError, "convention is 'paper'; it must be one of netdissect"),
        ({"upsampling": "cubic"}, ValueError, "upsampling is 'cubic'; it must be one of bilinear, pil"),
        ({"threshold_from": "maps"}, ValueError, "threshold_from is 'maps'; it must be one of raw"),
        ({"unit_area_over": "none"}, ValueError, "unit_area_over is 'none'; it must be one of category"),
        ({"mask_size": 0}, ValueError, "mask_size is 0; it must be at least 1"),
        ({"batch_size": 0}, ValueError, "batch_size is 0; it must be at least 1"),
        ({"num_workers": -1}, ValueError, "num_workers is -1; it must be at least 0"),
        ({"top_images": -1}, ValueError, "top_images is -1; it must be at least 0"),
        ({"iou_threshold": -0.1}, ValueError, r"iou_threshold is -0\.1; it must be at least 0"),
        ({"iou_threshold": float("nan")}, ValueError, "iou_threshold is nan"),
        ({"quantile": 1.0}, ValueError, r"quantile is 1\.0; it must be in \[0, 1\)"),
        ({"quantile": -0.5}, ValueError, r"quantile is -0\.5; it must be in \[0, 1\)"),
        ({"scale_offset": {"conv": (1, 1, 0, 0)}}, ValueError, "scale_offset names 'conv'; layers has relu"),
        ({"scale_offset": {"relu": (0, 1, 0, 0)}}, ValueError, r"scale_offset is .*scales above 0"),
        ({"scale_offset": {"relu": (1, 1, 0)}}, ValueError, r"scale_offset is .*it must be \(scale_y"),
        ({"upsampling": "pil", "scale_offset": {"relu": (1, 1, 0)}}, ValueError, "scale_offset is .*must be"),
    ],
)  # fmt: skip
def test_wrong_arguments(model, dataset, changes, error, message):
    with pytest.raises(error, match=message) as caught:
        run(model, dataset, **changes)
    assert "\n" not in str(caught.value)
    assert not hooks(model)


def test_layers_as_one_string(model, dataset):
    with pytest.raises(TypeError, match="layers is the string 'relu'; it must be a list of layer names"):
        dissect(model, dataset, "relu", progress=False)


def with_concepts(*concepts):
    dataset = TinyDataset()
    dataset.concepts = list(concepts)
    return dataset


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        ([1, 2], TypeError, "dataset is a list without `concepts`"),
        (TinyDataset(0), ValueError, "dataset has no images"),
        (with_concepts(), ValueError, "dataset.concepts is empty or has an id twice"),
        (with_concepts((1, "a", "x"), (1, "b", "x")), ValueError, "has an id twice"),
        (with_concepts((0, "nothing", "x")), ValueError, r"concept 'nothing' has the id 0; ids lie in \[1, "),
        (
            with_concepts((2**24 + 1, "far", "x")),
            ValueError,
            r"concept 'far' has the id 16777217; ids lie in \[1, 167",
        ),
        (with_concepts((-3, "a", "x")), ValueError, "concept 'a' has the id -3"),
    ],
)
def test_wrong_data_sets(model, dataset, error, message):
    with pytest.raises(error, match=message):
        run(model, dataset)


def test_a_label_without_a_concept_names_image_and_id(model, dataset):
    dataset.labels[5, 1, 9, 9] = 6
    with pytest.raises(
        ValueError, match=r"image 5 \(picture-5.png\) has the label 6, which is not the id of a concept"
    ):
        run(model, dataset, batch_size=3)


@pytest.mark.parametrize("value", [12, -1])
def test_a_label_out_of_range_names_images_position_and_id(model, dataset, value):
    dataset.labels[5, 1, 9, 9] = value
    with pytest.raises(ValueError, match=rf"images 3 to 5: labels\[2, 1, 9, 9\] is {value};"):
        run(model, dataset, batch_size=3)


def test_an_image_label_without_a_concept(model, dataset):
    dataset.image_labels[6, 1] = 10
    with pytest.raises(ValueError, match=r"image 6 \(picture-6.png\) has the label 10"):
        run(model, dataset)


@pytest.mark.parametrize("batch_size", [2, 100])
def test_nan_names_layer_unit_and_image(model, dataset, batch_size):
    """Image 5 is NaN; the batch that holds it starts at image 4 or 0."""
    dataset.images[5, 1, 8, 8] = float("nan")
    first = 4 if batch_size == 2 else 0
    with pytest.raises(ValueError, match=r"layer 'conv'.*NaN") as caught:
        run(model, dataset, ["conv", "relu"], batch_size=batch_size)
    first_named, inside, unit = map(
        int, re.findall(r"images from (\d+) on: acts\[(\d+), (\d+)\]", str(caught.value))[0]
    )
    assert (first_named, first_named + inside, unit) == (first, 5, 0)


def test_infinite_activations_name_layer_unit_and_image(dataset):
    dataset.images[5, 1, 8, 9] = float("inf")
    with pytest.raises(
        ValueError, match=r"layer 'twice', images from 3 on: acts\[2, 1, 8, 9\] is inf; activations must"
    ):
        run(Shared(), dataset, ["twice"], batch_size=3)


def best_images(maxima, n):
    """maxima [N] of one unit: images by falling maximum, ties to the earlier one."""
    return sorted(range(len(maxima)), key=lambda i: (-maxima[i], i))[:n]


@pytest.mark.parametrize("n", [0, 1, 3, 7])
@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_top_images_and_their_maps(model, dataset, n, batch_size):
    dataset.images[4:] = dataset.images[:3]  # ties
    result = run(model, dataset, ["relu"], top_images=n, batch_size=batch_size)
    with torch.no_grad():
        acts = model.eval().relu(model.conv(dataset.images))
    maxima = acts.amax((2, 3))
    expected = [best_images(maxima[:, unit].tolist(), n) for unit in range(6)]
    assert result["relu"].top_images.tolist() == expected
    for unit, images in enumerate(expected):
        assert torch.equal(result["relu"].top_activations[unit], maxima[images, unit])
        assert torch.equal(result["relu"].top_maps[unit], acts[images, unit])
    used = sorted({i for images in expected for i in images})
    assert sorted(result.thumbnails) == sorted(result.image_names) == used
    assert all(result.image_names[i] == f"picture-{i}.png" for i in used)
    assert all(jpeg.startswith(b"\xff\xd8") for jpeg in result.thumbnails.values())


def test_more_top_images_than_images(model, dataset):
    result = run(model, dataset, top_images=9)["relu"]
    assert (result.top_images[:, 7:] == -1).all()
    assert (result.top_activations[:, 7:] == -float("inf")).all()
    assert not result.top_maps[:, 7:].any()


@pytest.mark.parametrize("sizes", [[40], [7, 1, 20, 12], [1] * 40, [3] * 13 + [1]])
@pytest.mark.parametrize("n", [1, 4, 10])
def test_top_images_with_many_ties(n, sizes):
    maxima = torch.randint(0, 4, (40, 3), generator=torch.Generator().manual_seed(1)).float()
    maps = torch.rand(40, 3, 2, 5)
    tops, parts = [TopImages(3, n), TopImages(3, n)], len(sizes) // 2
    first = 0
    for i, (values, acts) in enumerate(zip(maxima.split(sizes), maps.split(sizes), strict=True)):
        exciting = tops[i >= parts].update(values, first, acts)
        first += len(values)
        assert exciting <= set(range(first - len(values), first))
    whole = tops[1]
    if parts:
        whole.merge(*tops[0].held())
    images, values, kept = whole.result()
    assert images.tolist() == [best_images(maxima[:, unit].tolist(), n) for unit in range(3)]
    assert torch.equal(values, maxima.gather(0, images.T).T)
    assert torch.equal(kept, maps[images, torch.arange(3)[:, None]])


def test_scale_offset_places_the_maps(model, dataset):
    """The even placement, spelled out, changes nothing; a shift does, for its layer alone."""
    plain = run(model, dataset, ["relu", "pool"])
    even = run(
        model,
        dataset,
        ["relu", "pool"],
        scale_offset={"relu": (10 / 8, 10 / 8, 10 / 16 - 0.5, 10 / 16 - 0.5)},
    )
    assert_equal(even, plain)
    moved = run(model, dataset, ["relu", "pool"], scale_offset={"relu": (1.25, 1.25, 3.0, 3.0)})
    assert not torch.equal(moved["relu"].iou, plain["relu"].iou)
    assert torch.equal(moved["pool"].iou, plain["pool"].iou)


def test_scale_offset_by_hand(dataset):
    """One unit shows pixel (8, 8) of the image; its 16 x 16 map lies at offset -3, scale 1, on the labels."""
    dataset.images.zero_()
    dataset.images[:, 0, 8, 8] = 1.0
    result = run(Shared(), dataset, ["twice"], quantile=0.01, scale_offset={"twice": (1.0, 1.0, -3.0, -3.0)})["twice"]
    there = [{*dataset.labels[i, :, 5, 5].tolist(), *dataset.image_labels[i].tolist()} - {0} for i in range(7)]
    assert result.thresholds[0] == 0.0
    assert result.intersection[0].tolist() == [sum(c in ids for ids in there) for c in range(12)]
    assert not result.intersection[1:].any()


def test_progress_is_shown_unless_refused(model, dataset, capsys):
    dissect(model, dataset, ["relu"], quantile=0.1, passes=2)
    shown = capsys.readouterr().err
    assert "pass 1 of 2" in shown
    assert "pass 2 of 2" in shown
    assert re.search(r"images/s, bounded by [a-z ]+ \(decode \d+ %, forward \d+ %, tally \d+ %\)\n", shown)
    dissect(model, dataset, ["relu"], quantile=0.1)
    shown = capsys.readouterr().err
    assert re.search(r"single pass: about \d[\d.]* KB to keep\n", shown)
    assert "2 of 2" not in shown
    run(model, dataset)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_label_dtypes(model, dataset, dtype):
    plain = run(model, dataset, unit_area_over="overlap", mask_size=7)
    dataset.labels, dataset.image_labels = dataset.labels.to(dtype), dataset.image_labels.to(dtype)
    assert_equal(run(model, dataset, unit_area_over="overlap", mask_size=7), plain)


def test_one_concept_of_a_large_id(model, dataset):
    dataset.labels[dataset.labels > 0] = 70_000
    dataset.image_labels.zero_()
    dataset.concepts = [Concept(70_000, "far", "x")]
    result = run(model, dataset)["relu"]
    assert result.iou.shape == (6, 70_001)
    assert result.concept_area[70_000] == (dataset.labels > 0).any(1).sum()
