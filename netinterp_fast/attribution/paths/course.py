"""Running a model at points between baselines and inputs, from the first tensors where that has to be done."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from ... import ops
from .prefix import Recording, Replay

# explained.output: the attributed tensors and the example of each row, to the model's output
Run = Callable[[tuple[torch.Tensor, ...], torch.Tensor], torch.Tensor]
_AGREE = 1e-3  # of the largest output: the same numbers in another memory format


class Ends(NamedTuple):
    """A tensor's values for the inputs and for the baselines of some examples."""

    inputs: torch.Tensor
    baselines: torch.Tensor


class Leaf(NamedTuple):
    """Points that a forward pass went on from. gate: they are a ReLU's outputs, their gradients that ReLU's."""

    key: int
    points: torch.Tensor
    gated: bool


def best_course(
    model: Callable,
    run: Run,
    values: tuple[torch.Tensor, ...],
    baselines: tuple[torch.Tensor, ...],
    examples: torch.Tensor,
    hoist: bool,
) -> tuple[WholeCourse | HoistedCourse, torch.Tensor | None]:
    """How to run a model on the paths of some examples: without its beginning, in channels_last, where that gives the
    same output; else as it is. And its output for the inputs and then the baselines, where that was computed."""
    if not hoist or isinstance(model, torch.jit.ScriptModule) or hasattr(model, "_orig_mod"):
        return WholeCourse(run, values, baselines), None
    parts = tuple(torch.cat(pair).requires_grad_() for pair in zip(values, baselines, strict=True))
    recording = Recording(model)
    twice = examples.repeat(2)
    output = _tried(lambda: recording.output(lambda points: run(points, twice), parts))
    if output is not None:
        images = any(cut.dim() == 4 for cut in recording.cuts.values())
        for channels_last in (True, False) if images else (False,):
            course = HoistedCourse(model, run, recording, parts, channels_last)
            if course.ends and _is_right(course, run, parts, examples):
                return course, output
    return WholeCourse(run, values, baselines), output


def _tried(attempt: Callable[[], torch.Tensor]) -> torch.Tensor | None:
    """None where an attempt fails: the model itself then says what is wrong, if anything is."""
    try:
        return attempt()
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a model raises that can not run so
        return None


def _is_right(course: HoistedCourse, run: Run, parts: tuple[torch.Tensor, ...], examples: torch.Tensor) -> bool:
    """Whether the course gives the output that the whole model has in the middle of the paths."""
    middle = torch.full((1,), 0.5, dtype=torch.float64, device=examples.device)
    with torch.no_grad():
        halves = [Ends(*part.chunk(2)) for part in parts]
        expected = run(tuple(_points(ends, slice(None), middle) for ends in halves), examples)
        found = _tried(lambda: course.output(slice(None), middle, examples)[0])
    if found is None or found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    scale = expected.abs().amax().item() if expected.numel() else 0.0
    precision = max(_AGREE, 8 * torch.finfo(expected.dtype).eps)
    return torch.allclose(found, expected, rtol=precision, atol=precision * scale, equal_nan=True)


class WholeCourse:
    """The model run as it is, from its inputs."""

    def __init__(self, run: Run, values: tuple[torch.Tensor, ...], baselines: tuple[torch.Tensor, ...]):
        self._run = run
        self.ends = dict(enumerate(Ends(*pair) for pair in zip(values, baselines, strict=True)))

    def output(self, chosen: slice, alphas: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, list[Leaf]]:
        """The output at every alpha for the chosen examples, and its leaves. `rows`: the example of each row."""
        leaves = [Leaf(key, _points(ends, chosen, alphas), False) for key, ends in self.ends.items()]
        return self._run(tuple(leaf.points for leaf in leaves), rows), leaves

    def pull_back(self, sums: dict[int, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return tuple(sums.values())


class HoistedCourse:
    """The model without its affine beginning."""

    def __init__(
        self, model: Callable, run: Run, recording: Recording, parts: tuple[torch.Tensor, ...], channels_last: bool
    ):
        self._model, self._run, self._recording, self._parts = model, run, recording, parts
        self.ends = {key: _halves(cut.detach(), channels_last) for key, cut in recording.cuts.items()}

    def output(self, chosen: slice, alphas: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, list[Leaf]]:
        leaves: list[Leaf] = []

        def points(key: int, relu: bool) -> torch.Tensor:
            leaves.append(Leaf(key, _points(self.ends[key], chosen, alphas, relu), relu))
            return leaves[-1].points

        replay = Replay(self._model, self._recording.steps, points)
        return replay.output(lambda parts: self._run(parts, rows), self._parts, len(rows)), leaves

    def pull_back(self, sums: dict[int, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Gradients with respect to the inputs from those at the cuts; the beginning's are the same all along."""
        cuts = [self._recording.cuts[key] for key in sums]
        at_cuts = [
            torch.cat([g, torch.zeros_like(g)]).to(cut.dtype) for g, cut in zip(sums.values(), cuts, strict=True)
        ]
        grads = torch.autograd.grad(cuts, self._parts, at_cuts, retain_graph=True, allow_unused=True)
        n = len(self._parts[0]) // 2
        return tuple(torch.zeros_like(p[:n]) if g is None else g[:n] for g, p in zip(grads, self._parts, strict=True))


def _points(ends: Ends, chosen: slice, alphas: torch.Tensor, relu: bool = False) -> torch.Tensor:
    return ops.path_points(ends.inputs[chosen], ends.baselines[chosen], alphas, relu=relu).requires_grad_()


def _halves(both: torch.Tensor, channels_last: bool) -> Ends:
    if channels_last and both.dim() == 4:
        both = both.contiguous(memory_format=torch.channels_last)
    return Ends(*both.chunk(2))
