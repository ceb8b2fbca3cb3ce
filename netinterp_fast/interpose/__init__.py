"""The one mechanism that changes how a model runs without changing the model."""

from .mode import Call, Interposition, NoRuleError, stop_without_rule

__all__ = ["Call", "Interposition", "NoRuleError", "stop_without_rule"]
