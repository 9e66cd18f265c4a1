"""Further criteria of detection from the field: V-Triune, big_vision, size-aware."""

from __future__ import annotations

from collections.abc import Callable

CRITERIA: tuple[Callable[..., float], ...] = ()
"""What a preset may name."""
