"""Label maps in plain torch, as the reference implementations use them."""

from __future__ import annotations

import torch


def first_outside(ids: torch.Tensor, n_concepts: int) -> torch.Tensor:
    """The flat index of the first id outside [0, n_concepts), or -1: int64 scalar."""
    outside = ((ids < 0) | (ids >= n_concepts)).flatten()
    if outside.numel() == 0:
        return torch.full((), -1, dtype=torch.int64, device=ids.device)
    return torch.where(outside.any(), outside.to(torch.int8).argmax(), -1)


def first_bad_label(labels: torch.Tensor, image_labels: torch.Tensor, n_concepts: int) -> torch.Tensor:
    """int64 [2]: the first bad flat index in labels and in image_labels, -1 where all ids are in range."""
    return torch.stack([first_outside(labels.to(torch.int64), n_concepts), first_outside(image_labels, n_concepts)])


def without_duplicates(ids: torch.Tensor, covered: torch.Tensor | None = None) -> torch.Tensor:
    """Keep each concept once: ids [n, ...] that occur in an earlier row, or in `covered` [m], become 0."""
    ids = ids.to(torch.int64, copy=True)
    for layer in range(ids.shape[0]):
        repeated = (ids[:layer] == ids[layer]).any(0)
        if covered is not None:
            repeated |= torch.isin(ids[layer], covered)
        ids[layer].masked_fill_(repeated, 0)
    return ids
