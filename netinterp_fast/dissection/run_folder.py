"""The folder of a run: whether it holds the results that are asked for, another run, or an unfinished one."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from .._folders import flush, is_occupied
from ..data.protocol import image_name
from .results import MANIFEST, REPORT, TABLES, TENSORS, UNIQUE_DETECTORS, Dissection

UNFINISHED = "dissection.unfinished"  # the checkpoints' folder, inside that of the results
_FIXED = {"time"}  # settings that do not tell runs apart
_SAMPLED = 8  # items of the data set that are read to tell it from another


def fingerprint(models: Mapping[str, torch.nn.Module], dataset: object) -> dict[str, str]:
    """SHA-256 of each model's weights, and of the data set: concepts, names of the images, some items."""
    digests = {f"weights of {name!r}" if name else "weights": _of_weights(model) for name, model in models.items()}
    n = len(dataset)
    names = [image_name(dataset, index) for index in range(n)]
    data = hashlib.sha256(repr(([tuple(c) for c in dataset.concepts], names)).encode())
    for index in sorted({i * (n - 1) // (_SAMPLED - 1) for i in range(_SAMPLED)}):
        for part in dataset[index]:
            hash_tensor(data, torch.as_tensor(part))
    return digests | {"data": data.hexdigest()}


def _of_weights(model: torch.nn.Module) -> str:
    weights = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        hash_tensor(weights, tensor, name)
    return weights.hexdigest()


def hash_tensor(digest, tensor: torch.Tensor, name: str = "") -> None:
    """Add a tensor to a digest of hashlib: name, dtype, shape and values."""
    digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
    values = tensor.detach().cpu().contiguous().view(-1)
    if values.numel():
        digest.update(values.view(torch.uint8).numpy())


def finished_run(folder: Path, settings: dict, resume: bool) -> Dissection | None:
    """The results in `folder` if they are those of a run with these settings and `resume` allows it; None if it is
    free, or holds an unfinished run.

    FileExistsError for a folder that holds anything else, naming what differs.
    """
    if is_free(folder):
        return None
    if not (folder / MANIFEST).is_file():
        raise FileExistsError(f"{folder} is not empty and holds no dissection; choose another folder")
    found = Dissection.load(folder)
    different = differences(found.settings, json.loads(json.dumps(settings)))
    if different:
        raise FileExistsError(f"{folder} holds another run, with a different {different}")
    if not resume:
        raise FileExistsError(f"{folder} holds the results of this run already, and resume is False")
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)  # of a run that was killed once its results were there
    return found


def is_free(folder: Path) -> bool:
    """Whether it holds nothing, or an unfinished run: checkpoints, no manifest, and nothing that is not ours."""
    if not is_occupied(folder):
        return True
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return UNFINISHED in names and names <= {UNFINISHED, TENSORS, TABLES, UNIQUE_DETECTORS, REPORT}


def publish(result: Dissection, folder: Path) -> None:
    """Write results, tables and report to the run's folder; checkpoints there go once the results are complete."""
    work = folder / UNFINISHED
    if not work.is_dir():
        result.save(folder, tables=True, report=True)
        return
    complete = result.save(work / "results", overwrite=True, tables=True, report=True)
    for path in (*complete.rglob("*"), complete):
        flush(path)
    # The manifest comes last: a run that is killed before it is still unfinished.
    for path in sorted(complete.iterdir(), key=lambda path: path.name == MANIFEST):
        target = folder / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
    flush(folder)
    shutil.rmtree(work)


def differences(found: Mapping, wanted: Mapping, places: tuple[str, str] = ("there", "here")) -> str:
    """The keys in which two runs' settings (JSON values) differ, with the values in both places; empty if in none."""
    keys = sorted(key for key in (set(found) | set(wanted)) - _FIXED if found.get(key) != wanted.get(key))
    return "; ".join(f"{key} ({_contrast(found.get(key), wanted.get(key), places)})" for key in keys)


def _contrast(first: object, second: object, places: tuple[str, str]) -> str:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        first, second = (
            {k: v for k, v in mine.items() if other.get(k) != v} for mine, other in ((first, second), (second, first))
        )
    return f"{_short(first)} {places[0]}, {_short(second)} {places[1]}"


def _short(value: object) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{k} {_short(v)}" for k, v in value.items())
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "..."
