"""The patterns of a model, and their file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

ESTIMATORS = ("two_component", "linear")


class Patterns(Mapping):
    """The patterns of a model's layers, by layer name: tensors of the shape and dtype of the layer's weight.

    A name is the module's; of a parameter that is not called `weight`, the parameter's.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], estimator: str):
        self._tensors, self.estimator = dict(tensors), estimator

    def __getitem__(self, layer: str) -> torch.Tensor:
        return self._tensors[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"Patterns({self.estimator}, {len(self)} layers)"

    def save(self, path: str | os.PathLike) -> Path:
        """Write a safetensors file, all or nothing; return its path."""
        path = Path(path)
        tensors = {name: tensor.cpu().clone().contiguous() for name, tensor in self._tensors.items()}
        partial = path.with_name(f".{path.name}.partial")
        try:
            partial.write_bytes(save(tensors, {"estimator": self.estimator}))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike) -> Patterns:
        """Read what `save` wrote. FileNotFoundError or ValueError, naming the file, for what is missing or damaged."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"{os.fspath(path)} is not a file")
        try:
            with safe_open(os.fspath(path), "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                estimator = (file.metadata() or {}).get("estimator")
        except SafetensorError as error:
            raise ValueError(f"{os.fspath(path)} is not a safetensors file: {error}") from error
        if estimator not in ESTIMATORS:
            raise ValueError(f"{os.fspath(path)} holds no saved patterns")
        return cls(tensors, estimator)
