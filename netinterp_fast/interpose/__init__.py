"""The one mechanism that changes how a model runs without changing the model."""

from .mode import Call, Interposition, NoRuleError, stop_without_rule
from .resume import CannotResumeError, Resumable, changed_output

__all__ = [
    "Call",
    "CannotResumeError",
    "Interposition",
    "NoRuleError",
    "Resumable",
    "changed_output",
    "stop_without_rule",
]
