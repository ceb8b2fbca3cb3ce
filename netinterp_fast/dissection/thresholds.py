"""Exact activation thresholds from a stream: the quantile of all values of a unit, without keeping them."""

from __future__ import annotations

from fractions import Fraction

import torch

from ..ops import top_quantile_update

_NONE = float("-inf")


def exact_fraction(quantile: float | Fraction | str) -> Fraction:
    """The decimal value as written: 0.29 is 29/100, although the double nearest to it is a little less."""
    try:
        fraction = Fraction(str(quantile))
    except ValueError:  # not a number
        fraction = None
    if fraction is None or not 0 <= fraction < 1:
        raise ValueError(f"quantile is {quantile}; it must be in [0, 1)")
    return fraction


class TopQuantile:
    """T_k for every unit: of its N values in descending order the one at index floor(q N).

    So at most a fraction q of the values is strictly above T_k. Exact, and the same for any order of the batches and
    any split into parts that are merged. Each unit keeps its m = floor(q N) + 1 largest values; once it has seen
    more, what lies at or below the m-th largest cannot matter any more and is passed over at the speed of a compare.

    Args:
        n_units: C.
        quantile: q in [0, 1), taken at its decimal value; a `Fraction` is taken as it is.
        n_values: N, how many values of each unit will be seen in all (images x height x width).
        device: where the activations will be.
        byte_budget: refuse (`ValueError`) when the 8 m bytes a unit would need more in all.
    """

    def __init__(
        self,
        n_units: int,
        quantile: float | Fraction,
        n_values: int,
        *,
        device: torch.device | str = "cpu",
        byte_budget: int = 8 * 2**30,
    ):
        if n_units < 0 or n_values < 1:
            raise ValueError(f"n_units is {n_units}, n_values is {n_values}; they must be at least 0 and 1")
        self.quantile = exact_fraction(quantile)
        self.n_units, self.n_values, self.seen = n_units, n_values, 0
        self.keep = int(self.quantile * n_values) + 1
        needed = 8 * self.keep * n_units
        if needed > byte_budget:
            raise ValueError(
                f"exact thresholds of {n_units} units at quantile {float(self.quantile):g} of {n_values} values need "
                f"{needed:,} bytes, more than byte_budget {byte_budget:,}; take a smaller quantile, fewer units at a "
                "time, or a larger byte_budget"
            )
        self._buffer = torch.empty((n_units, 2 * self.keep), dtype=torch.float32, device=device)
        self._count = torch.zeros(n_units, dtype=torch.int64, device=device)
        self._bound = torch.full((n_units,), _NONE, dtype=torch.float32, device=device)

    def update(self, acts: torch.Tensor) -> torch.Tensor:
        """Add acts [B, C, h, w] (float32, float16 or bfloat16); return each unit's maximum on each image, [B, C].

        +-inf are ordinary values. Raises ValueError for NaN, naming image and unit, and for more than N values; the
        state is then as before.
        """
        n_new = acts.shape[0] * acts.shape[2] * acts.shape[3] if acts.dim() == 4 else 0
        if self.seen + n_new > self.n_values:
            raise ValueError(f"acts brings {n_new} values a unit to the {self.seen} seen; n_values is {self.n_values}")
        maxima = top_quantile_update(acts, self.keep, self._buffer, self._count, self._bound)
        if maxima.isnan().any():
            image, unit = maxima.isnan().nonzero()[0].tolist()
            raise ValueError(f"acts[{image}, {unit}] has a NaN; activations must be numbers")
        self.seen += n_new
        return maxima

    def _largest(self, n: int, *others: TopQuantile) -> torch.Tensor:
        """The n largest values held, float32 [C, n], in no order; -inf where fewer are held."""
        held = [torch.where(self._in_use(part), part._buffer, _NONE) for part in (self, *others)]
        return torch.cat([values.to(self._buffer.device) for values in held], dim=1).topk(n, dim=1, sorted=False).values

    @staticmethod
    def _in_use(part: TopQuantile) -> torch.Tensor:
        slots = torch.arange(part._buffer.shape[1], device=part._buffer.device)
        return slots < part._count[:, None]

    def merge(self, other: TopQuantile) -> TopQuantile:
        """Add what `other` has seen, a part of the same data that this one has not; in place, returns self."""
        for field in ("n_units", "quantile", "n_values"):
            if getattr(self, field) != getattr(other, field):
                raise ValueError(f"cannot merge: {field} is {getattr(self, field)} here, {getattr(other, field)} there")
        if self.seen + other.seen > self.n_values:
            raise ValueError(f"cannot merge: {self.seen} + {other.seen} values seen, n_values is {self.n_values}")
        self.seen += other.seen
        kept = min(self.keep, self.seen)
        self._buffer[:, :kept] = self._largest(kept, other)
        self._count.fill_(kept)
        if kept == self.keep:
            self._bound.copy_(self._buffer[:, :kept].amin(1))
        return self

    def bounds(self) -> torch.Tensor:
        """What the thresholds will be at least, by the values seen so far: float32 [C]."""
        return self._bound.clone()

    def thresholds(self) -> torch.Tensor:
        """T_k, float32 [C]. ValueError before all N values were seen."""
        if self.seen != self.n_values:
            raise ValueError(f"thresholds are not final: {self.seen} of {self.n_values} values a unit were seen")
        return self._largest(self.keep).amin(1) + 0.0  # no -0.0: which zero is at the index depends on the order

    def state_dict(self) -> dict[str, torch.Tensor | int | str]:
        """The state as tensors and plain values; what is not needed any more is left out."""
        kept = min(self.keep, self.seen)
        return {
            "largest": self._largest(kept),
            "seen": self.seen,
            "n_units": self.n_units,
            "n_values": self.n_values,
            "quantile": str(self.quantile),
        }

    def load_state_dict(self, state: dict) -> None:
        """Take over a state saved from an object with the same n_units, quantile and n_values."""
        mine = {"n_units": self.n_units, "n_values": self.n_values, "quantile": str(self.quantile)}
        for field, value in mine.items():
            if state[field] != value:
                raise ValueError(f"the state has {field} {state[field]}; here it is {value}")
        largest = state["largest"].to(self._buffer)
        kept = min(self.keep, state["seen"])
        if tuple(largest.shape) != (self.n_units, kept):
            raise ValueError(f"the state's values have shape {list(largest.shape)}, not {[self.n_units, kept]}")
        self.seen = state["seen"]
        self._buffer[:, :kept] = largest
        self._count.fill_(kept)
        self._bound.fill_(_NONE)
        if kept == self.keep:
            self._bound.copy_(largest.amin(1))
