"""Seeing the outputs of named layers while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from .._layers import check_layers, evaluating


class _SeenAll(Exception):
    """Ends a forward pass once every layer has been seen."""


class Recording:
    """Runs a model and hands the output of each named layer to a function, as float [B, C, h, w].

    The outputs are seen one after another, while the model runs, so that they need not be held together; what comes
    after the last of them is not computed. A layer that runs several times in a forward pass is seen the first time.
    Use as a context manager: the model is in eval mode inside, and as before afterwards.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str]):
        self.model = model
        self.layers = check_layers(model, layers)
        self._see: Callable[[str, torch.Tensor], None] | None = None
        self._waiting: set[str] = set()
        self._handles: list = []

    def __enter__(self) -> Recording:
        self._evaluating = evaluating(self.model)
        self._evaluating.__enter__()
        modules = dict(self.model.named_modules())
        self._handles = [modules[name].register_forward_hook(self._hook(name)) for name in self.layers]
        return self

    def __exit__(self, *exception) -> None:
        for handle in self._handles:
            handle.remove()
        self._evaluating.__exit__(*exception)

    def run(self, images: torch.Tensor, see: Callable[[str, torch.Tensor], None]) -> None:
        """Call see(layer, output) for every layer; ValueError if the forward pass does not reach one."""
        self._see, self._waiting = see, set(self.layers)
        try:
            with torch.no_grad():
                self.model(images)
        except _SeenAll:
            return
        finally:
            self._see = None  # what it refers to may refer to this
        if self._waiting:
            raise ValueError(f"the forward pass does not run the layer(s) {', '.join(sorted(self._waiting))}")

    def _hook(self, name: str) -> Callable:
        def hook(module: nn.Module, inputs: tuple, output: object) -> None:
            if name not in self._waiting:
                return
            self._waiting.discard(name)
            self._see(name, _as_maps(name, output))
            if not self._waiting:
                raise _SeenAll

        return hook


def _as_maps(name: str, output: object) -> torch.Tensor:
    if not isinstance(output, torch.Tensor) or output.dim() not in (2, 4):
        what = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ValueError(f"layer {name!r} gives {what}; dissection needs maps [B, C, h, w] or units [B, C]")
    return output if output.dim() == 4 else output[:, :, None, None]
