"""What is wrong with the boxes that were read: labels, duplicates, junk, loose boxes, missed objects."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from msgspec.structs import replace

from verl_visionr1.answers import Defect
from verl_visionr1.boxes import iou
from verl_visionr1.targets import Target, normalize_label
from verl_visionr1.tools.explain.diagnosis.base import Exam, Finding, numbered, perfect_answer, plural, quoted
from verl_visionr1.tools.explain.diagnosis.repairs import gain_of, with_boxes, with_labels, with_places, without_boxes
from verl_visionr1.tools.explain.diagnosis.surplus import surplus_of, too_many
from verl_visionr1.tools.explain.diagnosis.verdicts import (
    BELOW,
    DUPLICATE,
    JUNK,
    MATCH,
    MISSED,
    WRONG_LABEL,
    Fate,
    Verdict,
    verdicts_of,
)

LEARN = "nothing to set: the model has to learn it"
OFF_TARGET = 0.5
"""A box that reaches less than this share of the needed IoU (of 0.5, where none is needed) is not nearly right."""
WHOLE_IMAGE = 0.9
"""IoU with the whole image from which a box is as large as it."""


def box_findings(exam: Exam) -> list[Finding]:
    """What each kind of fault among boxes and objects costs."""
    verdicts, fates = verdicts_of(exam)
    surplus = surplus_of(exam, verdicts, fates)
    few = [] if surplus else verdicts
    near, off = _by_nearness(exam, verdicts)
    return [
        *too_many(exam, surplus),
        *_unlabelled(exam, [verdict for verdict in _of(verdicts, WRONG_LABEL) if not verdict.label.strip()]),
        *_wrong_labels(exam, [verdict for verdict in _of(verdicts, WRONG_LABEL) if verdict.label.strip()]),
        *_duplicates(exam, _of(few, DUPLICATE)),
        *_junk(exam, _of(few, JUNK)),
        *_off_target(exam, off),
        *_below(exam, _of(near, BELOW)),
        *_loose(exam, _of(near, MATCH)),
        *_missed(exam, [fate for fate in fates if fate.counted_as == MISSED]),
    ]


def _by_nearness(exam: Exam, verdicts: Sequence[Verdict]) -> tuple[list[Verdict], list[Verdict]]:
    """Paired boxes that are at least nearly right, and those that are not."""
    least = OFF_TARGET * (exam.thresholds.match_iou if "thresholds" in exam.preset.looks_at else 0.5)
    near: list[Verdict] = []
    off: list[Verdict] = []
    for verdict in verdicts:
        if verdict.counted_as in (BELOW, MATCH):
            (near if (verdict.overlap or 0.0) >= least else off).append(verdict)
    return near, off


def _of(verdicts: Sequence[Verdict], kind: str) -> list[Verdict]:
    return [verdict for verdict in verdicts if verdict.counted_as == kind]


def _unlabelled(exam: Exam, bare: list[Verdict]) -> Iterator[Finding]:
    """Boxes without a label, where the format writes none; where it does, that is a defect of the text."""
    if not bare or Defect.NO_LABEL in exam.answer.defects:
        return
    have = "has" if len(bare) == 1 else "have"
    what = (
        f"no label: {numbered('box', 'boxes', (v.index for v in bare))} {have} no label, and several are asked for; "
        f"{exam.preset.answer_format} writes none"
    )
    right = {v.index: exam.target.labels[v.target] for v in bare if v.target is not None}
    fix = "take an answer format with labels, such as qwen-json"
    yield Finding("no label", what, fix, gain_of(exam, with_labels(exam.answer, right)))


def _wrong_labels(exam: Exam, wrong: list[Verdict]) -> Iterator[Finding]:
    if not wrong:
        return
    target = exam.target
    right = {v.index: target.labels[v.target] for v in wrong if v.target is not None}
    gain = gain_of(exam, with_labels(exam.answer, right))
    known = list(dict.fromkeys([*target.categories, *target.labels]))
    first = wrong[0]
    unknown = [v for v in wrong if normalize_label(v.label) not in {normalize_label(label) for label in known}]
    spoken, asked = _scripts(v.label for v in unknown), _scripts(known)
    if spoken and asked and spoken.isdisjoint(asked):
        what = (
            f"wrong language: {quoted(unknown[0].label)} is not among {_some(known)}: "
            f"{plural(len(unknown), 'label')} in another script than asked for"
        )
        yield Finding("wrong language", what, "ask for the category names as the data writes them", gain)
    elif unknown:
        more = f" ({plural(len(unknown), 'such label')})" if len(unknown) > 1 else ""
        what = f"wrong label: {quoted(unknown[0].label)} is not among {_some(known)}{more}"
        yield Finding("wrong label", what, "name the categories in the prompt, or convert the labels", gain)
    else:
        meant = target.labels[first.target] if first.target is not None else ""
        what = f"wrong label: box {first.index + 1} says {quoted(first.label)}, the object there is {quoted(meant)}"
        yield Finding("wrong label", what + (f" ({len(wrong)} such boxes)" if len(wrong) > 1 else ""), LEARN, gain)


def _some(labels: Sequence[str], limit: int = 6) -> str:
    return ", ".join(labels[:limit]) + (f" and {len(labels) - limit} more" if len(labels) > limit else "")


def _scripts(labels: Iterable[str]) -> set[str]:
    """The scripts that labels are written in, by the first word of their letters' names: LATIN, CJK, CYRILLIC, ..."""
    letters = {char for label in labels for char in label[:100] if char.isalpha()}
    return {unicodedata.name(char, "UNKNOWN").split()[0].removesuffix("-A") for char in letters}


def _duplicates(exam: Exam, repeated: list[Verdict]) -> Iterator[Finding]:
    if not repeated:
        return
    first = repeated[0]
    of = f"repeats box {first.repeats + 1}" if first.repeats is not None else "marks an object that is counted already"
    more = f" ({plural(len(repeated), 'such box', 'such boxes')})" if len(repeated) > 1 else ""
    what = f"duplicate: box {first.index + 1} {of} and costs precision{more}"
    gain = gain_of(exam, without_boxes(exam.answer, [v.index for v in repeated]))
    yield Finding("duplicate", what, LEARN, gain)


def _junk(exam: Exam, junk: list[Verdict]) -> Iterator[Finding]:
    n_claimed = len(junk) + (exam.answer.n_dropped if not exam.target.n_objects else 0)
    if not n_claimed:
        return
    answer = without_boxes(exam.answer, [v.index for v in junk])
    if not exam.target.n_objects:
        boxes = plural(n_claimed, "box", "boxes")
        what = f"false alarm: {boxes} on an image without {_wanted(exam.target)}"
        fix = "the right answer is []: let the prompt say so (allow_none), and keep negatives in the data"
        yield Finding("false alarm", what, fix, gain_of(exam, replace(answer, n_dropped=0)))
        return
    stands = "stands" if len(junk) == 1 else "stand"
    verb = f"{numbered('box', 'boxes', (v.index for v in junk))} {stands} on no object"
    yield Finding("junk", f"junk: {verb}", LEARN, gain_of(exam, answer))


def _wanted(target: Target) -> str:
    return f"any {_some(target.categories, 3)}" if target.categories else "the object"


def _off_target(exam: Exam, off: list[Verdict]) -> Iterator[Finding]:
    if not off:
        return
    best = max(off, key=lambda verdict: verdict.overlap or 0.0)
    more = f", the best of {len(off)} such boxes" if len(off) > 1 else ""
    width, height = exam.target.size_wh
    whole = [v for v in off if len(v.place) == 4 and iou(v.place, (0.0, 0.0, width, height)) >= WHOLE_IMAGE]
    whole_image = f"; {numbered('box', 'boxes', (v.index for v in whole))} {'is' if len(whole) == 1 else 'are'} "
    whole_image = f"{whole_image}as large as the image" if whole else ""
    what = f"off target: box {best.index + 1} reaches IoU {_down(best.overlap or 0.0)}{more}{whole_image}"
    fix = "no other frame that is known here fits: the model has to learn it (if all rows say so: visionr1 doctor)"
    yield Finding("off target", what, fix, _gain_moved(exam, off))


def _below(exam: Exam, below: list[Verdict]) -> Iterator[Finding]:
    if not below:
        return
    best = max(below, key=lambda verdict: verdict.overlap or 0.0)
    more = f" ({plural(len(below), 'such box', 'such boxes')})" if len(below) > 1 else ""
    what = (
        f"below the threshold: box {best.index + 1} reaches IoU {_down(best.overlap or 0.0)} "
        f"< {exam.thresholds.match_iou:.2f}{more}"
    )
    yield Finding("below the threshold", what, "start with an easier stage (schedule.stages)", _gain_moved(exam, below))


def _loose(exam: Exam, matched: list[Verdict]) -> Iterator[Finding]:
    loose = [verdict for verdict in matched if (verdict.overlap or 0.0) < 1.0 - 1e-6]
    if not loose:
        return
    full = exam.thresholds.iou_full if "thresholds" in exam.preset.looks_at else 1.0
    worst = min(loose, key=lambda verdict: verdict.overlap or 0.0)
    what = f"loose box: box {worst.index + 1} reaches IoU {_down(worst.overlap or 0.0)}; full credit from {full:.2f}"
    yield Finding("loose box", what, LEARN, _gain_moved(exam, loose))


def _gain_moved(exam: Exam, verdicts: list[Verdict]) -> float:
    """What these boxes would earn on the edges of their objects."""
    targets = perfect_answer(exam.target).boxes_xyxy
    return gain_of(
        exam, with_places(exam.answer, {v.index: targets[v.target] for v in verdicts if v.target is not None})
    )


def _down(overlap: float) -> str:
    """Rounded down, so that what lies below a threshold looks so too."""
    return f"{int(overlap * 100.0 + 1e-9) / 100.0:.2f}"


def _missed(exam: Exam, missed: list[Fate]) -> Iterator[Finding]:
    if not missed:
        return
    perfect = perfect_answer(exam.target)
    answer = with_boxes(exam.answer, [(perfect.boxes_xyxy[f.index], perfect.labels[f.index]) for f in missed])
    labels = _some([quoted(label) for label in dict.fromkeys(fate.label for fate in missed)], 3)
    what = f"missed {len(missed)} of {exam.target.n_objects}: {labels}"
    yield Finding("missed", what, LEARN, gain_of(exam, answer))
