"""Forward passes that go on from a layer's output: what is computed again, what is held, what is refused."""

import pytest
import torch
from torch import nn

from netinterp_fast.interpose import CannotResumeError, Resumable, changed_output


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


class Around(nn.Module):
    """A linear layer between two functions."""

    def __init__(self, before, behind=lambda x, h: h):
        super().__init__()
        self.before, self.layer, self.behind = before, nn.Linear(3, 3), behind

    def forward(self, x):
        x = self.before(x)
        return self.behind(x, self.layer(x))


def assert_goes_on(model, x):
    """Twice, as a pass does in which the layer's output is changed."""
    start = Resumable(model, "layer", x)
    assert torch.equal(start.output, model(x.clone()))
    for factor in (2.0, -1.0):
        with changed_output(model, "layer", lambda output, factor=factor: output * factor):
            expected = model(x.clone())
        assert torch.equal(start.resume(lambda output, factor=factor: output * factor), expected)
    assert not model.layer._forward_hooks


def reads(x):
    values = x.tolist()
    if bool((x > 0).any()) and len(values) == x.shape[0] and x.dtype == torch.float32:
        x = x * float(x.sum())
    return x + torch.tensor(values[0]) + torch.arange(3, device=x.device)


def changes_in_place(x):
    x += 1
    y = torch.zeros(4, 3)
    y[:, 1] = x[:, 0]
    y.t()[2].copy_(x.max(1).values)
    return x.relu_().add_(y)


def switches_gradients(x):
    with torch.enable_grad():
        x = x * 2
    with torch.no_grad():
        return x.detach() + torch.rand(4, 3).round()


def unpacks(x):
    first, *others = x.unbind(1)
    (second, third), named = torch.stack(others), x.max(dim=1)
    return torch.stack([first + named.values, second, third + named[1]], dim=1)


@pytest.mark.parametrize("before", [torch.sin, reads, changes_in_place, unpacks, lambda x: x])
@pytest.mark.parametrize(
    "behind",
    [
        lambda x, h: h,
        lambda x, h: h.relu_().add_(1) + x,
        lambda x, h: torch.cat([x, h], 1).view(x.size(0), 2, -1).sum(1),
        lambda x, h: h * x.mean() if x.shape == h.shape else x,
    ],
)
def test_going_on_is_as_a_whole_pass_with_another_output(before, behind):
    assert_goes_on(Around(before, behind), torch.rand(4, 3))


def test_nothing_before_the_layer_is_computed_again():
    calls = []

    class Seen(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            calls.append(func._schema.name.removeprefix("aten::"))
            return func(*args, **(kwargs or {}))

    start = Resumable(Around(lambda x: torch.rand_like(x).cos().exp_(), torch.sub), "layer", torch.rand(4, 3))
    with Seen():
        first = start.resume(torch.neg)
    assert calls == ["neg", "sub"]
    assert torch.equal(start.resume(torch.neg), first)  # what was drawn at random stays


def test_settings_are_made_again():
    before = torch.is_grad_enabled()
    model = Around(switches_gradients, lambda x, h: h * 2)
    start = Resumable(model, "layer", torch.rand(4, 3))
    assert torch.equal(start.resume(torch.clone), start.output)
    assert torch.is_grad_enabled() == before


def test_no_more_is_held_than_the_model_holds():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 5), nn.Linear(5, 7), nn.Linear(7, 2))
    start = Resumable(model, "3", torch.rand(4, 3))
    held = [tensor for tensor in start._notes.tensors if tensor.device.type == "cpu"]
    assert sorted(tensor.shape[1] for tensor in held) == [5, 7]  # what the layer was given, and gave
    assert len(start._notes.tensors) == 4


def test_a_layer_that_runs_again_is_changed_each_time():
    assert_goes_on(Around(torch.sin), torch.rand(4, 3))
    model = Around(torch.sin)
    model.behind = lambda x, h: model.layer(h.cos()) + x
    assert_goes_on(model, torch.rand(4, 3))


def makes_an_array(x):
    array = x.numpy()
    array += 1
    return torch.from_numpy(array)


def fills_what_was_not_seen(x):
    table = torch.Tensor(4, 3)
    table.copy_(x)
    return table


@pytest.mark.parametrize(
    ("before", "behind", "message"),
    [
        (makes_an_array, lambda x, h: h, "gives a ndarray"),
        (fills_what_was_not_seen, lambda x, h: h, "copy_ changes a tensor whose origin was not seen"),
        (torch.sin, lambda x, h: x.add_(1) + h, "changed in place behind it"),
        (lambda x: x, lambda x, h: x.add_(1) + h, "changed in place behind it"),
        (lambda x: x.view(2, 2, 3)[0], lambda x, h: x._base.mul_(2)[:2] + h, "changed in place behind it"),
    ],
)
def test_what_can_not_be_gone_on_from_is_refused(before, behind, message):
    with pytest.raises(CannotResumeError, match=message):
        Resumable(Around(before, behind), "layer", torch.rand(4, 3)).resume(torch.clone)


@pytest.mark.parametrize("catches", [(), RuntimeError])
def test_a_model_that_goes_another_way_is_refused_even_if_it_catches_errors(catches):
    again = []

    def before(x):
        try:
            x = x.sin() if again else x.cos()
        except catches:
            x = x + 1
        return x

    start = Resumable(Around(before), "layer", torch.rand(2, 3))
    again.append(True)
    with pytest.raises(CannotResumeError, match="the model calls sin where"):
        start.resume(torch.clone)


@pytest.mark.parametrize(
    ("layer", "message"), [("unused", "does not run the layer 'unused'"), ("pair", "'pair' gives a tuple")]
)
def test_layers_without_an_output_to_go_on_from(layer, message):
    model = Around(torch.sin, lambda x, h: model.pair(h)[0])
    model.pair, model.unused = nn.LSTM(3, 3), nn.Identity()
    with pytest.raises(ValueError, match=message):
        Resumable(model, layer, torch.rand(4, 3))
    assert not any(module._forward_hooks for module in model.modules())
