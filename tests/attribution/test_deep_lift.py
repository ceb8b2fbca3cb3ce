import pytest
import torch
import torch.nn.functional as F
from torch import nn

from netinterp_fast import deep_lift
from netinterp_fast.interpose import NoRuleError

MODES = ("rescale", "reveal_cancel")


class Of(nn.Module):
    """A function of x with layers of its own."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleDict(layers)

    def forward(self, x):
        return self.function(self.layers, x)


def conv_net(**layers):
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.Softplus(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Dropout(), nn.Linear(6, 3),
    )  # fmt: skip


MODELS = {
    "convolutions": (conv_net, (2, 8, 8)),
    "overlapping max pool": (lambda: Of(lambda m, x: F.max_pool2d(x, 3, 1).flatten(1)), (1, 5, 5)),
    "max pool 1d": (lambda: Of(lambda m, x: F.max_pool1d(m["a"](x), 2).flatten(1), a=nn.Conv1d(2, 3, 2)), (2, 7)),
    "adaptive max pool": (lambda: Of(lambda m, x: F.adaptive_max_pool2d(x, 2).flatten(1)), (1, 5, 5)),
    "residual, in place": (
        lambda: Of(lambda m, x: m["b"](m["a"](x).relu_().add_(x).tanh()), a=nn.Linear(6, 6), b=nn.Linear(6, 3)), (6,)
    ),
    "product in place": (
        lambda: Of(lambda m, x: m["a"](x).relu().mul_(m["b"](x).sigmoid_()), a=nn.Linear(6, 3), b=nn.Linear(6, 3)), (6,)
    ),
    "norm over another dimension": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(3), nn.ReLU(), nn.Flatten()), (3, 4)
    ),
    "product of activations": (
        lambda: Of(lambda m, x: m["a"](x).relu() * torch.sigmoid(m["b"](x)), a=nn.Linear(6, 3), b=nn.Linear(6, 3)), (6,)
    ),
    "quotient": (lambda: Of(lambda m, x: m["a"](x) / (1 + x.square().sum(1, keepdim=True)), a=nn.Linear(6, 3)), (6,)),
    "softmax": (lambda: nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 3), nn.Softmax(-1)), (6,)),
    "layer norm": (lambda: nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.ELU(), nn.Linear(5, 3)), (6,)),
    "transformer": (
        lambda: Of(lambda m, x: m["a"](x).mean(1), a=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)), (5, 8)
    ),
    "attention weights": (
        lambda: Of(lambda m, x: m["a"](x, x, x)[0].mean(1), a=nn.MultiheadAttention(8, 2, batch_first=True)), (5, 8)
    ),
    "causal attention": (
        lambda: Of(lambda m, x: F.scaled_dot_product_attention(x, x, x, is_causal=True).sum(1)), (5, 8)
    ),
}  # fmt: skip


def model_and_input(name):
    torch.manual_seed(3)
    make, shape = MODELS[name]
    return make().double().eval(), torch.randn(3, *shape, dtype=torch.float64)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("baseline", ["zeros", "one for all", "one each"])
@pytest.mark.parametrize("name", MODELS)
def test_contributions_sum_to_the_difference(name, baseline, mode):
    model, x = model_and_input(name)
    reference = {"zeros": None, "one for all": torch.randn_like(x[:1]), "one each": torch.randn_like(x)}[baseline]
    got = deep_lift(model, x, 1, baseline=reference, mode=mode)
    assert got.shape == x.shape
    expected = model(x)[:, 1] - model(torch.zeros_like(x[:1]) if reference is None else reference)[:, 1]
    torch.testing.assert_close(got.flatten(1).sum(1), expected, rtol=1e-9, atol=1e-9)


class Saturated(nn.Module):
    """1 - relu(1 - i1 - i2): its gradient is 0 at (1, 1), and so is the effect of removing either input."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.layer.weight.data.fill_(-1)
        self.layer.bias.data.fill_(1)

    def forward(self, x):
        return 1 - F.relu(self.layer(x))


@pytest.mark.parametrize("mode", MODES)
def test_a_saturated_sum_is_shared(mode):
    x = torch.tensor([[1.0, 1.0]])
    assert torch.autograd.functional.jacobian(Saturated(), x).abs().sum() == 0
    torch.testing.assert_close(deep_lift(Saturated(), x, 0, mode=mode), torch.tensor([[0.5, 0.5]]))


def test_reveal_cancel_gives_both_inputs_of_a_minimum_their_share():
    """min(i1, i2) = i1 - relu(i1 - i2): rescale credits one input alone, reveal_cancel both (section 3.4)."""

    class Minimum(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1, bias=False)
            self.layer.weight.data = torch.tensor([[1.0, -1.0]])

        def forward(self, x):
            return x[:, :1] - F.relu(self.layer(x))

    x = torch.tensor([[3.0, 1.0]])
    torch.testing.assert_close(deep_lift(Minimum(), x, 0), torch.tensor([[0.0, 1.0]]))
    # dx+ = 3, dx- = -1: dy+ = (3 + (2 - 0)) / 2 = 2.5, dy- = (0 + (2 - 3)) / 2 = -0.5
    torch.testing.assert_close(deep_lift(Minimum(), x, 0, mode="reveal_cancel"), torch.tensor([[0.5, 0.5]]))


def test_a_linear_model_gives_weight_times_difference():
    layer, x, reference = nn.Linear(4, 2), torch.randn(3, 4), torch.randn(3, 4)
    for mode in MODES:
        got = deep_lift(layer, x, 1, baseline=reference, mode=mode)
        torch.testing.assert_close(got, layer.weight[1].detach() * (x - reference))


def test_max_pool_between_two_winners():
    """The winners are 0 at x and 1 at x'; y - y' = 5 - 2 lies between the differences 5 and 1 of the two."""
    pool = Of(lambda m, x: F.max_pool1d(x, 3).flatten(1))
    x, reference = torch.tensor([[[5.0, 3.0, 0.0]]]), torch.tensor([[[0.0, 2.0, 0.0]]])
    torch.testing.assert_close(deep_lift(pool, x, 0, baseline=reference), torch.tensor([[[2.5, 0.5, 0.0]]]))


def test_equal_values_have_the_derivative():
    model = nn.Sequential(nn.Tanh(), nn.Flatten())
    x = torch.tensor([[0.3, -1.0]], dtype=torch.float64)
    nearly = x + 1e-9
    got = deep_lift(model, nearly, 0, baseline=x) / 1e-9
    assert abs(float(got[0, 0]) - float(1 - torch.tanh(x[0, 0]) ** 2)) < 1e-6
    assert deep_lift(model, x, 0, baseline=x).eq(0).all()


def test_agrees_with_captum_where_that_is_complete():
    attr = pytest.importorskip("captum.attr")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 6), nn.Sigmoid(), nn.Linear(6, 3))
    model, x, reference = model.double(), torch.randn(4, 2, 6, 6).double(), torch.randn(4, 2, 6, 6).double()
    theirs = attr.DeepLift(model).attribute(x, reference, target=2)
    torch.testing.assert_close(deep_lift(model, x, 2, baseline=reference), theirs.detach(), rtol=1e-6, atol=1e-9)


def test_targets():
    model, x = model_and_input("convolutions")
    each = deep_lift(model, x, torch.tensor([0, 2, 1]))
    for i, target in enumerate((0, 2, 1)):
        torch.testing.assert_close(each[i], deep_lift(model, x, target)[i])
    largest = model(x).argmax(1)
    torch.testing.assert_close(deep_lift(model, x), deep_lift(model, x, largest))
    weights = torch.zeros(3, 3, dtype=torch.float64).scatter_(1, largest[:, None], 1.0)
    torch.testing.assert_close(deep_lift(model, x, weights), deep_lift(model, x))


def test_the_model_stays_as_it_was():
    model, x = model_and_input("convolutions")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    deep_lift(model, x, 0)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mode": "linear"}, ValueError, "mode is 'linear'"),
        ({"baseline": torch.zeros(2, 6)}, ValueError, r"baseline has shape \[2, 6\]"),
        ({"baseline": "zeros"}, TypeError, "baseline is a str"),
        ({"target": 9}, ValueError, "target has the class 9"),
    ],
)
def test_bad_arguments(options, error, message):
    model, x = model_and_input("softmax")
    with pytest.raises(error, match=message):
        deep_lift(model, x, **options)


def test_inputs_must_be_floating():
    with pytest.raises(TypeError, match="inputs has dtype int64"):
        deep_lift(nn.Identity(), torch.ones(1, 2, dtype=torch.int64))


def test_a_batch_norm_in_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"call model\.eval\(\)"):
        deep_lift(conv_net().train(), torch.randn(2, 2, 8, 8), 0)


def test_an_operation_without_a_rule_is_named():
    model = Of(lambda m, x: torch.cumprod(m["a"](x), 1), a=nn.Linear(4, 3))
    with pytest.raises(NoRuleError, match=r"DeepLIFT for cumprod \(after layer 'layers.a'\)"):
        deep_lift(model, torch.randn(2, 4), 0)


def test_a_model_that_runs_otherwise_on_the_baseline_is_refused():
    model = Of(lambda m, x: x.tanh() if bool((x.detach() > 0).all()) else x.sigmoid())
    with pytest.raises(NoRuleError, match="calls tanh for the input and sigmoid for the baseline"):
        deep_lift(model, torch.ones(1, 3), 0)
