"""Running a model at points between baselines and inputs, from the first tensors where that has to be done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ... import ops
from ..gradients.explained import copies
from .prefix import Recording, Replay

# explained.output: the attributed tensors and the example of each row, to the model's output
Run = Callable[[tuple[torch.Tensor, ...], torch.Tensor], torch.Tensor]
_AGREE = 1e-3  # of the largest output: the same numbers in another memory format


class Ends(NamedTuple):
    """The same for the inputs and for the baselines of some examples: a tensor's values, in most places."""

    inputs: Any
    baselines: Any


class Leaf(NamedTuple):
    """Points that a forward pass went on from. gate: they are a ReLU's outputs, their gradients that ReLU's."""

    key: int
    points: torch.Tensor
    gated: bool


def best_course(
    model: Callable, whole: WholeCourse, examples: torch.Tensor, hoist: bool, limit: int
) -> tuple[WholeCourse | HoistedCourse, Ends | None]:
    """How to run a model on the paths of some examples, `limit` rows at once: without its beginning, in channels_last,
    where that gives the same output; else as it is, `whole`. And its outputs at both ends, if they were computed."""
    if not hoist or isinstance(model, torch.jit.ScriptModule) or hasattr(model, "_orig_mod"):
        return whole, None
    recordings = Ends(Recording(model), Recording(model))
    try:
        return _best_of_recorded(model, whole, recordings, examples, limit)
    finally:  # what the graph of the beginning saved is marked: it would keep the recording, and that the graph
        for recording in recordings:
            recording.cuts.clear()


def _best_of_recorded(
    model: Callable, whole: WholeCourse, recordings: Ends, examples: torch.Tensor, limit: int
) -> tuple[WholeCourse | HoistedCourse, Ends | None]:
    values = whole.ends.values()
    parts = Ends(*(tuple(ends[i].detach().requires_grad_() for ends in values) for i in range(2)))

    def record(recording: Recording, end: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return recording.output(lambda points: whole.run(points, examples), end)

    outputs = _tried(lambda: Ends(*map(record, recordings, parts)))
    if outputs is None or not recordings.inputs.is_like(recordings.baselines):
        return whole, outputs
    images = any(cut.values.dim() == 4 for cut in recordings.inputs.cuts.values())
    for channels_last in (True, False) if images else (False,):
        course = HoistedCourse(model, whole.run, recordings, parts.inputs, channels_last)
        if _is_right(course, whole, outputs.inputs, examples, limit):
            return course, outputs
    return whole, outputs


def _tried(attempt: Callable[[], Any]) -> Any:
    """None where an attempt fails: the model itself then says what is wrong, if anything is."""
    try:
        return attempt()
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a model raises that can not run so
        return None


def _is_right(
    course: HoistedCourse, whole: WholeCourse, output: torch.Tensor, examples: torch.Tensor, limit: int
) -> bool:
    """Whether the course gives the output that the model has in the middle of the paths; and, in the same pass, at
    their ends: some operations depend on how several rows lie in memory."""
    alphas = torch.tensor([0.5, 1.0] if limit >= 2 * len(examples) else [0.5], dtype=torch.float64).to(output.device)
    with torch.no_grad():
        expected = torch.cat([whole.output(slice(None), alphas[:1], examples)[0], output])
        found = _tried(lambda: course.output(slice(None), alphas, examples.repeat(len(alphas)))[0])
    if found is None or found.dtype != expected.dtype or found.shape[1:] != expected.shape[1:]:
        return False
    expected = expected[: len(found)]
    finite = expected[expected.isfinite()]
    scale = finite.abs().amax().item() if finite.numel() else 0.0
    precision = max(_AGREE, 8 * torch.finfo(expected.dtype).eps)
    return torch.allclose(found, expected, rtol=precision, atol=precision * scale, equal_nan=True)


class WholeCourse:
    """The model run as it is, from its inputs."""

    def __init__(self, run: Run, values: tuple[torch.Tensor, ...], baselines: tuple[torch.Tensor, ...]):
        self.run = run
        self.ends = dict(enumerate(Ends(*pair) for pair in zip(values, baselines, strict=True)))

    def output(self, chosen: slice, alphas: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, list[Leaf]]:
        """The output at every alpha for the chosen examples, and its leaves. `rows`: the example of each row."""
        leaves = [Leaf(key, _points(ends, chosen, alphas), False) for key, ends in self.ends.items()]
        return self.run(copies([leaf.points for leaf in leaves]), rows), leaves

    def pull_back(self, sums: dict[int, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return tuple(sums.values())


class HoistedCourse:
    """The model without its affine beginning."""

    def __init__(
        self,
        model: Callable,
        run: Run,
        recordings: Ends,
        parts: tuple[torch.Tensor, ...],
        channels_last: bool,
    ):
        self._model, self._run, self._steps, self._parts = model, run, recordings.inputs.steps, parts
        self._edges = {key: cut.edge for key, cut in recordings.inputs.cuts.items()}
        self.ends = {
            key: Ends(*(_laid_out(recording.cuts[key].values, channels_last) for recording in recordings))
            for key in recordings.inputs.cuts
        }

    def output(self, chosen: slice, alphas: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, list[Leaf]]:
        leaves: list[Leaf] = []

        def points(key: int, relu: bool) -> torch.Tensor:
            leaves.append(Leaf(key, _points(self.ends[key], chosen, alphas, relu), relu))
            return leaves[-1].points

        replay = Replay(self._model, self._steps, points)
        return replay.output(lambda parts: self._run(parts, rows), self._parts, len(rows)), leaves

    def pull_back(self, sums: dict[int, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Gradients with respect to the inputs from those at the cuts; the beginning's are the same all along."""
        edges = [self._edges[key] for key in sums]
        at_cuts = [part.to(self.ends[key].inputs.dtype).contiguous() for key, part in sums.items()]
        grads = torch.autograd.grad(edges, self._parts, at_cuts, retain_graph=True, allow_unused=True)
        return tuple(torch.zeros_like(p) if g is None else g for g, p in zip(grads, self._parts, strict=True))


def _points(ends: Ends, chosen: slice, alphas: torch.Tensor, relu: bool = False) -> torch.Tensor:
    return ops.path_points(ends.inputs[chosen], ends.baselines[chosen], alphas, relu=relu).requires_grad_()


def _laid_out(values: torch.Tensor, channels_last: bool) -> torch.Tensor:
    is_images = channels_last and values.dim() == 4
    return values.contiguous(memory_format=torch.channels_last if is_images else torch.contiguous_format)
