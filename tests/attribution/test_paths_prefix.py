"""Integrated gradients skip a model's affine beginning: that must never show in the numbers."""

import pytest
import torch
import torch.nn.functional as F
from gradient_nets import DOUBLE, ConvNet, TwoInputs, close, integrated, net
from made_of import Made
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from netinterp_fast import integrated_gradients

FLAT, IMAGES, TOKENS = (3, 6), (3, 2, 8, 8), (3, 5, 8)


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return -2 * grad


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.round(x * 4) / 4

    @staticmethod
    def backward(ctx, grad):
        return grad


def _without_gradients(s, x):
    with torch.no_grad():
        frozen = s.a(x)
    return s.b(torch.relu(frozen) + torch.relu(s.c(x)))


def _vit(s, x):
    patches = s.embed(x).flatten(2).transpose(1, 2)
    tokens = torch.cat([s.token.expand(x.shape[0], -1, -1), patches], dim=1) + s.position
    tokens = tokens + s.attention(s.norm(tokens), s.norm(tokens), s.norm(tokens), need_weights=False)[0]
    return s.head((tokens + F.gelu(s.mlp(s.norm(tokens))))[:, 0])


def _vit_parts():
    return {
        "embed": nn.Conv2d(2, 8, 4, 4), "token": nn.Parameter(torch.randn(1, 1, 8)), "norm": nn.LayerNorm(8),
        "position": nn.Parameter(torch.randn(1, 5, 8)), "mlp": nn.Linear(8, 8), "head": nn.Linear(8, 4),
        "attention": nn.MultiheadAttention(8, 2, batch_first=True),
    }  # fmt: skip


def _loop_over_rows(s, x):
    return s.b(torch.stack([torch.relu(s.a(row) if row.sum() > 0 else s.c(row)) for row in x]))


def _setitem(s, x):
    h = s.a(x)
    h[:, :3] = torch.relu(h[:, 3:6])
    h[:, 4] = 1.0
    return s.b(torch.relu(h))


def _in_place_operators(s, x):
    h = s.a(x)
    h += s.c(x)
    h *= 0.5
    h -= 1
    h /= 3
    return s.b(F.relu(h))


def _reused_in_place(s, x):
    h = s.a(x)
    activated = F.relu(h, inplace=True)
    return s.b(torch.tanh(activated) + h)


def _view_changed(s, x):
    h = s.a(x)
    h[:, :3].mul_(2)
    return s.b(torch.relu(h))


def _relu_twice(s, x):
    h = s.a(x)
    return s.b(torch.relu(h) - 2 * torch.relu(h) ** 2 + h)


def _view_channels(s, x):
    h = s.conv(x)
    apart = s.one(h.view(h.shape[0] * h.shape[1], 1, *h.shape[2:]))
    return s.head(torch.relu(apart).reshape(x.shape[0], -1))


def _like_the_input(s, x):
    assert x.device.type == "cpu"
    assert not x.is_cuda
    shift = torch.linspace(0, 1, x.shape[1], device=x.device, dtype=x.dtype).expand(x.shape[0], -1)
    return s.b(torch.relu(s.a(x + shift)) + torch.zeros(len(x), 1, device=x.device, dtype=x.dtype))


def _buffer(s, x):
    stacked = torch.zeros(x.shape[0], 7, dtype=x.dtype)
    stacked[:, :6] = x * 2
    return s.b(torch.relu(s.c(stacked[:, :6]) + stacked[:, 6:]))


def _interpolated(s, x):
    return s.head(F.elu(F.interpolate(s.conv(x), scale_factor=2, mode="bilinear")).mean((2, 3)))


def _pixel_shuffled(s, x):
    return s.head(F.pixel_unshuffle(torch.relu(F.avg_pool2d(F.pixel_shuffle(s.four(x), 2), 2)), 2).mean((2, 3)))


DENSE = {"a": (6, 8), "b": (8, 4), "c": (6, 8), "d": (8, 8)}
CONV = {"conv": (2, 3), "four": (2, 12), "one": (1, 1)}


def made(function, shape) -> Made:
    parts = {name: nn.Linear(*sizes) for name, sizes in DENSE.items()}
    parts |= {name: nn.Conv2d(*sizes, 3, padding=1) for name, sizes in CONV.items()}
    parts |= {"bn": nn.BatchNorm2d(3), "head": nn.Linear(3 if shape == IMAGES else 8, 4), "wide": nn.Linear(192, 4)}
    if function is _vit:
        parts = _vit_parts()
    if function is _view_channels:
        parts["head"] = nn.Linear(192, 4)
    if function is _pixel_shuffled:
        parts["head"] = nn.Linear(12, 4)
    model = Made(function, **parts)
    if "bn" in parts:
        with torch.no_grad():
            model.bn.running_mean.normal_()
            model.bn.running_var.uniform_(0.5, 2)
            model.bn.weight.normal_()
            model.bn.bias.normal_()
    return model


MODELS = {
    "linear first": (FLAT, lambda s, x: s.b(torch.relu(s.a(x)))),
    "two linear layers first": (FLAT, lambda s, x: s.b(torch.relu(s.d(s.a(x))))),
    "conv, batch norm, relu": (IMAGES, lambda s, x: s.head(torch.relu(s.bn(s.conv(x))).mean((2, 3)))),
    "conv, batch norm, in-place relu": (IMAGES, lambda s, x: s.wide(F.relu(s.bn(s.conv(x)), True).flatten(1))),
    "normalised": (IMAGES, lambda s, x: s.wide(torch.relu(s.conv((x - 0.4) / torch.tensor([2.0, 3.0])[:, None, None]))
                                               .flatten(1))),
    "normalised, constant first": (FLAT, lambda s, x: s.b(torch.relu(s.a(2 * x + 1) - (1 - s.c(x)) * 0.5))),
    "normalised in place": (FLAT, lambda s, x: s.b(torch.relu(s.a(x.sub_(0.5).div_(2.0))))),
    "normalised in place by operators": (FLAT, lambda s, x: s.b(torch.relu(s.a(x.__isub__(0.5).__itruediv__(2.0))))),
    "relu in place on the input": (FLAT, lambda s, x: s.b(torch.tanh(s.a(F.relu(x, inplace=True))))),
    "an affine and another branch": (FLAT, lambda s, x: s.b(s.a(x) + torch.sigmoid(s.c(x)))),
    "two affine branches, two relus": (FLAT, lambda s, x: s.b(torch.relu(s.a(x)) * torch.relu(s.c(x)))),
    "skip round a nonlinearity": (FLAT, lambda s, x: s.b(torch.relu(s.a(x)) + s.a(x)) * x[:, :1]),
    "wholly affine": (FLAT, lambda s, x: s.b(s.a(x) * 2 - 1)),
    "wholly affine, one row kept": (FLAT, lambda s, x: s.a(x)[:, 2:6]),
    "no affine beginning": (FLAT, lambda s, x: s.b(torch.tanh(s.a(torch.exp(x))))),
    "product of the input with itself": (FLAT, lambda s, x: s.b(s.a(x) * s.c(x))),
    "division by the input": (FLAT, lambda s, x: s.b(s.a(x) / (1 + s.c(x) ** 2))),
    "number over the input": (FLAT, lambda s, x: s.a(1 / (3 + x.abs()))),
    "weights that depend on the input": (FLAT, lambda s, x: F.linear(s.a(x), s.d.weight[:4] * x.shape[1])),
    "bias that depends on the input": (FLAT, lambda s, x: s.b(F.relu(s.a(x) + F.linear(torch.ones_like(x), s.c.weight)
                                                                     * s.c(x)))),
    "vision transformer": (IMAGES, _vit),
    "reshapes": (FLAT, lambda s, x: s.b(torch.relu(s.a(x.view(-1, 2, 3).permute(0, 2, 1).reshape(len(x), 6))))),
    "slices": (FLAT, lambda s, x: s.b(torch.relu(s.a(torch.cat([x[:, 3:], x[:, :3] * 2, x[:, :0]], -1))))),
    "columns by a list": (FLAT, lambda s, x: s.b(torch.relu(s.a(x[:, [5, 0, 0, 2, 1, 3]])))),
    "columns by a tensor": (FLAT, lambda s, x: s.b(torch.relu(s.a(x[:, torch.tensor([5, 0, 0, 2, 1, 3])])))),
    "lists apart": (TOKENS, lambda s, x: s.b(torch.relu(x[:, [0, 1], :, None][:, [0, 1], :, [0, 0]].sum(0)))),
    "chunks": (FLAT, lambda s, x: s.b(torch.relu(s.a(torch.cat(s.c(x).chunk(4, 1)[:3], 1))))),
    "split": (FLAT, lambda s, x: s.b(torch.relu(s.a(torch.cat(x.split(2, 1)[::-1], 1))))),
    "stacked": (FLAT, lambda s, x: s.b(torch.relu(torch.stack([s.a(x), s.c(x)], 1)).amax(1))),
    "unsqueeze and squeeze": (FLAT, lambda s, x: s.b(torch.relu(s.a(x.unsqueeze(1)).squeeze(1)))),
    "padded": (FLAT, lambda s, x: s.b(torch.relu(F.pad(s.a(x)[:, :6], (1, 1), value=0.5)))),
    "features before the batch": (FLAT, lambda s, x: s.b(torch.relu(s.a.weight @ x.T).T)),
    "tokens before the batch": (TOKENS, lambda s, x: s.b(torch.relu(s.d(x.transpose(0, 1))).mean(0))),
    "permuted before the batch": (TOKENS, lambda s, x: s.b(torch.relu(s.d(x.permute(1, 0, 2) + 1)).amax(0))),
    "batch and tokens in one": (TOKENS, lambda s, x: s.b(F.relu(s.d(x.reshape(-1, 8)))).view(len(x), -1)[:, ::5]),
    "channels and batch in one view": (IMAGES, _view_channels),
    "view after a convolution": (IMAGES, lambda s, x: s.wide(torch.relu(s.conv(x)).view(x.size(0), -1))),
    "view of a convolution": (IMAGES, lambda s, x: s.wide(torch.relu(s.conv(x).view(x.size(0), -1)))),
    "as_strided": (IMAGES, lambda s, x: s.wide(torch.relu(s.conv(x)).contiguous().as_strided((len(x), 192), (192, 1)))),
    "asks for size and device": (FLAT, _like_the_input),
    "fills a buffer": (FLAT, _buffer),
    "sets items": (FLAT, _setitem),
    "in-place operators": (FLAT, _in_place_operators),
    "in-place relu, both used": (FLAT, _reused_in_place),
    "a view changed in place": (FLAT, _view_changed),
    "two relus of one tensor": (FLAT, _relu_twice),
    "reused first layer": (FLAT, lambda s, x: s.b(torch.relu(s.a(torch.relu(s.a(x))[:, :6])) + s.a(x))),
    "reused affine layer": (TOKENS, lambda s, x: s.b(torch.relu(s.d(s.d(s.d(x)))).mean(1))),
    "no gradients through a branch": (FLAT, _without_gradients),
    "a branch detached": (FLAT, lambda s, x: s.b(torch.relu(s.a(x).detach()) + torch.relu(s.c(x)) + s.a(x.detach()))),
    "a branch of x.data": (FLAT, lambda s, x: s.b(torch.relu(s.a(x.data)) + torch.relu(s.c(x)))),
    "statistics of the input": (FLAT, lambda s, x: s.b(torch.relu(s.a(x) - x.mean(1, keepdim=True)))),
    "rows one by one": (FLAT, _loop_over_rows),
    "masked": (FLAT, lambda s, x: s.b(torch.relu(s.a(x)).masked_fill(s.c(x) > 0, 0.3))),
    "layer norm first": (TOKENS, lambda s, x: s.b(torch.relu(s.d(F.layer_norm(x, (8,)))).mean(1))),
    "group norm": (IMAGES, lambda s, x: s.head(torch.relu(F.group_norm(s.conv(x), 3)).mean((2, 3)))),
    "instance norm": (IMAGES, lambda s, x: s.head(torch.relu(F.instance_norm(s.conv(x))).amax((2, 3)))),
    "batch norm of features": (FLAT, lambda s, x: s.b(F.relu(F.batch_norm(s.a(x), torch.ones(8, dtype=DOUBLE),
                                                                          torch.full((8,), 2.0, dtype=DOUBLE))))),
    "resized": (IMAGES, _interpolated),
    "pixels shuffled": (IMAGES, _pixel_shuffled),
    "max pooling first": (IMAGES, lambda s, x: s.head(s.conv(F.max_pool2d(x, 2)).mean((2, 3)))),
    "leaky relu": (FLAT, lambda s, x: s.b(F.leaky_relu(s.a(x), 0.2, inplace=True))),
    "dropout in evaluation mode": (FLAT, lambda s, x: s.b(torch.relu(F.dropout(s.a(x), 0.5, False)))),
    "einsum": (TOKENS, lambda s, x: s.b(torch.relu(torch.einsum("btc,dc->bd", x, s.d.weight)))),
    "matmul": (TOKENS, lambda s, x: s.b(torch.relu((x @ s.d.weight).mean(1)))),
    "single precision inside": (FLAT, lambda s, x: s.b(torch.relu(s.a(x)).float().double())),
    "function with another backward first": (FLAT, lambda s, x: s.b(torch.relu(s.a(Reversed.apply(x))))),
    "function with another backward between": (FLAT, lambda s, x: s.b(torch.relu(Reversed.apply(s.a(x))))),
    "function with another backward beside": (FLAT, lambda s, x: s.b(torch.relu(s.a(Reversed.apply(x))) + s.c(x))),
    "straight-through first": (FLAT, lambda s, x: s.b(torch.relu(s.a(StraightThrough.apply(x))))),
    "straight-through between": (FLAT, lambda s, x: s.b(torch.relu(StraightThrough.apply(s.a(x))))),
    "straight-through beside": (FLAT, lambda s, x: s.b(torch.relu(s.a(StraightThrough.apply(x))) + s.c(x))),
    "straight-through by detach": (FLAT, lambda s, x: s.b(torch.relu(s.a(x + (torch.round(x) - x).detach())))),
    "checkpointed": (FLAT, lambda s, x: s.b(checkpoint(lambda t: torch.relu(s.a(t)), x, use_reentrant=False))),
    "checkpointed after a layer": (FLAT, lambda s, x: s.b(checkpoint(torch.relu, s.a(x), use_reentrant=False))),
}  # fmt: skip


def first_output(output):
    return output[:, 0]


@pytest.mark.parametrize("hoist", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_the_beginning_makes_no_difference(name, hoist):
    shape, function = MODELS[name]
    model, x, baseline = made(function, shape), torch.randn(shape, dtype=DOUBLE), torch.randn(1, *shape[1:]).double()
    given = x.clone(), baseline.clone()
    got = integrated_gradients(model, x, 0, baseline=baseline, steps=9, hoist=hoist)
    precise = 1e-6 if "single" in name else 1e-10
    assert close(got, integrated(model, x, first_output, baseline=baseline), precise)
    assert torch.equal(x, given[0])
    assert torch.equal(baseline, given[1])


@pytest.mark.parametrize("name", MODELS)
def test_the_beginning_makes_no_difference_for_one_example_in_small_passes(name):
    shape, function = MODELS[name]
    model, x = made(function, shape), torch.randn(1, *shape[1:], dtype=DOUBLE)
    expected = integrated(model, x, first_output)
    precise = 1e-6 if "single" in name else 1e-10
    for batch_size in (1, 4, None):
        assert close(integrated_gradients(model, x, 0, steps=9, batch_size=batch_size), expected, precise)


def test_the_beginning_runs_for_the_two_ends_alone():
    class Rows(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.convolution.default and args[0].device.type != "meta":
                counts[args[1].shape[1]] = counts.get(args[1].shape[1], 0) + len(args[0])
            return func(*args, **(kwargs or {}))

    counts: dict[int, int] = {}
    with Rows():
        integrated_gradients(ConvNet(), torch.randn(2, 2, 8, 8, dtype=DOUBLE), 0, steps=30)
    assert counts[2] <= 8  # the ends, and a check
    assert counts[5] >= 60


@pytest.mark.parametrize("inplace", [True, False])
def test_networks_of_modules(inplace):
    x = torch.randn(3, 2, 8, 8, dtype=DOUBLE)
    model = ConvNet(inplace)
    assert close(integrated_gradients(model, x, 0, steps=9), integrated(model, x, first_output))
    model, x = nn.Sequential(nn.Flatten(), net(128, 7, 4, inplace=inplace)).eval(), x
    assert close(integrated_gradients(model, x, 0, steps=9), integrated(model, x, first_output))


def test_models_that_are_functions():
    layers, x = net(6, 8, 4), torch.randn(3, 6, dtype=DOUBLE)
    expected = integrated(layers, x, first_output)
    assert close(integrated_gradients(lambda x: layers(x), x, 0, steps=9), expected)
    assert close(integrated_gradients(layers.forward, x, 0, steps=9), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_and_traced_models_and_parts():
    x = torch.randn(3, 6, dtype=DOUBLE)
    layers = net(6, 8, 4)
    for model in (torch.jit.script(layers), torch.jit.trace(layers, x)):
        assert close(integrated_gradients(model, x, 0, steps=9), integrated(layers, x, first_output))
    part = torch.jit.script(net(6, 8, 8))
    for function in (
        lambda s, x: s.b(part(x) + torch.relu(s.c(x))),
        lambda s, x: s.b(torch.relu(s.c(x)) * torch.tanh(part(x))),
        lambda s, x: s.b(part(s.a(x)[:, :6])),
    ):
        model = made(function, FLAT)
        assert close(integrated_gradients(model, x, 0, steps=9), integrated(model, x, first_output))


@pytest.mark.parametrize("module", [nn.Dropout(0.5), nn.AlphaDropout(0.5), nn.BatchNorm1d(6)])
def test_layers_in_training_mode_do_no_harm(module):
    for model in (nn.Sequential(module, net(6, 8, 4)), nn.Sequential(nn.Linear(6, 6), nn.ReLU(), module)):
        got = integrated_gradients(model.double().train(), torch.randn(3, 6, dtype=DOUBLE), 0, steps=9)
        assert got.shape == (3, 6)
        assert got.isfinite().all()


def _which_layer(s, x):
    return s.b(torch.relu(s.a(x) if x.sum() > 2 else s.c(x)))


def _how_often(s, x):
    h = s.a(x)
    for _ in range(int(x.sum())):
        h = h * 0.5
    return s.b(torch.relu(h))


def _by_number(s, x):
    return s.b(torch.relu(s.a(x) * x.detach().max().item()))


def _whether(s, x):
    return s.b(torch.relu(s.a(x / 2 if x.amax() > 0.6 else x)))


def _by_layer(s, x):
    h = s.d(s.a(x))
    return s.b(torch.relu(s.d(h) if h.sum().item() > 0 else h))


@pytest.mark.parametrize("hoist", [True, False])
@pytest.mark.parametrize("function", [_which_layer, _how_often, _by_number, _whether, _by_layer])
def test_control_flow_that_depends_on_the_values(function, hoist):
    """Every point of one example decides by itself."""
    model, x = made(function, FLAT), torch.rand(1, 6, dtype=DOUBLE) + 0.5
    got = integrated_gradients(model, x, 0, steps=9, batch_size=1, hoist=hoist)
    assert close(got, integrated(model, x, first_output))


def test_control_flow_that_depends_on_the_number_of_rows():
    def function(s, x):
        return s.b(torch.relu(s.a(x)) if len(x) > 2 else F.relu(s.a(x).clone()))

    model, x = made(function, FLAT), torch.randn(3, 6, dtype=DOUBLE)
    for batch_size in (1, 2, 3, 5, None):
        got = integrated_gradients(model, x, 0, steps=9, batch_size=batch_size)
        assert close(got, integrated(model, x, first_output))


def test_constants_of_each_example():
    def function(s, x, scale, shift):
        return s.b(torch.relu(s.a(x * scale) - shift[:, None]) * shift.exp()[:, None])

    layers = made(function, FLAT)
    x, scale, shift = (torch.randn(size, dtype=DOUBLE) for size in ((5, 6), (5, 6), (5,)))

    def model(x, scale, shift):
        return function(layers, x, scale, shift)

    expected = integrated(model, x, first_output, scale, shift, baseline=0.3)
    for batch_size in (1, 3, 7, None):
        for hoist in (True, False):
            got = integrated_gradients(model, x, 0, baseline=0.3, steps=9, batch_size=batch_size, hoist=hoist,
                                       additional_forward_args=(scale, shift))  # fmt: skip
            assert close(got, expected)


def test_two_inputs_one_of_them_unused():
    model = TwoInputs()
    x, y = torch.randn(3, 6, dtype=DOUBLE), torch.randn(3, 2, 7, dtype=DOUBLE)
    got = integrated_gradients(model, (x, y), 1, steps=9)
    whole = integrated_gradients(model, (x, y), 1, steps=9, hoist=False)
    assert all(close(a, b) for a, b in zip(got, whole, strict=True))
    got = integrated_gradients(lambda x, y: model.c(torch.relu(model.a(x))), (x, y), 1, steps=9)
    assert not got[1].any()
    assert close(got[0], integrated(lambda x: model.c(torch.relu(model.a(x))), x, lambda out: out[:, 1]))


def test_outputs_that_are_infinite_do_not_hide_a_wrong_course():
    """as_strided reads the memory, whose order channels_last changes."""

    def function(s, x):
        h = torch.relu(s.conv(x))
        output = s.wide(h.as_strided((len(h), 192), (192, 1)))
        return torch.cat([output, torch.full_like(output[:, :1], -torch.inf)], 1)

    model, x = made(function, IMAGES), torch.randn(IMAGES, dtype=DOUBLE)
    assert close(integrated_gradients(model, x, 0, steps=9), integrated(model, x, first_output))


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_memory_formats(layout):
    model, x = ConvNet(), torch.randn(3, 2, 8, 8, dtype=DOUBLE)
    expected = integrated(model, x, first_output)
    for module in (model, model.to(memory_format=layout)):
        assert close(integrated_gradients(module, x.to(memory_format=layout), 0, steps=9), expected)
        turned = x.transpose(2, 3).contiguous().transpose(2, 3)
        assert close(integrated_gradients(module, turned, 0, steps=9, baseline=torch.zeros_like(x)), expected)


@pytest.mark.parametrize("layer", ["conv1", "bn", "relu1", "conv2", "fc"])
@pytest.mark.parametrize("at_input", [True, False])
def test_paths_of_layers_begin_there(layer, at_input):
    model, x = ConvNet(), torch.randn(3, 2, 8, 8, dtype=DOUBLE)
    one, other = (
        integrated_gradients(model, x, 2, layer=layer, attribute_to_layer_input=at_input, steps=9, hoist=hoist)
        for hoist in (True, False)
    )
    assert close(one, other)
