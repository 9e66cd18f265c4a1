"""Criteria of answers in words: choice, yes/no, exact, number, edit similarity, math."""

from __future__ import annotations

from collections.abc import Callable

CRITERIA: tuple[Callable[..., float], ...] = ()
"""What a preset may name."""
