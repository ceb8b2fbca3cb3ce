"""FullGrad's input part and bias parts add up to the output, whatever the network adds on the way."""

import pytest
import torch
import torch.nn.functional as F
from gradient_nets import DOUBLE, ConvNet, TwoInputs, close, net
from made_of import Made
from torch import nn

from netinterp_fast import full_grad, input_x_gradient
from netinterp_fast.interpose import NoRuleError

FLAT, IMAGES, TOKENS = (3, 6), (3, 2, 6, 6), (3, 5, 8)
LATER = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


def _sets_items(s, x):
    h = s.a(x)
    h[:, 0] = 5
    h[:, 1] = h[:, 2]
    h[:, 3] = torch.ones(3, dtype=DOUBLE)
    return s.b(h)


def _in_place(s, x):
    h = s.a(x)
    h += 1
    h *= x
    h -= 2
    return s.b(F.relu(h, inplace=True))


def _variance(s, x):
    variance, mean = torch.var_mean(s.a(x), 1, keepdim=True)
    return (x - mean) * variance


def _vit(s, x):
    tokens = s.embed(x).flatten(2).transpose(1, 2)
    tokens = torch.cat([s.token.expand(len(x), -1, -1), tokens], 1) + s.position
    normal = s.norm(tokens)
    tokens = tokens + s.attention(normal, normal, normal)[0]
    return s.head(tokens + F.gelu(s.mlp(s.norm(tokens))))[:, 0]


def _attention(x, **options):
    return F.scaled_dot_product_attention(x, x, x, **options)


MODELS = {
    "linear": (FLAT, lambda s, x: s.b(torch.relu(s.a(x)))),
    "conv": (IMAGES, lambda s, x: F.max_pool2d(torch.relu(s.conv(x)), 2).flatten(1)),
    "batch norm, negative scales": (IMAGES, lambda s, x: torch.relu(s.bn(s.conv(x))).mean((2, 3))),
    "transposed convolution": (IMAGES, lambda s, x: F.conv_transpose2d(s.conv(x), s.conv.weight, s.conv.bias[:2])),
    "gelu, silu, softplus, sigmoid": (FLAT, lambda s, x: F.softplus(F.silu(F.gelu(s.a(x)))).sigmoid()),
    "tanh, elu, hardtanh": (FLAT, lambda s, x: F.hardtanh(F.elu(torch.tanh(s.a(x)) * 3))),
    "softmax": (FLAT, lambda s, x: s.a(x).softmax(1)),
    "log softmax": (FLAT, lambda s, x: F.log_softmax(s.a(x), 1)),
    "layer norm": (TOKENS, lambda s, x: torch.relu(s.norm(s.d(x)))),
    "group norm": (IMAGES, lambda s, x: F.group_norm(s.conv(x), 5, s.bn.weight, s.bn.bias)),
    "instance norm": (IMAGES, lambda s, x: F.instance_norm(s.conv(x))),
    "added constants": (FLAT, lambda s, x: s.b(torch.relu(1 - s.a(x) + s.b.bias) - 3)),
    "added integers": (FLAT, lambda s, x: s.b(torch.relu(s.a(x) + torch.arange(6)))),
    "added input, scaled": (FLAT, lambda s, x: torch.add(s.a(x), x, alpha=2)),
    "cat with constants": (FLAT, lambda s, x: s.wide(torch.cat([torch.relu(s.a(x)), torch.ones(3, 2).double()], 1))),
    "stack with constants": (FLAT, lambda s, x: torch.stack([s.a(x), torch.ones(3, 6).double()], 1).flatten(1)),
    "where with a number": (FLAT, lambda s, x: s.b(torch.where(x > 0, s.a(x), 3))),
    "where with an integer tensor": (FLAT, lambda s, x: s.b(torch.where(x > 0, s.a(x), torch.tensor(3)))),
    "where with a constant": (FLAT, lambda s, x: s.b(torch.where(x > 0, s.a(x), s.a.bias))),
    "masked_fill": (FLAT, lambda s, x: s.b(s.a(x).masked_fill(x > 0, -1.5))),
    "masked_fill with an integer tensor": (FLAT, lambda s, x: s.b(s.a(x).masked_fill(x > 0, torch.tensor(2)))),
    "padded with a number": (IMAGES, lambda s, x: s.conv(F.pad(x, (1, 1), value=2.0))),
    "padded with zeros": (IMAGES, lambda s, x: s.conv(F.pad(s.conv(x)[:, :2], (1, 1)))),
    "clamped": (FLAT, lambda s, x: s.b(s.a(x).clamp(-0.3, 0.3))),
    "maximum with a constant": (FLAT, lambda s, x: s.b(torch.maximum(s.a(x), torch.tensor(0.5).double()))),
    "items set": (FLAT, _sets_items),
    "scattered": (FLAT, lambda s, x: s.a(x).scatter(1, torch.zeros(3, 1, dtype=torch.int64), 1.5)),
    "in place": (FLAT, _in_place),
    "product of two branches": (FLAT, lambda s, x: s.a(x) * torch.sigmoid(s.b(x))),
    "product with itself": (FLAT, lambda s, x: s.b(x * x * s.a(x) ** 3)),
    "quotient": (FLAT, lambda s, x: s.a(x) / (1 + x.norm(dim=1, keepdim=True))),
    "matrix product of two branches": (TOKENS, lambda s, x: s.d(x) @ x.mT),
    "bilinear": (FLAT, lambda s, x: F.bilinear(x, s.a(x), torch.ones(4, 6, 6).double(), torch.arange(4.0).double())),
    "weights from the input": (FLAT, lambda s, x: F.linear(s.a(x), x, x.mean(1))),
    "reused layers": (FLAT, lambda s, x: s.a(torch.relu(s.a(torch.relu(s.a(x)))))),
    "variance": (FLAT, _variance),
    "exp and log": (FLAT, lambda s, x: torch.log(torch.exp(x) + 1)),
    "softmax attention": (TOKENS, lambda s, x: s.attention(x, x, x)[0]),
    "attention without weights": (TOKENS, lambda s, x: s.attention(x, x, x, need_weights=False)[0]),
    "causal attention": (TOKENS, lambda s, x: s.attention(x, x, x, attn_mask=LATER)[0]),
    "fused attention": (TOKENS, lambda s, x: s.d(_attention(s.d(x)))),
    "fused causal attention": (TOKENS, lambda s, x: s.d(_attention(s.d(x), is_causal=True))),
    "scores masked by -inf": (TOKENS, lambda s, x: (s.d(x) @ x.mT).masked_fill(LATER, -torch.inf).softmax(-1) @ x),
    "transformer layer": (TOKENS, lambda s, x: s.encoder(x)),
    "vision transformer": (IMAGES, _vit),
    "gated recurrence": (TOKENS, lambda s, x: s.gru(x)[0][:, -1]),
    "long short-term memory": (TOKENS, lambda s, x: s.lstm(x)[0][:, -1]),
    "images one by one": (IMAGES, lambda s, x: torch.stack([torch.relu(s.conv(image)) for image in x])),
    "rows one by one": (FLAT, lambda s, x: torch.stack([torch.relu(s.a(row)) for row in x])),
}  # fmt: skip


def made(function) -> Made:
    model = Made(
        function, a=nn.Linear(6, 6), b=nn.Linear(6, 6), d=nn.Linear(8, 8), wide=nn.Linear(8, 4), norm=nn.LayerNorm(8),
        conv=nn.Conv2d(2, 5, 3, padding=1), bn=nn.BatchNorm2d(5), gru=nn.GRU(8, 4, batch_first=True),
        attention=nn.MultiheadAttention(8, 2, batch_first=True),
        encoder=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        lstm=nn.LSTM(8, 4, batch_first=True), embed=nn.Conv2d(2, 8, 3, 3), token=nn.Parameter(torch.randn(1, 1, 8)),
        position=nn.Parameter(torch.randn(1, 5, 8)), head=nn.Linear(8, 4), mlp=nn.Linear(8, 8),
    )  # fmt: skip
    with torch.no_grad():
        for part in (model.bn.weight, model.bn.bias, model.bn.running_mean, model.norm.weight, model.norm.bias):
            part.normal_()
        model.bn.running_var.uniform_(0.5, 2)
        model.attention.in_proj_bias.normal_()
    return model


def everything(result) -> torch.Tensor:
    inputs = result.input_part if isinstance(result.input_part, tuple) else (result.input_part,)
    return sum(part.sum() for part in (*inputs, *result.bias_parts.values()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", MODELS)
def test_the_parts_sum_to_the_output(name):
    shape, function = MODELS[name]
    model, x = made(function), torch.randn(shape, dtype=DOUBLE)
    output = model(x).detach()
    seed = torch.randn_like(output)
    result = full_grad(model, x, seed)
    expected = (output * seed).sum()
    torch.testing.assert_close(everything(result), expected, rtol=1e-9, atol=1e-9)
    assert close(result.input_part, input_x_gradient(model, x, seed))


@pytest.mark.parametrize(
    "function",
    [lambda s, x: s.b(torch.relu(s.a(Doubled.apply(x)))), lambda s, x: s.b(Doubled.apply(torch.relu(s.a(x))))],
)
def test_what_is_out_of_sight_is_an_error(function):
    with pytest.raises(NoRuleError, match="out of sight"):
        full_grad(made(function), torch.randn(FLAT, dtype=DOUBLE), torch.randn(FLAT, dtype=DOUBLE))


def test_each_example_has_its_own_parts():
    model, x = ConvNet(), torch.randn(3, 2, 8, 8, dtype=DOUBLE)
    result = full_grad(model, x, [0, 1, 2])
    sums = result.input_part.flatten(1).sum(1) + sum(part.flatten(1).sum(1) for part in result.bias_parts.values())
    assert close(sums, model(x).detach()[range(3), range(3)])
    assert list(result.bias_parts) == ["conv1", "bn", "conv2", "fc"]
    assert result.bias_parts["conv1"].shape == (3, 5, 8, 8)
    assert result.bias_parts["fc"].shape == (3, 4)


def test_bias_parts_by_hand():
    model, x = net(6, 8, 4), torch.randn(3, 6, dtype=DOUBLE)
    result = full_grad(model, x, 1)
    active = (model[0](x) > 0).double()
    assert list(result.bias_parts) == ["0", "2"]
    assert close(result.bias_parts["0"], (active * model[2].weight[1] * model[0].bias).detach())
    assert close(result.bias_parts["2"], (nn.functional.one_hot(torch.tensor([1] * 3), 4) * model[2].bias).detach())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_inputs_and_further_arguments():
    model, inputs = TwoInputs(), (torch.randn(3, 6, dtype=DOUBLE), torch.randn(3, 2, 7, dtype=DOUBLE))
    result = full_grad(model, inputs, 1)
    assert isinstance(result.input_part, tuple)
    torch.testing.assert_close(everything(result), model(*inputs)[:, 1].sum().detach())
    layers, shift = net(6, 8, 4), torch.randn(3, 6, dtype=DOUBLE)
    result = full_grad(lambda x, shift: layers(x + shift), inputs[0], 1, additional_forward_args=shift)
    torch.testing.assert_close(everything(result), layers(inputs[0] + shift)[:, 1].sum().detach())


def test_saliency_maps():
    model, x = ConvNet(), torch.randn(3, 2, 8, 8, dtype=DOUBLE)
    result = full_grad(model, x, 1)
    image_map = result.saliency_map()
    assert image_map.shape == (3, 1, 8, 8)
    assert image_map.min() >= 0
    assert image_map.max() <= 2 + 5 + 5 + 6  # channels
    expected = 0
    for part in (result.input_part, *(result.bias_parts[name] for name in ("conv1", "bn", "conv2"))):
        size = part.abs().flatten(1)
        scaled = ((size - size.amin(1, True)) / (size.amax(1, True) - size.amin(1, True))).view_as(part)
        expected = expected + F.interpolate(scaled, (8, 8), mode="bilinear").sum(1, keepdim=True)
    assert close(image_map, expected)
    alone = full_grad(model, x[1:2], 1).saliency_map()
    assert close(alone[0], image_map[1])
    with pytest.raises(ValueError, match=r"images \[B, C, H, W\]"):
        full_grad(net(6, 4), torch.randn(3, 6, dtype=DOUBLE), 1).saliency_map()


def test_a_map_of_nothing_is_zero():
    model = Made(lambda s, x: (s.c(x) * 0).mean((2, 3)), c=nn.Conv2d(2, 3, 1))
    assert not full_grad(model, torch.randn(2, 2, 4, 4, dtype=DOUBLE), 0).saliency_map().any()
