"""Models by a short text: the demo model, torchvision's classifiers, or a function in a Python file."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import itertools
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

_module_numbers = itertools.count()


def load_model(spec: str, weights: str | os.PathLike | None = None) -> torch.nn.Module:
    """The model that `spec` names, in evaluation mode on the CPU.

        "demo"                        the demo model of this package
        "torchvision:<name>"          a classifier of torchvision, as "torchvision:resnet18", random weights
        "path/to/file.py:<function>"  what the function returns without arguments; this runs the file's code

    `weights` is a file with a state dict whose names and shapes are those of the model: .safetensors, or .pt
    or .pth (read without unpickling objects; the state dict may stand under "state_dict"). A prefix "module."
    that all names share is dropped.

    Raises ValueError; FileNotFoundError for a missing file; ImportError where torchvision is not installed.
    """
    source, separator, name = spec.rpartition(":")
    if spec == "demo":
        from ..demo import load_demo_model

        model = load_demo_model()
    elif source == "torchvision":
        model = _from_torchvision(name)
    elif separator and source.endswith(".py"):
        model = _from_file(Path(source), name)
    else:
        raise ValueError(f"model is {spec!r}; expected demo, torchvision:<name> or path/to/file.py:<function>")
    if weights is not None:
        _load_weights(model, Path(weights))
    return model.eval()


def load_models(spec: str, weights: Sequence[str | os.PathLike]) -> dict[str, torch.nn.Module]:
    """The model that `spec` names with each of these files' weights, as `load_model` gives it, all at once in memory.

    A model has the name of its file without folder and ending; of equal ones the second is called "NAME 2", and so on.
    """
    models: dict[str, torch.nn.Module] = {}
    for path in weights:
        stem = Path(path).stem
        names = itertools.chain([stem], (f"{stem} {n}" for n in itertools.count(2)))
        models[next(name for name in names if name not in models)] = load_model(spec, path)
    return models


def _from_torchvision(name: str) -> torch.nn.Module:
    try:
        from torchvision import models
    except ImportError as error:
        raise ImportError(
            f"torchvision:{name} needs torchvision ({error}); install it by: pip install torchvision"
        ) from error
    known = models.list_models(module=models)  # the classifiers; other models would download a backbone
    if name not in known:
        raise ValueError(f"torchvision has no classifier {name!r}{_near_matches(name, known)}")
    return models.get_model(name, weights=None)


def _from_file(path: Path, name: str) -> torch.nn.Module:
    if not path.is_file():
        raise FileNotFoundError(f"model file {os.fspath(path)!r} does not exist")
    spec = importlib.util.spec_from_file_location(f"netinterp_fast_model_{next(_module_numbers)}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # as an import would: dataclasses and pickle look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise

    factory = getattr(module, name, None)
    if not callable(factory):
        names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise ValueError(f"{path} has no function {name!r}{_near_matches(name, names)}")
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise ValueError(f"{path}: {name} must be callable without arguments ({error})") from error
    model = factory()
    if not isinstance(model, torch.nn.Module):
        raise ValueError(f"{path}: {name}() returned a {type(model).__name__}; expected a torch.nn.Module")
    return model


def _load_weights(model: torch.nn.Module, path: Path) -> None:
    """Copy the state dict in `path` into `model`, or raise a ValueError that says what differs."""
    state = _drop_common_prefix(_read_state_dict(path), "module.")
    expected = model.state_dict()
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    if missing or unexpected:
        raise ValueError(f"{path} does not fit the model: missing {_few(missing)}; unexpected {_few(unexpected)}")
    reshaped = [
        f"{key} {list(state[key].shape)} for {list(value.shape)}"
        for key, value in expected.items()
        if isinstance(value, torch.Tensor) and state[key].shape != value.shape
    ]
    if reshaped:
        raise ValueError(f"{path} does not fit the model: wrong shapes {_few(reshaped)}")
    model.load_state_dict(state)


def _read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"weights file {os.fspath(path)!r} does not exist")
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise ValueError(f"weights is {os.fspath(path)!r}; the name must end in .safetensors, .pt or .pth")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle stream can raise anything
        reason = f"it is damaged or holds objects other than tensors ({type(error).__name__})"
        raise ValueError(f"weights file {os.fspath(path)!r} cannot be read: {reason}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"weights file {os.fspath(path)!r} holds no state dict (name -> tensor)")
    return state


def _drop_common_prefix(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    if not all(key.startswith(prefix) for key in state):
        return state
    return {key.removeprefix(prefix): value for key, value in state.items()}


def _near_matches(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _few(items: list[str], limit: int = 4) -> str:
    """The first few of `items`, and how many more there are."""
    if not items:
        return "none"
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more
