"""The questions of a dissection: each asks about one layer of a model, in one basis, on one tail, at one quantile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby, product

import torch

from .._layers import evaluating
from .bases import UNITS, Basis, BasisItem, bases_of, number
from .conventions import Convention
from .recording import Recording, full_name

TAILS = {"upper": ("upper",), "lower": ("lower",), "both": ("upper", "lower")}


@dataclass(frozen=True)
class Probe:
    """One entry of a dissection's result.

    key              its name in the result: the layer's name for the plain question, else "layer6 | rotation 0.9",
                     "layer6 | lower", "layer6 | q 0.01" and so on; of one model of several "epoch 3/layer6"
    model, layer     whose maps are dissected; a model alone has the name ""
    basis            what is made of them
    tail             "upper", or "lower": the negated maps
    quantile         q as it was asked for
    exact_quantile   the fraction of values above T
    """

    key: str
    model: str
    layer: str
    basis: Basis
    tail: str
    quantile: float
    exact_quantile: Fraction

    def described(self) -> dict[str, str | float]:
        """What the result says of it, beside its key."""
        return {
            "model": self.model,
            "layer": self.layer,
            "basis": self.basis.name,
            "tail": self.tail,
            "quantile": self.quantile,
        }


def exact_quantiles(convention: Convention, quantile: float | Sequence[float] | None) -> dict[float, Fraction]:
    """Each q that is asked for, the convention's if none is, with the fraction of values above T."""
    asked = list(quantile) if isinstance(quantile, Sequence) and not isinstance(quantile, str) else [quantile]
    if not asked or len(set(asked)) != len(asked):
        raise ValueError(f"quantile is {quantile}; it must name at least one number, and none twice")
    rules = [convention if q is None else replace(convention, quantile=q) for q in asked]
    return {rule.quantile: rule.exact_quantile() for rule in rules}


def expand(
    models: Iterable[str],
    layers: Sequence[str],
    basis: BasisItem | Sequence[BasisItem],
    tail: str,
    quantiles: Mapping[float, Fraction],
) -> dict[str, Probe]:
    """A probe for each model, layer, basis, tail and quantile, in this order, by key.

    quantiles: for each q its exact value; the first of them is left out of the keys. ValueError where two probes would
    have one key, and see `bases_of`.
    """
    if tail not in TAILS:
        raise ValueError(f"tail is {tail!r}; it must be one of {', '.join(TAILS)}")
    bases = bases_of(layers, basis)
    questions = (
        (model, layer, *rest)
        for model, layer in product(models, layers)
        for rest in product(bases[layer], TAILS[tail], quantiles)
    )
    probes: dict[str, Probe] = {}
    for model, layer, one, side, q in questions:
        key = _key(full_name(model, layer), one, side, None if q == next(iter(quantiles)) else q)
        if key in probes:
            raise ValueError(f"two entries of the result would be called {key!r}; ask for each only once")
        probes[key] = Probe(key, model, layer, one, side, float(q), quantiles[q])
    return probes


def _key(layer: str, basis: Basis, tail: str, quantile: float | None) -> str:
    """What is as in the plain question is left out, a quantile of None too."""
    parts = [layer]
    if basis.identity != UNITS:
        parts.append(basis.name)
    if tail != "upper":
        parts.append(tail)
    if quantile is not None:
        parts.append(f"q {number(quantile)}")
    return " | ".join(parts)


class ProbeRecording:
    """Runs models and hands the maps of each probe to a function: those of its layer, in its basis, on its tail.

    What probes have in common is computed once. Use as a context manager, like `Recording`; modules that are bases are
    in eval mode inside, too.
    """

    def __init__(self, recording: Recording, probes: Mapping[str, Probe]):
        self.models, self.layers, self.probes = recording.models, recording.layers, dict(probes)
        self.keys = list(probes)
        self._recording = recording
        self._of_layer: dict[tuple[str, str], list[Probe]] = {}
        for probe in self.probes.values():
            self._of_layer.setdefault((probe.model, probe.layer), []).append(probe)

    def __enter__(self) -> ProbeRecording:
        with ExitStack() as stack:
            for probe in self.probes.values():
                if probe.basis.module is not None:
                    stack.enter_context(evaluating(probe.basis.module))
            stack.enter_context(self._recording)
            self._left = stack.pop_all()
        return self

    def __exit__(self, *exception) -> None:
        self._left.close()

    def settings(self) -> dict:
        """What is asked, as JSON values: models by name, layers, bases, tails, quantiles and token grids."""
        probes = self.probes.values()
        named = [name for name in self.models if name]
        return ({"models": named} if named else {}) | {
            "layers": self.layers,
            "basis": _one_or_list(probe.basis.identity for probe in probes),
            "tail": next(name for name, tails in TAILS.items() if set(tails) == {probe.tail for probe in probes}),
            "quantile": _one_or_list(probe.quantile for probe in probes),
            "token_grid": {layer: list(grid) for layer, grid in self._recording.token_grid.items()},
        }

    def run(self, images: torch.Tensor, see: Callable[[str, torch.Tensor], None]) -> None:
        """Call see(key, maps) for every probe, maps [B, F, h, w], and see `Recording.run`."""
        self._recording.run(images, lambda model, layer, maps: self._see_layer(model, layer, maps, see))

    def _see_layer(self, model: str, layer: str, maps: torch.Tensor, see: Callable[[str, torch.Tensor], None]) -> None:
        for basis, in_basis in groupby(self._of_layer[model, layer], lambda probe: probe.basis):
            try:
                features = basis.transform(maps)
            except ValueError as error:
                raise ValueError(f"layer {full_name(model, layer)!r}, basis {basis.name!r}: {error}") from None
            for tail, on_tail in groupby(in_basis, lambda probe: probe.tail):
                side = -features if tail == "lower" else features
                for probe in on_tail:
                    see(probe.key, side)


def _one_or_list(values: Iterable) -> object:
    """The distinct values in order; alone, where there is one."""
    distinct = list(dict.fromkeys(values))
    return distinct if len(distinct) > 1 else distinct[0]
