"""What an ablation found: counts by class, the drops of accuracy that follow, and how to write them down."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch


class ClassDrop(NamedTuple):
    """What a class loses without some units: `drop` of its accuracy."""

    units: tuple[int, ...]
    name: str
    drop: float


@dataclass
class Ablation:
    """The result of `unit_ablation` for n_sets sets of units of a layer and K classes.

    units            what was ablated: n_sets tuples of units, each in order
    classes          K names
    images           int64 [K]            images of each class
    correct          int64 [K]            of these, recognised by the whole network
    correct_without  int64 [n_sets, K]    of these, recognised without each set of units

    Counts of disjoint parts of the data add up: see `merge`.
    """

    layer: str
    units: list[tuple[int, ...]]
    classes: list[str]
    images: torch.Tensor
    correct: torch.Tensor
    correct_without: torch.Tensor

    @property
    def accuracy(self) -> torch.Tensor:
        """float64 [K]: the share of each class's images that is recognised; NaN for a class without images."""
        return self.correct / self.images.double()

    @property
    def accuracy_without(self) -> torch.Tensor:
        """float64 [n_sets, K]: the same without each set of units."""
        return self.correct_without / self.images.double()

    @property
    def drop(self) -> torch.Tensor:
        """float64 [n_sets, K]: accuracy - accuracy_without, negative where a class is recognised better without."""
        return (self.correct - self.correct_without) / self.images.double()

    @property
    def overall_drop(self) -> torch.Tensor:
        """float64 [n_sets]: the drop of the accuracy over all images."""
        return (self.correct.sum() - self.correct_without.sum(1)) / self.images.sum().double()

    def most_hurt(self, unit: int | Sequence[int], n: int = 5) -> list[ClassDrop]:
        """The n classes that lose most without a unit (or a set of units), largest drop first; ties go to the first
        class. Classes without images are left out. ValueError for units that were not ablated."""
        members = (unit,) if isinstance(unit, int) else tuple(sorted(unit))
        if members not in self.units:
            raise ValueError(f"unit is {unit!r}; it must be one of the {len(self.units)} items of units")
        drops = self.drop[self.units.index(members)].tolist()
        return self._largest([ClassDrop(members, *pair) for pair in zip(self.classes, drops, strict=True)], n)

    def most_important(self, name: str, n: int = 5) -> list[ClassDrop]:
        """The n units (or sets) without which a class loses most, largest drop first; ties go to the first set.
        ValueError for an unknown class."""
        if name not in self.classes:
            raise ValueError(f"name is {name!r}; the classes are {', '.join(self.classes)}")
        drops = self.drop[:, self.classes.index(name)].tolist()
        return self._largest([ClassDrop(units, name, drop) for units, drop in zip(self.units, drops, strict=True)], n)

    @staticmethod
    def _largest(found: list[ClassDrop], n: int) -> list[ClassDrop]:
        return sorted((one for one in found if one.drop == one.drop), key=lambda one: -one.drop)[:n]  # without NaN

    def merge(self, other: Ablation) -> Ablation:
        """The ablation over both parts of the data. ValueError where layer, units or classes differ."""
        for name in ("layer", "units", "classes"):
            if getattr(self, name) != getattr(other, name):
                raise ValueError(f"other has another {name}: {getattr(other, name)!r}, not {getattr(self, name)!r}")
        counts = ("images", "correct", "correct_without")
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in counts})

    def summary(self, best: int = 8) -> str:
        """A few lines: the accuracy, and the units (or sets) whose loss costs one class most, with that class."""
        total, right = int(self.images.sum()), int(self.correct.sum())
        lines = [
            f"{self.layer}: {len(self.units)} ablations, {len(self.classes)} classes, {total} images, "
            f"{right / total:.1%} recognised"
        ]
        worst, where = self.drop.nan_to_num(-1).max(dim=1)
        if not (worst > 0).any():
            lines.append("    no class loses anything")
        for i in (i for i in worst.argsort(descending=True, stable=True)[:best].tolist() if worst[i] > 0):
            k = int(where[i])
            change = f"{self.classes[k]} {self.accuracy[k]:.1%} to {self.accuracy_without[i, k]:.1%}"
            left = int(self.correct_without[i].sum())
            overall = f"{right / total:.1%} to {left / total:.1%}"
            lines.append(f"    without {_named(self.units[i])}: {change}, overall {overall}")
        return "\n".join(lines)

    def rows(self) -> list[dict]:
        """One row for each set of units and class: units, class, images, correct, correct_without, drop."""
        names = ("units", "class", "images", "correct", "correct_without", "drop")
        of_classes = [self.classes, self.images.tolist(), self.correct.tolist()]
        of_sets = zip(self.units, self.correct_without.tolist(), self.drop.tolist(), strict=True)
        return [
            dict(zip(names, (" ".join(map(str, units)), *row), strict=True))
            for units, without, drops in of_sets
            for row in zip(*of_classes, without, drops, strict=True)
        ]

    def to_csv(self, path: str | os.PathLike) -> Path:
        """Write `rows()` as a table and return the path; FileExistsError if it exists."""
        path = Path(path)
        rows = self.rows()
        with path.open("x", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        return path


def _named(units: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, units[:6])) + (", ..." if len(units) > 6 else "")
    return f"unit {shown}" if len(units) == 1 else f"units {shown}"
