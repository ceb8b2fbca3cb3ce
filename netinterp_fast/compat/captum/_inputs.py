"""The arguments that Captum's methods have in common."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from captum._utils.common import _format_additional_forward_args, _format_tensor_into_tuples, _select_targets
from torch import nn

from ._serving import PassOn


def input_tuple(inputs: Any) -> tuple[torch.Tensor, ...]:
    """The inputs as a tuple; PassOn where they can have no gradient."""
    inputs = _format_tensor_into_tuples(inputs)
    if not all(isinstance(x, torch.Tensor) and x.is_floating_point() for x in inputs):
        raise PassOn("inputs that are not floating-point tensors")
    return inputs


def extra_arguments(additional_forward_args: Any) -> tuple:
    return _format_additional_forward_args(additional_forward_args) or ()


def leaf_of(x: torch.Tensor) -> torch.Tensor:
    """The same values, whose gradient can be computed."""
    return (x.clone() if x.is_inference() else x.detach()).requires_grad_()


def selected(output: Any, target: Any, n_examples: int) -> torch.Tensor:
    """The one output of each example that `target` says, [B] or [B, 1]; PassOn where it is not one."""
    if not isinstance(output, torch.Tensor):
        raise PassOn("the model does not return a tensor")
    chosen = _select_targets(output, target)
    if chosen.dim() == 0 or chosen.shape[0] != n_examples or chosen.numel() != n_examples:
        raise PassOn("the target does not choose one output of each example")
    return chosen


def target_of(target: Any, inputs: tuple[torch.Tensor, ...]) -> Any:
    """Captum's target in a form that our functions take also where they repeat examples: as it is where it has one
    entry an example, else a function of the output."""
    if isinstance(target, torch.Tensor) and (target.is_floating_point() or target.dtype == torch.bool):
        raise PassOn("a target that is a tensor of other values than integers")
    if isinstance(target, list) or (isinstance(target, torch.Tensor) and target.numel() > 1):
        if len(target) != len(inputs[0]):
            raise PassOn("a target with another number of entries than examples")
        return target
    return lambda output: selected(output, target, len(output)).reshape(-1)


def check_dtypes(inputs: Iterable[torch.Tensor], baselines: Iterable[Any]) -> None:
    """PassOn unless all are of single or double precision, each baseline as its input."""
    for x, baseline in zip(inputs, baselines, strict=True):
        if x.dtype not in (torch.float32, torch.float64):
            raise PassOn(f"inputs of dtype {str(x.dtype).removeprefix('torch.')}")
        if isinstance(baseline, torch.Tensor) and baseline.dtype != x.dtype:
            raise PassOn("baselines of another dtype than the inputs")


def check_repeated(arguments: Iterable[Any], inputs: tuple[torch.Tensor, ...]) -> None:
    """PassOn where there is a tensor without one entry an example: Captum repeats all tensors with the examples."""
    for value in arguments:
        if isinstance(value, torch.Tensor) and value.dim() and len(value) != len(inputs[0]):
            raise PassOn("a tensor among the arguments does not have one entry an example")


def check_deterministic(forward_func: Callable) -> None:
    """PassOn where a module in training mode mixes examples or draws random numbers."""
    for model in _models_in(forward_func):
        for module in model.modules():
            if module.training and isinstance(module, _UNLIKE_IN_TRAINING):
                raise PassOn(f"{type(module).__name__} is in training mode")


_UNLIKE_IN_TRAINING = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm, nn.RReLU)


def _models_in(forward_func: Callable) -> list[nn.Module]:
    """The models that a function is, is a method of, or refers to."""
    if isinstance(forward_func, nn.Module):
        return [forward_func]
    if isinstance(forward_func, functools.partial):
        return _models_in(forward_func.func)
    if inspect.ismethod(forward_func):
        return [forward_func.__self__] if isinstance(forward_func.__self__, nn.Module) else []
    if not inspect.isfunction(forward_func):
        return []
    names = inspect.getclosurevars(forward_func)
    return [value for value in (*names.nonlocals.values(), *names.globals.values()) if isinstance(value, nn.Module)]


def check_model(model: nn.Module) -> None:
    """PassOn for models whose modules are run elsewhere than here."""
    for wrapper in (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.jit.ScriptModule):
        if isinstance(model, wrapper):
            raise PassOn(f"the model is a {wrapper.__name__}")
    if hasattr(model, "_orig_mod"):
        raise PassOn("the model is compiled")


@contextmanager
def gradients() -> Iterator[None]:
    with torch.inference_mode(False), torch.enable_grad():
        yield


def as_given(is_tuple: bool, results: Iterable[torch.Tensor]) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """A tuple where the inputs were one."""
    results = tuple(results)
    return results if is_tuple else results[0]


def with_delta(attribution, wanted: bool, result, parts, ends, additional_forward_args, target):
    """What a method of Captum's returns: the result, and where it is `wanted` the convergence delta of its `parts`
    between the ends (baselines, inputs)."""
    if not wanted:
        return result
    delta = attribution.compute_convergence_delta(
        parts, *ends, additional_forward_args=additional_forward_args, target=target
    )
    return result, delta
