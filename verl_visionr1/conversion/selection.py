"""Which items become rows: exclusion lists, `--max-instances`, `--negatives`, `--limit`.

Items stream through. A draw keeps what it has drawn (`--limit`), or all (`--negatives`), without the bytes of images.
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
    """The items that the flags leave, in their order; what was left out is counted."""
    kept = _kept(items, flags, ledger)
    if flags.share_of_negatives is not None:
        kept = _with_share_of_negatives(kept, flags.share_of_negatives, random.Random(flags.seed), ledger)
    if flags.limit is not None:
        kept = _drawn(kept, flags.limit, random.Random(flags.seed), ledger)
    return kept


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
) -> Iterator[Item]:
    """So many of the negatives that they are `fraction` of all; fewer where there are not enough."""
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


def _drawn(items: Iterable[Item], limit: int, rng: random.Random, ledger: Ledger) -> Iterator[Item]:
    """`limit` items drawn evenly (reservoir sampling), in their order."""
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
    """An image whose bytes wait in the shelf's file."""

    offset: int = 0
    length: int = 0


class _Shelf:
    """Keeps items while a draw is on; the bytes of images that a source holds itself wait in a temporary file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._last: tuple[EmbeddedImage, _Shelved] | None = None

    def put(self, item: Item) -> Item:
        """The item without its image's bytes; several items of one image in a row share them."""
        image = item.image
        if not isinstance(image, EmbeddedImage):
            return item
        if self._last is None or self._last[0] is not image:
            offset = self._file.seek(0, os.SEEK_END)
            self._file.write(image.data)
            self._last = image, _Shelved(image.name, b"", offset, len(image.data))
        return replace(item, image=self._last[1])

    def take(self, item: Item) -> Item:
        """The item as it was put."""
        image = item.image
        if not isinstance(image, _Shelved):
            return item
        self._file.seek(image.offset)
        return replace(item, image=EmbeddedImage(image.name, self._file.read(image.length)))
