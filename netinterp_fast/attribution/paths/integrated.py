"""Integrated gradients."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from ..._numbers import check_counts
from ..baselines import Baseline, checked_baselines
from ..gradients.explained import Explained, Inputs, Layer, per_target
from ..targets import AnyTarget, checked_targets
from .nodes import Nodes, nodes, refinement
from .path import Path
from .rows import Rows


@dataclass(frozen=True)
class PathInfo:
    """What is known of an attribution by a path, one entry an example (with several targets: [T, B] but for `steps`).

    steps               points that were taken
    error               estimate of the attribution's relative L1 error: its distance from the estimate by every second
                        point, over its norm
    convergence_delta   the attribution's sum less f(x) - f(x')
    """

    steps: torch.Tensor
    error: torch.Tensor
    convergence_delta: torch.Tensor


@torch.inference_mode(False)
def integrated_gradients(
    model: Callable,
    inputs: Inputs,
    target: AnyTarget = None,
    *,
    baseline: Baseline = None,
    steps: int = 50,
    method: str | Nodes = "gausslegendre",
    additional_forward_args: Any = None,
    layer: Layer = None,
    attribute_to_layer_input: bool = False,
    targets: torch.Tensor | None = None,
    multiply_by_inputs: bool = True,
    memory_budget: int | str | None = None,
    batch_size: int | None = None,
    tolerance: float | None = None,
    max_steps: int = 1024,
    return_info: bool = False,
    hoist: bool = True,
    autocast: torch.dtype | None = None,
    cuda_graph: bool = False,
    progress: bool = False,
) -> Inputs | tuple[Inputs, PathInfo]:
    """(x - x') times the mean gradient on the straight path from a baseline x' to the input x, which sums to
    f(x) - f(x') (Sundararajan et al., "Axiomatic attribution for deep networks", ICML 2017).

    Gradients are summed as they come, so memory does not grow with the steps. The affine beginning of the model runs
    twice in all instead of once a step.

    Args:
        model, inputs, target, additional_forward_args, layer, attribute_to_layer_input, targets: as for `saliency`.
        baseline: x': a tensor of the inputs' shape, or [1, ...] for all examples; a number; None, zeros; or a tuple of
            these, one for each tensor of the inputs.
        steps: points on the path. With `tolerance`, those to begin with, rounded down to a power of two.
        method: the quadrature rule: "gausslegendre", "riemann_left", "riemann_middle", "riemann_right",
            "riemann_trapezoid"; "graded", the trapezoidal rule with points that lie closer near the baseline, of half
            the error on image networks; or (alphas, weights), float tensors [K], which give the steps too.
        multiply_by_inputs: False gives the mean gradient.
        memory_budget: bytes, or text such as "512MiB", that the computation may take beyond the model and the result.
            It splits the steps and the batch.
        batch_size: points (steps times examples) at once, at most. By default what suits the device.
        tolerance: double the points, by the "graded" rule, which uses all earlier ones again, until the estimated
            relative L1 error of each example's attribution is at most this.
        max_steps: with `tolerance`, the most points for an example; a warning says where they did not suffice.
        return_info: return a `PathInfo` too.
        hoist: skip the affine beginning of the model; False runs the whole model for every point.
        autocast: torch.bfloat16 or torch.float16: run the model so under `torch.autocast`.
        cuda_graph: on CUDA, record a pass as a graph and replay it for the others, which saves launches where the model
            is small; the model must be fit for that: no waiting for the GPU, the same course every time.
        progress: show a progress bar.

    Returns:
        A tensor of the shape of the inputs (or of the layer's output), or a tuple of them; [T, ...] with `targets`.
        With `return_info`, a pair of that and a `PathInfo`.

    Raises:
        TypeError, ValueError: for arguments that do not fit, or a memory_budget that a single point exceeds.
    """
    explained = Explained(model, inputs, additional_forward_args, layer, attribute_to_layer_input)
    baselines = checked_baselines(baseline, explained.inputs)
    asked = checked_targets(targets, target) or [target]
    rows = Rows(batch_size, memory_budget, explained.inputs)
    rule = nodes(method, steps) if tolerance is None else None
    if rule is None:
        _check_tolerance(tolerance, method, steps, max_steps)
    _check_modes(explained.everyone.device, autocast, cuda_graph)
    outcome = _Outcome(explained.batch)
    total = explained.batch * len(rule[0]) if rule else None
    with tqdm(desc="integrated gradients", unit="point", total=total, disable=not progress) as bar:

        def attribute(group: slice) -> None:
            examples = explained.everyone[group]
            values, references = (
                explained.values(tuple(part[group] for part in parts), examples)
                for parts in (explained.inputs, baselines)
            )
            path = Path(explained, values, references, examples, asked, rows, hoist, autocast, cuda_graph, bar.update)
            attribution = _Attribution(path, multiply_by_inputs)
            if rule:
                outcome.put(group, *attribution.by_rule(*rule, return_info))
            else:
                outcome.put(group, *attribution.refined(tolerance, steps, max_steps))

        _in_groups(attribute, explained.batch, rows, one_by_one=rule is None)
    if rule is None:
        outcome.warn(tolerance)
    attribution = per_target(explained, outcome.parts, targets)
    return (attribution, outcome.info(several=targets is not None)) if return_info else attribution


def _in_groups(attribute: Callable[[slice], None], batch: int, rows: Rows, one_by_one: bool) -> None:
    """Attribute all examples, as many together as `rows` says; fewer after running out of memory. An empty batch is a
    group too: its result has a shape."""
    first = 0
    while True:
        group = slice(first, min(first + (1 if one_by_one else rows.examples_at_once), batch))
        try:
            attribute(group)
        except torch.OutOfMemoryError:
            if not rows.shrink(group.stop - first):
                raise
            continue
        first = group.stop
        if first == batch:
            return


def _check_modes(device: torch.device, autocast: torch.dtype | None, cuda_graph: bool) -> None:
    if cuda_graph and device.type != "cuda":
        raise ValueError(f"cuda_graph is True, but inputs is on {device}; it must be on a CUDA device")
    if autocast not in (None, torch.bfloat16, torch.float16):
        raise ValueError(f"autocast is {autocast!r}; it must be torch.bfloat16, torch.float16 or None")


def _check_tolerance(tolerance: float, method: str | Nodes, steps: int, max_steps: int) -> None:
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)):
        raise TypeError(f"tolerance is {tolerance!r}; it must be a number or None")
    if not tolerance > 0:
        raise ValueError(f"tolerance is {tolerance}; it must be above 0")
    if method not in ("gausslegendre", "graded"):  # the default stands for no choice
        raise ValueError(f"method is {method!r}; with tolerance it is 'graded'")
    check_counts(steps=steps, max_steps=max_steps)
    if not 2 <= steps <= max_steps:
        raise ValueError(f"steps is {steps}, max_steps {max_steps}; with tolerance 2 <= steps <= max_steps")


Found = list[tuple[torch.Tensor, ...]]  # for each target, a tensor for each tensor of the inputs


class _Attribution:
    """Attributions of the examples of a path, the points they took and the estimate of their error [T, examples]."""

    def __init__(self, path: Path, multiply_by_inputs: bool):
        self._path, self._multiply = path, multiply_by_inputs
        self._ways = [x - b for x, b in zip(path.values, path.baselines, strict=True)]

    def by_rule(self, alphas: torch.Tensor, weights: torch.Tensor, estimate: bool) -> tuple:
        """With the estimate, the sums over every second point are kept apart: they make half a rule by themselves."""
        if not estimate or len(alphas) < 2:
            found = self._path.gradients(alphas, weights)
            error = torch.full((len(found), len(self._path.examples)), math.nan)
            return self._result(found, len(alphas), error)
        halves = [self._path.gradients(alphas[part], weights[part]) for part in (slice(0, None, 2), slice(1, None, 2))]
        found = [tuple(a + b for a, b in zip(*pair, strict=True)) for pair in zip(*halves, strict=True)]
        share = (weights[1::2].sum() / weights.sum()).item()
        coarse = [tuple(part / share for part in of_target) for of_target in halves[1]]
        return self._result(found, len(alphas), self._distance(found, coarse))

    def refined(self, tolerance: float, steps: int, max_steps: int) -> tuple:
        """Each time the points between the old ones: first of a power of two, `steps` at most, in two halves."""
        n = 2 ** int(math.log2(steps)) // 2
        found = self._path.gradients(*nodes("graded", n))
        while True:
            n *= 2
            new = self._path.gradients(*refinement(n))
            coarse, found = found, [
                tuple(a / 2 + b for a, b in zip(*pair, strict=True)) for pair in zip(found, new, strict=True)
            ]  # fmt: skip
            error = self._distance(found, coarse)
            if not bool((error > tolerance).any()) or 2 * n > max_steps:  # NaN gets no better
                return self._result(found, n, error)

    def _distance(self, found: Found, coarse: Found) -> torch.Tensor:
        """Relative L1 distance of two estimates of the attribution (x - x') g, [T, examples]."""

        def norm(parts: Iterable[torch.Tensor]) -> torch.Tensor:
            return _total([(part * way).abs() for part, way in zip(parts, self._ways, strict=True)])

        distances = []
        for fine, half in zip(found, coarse, strict=True):
            distance, size = norm([a - b for a, b in zip(fine, half, strict=True)]), norm(fine)
            distances.append(torch.where(distance == 0, 0, distance / size))
        return torch.stack(distances)

    def _result(self, gradients: Found, steps: int, error: torch.Tensor) -> tuple:
        times_way = [tuple(g * way for g, way in zip(parts, self._ways, strict=True)) for parts in gradients]
        delta = torch.stack([_total(parts) - d for parts, d in zip(times_way, self._path.differences, strict=True)])
        found = times_way if self._multiply else gradients
        dtypes = [way.dtype for way in self._ways]
        return [tuple(map(torch.Tensor.to, parts, dtypes)) for parts in found], steps, error, delta


def _total(parts: Iterable[torch.Tensor]) -> torch.Tensor:
    """The sum over all of an example, [examples]."""
    return sum(part.flatten(1).sum(1) if part.dim() > 1 else part for part in parts)


class _Outcome:
    """The results of all examples."""

    def __init__(self, batch: int):
        self.batch = batch
        self.parts: list[list[torch.Tensor]] = []

    def put(self, group: slice, parts: Found, steps: int, error: torch.Tensor, delta: torch.Tensor) -> None:
        if not self.parts:
            self.parts = [[part.new_empty((self.batch, *part.shape[1:])) for part in of_target] for of_target in parts]
            self._steps = torch.empty(self.batch, dtype=torch.int64)
            self._error = torch.empty((len(parts), self.batch), dtype=torch.float64)
            self._delta = delta.new_empty((len(parts), self.batch))
        for whole, of_target in zip(self.parts, parts, strict=True):
            for place, part in zip(whole, of_target, strict=True):
                place[group] = part
        self._steps[group], self._error[:, group], self._delta[:, group] = steps, error, delta

    def info(self, several: bool) -> PathInfo:
        return PathInfo(self._steps, *(t if several else t[0] for t in (self._error, self._delta)))

    def warn(self, tolerance: float) -> None:
        """Say which examples did not reach the tolerance."""
        missed = (~(self._error <= tolerance)).any(0).nonzero().flatten().tolist()
        if missed:
            warnings.warn(
                f"the estimated error of example(s) {missed} is still above {tolerance} after max_steps; the largest "
                f"is {float(self._error.max()):.3f}",
                stacklevel=4,
            )
