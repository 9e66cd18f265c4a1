"""Entries that say what they ask -> `Item`s: grounding, pointing, counting, text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from verl_visionr1.conversion.items import Item
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.records.fields import Entry
from verl_visionr1.conversion.records.source import RecordSource
from verl_visionr1.conversion.values import ADVICE
from verl_visionr1.conversion.vocabulary import named_once, visible_form
from verl_visionr1.criteria.text import named_option
from verl_visionr1.files import RowError


def items_of_questions(
    source: RecordSource, ledger: Ledger, *, split: str, keep_prompts: bool, with_images: bool = True
) -> Iterator[Item]:
    """One item for each entry; bad ones go to the ledger.

    Args:
        split: of records that name theirs.
        keep_prompts: ask in the records' own words, to the letter.
        with_images: without them the items are good for a look at their ground truth only.
    """
    entries = (entry for _, entry in source.entries(ledger, split, with_images=with_images))
    if source.layout.columns.is_one_box_a_record:
        entries = _together(source, entries, ledger)
    for entry in entries:
        try:
            yield _item(source, entry, keep_prompts, with_images)
        except RowError as error:
            ledger.skip(error)


def _together(source: RecordSource, entries: Iterator[Entry], ledger: Ledger) -> Iterator[Entry]:
    """Entries of one image that ask the same, as one, in the order of their first."""
    merged: dict[tuple[str, tuple[str, ...], str | None], Entry] = {}
    for entry in entries:
        key = (source.image_key(entry.image, entry.where), entry.phrases, entry.question)
        first = merged.get(key)
        if first is not None and first.size_wh != entry.size_wh:
            sizes = f"{entry.size_wh}, and {first.size_wh} in {first.where}"
            ledger.skip(RowError("image of two sizes", f"{entry.where}: width and height {sizes}; {ADVICE}"))
            continue
        boxes = [*((first and first.boxes) or []), *(entry.boxes or [])]
        merged[key] = replace(first or entry, boxes=boxes)
    yield from merged.values()


def _item(source: RecordSource, entry: Entry, keep_prompts: bool, with_images: bool) -> Item:
    phrases = entry.phrases
    if not phrases and entry.boxes is not None and entry.question:
        phrases = tuple(entry.labels) or (entry.question,)
    phrases = tuple(named_once(phrases)[0])
    spelled = {visible_form(phrase): phrase for phrase in phrases}
    entry = replace(entry, labels=[spelled.get(visible_form(label), label) for label in entry.labels])
    task = _task(entry, phrases)
    if not phrases and not entry.question:
        raise RowError("nothing asked", f"{entry.where}: neither phrase nor question; {ADVICE}")
    prompt = entry.wording or entry.question
    if keep_prompts and prompt is None:
        raise RowError("no prompt", f"{entry.where}: no prompt of its own, which --keep-prompts needs; {ADVICE}")
    things = entry.boxes if entry.boxes is not None else entry.points
    return Item(
        where=entry.where,
        image=source.image(entry) if with_images else Path(),
        task=task,
        phrases=phrases if task != "text" else (),
        question=entry.question,
        prompt=prompt if keep_prompts else None,
        annotated_wh=entry.size_wh,
        written=entry.box_format,
        boxes_xyxy=entry.corners if task != "text" else (),
        labels=_labels(entry, phrases, len(things or ())),
        points_xy=(entry.points or ()) if task != "text" else (),
        count=entry.count,
        answer=entry.answer if task == "text" else None,
        choices=_choices(entry) if task == "text" else (),
        image_id=entry.image_id,
        file_name=entry.file_name,
        split=entry.split or None,
        source_ann={"entry": entry.where},
    )


def _task(entry: Entry, phrases: tuple[str, ...]) -> str:
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
    advice = "write [] (a count: 0) where what is asked for is not in the image, or remove the entry"
    raise RowError("no ground truth", f"{entry.where}: {reason}; {advice}")


def _labels(entry: Entry, phrases: tuple[str, ...], n_things: int) -> list[str]:
    """One label a thing: its own, else the one phrase."""
    if entry.labels and len(entry.labels) != n_things:
        counted = f"{len(entry.labels)} labels for {n_things} boxes"
        raise RowError("lists differ in length", f"{entry.where}: {counted}; {ADVICE}")
    if len(phrases) == 1:  # what an answer is compared with
        return [phrases[0]] * n_things
    if entry.labels or not n_things or not phrases:
        return entry.labels
    raise RowError("box without a phrase", f"{entry.where}: {len(phrases)} phrases, and boxes without labels; {ADVICE}")


def _choices(entry: Entry) -> tuple[str, ...]:
    if entry.choices and named_option(entry.answer or "", entry.choices) is None:
        reason = f"answer {(entry.answer or '')[:60]!r} is none of {', '.join(entry.choices)[:100]}"
        raise RowError("answer is no option", f"{entry.where}: {reason}; {ADVICE}")
    return entry.choices
