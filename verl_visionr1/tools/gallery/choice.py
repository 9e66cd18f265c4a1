"""Which prompt groups are shown where not all are."""

from __future__ import annotations

import numpy as np

from verl_visionr1.rollouts.judged import Ints
from verl_visionr1.tools.gallery.settings import Sampling


def chosen(sizes: Ints, steps: Ints, limit: int, sample: Sampling) -> list[int]:
    """Numbers of whole groups, at most `limit` rollouts in all but at least one group, in the order of the dumps.

    Args:
        sizes: rollouts of each group, in the order of the dumps and their steps.
        steps: step of each.
        sample: "even" takes them at even distances, "last" from the last step of each dump backwards.
    """
    if sizes.sum() <= limit:
        return list(range(len(sizes)))
    order = _spread(len(sizes)) if sample == "even" else np.argsort(-steps, kind="stable").tolist()
    kept: list[int] = []
    left = limit
    for number in order:
        size = int(sizes[number])
        if size <= left or not kept:
            kept.append(number)
            left -= size
        if left <= 0:
            break
    return sorted(kept)


def _spread(n: int) -> list[int]:
    """0..n-1 in an order of which every start lies evenly: bit by bit halved (van der Corput).

    >>> _spread(5)
    [0, 4, 2, 1, 3]
    """
    bits = max(n - 1, 1).bit_length()
    order = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(1 << bits))
    return [place for place in order if place < n]
