"""Which items become rows: exclusion lists, `--max-instances`, `--negatives`, `--limit`.

Items stream through, so that memory does not grow with a data set; a draw keeps only what it has drawn.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from verl_visionr1.conversion.flags import Flags
from verl_visionr1.conversion.items import Item
from verl_visionr1.conversion.ledger import Ledger


def selected(items: Iterable[Item], flags: Flags, ledger: Ledger) -> Iterator[Item]:
    """The items that the flags leave, in their order; what was left out is counted."""
    kept = _kept(items, flags, ledger)
    if flags.share_of_negatives is not None:
        kept = _with_share_of_negatives(kept, flags.share_of_negatives, random.Random(flags.seed), ledger)
    if flags.limit is not None:
        kept = _drawn(kept, flags.limit, random.Random(flags.seed), ledger)
    return iter(kept)


def _kept(items: Iterable[Item], flags: Flags, ledger: Ledger) -> Iterator[Item]:
    for item in items:
        if flags.excluded.holds(item.image_id, item.file_name, item.identities):
            ledger.left_out["row of an image on the exclusion list"] += 1
        elif item.task != "text" and item.n_objects > flags.max_instances:
            ledger.left_out[f"{item.task} row with more than {flags.max_instances} objects"] += 1
        else:
            yield item


def _with_share_of_negatives(
    items: Iterable[Item], fraction: float, rng: random.Random, ledger: Ledger
) -> Iterable[Item]:
    """So many of the negatives that they are `fraction` of all; fewer where there are not enough."""
    all_items = list(items)
    negatives = [i for i, item in enumerate(all_items) if item.is_negative]
    positives = len(all_items) - len(negatives)
    wanted = round(fraction / (1 - fraction) * positives)
    if wanted > len(negatives):
        ledger.notes["negatives missing: the data set has no more"] += wanted - len(negatives)
        return all_items
    ledger.left_out["negative over --negatives"] += len(negatives) - wanted
    dropped = set(negatives) - set(rng.sample(negatives, wanted))
    return [item for i, item in enumerate(all_items) if i not in dropped]


def _drawn(items: Iterable[Item], limit: int, rng: random.Random, ledger: Ledger) -> Iterable[Item]:
    """`limit` items drawn evenly (reservoir sampling), in their order."""
    reservoir: list[tuple[int, Item]] = []
    number = -1
    for number, item in enumerate(items):
        if number < limit:
            reservoir.append((number, item))
        elif (place := rng.randrange(number + 1)) < limit:
            reservoir[place] = (number, item)
    if number + 1 > limit:
        ledger.left_out["row over --limit"] += number + 1 - limit
    return [item for _, item in sorted(reservoir, key=lambda pair: pair[0])]
