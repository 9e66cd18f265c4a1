"""Formats of models that verl does not train: Griffon-G's `label-[0.123,...]&...` and PaliGemma's `<loc....>`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from verl_visionr1.answers.base import MAX_BOXES, Answer, AnswerFormat, Defect
from verl_visionr1.answers.draft import Draft
from verl_visionr1.answers.envelope import empty_answer, unwrap

_UNIT_NUMBER = re.compile(r"[01]\.[0-9]{3}")
_LOCATION = re.compile(r"<loc([0-9]{4})>")
_SEGMENT = re.compile(r"<seg[0-9]{3}>")


def parse_griffon(text: str) -> Answer:
    """Read Griffon-G's `label-[0.123,0.456,0.789,0.999]&label-[...]`, frame "unit"; `None` and `[]` are empty answers.

    If the prompt names one phrase, its label may be missing: `[0.123,0.456,0.789,0.999]`. Well-formed numbers have
    exactly three decimals. The last `-` before the bracket ends the label.
    """
    body, defects = unwrap(text)
    empty = empty_answer(body, defects)
    if empty is not None:
        return empty
    draft = Draft(defects)
    pieces = body.split("&")
    if len(pieces) > MAX_BOXES:
        draft.skip(sum(piece.count("[") for piece in pieces[MAX_BOXES:]))
        del pieces[MAX_BOXES:]
    for i, piece in enumerate(pieces):
        _read_labelled(draft, piece.strip(), is_last=i + 1 == len(pieces))
        for _ in range(piece.count("[") - 1):  # boxes without "&" between them: one is read, the others are dropped
            draft.drop(Defect.MALFORMED)
    return draft.answer()


def _read_labelled(draft: Draft, piece: str, *, is_last: bool) -> None:
    label, bracket, rest = piece.rpartition("[")
    content, is_closed, after = rest.partition("]")
    if not bracket:
        draft.add_defect(Defect.TRUNCATED if is_last and piece else Defect.NO_LIST)
    elif not is_closed and is_last:
        draft.add_defect(Defect.TRUNCATED)
    elif not is_closed:
        draft.drop()
    else:
        if after:
            draft.add_defect(Defect.PROSE)
        numbers = content.split(",")
        is_exact = all(_UNIT_NUMBER.fullmatch(number.strip()) for number in numbers)
        n_before = len(draft.labels)
        draft.add_box(
            _read_numbers(numbers) if is_exact or len(numbers) == 4 else None, label.removesuffix("-").strip()
        )
        if len(draft.labels) > n_before and not is_exact:
            draft.add_defect(Defect.MALFORMED)


def _read_numbers(numbers: Sequence[str]) -> list[float] | None:
    if any(len(number) > 40 for number in numbers):
        return None
    try:
        return list(map(float, numbers))
    except ValueError:
        return None


def parse_paligemma(text: str) -> Answer:
    """Read `<loc....>` four times (y1, x1, y2, x2 in bins) and a label; ` ; ` separates objects.

    If the prompt names one phrase, the label may be missing. Empty answers: `None`, `[]`, or no text at all, since the
    prompt (`detect cat`) cannot ask for a word. Segmentation tokens are skipped.
    """
    body, defects = unwrap(text)
    if not body and defects == (Defect.EMPTY,):
        return Answer()
    empty = empty_answer(body, defects)
    if empty is not None:
        return empty
    draft = Draft(defects)
    pieces = body.split(";")
    if len(pieces) > MAX_BOXES:
        draft.skip(sum("<loc" in piece for piece in pieces[MAX_BOXES:]))
        del pieces[MAX_BOXES:]
    for i, piece in enumerate(pieces):
        _read_bins(draft, piece.strip(), is_last=i + 1 == len(pieces))
    if "" in draft.labels and any(draft.labels):
        draft.add_defect(Defect.NO_LABEL)
    return draft.answer()


def _read_bins(draft: Draft, piece: str, *, is_last: bool) -> None:
    # Text before, between and after the bins: text, bin, text, bin, ..., text.
    before, *rest = _LOCATION.split(_SEGMENT.sub("", piece))
    bins, between, label = rest[::2], rest[1:-1:2], rest[-1].strip() if rest else ""
    if not bins:
        is_cut = not before or before.rfind("<") > before.rfind(">")
        draft.add_defect(Defect.TRUNCATED if is_last and is_cut else Defect.NO_LIST)
        return
    if before.strip() or any(text.strip() for text in between):
        draft.add_defect(Defect.PROSE)
    if is_last and len(bins) < 4 and (not label or label.startswith("<")):
        draft.add_defect(Defect.TRUNCATED)
        return
    numbers = tuple(map(float, bins[:8]))
    if len(numbers) == 4:
        y1, x1, y2, x2 = numbers
        numbers = (x1, y1, x2, y2)
    draft.add_box(numbers, label)


_CATEGORY_SET = (
    "Examine the image for any objects from the category set. Report the coordinates of each detected object. "
    "The category set includes {phrases}."
)
GRIFFON = AnswerFormat(
    "griffon",
    parse_griffon,
    "cat-[0.100,0.200,0.300,0.400]&dog-[0.500,0.500,0.900,1.000]",
    {
        "detection": _CATEGORY_SET,
        "grounding": "Can you point out {phrase} in the image and provide the coordinates of its location?",
        "counting": _CATEGORY_SET,
    },
    " If there is none, output None.",
    frames=("unit",),
)
PALIGEMMA = AnswerFormat(
    "paligemma",
    parse_paligemma,
    "<loc0020><loc0010><loc0040><loc0030> cat ; <loc0060><loc0050><loc0080><loc0070> dog",
    {"detection": "detect {phrases}", "grounding": "detect {phrase}", "counting": "detect {phrase}"},
    separator=" ; ",
    frames=("paligemma",),
)
