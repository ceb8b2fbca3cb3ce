"""The images on which each unit is most active."""

from __future__ import annotations

import torch

_MERGE_EVERY = 512  # images; sorting rarely costs less than sorting each batch


class TopImages:
    """Keeps, for each of C units, the n images with the largest maxima; ties go to the earlier image."""

    def __init__(self, n_units: int, n: int):
        self.n = n
        self._values = torch.empty((n_units, 0))
        self._images = torch.empty((n_units, 0), dtype=torch.int64)
        self._new: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._n_new = self._next = 0

    def update(self, maxima: torch.Tensor, first_image: int | None = None) -> None:
        """maxima float32 [B, C], of the B images from first_image on (None: the next ones), in data order."""
        first = self._next if first_image is None else first_image
        self._next = first + maxima.shape[0]
        self._new.append((torch.arange(first, self._next), maxima.cpu()))
        self._n_new += maxima.shape[0]
        if self._n_new >= _MERGE_EVERY:
            self._sort_in()

    def _sort_in(self) -> None:
        if not self._new:
            return
        images, maxima = (torch.cat(parts) for parts in zip(*self._new, strict=True))
        images = images.expand(self._images.shape[0], -1)
        self._keep(torch.cat([self._images, images], dim=1), torch.cat([self._values.T, maxima]).T)
        self._new, self._n_new = [], 0

    def _keep(self, images: torch.Tensor, values: torch.Tensor) -> None:
        """Keep the best of these; of equal values the earlier image comes first."""
        order = values.sort(dim=1, descending=True, stable=True).indices[:, : self.n]
        self._images, self._values = images.gather(1, order), values.gather(1, order)

    def held(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Images int64 [C, m] and their maxima float32 [C, m], best first, m <= n."""
        self._sort_in()
        return self._images, self._values

    def merge(self, images: torch.Tensor, values: torch.Tensor) -> None:
        """Add what another part of the data held."""
        images, values = (torch.cat(parts, dim=1) for parts in zip(self.held(), (images, values), strict=True))
        order = images.argsort(dim=1)
        self._keep(images.gather(1, order), values.gather(1, order))

    def result(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Images int64 [C, n] and their maxima float32 [C, n], best first; padded with -1 and -inf."""
        images, values = self.held()
        missing = self.n - images.shape[1]
        pad = torch.nn.functional.pad
        return pad(images, (0, missing), value=-1), pad(values, (0, missing), value=float("-inf"))


class TopMaps:
    """Collects the activation maps of the units on their top images, in a second pass over the data."""

    def __init__(self, top_images: torch.Tensor):
        self._shape = top_images.shape
        self._image, self._slot = top_images.flatten().sort()  # a batch's images are one stretch of these
        self._filled = torch.zeros(self._shape.numel(), dtype=torch.bool)
        self._maps: torch.Tensor | None = None

    def update(self, first_image: int, acts: torch.Tensor) -> None:
        """acts [B, C, h, w] of the images first_image, first_image + 1, ..."""
        n_images = acts.shape[0]
        bounds = torch.tensor([first_image, first_image + n_images])
        begin, end = torch.searchsorted(self._image, bounds).tolist()
        slot = self._slot[begin:end]
        image, unit = self._image[begin:end] - first_image, slot // max(self._shape[1], 1)
        self.merge(slot, acts[image.to(acts.device), unit.to(acts.device)].float().cpu())

    def held(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The slots filled so far, int64 [m], of the C n there are, and their maps float32 [m, h, w]."""
        slot = self._filled.nonzero()[:, 0]
        return slot, torch.zeros((0, 1, 1)) if self._maps is None else self._maps[slot]

    def merge(self, slot: torch.Tensor, maps: torch.Tensor) -> None:
        """Add slots that another part of the data filled."""
        if self._maps is None:
            self._maps = torch.zeros((self._shape.numel(), *maps.shape[1:]))
        self._maps[slot] = maps
        self._filled[slot] = True

    def result(self) -> torch.Tensor:
        """float32 [C, n, h, w]."""
        maps = torch.zeros((0, 1, 1)) if self._maps is None else self._maps
        return maps.view(*self._shape, *maps.shape[1:])
