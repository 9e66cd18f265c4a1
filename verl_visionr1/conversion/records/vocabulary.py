"""Entries whose boxes have labels of a vocabulary -> planned `Item`s, as those of COCO."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from verl_visionr1.conversion.conventions import NAMED
from verl_visionr1.conversion.image_files import size_of_unturned
from verl_visionr1.conversion.items import Item
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.planning import Ask, VocabularyFlags, items_of, plan
from verl_visionr1.conversion.records.fields import Entry, Fields
from verl_visionr1.conversion.records.source import RecordSource, Survey
from verl_visionr1.conversion.records.values import labels_of
from verl_visionr1.conversion.values import ADVICE
from verl_visionr1.conversion.vocabulary import LEFT_OUT, AnnotatedImage, Columns, named_once, visible_form
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.images import EmbeddedImage


def items_of_vocabulary(
    source: RecordSource, found: Survey, flags: VocabularyFlags, ledger: Ledger
) -> tuple[Iterator[Item], int]:
    """The items that the flags plan, and how many they are.

    Images that records hold as bytes are read again, in order, when their items are made: memory holds one of them.

    Raises:
        RowsError: no labels at all.
    """
    name = ", ".join(path.name for path in source.files)
    if not found.labels and found.error is not None:
        raise found.error
    if not found.labels:
        raise RowsError(f"{name}: no box with a label; check --column label and boxes")
    box_format = source.layout.box_format or NAMED["xyxy-abs"]  # without one there are no boxes
    names, _ = named_once(found.labels, ledger)
    reader = _Reader(source, flags.columns(name, names, ledger, box_format))
    reader.read(flags.split)
    data = reader.columns.finish()
    asks = plan(data, flags, ledger)
    items = items_of(data, asks)
    return (_with_bytes(source, items, asks, reader.numbers) if reader.has_bytes else items), len(asks)


class _Reader:
    """Entries on their way into `columns`; `numbers`: the record of each image."""

    def __init__(self, source: RecordSource, columns: Columns) -> None:
        self.source, self.columns, self.ledger = source, columns, columns.ledger
        self.numbers = array("q")
        self.has_bytes = False
        self._index = {visible_form(label): i for i, label in enumerate(columns.names)}
        self._bad: list[tuple[str, str, list[str]]] = []

    def read(self, split: str) -> None:
        """Take all records of a split."""
        for number, entry in self.source.entries(self.ledger, split, on_bad=self._on_bad):
            with self.ledger.skipping():
                self._add(number, entry)
        for where, key, labels in self._bad:
            self._refuse(where, self.columns.number_of.get(key, LEFT_OUT), labels)

    def _on_bad(self, where: str, made: Fields) -> None:
        labels: list[str] = []
        with suppress(RowError):
            labels = labels_of(made.label, where, self.source.layout.class_names)
        self._bad.append((where, self.source.image_key(made.image, where), labels))

    def _refuse(self, where: str, image: int, labels: Sequence[str]) -> None:
        """What is there without a usable box must not be called absent."""
        for label in sorted(self._index.keys() & set(map(visible_form, labels))) if image != LEFT_OUT else ():
            self.columns.refuse(image, self._index[label], where, None)  # the ledger has it

    def _add(self, number: int, entry: Entry) -> None:
        key = self.source.image_key(entry.image, entry.where)
        n_boxes = len(entry.boxes or ())
        if len(entry.labels) != n_boxes:
            self._bad.append((entry.where, key, entry.labels))
            counted = f"{len(entry.labels)} labels for {n_boxes} boxes"
            raise RowError("lists differ in length", f"{entry.where}: {counted}; {ADVICE}")
        if key not in self.columns.number_of:
            self.columns.leave_out(key)  # should it fail
            self._add_image(entry, key)
            self.numbers.append(number)
        image = self.columns.number_of[key]
        if image == LEFT_OUT:
            self.ledger.left_out["record of an image left out"] += 1
        else:
            self._add_boxes(entry, image)

    def _add_image(self, entry: Entry, key: str) -> None:
        image = self.source.image(entry)
        self.has_bytes |= isinstance(image, EmbeddedImage)
        path = image if isinstance(image, Path) else Path(entry.where)
        size_wh = entry.size_wh or size_of_unturned(image, entry.where)
        self.columns.add_image(AnnotatedImage(entry.image_id or entry.where, entry.file_name, path, size_wh), key)

    def _add_boxes(self, entry: Entry, image: int) -> None:
        place = entry.where.partition(": ")[2]
        for i, (box, label) in enumerate(zip(entry.boxes or (), entry.labels, strict=True)):
            self.columns.add(image, self._index[visible_form(label)], box, f"{place}, box {i}", written=box)


def _with_bytes(
    source: RecordSource, items: Iterator[Item], asks: Sequence[Ask], numbers: Sequence[int]
) -> Iterator[Item]:
    """Items with the bytes of their images: both come in the order of the records."""
    records = enumerate(source.records())
    current, where, image = -1, "", None
    for item, ask in zip(items, asks, strict=True):
        while current < numbers[ask.image]:
            current, (where, record) = next(records)
            if current == numbers[ask.image]:
                image = source.image_in(source.fields(where, record).image, where)
        assert image is not None
        image_id = "" if item.image_id == where else item.image_id  # a place in the file names no image
        yield replace(item, image=image, image_id=image_id)
