"""Criteria of points: in the box, in the mask, near the centre."""

from __future__ import annotations

from collections.abc import Callable

CRITERIA: tuple[Callable[..., float], ...] = ()
"""What a preset may name."""
