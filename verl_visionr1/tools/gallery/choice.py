"""Which prompt groups are shown where not all are."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping

from verl_visionr1.tools.gallery.census import Group
from verl_visionr1.tools.gallery.settings import Sampling


def chosen(groups: Mapping[Hashable, Group], limit: int, sample: Sampling) -> list[Hashable]:
    """Keys of whole groups, at most `limit` rollouts in all but at least one group, in the order of the dumps.

    Args:
        groups: in the order of the dumps and their steps.
        limit: rollouts.
        sample: "even" takes them at even distances, "last" from the last step of each dump backwards.
    """
    keys = list(groups)
    if sum(len(groups[key].values) for key in keys) <= limit:
        return keys
    if sample == "even":
        order = [keys[place] for place in _spread(len(keys))]
    else:
        order = sorted(keys, key=lambda key: _step(groups[key]), reverse=True)
    kept: set[Hashable] = set()
    left = limit
    for key in order:
        size = len(groups[key].values)
        if size <= left or not kept:
            kept.add(key)
            left -= size
        if left <= 0:
            break
    return [key for key in keys if key in kept]


def _step(group: Group) -> float:
    return -math.inf if group.step is None else group.step


def _spread(n: int) -> list[int]:
    """0..n-1 in an order of which every start lies evenly: bit by bit halved (van der Corput).

    >>> _spread(5)
    [0, 4, 2, 1, 3]
    """
    bits = max(n - 1, 1).bit_length()
    order = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(1 << bits))
    return [place for place in order if place < n]
