"""Integrated gradients averaged over baselines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tqdm import tqdm

from ... import ops
from ..._numbers import check_counts, check_seed
from ..gradients.explained import Explained, Inputs, checked_inputs, copies, gradients_of, gradients_on
from ..gradients.smoothing import Means, by_example, noisy_copies, resolved_target, shares
from ..targets import AnyTarget, selection


def expected_gradients(
    model: Callable,
    inputs: Inputs,
    target: AnyTarget = None,
    *,
    baselines: Inputs,
    samples: int = 50,
    sigma: float = 0.0,
    seed: int = 0,
    additional_forward_args: Any = None,
    multiply_by_inputs: bool = True,
    batch_size: int = 16,
    progress: bool = False,
) -> Inputs:
    """(x - x') times the gradient at a random point between them, averaged over random baselines x' (Erion et al.,
    "Improving performance of deep learning models with axiomatic attribution priors and expected gradients", 2021).
    With noise, that is gradient SHAP (Lundberg and Lee, 2017).

    Args:
        model, inputs, target, additional_forward_args: as for `saliency`.
        baselines: the distribution to draw from: a tensor [N, ...], or a tuple of them, one for each tensor of the
            inputs, drawn from together.
        samples: points for each example.
        sigma: standard deviation of Gaussian noise that is added to the input of each sample.
        seed: of the draws.
        multiply_by_inputs: False averages the gradients alone.
        batch_size: points at once.
        progress: show a progress bar.

    Returns:
        A tensor of the shape of the inputs, or a tuple of them.

    Raises:
        TypeError, ValueError: for arguments that do not fit.
    """
    explained = Explained(model, inputs, additional_forward_args)
    references = _checked_distribution(baselines, explained.inputs)
    check_counts(samples=samples, batch_size=batch_size)
    check_seed(seed)
    target = resolved_target(model, inputs, target, additional_forward_args)
    chosen, alphas = _draws(len(references[0]), samples, explained, seed)
    sigmas = [by_example(sigma, part) for part in explained.inputs]
    means = Means(explained.batch, samples)
    with tqdm(total=samples * explained.batch, desc="expected gradients", unit="point", disable=not progress) as bar:
        for share in shares(explained.batch, samples, batch_size):
            rows = share.rows(explained.everyone.device)
            drawn = slice(share.first, share.first + share.samples), share.examples
            ends = noisy_copies(explained.inputs, sigmas, seed, share)
            starts = tuple(part[chosen[drawn].flatten()] for part in references)
            grads = _gradients(explained, ends, starts, alphas[drawn].reshape(1, -1), rows, target)
            if multiply_by_inputs:
                grads = [(x - b) * g for x, b, g in zip(ends, starts, grads, strict=True)]
            means.add(tuple(grads), share.examples)
            bar.update(len(rows))
    return explained.formatted([mean.to(part.dtype) for mean, part in zip(means.sums, explained.inputs, strict=True)])


def _checked_distribution(baselines: object, parts: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    found = checked_inputs(baselines, "baselines")
    if len(found) != len(parts) or any(b.shape[1:] != x.shape[1:] for b, x in zip(found, parts, strict=True)):
        shapes, expected = [list(b.shape) for b in found], [["N", *x.shape[1:]] for x in parts]
        raise ValueError(f"baselines has shapes {shapes}; they must be {expected}, as the inputs")
    if not len(found[0]):
        raise ValueError("baselines is empty; there must be at least one to draw")
    return tuple(b.to(x) for b, x in zip(found, parts, strict=True))


def _draws(n: int, samples: int, explained: Explained, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The baseline and the place on the path of each sample of each example, [samples, B]: the same on any device."""
    generator = torch.Generator().manual_seed(seed)
    shape, device = (samples, explained.batch), explained.everyone.device
    chosen = torch.randint(n, shape, generator=generator)
    return chosen.to(device), torch.rand(shape, generator=generator, dtype=torch.float64).to(device)


def _gradients(
    explained: Explained, ends: tuple, starts: tuple, alphas: torch.Tensor, rows: torch.Tensor, target: AnyTarget
) -> list[torch.Tensor]:
    with gradients_on():
        points = [
            ops.path_points(x, b, alphas.expand(1, len(x))).requires_grad_() for x, b in zip(ends, starts, strict=True)
        ]
        output = explained.output(copies(points), rows)
        return gradients_of(output, rows, [selection(target, output, rows, explained.batch)], points)[0]
