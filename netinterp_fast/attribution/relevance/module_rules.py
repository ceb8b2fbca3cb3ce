"""Rules of modules without parameters, which their calls do not name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from .layer_types import Sum
from .rules import Rule


class ModuleRules:
    """Knows the rule of the module that is being called, for modules without parameters whose rule is not that of a
    function that does the same: a composite that goes by name can say so, or one with types of its own. Such modules,
    and no others, get hooks between `watch` and `release`."""

    def __init__(self, model: nn.Module, rules: dict[str, Rule], rule_of_type: Callable[[type], Rule | None]):
        self._special = [
            (module, rules.get(name))
            for name, module in model.named_modules()
            if not module._modules
            and not module._parameters
            and rules.get(name) is not rule_of_type(_function_type(type(module)))
        ]
        self._stack: list[Rule | None] = []
        self._handles: list = []

    @property
    def inside(self) -> bool:
        """Whether such a module is being called."""
        return bool(self._stack)

    @property
    def rule_inside(self) -> Rule | None:
        return self._stack[-1]

    def watch(self) -> None:
        for module, rule in self._special:
            enter = module.register_forward_pre_hook(lambda _, __, rule=rule: self._stack.append(rule))
            leave = module.register_forward_hook(lambda _, __, ___: self._leave(), always_call=True)
            self._handles += [enter, leave]

    def _leave(self) -> None:
        self._stack.pop()

    def release(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def _function_type(kind: type[nn.Module]) -> type[nn.Module]:
    """The type that a function in the module's place would count as."""
    return next(base for base in kind.__mro__ if base is Sum or base.__module__.startswith("torch."))
