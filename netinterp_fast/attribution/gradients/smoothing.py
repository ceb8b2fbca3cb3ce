"""Attributions averaged over noisy copies of the input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from ... import ops
from ..._numbers import check_counts, check_seed
from ...ops._checks import real_dtype
from ..targets import AnyTarget, class_targets
from .explained import Explained, Inputs, checked_inputs, copies, rows_of
from .saliency import saliency

KINDS = {"mean": ("signed",), "square": ("square",), "variance": ("signed", "square")}  # and the moments they need
_NOISE = 0.15  # of the range of an example's values; the paper finds 0.1 to 0.2 best
_COPIES = 16  # at once


def smoothgrad(
    model: Callable,
    inputs: Inputs,
    target: AnyTarget = None,
    *,
    samples: int = 50,
    sigma: float | torch.Tensor | tuple | None = None,
    seed: int = 0,
    method: Callable = saliency,
    kind: str = "mean",
    batch_size: int = _COPIES,
    progress: bool = False,
    **arguments: Any,
) -> Inputs:
    """The mean of a method's attributions over copies of the input with Gaussian noise (Smilkov et al., "SmoothGrad",
    2017); of their squares (Hooker et al., NeurIPS 2019), or their variance, VarGrad (Adebayo et al., 2018).

    Args:
        model, inputs, target: as for `saliency`. With None as target each example's largest output without noise is
            explained in all its copies.
        samples: copies of each example.
        sigma: standard deviation of the noise: a number, a tensor [B], one for each example, or a tuple of these, one
            for each tensor of the inputs. None: 0.15 of the range of each example's values.
        seed: of the noise, which is the same on every device and however the work is split.
        method: a function like `saliency`, such as `integrated_gradients`; `arguments` go to it. Tensors with B entries
            among `additional_forward_args` and `baseline` go with the examples.
        kind: "mean", "square" or "variance" (divided by the number of samples).
        batch_size: noisy copies at once.
        progress: show a progress bar.

    Returns:
        A tensor of the shape of the inputs (or of the layer's output), or a tuple of them.

    Raises:
        TypeError, ValueError: for arguments that do not fit.
    """
    parts = checked_inputs(inputs)
    batch = len(parts[0])
    check_counts(samples=samples, batch_size=batch_size)
    check_seed(seed)
    _check(kind, method, arguments)
    sigmas = _sigmas(sigma, parts)
    target = resolved_target(model, inputs, target, arguments.get("additional_forward_args"))
    moments = {value: Means(batch, samples, value) for value in KINDS[kind]}
    origin: tuple[torch.Tensor, ...] = ()
    with tqdm(total=samples * batch, desc="smoothgrad", unit="copy", disable=not progress) as bar:
        for share in shares(batch, samples, batch_size):
            rows = share.rows(parts[0].device)
            noisy = noisy_copies(parts, sigmas, seed, share)
            attribution = method(
                model, noisy if isinstance(inputs, tuple) else noisy[0], _repeated_target(target, rows, batch),
                **_repeated(arguments, rows, batch),
            )  # fmt: skip
            found = attribution if isinstance(attribution, tuple) else (attribution,)
            if kind == "variance":
                found, origin = _shifted(found, origin, share)
            for of_value in moments.values():
                of_value.add(found, share.examples)
            bar.update(len(rows))
    results = tuple(
        (of[0] if len(of) == 1 else of[1] - of[0] ** 2).to(parts[0].dtype)
        for of in zip(*(of_value.sums for of_value in moments.values()), strict=True)
    )
    return results if isinstance(attribution, tuple) else results[0]


def _check(kind: object, method: object, arguments: dict) -> None:
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}")
    if not callable(method):
        raise TypeError(f"method is {method!r}; it must be a function such as saliency")
    if arguments.get("targets") is not None:
        raise ValueError("targets is given; smoothgrad explains one target, call it once for each")
    if arguments.get("return_info"):
        raise ValueError("return_info is True; smoothgrad averages attributions alone")


class Share(NamedTuple):
    """Some samples of some examples."""

    examples: slice
    first: int
    samples: int

    def rows(self, device: torch.device) -> torch.Tensor:
        """The example of each row, LongTensor [samples * examples]: all examples for one sample after another."""
        return torch.arange(self.examples.start, self.examples.stop, device=device).repeat(self.samples)


def shares(batch: int, samples: int, size: int) -> Iterator[Share]:
    """All samples of all examples, in shares of `size` at most."""
    together = max(min(batch, size), 1)
    count = size // together
    for start in range(0, max(batch, 1), together):  # also the one share of an empty batch
        for first in range(0, samples, count):
            yield Share(slice(start, min(start + together, batch)), first, min(count, samples - first))


def noisy_copies(
    parts: tuple[torch.Tensor, ...], sigmas: list[torch.Tensor], seed: int, share: Share
) -> tuple[torch.Tensor, ...]:
    """A share's copies of the inputs, each tensor of them with noise of a seed of its own."""
    return tuple(
        ops.noise_points(
            part[share.examples], sigma[share.examples], (seed + i) % 2**64, share.samples,
            first_sample=share.first, first_example=share.examples.start,
        )
        for i, (part, sigma) in enumerate(zip(parts, sigmas, strict=True))
    )  # fmt: skip


def _shifted(found: tuple, origin: tuple, share: Share) -> tuple[tuple, tuple]:
    """Attributions less those of each example's first copy, which leaves their variance and takes what would cancel in
    it; and those of the first copies, of which `origin` are the examples' so far."""
    n = share.examples.stop - share.examples.start
    if share.first == 0:
        origin = tuple(part[:n].clone() for part in found)
    return tuple(part - first.repeat(share.samples, *[1] * (part.dim() - 1)) for part, first in
                 zip(found, origin, strict=True)), origin  # fmt: skip


class Means:
    """Means over the samples of values, absolute values or squares (see `ops.path_accumulate`) of attributions."""

    def __init__(self, batch: int, samples: int, value: str = "signed"):
        self._batch, self._weight, self._value = batch, 1 / samples, value
        self.sums: list[torch.Tensor] = []  # by attributed tensor, [batch, ...]

    def add(self, parts: tuple[torch.Tensor, ...], examples: slice) -> None:
        """Add the attributions of a share, [samples * examples, ...]."""
        if not self.sums:
            self.sums = [self._zeros(part) for part in parts]
        for part, sums in zip(parts, self.sums, strict=True):
            steps = len(part) // max(examples.stop - examples.start, 1)
            weights = torch.full((steps,), self._weight, dtype=torch.float64, device=part.device)
            ops.path_accumulate(part, weights, sums[examples], value=self._value)

    def _zeros(self, part: torch.Tensor) -> torch.Tensor:
        return torch.zeros((self._batch, *part.shape[1:]), dtype=real_dtype(part.dtype), device=part.device)


def _sigmas(sigma: Any, parts: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """Standard deviations [B] for each tensor of the inputs."""
    given = sigma if isinstance(sigma, tuple) else (sigma,) * len(parts)
    if len(given) != len(parts):
        raise ValueError(f"sigma has {len(given)} entries; it must have {len(parts)}, one for each tensor of inputs")
    return [
        _NOISE * _range(part) if one is None else by_example(one, part) for one, part in zip(given, parts, strict=True)
    ]


def _range(part: torch.Tensor) -> torch.Tensor:
    flat = part.flatten(1) if part.dim() > 1 else part[:, None]
    flat = torch.where(flat.isfinite(), flat, 0)
    return (flat.amax(1) - flat.amin(1)).to(real_dtype(part.dtype))


def by_example(sigma: Any, part: torch.Tensor) -> torch.Tensor:
    """A standard deviation for each example, [B], from a number or such a tensor."""
    if isinstance(sigma, torch.Tensor) and sigma.dim() > 0:
        return sigma  # its shape is checked with the noise
    if isinstance(sigma, bool) or not isinstance(sigma, (int, float, torch.Tensor)):
        raise TypeError(f"sigma is {sigma!r}; it must be a number, a tensor [B] or a tuple of these")
    return torch.full((len(part),), float(sigma), dtype=torch.float64, device=part.device)


def resolved_target(model: Callable, inputs: Inputs, target: AnyTarget, additional_forward_args: Any) -> AnyTarget:
    """None as the class of each example's largest output."""
    if target is not None:
        return target
    explained = Explained(model, inputs, additional_forward_args)
    with torch.no_grad():
        output = explained.output(copies(explained.inputs), explained.everyone)
    return None if output.numel() == len(output) else class_targets(output, None)


def _repeated_target(target: AnyTarget, rows: torch.Tensor, batch: int) -> AnyTarget:
    if isinstance(target, list) and len(target) == batch:
        return [target[i] for i in rows.tolist()]
    return rows_of(target, rows, batch)


def _repeated(arguments: dict, rows: torch.Tensor, batch: int) -> dict:
    """The method's arguments, those that have an entry an example repeated as the rows are."""
    result = dict(arguments)
    for name in ("additional_forward_args", "baseline"):
        value = arguments.get(name)
        if isinstance(value, tuple):
            result[name] = tuple(rows_of(one, rows, batch) for one in value)
        elif value is not None:
            result[name] = rows_of(value, rows, batch)
    return result
