"""Which calls this package serves and which it passes on to Captum, and how its classes take the place of Captum's."""

from __future__ import annotations

import functools
import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from captum._utils.gradient import compute_gradients
from captum.log import log_usage

_logger = logging.getLogger(__name__)
_lock = threading.RLock()
_replacements: dict[type, type] = {}  # Captum's class -> ours
_reports: list[Report] = []  # of the contexts that are open and of install()
_installed: Report | None = None
_contexts = 0


class PassOn(Exception):
    """A call is left to Captum; the message says why."""


class Report:
    """Counts of calls, by the name of the class."""

    def __init__(self):
        self._served: Counter[str] = Counter()
        self._passed_on: Counter[tuple[str, str]] = Counter()

    @property
    def served(self) -> dict[str, int]:
        """How many calls were computed here: {class name: count}."""
        with _lock:
            return dict(self._served)

    @property
    def passed_on(self) -> dict[str, dict[str, int]]:
        """How many calls were left to Captum, and why: {class name: {reason: count}}."""
        found: dict[str, dict[str, int]] = {}
        with _lock:
            for (name, reason), count in self._passed_on.items():
                found.setdefault(name, {})[reason] = count
        return found

    def __str__(self) -> str:
        served, passed_on = self.served, self.passed_on
        left = {name: sum(reasons.values()) for name, reasons in passed_on.items()}
        lines = [f"Captum's classes: {sum(served.values())} calls served, {sum(left.values())} passed on to Captum"]
        for name in sorted({*served, *left}):
            lines.append(f"  {name}: {served.get(name, 0)} served, {left.get(name, 0)} passed on")
            lines += [f"    {count} x {reason}" for reason, count in passed_on.get(name, {}).items()]
        return "\n".join(lines)


def _note(name: str, reason: str | None) -> None:
    """Count one call of a class; `reason` where it is passed on."""
    if reason is not None:
        _logger.debug("%s passes on to Captum: %s", name, reason)
    with _lock:
        for report in _reports:
            if reason is None:
                report._served[name] += 1
            else:
                report._passed_on[name, reason] += 1


def drop_in(original: type) -> Callable:
    """Decorator that makes of our computation the method `attribute` of a subclass of a class of Captum's.

    Where ours raises, the call goes to `original`. The method has Captum's signature and, for classes that call one
    another so, `__wrapped__`.
    """
    theirs = original.attribute

    def decorate(ours: Callable) -> Callable:
        @log_usage(part_of_slo=True)
        @functools.wraps(getattr(theirs, "__wrapped__", theirs))
        def attribute(self, *args, **kwargs):
            try:
                result = ours(self, *args, **kwargs)
            except PassOn as why:
                reason = str(why)
            except Exception as why:  # the original says what is wrong, or can do it
                reason = f"{type(why).__name__}: {why}".splitlines()[0][:200]
            else:
                _note(original.__name__, None)
                return result
            _note(original.__name__, reason)
            return theirs(self, *args, **kwargs)

        return attribute

    return decorate


def replaces(original: type) -> Callable[[type], type]:
    """Decorator: this class is the one that `install` puts in the place of a class of Captum's."""

    def add(ours: type) -> type:
        _replacements[original] = ours
        return ours

    return add


def is_ours(attribution: object) -> bool:
    """Whether an object of Captum's interface is one of this package."""
    return isinstance(attribution, tuple(_replacements.values()))


def check_gradient_func(attribution) -> None:
    """PassOn where something has set the function that computes gradients."""
    if attribution.gradient_func is not compute_gradients:
        raise PassOn("gradient_func was replaced")


def install() -> Report:
    """Put our classes in the place of Captum's in all of Captum's modules, until `uninstall`.

    Names that other modules have imported before stay Captum's. Returns the report that counts the calls from the
    first `install` on.
    """
    global _installed
    with _lock:
        if _installed is None:
            _installed = Report()
            _reports.append(_installed)
            _rebind(_replacements)
        return _installed


def uninstall() -> None:
    """Put Captum's classes back, unless an `accelerate` is open, which does so at its end."""
    global _installed
    with _lock:
        if _installed is not None:
            _reports.remove(_installed)
            _installed = None
            _restore()


@contextmanager
def accelerated(report: bool = False) -> Iterator[Report]:
    """As `install` and `uninstall`; may be nested, also within these. `report`: print the report at the end."""
    global _contexts
    counts = Report()
    with _lock:
        _contexts += 1
        _reports.append(counts)
        _rebind(_replacements)
    try:
        yield counts
    finally:
        with _lock:
            _contexts -= 1
            _reports.remove(counts)
            _restore()
        if report:
            print(counts)


def _restore() -> None:
    if _installed is None and not _contexts:
        _rebind({ours: original for original, ours in _replacements.items()})


def _rebind(replacements: dict[type, type]) -> None:
    """Replace classes by others in every module of Captum, those imported meanwhile too."""
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] == "captum":
            for name, value in list(vars(module).items()):
                if isinstance(value, type) and value in replacements:
                    setattr(module, name, replacements[value])
