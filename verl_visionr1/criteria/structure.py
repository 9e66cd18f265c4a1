"""Criteria of the text's structure: templates, length, repetition."""

from __future__ import annotations

from collections.abc import Callable

CRITERIA: tuple[Callable[..., float], ...] = ()
"""What a preset may name."""
