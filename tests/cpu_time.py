"""CPU time as ratios within one run: a machine may be slow and busy, but what is linear stays linear.

Seconds say nothing on a loaded machine. A test that guards against a quadratic scan compares one function at two sizes.
"""

import time
import timeit
from collections.abc import Callable

SIZE_RATIO = 8
LIMIT = 22  # linear work takes 8 times as long for 8 times the size, quadratic work 64 times
FLOOR_S = 0.004  # below this, a clock tick or a collection of garbage decides


def cpu_seconds(work: Callable[[], object], *, repeats: int = 3) -> float:
    """Smallest CPU time of several calls, in seconds."""
    return min(timeit.repeat(work, timer=time.process_time, number=1, repeat=repeats))


def is_quick(work: Callable[[], object], limit_s: float) -> bool:
    """Whether one of three calls takes less CPU time. The limit is a wide one: a test machine may be slow and busy."""
    return any(cpu_seconds(work, repeats=1) < limit_s for _ in range(3))


def grows_too_fast(work: Callable[[int], object], size: int) -> bool:
    """Whether ``work(size)`` takes much more than ``SIZE_RATIO`` times the CPU time of ``work(size / SIZE_RATIO)``."""
    large = cpu_seconds(lambda: work(size), repeats=1)
    if large <= LIMIT * FLOOR_S or large <= LIMIT * cpu_seconds(lambda: work(size // SIZE_RATIO)):
        return False
    # A second look, since other work may have slowed the first.
    return cpu_seconds(lambda: work(size)) > LIMIT * max(cpu_seconds(lambda: work(size // SIZE_RATIO)), FLOOR_S)
