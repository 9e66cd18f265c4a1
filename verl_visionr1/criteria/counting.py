"""Criteria of counts: exact, fuzzy, MRA, relative error."""

from __future__ import annotations

from collections.abc import Callable

CRITERIA: tuple[Callable[..., float], ...] = ()
"""What a preset may name."""
