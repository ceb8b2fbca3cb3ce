"""A mode that notes the calls on tensors that depend on the input, and answers them by torch."""

from __future__ import annotations

import torch

from netinterp_fast.interpose import Interposition


class Recording(Interposition):
    def __init__(self, model):
        super().__init__(model)
        self.calls = []

    def answer(self, call):
        layer, _ = self.layer_of(call.argument(1, "weight")) if self._has_weight(call) else ("", None)
        self.calls.append((call.name, call.in_place, layer))
        return self._marked(call.with_tensors(lambda tensor: tensor))

    @staticmethod
    def _has_weight(call):
        return isinstance(call.argument(1, "weight"), torch.Tensor)

    def _marked(self, result):
        if isinstance(result, torch.Tensor):
            return self.mark(result, "depends")
        return type(result)(self._marked(part) for part in result) if isinstance(result, (tuple, list)) else result

    def run(self, model, x):
        with self:
            return self.current(model(self.mark(x.view_as(x), "depends")))


def names(function, x, **parts):
    """What calls a function of x makes."""
    model = torch.nn.Module()
    for name, part in parts.items():
        setattr(model, name, part)
    recording = Recording(model)
    recording.run(lambda x: function(model, x), x)
    return [name for name, _, _ in recording.calls]
