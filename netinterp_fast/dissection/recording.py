"""Seeing the outputs of named layers while one model runs, or several."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TypeAlias

import torch
from torch import nn

from .._layers import check_layers, evaluating


class _SeenAll(Exception):
    """Ends a forward pass once every layer has been seen."""


def named_models(model: nn.Module | Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Models by name, checked; one alone has the name ""."""
    if isinstance(model, nn.Module):
        return {"": model}
    if not isinstance(model, Mapping):
        raise TypeError(f"model is a {type(model).__name__}; it must be an nn.Module, or a mapping of names to such")
    if not model:
        raise ValueError("model is an empty mapping; it must name at least one nn.Module")
    for name, one in model.items():
        if not isinstance(one, nn.Module):
            raise TypeError(f"model has a {type(one).__name__} for {name!r}; it must be an nn.Module")
        if not isinstance(name, str) or not name or "/" in name:
            raise ValueError(f"model has the name {name!r}; it must be text without '/', and not empty")
    return dict(model)


def full_name(model: str, layer: str) -> str:
    """What a layer of a model is called in the results: "epoch 3/layer6", or "layer6" of a model without a name."""
    return f"{model}/{layer}" if model else layer


See: TypeAlias = Callable[[str, str, torch.Tensor], None]


class Recording:
    """Runs models on the same images and hands the output of each named layer to a function, as float [B, C, h, w].

    The outputs are seen one after another, while a model runs, so that they need not be held together; what comes
    after the last of them is not computed. A layer that runs several times in a forward pass is seen the first time.
    Use as a context manager: the models are in eval mode inside, and as before afterwards.

    `models` has them by name, as `named_models` gives them; each has all of the layers. `token_grid` says for a layer
    of tokens how they lie, see `dissect`.
    """

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        layers: Sequence[str],
        token_grid: Mapping[str, tuple[int, int, int]] | None = None,
    ):
        self.models = dict(models)
        for name, model in self.models.items():
            self.layers = check_layers(model, layers, f"model {name!r}" if name else "the model")
        self.token_grid = {layer: _checked_grid(layer, grid, self.layers) for layer, grid in (token_grid or {}).items()}
        self._see: See | None = None
        self._waiting: set[tuple[str, str]] = set()  # model and layer; of the model that runs

    def __enter__(self) -> Recording:
        with ExitStack() as stack:
            for name, model in self.models.items():
                stack.enter_context(evaluating(model))
                modules = dict(model.named_modules())
                for layer in self.layers:
                    stack.callback(modules[layer].register_forward_hook(self._hook(name, layer)).remove)
            self._left = stack.pop_all()
        return self

    def __exit__(self, *exception) -> None:
        self._left.close()

    def run(self, images: torch.Tensor, see: See) -> None:
        """Call see(model, layer, output), the first two names, for every layer of every model; ValueError if a forward
        pass does not reach one."""
        self._see, self._n_images = see, images.shape[0]
        try:
            for name in self.models:
                self._run_model(name, images)
        finally:
            self._see = None  # what it refers to may refer to this

    def _run_model(self, name: str, images: torch.Tensor) -> None:
        self._waiting = {(name, layer) for layer in self.layers}
        try:
            with torch.no_grad():
                self.models[name](images.clone())  # a model may write to them
        except _SeenAll:
            return
        if self._waiting:
            missed = ", ".join(sorted(full_name(*one) for one in self._waiting))
            raise ValueError(f"the forward pass does not run the layer(s) {missed}")

    def _hook(self, model: str, layer: str) -> Callable:
        name = full_name(model, layer)

        def hook(module: nn.Module, inputs: tuple, output: object) -> None:
            if (model, layer) not in self._waiting:  # seen already, or a module that another model has too
                return
            self._waiting.discard((model, layer))
            try:
                maps = _as_maps(layer, output, self.token_grid.get(layer))
            except ValueError as error:
                raise ValueError(f"layer {name!r} gives {error}") from None
            if maps.shape[0] != self._n_images:
                raise ValueError(f"layer {name!r} gives maps of {maps.shape[0]} images for a batch of {self._n_images}")
            self._see(model, layer, maps)
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


def _as_maps(layer: str, output: object, grid: tuple[int, int, int] | None) -> torch.Tensor:
    """Maps [B, C, h, w] of a layer's output: maps, units [B, C], or tokens [B, T, C]; alone or in a tuple.

    ValueError for anything else, with what it is.
    """
    if isinstance(output, tuple):
        given = [part for part in output if part is not None]
        output = given[0] if len(given) == 1 else output
    if not isinstance(output, torch.Tensor) or output.dim() not in (2, 3, 4):
        what = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ValueError(f"{what}; dissection needs maps [B, C, h, w], units [B, C] or tokens [B, T, C]")
    if output.dim() == 3:
        prefix, *size = grid or _inferred_grid(layer, output.shape)
        if prefix + math.prod(size) != output.shape[1]:
            raise ValueError(f"{output.shape[1]} tokens; token_grid says {prefix} + {size[0]} x {size[1]}")
        return output[:, prefix:].transpose(1, 2).unflatten(2, size).contiguous()
    if grid:
        raise ValueError(f"{list(output.shape)} and not tokens [B, T, C]; token_grid names it")
    return output if output.dim() == 4 else output[:, :, None, None]


def _inferred_grid(layer: str, shape: Sequence[int]) -> tuple[int, int, int]:
    """A square, with a class token before it or none."""
    for prefix in (0, 1):
        side = math.isqrt(shape[1] - prefix) if shape[1] > prefix else 0
        if side and side**2 + prefix == shape[1]:
            return prefix, side, side
    raise ValueError(
        f"{list(shape)}, {shape[1]} tokens, which make no square grid, with a class token before it or without; say "
        f"how they lie: token_grid={{{layer!r}: (n_prefix_tokens, h, w)}}"
    )
