"""Argument checks shared by the ops: each names the argument, what it was and what it must be."""

from __future__ import annotations

import torch

FLOATING = (torch.float32, torch.float16, torch.bfloat16)
MAX_SIDE = 32767  # pixels of a label map, so that native kernels can count columns in 16 bits
INTEGER = (torch.uint8, torch.int16, torch.uint16, torch.int32, torch.int64)
_ALIKE = "they must be the same"


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """What values of a type are computed in, and rounded from once: RealOf in csrc/core/relevance.h."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(str(d).removeprefix("torch.") for d in dtypes)


def check_tensor(
    name: str, value: object, shape: str, dtypes: tuple[torch.dtype, ...], device: torch.device | None = None
) -> None:
    """`shape` is written as in the docstrings, e.g. "[B, C, h, w]"; only the number of dimensions is checked."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} is {type(value).__name__}; it must be a tensor {shape}")
    if value.dtype not in dtypes:
        raise TypeError(f"{name} has dtype {str(value.dtype).removeprefix('torch.')}; it must be {_names(dtypes)}")
    if value.dim() != shape.count(",") + 1:
        raise ValueError(f"{name} has shape {list(value.shape)}; it must be {shape}")
    if device is not None and value.device != device:
        raise ValueError(f"{name} is on {value.device}; it must be on {device} like the other arguments")


def check_size(name: str, value: torch.Tensor, dim: int, expected: int, why: str) -> None:
    if value.shape[dim] != expected:
        raise ValueError(f"{name} has shape {list(value.shape)}; its dimension {dim} must be {expected}, {why}")


def check_alike(names: tuple[str, ...], tensors: tuple[object, ...], dtypes: tuple[torch.dtype, ...]) -> None:
    """All must be tensors of one of the dtypes, with the dtype, shape and device of the first."""
    first = tensors[0]
    for name, tensor in zip(names, tensors, strict=True):
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{name} is {type(tensor).__name__}; it must be a tensor")
        if tensor.dtype not in dtypes:
            raise TypeError(f"{name} has dtype {_names((tensor.dtype,))}; it must be {_names(dtypes)}")
        if tensor.dtype != first.dtype:
            raise TypeError(
                f"{name} has dtype {_names((tensor.dtype,))}, {names[0]} {_names((first.dtype,))}; {_ALIKE}"
            )
        if tensor.shape != first.shape:
            raise ValueError(f"{name} has shape {list(tensor.shape)}, {names[0]} {list(first.shape)}; {_ALIKE}")
        if tensor.device != first.device:
            raise ValueError(f"{name} is on {tensor.device}, {names[0]} on {first.device}; {_ALIKE}")


def check_labels(labels: object, image_labels: object, n_concepts: object, device: torch.device | None) -> torch.Tensor:
    """Check labels [B, L, H, W], image_labels [B, S] and n_concepts; return image_labels as int64, [B, 0] for None."""
    check_tensor("labels", labels, "[B, L, H, W]", INTEGER, device)
    if not all(1 <= side <= MAX_SIDE for side in labels.shape[2:]):
        raise ValueError(f"labels has shape {list(labels.shape)}; H and W must be in [1, {MAX_SIDE}]")
    if isinstance(n_concepts, bool) or not isinstance(n_concepts, int):
        raise TypeError(f"n_concepts is {n_concepts!r}; it must be an int")
    if not 1 <= n_concepts < 2**31:
        raise ValueError(f"n_concepts is {n_concepts}; it must be in [1, 2^31)")
    if image_labels is None:
        return labels.new_zeros((labels.shape[0], 0), dtype=torch.int64)
    check_tensor("image_labels", image_labels, "[B, S]", INTEGER, labels.device)
    check_size("image_labels", image_labels, 0, labels.shape[0], "the B of labels")
    return image_labels.to(torch.int64).contiguous()


def raise_for_bad_label(
    first_bad: torch.Tensor, labels: torch.Tensor, image_labels: torch.Tensor, n_concepts: int
) -> None:
    """Raise for the positions that an op reported: int64 [2], flat indices into labels and image_labels, -1 = none."""
    named = zip(("labels", "image_labels"), (labels, image_labels), first_bad.tolist(), strict=True)
    for name, tensor, flat in named:
        if flat >= 0:
            where = [int(i) for i in torch.unravel_index(torch.tensor(flat), tensor.shape)]
            raise ValueError(
                f"{name}{where} is {int(tensor[tuple(where)])}; concept ids must lie in [0, {n_concepts}), "
                "n_concepts being one more than the largest id"
            )
