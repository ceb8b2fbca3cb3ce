"""Layers that models use so that composites can map them."""

from __future__ import annotations

import torch

from ...attribution.relevance.layer_types import Sum as LastDimensionSum


class Sum(LastDimensionSum):
    """Sums its input over the dimension `dim`. As a type it also stands for every sum of tensors: +, add, sum."""

    def __init__(self, dim: int = -1):
        super().__init__()
        self.dim = dim

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return torch.sum(input, dim=self.dim)
