"""Which layer a parameter belongs to; what stands for a tensor after it changed in place; what the mode leaves."""

import pytest
import torch
import torch.nn.functional as F
from recording import Recording
from torch import nn

from netinterp_fast.interpose import NoRuleError


def layers_of(model, function, x):
    recording = Recording(model)
    recording.run(function, x)
    return [layer for name, _, layer in recording.calls if name in ("linear", "conv2d")]


def test_a_layer_is_known_by_its_parameter_or_a_view_of_one():
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Sequential(nn.Linear(4, 4))})
    a, b = model["a"], model["b"][0]

    def function(x):
        x = b(F.linear(a(x), a.weight, None))
        x = F.linear(F.linear(x, a.weight.t()), b.weight[1:].view(3, 4))
        x = F.linear(x, torch.randn(2, 3))
        return F.conv2d(x.view(-1, 2, 1, 1), a.weight.view(8, 2, 1, 1))

    assert layers_of(model, function, torch.randn(2, 4)) == ["a", "a", "b.0", "a", "b.0", "", "a"]


def test_a_shared_parameter_belongs_to_the_first_module_that_has_it():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert layers_of(model, model, torch.randn(2, 4)) == ["0", "0"]
    twice = nn.Linear(4, 4)
    model = nn.Sequential(twice, nn.ReLU(), twice)
    assert layers_of(model, model, torch.randn(2, 4)) == ["0", "0"]


def test_the_last_layer_is_noted_for_messages():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh())
    recording = Recording(model)
    assert recording.last_layer == ""
    recording.run(model, torch.randn(2, 4))
    assert recording.last_layer == "2"
    assert recording.layer_of(None) == recording.layer_of(torch.ones(1)) == ("", None)
    assert recording.last_layer == "2"


def in_place_results(function, x):
    with torch.no_grad():
        plain = function(x.clone())
        return plain, Recording(nn.Module()).run(function, x.clone())


CHANGES = {
    "add": lambda y: y.add_(1),
    "relu": lambda y: F.relu(y, inplace=True),
    "+=": lambda y: y.__iadd__(2),
    "[:, 0] =": lambda y: y.__setitem__((slice(None), 0), 5.0),
    "[mask] =": lambda y: y.__setitem__(torch.eye(3).bool(), 5.0),
    "zero_": lambda y: y.zero_(),
    "fill_": lambda y: y.fill_(3.0),
    "clamp_": lambda y: y.clamp_(0, 1),
    "masked_fill_": lambda y: y.masked_fill_(torch.eye(3).bool(), 1.0),
    "copy_": lambda y: y.copy_(torch.ones(3, 3)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_name_of_a_changed_tensor_means_the_changed_one(change):
    def function(x):
        y = x * 2
        CHANGES[change](y)
        first = y + 1
        CHANGES[change](y)
        return torch.cat([first.reshape(-1), (y * 3).reshape(-1)])

    plain, got = in_place_results(function, torch.randn(3, 3))
    assert torch.equal(plain, got)


def test_a_view_used_after_its_base_changed_raises():
    def base_changed(x):
        y = x * 2
        view = y[0]
        y.add_(1)
        return view + 1

    def view_changed(x):
        y = x * 2
        y[0].add_(1)
        return y + 1

    def other_view(x):
        y = x * 2
        a, b = y[0], y[1]
        a.add_(1)
        return b + 1

    for function in (base_changed, view_changed, other_view):
        with pytest.raises(NoRuleError, match=r"a view|a tensor is used again"):
            Recording(nn.Module()).run(function, torch.randn(3, 3))


def test_a_view_made_after_the_change_is_right():
    def function(x):
        y = x * 2
        y.add_(1)
        return y[0] + y.view(-1)[:3]

    plain, got = in_place_results(function, torch.randn(3, 3))
    assert torch.equal(plain, got)


def test_part_of_a_tensor_changed_by_an_operator():
    """Python makes three calls of it: take the part, change it, put it back."""

    def function(x):
        y = x * 2
        y[0] += 1
        y[:, 1] *= x[:, 0]
        return y * 2

    plain, got = in_place_results(function, torch.randn(3, 3))
    assert torch.equal(plain, got)


@pytest.mark.parametrize("times", [1, 2])
def test_part_of_a_constant_changed_by_an_operator(times):
    def function(x):
        y = torch.zeros(3, 3)
        for i in range(times):
            y[i] += x[i]
        return y + x

    plain, got = in_place_results(function, torch.randn(3, 3))
    assert torch.equal(plain, got)


def test_nothing_is_left_on_buffers_and_constants():
    model = nn.Module()
    model.register_buffer("sum", torch.zeros(3))
    buffer, constant, part = model.sum, torch.zeros(3), torch.zeros(2, 3)

    def function(x):
        model.sum += x[0]
        constant.add_(x[1])
        part[0] = x[2]
        return x + model.sum

    def failing(x):
        function(x)
        raise ArithmeticError

    Recording(model).run(function, torch.randn(3, 3))
    assert model.sum is buffer
    for tensor in (model.sum, constant, part):
        assert not vars(tensor)
    with pytest.raises(ArithmeticError):
        Recording(model).run(failing, torch.randn(3, 3))
    for tensor in (model.sum, constant, part):
        assert not vars(tensor)


def test_a_buffer_that_stands_for_the_input_from_then_on():
    buffer = torch.zeros(3, 3)

    def function(x):
        buffer[0] = x[0]
        buffer[1:] = x[1:] * 2
        return buffer

    got = Recording(nn.Module()).run(function, torch.ones(3, 3))
    assert got.tolist() == [[1.0] * 3, [2.0] * 3, [2.0] * 3]


def test_changes_of_constants_are_left_to_torch():
    """Also those that have no other form."""

    def function(x):
        noise = torch.empty(3).normal_().zero_().copy_(torch.ones(3)).uniform_(2, 2).requires_grad_().detach_()
        noise.resize_(3).bernoulli_(1.0)
        return x + noise

    assert Recording(nn.Module()).run(function, torch.ones(2, 3)).tolist() == [[2.0] * 3] * 2


def test_runs_do_not_know_each_others_tensors():
    one, two = Recording(nn.Module()), Recording(nn.Module())
    x = one.mark(torch.randn(2), "one")
    assert (one.known(x), two.known(x)) == ("one", None)
    two.mark(x, "two")
    assert (one.known(x), two.known(x)) == (None, "two")


def test_the_mode_ends_with_an_exception():
    with pytest.raises(ArithmeticError), Recording(nn.Module()):
        raise ArithmeticError
    assert torch.overrides._get_current_function_mode() is None
    attention = nn.MultiheadAttention(4, 2, batch_first=True).eval()
    with pytest.raises((AssertionError, RuntimeError)):
        Recording(nn.Module()).run(lambda x: attention(x, x, x)[0], torch.randn(2, 5, 3))
    assert torch.overrides._get_current_function_mode() is None
