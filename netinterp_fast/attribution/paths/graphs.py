"""Passes recorded as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable

import torch

_WARM_UPS = 3  # libraries choose their algorithms and allocate in the first runs, which no graph may hold


class GraphedPass:
    """add(alphas, weights), which adds to `sums` on a CUDA device: its launches are recorded once and replayed after
    that, for other alphas and weights of the same number."""

    def __init__(
        self,
        add: Callable[[torch.Tensor, torch.Tensor], None],
        alphas: torch.Tensor,
        weights: torch.Tensor,
        sums: list[torch.Tensor],
    ):
        self._alphas, self._weights = alphas.clone(), weights.clone()
        before = [of_target.clone() for of_target in sums]
        main, side = torch.cuda.current_stream(alphas.device), torch.cuda.Stream(alphas.device)
        side.wait_stream(main)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                add(self._alphas, self._weights)
        main.wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            add(self._alphas, self._weights)
        for of_target, value in zip(sums, before, strict=True):
            of_target.copy_(value)

    def __call__(self, alphas: torch.Tensor, weights: torch.Tensor) -> None:
        self._alphas.copy_(alphas)
        self._weights.copy_(weights)
        self._graph.replay()
