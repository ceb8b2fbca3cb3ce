"""Several models in one run: each as in a run of its own, and the data read once."""

import csv
import json
import re
from collections import OrderedDict

import pytest
import torch
from interrupted import (
    N_BATCHES,
    N_IMAGES,
    SlowDataset,
    Stopped,
    Stopping,
    contents,
    finish,
    start,
)
from interrupted import run as run_in_folder
from test_dissect_runs import TENSORS, FailsAt, Shared, hooks, run
from tiny import TinyDataset, tiny_model
from torch import nn

from netinterp_fast import Dissection, Rotation

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ["epoch 1", "epoch 20", "last | best"]


def trained(seed: int) -> nn.Sequential:
    """The tiny model with other weights, multiples of 2^-6 too."""
    model = tiny_model()
    with torch.no_grad():
        random = torch.Generator().manual_seed(seed)
        model.conv.weight.copy_(torch.randint(-64, 65, model.conv.weight.shape, generator=random) / 64)
    return model


def series() -> dict[str, nn.Module]:
    return {name: trained(seed) for seed, name in enumerate(NAMES)}


def assert_each_is_as_alone(result, layers, dataset, models=None, **changes):
    """The entries of each model against a run of that model."""
    models = models or series()
    expected_keys = []
    for name, model in models.items():
        alone = run(model, dataset, layers, **changes)
        expected_keys += [f"{name}/{key}" for key in alone]
        for key, expected in alone.layers.items():
            found = result[f"{name}/{key}"]
            for tensor in (*TENSORS, "null_iou", "iou_interval"):
                mine, other = getattr(found, tensor), getattr(expected, tensor)
                assert mine is other is None or torch.equal(mine, other), (name, key, tensor)
            assert found.labels() == expected.labels()
            assert (found.model, found.layer, found.question) == (name, expected.layer, key)
            assert (found.basis, found.tail, found.quantile) == (expected.basis, expected.tail, expected.quantile)
        assert alone.thumbnails.items() <= result.thumbnails.items()
    assert list(result) == expected_keys


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("convention", ["netdissect", "netdissect_lite", "dissect"])
def test_each_is_as_alone(dataset, passes, convention):
    settings = {"passes": passes, "convention": convention, "batch_size": 3}
    assert_each_is_as_alone(run(series(), dataset, ["relu", "flat"], **settings), ["relu", "flat"], dataset, **settings)


@pytest.mark.parametrize("passes", [1, 2])
def test_other_questions_are_asked_of_each(dataset, passes):
    settings = {
        "basis": ["units", Rotation(0.4), {"relu": torch.eye(6)[:3]}],
        "tail": "both",
        "quantile": (0.1, 0.3),
        "scale_offset": {"relu": (1.25, 1.25, 3.0, 3.0)},
        "passes": passes,
    }
    assert_each_is_as_alone(run(series(), dataset, ["relu", "conv"], **settings), ["relu", "conv"], dataset, **settings)


def test_chance_is_that_of_each(dataset):
    settings = {"null_samples": 5, "bootstrap": 5, "seed": 3}
    assert_each_is_as_alone(run(series(), dataset, ["relu"], **settings), ["relu"], dataset, **settings)


def test_tokens_of_each(dataset):
    def tokens(model):
        return nn.Sequential(OrderedDict(maps=model.conv, tokens=nn.Flatten(2), turned=Turned()))

    models = {name: tokens(model) for name, model in series().items()}
    settings = {"token_grid": {"turned": (0, 4, 16)}}
    assert_each_is_as_alone(run(models, dataset, ["turned"], **settings), ["turned"], dataset, models, **settings)


class Turned(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


def test_one_model_with_a_name(dataset):
    models = {"only": trained(0)}
    assert_each_is_as_alone(run(models, dataset, ["relu"]), ["relu"], dataset, models)


def test_models_of_different_kinds_that_share_modules(dataset):
    """Neither what a model shares nor what it does to its input changes another."""
    inner = trained(1)
    writing = nn.Sequential(OrderedDict(first=nn.Threshold(0.5, 0.0, inplace=True), conv=trained(2).conv))
    models = {
        "writing": writing,
        "a": inner,
        "b": nn.Sequential(OrderedDict(conv=inner.conv, relu=nn.Tanh())),
        "c": inner,
    }
    result = run(models, dataset, ["conv"], batch_size=3)
    assert_each_is_as_alone(result, ["conv"], dataset, models, batch_size=3)
    assert result.settings["model"] == "Sequential"
    assert run({"a": inner, "b": Twice(inner)}, dataset, ["conv"]).settings["model"] == "Sequential, Twice"


class Twice(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.conv = model.conv

    def forward(self, x):
        return self.conv(2 * x)


class Reads(TinyDataset):
    """Counts how often each item is read."""

    def __init__(self, n):
        super().__init__(n)
        self.reads = [0] * n

    def __getitem__(self, index):
        self.reads[index] += 1
        return super().__getitem__(index)


@pytest.mark.parametrize("passes", [1, 2])
def test_the_data_are_read_once_a_pass(passes):
    alone, together = Reads(20), Reads(20)
    run(trained(0), alone, passes=passes, batch_size=6)
    run(series(), together, passes=passes, batch_size=6)
    assert together.reads == alone.reads
    assert min(together.reads) == passes


def test_each_model_stops_behind_its_last_layer(dataset):
    models = {name: Counted(model) for name, model in series().items()}
    run(models, dataset, ["inner.relu"], batch_size=3, passes=2)
    assert [(model.begun, model.ended) for model in models.values()] == [(6, 0)] * 3


class Counted(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.begun, self.ended = inner, 0, 0

    def forward(self, x):
        self.begun += 1
        self.inner(x)
        self.ended += 1


@pytest.mark.parametrize("data", [TinyDataset, FailsAt])
def test_the_models_are_left_as_they_were(data):
    models = series()
    models["epoch 20"].train()
    models["epoch 1"].pool.train()
    models["shared"] = nn.Sequential(OrderedDict(models["epoch 20"].named_children())).eval()
    modes = [module.training for model in models.values() for module in model.modules()]
    try:
        run(models, data(), ["relu"], batch_size=2)
    except OSError:
        assert data is FailsAt
    assert [module.training for model in models.values() for module in model.modules()] == modes
    assert not any(hooks(model) for model in models.values())


def test_all_go_to_one_device(dataset):
    """A device that runs nothing: each of the models has come to it."""
    models = series()
    with pytest.raises((RuntimeError, NotImplementedError, ValueError)):
        run(models, dataset, device="meta")
    assert all(parameter.is_meta for model in models.values() for parameter in model.parameters())


# on disk

SEVERAL = {"layers": ["inner.relu", "inner.flat"], "tail": "both"}


def stopping(at: int | None = None) -> dict[str, Stopping]:
    """Models of which the second one stops."""
    models = {name: Stopping() for name in NAMES}
    for model, weights in zip(models.values(), series().values(), strict=True):
        model.inner = weights
    models[NAMES[1]].stop_at = at
    return models


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("stop_at", [2, 5])
def test_an_interrupted_run_goes_on(tmp_path, passes, stop_at):
    settings = SEVERAL | {"passes": passes}
    run_in_folder(tmp_path / "whole", stopping(), **settings)
    with pytest.raises(Stopped):
        run_in_folder(tmp_path / "run", stopping(stop_at), **settings)
    models = stopping()
    run_in_folder(tmp_path / "run", models, **settings)
    assert [model.calls for model in models.values()] == [passes * N_BATCHES - stop_at] * 3
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_an_interrupted_second_pass_goes_on(tmp_path):
    """Of models whose names might be taken for the sections of a checkpoint."""

    def models(at=None):
        return dict(zip(["found:", "kept:", "e"], stopping(at).values(), strict=True))

    run_in_folder(tmp_path / "whole", models(), **SEVERAL)
    for stop_at in (N_BATCHES - 1, 3):
        with pytest.raises(Stopped):
            run_in_folder(tmp_path / "run", models(stop_at), **SEVERAL)
    run_in_folder(tmp_path / "run", models(), **SEVERAL)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


@pytest.mark.parametrize("passes", [1, 2])
def test_two_ranks_give_the_files_of_one(tmp_path, passes):
    settings = SEVERAL | {"passes": passes}
    run_in_folder(tmp_path / "whole", stopping(), dataset=SlowDataset(N_IMAGES), **settings)
    assert finish(start(tmp_path / "run", 2, model=stopping(), **settings)) == [0, 0]
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_other_weights_and_names_are_another_run(tmp_path, dataset):
    run(series(), dataset, out=tmp_path / "run")
    changed = series()
    changed["epoch 20"] = trained(7)
    with pytest.raises(FileExistsError, match=r"a different fingerprint \(weights of 'epoch 20' [^ ]* there, [^;]*$"):
        run(changed, dataset, out=tmp_path / "run")
    turned = dict(reversed(series().items()))
    with pytest.raises(FileExistsError, match="a different models "):
        run(turned, dataset, out=tmp_path / "run")
    with pytest.raises(FileExistsError, match=r"a different fingerprint .*; models "):
        run(trained(0), dataset, out=tmp_path / "run")
    again = run(series(), dataset, out=tmp_path / "run")
    assert list(again) == [f"{name}/relu" for name in NAMES]


def test_results_are_saved_and_loaded(tmp_path, dataset):
    result = run(series(), dataset, ["relu", "conv"], out=tmp_path / "run", tail="both")
    loaded = Dissection.load(tmp_path / "run")
    assert list(loaded) == list(result)
    assert loaded.models == NAMES
    assert loaded.questions == ["relu", "relu | lower", "conv", "conv | lower"]
    assert loaded.unique_detector_table() == result.unique_detector_table()
    settings = json.loads((tmp_path / "run" / "dissection.json").read_text())["settings"]
    assert (settings["models"], settings["layers"]) == (NAMES, ["relu", "conv"])
    assert len(list((tmp_path / "run" / "tables").iterdir())) == 12
    assert "last | best/conv | lower: " in loaded.summary()


# errors


@pytest.mark.parametrize(
    ("models", "error", "message"),
    [
        (None, TypeError, "model is a NoneType; it must be an nn.Module, or a mapping of names to such"),
        ([trained(0)], TypeError, "model is a list; it must be an nn.Module, or a mapping"),
        ({}, ValueError, "model is an empty mapping; it must name at least one nn.Module"),
        ({"a": tiny_model}, TypeError, "model has a function for 'a'; it must be an nn.Module"),
        ({"": trained(0)}, ValueError, "model has the name ''; it must be text without '/', and not empty"),
        ({"a/b": trained(0)}, ValueError, "model has the name 'a/b'; it must be text without '/'"),
        ({3: trained(0)}, ValueError, "model has the name 3; it must be text"),
        ({"a": trained(0), "b": Shared()}, ValueError, "model 'b' has no layer 'relu'; near matches: inner.relu"),
    ],
)
def test_wrong_models(dataset, models, error, message):
    with pytest.raises(error, match=re.escape(message)):
        run(models, dataset)


@pytest.mark.parametrize(
    "changes",
    [
        {"basis": {"a/relu": torch.eye(6)}},
        {"token_grid": {"a/relu": (0, 8, 8)}},
        {"scale_offset": {"a/relu": (1, 1, 0, 0)}},
    ],
)
def test_layers_are_named_without_their_model(dataset, changes):
    with pytest.raises(ValueError, match=f"{next(iter(changes))} names 'a/relu'; layers has relu"):
        run({"a": trained(0)}, dataset, **changes)


def test_errors_of_a_run_name_the_model(dataset):
    never = {"a": Shared(), "b": Shared()}
    with pytest.raises(ValueError, match=r"the forward pass does not run the layer\(s\) a/never$"):
        run(never, dataset, ["twice", "never"])
    with pytest.raises(ValueError, match=r"layer 'b/relu' gives tuple; dissection needs maps"):
        run({"a": trained(0), "b": nn.Sequential(OrderedDict(relu=Pair()))}, dataset)
    with pytest.raises(ValueError, match=r"layer 'b/relu', basis 'directions': its directions have 6 units; the layer"):
        run({"a": trained(0), "b": nn.Sequential(OrderedDict(relu=nn.ReLU()))}, dataset, basis={"relu": torch.eye(6)})
    broken = series()
    with torch.no_grad():
        broken["epoch 20"].conv.bias[2] = torch.nan
    with pytest.raises(ValueError, match=r"layer 'epoch 20/conv', images from 0 on: acts\[0, 2\] has a NaN"):
        run(broken, dataset, ["conv"])


class Pair(nn.Module):
    def forward(self, x):
        return x, x


# the table


def test_the_table_counts_unique_detectors(tmp_path, dataset):
    result = run(series(), dataset, ["relu", "pool"], tail="both", iou_threshold=0.1, out=tmp_path / "run")
    rows = result.unique_detector_table()
    questions = [(model, layer) for model in NAMES for layer in ("relu", "relu | lower", "pool", "pool | lower")]
    assert [(row["model"], row["layer"]) for row in rows] == questions
    for row, layer in zip(rows, result.layers.values(), strict=True):
        concepts = {unit.concept for unit in layer.labels() if unit.iou > 0.1}
        assert row["units"] == 6
        assert row["detectors"] == sum(unit.iou > 0.1 for unit in layer.labels())
        assert row["unique"] == len(concepts)
        by_category = {name: row[f"{name}-unique"] for name in ("object", "color", "part", "scene", "texture")}
        assert by_category == {name: sum(c.category == name for c in concepts) for name in by_category}
        assert list(row)[:5] == ["model", "layer", "units", "detectors", "unique"]
        assert len(row) == 5 + 5
    assert any(row["unique"] for row in rows)
    with (tmp_path / "run" / "unique_detectors.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{key: str(value) for key, value in row.items()} for row in rows]
    assert all(row["unique"] == row["detectors"] == 0 for row in result.unique_detector_table(1.0))


def test_the_table_of_one_model(dataset):
    rows = run(trained(0), dataset, ["relu", "pool"]).unique_detector_table()
    assert [(row["model"], row["layer"]) for row in rows] == [("", "relu"), ("", "pool")]
