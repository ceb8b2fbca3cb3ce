"""Models made of a function, and what tests compare."""

import torch
from torch import nn

from netinterp_fast import composites


class Made(nn.Module):
    """forward(x) = function(self, x), with the given modules and parameters as attributes; float64, evaluation mode."""

    def __init__(self, function, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = function
        self.double().eval()

    def forward(self, x):
        return self.function(self, x)


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-10) -> bool:
    """Shapes are the same, and nothing differs by more than a part of the largest value."""
    assert a.shape == b.shape, (a.shape, b.shape)
    assert a.isfinite().all()
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


def conv(inputs: int = 3, outputs: int = 4, size: int = 3, bias: bool = False, **options) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, bias=bias, **options)


def layers(*layer_map, stabilizer: float = 1e-6, **options) -> composites.LayerMapComposite:
    """What all composites do, and these rules."""
    return composites.LayerMapComposite([*composites.layer_map_base(stabilizer), *layer_map], **options)
