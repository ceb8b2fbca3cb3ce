"""Telling whether a folder holds the results of the run that is asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from .._folders import is_occupied
from .results import MANIFEST, Dissection

_FIXED = {"time"}  # settings that do not tell runs apart


def fingerprint(model: torch.nn.Module, dataset: object) -> dict[str, str]:
    """SHA-256 of the model's weights, and of the data set's concepts, length, first and last item."""
    weights = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        weights.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        weights.update(_bytes(tensor))
    data = hashlib.sha256(repr((len(dataset), [tuple(c) for c in dataset.concepts])).encode())
    for index in (0, len(dataset) - 1):
        for part in dataset[index]:
            data.update(_bytes(torch.as_tensor(part)))
    return {"weights": weights.hexdigest(), "data": data.hexdigest()}


def _bytes(tensor: torch.Tensor) -> bytes:
    values = tensor.detach().cpu().contiguous().view(-1)
    return values.view(torch.uint8).numpy().tobytes() if values.numel() else b""


def finished_run(folder: Path, settings: dict, resume: bool) -> Dissection | None:
    """The results in `folder` if they are those of a run with these settings and `resume` allows it; None if it is
    free.

    FileExistsError for a folder that holds anything else, naming what differs.
    """
    if not is_occupied(folder):
        return None
    if not (folder / MANIFEST).is_file():
        raise FileExistsError(f"{folder} is not empty and holds no dissection; choose another folder")
    found = Dissection.load(folder)
    wanted = json.loads(json.dumps(settings))
    different = [
        f"{key} ({_short(found.settings.get(key))} there, {_short(wanted.get(key))} here)"
        for key in sorted((set(found.settings) | set(wanted)) - _FIXED)
        if found.settings.get(key) != wanted.get(key)
    ]
    if different:
        raise FileExistsError(f"{folder} holds another run, with a different {'; '.join(different)}")
    if not resume:
        raise FileExistsError(f"{folder} holds the results of this run already, and resume is False")
    return found


def _short(value: object) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{k} {_short(v)}" for k, v in value.items())
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "..."
