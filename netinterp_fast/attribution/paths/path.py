"""Sums of gradients along the straight paths from baselines to inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext

import torch

from ... import ops
from ...ops._checks import real_dtype
from ..gradients.explained import Explained, copies, gradients_on, grads_or_none
from ..targets import AnyTarget, selection
from .course import Ends, Leaf, WholeCourse, best_course
from .graphs import GraphedPass
from .rows import BudgetTooSmall, Rows

Sums = dict[int, torch.Tensor]  # by the leaf's key, [examples, ...]


class Path:
    """The paths of some of the examples.

    targets     one or several, each giving sums of its own
    on_chunk    called with the number of points after every pass
    """

    def __init__(
        self,
        explained: Explained,
        values: tuple[torch.Tensor, ...],
        baselines: tuple[torch.Tensor, ...],
        examples: torch.Tensor,
        targets: list[AnyTarget],
        rows: Rows,
        hoist: bool = True,
        autocast: torch.dtype | None = None,
        cuda_graph: bool = False,
        on_chunk: Callable[[int], None] = lambda points: None,
    ):
        self.examples, self._rows, self._succeeded = examples, rows, False
        self._cuda_graph, self._on_chunk = cuda_graph, on_chunk
        self.values, self.baselines = values, baselines
        with gradients_on(), rows.holding():
            run = functools.partial(_output, explained, autocast)  # nothing that would refer back to this path
            self._whole = WholeCourse(run, values, baselines)
            self._course, outputs = best_course(explained.model, self._whole, examples, hoist, rows.limit)
            if outputs is None:
                with torch.no_grad():
                    outputs = Ends(*(run(copies(end), examples) for end in (values, baselines)))
        at_inputs, at_baselines = outputs
        self.choices = [selection(target, at_inputs, examples, explained.batch) for target in targets]
        self.differences = [choose(at_inputs, examples) - choose(at_baselines, examples) for choose in self.choices]
        sums = sum(ends.inputs.nbytes for ends in self._course.ends.values())
        rows.held += 2 * len(targets) * sums  # the second time for what is pulled back
        if self._course is not self._whole:
            rows.suit(sums // max(len(examples), 1))

    def gradients(self, alphas: torch.Tensor, weights: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
        """sum over k of weights[k] df/dx at baseline + alphas[k] (input - baseline), for each target and each tensor of
        the inputs, [examples, ...]. float64 [K] both."""
        device = self.examples.device
        with gradients_on():
            while True:
                sums = [self._zeros() for _ in self.choices]
                try:
                    self._add_all(alphas.to(device), weights.to(device), sums)
                    found = [self._course.pull_back(of_target) for of_target in sums]
                    self._succeeded = True
                    return found
                except torch.OutOfMemoryError:
                    if not self._rows.shrink(self._tried):
                        raise
                except BudgetTooSmall:
                    raise
                except Exception:
                    # A backward pass may need what the shortcut left out, as one that computes the beginning again.
                    if self._course is self._whole or self._succeeded:
                        raise
                    self._course = self._whole

    def _zeros(self) -> Sums:
        values = {key: ends.inputs for key, ends in self._course.ends.items()}
        return {key: torch.zeros_like(value, dtype=real_dtype(value.dtype)) for key, value in values.items()}

    def _add_all(self, alphas: torch.Tensor, weights: torch.Tensor, sums: list[Sums]) -> None:
        first, n = 0, len(self.examples)
        graphs: dict[tuple[int, int], GraphedPass] = {}
        while first < n:
            chosen = slice(first, min(first + self._rows.limit, n))
            step = 0
            while step < len(alphas):
                part = slice(step, step + max(self._rows.limit // (chosen.stop - chosen.start), 1))
                self._pass(chosen, alphas[part], weights[part], sums, graphs)
                step = part.stop
            first = chosen.stop

    def _pass(self, chosen: slice, alphas: torch.Tensor, weights: torch.Tensor, sums: list[Sums], graphs: dict) -> None:
        self._tried = (chosen.stop - chosen.start) * len(alphas)
        add = functools.partial(self._add, chosen, sums)
        if self._cuda_graph and not self._rows.measuring:
            key = chosen.start, len(alphas)
            if key not in graphs:
                graphs[key] = GraphedPass(add, alphas, weights, [part for parts in sums for part in parts.values()])
            graphs[key](alphas, weights)
        else:
            with self._rows.counted(self._tried):
                add(alphas, weights)
        self._on_chunk(self._tried)

    def _add(self, chosen: slice, sums: list[Sums], alphas: torch.Tensor, weights: torch.Tensor) -> None:
        """Add the gradients at some points of some examples."""
        examples = self.examples[chosen].repeat(len(alphas))
        output, leaves = self._course.output(chosen, alphas, examples)
        for i, (choose, of_target) in enumerate(zip(self.choices, sums, strict=True)):
            self._back(choose(output, examples), leaves, i + 1 < len(sums), chosen, weights, of_target)

    @staticmethod
    def _back(
        chosen_values: torch.Tensor, leaves: list[Leaf], again: bool, chosen: slice, weights: torch.Tensor, sums: Sums
    ) -> None:
        points = [leaf.points for leaf in leaves]
        grads = grads_or_none(chosen_values, points, again)
        for leaf, grad in zip(leaves, grads, strict=True):
            if grad is not None:
                gate = leaf.points.detach() if leaf.gated else None
                ops.path_accumulate(grad, weights, sums[leaf.key][chosen], gate=gate)


def _output(
    explained: Explained, autocast: torch.dtype | None, points: tuple[torch.Tensor, ...], examples: torch.Tensor
) -> torch.Tensor:
    with nullcontext() if autocast is None else torch.autocast(points[0].device.type, dtype=autocast):
        return explained.output(points, examples)
