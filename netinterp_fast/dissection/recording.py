"""Seeing the outputs of named layers while a model runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

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

    `token_grid` says for a layer of tokens how they lie, see `dissect`.
    """

    def __init__(
        self, model: nn.Module, layers: Sequence[str], token_grid: Mapping[str, tuple[int, int, int]] | None = None
    ):
        self.model = model
        self.layers = check_layers(model, layers)
        self.token_grid = {layer: _checked_grid(layer, grid, self.layers) for layer, grid in (token_grid or {}).items()}
        self._see: Callable[[str, torch.Tensor], None] | None = None
        self._waiting: set[str] = set()

    def __enter__(self) -> Recording:
        modules = dict(self.model.named_modules())
        with ExitStack() as stack:
            stack.enter_context(evaluating(self.model))
            for name in self.layers:
                stack.callback(modules[name].register_forward_hook(self._hook(name)).remove)
            self._left = stack.pop_all()
        return self

    def __exit__(self, *exception) -> None:
        self._left.close()

    def run(self, images: torch.Tensor, see: Callable[[str, torch.Tensor], None]) -> None:
        """Call see(layer, output) for every layer; ValueError if the forward pass does not reach one."""
        self._see, self._waiting, self._n_images = see, set(self.layers), images.shape[0]
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
            maps = _as_maps(name, output, self.token_grid.get(name))
            if maps.shape[0] != self._n_images:
                raise ValueError(f"layer {name!r} gives maps of {maps.shape[0]} images for a batch of {self._n_images}")
            self._see(name, maps)
            if not self._waiting:
                raise _SeenAll

        return hook


def _checked_grid(layer: str, grid: tuple[int, int, int], layers: Sequence[str]) -> tuple[int, int, int]:
    if layer not in layers:
        raise ValueError(f"token_grid names {layer!r}; layers has {', '.join(layers)}")
    grid = tuple(grid)
    whole = len(grid) == 3 and all(isinstance(n, int) and not isinstance(n, bool) for n in grid)
    if not whole or grid[0] < 0 or min(grid[1:]) < 1:
        raise ValueError(f"token_grid is {grid} for {layer!r}; it must be (n_prefix_tokens, h, w), h and w at least 1")
    return grid


def _as_maps(name: str, output: object, grid: tuple[int, int, int] | None) -> torch.Tensor:
    """Maps [B, C, h, w] of a layer's output: maps, units [B, C], or tokens [B, T, C]; alone or in a tuple."""
    if isinstance(output, tuple):
        given = [part for part in output if part is not None]
        output = given[0] if len(given) == 1 else output
    if not isinstance(output, torch.Tensor) or output.dim() not in (2, 3, 4):
        what = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ValueError(
            f"layer {name!r} gives {what}; dissection needs maps [B, C, h, w], units [B, C] or tokens [B, T, C]"
        )
    if output.dim() == 3:
        prefix, *size = grid or _inferred_grid(name, output.shape)
        if prefix + math.prod(size) != output.shape[1]:
            raise ValueError(
                f"layer {name!r} gives {output.shape[1]} tokens; token_grid says {prefix} + {size[0]} x {size[1]}"
            )
        return output[:, prefix:].transpose(1, 2).unflatten(2, size).contiguous()
    if grid:
        raise ValueError(f"token_grid names {name!r}, which gives {list(output.shape)} and not tokens [B, T, C]")
    return output if output.dim() == 4 else output[:, :, None, None]


def _inferred_grid(name: str, shape: Sequence[int]) -> tuple[int, int, int]:
    """A square, with a class token before it or none."""
    for prefix in (0, 1):
        side = math.isqrt(shape[1] - prefix) if shape[1] > prefix else 0
        if side and side**2 + prefix == shape[1]:
            return prefix, side, side
    raise ValueError(
        f"layer {name!r} gives {list(shape)}, {shape[1]} tokens, which make no square grid, with a class token before "
        f"it or without; say how they lie: token_grid={{{name!r}: (n_prefix_tokens, h, w)}}"
    )
