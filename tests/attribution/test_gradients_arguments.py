"""Errors for arguments that do not fit name the argument."""

import math

import pytest
import torch
from gradient_nets import DOUBLE, net
from torch import nn

from netinterp_fast import (
    deconvnet,
    full_grad,
    guided_backprop,
    input_x_gradient,
    integrated_gradients,
    rect_grad,
    saliency,
)

X = torch.randn(3, 6, dtype=DOUBLE)
ONE = torch.tensor([1])

COMMON = [
    ({"inputs": None}, TypeError, "inputs is a NoneType"),
    ({"inputs": [X]}, TypeError, "inputs is a list"),
    ({"inputs": ()}, ValueError, "inputs is an empty tuple"),
    ({"inputs": X.long()}, TypeError, "inputs has dtype int64"),
    ({"inputs": X.cfloat()}, TypeError, "inputs has dtype complex64"),
    ({"inputs": torch.tensor(1.0)}, ValueError, r"inputs has shapes \[\[\]\]"),
    ({"inputs": (X, X[:2])}, ValueError, r"inputs has shapes \[\[3, 6\], \[2, 6\]\]"),
    ({"target": True}, TypeError, "target is True"),
    ({"target": "cat"}, TypeError, "target is 'cat'"),
    ({"target": 1.5}, TypeError, "target is 1.5"),
    ({"target": {1: 2}}, TypeError, "target is"),
    ({"target": 4}, ValueError, "target has the class 4; the model has 4 outputs"),
    ({"target": -1}, ValueError, "target has the class -1"),
    ({"target": torch.tensor([0, 1])}, ValueError, r"target has shape \[2\]; it must be \[3\]"),
    ({"target": torch.tensor([0, 1, 9])}, ValueError, "target has the class 9"),
    ({"target": torch.ones(3).bool()}, TypeError, "target is a tensor of booleans"),
    ({"target": torch.ones(3, 5)}, ValueError, r"target has shape \[3, 5\]; .* \[3, 4\]"),
    ({"target": [0, 1]}, ValueError, "target has"),
    ({"target": []}, ValueError, "target"),
    ({"target": ["a", "b", "c"]}, (TypeError, ValueError), "target"),
    ({"target": [0.5, 1.0, 2.0]}, TypeError, "target"),
    ({"target": [0, 1, 9]}, ValueError, "target has the class 9"),
    ({"target": (0, 0)}, ValueError, r"target is \(0, 0\); it must index an output of shape \[4\]"),
    ({"target": (4,)}, ValueError, r"target is \(4,\)"),
    ({"target": (-5,)}, ValueError, r"target is \(-5,\)"),
    ({"target": (1.0,)}, TypeError, r"target is \(1.0,\); a tuple must hold ints"),
    ({"target": ()}, ValueError, r"target is \(\)"),
    ({"target": [(0,), (1,)]}, ValueError, "target has 2 entries; it must have 3"),
    ({"target": [(0,), (1,), 3]}, (TypeError, ValueError), "target"),
    ({"target": [3, (0,), (1,)]}, (TypeError, ValueError), "target"),
    ({"target": lambda out: out}, ValueError, r"target\(output\) is \[\d, 4\]; it must be a tensor \[\d\]"),
    ({"target": lambda out: 1.0}, ValueError, r"target\(output\) is float"),
    ({"target": lambda out: out.sum()}, ValueError, r"target\(output\) is \[\]"),
    ({"model": lambda x: (x,)}, TypeError, "the model returned a tuple; it must return a tensor"),
    ({"model": lambda x: None}, TypeError, "the model returned a NoneType"),
    ({"model": lambda x: x.sum()}, ValueError, r"the model's output has shape \[\]; it must be \[\d, ...\]"),
    ({"model": lambda x: x[:1]}, ValueError, r"the model's output has shape \[1, 6\]; it must be \[\d, ...\]"),
    ({"model": lambda x: x[:, None], "target": 1}, ValueError, r"the model's output has shape \[\d, 1, 6\]"),
    ({"model": lambda x: torch.ones(len(x), 4)}, ValueError, "does not depend on its input"),
    ({"model": lambda x: x.detach()}, ValueError, "does not depend on its input"),
]  # fmt: skip
LAYERS = [
    ({"targets": ONE}, ValueError, "target and targets are both given"),
    ({"target": None, "targets": [1]}, TypeError, "targets must be a LongTensor"),
    ({"target": None, "targets": ONE.float()}, TypeError, "targets must be a LongTensor"),
    ({"target": None, "targets": ONE.bool()}, TypeError, "targets must be a LongTensor"),
    ({"target": None, "targets": ONE[None]}, TypeError, "targets must be a LongTensor"),
    ({"target": None, "targets": ONE[:0]}, ValueError, "targets is empty"),
    ({"target": None, "targets": ONE + 9}, ValueError, "target has the class 10"),
    ({"layer": 3}, TypeError, "layer is 3"),
    ({"layer": "9"}, ValueError, "the model has no layer '9'; near matches: 0"),
    ({"layer": nn.ReLU()}, ValueError, "layer is a ReLU that is not part of the model"),
    ({"layer": "0", "model": lambda x: x}, TypeError, "layer is '0'"),
    ({"attribute_to_layer_input": True}, ValueError, "attribute_to_layer_input is True, but layer is None"),
]
PATHS = [
    ({"steps": 0}, ValueError, "steps is 0"),
    ({"steps": 1.5}, TypeError, "steps is 1.5"),
    ({"steps": True}, TypeError, "steps is True"),
    ({"steps": 1, "method": "riemann_trapezoid"}, ValueError, "steps is 1; it must be at least 2"),
    ({"method": "simpson"}, ValueError, "method is 'simpson'; it must be one of gausslegendre, riemann_left"),
    ({"method": None}, (TypeError, ValueError), "method is None"),
    ({"method": (torch.ones(2),)}, ValueError, "method has 1 entries"),
    ({"method": (torch.ones(2), torch.ones(3))}, ValueError, r"alphas \[2\], weights \[3\]"),
    ({"method": (torch.ones(2, 2), torch.ones(2, 2))}, ValueError, r"alphas \[2, 2\]"),
    ({"method": (torch.ones(0), torch.ones(0))}, ValueError, "K > 0"),
    ({"method": ("a", "b")}, TypeError, "method"),
    ({"memory_budget": "big"}, ValueError, "memory_budget is 'big'"),
    ({"memory_budget": ""}, ValueError, "memory_budget is ''"),
    ({"memory_budget": "MiB"}, ValueError, "memory_budget is 'MiB'"),
    ({"memory_budget": "5 iB"}, ValueError, "memory_budget is '5 iB'"),
    ({"memory_budget": "-1MiB"}, ValueError, "memory_budget is '-1MiB'"),
    ({"memory_budget": "1e9"}, ValueError, "memory_budget is '1e9'"),
    ({"memory_budget": "0MiB"}, ValueError, "memory_budget is 0"),
    ({"memory_budget": -5}, ValueError, "memory_budget is -5"),
    ({"memory_budget": 1.5}, TypeError, "memory_budget is 1.5"),
    ({"memory_budget": True}, TypeError, "memory_budget is True"),
    ({"batch_size": 0}, ValueError, "batch_size is 0"),
    ({"batch_size": 1.0}, TypeError, "batch_size is 1.0"),
    ({"batch_size": True}, TypeError, "batch_size is True"),
    ({"tolerance": 0}, ValueError, "tolerance is 0"),
    ({"tolerance": -0.1}, ValueError, "tolerance is -0.1"),
    ({"tolerance": math.nan}, ValueError, "tolerance is nan"),
    ({"tolerance": "a"}, TypeError, "tolerance is 'a'"),
    ({"tolerance": True}, TypeError, "tolerance is True"),
    ({"tolerance": 0.1, "method": "riemann_left"}, ValueError, "method is 'riemann_left'"),
    ({"tolerance": 0.1, "method": (torch.ones(2), torch.ones(2))}, ValueError, "method is"),
    ({"tolerance": 0.1, "steps": 1}, ValueError, "steps is 1"),
    ({"tolerance": 0.1, "steps": 50, "max_steps": 40}, ValueError, "steps is 50, max_steps 40"),
    ({"tolerance": 0.1, "max_steps": "a"}, TypeError, "max_steps is 'a'"),
    ({"autocast": "bf16"}, ValueError, "autocast is 'bf16'"),
    ({"autocast": torch.float32}, ValueError, "autocast is torch.float32"),
    ({"cuda_graph": True}, ValueError, "cuda_graph is True, but inputs is on cpu"),
    ({"baseline": "a"}, TypeError, "baseline is a str"),
    ({"baseline": [0]}, TypeError, "baseline is a list"),
    ({"baseline": torch.zeros(2, 6)}, ValueError, r"baseline has shape \[2, 6\]; it must be \[3, 6\] or \[1, ...\]"),
    ({"baseline": torch.zeros(6)}, ValueError, r"baseline has shape \[6\]"),
    ({"baseline": (0, 0)}, ValueError, "baseline has 2 entries; it must have 1"),
    ({"baseline": ()}, ValueError, "baseline has 0 entries"),
]
RECT = [
    ({"threshold": "a"}, TypeError, "threshold is 'a'"),
    ({"threshold": math.nan}, ValueError, "threshold is nan"),
    ({"quantile": 1.5}, ValueError, r"quantile is 1.5; it must be in \[0, 1\]"),
    ({"quantile": -0.1}, ValueError, "quantile is -0.1"),
    ({"quantile": math.nan}, ValueError, "quantile is nan"),
    ({"quantile": "a"}, TypeError, "quantile is 'a'"),
]


def assert_raises(method, change, error, message):
    with pytest.raises(error, match=message):
        method(**{"model": net(6, 8, 4), "inputs": X, "target": 1} | change)


@pytest.mark.parametrize("method", [saliency, guided_backprop, integrated_gradients, full_grad])
@pytest.mark.parametrize(("change", "error", "message"), COMMON)
def test_models_inputs_and_targets(method, change, error, message):
    assert_raises(method, change, error, message)


@pytest.mark.parametrize("method", [saliency, input_x_gradient, deconvnet, integrated_gradients])
@pytest.mark.parametrize(("change", "error", "message"), LAYERS)
def test_layers_and_several_targets(method, change, error, message):
    assert_raises(method, change, error, message)


@pytest.mark.parametrize(("change", "error", "message"), PATHS)
def test_paths(change, error, message):
    assert_raises(integrated_gradients, change, error, message)


@pytest.mark.parametrize(("change", "error", "message"), RECT)
def test_rect_grad(change, error, message):
    assert_raises(rect_grad, change, error, message)


@pytest.mark.parametrize("method", [saliency, integrated_gradients])
def test_a_layer_that_does_not_run_or_deals_in_no_tensors(method):
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.unused, self.words = nn.Linear(6, 4), nn.Linear(6, 4), Words()

        def forward(self, x):
            self.words(x)
            return self.a(x)

    class Words(nn.Module):
        def forward(self, x):
            return "words"

    model = Half().double()
    with pytest.raises(ValueError, match="the forward pass does not run the layer 'unused'"):
        method(model, X, 1, layer="unused")
    with pytest.raises(TypeError, match="layer 'words' does not deal in floating-point tensors alone"):
        method(model, X, 1, layer="words")


def test_an_error_of_the_models_own_is_passed_on():
    for method in (saliency, guided_backprop, integrated_gradients, full_grad):
        with pytest.raises(RuntimeError, match="shapes"):
            method(net(5, 4), X, 1)
