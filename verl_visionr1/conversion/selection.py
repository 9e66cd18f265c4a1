"""Which items become rows: exclusion lists, `--max-instances`, `--negatives`, `--limit`.

Items are streamed. A random draw keeps the drawn items (`--limit`) or all (`--negatives`), without image bytes.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import IO

from verl_visionr1.conversion.flags import Flags
from verl_visionr1.conversion.items import Item
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.images import EmbeddedImage


def selected(items: Iterable[Item], flags: Flags, ledger: Ledger) -> Iterator[Item]:
    """Return the items that the flags keep, in their order; the others are counted."""
    kept = _filter(items, flags, ledger)
    if flags.share_of_negatives is not None:
        kept = _limit_negatives(kept, flags.share_of_negatives, random.Random(flags.seed), ledger)
    if flags.limit is not None:
        kept = _draw(kept, flags.limit, random.Random(flags.seed), ledger)
    return kept


def _filter(items: Iterable[Item], flags: Flags, ledger: Ledger) -> Iterator[Item]:
    for item in items:
        if flags.excluded.holds(item.image_id, item.file_name, item.identities):
            ledger.left_out["row of an image on the exclusion list (--exclude-image-ids)"] += 1
        elif item.task != "text" and item.n_objects > flags.max_instances:
            ledger.left_out[f"{item.task} row with more than {flags.max_instances} objects (--max-instances)"] += 1
        else:
            yield item


def _limit_negatives(items: Iterable[Item], fraction: float, rng: random.Random, ledger: Ledger) -> Iterator[Item]:
    """Keep negatives until they are `fraction` of all items; fewer if there are not enough."""
    with tempfile.TemporaryFile() as file:
        shelf = _Shelf(file)
        shelved = [shelf.put(item) for item in items]
        negatives = [i for i, item in enumerate(shelved) if item.is_negative]
        wanted = round(fraction / (1 - fraction) * (len(shelved) - len(negatives)))
        missing = max(wanted - len(negatives), 0)
        ledger.notes["negatives missing: the data set has no more"] += missing
        ledger.left_out["negative over --negatives"] += len(negatives) - wanted + missing
        dropped = set(negatives) - set(rng.sample(negatives, wanted - missing))
        yield from (shelf.take(item) for i, item in enumerate(shelved) if i not in dropped)


def _draw(items: Iterable[Item], limit: int, rng: random.Random, ledger: Ledger) -> Iterator[Item]:
    """Draw `limit` items uniformly (reservoir sampling), in their order."""
    with tempfile.TemporaryFile() as file:
        shelf = _Shelf(file)
        reservoir: list[tuple[int, Item]] = []
        number = -1
        for number, item in enumerate(items):
            if number < limit:
                reservoir.append((number, shelf.put(item)))
            elif (place := rng.randrange(number + 1)) < limit:
                reservoir[place] = (number, shelf.put(item))
        if number + 1 > limit:
            ledger.left_out["row over --limit"] += number + 1 - limit
        yield from (shelf.take(item) for _, item in sorted(reservoir, key=lambda pair: pair[0]))


@dataclass(frozen=True, slots=True)
class _Shelved(EmbeddedImage):
    """An image whose bytes are in the shelf's file."""

    offset: int = 0
    length: int = 0


class _Shelf:
    """Keeps items during a draw; the bytes of embedded images are kept in a temporary file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._last: tuple[EmbeddedImage, _Shelved] | None = None

    def put(self, item: Item) -> Item:
        """Return the item without its image's bytes; successive items of one image share them."""
        image = item.image
        if not isinstance(image, EmbeddedImage):
            return item
        if self._last is None or self._last[0] is not image:
            offset = self._file.seek(0, os.SEEK_END)
            self._file.write(image.data)
            self._last = image, _Shelved(image.name, b"", offset, len(image.data))
        return replace(item, image=self._last[1])

    def take(self, item: Item) -> Item:
        """Return the item with its image's bytes."""
        image = item.image
        if not isinstance(image, _Shelved):
            return item
        self._file.seek(image.offset)
        return replace(item, image=EmbeddedImage(image.name, self._file.read(image.length)))
