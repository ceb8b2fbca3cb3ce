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
        self._new: list[torch.Tensor] = []
        self._first_new = self._seen = 0

    def update(self, maxima: torch.Tensor) -> None:
        """maxima float32 [B, C], of the next B images in data order."""
        self._new.append(maxima.cpu())
        self._seen += maxima.shape[0]
        if self._seen - self._first_new >= _MERGE_EVERY:
            self._merge()

    def _merge(self) -> None:
        new = torch.cat([self._values.T, *self._new]).T
        images = torch.arange(self._first_new, self._seen).expand(new.shape[0], -1)
        images = torch.cat([self._images, images], dim=1)
        order = new.sort(dim=1, descending=True, stable=True).indices[:, : self.n]
        self._values, self._images = new.gather(1, order), images.gather(1, order)
        self._new, self._first_new = [], self._seen

    def result(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Images int64 [C, n] and their maxima float32 [C, n], best first; padded with -1 and -inf."""
        self._merge()
        missing = self.n - self._images.shape[1]
        pad = torch.nn.functional.pad
        return pad(self._images, (0, missing), value=-1), pad(self._values, (0, missing), value=float("-inf"))


class TopMaps:
    """Collects the activation maps of the units on their top images, in a second pass over the data."""

    def __init__(self, top_images: torch.Tensor):
        self._shape = top_images.shape
        self._image, self._slot = top_images.flatten().sort()  # a batch's images are one stretch of these
        self._maps: torch.Tensor | None = None

    def update(self, first_image: int, acts: torch.Tensor) -> None:
        """acts [B, C, h, w] of the images first_image, first_image + 1, ..."""
        n_images, _, h, w = acts.shape
        if self._maps is None:
            self._maps = torch.zeros((self._shape.numel(), h, w))
        bounds = torch.tensor([first_image, first_image + n_images])
        begin, end = torch.searchsorted(self._image, bounds).tolist()
        slot = self._slot[begin:end]
        image, unit = self._image[begin:end] - first_image, slot // max(self._shape[1], 1)
        self._maps[slot] = acts[image.to(acts.device), unit.to(acts.device)].float().cpu()

    def result(self) -> torch.Tensor:
        """float32 [C, n, h, w]."""
        maps = torch.zeros((0, 1, 1)) if self._maps is None else self._maps
        return maps.view(*self._shape, *maps.shape[1:])
