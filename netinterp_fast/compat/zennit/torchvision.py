"""Canonizers for torchvision's models that have nothing to do."""

from __future__ import annotations

from torch import nn


class VGGCanonizer:
    """Changes nothing: a batch norm is merged into the layer with weights before it as the model runs."""

    def apply(self, root_module: nn.Module) -> list:
        return []


class ResNetCanonizer:
    """Changes nothing: batch norms are merged, and sums found, as the model runs."""

    def apply(self, root_module: nn.Module) -> list:
        return []
