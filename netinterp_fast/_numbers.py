"""Checks of numbers that are given as arguments."""

from __future__ import annotations


def check_counts(least: int = 1, **counts: int) -> None:
    """Raise TypeError, ValueError, naming the argument, unless all are ints of at least `least`."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} is {value!r}; it must be an int")
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")


def check_seed(seed: object) -> None:
    """Raise TypeError, ValueError unless it is an int in [0, 2^64)."""
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed is {seed!r}; it must be an int")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed}; it must be in [0, 2^64)")
