"""PatternNet and PatternAttribution: patterns against explicit patches, the gradient with them, files, errors."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from netinterp_fast.attribution.patterns import Patterns, fit_patterns, pattern_attribution, pattern_net
from netinterp_fast.interpose import NoRuleError

ESTIMATORS = ("two_component", "linear")


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(make, seed=0):
    """A model in float64 whose parameters and statistics come from the seed."""
    model = make().double().eval()
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_(values.square() + 0.5 if name.endswith("running_var") else values)
    return model


def brute_force(patches, weight, bias=None, sign=None, estimator="two_component"):
    """[units, in] from explicit patches [N, in], a unit and a patch at a time."""
    result, bias = torch.zeros_like(weight), [0.0] * len(weight) if bias is None else bias.tolist()
    for unit, w in enumerate(weight):
        ys = [float(w @ x) for x in patches]
        signs = [y + bias[unit] for y in ys] if sign is None else sign[:, unit].tolist()
        firing = [i for i, s in enumerate(signs) if s > 0 or estimator == "linear"]
        if not firing:
            continue
        mean_y = sum(ys) / len(ys)
        mean_xy = sum(patches[i] * ys[i] for i in firing) / len(firing)
        mean_x = sum(patches[i] for i in firing) / len(firing)
        direction = mean_xy - mean_x * mean_y
        result[unit] = direction / (w @ direction)
    return result


def patches_of(conv, x):
    """[N, in * kernel], a position at a time, of a convolution without groups."""
    if isinstance(conv.padding, str):
        totals = [
            d * (k - 1) if conv.padding == "same" else 0 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)
        ]
        ends = [(t // 2, t - t // 2) for t in totals]
    else:
        ends = [(p, p) for p in conv.padding]
    x = F.pad(x, [zeros for end in reversed(ends) for zeros in end])
    spans = [d * (k - 1) + 1 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    starts = [range(0, size - span + 1, s) for size, span, s in zip(x.shape[2:], spans, conv.stride, strict=True)]
    patches = []
    for example, corner in itertools.product(x, itertools.product(*starts)):
        window = (
            slice(None),
            *(slice(c, c + span, d) for c, span, d in zip(corner, spans, conv.dilation, strict=True)),
        )
        patches.append(example[window].flatten())
    return torch.stack(patches)


def products(model, patterns):
    """w^T a of all units of the layers."""
    return torch.cat([(model.get_submodule(k).weight * a).flatten(1).sum(1) for k, a in patterns.items()]).detach()


def small_net():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, stride=2, groups=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(32, 10), nn.ReLU(), nn.Linear(10, 4),
    )  # fmt: skip


# ---- patterns


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_papers_example(estimator):
    """x = y (1, 0) + epsilon (1, 1) and w = (1, -1), which cancels the distractor (Kindermans et al., section 2)."""
    signal = torch.linspace(-2, 3, 20, dtype=torch.float64)
    distractor = torch.linspace(-1, 1, 9, dtype=torch.float64)
    y, epsilon = torch.cartesian_prod(signal, distractor).T
    model = nn.Linear(2, 1, bias=False).double()
    model.weight.data = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    patterns = fit_patterns(model, [torch.stack([y + epsilon, epsilon], 1)], estimator=estimator)
    assert list(patterns) == [""]
    assert torch.allclose(patterns[""], torch.tensor([[1.0, 0.0]], dtype=torch.float64), atol=1e-12)


CONVOLUTIONS = {
    "1d": (lambda: nn.Conv1d(2, 3, 3, stride=2, padding=1, dilation=2), (4, 2, 11)),
    "2d": (lambda: nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0)), (3, 2, 6, 5)),
    "2d without bias": (lambda: nn.Conv2d(2, 3, 2, bias=False), (3, 2, 4, 4)),
    "2d, same, even kernel": (lambda: nn.Conv2d(2, 3, (4, 3), padding="same", dilation=(1, 2)), (2, 2, 5, 6)),
    "2d, valid": (lambda: nn.Conv2d(2, 3, 3, padding="valid"), (3, 2, 5, 5)),
    "3d": (lambda: nn.Conv3d(2, 2, 2, stride=(1, 2, 1), padding=(0, 1, 1)), (2, 2, 3, 3, 2)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_against_explicit_patches(name, estimator):
    make, shape = CONVOLUTIONS[name]
    conv, x = seeded(make), rand(*shape) + 0.7
    got = fit_patterns(conv, [x], estimator=estimator)[""]
    weight = conv.weight.detach().flatten(1)
    assert torch.allclose(
        conv(x).movedim(1, -1).reshape(-1, len(weight)), F.linear(patches_of(conv, x), weight, conv.bias)
    )
    expected = brute_force(patches_of(conv, x), weight, conv.bias, estimator=estimator)
    assert torch.allclose(got.flatten(1), expected, atol=1e-10)


def test_the_weight_gradient_is_the_sum_over_the_patches_of_unfold():
    conv, x = seeded(lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1, dilation=2)), rand(2, 3, 9, 8)
    y = conv(x).detach() - conv.bias.detach().view(-1, 1, 1)
    patches = F.unfold(x, 3, dilation=2, padding=1, stride=2)
    xy = torch.einsum("bul,bpl->up", y.flatten(2), patches) / patches[:, 0].numel()
    covariance = xy - y.mean((0, 2, 3))[:, None] * patches.mean((0, 2))
    expected = covariance / (covariance * conv.weight.flatten(1)).sum(1, keepdim=True)
    assert torch.allclose(fit_patterns(conv, [x], estimator="linear")[""].flatten(1), expected, atol=1e-10)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_groups_are_convolutions_of_their_own(estimator):
    conv, x = seeded(lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2)), rand(3, 4, 5, 5)
    got = fit_patterns(conv, [x], estimator=estimator)[""]
    for group in (0, 1):
        part = nn.Conv2d(2, 3, 3, padding=1).double()
        part.weight.data, part.bias.data = (t.data[3 * group : 3 * group + 3] for t in (conv.weight, conv.bias))
        expected = fit_patterns(part, [x[:, 2 * group : 2 * group + 2]], estimator=estimator)[""]
        assert torch.allclose(got[3 * group : 3 * group + 3], expected, atol=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("shape", [(9, 4), (3, 5, 4)])
def test_linear_layers_against_explicit_patches(shape, estimator):
    layer, x = seeded(lambda: nn.Linear(4, 5)), rand(*shape) + 0.3
    got = fit_patterns(layer, [x], estimator=estimator)[""]
    expected = brute_force(x.reshape(-1, 4), layer.weight.detach(), layer.bias, estimator=estimator)
    assert torch.allclose(got, expected, atol=1e-10)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_each_units_pattern_answers_with_1(estimator):
    model = seeded(small_net)
    patterns = fit_patterns(model, [rand(8, 3, 10, 10)], estimator=estimator)
    assert list(patterns) == ["0", "3", "6", "8"]
    got = products(model, patterns)
    silent = torch.cat([a.flatten(1).eq(0).all(1) for a in patterns.values()])
    assert torch.allclose(got, (~silent).double(), atol=1e-10)
    assert silent.sum() < len(silent) / 4
    assert all(a.dtype == torch.float64 and not a.requires_grad for a in patterns.values())


def test_float32_models_have_float32_patterns_near_the_exact_ones():
    model, x = seeded(small_net), rand(8, 3, 10, 10)
    exact = fit_patterns(model, [x])
    got = fit_patterns(model.float(), [x.float()])
    for name, pattern in got.items():
        assert pattern.dtype == torch.float32
        assert torch.allclose(pattern.double(), exact[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_batches_of_any_size_add_up(estimator):
    model, x = seeded(small_net), rand(9, 3, 10, 10)
    whole = fit_patterns(model, [x], estimator=estimator)
    for sizes in ([1] * 9, [2, 7], [4, 0, 5]):
        loader = ((part, "a label") for part in x.split(sizes))
        streamed = fit_patterns(model, loader, estimator=estimator)
        assert all(torch.allclose(streamed[name], whole[name], atol=1e-10) for name in whole)


def test_units_that_never_fire_or_never_change_have_no_pattern():
    layer = nn.Linear(3, 4).double()
    layer.weight.data[2:] = torch.tensor([[0.0, 0.0, 0.1], [0.0, 0.0, 0.0]])
    layer.bias.data = torch.tensor([-1e3, 0.0, 5.0, 1.0], dtype=torch.float64)
    x = rand(20, 3).abs()
    x[:, 2] = 0.3
    patterns = fit_patterns(layer, [x])[""]
    assert patterns.eq(0).all(1).tolist() == [True, not bool((layer(x)[:, 1] > 0).any()), True, True]
    assert fit_patterns(layer, [x], estimator="linear")[""].eq(0).all(1).tolist() == [False, False, True, True]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_reused_layer_counts_all_its_uses(estimator):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(F.relu(self.layer(x)))

    model, x = seeded(Twice), rand(12, 4)
    both = torch.cat([x, F.relu(model.layer(x)).detach()])
    expected = fit_patterns(model.layer, [both], estimator=estimator)[""]
    assert torch.allclose(fit_patterns(model, [x], estimator=estimator)["layer"], expected, atol=1e-12)


def test_a_batch_norm_decides_whether_a_unit_fires():
    model, x = seeded(lambda: nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU())), rand(3, 2, 6, 6)
    assert (model[1].weight < 0).any()
    sign = model[1](model[0](x)).movedim(1, -1).reshape(-1, 5)
    expected = brute_force(patches_of(model[0], x), model[0].weight.detach().flatten(1), sign=sign)
    patterns = fit_patterns(model, [x])
    assert list(patterns) == ["0"]
    assert torch.allclose(patterns["0"].flatten(1), expected, atol=1e-10)
    without = fit_patterns(model[0], [x])[""]
    assert not torch.allclose(patterns["0"], without)


def test_a_batch_norm_after_something_else_decides_nothing():
    model, x = seeded(lambda: nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.BatchNorm2d(5))), rand(3, 2, 6, 6)
    assert torch.equal(fit_patterns(model, [x])["0"], fit_patterns(model[0], [x])[""])


def test_two_branches_with_batch_norms_that_follow_later():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4, bias=False), nn.Linear(3, 4)
            self.norm_a, self.norm_b = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

        def forward(self, x):
            a, b = self.a(x), self.b(x)
            return F.relu(self.norm_a(a)) + F.relu(self.norm_b(b))

    model, x = seeded(Branches), rand(20, 3)
    patterns = fit_patterns(model, [x])
    for name, norm in (("a", model.norm_a), ("b", model.norm_b)):
        alone = nn.Sequential(model.get_submodule(name), norm)
        assert torch.equal(patterns[name], fit_patterns(alone, [x])["0"])


def test_functions_operators_and_changes_in_place():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.empty(4, 3, 3, 3))
            self.head = nn.Module()
            self.head.weight = nn.Parameter(torch.empty(5, 4))
            self.register_buffer("blur", torch.empty(1, 1, 2, 2))

        def forward(self, x):
            x = F.conv2d(x, self.w, padding=1)
            x = F.relu_(x) if self.in_place else F.relu(x)
            x = F.conv2d(x, self.blur.expand(4, -1, -1, -1), groups=4)
            x = x * 1
            x += 0.5
            return F.linear(x.mean((2, 3)), self.head.weight)

    model, x = seeded(Functional), rand(6, 3, 7, 7)
    results = []
    for model.in_place in (False, True):
        patterns = fit_patterns(model, [x])
        assert list(patterns) == ["w", "head"]
        results.append((*patterns.values(), pattern_net(model, x, 1, patterns)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_attention_is_fitted_and_explained():
    model = seeded(lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    x = rand(3, 5, 8)
    patterns = fit_patterns(model, [x])
    assert set(patterns) == {"self_attn.in_proj_weight", "self_attn.out_proj", "linear1", "linear2"}
    assert patterns["self_attn.in_proj_weight"].shape == (24, 8)
    assert pattern_net(model, x, torch.ones_like(x), patterns).isfinite().all()


def test_the_model_is_left_as_it_was():
    model, x = seeded(small_net), rand(4, 3, 10, 10)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    patterns = fit_patterns(model, [x], progress=True)
    pattern_attribution(model, x, 0, patterns)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad and not hasattr(p, "_interposed") for p in model.parameters())
    assert not x.requires_grad
    assert not hasattr(x, "_interposed")


# ---- attributions


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_linear_models_attributions_are_its_patterns(estimator):
    model, x = seeded(lambda: nn.Linear(4, 3)), rand(10, 4) + 0.5
    patterns = fit_patterns(model, [x], estimator=estimator)
    a, w = patterns[""], model.weight.detach()
    assert torch.equal(pattern_net(model, x, 1, patterns), a[1].expand(10, -1))
    assert torch.equal(pattern_attribution(model, x, 1, patterns), (w * a)[1].expand(10, -1))
    best = model(x).argmax(1)
    assert torch.equal(pattern_net(model, x, None, patterns), a[best])
    chosen = torch.arange(10) % 3
    assert torch.equal(pattern_net(model, x, chosen, patterns), a[chosen])
    every = pattern_net(model, x, patterns=patterns, targets=torch.tensor([2, 0]))
    assert torch.equal(every, a[[2, 0]][:, None].expand(-1, 10, -1))
    seed = rand(10, 3, seed=1)
    assert torch.allclose(pattern_attribution(model, x, seed, patterns), seed @ (w * a))
    assert torch.allclose(pattern_attribution(model, x, 0, patterns).sum(1), torch.ones(10, dtype=torch.float64))


def replaced(model, patterns, attribution):
    """The model without biases and with other weights."""
    other = seeded(small_net)
    for name, pattern in patterns.items():
        old, new = model.get_submodule(name), other.get_submodule(name)
        new.weight.data = old.weight.data * pattern if attribution else pattern.clone()
        new.bias.data.zero_()
    return other


@pytest.mark.parametrize("attribution", [False, True])
def test_the_gradient_with_other_weights_and_the_models_own_gates(attribution):
    model, x = seeded(small_net), rand(4, 3, 10, 10)
    patterns = fit_patterns(model, [x])
    other = replaced(model, patterns, attribution)
    leaf, value = x.clone().requires_grad_(), x
    y = leaf
    for layer, modified in zip(model, other, strict=True):
        if isinstance(layer, nn.ReLU):
            y = y * (value > 0)
            value = layer(value)
        elif isinstance(layer, nn.MaxPool2d):
            largest = F.max_pool2d(value, 2, return_indices=True)[1]
            y = y.flatten(2).gather(2, largest.flatten(2)).view(largest.shape)
            value = layer(value)
        else:
            y, value = modified(y), layer(value)
    (expected,) = torch.autograd.grad(y[:, 2].sum(), leaf)
    explain = pattern_attribution if attribution else pattern_net
    assert expected.abs().max() > 0
    assert torch.allclose(explain(model, x, 2, patterns), expected, atol=1e-12)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_every_convolution_pulls_back_as_its_own_gradient(name):
    make, shape = CONVOLUTIONS[name]
    conv, x = seeded(make), rand(*shape).requires_grad_()
    seed = rand(*conv(x).shape, seed=1)
    (expected,) = torch.autograd.grad(conv(x), x, seed)
    assert torch.allclose(pattern_net(conv, x, seed, {"": conv.weight}), expected, atol=1e-12)
    (expected,) = torch.autograd.grad(conv(x[0]), x, seed[0])
    assert torch.allclose(pattern_net(conv, x[0], seed[0], {"": conv.weight}), expected[0], atol=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_batch_norm_counts_as_part_of_the_convolution(estimator):
    def make():
        return nn.Sequential(
            nn.Conv2d(2, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 3, 2), nn.BatchNorm2d(3),
            nn.Flatten(),
        )  # fmt: skip

    model, x = seeded(make), rand(6, 2, 5, 5)
    fused = nn.Sequential(*(nn.utils.fuse_conv_bn_eval(model[i], model[i + 1]) for i in (0, 3)), nn.Flatten())
    fused.insert(1, nn.ReLU())
    patterns, fused_patterns = (fit_patterns(m, [x], estimator=estimator) for m in (model, fused))
    for explain in (pattern_net, pattern_attribution):
        got, expected = explain(model, x, 4, patterns), explain(fused, x, 4, fused_patterns)
        assert expected.abs().max() > 0
        assert torch.allclose(got, expected, rtol=1e-8, atol=1e-10)


def test_a_batch_norm_without_scale_has_no_pattern():
    model, x = seeded(lambda: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))), rand(6, 3)
    model[1].weight.data[1] = 0
    patterns = fit_patterns(model, [x])
    assert pattern_net(model, x, 1, patterns).eq(0).all()


def test_branches_sums_and_concatenation_as_the_gradient_passes_them():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(torch.cat([x + self.a(x).relu(), 2 * torch.relu(self.b(x))], 1))

    model, x = seeded(Branches), rand(8, 4)
    patterns = fit_patterns(model, [x])
    g = patterns["head"][1].expand(8, -1)
    gates = [(model.get_submodule(name)(x) > 0).double() for name in "ab"]
    expected = g[:, :4] + (g[:, :4] * gates[0]) @ patterns["a"] + (2 * g[:, 4:] * gates[1]) @ patterns["b"]
    assert torch.allclose(pattern_net(model, x, 1, patterns), expected, atol=1e-12)


def test_what_outgrows_the_dtype_is_an_error():
    model = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(3)))
    patterns = {str(i): torch.full((4, 4), 1e15) for i in range(3)}
    x = torch.rand(2, 4)
    with pytest.raises(ValueError, match=r"not finite in float32.*float64"):
        pattern_net(model, x, 0, patterns)
    assert torch.allclose(pattern_net(model, x, 1e-20 * torch.eye(4)[:2], patterns), torch.tensor(1.6e26))
    assert torch.allclose(
        pattern_net(model.double(), x.double(), 0, patterns), torch.tensor(1.6e46, dtype=torch.float64)
    )


# ---- files and errors


@pytest.mark.parametrize("make", [small_net, lambda: nn.Conv2d(3, 2, 3)])
def test_saved_patterns_are_the_same(tmp_path, make):
    patterns = fit_patterns(seeded(make), [rand(4, 3, 10, 10)], estimator="linear")
    path = patterns.save(tmp_path / "patterns.safetensors")
    loaded = Patterns.load(str(path))
    assert [p.name for p in tmp_path.iterdir()] == ["patterns.safetensors"]
    assert loaded.estimator == "linear"
    assert set(loaded) == set(patterns)
    assert all(torch.equal(loaded[name], patterns[name]) for name in patterns)
    assert repr(loaded) == f"Patterns(linear, {len(patterns)} layers)"


def test_files_that_hold_no_patterns(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.safetensors"):
        Patterns.load(tmp_path / "missing.safetensors")
    (tmp_path / "text").write_text("this is not a tensor file")
    with pytest.raises(ValueError, match="text is not a safetensors file"):
        Patterns.load(tmp_path / "text")
    save_file({"a": torch.ones(2)}, tmp_path / "other")
    with pytest.raises(ValueError, match="other holds no saved patterns"):
        Patterns.load(tmp_path / "other")


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        ([], ValueError, "loader is empty"),
        ([torch.empty(0, 4)], ValueError, "loader is empty"),
        (
            [torch.zeros(2, 4), torch.tensor([[0.0, 1, 2, float("nan")]])],
            ValueError,
            "batch 1 of the loader has values",
        ),
        ([torch.full((1, 4), float("inf"))], ValueError, "not finite"),
        ([torch.zeros(2, 4, dtype=torch.int64)], TypeError, "type torch.int64"),
        ([{"image": torch.zeros(2, 4)}], TypeError, "type dict"),
        ([()], TypeError, "type tuple"),
        ([torch.tensor(1.0)], ValueError, "single number"),
        (torch.zeros(2, 4), TypeError, r"pass \[tensor\]"),
    ],
)
def test_loaders_that_patterns_cannot_be_learnt_from(loader, error, message):
    with pytest.raises(error, match=message):
        fit_patterns(nn.Linear(4, 2), loader)


def test_values_that_become_infinite_inside():
    class Reciprocal(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.second(self.first(x) / 0)

    with pytest.raises(ValueError, match="layer 'second' has inputs or outputs that are not finite"):
        fit_patterns(Reciprocal(), [torch.rand(3, 4)])


def test_other_arguments():
    model, x = nn.Linear(4, 2), torch.rand(3, 4)
    patterns = fit_patterns(model, [x])
    with pytest.raises(ValueError, match="estimator is 'quadratic'"):
        fit_patterns(model, [x], estimator="quadratic")
    with pytest.raises(TypeError, match="patterns is a NoneType"):
        pattern_net(model, x, 0)
    with pytest.raises(TypeError, match="inputs is a list"):
        pattern_net(model, [x], 0, patterns)
    with pytest.raises(TypeError, match="dtype int64"):
        pattern_net(model, torch.ones(2, 4, dtype=torch.int64), 0, patterns)
    with pytest.raises(ValueError, match="both given"):
        pattern_net(model, x, 0, patterns, targets=torch.tensor([1]))
    with pytest.raises(ValueError, match=r"shape \[3\]; a seed has the output's, \[3, 2\]"):
        pattern_net(model, x, torch.ones(3), patterns)
    with pytest.raises(ValueError, match="class 2"):
        pattern_net(model, x, 2, patterns)
    with pytest.raises(ValueError, match="targets is empty"):
        pattern_net(model, x, None, patterns, targets=torch.tensor([], dtype=torch.int64))
    with pytest.raises(TypeError, match="LongTensor"):
        pattern_net(model, x, None, patterns, targets=[1])
    with pytest.raises(ValueError, match="not a tensor that depends"):
        pattern_net(nn.Sequential(nn.Flatten(), _Constant()), x, 0, patterns)


class _Constant(nn.Module):
    def forward(self, x):
        return torch.ones(len(x), 2)


@pytest.mark.parametrize("explain", [pattern_net, pattern_attribution])
def test_a_layer_without_a_fitting_pattern_is_named(explain):
    model, x = seeded(small_net), rand(2, 3, 10, 10)
    patterns = dict(fit_patterns(model, [x]))
    wrong = patterns | {"3": torch.ones(8, 6, 3, 3)}
    with pytest.raises(ValueError, match=r"layer '3' has a pattern of shape \[8, 6, 3, 3\].* is \[8, 3, 3, 3\]"):
        explain(model, x, 0, wrong)
    del patterns["6"]
    with pytest.raises(ValueError, match="layer '6' has no pattern; there are patterns of 0, 3, 8"):
        explain(model, x, 0, patterns)


class Inner(nn.Module):
    """Uses the weights of its layer in a way of its own."""

    def __init__(self, use):
        super().__init__()
        self.inner, self.use = nn.Linear(4, 4), use

    def forward(self, x):
        return self.use(self.inner, x)


USES = {
    "layer 'inner' is a matmul": lambda inner, x: x @ inner.weight.T,
    "layer 'inner' is a addmm": lambda inner, x: torch.addmm(inner.bias, x, inner.weight),
    r"linear \(after layer 'inner'\) has weights that are no parameter": lambda inner, x: F.linear(
        inner(x), inner.weight * 2
    ),
    "layer 'inner' uses a part or a view": lambda inner, x: F.linear(x, inner.weight[:2]),
    "has weights that depend on the input": lambda inner, x: F.linear(x, x),
}


@pytest.mark.parametrize("message", USES)
def test_weights_that_are_not_a_layers_are_an_error(message):
    model, x = Inner(USES[message]), torch.rand(4, 4)
    with pytest.raises(NoRuleError, match=message):
        fit_patterns(model, [x])
    with pytest.raises(NoRuleError, match=message):
        pattern_net(model, x, 0, {"inner": model.inner.weight})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.LSTM(4, 3, batch_first=True), "layer '' is a lstm"),
        (nn.Sequential(nn.Conv1d(2, 3, 1), nn.ConvTranspose1d(3, 1, 2)), "layer '1' is a conv_transpose1d"),
    ],
)
def test_layers_of_other_kinds_are_named(model, message):
    with pytest.raises(NoRuleError, match=message):
        fit_patterns(model, [torch.rand(3, 2, 4)])


def test_a_batch_norm_in_training_mode_is_an_error():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match=r"model\.eval"):
        fit_patterns(model, [torch.rand(5, 4)])
