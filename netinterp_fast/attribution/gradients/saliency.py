"""Gradients of a model's outputs with respect to its inputs or a layer, as they are or times the values there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..targets import AnyTarget
from .explained import Explained, Inputs, Layer, input_gradients, per_target


def saliency(
    model: Callable,
    inputs: Inputs,
    target: AnyTarget = None,
    *,
    absolute: bool = False,
    additional_forward_args: Any = None,
    layer: Layer = None,
    attribute_to_layer_input: bool = False,
    targets: torch.Tensor | None = None,
) -> Inputs:
    """The gradient of an output with respect to the input (Simonyan et al., "Deep inside convolutional networks",
    2013).

    Args:
        model: an `nn.Module` in evaluation mode or a function, of the inputs and then the additional arguments, that
            returns a tensor [B, ...]. It is left as it was.
        inputs: a floating-point tensor [B, ...], or a tuple of them.
        target: which output to explain: an int; a LongTensor [B] or a list of ints, one an example; a tuple of ints
            that indexes an example's output, or a list of one such tuple an example; a float tensor of the output's
            shape, the weights of a sum; a function from the output to a tensor [B]; or None, the largest of each
            example's outputs, or the output itself where it is one number an example.
        absolute: the gradient's absolute value, as in the paper, instead of the gradient.
        additional_forward_args: one further argument or a tuple of them. Tensors with B entries go with the examples.
        layer: a module of the model, or its name: attribute to its output instead of the inputs. The first call counts
            where the layer runs several times.
        attribute_to_layer_input: attribute to the layer's input.
        targets: LongTensor [T], classes that are explained for all examples with one forward pass, instead of `target`.

    Returns:
        A tensor of the shape of the inputs (or of the layer's output), or a tuple of them; [T, ...] with `targets`.

    Raises:
        TypeError, ValueError: for arguments that do not fit.
    """
    explained = Explained(model, inputs, additional_forward_args, layer, attribute_to_layer_input)
    parts = input_gradients(explained, target, targets)
    if absolute:
        parts = [[grad.abs_() for grad in grads] for grads in parts]
    return per_target(explained, parts, targets)


def input_x_gradient(
    model: Callable,
    inputs: Inputs,
    target: AnyTarget = None,
    *,
    additional_forward_args: Any = None,
    layer: Layer = None,
    attribute_to_layer_input: bool = False,
    targets: torch.Tensor | None = None,
) -> Inputs:
    """The gradient times the input (Shrikumar et al., "Not just a black box", 2016): a first-order estimate of what
    each input adds, exact for a linear model.

    Arguments, result and errors as for `saliency`.
    """
    explained = Explained(model, inputs, additional_forward_args, layer, attribute_to_layer_input)
    values = explained.values()
    parts = input_gradients(explained, target, targets, values=values)
    return per_target(explained, [[v * g for v, g in zip(values, grads, strict=True)] for grads in parts], targets)
