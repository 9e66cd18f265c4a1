"""Findings about a parsed answer: labels, duplicates, junk, wrong places, missed objects, counts, words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from msgspec.structs import replace

from verl_visionr1.answers import Defect
from verl_visionr1.boxes import iou
from verl_visionr1.rewards.completion import BOX_TASKS
from verl_visionr1.schedule import follow_model
from verl_visionr1.targets import normalize_label
from verl_visionr1.tools.explain.diagnosis.base import (
    BOX,
    LEARN,
    NO_COST,
    Exam,
    Finding,
    iou_text,
    numbered,
    perfect_answer,
    plural,
    quoted,
)
from verl_visionr1.tools.explain.diagnosis.repairs import (
    gain_of,
    repair_answer,
    with_labels,
    with_missed,
    with_more,
    with_places,
    without,
)
from verl_visionr1.tools.explain.diagnosis.verdicts import Fate, Verdict, verdicts_of
from verl_visionr1.tools.explain.diagnosis.writing import MAX_LOOKED_AT, words_of

OFF_TARGET = 0.5
"""A box below this share of the needed IoU (of 0.5, if none is needed) is off target, not merely below the
threshold."""
WHOLE_IMAGE = 0.9
"""IoU with the whole image from which a box counts as large as the image."""
MIN_SURPLUS, MIN_TIMES = 5, 3
""""Too many": at least this many surplus predictions, and at least this many predictions per object."""
Value = TypeVar("Value")


def content_findings(exam: Exam) -> list[Finding]:
    """Compare the answer with the target."""
    if exam.target.task == "counting":
        return list(_count(exam))
    return list(_text(exam) if exam.target.task == "text" else _places(exam))


def _places(exam: Exam) -> Iterator[Finding]:
    """Find what each kind of fault among predictions and objects costs."""
    verdicts, fates = verdicts_of(exam)
    kinds: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        kinds.setdefault(verdict.counted_as, []).append(verdict)
    surplus = _surplus(exam, verdicts, fates)
    yield from _wrong_labels(exam, kinds.get("wrong label", []))
    if surplus:
        yield _too_many(exam, surplus)
    else:
        yield from _duplicates(exam, kinds.get("duplicate", []))
        yield from _junk(exam, kinds.get("junk", []))
    if exam.target.task in BOX_TASKS:
        yield from _box_places(exam, kinds)
    else:
        yield from _point_places(exam, kinds)
    yield from _missed(exam, [fate for fate in fates if fate.counted_as == "missed"])


def _surplus(exam: Exam, verdicts: Sequence[Verdict], fates: Sequence[Fate]) -> list[Verdict]:
    """Predictions without an object; empty if they are few, or if the target has no objects."""
    kept = {fate.prediction for fate in fates}
    surplus = [verdict for verdict in verdicts if verdict.index not in kept and verdict.counted_as != "ignored"]
    n_objects = exam.target.n_objects
    is_much = len(surplus) >= MIN_SURPLUS and len(surplus) + len(kept - {None}) >= MIN_TIMES * n_objects
    return surplus if n_objects and is_much else []


def _too_many(exam: Exam, surplus: Sequence[Verdict]) -> Finding:
    """Weigh the surplus as a whole: one box of many costs almost nothing, all of them cost almost all precision.

    The cost is that for this answer, or for a right answer with the same surplus, whichever is larger.
    """
    nouns = exam.nouns[1]
    n_repeated = sum(verdict.counted_as == "duplicate" for verdict in surplus)
    parts = f"{n_repeated} repeat another, {len(surplus) - n_repeated} match no object"
    n_objects = plural(exam.target.n_objects, "object")
    what = f"too many {nouns}: {exam.answer.n_predicted} for {n_objects} ({parts}); each costs precision"
    right = replace(perfect_answer(exam.target), n_dropped=exam.answer.n_dropped, defects=exam.answer.defects)
    crowded = with_more(right, [(verdict.place, verdict.label) for verdict in surplus])
    beside_right = repair_answer(exam, right).value - repair_answer(exam, crowded).value
    gain = max(beside_right, gain_of(exam, without(exam.answer, surplus)))
    return Finding(f"too many {nouns}", what, f"ask for each object once; else {LEARN}", gain)


def _wrong_labels(exam: Exam, wrong: list[Verdict]) -> Iterator[Finding]:
    target, noun = exam.target, exam.nouns[0]
    bare = [verdict for verdict in wrong if not verdict.label.strip()]
    if bare and Defect.NO_LABEL not in exam.answer.defects:  # else it is a defect of the text
        what = f"no label: {numbered(exam.nouns, (v.index for v in bare))} without label, and several are asked for"
        fix = "use an answer format with labels, such as qwen-json"
        yield Finding("no label", what, fix, _gain_labelled(exam, bare))
    wrong = [verdict for verdict in wrong if verdict.label.strip()]
    if not wrong:
        return
    known = list(dict.fromkeys([*target.categories, *target.labels]))
    unknown = [v for v in wrong if normalize_label(v.label) not in map(normalize_label, known)]
    first = (unknown or wrong)[0]
    if unknown:
        shown = f"{quoted(first.label)} is not among {_some(known)}"
        fix = "name the categories in the prompt, or convert the labels"
    else:
        meant = target.labels[first.target] if first.target is not None else ""
        shown = f"{noun} {first.index + 1} has label {quoted(first.label)}, the object there is {quoted(meant)}"
        fix = LEARN
    what = f"wrong label: {shown}{_such(unknown or wrong, 'labels')}"
    yield Finding("wrong label", what, fix, _gain_labelled(exam, wrong))


def _gain_labelled(exam: Exam, verdicts: list[Verdict]) -> float:
    """Gain of these predictions with the labels of their objects."""
    return gain_of(exam, with_labels(exam.answer, _by_object(verdicts, exam.target.labels)))


def _gain_moved(exam: Exam, verdicts: list[Verdict]) -> float:
    """Gain of these predictions with the exact boxes (points: centres) of their objects."""
    perfect = perfect_answer(exam.target)
    places = perfect.boxes_xyxy or perfect.points_xy
    return gain_of(exam, with_places(exam.answer, _by_object(verdicts, places)))


def _by_object(verdicts: list[Verdict], values: Sequence[Value]) -> dict[int, Value]:
    """Prediction -> value of the object that it was compared with."""
    return {verdict.index: values[verdict.target] for verdict in verdicts if verdict.target is not None}


def _some(labels: Sequence[str], limit: int = 6) -> str:
    return ", ".join(labels[:limit]) + (f" and {len(labels) - limit} more" if len(labels) > limit else "")


def _such(verdicts: Sequence[Verdict], nouns: str) -> str:
    """How many there are, if several."""
    return f" ({len(verdicts)} such {nouns})" if len(verdicts) > 1 else ""


def _duplicates(exam: Exam, repeated: list[Verdict]) -> Iterator[Finding]:
    if repeated:
        first, noun = repeated[0], exam.nouns[0]
        of = f"repeats {noun} {first.repeats + 1}" if first.repeats is not None else "marks an object that has one"
        what = f"duplicate: {noun} {first.index + 1} {of} and costs precision{_such(repeated, exam.nouns[1])}"
        yield Finding("duplicate", what, LEARN, gain_of(exam, without(exam.answer, repeated)))


def _junk(exam: Exam, junk: list[Verdict]) -> Iterator[Finding]:
    """Predictions without a match; in an image without objects all of them, including dropped ones."""
    target = exam.target
    n_claimed = len(junk) + (0 if target.n_objects else exam.answer.n_dropped)
    if not n_claimed:
        return
    answer = without(exam.answer, junk)
    if target.n_objects:
        match = "matches" if len(junk) == 1 else "match"
        what = f"junk: {numbered(exam.nouns, (v.index for v in junk))} {match} no object"
        yield Finding("junk", what, LEARN, gain_of(exam, answer))
        return
    wanted = f"any {_some(target.categories, 3)}" if target.categories else "the object"
    what = f"false alarm: {plural(n_claimed, *exam.nouns)} on an image without {wanted}"
    fix = "the right answer is []: allow it in the prompt (allow_none), and keep negatives in the data"
    yield Finding("false alarm", what, fix, gain_of(exam, replace(answer, n_dropped=0)))


def _missed(exam: Exam, missed: list[Fate]) -> Iterator[Finding]:
    if missed:
        labels = _some([quoted(label) for label in dict.fromkeys(fate.label for fate in missed)], 3)
        what = f"missed {len(missed)} of {plural(exam.target.n_objects, 'object')}: {labels}"
        yield Finding("missed", what, LEARN, gain_of(exam, with_missed(exam, exam.answer)))


def _box_places(exam: Exam, kinds: dict[str, list[Verdict]]) -> Iterator[Finding]:
    """Boxes far from their object, below the threshold, or loose."""
    needs_iou = "thresholds" in exam.preset.looks_at
    least = OFF_TARGET * (exam.thresholds.match_iou if needs_iou else 0.5)
    matched, below = kinds.get("match", []), kinds.get("below threshold", [])
    yield from _off_target(exam, [v for v in matched + below if (v.overlap or 0.0) < least])
    yield from _below(exam, [v for v in below if (v.overlap or 0.0) >= least])
    loose = [v for v in matched if least <= (v.overlap or 0.0) < 1.0 - 1e-6]
    gain = _gain_moved(exam, loose) if loose else 0.0
    if _is_noticed(exam, gain):
        full = exam.thresholds.iou_full if needs_iou else 1.0
        worst = min(loose, key=lambda verdict: verdict.overlap or 0.0)
        reached = f"box {worst.index + 1} reaches IoU {iou_text(worst.overlap or 0.0)}"
        yield Finding("loose box", f"loose box: {reached}; full credit from {full:g}", LEARN, gain)


def _is_noticed(exam: Exam, gain: float) -> bool:
    """Whether objects found nearly exactly are a finding: they cost enough, or all that is missing."""
    return gain >= NO_COST * exam.full or 1e-6 < exam.to_full <= gain + 1e-6


def _off_target(exam: Exam, off: list[Verdict]) -> Iterator[Finding]:
    if not off:
        return
    best = max(off, key=lambda verdict: verdict.overlap or 0.0)
    what = f"off target: box {best.index + 1} reaches IoU {iou_text(best.overlap or 0.0)}"
    what += f", the best of {len(off)} such boxes" if len(off) > 1 else ""
    width, height = exam.target.size_wh
    whole = [v.index for v in off if len(v.place) == 4 and iou(v.place, (0.0, 0.0, width, height)) >= WHOLE_IMAGE]
    what += f"; as large as the image: {numbered(BOX, whole)}" if whole else ""
    fix = f"no other known frame fits: {LEARN} (if all rows are like this, run visionr1 doctor)"
    yield Finding("off target", what, fix, _gain_moved(exam, off))


def _below(exam: Exam, below: list[Verdict]) -> Iterator[Finding]:
    if not below:
        return
    best = max(below, key=lambda verdict: verdict.overlap or 0.0)
    needed = exam.thresholds.match_iou
    what = f"below the threshold: box {best.index + 1} reaches IoU {iou_text(best.overlap or 0.0)} < {needed:g}"
    schedule = follow_model(exam.preset.schedule, exam.response.frame.name)
    easiest = min(thresholds.match_iou for _, thresholds in schedule.points)
    fix = "start with an easier stage (schedule.stages)"
    if easiest < needed - 1e-9:
        fix = f"an earlier stage matches from IoU {easiest:g}; validation uses the last stage (validation=final)"
    yield Finding("below the threshold", what + _such(below, "boxes"), fix, _gain_moved(exam, below))


def _point_places(exam: Exam, kinds: dict[str, list[Verdict]]) -> Iterator[Finding]:
    """Points beside their object, or off its centre under criteria that reward the centre."""
    outside, matched = kinds.get("outside", []), kinds.get("match", [])
    if outside:
        nearest = min(outside, key=lambda verdict: verdict.overlap or 0.0)
        what = f"outside: point {nearest.index + 1} is {nearest.overlap or 0.0:.0f} px outside the object"
        yield Finding("outside", what + _such(outside, "points"), LEARN, _gain_moved(exam, outside))
    gain = _gain_moved(exam, matched) if matched else 0.0
    if _is_noticed(exam, gain):
        yield Finding("off centre", "off centre: the points are on their objects, not at the centre", LEARN, gain)


def _count(exam: Exam) -> Iterator[Finding]:
    answer, there = exam.answer, exam.target.count or 0
    off = answer.stated_count - there
    if off != 0.0 and answer.is_parsed:
        of_list = "" if answer.count is not None else " (the length of its list)"
        what = f"count off by {abs(off):g}: answer {answer.stated_count:g}{of_list}, expected {there}"
        yield Finding("count off", what, LEARN, gain_of(exam, replace(answer, count=float(there))))


def _text(exam: Exam) -> Iterator[Finding]:
    expected, answered = exam.expected, exam.answer.text
    gain = gain_of(exam, replace(exam.answer, text=expected))
    if gain <= 0.0 or answered == expected or not answered.strip():
        return
    wanted, words = words_of(expected), words_of(answered[:MAX_LOOKED_AT])
    is_within = wanted.strip() and wanted in words and wanted != words  # "12,5" has the words of 12.5, and no others
    cause, fix = ("answer among other words", "ask for the answer alone") if is_within else ("answer differs", LEARN)
    yield Finding(cause, f"{cause}: answer {quoted(answered)}, expected {quoted(expected)}", fix, gain)
