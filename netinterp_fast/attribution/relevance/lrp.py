"""Layer-wise relevance propagation of a model's output to its input."""

from __future__ import annotations

import torch

from ..targets import class_targets
from .composites import Composite, get_composite
from .flow import Flow, NeedsRelevance


def lrp(
    model: torch.nn.Module,
    inputs: torch.Tensor,
    target: int | torch.Tensor | None = None,
    *,
    composite: str | Composite = "epsilon_plus_flat",
    seed: str = "output",
    targets: torch.Tensor | None = None,
    create_graph: bool = False,
) -> torch.Tensor:
    """Share the relevance of an output among the inputs (Bach et al., PLoS ONE 2015).

    The model is neither changed nor hooked; functions, operators, reused modules and sums count as the layers they are.

    Args:
        model: any `nn.Module` in evaluation mode that takes one tensor and returns one, usually logits [B, n].
        inputs: floating-point tensor [B, ...].
        target: which output to explain: an int, a LongTensor [B], None for each example's largest output, or a float
            tensor of the output's shape, its relevance, which is used as it is.
        composite: which rule each layer gets: a name or an object, see `netinterp_fast.composites`.
        seed: the relevance of a target class: "output", its value f(x), or "one".
        targets: LongTensor [T], classes that are explained for all examples with one forward pass, instead of `target`.
        create_graph: make the result differentiable with respect to `inputs`, where the rules are.

    Returns:
        Relevance of the shape of `inputs`; [T, *inputs.shape] with `targets`.

    Raises:
        TypeError, ValueError: for arguments that do not fit.
        NoRuleError: when relevance reaches an operation without a rule; the error names it.
    """
    if not isinstance(inputs, torch.Tensor):
        raise TypeError(f"inputs is a {type(inputs).__name__}; it must be a tensor")
    if not inputs.is_floating_point():
        raise TypeError(f"inputs has dtype {str(inputs.dtype).removeprefix('torch.')}; it must be floating-point")
    if seed not in ("output", "one"):
        raise ValueError(f"seed is {seed!r}; it must be 'output' or 'one'")
    if target is not None and targets is not None:
        raise ValueError("target and targets are both given; choose one")
    composite = get_composite(composite)
    leaf = inputs if create_graph and inputs.requires_grad else inputs.detach().requires_grad_()
    with torch.enable_grad():
        output, expecting_relevance = _run(model, leaf, composite, many_passes=targets is not None)

    def backward(relevance: torch.Tensor, last: bool = True) -> torch.Tensor:
        return torch.autograd.grad(
            expecting_relevance, leaf, relevance, retain_graph=not last or create_graph, create_graph=create_graph
        )[0]

    if targets is None:
        return backward(_seed(output, target, seed, create_graph))
    seeds = [_seed(output, int(t), seed, create_graph) for t in _checked_targets(targets)]
    return torch.stack([backward(s, last=i + 1 == len(seeds)) for i, s in enumerate(seeds)])


def _run(
    model: torch.nn.Module, leaf: torch.Tensor, composite: Composite, many_passes: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The output, and the same tensor as the start of the backward pass."""
    for keep in (False, True):
        flow = Flow(model, composite, keep, many_passes)
        try:
            with flow:
                output = model(flow.start(leaf.view_as(leaf)))
            output = flow.current(output) if isinstance(output, torch.Tensor) else output
            if not isinstance(output, torch.Tensor) or flow.known(output) is None:
                raise ValueError("the model's output is not a tensor that depends on its input")
            return output, flow.relevance(output)
        except NeedsRelevance:
            continue
        finally:
            flow.forget()
    raise RuntimeError("a rule needs the relevance of a tensor that the model made outside of torch's functions")


def _seed(output: torch.Tensor, target, seed: str, create_graph: bool) -> torch.Tensor:
    """The relevance of the output."""
    output = output if create_graph else output.detach()
    if isinstance(target, torch.Tensor) and target.is_floating_point():
        if target.shape != output.shape:
            raise ValueError(f"target has shape {list(target.shape)}; a seed has the output's, {list(output.shape)}")
        return target.to(output)
    chosen = torch.zeros_like(output).scatter_(1, class_targets(output, target)[:, None], 1.0)
    return chosen * output if seed == "output" else chosen


def _checked_targets(targets: torch.Tensor) -> list[int]:
    if not isinstance(targets, torch.Tensor) or targets.is_floating_point() or targets.dim() != 1:
        raise TypeError("targets must be a LongTensor [T]")
    if targets.numel() == 0:
        raise ValueError("targets is empty")
    return targets.tolist()
