"""Entries -> `Item`s: of entries with a phrase or question, and of boxes with labels, planned as for COCO."""

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
from verl_visionr1.conversion.records.fields import Entry, labels_of
from verl_visionr1.conversion.records.source import RecordSource
from verl_visionr1.conversion.values import ADVICE
from verl_visionr1.conversion.vocabulary import LEFT_OUT, AnnotatedImage, Columns, named_once, visible_form
from verl_visionr1.criteria.text import named_option
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.images import EmbeddedImage


def items_of_questions(
    source: RecordSource, ledger: Ledger, *, split: str, keep_prompts: bool, with_images: bool = True
) -> Iterator[Item]:
    """Yield one item for each entry; bad ones go to the ledger.

    Args:
        split: of records with a split.
        keep_prompts: use the records' exact prompts.
        with_images: without images, items serve only to inspect their ground truth.
    """
    entries = (entry for _, entry in source.entries(ledger, split, with_images=with_images))
    if source.layout.is_one_box_a_record:
        entries = _merge(source, entries, ledger)
    for entry in entries:
        with ledger.skipping():
            yield _item(source, entry, keep_prompts, with_images)


def _merge(source: RecordSource, entries: Iterator[Entry], ledger: Ledger) -> Iterator[Entry]:
    """Merge entries with the same image and question, in the order of the first."""
    merged: dict[tuple[str, tuple[str, ...], str | None], Entry] = {}
    for entry in entries:
        first = merged.setdefault((source.image_key(entry), entry.phrase, entry.question), entry)
        if first.size_wh != entry.size_wh:
            sizes = f"{entry.size_wh}, and {first.size_wh} in {first.where}"
            ledger.skip(RowError("image of two sizes", f"{entry.where}: width and height {sizes}; {ADVICE}"))
        elif first is not entry:
            first.boxes = [*(first.boxes or ()), *(entry.boxes or ())]
    for entry in merged.values():
        entry.boxes = entry.boxes or []
        yield entry


def _item(source: RecordSource, entry: Entry, keep_prompts: bool, with_images: bool) -> Item:
    phrases = entry.phrase
    if not phrases and entry.boxes is not None and entry.question:
        phrases = entry.label or (entry.question,)
    phrases = tuple(named_once(phrases)[0])
    spelled = {visible_form(phrase): phrase for phrase in phrases}
    entry.label = [spelled.get(visible_form(label), label) for label in entry.label]
    task = _task(entry, phrases)
    if not entry.question and (task == "text" or not phrases):
        lacks = "an answer in words, but no question" if phrases else "neither phrase nor question"
        raise RowError("nothing asked", f"{entry.where}: {lacks}; {ADVICE}")
    prompt = entry.wording or entry.question
    if keep_prompts and prompt is None:
        raise RowError("no prompt", f"{entry.where}: no own prompt, which --keep-prompts needs; {ADVICE}")
    truth = {"phrases": phrases, "boxes_xyxy": entry.corners, "points_xy": entry.points or (), "count": entry.count}
    if task == "text":
        truth = {"answer": entry.answer, "choices": _choices(entry)}
    return Item(
        where=entry.where,
        image=source.image_in(entry.image, entry.where) if with_images else Path(),
        task=task,
        question=entry.question,
        prompt=prompt if keep_prompts else None,
        annotated_wh=entry.size_wh,
        written=entry.box_format,
        labels=_labels(entry, phrases),
        image_id=entry.image_id,
        file_name=entry.file_name,
        split=entry.split or None,
        source_ann={"entry": entry.where},
        **truth,
    )


def _task(entry: Entry, phrases: Sequence[str]) -> str:
    if entry.task is not None:
        return entry.task
    if entry.count is not None:
        return "counting"
    if entry.boxes is not None:
        return "detection" if len(phrases) > 1 else "grounding"
    if entry.points is not None:
        return "pointing"
    if entry.answer is not None:
        return "text"
    reason = "neither boxes, points, count nor answer (they are missing or null)"
    advice = "write [] (a count: 0) if no object fits, or remove the entry"
    raise RowError("no ground truth", f"{entry.where}: {reason}; {advice}")


def _labels(entry: Entry, phrases: Sequence[str]) -> list[str]:
    """Return one label per object: its own, else the one phrase, with which answers are compared."""
    n_objects = len(entry.points or ()) if entry.boxes is None else len(entry.boxes)
    if entry.label:
        _check_labels(entry, n_objects)
    if len(phrases) == 1:
        return [phrases[0]] * n_objects
    if entry.label or not n_objects or not phrases:
        return entry.label
    raise RowError("box without a phrase", f"{entry.where}: {len(phrases)} phrases, but boxes without labels; {ADVICE}")


def _check_labels(entry: Entry, n_objects: int) -> None:
    if len(entry.label) != n_objects:
        counted = f"{len(entry.label)} labels for {n_objects} boxes"
        raise RowError("lists differ in length", f"{entry.where}: {counted}; {ADVICE}")


def _choices(entry: Entry) -> Sequence[str]:
    if entry.choices and named_option(entry.answer or "", entry.choices) is None:
        reason = f"answer {(entry.answer or '')[:60]!r} is none of {', '.join(entry.choices)[:100]}"
        raise RowError("answer is no option", f"{entry.where}: {reason}; {ADVICE}")
    return entry.choices


# ---------------------------------------------------------------------------------------------- a vocabulary


def items_of_vocabulary(
    source: RecordSource, labels: Sequence[str], flags: VocabularyFlags, ledger: Ledger
) -> tuple[Iterator[Item], int]:
    """Return the planned items and their number; `RowsError` if there are no labels.

    Embedded images are read again, in order, when their items are made; memory holds one at a time.
    """
    if not labels:
        raise RowsError(f"{source.name}: no box with a label; check --column label and boxes")
    box_format = source.layout.box_format or NAMED["xyxy-abs"]  # without a format there are no boxes
    names, _ = named_once(labels, ledger)
    reader = _Reader(source, flags.columns(source.name, names, ledger, box_format))
    reader.read(flags.split)
    data = reader.columns.finish()
    asks = plan(data, flags, ledger)
    items = items_of(data, asks)
    return (_with_bytes(source, items, asks, reader.numbers) if reader.has_bytes else items), len(asks)


class _Reader:
    """Adds entries to `columns`; `numbers`: the record of each image."""

    def __init__(self, source: RecordSource, columns: Columns) -> None:
        self.source, self.columns, self.ledger = source, columns, columns.ledger
        self.numbers = array("q")
        self.has_bytes = False
        self._index = {visible_form(label): i for i, label in enumerate(columns.names)}
        self._bad: list[tuple[str, str, list[str]]] = []  # place, image, labels

    def read(self, split: str) -> None:
        """Read all records of a split. Labels without a usable box are recorded: they do not count as absent."""
        for number, entry in self.source.entries(self.ledger, split, on_bad=self._on_bad):
            with self.ledger.skipping():
                self._add(number, entry)
        for where, key, labels in self._bad:
            image = self.columns.number_of.get(key, LEFT_OUT)
            for label in sorted(self._index.keys() & set(map(visible_form, labels))) if image != LEFT_OUT else ():
                self.columns.refuse(image, self._index[label], where, None)  # already in the ledger

    def _on_bad(self, entry: Entry) -> None:
        labels: list[str] = []
        with suppress(RowError):
            labels = labels_of(entry.label, entry.where, self.source.layout.class_names)
        self._bad.append((entry.where, self.source.image_key(entry), labels))

    def _add(self, number: int, entry: Entry) -> None:
        key = self.source.image_key(entry)
        boxes = entry.boxes or ()
        if len(entry.label) != len(boxes):
            self._on_bad(entry)
        _check_labels(entry, len(boxes))
        if key not in self.columns.number_of:
            self.columns.leave_out(key)  # should it fail
            self._add_image(entry, key)
            self.numbers.append(number)
        image = self.columns.number_of[key]
        if image == LEFT_OUT:
            self.ledger.left_out["record of an image left out"] += 1
            return
        place = entry.where.partition(": ")[2]
        for i, (box, label) in enumerate(zip(boxes, entry.label, strict=True)):
            self.columns.add(image, self._index[visible_form(label)], box, f"{place}, box {i}", written=box)

    def _add_image(self, entry: Entry, key: str) -> None:
        image = self.source.image_in(entry.image, entry.where)
        self.has_bytes |= isinstance(image, EmbeddedImage)
        path = image if isinstance(image, Path) else Path(entry.where)
        size_wh = entry.size_wh or size_of_unturned(image, entry.where)
        self.columns.add_image(AnnotatedImage(entry.image_id or entry.where, entry.file_name, path, size_wh), key)


def _with_bytes(
    source: RecordSource, items: Iterator[Item], asks: Sequence[Ask], numbers: Sequence[int]
) -> Iterator[Item]:
    """Add image bytes to items; both are in the order of the records."""
    records = enumerate(source.records())
    current, where, image = -1, "", Path()
    for item, ask in zip(items, asks, strict=True):
        while current < numbers[ask.image]:
            current, (where, record) = next(records)
            if current == numbers[ask.image]:
                image = source.image_in(source.layout.entry(where, record).image, where)
        image_id = "" if item.image_id == where else item.image_id  # a place in the file is no image id
        yield replace(item, image=image, image_id=image_id)
