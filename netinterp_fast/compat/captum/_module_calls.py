"""Which module is being called, and what takes each tensor: Captum's rules are those of modules."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...attribution.relevance import operations
from ...interpose import Call, Interposition
from ._serving import PassOn


@dataclass(eq=False)
class Known:
    """That a tensor depends on the inputs, and what `ModuleCalls` notes of it."""


class ModuleCalls(Interposition):
    """Sees the calls of some modules of a model besides those of functions.

    Each marked tensor's knowledge gets `uses`, what takes it (the kinds of modules that `kind_of` tells, or
    "function"), `made_by`, the kind of module that it is the output of, and `serial`, its number in the order of
    marking.
    """

    def __init__(self, model: nn.Module, *args, modules: Iterable[nn.Module], **kwargs):
        super().__init__(model, *args, **kwargs)
        self._watched = list(dict.fromkeys(modules))
        self._calling: list[nn.Module] = []
        self._last_call: dict[nn.Module, int] = {}
        self._clock = itertools.count()
        self._handles: list = []
        self._refusal: str | None = None

    # ---- for subclasses

    @abstractmethod
    def kind_of(self, module: nn.Module) -> str:
        """What `uses` and `made_by` call a watched module."""

    def check_uses(self, uses: list[str]) -> None:
        """Refuse where Captum mixes up what comes back from the uses of one tensor."""

    def entered(self, module: nn.Module, inputs: list[torch.Tensor]) -> torch.Tensor | None:
        """A module is about to be called on tensors; may give another one for the first."""

    def left(self, module: nn.Module, y: torch.Tensor) -> torch.Tensor | None:
        """A module has returned y; may give another tensor for it."""

    # ---- what they can ask for

    @property
    def module(self) -> nn.Module | None:
        """The module that is being called."""
        return self._calling[-1] if self._calling else None

    def refuse(self, reason: str) -> None:
        """Leave the call to Captum, even if the model catches the exception."""
        self._refusal = reason
        raise PassOn(reason)

    def check(self) -> None:
        """Raise PassOn if anything was refused."""
        if self._refusal is not None:
            raise PassOn(self._refusal)

    def note_function(self, call: Call, result: Any) -> Any:
        """Note that a function outside of the modules takes its tensors; returns its result."""
        if call.name not in operations.CONSTANT:
            for tensor in call.tensors():
                if tensor is not result:
                    self._note_use(tensor, "function")
        return result

    def mark(self, tensor: torch.Tensor, knowledge: Any) -> torch.Tensor:
        if not hasattr(knowledge, "uses"):
            knowledge.uses, knowledge.made_by, knowledge.serial = [], None, next(self._clock)
        return super().mark(tensor, knowledge)

    def current(self, tensor: torch.Tensor) -> torch.Tensor:
        """Captum gives modules copies: a tensor that one has overwritten would still have its old values there."""
        if getattr(self.known(tensor), "overwritten", False):
            self.refuse("a tensor is used again after a module has overwritten it")
        return super().current(tensor)

    def fresh_since_last_call(self, module: nn.Module, tensor: torch.Tensor) -> bool:
        """Whether a tensor was made after the last call of a module before this one."""
        return self.known(tensor).serial > self._last_call.get(module, -1)

    # ---- hooks

    def __enter__(self):
        for module in self._watched:
            self._handles.append(module.register_forward_pre_hook(self._enter))
            self._handles.append(module.register_forward_hook(self._leave, always_call=True))
        return super().__enter__()

    def __exit__(self, *exception):
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        return super().__exit__(*exception)

    def _enter(self, module: nn.Module, args: tuple) -> tuple | None:
        self._calling.append(module)
        tensors = [self.current(arg) for arg in args if isinstance(arg, torch.Tensor)]
        if not tensors or any(self.known(tensor) is None for tensor in tensors):
            self.refuse(f"{type(module).__name__} is called on something that does not depend on the inputs")
        for tensor in tensors:
            self._note_use(tensor, self.kind_of(module))
        other = self.entered(module, tensors)
        self._last_call[module] = next(self._clock)
        return None if other is None else (other, *args[1:])

    def _leave(self, module: nn.Module, args: tuple, output: Any) -> torch.Tensor | None:
        self._calling.pop()
        if not isinstance(output, torch.Tensor):
            return None  # or there was an exception
        for arg in args:
            if isinstance(arg, torch.Tensor) and self.current(arg) is not arg:
                self.known(arg).overwritten = True
        output = self.current(output)
        if self.known(output) is None:
            self.refuse(f"the output of {type(module).__name__} does not depend on the inputs")
        other = self.left(module, output)
        self.known(output if other is None else other).made_by = self.kind_of(module)
        return other

    def _note_use(self, tensor: torch.Tensor, kind: str) -> None:
        knowledge = self.known(tensor)
        if knowledge is not None:
            knowledge.uses.append(kind)
            self.check_uses(knowledge.uses)
