"""Layer-wise relevance propagation of a model's output to its input."""

from __future__ import annotations

import torch

from ..targets import Target, check_inputs, checked_targets, output_weights
from .composites import Composite, get_composite
from .flow import run


def lrp(
    model: torch.nn.Module,
    inputs: torch.Tensor,
    target: Target = None,
    *,
    composite: str | Composite = "epsilon_plus_flat",
    seed: str = "output",
    targets: torch.Tensor | None = None,
    create_graph: bool = False,
) -> torch.Tensor:
    """Share the relevance of an output among the inputs (Bach et al., PLoS ONE 2015).

    The model is left as it was. Functions, operators, reused modules and sums count as the layers that they are.

    Args:
        model: any `nn.Module` in evaluation mode that takes one tensor and returns one, usually logits [B, n].
        inputs: floating-point tensor [B, ...].
        target: which output to explain: an int, a LongTensor [B], None for each example's largest output, or a float
            tensor of the output's shape, its relevance, which is used as it is.
        composite: which rule each layer gets: a name or an object, see `netinterp_fast.composites`.
        seed: the relevance of a target class: "output", its value f(x), or "one".
        targets: LongTensor [T], classes that are explained for all examples with one forward pass, instead of `target`.
        create_graph: make the result differentiable with respect to `inputs`; the model then runs twice. Where a rule
            looks at signs, or a pool at places, these count as constants.

    Returns:
        Relevance of the shape of `inputs`; [T, *inputs.shape] with `targets`.

    Raises:
        TypeError, ValueError: for arguments that do not fit.
        NoRuleError: when relevance reaches an operation without a rule; the error names it.
    """
    check_inputs(inputs)
    if seed not in ("output", "one"):
        raise ValueError(f"seed is {seed!r}; it must be 'output' or 'one'")
    classes = checked_targets(targets, target)
    composite = get_composite(composite)
    with torch.inference_mode(False), torch.enable_grad():
        leaf = (inputs.clone() if inputs.is_inference() else inputs.detach()).requires_grad_()
        plain = inputs if create_graph else None
        output, expecting_relevance = run(model, leaf, composite, many_passes=classes is not None, plain=plain)

        def backward(target: Target, more: bool = False) -> torch.Tensor:
            relevance = _seed(output, target, seed)
            keep = more or create_graph
            return torch.autograd.grad(
                expecting_relevance, leaf, relevance, retain_graph=keep, create_graph=create_graph
            )[0]

        if classes is None:
            return backward(target)
        return torch.stack([backward(c, more=i + 1 < len(classes)) for i, c in enumerate(classes)])


def _seed(output: torch.Tensor, target: Target, seed: str) -> torch.Tensor:
    """The relevance of the output."""
    weights = output_weights(output, target)
    given = isinstance(target, torch.Tensor) and target.is_floating_point()
    return weights if given or seed == "one" else weights * output
