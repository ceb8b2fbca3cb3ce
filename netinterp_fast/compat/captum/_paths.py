"""Integrated gradients, of the inputs and of layers, and gradients at random points of the paths."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import captum.attr
import numpy as np
import torch
from captum._utils.gradient import _forward_layer_eval
from captum.attr._core.gradient_shap import InputBaselineXGradient as CaptumInputBaselineXGradient
from captum.attr._core.gradient_shap import _scale_input
from captum.attr._utils.approximation_methods import approximation_parameters
from captum.attr._utils.common import (
    _format_callable_baseline,
    _format_input_baseline,
    _tensorize_baseline,
    _validate_input,
)
from torch import nn

from ...attribution.gradients import saliency
from ...attribution.paths import integrated_gradients
from ._inputs import (
    as_given,
    check_deterministic,
    check_dtypes,
    check_model,
    check_repeated,
    extra_arguments,
    input_tuple,
    target_of,
    with_delta,
)
from ._noise import captum_noise_tunnel
from ._serving import PassOn, check_gradient_func, drop_in, replaces


def _nodes(method: str, n_steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Captum's points on the path and weights, which it rounds to single precision."""
    step_sizes, alphas = approximation_parameters(method)
    weights = torch.tensor(step_sizes(n_steps), dtype=torch.float32)
    return torch.tensor(alphas(n_steps), dtype=torch.float64), weights.double()


@replaces(captum.attr.IntegratedGradients)
class IntegratedGradients(captum.attr.IntegratedGradients):
    """The mean gradient on the path from the baselines, by Captum's points and weights (those of its trapezoidal rule
    sum to (n - 1) / n), times the difference. The affine beginning of the model runs twice in all.

    `internal_batch_size` is the most points at once; without it as many as suit the device, not all. In single
    precision a ReLU whose input is 0 but for rounding may open for one and not for the other, as it may in Captum with
    another `internal_batch_size`. Results carry no gradient. Passed on to Captum are inputs of other dtypes than single
    and double precision, additional tensors that do not have one entry an example, and models in training mode.
    """

    @drop_in(captum.attr.IntegratedGradients)
    def attribute(
        self,
        inputs,
        baselines=None,
        target=None,
        additional_forward_args=None,
        n_steps=50,
        method="gausslegendre",
        internal_batch_size=None,
        return_convergence_delta=False,
    ):
        check_gradient_func(self)
        if type(self)._attribute is not captum.attr.IntegratedGradients._attribute:
            raise PassOn("_attribute was replaced")
        given, references = _format_input_baseline(inputs, baselines)
        _validate_input(given, references, n_steps, method)
        input_tuple(given)
        check_dtypes(given, references)
        extra = extra_arguments(additional_forward_args)
        check_repeated(extra, given)
        check_deterministic(self.forward_func)
        parts = integrated_gradients(
            self.forward_func,
            given,
            target_of(target, given),
            baseline=references,
            method=_nodes(method, n_steps),
            additional_forward_args=extra,
            multiply_by_inputs=self.multiplies_by_inputs,
            batch_size=_batch_size(internal_batch_size, given),
        )
        result = as_given(isinstance(inputs, tuple), parts)
        ends = baselines, inputs
        return with_delta(self, return_convergence_delta, result, parts, ends, additional_forward_args, target)


def _batch_size(internal_batch_size: int | None, given: tuple[torch.Tensor, ...]) -> int | None:
    """At least one point of each example, as with Captum."""
    return None if internal_batch_size is None else max(internal_batch_size, len(given[0]), 1)


@replaces(captum.attr.LayerIntegratedGradients)
class LayerIntegratedGradients(captum.attr.LayerIntegratedGradients):
    """`IntegratedGradients` of what layers return, or take, between its values for the baselines and the inputs; the
    inputs themselves may be of any dtype. Passed on besides: `grad_kwargs`, several devices, and layers whose values
    do not have one entry an example."""

    @drop_in(captum.attr.LayerIntegratedGradients)
    def attribute(
        self,
        inputs,
        baselines=None,
        target=None,
        additional_forward_args=None,
        n_steps=50,
        method="gausslegendre",
        internal_batch_size=None,
        return_convergence_delta=False,
        attribute_to_layer_input=False,
        grad_kwargs=None,
    ):
        self._check(grad_kwargs)
        given, references = _format_input_baseline(inputs, baselines)
        _validate_input(given, references, n_steps, method)
        references = _tensorize_baseline(given, references)
        extra = extra_arguments(additional_forward_args)
        layers = self.layer if isinstance(self.layer, list) else [self.layer]
        at_inputs, at_baselines = (
            _layer_values(self.forward_func, x, extra, layers, attribute_to_layer_input) for x in (given, references)
        )
        counts = [len(values) for values in at_inputs]
        points = tuple(value for values in at_inputs for value in values)
        starts = tuple(value for values in at_baselines for value in values)
        check_dtypes(points, starts)
        check_repeated((*given, *extra, *points), given)
        parts = integrated_gradients(
            _Replacing(self.forward_func, layers, counts, attribute_to_layer_input),
            points,
            target_of(target, given),
            baseline=starts,
            method=_nodes(method, n_steps),
            additional_forward_args=(*given, *extra),
            multiply_by_inputs=self.multiplies_by_inputs,
            batch_size=_batch_size(internal_batch_size, given),
            hoist=not isinstance(self.forward_func, (torch.jit.ScriptModule, torch.jit.ScriptFunction)),
        )
        found = iter(parts)
        by_layer = [as_given(count > 1, [next(found) for _ in range(count)]) for count in counts]
        result = by_layer if isinstance(self.layer, list) else by_layer[0]
        ends = references, given
        return with_delta(self, return_convergence_delta, result, parts, ends, additional_forward_args, target)

    def _check(self, grad_kwargs: Any) -> None:
        check_gradient_func(self)
        check_deterministic(self.forward_func)
        if grad_kwargs:
            raise PassOn("grad_kwargs")
        if self.device_ids or getattr(self.forward_func, "device_ids", None):
            raise PassOn("several devices")
        if isinstance(self.forward_func, nn.Module):
            check_model(self.forward_func)


def _layer_values(forward_func, inputs, extra, layers, at_input: bool) -> list[tuple[torch.Tensor, ...]]:
    """What each layer returns, or takes."""
    values = _forward_layer_eval(
        forward_func, inputs, layers, additional_forward_args=extra or None, attribute_to_layer_input=at_input
    )
    return [tuple(value.detach() for value in of_layer) for of_layer in values]


class _Replacing:
    """A model as a function of what its layers return, or take, and of its own arguments."""

    def __init__(self, forward_func: Callable, layers: list[nn.Module], counts: list[int], at_input: bool):
        self._forward_func, self._layers, self._counts, self._at_input = forward_func, layers, counts, at_input

    def __call__(self, *arguments: Any) -> Any:
        rest = iter(arguments)
        with ExitStack() as stack:
            for layer, count in zip(self._layers, self._counts, strict=True):
                hook = self._hook(tuple(next(rest) for _ in range(count)))
                at = layer.register_forward_pre_hook if self._at_input else layer.register_forward_hook
                stack.callback(at(hook).remove)
            return self._forward_func(*rest)

    def _hook(self, values: tuple[torch.Tensor, ...]) -> Callable:
        def replace(module, inputs, output=None):
            return values if self._at_input or isinstance(output, tuple) else values[0]

        return replace


@replaces(CaptumInputBaselineXGradient)
class InputBaselineXGradient(CaptumInputBaselineXGradient):
    """The gradient at a random point of each path, times the path. The points are numpy's, as Captum draws them."""

    @drop_in(CaptumInputBaselineXGradient)
    def attribute(
        self, inputs, baselines=None, target=None, additional_forward_args=None, return_convergence_delta=False
    ):
        check_gradient_func(self)
        given, references = _format_input_baseline(inputs, baselines)
        input_tuple(given)
        before = np.random.get_state()
        try:
            places = torch.as_tensor(np.random.uniform(0.0, 1.0, len(given[0]))).to(given[0])
            points = tuple(_scale_input(x, b, places).detach() for x, b in zip(given, references, strict=True))
            gradients = saliency(
                self.forward_func,
                points,
                target_of(target, given),
                additional_forward_args=additional_forward_args,
            )
        except Exception:
            np.random.set_state(before)  # Captum is to draw the same
            raise
        if self.multiplies_by_inputs:
            gradients = tuple((x - b).detach() * g for x, b, g in zip(given, references, gradients, strict=True))
        result = as_given(isinstance(inputs, tuple), gradients)
        ends = references, given
        return with_delta(self, return_convergence_delta, result, gradients, ends, additional_forward_args, target)


@replaces(captum.attr.GradientShap)
class GradientShap(captum.attr.GradientShap):
    """The mean over noisy inputs and baselines drawn at random of `InputBaselineXGradient`. All draws are those of
    Captum: with the same seeds of torch and numpy the numbers are the same."""

    @drop_in(captum.attr.GradientShap)
    def attribute(
        self,
        inputs,
        baselines,
        n_samples=5,
        stdevs=0.0,
        target=None,
        additional_forward_args=None,
        return_convergence_delta=False,
    ):
        check_gradient_func(self)
        references = _format_callable_baseline(baselines, inputs)
        if not isinstance(references[0], torch.Tensor):
            raise PassOn("baselines that are not a tensor")
        samples = captum.attr.NoiseTunnel(InputBaselineXGradient(self.forward_func, self.multiplies_by_inputs))
        return captum_noise_tunnel(
            samples,
            inputs,
            nt_samples=n_samples,
            stdevs=stdevs,
            draw_baseline_from_distrib=True,
            baselines=references,
            target=target,
            additional_forward_args=additional_forward_args,
            return_convergence_delta=return_convergence_delta,
        )
