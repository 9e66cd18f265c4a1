"""Questions that are answered in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from verl_visionr1 import Target
from verl_visionr1.answers import Answer


def target(answer: str, choices: tuple[str, ...] = ()) -> Target:
    return Target(task="text", answer=answer, choices=choices)


def judged(fn: Callable[..., float], said: str, right: str, **options: Any) -> float:
    return fn(Answer(text=said), target(right), **options)
