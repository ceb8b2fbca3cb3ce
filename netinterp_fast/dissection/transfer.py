"""Batches on their way to the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

Batch = tuple[torch.Tensor, ...]


def transferred(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Each batch on the device. On CUDA the next one is sent, on a stream of its own, while this one is worked on; it
    must lie in pinned memory for that."""
    if device.type != "cuda":
        for batch in batches:
            yield tuple(part.to(device) for part in batch)
        return
    stream = torch.cuda.Stream(device)
    before = None
    for batch in batches:
        with torch.cuda.stream(stream):
            sent = tuple(part.to(device, non_blocking=True) for part in batch)
            arrived = stream.record_event()
        if before is not None:
            yield _received(*before)
        before = sent, arrived
    if before is not None:
        yield _received(*before)


def _received(batch: Batch, arrived: torch.cuda.Event) -> Batch:
    """The batch once it has arrived; its memory is not given to others while the work on it may still run."""
    current = torch.cuda.current_stream(batch[0].device)
    current.wait_event(arrived)
    for part in batch:
        part.record_stream(current)
    return batch
