"""Adversarial arguments of the raw ops path_points, path_accumulate and noise_points, on the CPU."""

from __future__ import annotations

from typing import NamedTuple

import torch

PATH_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INF, NAN = float("inf"), float("nan")


class Points(NamedTuple):
    """The arguments of `path_points`, in order."""

    inputs: torch.Tensor
    baseline: torch.Tensor
    alphas: torch.Tensor
    relu: bool = False


class Sums(NamedTuple):
    """The arguments of `path_accumulate`, in order."""

    grads: torch.Tensor
    gate: torch.Tensor | None
    weights: torch.Tensor
    value: int
    out: torch.Tensor

    def fresh(self) -> Sums:
        """Its own `out`, as the op adds to it."""
        return self._replace(out=self.out.clone())


class Noise(NamedTuple):
    """The arguments of `noise_points`, in order."""

    inputs: torch.Tensor
    sigma: torch.Tensor
    seed: int = 0
    samples: int = 1
    first_sample: int = 0
    first_example: int = 0


def real(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _gaussian(seed: int):
    random = torch.Generator().manual_seed(seed)
    return lambda dtype, *shape: torch.randn(*shape, generator=random, dtype=torch.float64).to(dtype)


def _specials(dtype: torch.dtype) -> torch.Tensor:
    limits = torch.finfo(dtype)
    numbers = [0.0, 0.1, 1.0, limits.max, limits.tiny, limits.smallest_normal / 4, INF]
    return torch.tensor([*numbers, *(-number for number in numbers), NAN], dtype=dtype)


# [K, B or 1], [B, N]: sizes round those of vectors, rows that begin off an aligned address, and none at all.
SHAPES = {
    "typical": (5, 1, 3, 40),
    "by example": (4, 3, 3, 40),
    "by example, odd size": (3, 2, 2, 37),
    "one step": (1, 1, 2, 9),
    "one number": (1, 1, 1, 1),
    "one example": (6, 1, 1, 65),
    "size 1": (3, 5, 5, 1),
    "odd steps": (9, 1, 2, 31),
    "more than a grid": (2, 2, 2, 2503),
    "longer than a run": (2, 1, 2, 4100),
    "no steps": (0, 1, 2, 3),
    "no examples": (3, 1, 0, 3),
    "no examples, by example": (3, 0, 0, 3),
    "empty examples": (3, 2, 2, 0),
}


def point_cases(dtype: torch.dtype) -> dict[str, Points]:
    gaussian = _gaussian(11)

    def case(steps, width, examples, size, relu=False):
        inputs, baseline = gaussian(dtype, 2, examples, size)
        return Points(inputs, baseline, gaussian(real(dtype), steps, width), relu)

    specials = torch.stack([t.flatten() for t in torch.meshgrid([_specials(dtype)] * 2, indexing="ij")])
    every_alpha = _specials(real(dtype)).unsqueeze(1)
    offset = case(3, 1, 1, 4097)
    return {
        **{name: case(*shape) for name, shape in SHAPES.items()},
        "relu": case(5, 1, 3, 40, relu=True),
        "relu by example": case(3, 2, 2, 37, relu=True),
        "specials": Points(specials[:1], specials[1:], every_alpha),
        "specials, relu": Points(specials[:1], specials[1:], every_alpha, True),
        "not aligned": offset._replace(inputs=offset.inputs[:, 1:], baseline=offset.baseline[:, 1:].clone()),
    }


def sum_cases(dtype: torch.dtype) -> dict[str, Sums]:
    gaussian = _gaussian(12)

    def case(steps, width, examples, size, gated=False, value=0):
        grads, gate = gaussian(dtype, 2, steps * examples, size)
        gate[:, ::3] = 0
        out = gaussian(real(dtype), examples, size)
        return Sums(grads, gate if gated else None, gaussian(real(dtype), steps, width), value, out)

    specials = _specials(dtype)
    grads, gate, out = (t.reshape(1, -1) for t in torch.meshgrid([specials] * 3, indexing="ij"))
    n = len(specials)
    special = Sums(grads.repeat(n, 1), gate.repeat(n, 1), _specials(real(dtype)).unsqueeze(1), 0, out.to(real(dtype)))
    offset = case(3, 1, 1, 4097)
    return {
        **{name: case(*shape) for name, shape in SHAPES.items()},
        "absolute": case(5, 1, 3, 40, value=1),
        "square": case(5, 3, 3, 37, value=2),
        "gated": case(5, 1, 3, 40, gated=True),
        "gated, absolute": case(5, 1, 3, 41, gated=True, value=1),
        "gated, square": case(5, 1, 3, 4100, gated=True, value=2),
        **{f"specials, value {value}": special._replace(value=value) for value in range(3)},
        "specials without gate": special._replace(gate=None),
        "not aligned": Sums(offset.grads[:, 1:].contiguous(), None, offset.weights, 0, offset.out[:, 1:]),
    }


def noise_cases(dtype: torch.dtype) -> dict[str, Noise]:
    gaussian = _gaussian(13)

    def case(examples, size, *rest):
        return Noise(gaussian(dtype, examples, size), gaussian(real(dtype), examples).abs(), *rest)

    specials = _specials(dtype).unsqueeze(0)
    offset = case(1, 4097, 5, 2)
    return {
        "typical": case(3, 40, 1234567890123, 3),
        "odd size": case(3, 37, -1, 3),
        **{f"size {size}": case(2, size, 99, 2) for size in (1, 2, 3, 4, 5, 63, 64, 65)},
        "longer than a run": case(2, 1500, 7, 2),
        "more than a grid": case(1, 5003, -(2**63), 1),
        "last numbers": case(3, 21, 2**63 - 1, 2, 2**32 - 2, 2**32 - 3),
        "sigma 0": Noise(gaussian(dtype, 2, 9), torch.tensor([0.0, 2.0], dtype=real(dtype)), 1, 2),
        "specials": Noise(specials, torch.ones(1, dtype=real(dtype)), 3, 4),
        "not aligned": offset._replace(inputs=offset.inputs[:, 1:]),
        "no samples": case(2, 3, 1, 0),
        "no examples": case(0, 3, 1, 2),
        "empty examples": case(2, 0, 1, 2),
    }
