"""Canonizers that have nothing to do. Composites also take Zennit's own, or any object with its protocol: apply(model)
returns objects that undo the change with remove()."""

from __future__ import annotations

from torch import nn


class SequentialMergeBatchNorm:
    """Changes nothing: a batch norm is merged into the layer with weights before it as the model runs."""

    def apply(self, root_module: nn.Module) -> list:
        return []
