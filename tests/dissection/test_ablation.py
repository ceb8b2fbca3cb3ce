"""unit_ablation() against one whole forward pass a set of units, and by hand."""

import copy
import csv
import warnings

import numpy as np
import pytest
import torch
from ablation_nets import (
    N_CLASSES,
    Branches,
    ChangesImages,
    ChangesSkip,
    Decides,
    Functional,
    KeepsAGrid,
    MixesImages,
    OwnFunction,
    Plain,
    Residual,
    Reused,
    Tokens,
    problem,
)
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from netinterp_fast import Ablation, unit_ablation

pytestmark = pytest.mark.usefixtures("one_thread")

RESUMED = [
    (Plain, "0"),
    (Plain, "1"),
    (Plain, "2"),
    (Plain, "3"),
    (Plain, "6"),
    (Residual, "stem"),
    (Residual, "first"),
    (Residual, "norm"),
    (Residual, "second"),
    (Reused, "layer"),
    (Reused, "relu"),
    (Branches, "left"),
    (Branches, "right"),
    (Branches, "join"),
    (Functional, "layer"),
    (MixesImages, "layer"),
]
WHOLE = [
    (Decides, "layer"),
    (Functional, "stem"),
    (OwnFunction, "layer"),
    (ChangesSkip, "layer"),
    (ChangesImages, "layer"),
]


def run(model, data, layer, **changes):
    return unit_ablation(model, data, layer, **{"batch_size": 4, "progress": False} | changes)


def by_brute_force(model, data, layer, sets, value=0.0, dim=1, batch_size=4):
    """images [K], correct [K] and correct_without [n_sets, K], by a hook on the layer of a copy of the model."""
    model = copy.deepcopy(model).eval()

    def counts(members):
        def hook(module, inputs, output):
            output = output.clone()
            for unit in members:
                output.select(dim, unit).fill_(float(value[unit] if isinstance(value, torch.Tensor) else value))
            return output

        handle = model.get_submodule(layer).register_forward_hook(hook) if members else None
        images, correct = torch.zeros(2, N_CLASSES, dtype=torch.int64)
        for batch, classes in DataLoader(data, batch_size):
            with torch.no_grad():
                outputs = model(batch.clone())
            for output, label in zip(outputs.tolist(), classes.tolist(), strict=True):
                images[label] += 1
                correct[label] += output.index(max(output)) == label
        if handle:
            handle.remove()
        return images, correct

    images, correct = counts(())
    return images, correct, torch.stack([counts(members)[1] for members in sets])


def assert_as_brute_force(result, model, data, layer, **settings):
    expected = by_brute_force(model, data, layer, result.units, **settings)
    for name, counts in zip(("images", "correct", "correct_without"), expected, strict=True):
        found = getattr(result, name)
        assert found.dtype == torch.int64
        assert torch.equal(found, counts), name


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("copies", [None, 1, 3])
@pytest.mark.parametrize(("net", "layer"), RESUMED)
def test_going_on_from_the_layer_gives_the_counts_of_whole_passes(net, layer, copies):
    model, data = problem(net)
    result = run(model, data, layer, copies=copies)
    assert_as_brute_force(result, model, data, layer)
    assert result.units == [(unit,) for unit in range(len(result.units))]
    assert (result.correct_without != result.correct).any()  # the networks are such that units count


@pytest.mark.parametrize(("net", "layer"), WHOLE)
def test_what_can_not_be_gone_on_from_is_run_as_a_whole_and_says_so(net, layer):
    model, data = problem(net)
    with pytest.warns(UserWarning, match=f"can not go on from the output of '{layer}'") as caught:
        result = run(model, data, layer)
    assert [w.filename for w in caught if "can not go on" in str(w.message)] == [__file__] * 2  # then it stops trying
    assert_as_brute_force(result, model, data, layer)


class Compiled(nn.Module):
    """Looks like what torch.compile returns, which takes long."""

    def __init__(self, model):
        super().__init__()
        self._orig_mod = model

    def forward(self, x):
        return self._orig_mod(x)


def test_a_compiled_model_is_run_as_a_whole():
    model, data = problem(Plain)
    compiled = Compiled(model)
    with pytest.warns(UserWarning, match="can not go on from the output of '_orig_mod.2' .it is compiled") as caught:
        result = run(compiled, data, "_orig_mod.2")
    assert len(caught) == 1
    assert_as_brute_force(result, model, data, "2")


def test_what_a_model_keeps_from_its_first_pass_costs_one_batch():
    model, data = problem(KeepsAGrid)
    with pytest.warns(UserWarning, match="calls .* where it called something else") as caught:
        result = run(model, data, "layer")
    assert len(caught) == 1
    assert_as_brute_force(result, model, data, "layer")


def test_tokens_have_their_units_in_the_last_dimension():
    model, data = problem(Tokens)
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("ignore", "There is a performance drop")  # some attention is taken copy by copy
        result = run(model, data, "layer", dim=2)
    assert not caught
    assert len(result.units) == 8
    assert_as_brute_force(result, model, data, "layer", dim=2)
    with pytest.raises(ValueError, match=r"layer 'layer' gives \[4, 4, 8\]; give dim"):
        run(model, data, "layer")


@pytest.mark.parametrize(("net", "layer"), [(Residual, "first"), (Decides, "layer")])
@pytest.mark.filterwarnings("ignore:the model can not")
def test_sets_of_units_and_values(net, layer):
    model, data = problem(net)
    sets = [3, (0, 2), [1], range(4), np.int64(2), torch.tensor([3, 1])]
    value = torch.tensor([0.5, -1.0, 0.25, 2.0, 0.0])[: 5 if net is Residual else 4]
    result = run(model, data, layer, units=sets, value=value)
    assert result.units == [(3,), (0, 2), (1,), (0, 1, 2, 3), (2,), (1, 3)]
    assert_as_brute_force(result, model, data, layer, value=value)
    assert_as_brute_force(run(model, data, layer, value=-0.5), model, data, layer, value=-0.5)


@pytest.mark.parametrize(("net", "layer"), [(Plain, "2"), (Residual, "first"), (Reused, "layer"), (Branches, "join")])
def test_batches_and_loaders_change_nothing(net, layer):
    model, data = problem(net)
    whole = run(model, data, layer, batch_size=100)
    images, classes = data.tensors
    for other in (
        run(model, data, layer, batch_size=1),
        run(model, data, layer, batch_size=3, num_workers=1),
        run(model, DataLoader(data, 5), layer),
        run(model, zip(images.split(7), classes.to(torch.int32).split(7), strict=True), layer),
        run(model, [(images, classes.tolist()), (images[:0], [])], layer),
        run(model, TensorDataset(images[:4], classes[:4]), layer).merge(
            run(model, TensorDataset(images[4:], classes[4:]), layer)
        ),
    ):
        assert other.units == whole.units
        assert all(torch.equal(getattr(other, n), getattr(whole, n)) for n in ("images", "correct", "correct_without"))


class Computed(TorchDispatchMode):
    """Notes the batch size of every convolution that is computed, below torch.vmap, by the name of its weight."""

    def __init__(self, model):
        super().__init__()
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.batches = {name: [] for name in self._names.values()}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            self.batches[self._names[id(args[1])]].append(len(args[0]))
        return func(*args, **(kwargs or {}))


class Chain(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 5, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(5, 6, 3, padding=1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, N_CLASSES),
        )


def test_what_comes_before_the_layer_runs_once_a_batch():
    model, data = problem(Chain, 10)
    with Computed(model) as computed:
        result = run(model, data, "2", copies=2)  # batches of 4, 4 and 2 images; 5 units
    compared = [2, 2, 2]  # on two images going on is compared with the whole model
    assert computed.batches["0.weight"] == computed.batches["2.weight"] == [*compared, 4, 4, 2]
    copies = [1, 2, 2, 1]  # the batch as it is, and then in copies
    assert computed.batches["4.weight"][4:] == [n * size for size in (4, 4, 2) for n in copies]
    assert_as_brute_force(result, model, data, "2")


def two_units():
    """Two units, the largest red and the largest green value, each deciding one class of three."""
    layers = [nn.Conv2d(3, 2, 1, bias=False), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(2, 3)]
    model = nn.Sequential(*layers)
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3)[:2, :, None, None])
        model[4].weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]]))
        model[4].bias.zero_()
    return model


def test_by_hand():
    """Outputs are 2 red, 2 green and red + green; of equal ones the first is taken: (2, 2) and (0, 0) are red."""
    images = torch.zeros(7, 3, 2, 2)
    for image, (red, green) in enumerate([(4, 1), (4, 3), (1, 4), (0, 1), (2, 2), (0, 0), (1, 0)]):
        images[image, 0, 1, 0], images[image, 1, 0, 1] = red, green
    data = TensorDataset(images, torch.tensor([0, 0, 1, 1, 0, 2, 0]))
    result = run(two_units(), data, "1", units=[0, 1, (0, 1)], classes=["red", "green", "both"])
    assert result.images.tolist() == [4, 2, 1]
    assert result.correct.tolist() == [4, 2, 0]
    assert result.correct_without.tolist() == [[1, 2, 0], [4, 0, 0], [4, 0, 0]]
    assert result.accuracy.tolist() == [1.0, 1.0, 0.0]
    assert result.accuracy_without.tolist() == [[0.25, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    assert result.drop.tolist() == [[0.75, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]
    assert result.overall_drop.tolist() == [3 / 7, 2 / 7, 2 / 7]
    assert result.most_hurt(0, 1) == [((0,), "red", 0.75)]
    assert result.most_hurt((1, 0)) == [((0, 1), "green", 1.0), ((0, 1), "red", 0.0), ((0, 1), "both", 0.0)]
    assert result.most_important("green", 2) == [((1,), "green", 1.0), ((0, 1), "green", 1.0)]
    assert "without unit 0: red 100.0% to 25.0%, overall 85.7% to 42.9%" in result.summary()


def test_results_are_tables_that_say_what_there_is_no_image_of(tmp_path):
    images, classes = torch.ones(2, 3, 2, 2), torch.tensor([2, 2])
    result = run(two_units(), TensorDataset(images, classes), "0")
    assert result.classes == ["0", "1", "2"]
    assert result.drop.isnan().tolist() == [[True, True, False]] * 2
    assert result.most_hurt(1) == [((1,), "2", 0.0)]
    rows = list(csv.DictReader(result.to_csv(tmp_path / "drops.csv").open()))
    assert len(rows) == 6
    assert rows[5] == {"units": "1", "class": "2", "images": "2", "correct": "0", "correct_without": "0", "drop": "0.0"}
    with pytest.raises(FileExistsError):
        result.to_csv(tmp_path / "drops.csv")
    with pytest.raises(ValueError, match="unit is 2; it must be one of the 2 items"):
        result.most_hurt(2)
    with pytest.raises(ValueError, match="name is 'x'; the classes are 0, 1, 2"):
        result.most_important("x")
    with pytest.raises(ValueError, match="other has another layer: 'y', not '0'"):
        result.merge(Ablation("y", result.units, result.classes, *[result.images] * 3))


def state(model):
    modules = list(model.modules())
    values = [value.clone() for value in model.state_dict().values()]
    return [m.training for m in modules], [len(m._forward_hooks) for m in modules], values


class Fails(TensorDataset):
    def __getitem__(self, index):
        if index == 6:
            raise OSError("no such image")
        return super().__getitem__(index)


@pytest.mark.filterwarnings("ignore:the model can not")
@pytest.mark.parametrize("net", [Residual, Decides, ChangesImages])
def test_the_model_and_the_data_are_left_as_they_were(net):
    model, data = problem(net)
    model.train()
    [*model.children()][-1].eval()
    layer = "first" if net is Residual else "layer"
    before, images = state(model), data.tensors[0].clone()
    run(model, DataLoader(data, 4), layer)
    with pytest.raises(OSError, match="no such image"):
        run(model, Fails(*data.tensors), layer)
    with pytest.raises(ValueError, match="units has 9"):
        run(model, data, layer, units=[9])
    for found, expected in zip(state(model)[:2], before[:2], strict=True):
        assert found == expected
    assert all(map(torch.equal, state(model)[2], before[2]))
    assert torch.equal(data.tensors[0], images)
    assert torch.is_grad_enabled()


def test_inference_mode_and_inference_tensors():
    model, data = problem(Residual)
    with torch.inference_mode():
        data = TensorDataset(*(part.clone() for part in data.tensors))
        result = run(model, data, "first")
    assert_as_brute_force(result, model, problem(Residual)[1], "first")


class Odd(nn.Module):
    """Layers whose output can not be ablated, and outputs that are no class outputs."""

    def __init__(self, output=lambda x: x):
        super().__init__()
        self.pair, self.whole, self.unused, self.late = nn.LSTM(4, 4), nn.Identity(), nn.Conv2d(3, 2, 1), nn.Identity()
        self.layer, self.head, self.output = nn.Conv2d(3, 4, 1), nn.Linear(4, 3), output

    def forward(self, x):
        self.whole((x * 8).long())
        self.unused(x)
        x = self.layer(x).sum(2)
        return self.output(self.head(self.pair(x.transpose(1, 2).sum(1)[None])[0][0]))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"layer": "lazer"}, ValueError, "no layer 'lazer'; near matches: .*layer"),
        ({"layer": "late"}, ValueError, "does not run the layer 'late'"),
        ({"layer": "pair"}, ValueError, "layer 'pair' gives a tuple"),
        ({"layer": "whole"}, ValueError, "layer 'whole' gives torch.int64"),
        ({"layer": "unused"}, ValueError, "does not depend on what that layer returns"),
        ({"units": []}, ValueError, "units is empty"),
        ({"units": [[]]}, ValueError, "at least one unit"),
        ({"units": [[1, 1]]}, ValueError, "none twice"),
        ({"units": [4]}, ValueError, "units has 4; the layer's units are 0 to 3"),
        ({"units": [(0, -1)]}, ValueError, "units has -1"),
        ({"units": 3}, TypeError, "units is 3; it must be a list"),
        ({"units": [True]}, TypeError, "units has True"),
        ({"units": [1.0]}, TypeError, "units has 1.0"),
        ({"units": [torch.tensor([1.0])]}, TypeError, "a unit must be an int"),
        ({"units": ["a"]}, TypeError, "units has 'a'"),
        ({"units": [("a",)]}, TypeError, "a unit must be an int"),
        ({"value": "mean"}, TypeError, "value is 'mean'"),
        ({"value": torch.zeros(3)}, ValueError, r"value has shape \[3\]; it must be one number or \[4\]"),
        ({"value": float("nan")}, ValueError, "output for image 0 is NaN"),
        ({"dim": 4}, ValueError, "dim is 4"),
        ({"dim": 0}, ValueError, "dim is 0"),
        ({"copies": 0}, ValueError, "copies is 0"),
        ({"batch_size": 2.0}, TypeError, "batch_size is 2.0"),
        ({"classes": ["a", "b"]}, ValueError, "classes has 2 names; the model has 3 outputs"),
        ({"data": []}, ValueError, "data has no images"),
        ({"data": 7}, TypeError, "data is a int"),
        ({"data": [torch.zeros(2)]}, TypeError, "data gives a Tensor"),
        ({"data": [(1, 2, 3)]}, TypeError, "data gives a tuple of 3"),
        ({"data": [(torch.zeros(2), [0, 1])]}, TypeError, r"data gives the images as \[2\]"),
        ({"data": [(torch.zeros(2, 3, 4, 4), torch.zeros(2))]}, TypeError, "classes of torch.float32"),
        ({"data": [(torch.zeros(2, 3, 4, 4), torch.zeros(2).bool())]}, TypeError, "classes of torch.bool"),
        ({"data": [(torch.zeros(2, 3, 4, 4), [0])]}, ValueError, r"classes \[1\] with 2 images"),
        ({"data": [(torch.zeros(2, 3, 4, 4), [0, 2])] * 2 + [(torch.zeros(2, 3, 4, 4), [0, 3])]}, ValueError,
         "image 5 has the class 3; the model has 3 outputs"),
        ({"data": [(torch.zeros(2, 3, 4, 4), [-1, 0])]}, ValueError, "image 0 has the class -1"),
        ({"data": [(torch.full((2, 3, 4, 4), torch.nan), [1, 0])]}, ValueError, "output for image 0 is NaN"),
        ({"model": Odd(lambda x: (x, x))}, ValueError, "the model's output is a tuple"),
        ({"model": Odd(lambda x: x[0])}, ValueError, r"the model's output is \[3\]; it must be a tensor \[2, K\]"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:the model can not")
def test_wrong_arguments_are_named(changes, error, message):
    torch.manual_seed(0)
    settings = {"model": Odd(), "data": [(torch.rand(2, 3, 4, 4), [0, 1])], "layer": "layer"} | changes
    with pytest.raises(error, match=message):
        run(**settings)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_layer_of_a_scripted_model_is_not_seen():
    model, data = problem(Plain)
    with pytest.raises(ValueError, match=r"does not run the layer '2' \(or not in Python"):
        run(torch.jit.trace(model.eval(), data.tensors[0]), data, "2")
