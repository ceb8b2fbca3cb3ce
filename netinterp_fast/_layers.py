"""Names of a model's layers."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn


def check_layers(model: nn.Module, layers: Sequence[str], called: str = "the model") -> list[str]:
    """The layer names, checked: ValueError with near matches for one that the model, called so, does not have."""
    names = [name for name, _ in model.named_modules() if name]
    if isinstance(layers, str):
        raise TypeError(f"layers is the string {layers!r}; it must be a list of layer names")
    if not layers:
        raise ValueError("layers is empty; name at least one layer of the model")
    for layer in layers:
        if layer not in names:
            near = difflib.get_close_matches(layer, names, n=5, cutoff=0.4) or names[:10]
            raise ValueError(f"{called} has no layer {layer!r}; near matches: {', '.join(near)}")
    if len(set(layers)) != len(layers):
        raise ValueError(f"layers names one twice: {', '.join(layers)}")
    return list(layers)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; afterwards every module has the training flag that it had."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, flag in training.items():
            module.training = flag
