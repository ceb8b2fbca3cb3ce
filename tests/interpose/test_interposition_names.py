"""A call has one name, whether a module, a function, an operator, a method or its in-place form makes it."""

import pytest
import torch
import torch.nn.functional as F
from recording import Recording, names
from torch import nn

from netinterp_fast.interpose import NoRuleError

SAME = {
    "relu": [nn.ReLU(), nn.ReLU(inplace=True), F.relu, torch.relu, torch.Tensor.relu, lambda x: x.relu_(), F.relu_,
             torch.relu_, lambda x: F.relu(x, inplace=True), lambda x: F.relu(x, True)],
    "leaky_relu": [nn.LeakyReLU(), F.leaky_relu, F.leaky_relu_, lambda x: F.leaky_relu(x, 0.1, True)],
    "sigmoid": [nn.Sigmoid(), torch.sigmoid, torch.Tensor.sigmoid, torch.Tensor.sigmoid_, F.sigmoid],
    "tanh": [nn.Tanh(), torch.tanh, torch.Tensor.tanh_],
    "elu": [nn.ELU(), F.elu, F.elu_],
    "add": [lambda x: x + 1, lambda x: torch.add(x, 1), lambda x: x.add(1), lambda x: x.add_(1), lambda x: 1 + x,
            lambda x: x.__iadd__(1)],
    "sub": [lambda x: x - 1, lambda x: torch.sub(x, 1), lambda x: x.sub_(1), lambda x: x.__isub__(1)],
    "mul": [lambda x: x * 2, lambda x: torch.mul(x, 2), lambda x: x.mul_(2), lambda x: 2 * x, lambda x: x.__imul__(2)],
    "div": [lambda x: x / 2, lambda x: torch.div(x, 2), lambda x: x.div_(2), lambda x: x.__itruediv__(2)],
    "flatten": [nn.Flatten(), lambda x: x.flatten(1), lambda x: torch.flatten(x, 1)],
    "avg_pool2d": [nn.AvgPool2d(2), lambda x: F.avg_pool2d(x, 2)],
    "adaptive_avg_pool2d": [nn.AdaptiveAvgPool2d(1), lambda x: F.adaptive_avg_pool2d(x, 1)],
    "max_pool2d": [nn.MaxPool2d(2), lambda x: F.max_pool2d(x, 2), lambda x: torch.max_pool2d(x, 2)],
    "softmax": [nn.Softmax(1), lambda x: F.softmax(x, 1), lambda x: x.softmax(1), lambda x: torch.softmax(x, 1)],
    "interpolate": [nn.Upsample(scale_factor=2), lambda x: F.interpolate(x, scale_factor=2)],
    "mean": [lambda x: x.mean(), lambda x: torch.mean(x), lambda x: x.mean((2, 3))],
    "permute": [lambda x: x.permute(0, 2, 3, 1), lambda x: torch.permute(x, (0, 2, 3, 1))],
    "getitem": [lambda x: x[:, 0], lambda x: x[..., 1:], lambda x: x[:, None], lambda x: x[[0]]],
    "T": [lambda x: x[0, 0].T],
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_one_name(name):
    for form in SAME[name]:
        made = names(lambda model, x, form=form: form(x), torch.randn(2, 4, 4, 4))
        assert made[-1] == name, form


def test_the_names_of_layers():
    conv, linear, norm, x = nn.Conv2d(4, 4, 1), nn.Linear(4, 4), nn.BatchNorm2d(4).eval(), torch.randn(2, 4, 4, 4)
    assert names(lambda m, x: conv(x), x) == names(lambda m, x: F.conv2d(x, conv.weight), x) == ["conv2d"]
    assert names(lambda m, x: linear(x), x) == names(lambda m, x: F.linear(x, linear.weight), x) == ["linear"]
    assert names(lambda m, x: norm(x), x) == ["batch_norm"]


def test_in_place_or_not():
    recording = Recording(nn.Module())

    def function(x):
        x = x + 1
        x += 1
        x.mul_(2)
        F.relu(x, inplace=True)
        x[:, 0] = 0
        return x.relu()

    recording.run(function, torch.randn(2, 3))
    assert [call[:2] for call in recording.calls] == [
        ("add", False), ("add", True), ("mul", True), ("relu", True), ("setitem", True), ("relu", False)
    ]  # fmt: skip


def test_calls_that_ask_and_calls_on_other_tensors_are_not_answered():
    def function(model, x):
        assert x.shape == (2, 3)
        assert x.size(0) == len(x) == 2
        assert (x.dim(), x.ndim, x.dtype, x.device.type) == (2, 2, torch.float32, "cpu")
        assert x.is_contiguous()
        torch.ones(2, 3).relu().add_(1)
        return x

    assert names(function, torch.randn(2, 3)) == []


def test_what_is_inside_a_function_is_not_answered_but_attention_is_taken_apart():
    x = torch.randn(2, 5, 4)
    assert names(lambda m, x: F.gelu(F.layer_norm(x, (4,))), x) == ["layer_norm", "gelu"]
    attention = nn.MultiheadAttention(4, 2, batch_first=True).eval()
    for need_weights in (True, False):
        made = names(lambda m, x, n=need_weights: attention(x, x, x, need_weights=n)[0], x)
        assert "multi_head_attention_forward" not in made
        assert made.count("linear") == 2
        assert ("softmax" in made) == need_weights
        assert ("scaled_dot_product_attention" in made) != need_weights


def test_arguments_by_position_or_name():
    class Asking(Recording):
        def answer(self, call):
            places = ((1, "weight"), (2, "bias"), (3, "stride"))
            self.calls.append([call.argument(i, name, "none") for i, name in places])
            return super()._marked(call.with_tensors(lambda tensor: tensor))

    w, b, x = torch.randn(2, 3, 1, 1), torch.randn(2), torch.randn(1, 3, 4, 4)
    for form in (
        lambda x: F.conv2d(x, w, b, 2), lambda x: F.conv2d(x, weight=w, bias=b, stride=2),
        lambda x: F.conv2d(input=x, weight=w, bias=b, stride=2),
    ):  # fmt: skip
        asking = Asking(nn.Module())
        asking.run(form, x)
        weight, bias, stride = asking.calls[0]
        assert weight is w
        assert bias is b
        assert stride in (2, (2, 2))
    asking = Asking(nn.Module())
    asking.run(lambda x: F.conv2d(x, w), x)
    assert asking.calls[0][1:] == ["none", "none"]


def test_out_is_refused_and_out_none_is_not():
    x = torch.randn(2, 3)
    with pytest.raises(NoRuleError, match="add writes to out=; use its result instead"):
        names(lambda m, x: torch.add(x, x, out=torch.empty(2, 3)), x)
    assert names(lambda m, x: torch.add(x, x, out=None), x) == ["add"]
    assert names(lambda m, x: F.normalize(x), x) == ["normalize"]
