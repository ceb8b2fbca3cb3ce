"""Amounts of memory as users write them."""

from __future__ import annotations

import re

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parsed_budget(budget: int | str | None) -> int | None:
    """Bytes: a number, or text such as "512MiB"."""
    if budget is None:
        return None
    if isinstance(budget, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?i?B?)\s*", budget, re.IGNORECASE)
        if not match or match[2].upper() not in _UNITS:
            raise ValueError(f"memory_budget is {budget!r}; it must be a number of bytes or text such as '512MiB'")
        budget = int(float(match[1]) * _UNITS[match[2].upper()])
    if isinstance(budget, bool) or not isinstance(budget, int):
        raise TypeError(f"memory_budget is {budget!r}; it must be a number of bytes or text such as '512MiB'")
    if budget <= 0:
        raise ValueError(f"memory_budget is {budget}; it must be above 0")
    return budget
