"""The interfaces of other packages over this one: a program changes its imports and nothing else."""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager
from typing import Any

_TOOLS = ("captum",)


def accelerate(tool: str = "captum", *, report: bool = False) -> AbstractContextManager[Any]:
    """with accelerate("captum") as report: the tool's classes, as its modules hold them, compute with this package.

    Names that a program has imported before are still the tool's. The report counts, by class name, the calls that were
    `served` here and those `passed_on` to the tool with the reason. May be nested.

    Args:
        tool: "captum".
        report: print the report at the end.

    Raises:
        ValueError: for an unknown tool.
        ImportError: if the tool is not installed.
    """
    if tool not in _TOOLS:
        raise ValueError(f"tool is {tool!r}; the tools that can be accelerated are {', '.join(map(repr, _TOOLS))}")
    return importlib.import_module(f"{__name__}.{tool}").accelerated(report)
