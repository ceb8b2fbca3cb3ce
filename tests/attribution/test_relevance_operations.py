"""Operations of networks, as modules, functions and operators: relevance is finite and conserved where it must be."""

import pytest
import torch
import torch.nn.functional as F
from made_of import Made, close, conv, layers
from torch import nn

from netinterp_fast import composites, lrp, rules, use_backend
from netinterp_fast.attribution.relevance import layer_types as types

TINY = 1e-12
COORDINATES = torch.linspace(-1, 1, 12).view(1, 1, 3, 4).double()


def composite(rule=None, **options):
    return layers((types.Linear, rule or rules.Epsilon(TINY)), stabilizer=TINY, **options)


def image(*shape):
    return torch.randn(*(shape or (2, 3, 6, 8)), dtype=torch.float64)


def conserved(model, x, composite_=None, tolerance=1e-6):
    output = model(x.clone()).detach()
    relevance = lrp(model, x, output, composite=composite_ or composite())
    assert relevance.isfinite().all()
    assert relevance.any()
    total = output.flatten(1).abs().sum(1)
    assert ((relevance.flatten(1).sum(1) - output.flatten(1).sum(1)).abs() <= tolerance * total).all()
    return relevance


# Each pair computes the same.
SAME = {
    "relu": [lambda s, x: nn.ReLU()(s.a(x)), lambda s, x: F.relu(s.a(x)), lambda s, x: s.a(x).relu(),
             lambda s, x: torch.relu(s.a(x)), lambda s, x: s.a(x).clamp(min=0), lambda s, x: s.a(x).clamp_min(0)],
    "sum": [lambda s, x: s.a(x) + s.b(x), lambda s, x: torch.add(s.a(x), s.b(x)), lambda s, x: s.a(x).add(s.b(x)),
            lambda s, x: sum([s.a(x), s.b(x)]), lambda s, x: torch.stack([s.a(x), s.b(x)]).sum(0),
            lambda s, x: s.a(x) - (-s.b(x))],
    "mean": [lambda s, x: s.a(x).mean((2, 3)), lambda s, x: F.adaptive_avg_pool2d(s.a(x), 1).flatten(1),
             lambda s, x: nn.AdaptiveAvgPool2d(1)(s.a(x))[:, :, 0, 0], lambda s, x: s.a(x).flatten(2).mean(-1),
             lambda s, x: F.avg_pool2d(s.a(x), s.a(x).shape[2:]).squeeze(-1).squeeze(-1)],
    "max": [lambda s, x: F.adaptive_max_pool2d(s.a(x), 1).flatten(1), lambda s, x: s.a(x).amax((2, 3)),
            lambda s, x: s.a(x).flatten(2).max(-1).values, lambda s, x: s.a(x).flatten(2).max(-1)[0],
            lambda s, x: nn.MaxPool2d((4, 6))(s.a(x)).flatten(1)],
    "flatten": [lambda s, x: s.a(x).flatten(1), lambda s, x: s.a(x).view(2, -1), lambda s, x: s.a(x).reshape(2, 96),
                lambda s, x: nn.Flatten()(s.a(x)), lambda s, x: torch.flatten(s.a(x), 1),
                lambda s, x: s.a(x).permute(0, 2, 3, 1).permute(0, 3, 1, 2).reshape(2, -1),
                lambda s, x: s.a(x).transpose(1, 3).contiguous().transpose(1, 3).reshape(2, -1)],
    "cat": [lambda s, x: torch.cat([s.a(x), s.b(x)], 1), lambda s, x: torch.concat((s.a(x), s.b(x)), dim=1),
            lambda s, x: torch.stack([s.a(x), s.b(x)], 1).flatten(1, 2)],
    "parts": [lambda s, x: torch.cat([s.a(x)[:, 2:], s.a(x)[:, :2]], 1), lambda s, x: s.a(x).roll(2, 1),
              lambda s, x: torch.cat(s.a(x).chunk(2, 1)[::-1], 1), lambda s, x: s.a(x)[:, [2, 3, 0, 1]],
              lambda s, x: torch.cat(torch.split(s.a(x), 2, dim=1)[::-1], 1)],
    "unpacked": [lambda s, x: torch.stack(list(s.a(x))), lambda s, x: torch.stack(s.a(x).unbind(0)),
                 lambda s, x: torch.stack(tuple(s.a(x))), lambda s, x: s.a(x)],
    "dropout": [lambda s, x: nn.Dropout().eval()(s.a(x)), lambda s, x: F.dropout(s.a(x), 0.5, False),
                lambda s, x: F.dropout2d(s.a(x), training=False), lambda s, x: s.a(x)],
    "scaled": [lambda s, x: 2 * s.a(x) / 3, lambda s, x: s.a(x) * (2 / 3), lambda s, x: s.a(x).mul(2).div(3),
               lambda s, x: torch.mul(s.a(x), torch.tensor(2.0)) / torch.tensor(3.0)],
    "padded": [lambda s, x: F.pad(s.a(x), (1, 1, 1, 1)), lambda s, x: nn.ZeroPad2d(1)(s.a(x))],
    "interpolate": [lambda s, x: F.interpolate(s.a(x), scale_factor=2, mode="bilinear"),
                    lambda s, x: nn.Upsample(scale_factor=2, mode="bilinear")(s.a(x))],
    "nearest": [lambda s, x: F.interpolate(s.a(x), scale_factor=2), lambda s, x: nn.Upsample(scale_factor=2)(s.a(x))],
    "linear": [lambda s, x: s.c(s.a(x).transpose(1, 3)), lambda s, x: F.linear(s.a(x).transpose(1, 3), s.c.weight)],
    "silu": [lambda s, x: F.silu(s.a(x)), lambda s, x: nn.SiLU()(s.a(x))],
    "gelu": [lambda s, x: F.gelu(s.a(x)), lambda s, x: nn.GELU()(s.a(x))],
}  # fmt: skip


@pytest.mark.parametrize("operation", SAME)
def test_every_way_to_write_an_operation(operation):
    """Without biases, relevance is conserved; and it is the same for all ways."""
    parts, x = {"a": conv(), "b": conv(), "c": nn.Linear(4, 5, bias=False)}, image()
    results = []
    for function in SAME[operation]:
        model = Made(function, **parts)
        results.append(conserved(model, x))
    for other in results[1:]:
        assert close(other, results[0], 1e-6)


ACTIVATIONS = {
    "relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(0.1), "elu": nn.ELU(), "selu": nn.SELU(), "celu": nn.CELU(),
    "gelu": nn.GELU(), "gelu by tanh": nn.GELU("tanh"), "silu": nn.SiLU(), "mish": nn.Mish(), "relu6": nn.ReLU6(),
    "hardswish": nn.Hardswish(), "hardtanh": nn.Hardtanh(), "prelu": nn.PReLU(4), "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(), "hardsigmoid": nn.Hardsigmoid(), "softplus": nn.Softplus(), "softsign": nn.Softsign(),
}  # fmt: skip
PLACES = {
    "after a layer": lambda s, x: s.f(s.a(x)),
    "after a pool": lambda s, x: s.f(F.max_pool2d(s.a(x), 2)),
    "after an activation": lambda s, x: s.f(s.a(x).relu()),
    "after itself": lambda s, x: s.f(s.f(s.a(x))),
    "after a sum": lambda s, x: s.f(s.a(x) + s.b(x)),
    "between layers": lambda s, x: s.c(s.f(s.a(x)).transpose(1, 3)),
    "with contiguous": lambda s, x: s.f(s.a(x).relu().contiguous()),
    "at the input": lambda s, x: s.f(x.repeat(1, 2, 1, 1)[:, :4]),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("rule", ["epsilon", "z_plus"])
def test_activations_pass_relevance(activation, place, rule):
    rule = {"epsilon": rules.Epsilon(TINY), "z_plus": rules.ZPlus(TINY)}[rule]
    parts = {"a": conv(), "b": conv(), "c": nn.Linear(4, 5, bias=False), "f": ACTIVATIONS[activation]}
    model, x = Made(PLACES[place], **parts), image()
    with_top = layers((nn.Conv2d, rule), (nn.Linear, rules.Epsilon(TINY)), stabilizer=TINY)
    # the relevance of sigmoid(0) = 1/2 is that of the 0 below, and a ReLU, a pool or a sum has nothing to give it to
    lost = activation in ("sigmoid", "hardsigmoid", "softplus") and "after a" in place and place != "after a layer"
    if not lost:
        conserved(model, x, with_top)
    assert lrp(model, x, torch.ones_like(model(x)), composite=with_top).isfinite().all()


def test_with_kernels_of_ours_and_without():
    model, x = Made(lambda s, x: s.b(F.relu(s.a(x))), a=conv(), b=conv(4, 4, bias=True)), image()
    for name in ("epsilon", "epsilon_plus", "epsilon_alpha2_beta1_flat"):
        results = []
        for backend in ("native", "reference"):
            with use_backend(backend):
                results.append(lrp(model, x, torch.ones_like(model(x)), composite=name))
        assert close(*results)


NORMALIZATIONS = {
    "layer norm": lambda: nn.LayerNorm((4, 4, 6), bias=False),
    "layer norm of one dimension": lambda: nn.LayerNorm(6, elementwise_affine=False),
    "group norm": lambda: nn.GroupNorm(2, 4),
    "instance norm": lambda: nn.InstanceNorm2d(4, affine=True),
    "rms norm": lambda: nn.RMSNorm(6),
}


@pytest.mark.parametrize("name", NORMALIZATIONS)
@pytest.mark.parametrize("rule", ["epsilon", "z_plus"])
def test_normalizations_are_affine_with_constant_statistics(name, rule):
    rule = {"epsilon": rules.Epsilon(TINY), "z_plus": rules.ZPlus(TINY)}[rule]
    norm = NORMALIZATIONS[name]()
    conserved(Made(lambda s, x: s.b(s.norm(s.a(x))), a=conv(), norm=norm, b=conv(4, 3)), image(), composite(rule))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", [*NORMALIZATIONS, "tracked instance norm"])
def test_normalizations_by_hand(name, bias):
    """R_i = x_i J_ij R_j / y_j, J being the derivative with the standard deviation held."""
    if name == "tracked instance norm":
        norm = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 1, 2)
    else:
        norm = NORMALIZATIONS[name]()
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.5, 2)
    norm = norm.double().eval()
    x = image(2, 4, 4, 6)
    y, seed = norm(x).detach(), image(2, 4, 4, 6)
    scale = _scale(name, norm, x)
    mean_over = {"layer norm": (1, 2, 3), "layer norm of one dimension": (3,), "instance norm": (2, 3)}.get(name)
    s = seed / (y + TINY * y.sign()) * scale
    if name == "group norm":
        s = s - s.view(2, 2, -1).mean(-1).repeat_interleave(2, 1)[:, :, None, None]
    elif mean_over:
        s = s - s.mean(mean_over, keepdim=True)
    assert close(lrp(norm, x, seed, composite=composite()), x * s, 1e-7)


def _scale(name, norm, x):
    """weight / standard deviation"""
    weight = 1.0 if norm.weight is None else norm.weight.detach()
    if name == "rms norm":
        return weight / (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt()
    if name == "tracked instance norm":
        return (weight / (norm.running_var + norm.eps).sqrt()).view(1, 4, 1, 1).expand_as(x)
    if name == "group norm":
        var = x.view(2, 2, -1).var(-1, unbiased=False).repeat_interleave(2, 1)[:, :, None, None]
    else:
        dims = {"layer norm": (1, 2, 3), "layer norm of one dimension": (3,), "instance norm": (2, 3)}[name]
        var = x.var(dims, unbiased=False, keepdim=True)
    if name in ("group norm", "instance norm"):
        weight = weight.view(1, 4, 1, 1)
    return weight / (var + norm.eps).sqrt()


def test_a_batch_norm_alone_passes_relevance():
    norm, seed = nn.BatchNorm2d(3).double().eval(), image()
    norm.running_var.fill_(3)
    nn.init.uniform_(norm.bias)
    assert close(lrp(norm, image(), seed, composite="epsilon_plus"), seed)
    model = Made(lambda s, x: s.norm(F.relu(s.a(x))), a=conv(outputs=3), norm=norm)
    seed = image(2, 3, 4, 6)
    x = image()
    assert close(lrp(model, x, seed, composite=composite()), lrp(nn.Sequential(model.a, nn.ReLU()), x, seed,
                                                                  composite=composite()))  # fmt: skip


def test_input_normalisation_in_the_model():
    """(x - mean) / std shares by Norm: the mean absorbs what it contributes."""
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1).double(), torch.tensor([0.2, 0.3, 0.2]).view(3, 1, 1)
    x, a = torch.rand(2, 3, 6, 8).double(), conv().double()
    normalised = (x - mean) / std
    seed = image(2, 4, 4, 6)
    relevance = lrp(a, normalised, seed, composite=composite())
    expected = x * relevance / (x - mean)
    for function in (
        lambda s, x: s.a((x - mean) / std),
        lambda s, x: s.a(x.sub(mean).div(std)),
        lambda s, x: s.a(torch.div(torch.sub(x, mean), std)),
    ):
        assert close(lrp(Made(function, a=a), x, seed, composite=composite()), expected, 1e-7)


GATES = {
    "conv": lambda s, x: s.g(x.mean((2, 3), keepdim=True)).sigmoid(),
    "hard": lambda s, x: F.hardsigmoid(s.g(F.adaptive_avg_pool2d(x, 1))),
    "view": lambda s, x: s.h(x.mean((2, 3))).sigmoid().view(2, 4, 1, 1),
    "index": lambda s, x: torch.sigmoid(s.h(x.mean((2, 3))))[:, :, None, None],
    "expanded": lambda s, x: torch.sigmoid(s.h(x.mean((2, 3))))[:, :, None, None].expand_as(x),
    "per pixel": lambda s, x: torch.sigmoid(x),
    "of a product": lambda s, x: torch.sigmoid(s.g(x) * s.g(x)),
    "of a root": lambda s, x: torch.sigmoid(x.square().mean((2, 3), keepdim=True).sqrt()),
    "constant": lambda s, x: torch.tensor([0.5, 2.0, -1.0, 3.0]).view(4, 1, 1).double(),
    "detached": lambda s, x: (x * x).detach(),
}


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("before", ["linear", "relu"])
def test_gates_are_constant_factors(gate, swap, before):
    parts = {"a": conv(), "g": nn.Conv2d(4, 4, 1), "h": nn.Linear(4, 4), "b": conv(4, 3)}

    def function(s, x):
        x = F.relu(s.a(x)) if before == "relu" else s.a(x)
        return s.b(GATES[gate](s, x) * x if swap else x * GATES[gate](s, x))

    model, x = Made(function, **parts), image()
    relevance = conserved(model, x)
    inner = model.a(x).relu() if before == "relu" else model.a(x)
    factor = GATES[gate](model, inner).detach()
    fixed = Made(lambda s, x: s.b((F.relu(s.a(x)) if before == "relu" else s.a(x)) * factor), **parts)
    assert close(relevance, lrp(fixed, x, model(x).detach(), composite=composite()), 1e-9)


NONNEGATIVE_OR_NOT = {
    "constant channels": lambda s, x: torch.cat([F.relu(s.a(x)), COORDINATES.expand(2, 1, 3, 4)], 1),
    "stacked": lambda s, x: torch.stack([F.relu(s.a(x)), COORDINATES.expand(2, 4, 3, 4)], 1).flatten(1, 2)[:, 1:6],
    "minimum": lambda s, x: torch.cat([torch.minimum(F.relu(s.a(x)), COORDINATES), F.relu(s.a(x))[:, :1]], 1),
    "negative padding": lambda s, x: F.pad(F.relu(s.a(x)), (1, 1, 0, 0, 0, 1), value=-1.0),
    "negated": lambda s, x: -torch.cat([F.relu(s.a(x)), F.relu(s.a(x))[:, :1]], 1),
    "filled": lambda s, x: F.relu(s.a(x)).masked_fill(COORDINATES > 0, -1.0).repeat(1, 2, 1, 1)[:, :5],
    "where": lambda s, x: torch.where(COORDINATES > 0, F.relu(s.a(x)), COORDINATES).repeat(1, 2, 1, 1)[:, :5],
    "difference": lambda s, x: (F.relu(s.a(x)) - 1).repeat(1, 2, 1, 1)[:, :5],
    "negative factor": lambda s, x: (F.relu(s.a(x)) * -1.0).repeat(1, 2, 1, 1)[:, :5],
    "negative sum": lambda s, x: torch.add(F.relu(s.a(x)), F.relu(s.a(x)), alpha=-2).repeat(1, 2, 1, 1)[:, :5],
    "bicubic": lambda s, x: F.interpolate(F.relu(s.a(x)), None, 2, "bicubic").repeat(1, 2, 1, 1)[:, :5],
    "bicubic module": lambda s, x: nn.Upsample(None, 2, "bicubic")(F.relu(s.a(x))).repeat(1, 2, 1, 1)[:, :5],
}


@pytest.mark.parametrize("name", NONNEGATIVE_OR_NOT)
@pytest.mark.parametrize("rule", ["z_plus", "alpha2_beta1", "gamma"])
def test_negative_values_among_those_of_a_relu_are_not_overlooked(name, rule):
    """The rule sees x+ and x- where a constant, a sign or a cubic made some negative."""
    rule = {"z_plus": rules.ZPlus(), "alpha2_beta1": rules.AlphaBeta(), "gamma": rules.Gamma()}[rule]
    model = Made(lambda s, x: s.b(NONNEGATIVE_OR_NOT[name](s, x)), a=conv(), b=conv(5, 4, 2))
    x = image(2, 3, 5, 6)
    inner = NONNEGATIVE_OR_NOT[name](model, x).detach()
    assert (inner < 0).any()
    seed = torch.randn_like(model(x).detach())
    by_hand = lrp(model.b, inner, seed, composite=composite(rule))
    inner_part = Made(lambda s, x: NONNEGATIVE_OR_NOT[name](s, x), a=model.a)
    got = lrp(model, x, seed, composite=composite(rule))
    assert close(got, lrp(inner_part, x, by_hand, composite=composite(rule)), 1e-9)


OUTPUTS = {
    "negated": lambda s, x: -F.relu(s.a(x)),
    "negated twice": lambda s, x: torch.neg(-s.a(x)),
    "folded": lambda s, x: F.fold(F.unfold(s.a(x), 2, stride=1), (4, 6), 2),
    "repeated": lambda s, x: s.a(x).repeat(1, 2, 1, 1),
    "expanded": lambda s, x: s.a(x)[:, :, None].expand(2, 4, 3, 4, 6),
    "scaled": lambda s, x: s.a(x) * -0.5,
    "shuffled": lambda s, x: F.pixel_shuffle(s.a(x), 2),
    "pooled": lambda s, x: F.max_pool2d(s.a(x), 3, 1, 1),
}


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("after", ["nothing", "linear", "flat", "batch norm"])
def test_what_comes_last_or_before_a_layer_that_hands_down_relevance(name, after):
    model, x = Made(OUTPUTS[name], a=conv()), image()
    if after != "nothing":
        y = model(x)
        last = {
            "linear": nn.Linear(y.shape[-1], 3, bias=False),
            "flat": nn.Linear(y.shape[-1], 3, bias=False),
            "batch norm": (nn.BatchNorm2d if y.dim() == 4 else nn.BatchNorm3d)(y.shape[1]),
        }[after]
        model = nn.Sequential(model, last.double().eval())
    flat = [(nn.Linear, rules.Flat(TINY))] if after == "flat" else []
    conserved(model, x, layers(*flat, (types.Linear, rules.Epsilon(TINY)), stabilizer=TINY))


def test_composites_find_functional_layers_of_the_first_layer_rule():
    """F.conv2d with a module's parameters is that module."""
    x, a = image(), conv()
    module = Made(lambda s, x: F.relu(s.a(x)), a=a)
    function = Made(lambda s, x: F.relu(F.conv2d(x, s.a.weight, s.a.bias)), a=a)
    seed = image(2, 4, 4, 6)
    for made in (composites.EpsilonPlusFlat(), composites.EpsilonGammaBox(-3, 3), composites.DeepTaylor(-3, 3)):
        assert close(lrp(function, x, seed, composite=made), lrp(module, x, seed, composite=made))
