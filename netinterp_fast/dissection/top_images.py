"""The images on which each unit is most active."""

from __future__ import annotations

import torch

_NONE = float("-inf")


class TopImages:
    """Keeps, for each of C units, the n images with the largest maxima and its maps there; ties go to the earlier
    image. Images come in ascending order, in parts that may be merged in any.
    """

    def __init__(self, n_units: int, n: int):
        self.n, self._n_units = n, n_units
        # Of each candidate: unit, image, maximum, and where in the pool its map is.
        self._unit, self._image, self._slot = (torch.zeros(0, dtype=torch.int64) for _ in range(3))
        self._value = torch.zeros(0)
        self._pool: torch.Tensor | None = None
        self._free = torch.zeros(0, dtype=torch.int64)
        self._least = torch.full((n_units,), _NONE if n else torch.inf)  # the n-th best value, once there are n
        self._short = torch.full((n_units,), n > 0)  # fewer than n are held

    def update(self, maxima: torch.Tensor, first_image: int, acts: torch.Tensor) -> set[int]:
        """maxima float32 [B, C] and acts [B, C, h, w] of the images from first_image on; returns those of the images
        that may be among the best of some unit."""
        maxima = maxima.cpu()
        candidates = self._short | (maxima > self._least)
        if 0 < self.n < maxima.shape[0]:
            candidates &= maxima >= maxima.topk(self.n, dim=0).values[-1]
        image, unit = candidates.nonzero(as_tuple=True)
        maps = acts[image.to(acts.device), unit.to(acts.device)].float().cpu()
        self._add(unit, image + first_image, maxima[image, unit], maps)
        return set((image.unique() + first_image).tolist())

    def _add(self, unit: torch.Tensor, image: torch.Tensor, value: torch.Tensor, maps: torch.Tensor) -> None:
        if self._pool is None:
            self._pool = maps.new_zeros((0, *maps.shape[1:]))
        if unit.numel() > self._free.numel():
            self._cut()
        if unit.numel() > self._free.numel():
            self._grow(unit.numel() - self._free.numel())
        slot, self._free = self._free.tensor_split([unit.numel()])
        self._pool[slot] = maps
        self._unit, self._image = torch.cat([self._unit, unit]), torch.cat([self._image, image])
        self._value, self._slot = torch.cat([self._value, value]), torch.cat([self._slot, slot])
        if self._short.any():
            self._cut()

    def _grow(self, missing: int) -> None:
        """Make room for more maps: as many again as the best take, at least."""
        old = self._pool.shape[0]
        more = max(missing, self.n * self._n_units)
        self._pool = torch.cat([self._pool, self._pool.new_zeros((more, *self._pool.shape[1:]))])
        self._free = torch.cat([self._free, torch.arange(old, old + more)])

    def _cut(self) -> None:
        """Keep each unit's best, unit by unit, best first."""
        order = self._image.argsort(stable=True)
        order = order[self._value[order].argsort(descending=True, stable=True)]
        order = order[self._unit[order].argsort(stable=True)]
        unit = self._unit[order]
        kept = torch.arange(unit.numel()) - torch.searchsorted(unit, unit) < self.n
        self._free = torch.cat([self._free, self._slot[order[~kept]]])
        order = order[kept]
        self._unit, self._image = self._unit[order], self._image[order]
        self._value, self._slot = self._value[order], self._slot[order]
        n_held = self._unit.bincount(minlength=self._n_units)
        self._short = n_held < self.n
        if self._unit.numel():
            last = self._value[(n_held.cumsum(0) - 1).clamp(min=0)]
            self._least = torch.where(self._short, _NONE, last)

    def held(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images int64 [C, m], their maxima float32 [C, m] and maps [C, m, h, w], best first, m <= n."""
        self._cut()
        m = self._unit.numel() // max(1, self._n_units)
        columns = (self._image, self._value, self._pool[self._slot])
        return tuple(column.unflatten(0, (self._n_units, m)) for column in columns)

    def images(self) -> set[int]:
        """Those that are among the best of some unit."""
        self._cut()
        return set(self._image.unique().tolist())

    def merge(self, images: torch.Tensor, values: torch.Tensor, maps: torch.Tensor) -> None:
        """Add what another part of the data held."""
        unit = torch.arange(self._n_units)[:, None].expand_as(images)
        self._add(unit.flatten(), images.flatten(), values.flatten(), maps.flatten(0, 1))

    def result(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images int64 [C, n], their maxima float32 [C, n] and maps [C, n, h, w], best first; padded with -1, -inf
        and 0."""
        images, values, maps = self.held()
        missing = self.n - images.shape[1]
        pad = torch.nn.functional.pad
        maps = pad(maps, (0, 0, 0, 0, 0, missing))
        return pad(images, (0, missing), value=-1), pad(values, (0, missing), value=_NONE), maps
