"""Marks of a criterion: that it may take long, and the optional package that it needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., float])


def may_block(fn: F) -> F:
    """Mark a criterion that may take milliseconds or seconds: training scores its rows in a thread."""
    fn.may_block = True  # type: ignore[attr-defined]
    return fn


def needs(module: str, install: str) -> Callable[[F], F]:
    """Mark a criterion that needs an optional package; without it a run that uses the criterion does not start.

    Args:
        module: import name of the package.
        install: argument of `pip install`.
    """

    def mark(fn: F) -> F:
        fn.needs = (module, install)  # type: ignore[attr-defined]
        return fn

    return mark
