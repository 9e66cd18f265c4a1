"""What a criterion says of itself besides its number: that it may take long, and what it needs to be installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., float])


def may_block(fn: F) -> F:
    """Mark a criterion that may take long (milliseconds, or seconds): training judges its rows in a thread."""
    fn.may_block = True  # type: ignore[attr-defined]
    return fn


def needs(module: str, install: str) -> Callable[[F], F]:
    """Mark a criterion that needs an optional package; a run that uses it is refused at its start without it.

    Args:
        module: its import name.
        install: what pip is to be told.
    """

    def marked(fn: F) -> F:
        fn.needs = (module, install)  # type: ignore[attr-defined]
        return fn

    return marked
