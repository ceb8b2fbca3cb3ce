"""Deep Taylor decomposition: no pixel has negative relevance, and the relevance of all pixels is the output."""

import pytest
import torch
from torch import nn

from netinterp_fast import composites, lrp


def network(positive):
    torch.manual_seed(4)
    layers = [nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).double()
    for layer in model:
        if hasattr(layer, "bias"):
            nn.init.zeros_(layer.bias)
            layer.weight.data = layer.weight.abs() if positive else layer.weight
    return model


@pytest.mark.parametrize("positive", [True, False])
def test_pixels_have_no_negative_relevance_and_the_outputs_in_all(positive):
    model, x = network(positive), torch.rand(4, 2, 8, 8, dtype=torch.float64)
    relevance = lrp(model, x, composite=composites.deep_taylor(low=0.0, high=1.0, stabilizer=1e-12))
    output = model(x).max(1).values
    assert (output > 0).all()
    assert (relevance >= 0).all()
    torch.testing.assert_close(relevance.flatten(1).sum(1), output, rtol=1e-6, atol=1e-9)
