"""Findings about parsed boxes or points: labels, duplicates, junk, wrong places, missed objects."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from msgspec.structs import replace

from verl_visionr1.answers import Defect
from verl_visionr1.boxes import iou
from verl_visionr1.rewards.completion import BOX_TASKS
from verl_visionr1.schedule import follow_model
from verl_visionr1.targets import normalize_label
from verl_visionr1.tools.explain.diagnosis.base import (
    LEARN,
    NO_COST,
    Exam,
    Finding,
    iou_text,
    numbered,
    object_points,
    perfect_answer,
    plural,
    quoted,
)
from verl_visionr1.tools.explain.diagnosis.readings import guess_frame
from verl_visionr1.tools.explain.diagnosis.reasoning import MAX_LOOKED_AT, words_of
from verl_visionr1.tools.explain.diagnosis.repairs import (
    gain_of,
    repair_answer,
    with_labels,
    with_more,
    with_places,
    without,
)
from verl_visionr1.tools.explain.diagnosis.verdicts import Fate, Verdict, verdicts_of

OFF_TARGET = 0.5
"""A box below this share of the needed IoU (of 0.5, if none is needed) is off target, not merely below the
threshold."""
WHOLE_IMAGE = 0.9
"""IoU with the whole image from which a box counts as large as the image."""
MIN_SURPLUS, MIN_TIMES = 5, 3
""""Too many": at least this many surplus predictions, and at least this many predictions per object."""
Value = TypeVar("Value")
BOX, POINT = ("box", "boxes"), ("point", "points")
_DECIMAL_COMMA = re.compile(r"(?<![\d,.])(\d{1,30}),(\d{1,30})(?![\d,.])")  # bounded


def content_findings(exam: Exam) -> list[Finding]:
    """Find what each kind of fault among predictions and objects costs."""
    verdicts, fates = verdicts_of(exam)
    kinds: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        kinds.setdefault(verdict.counted_as, []).append(verdict)
    surplus = _surplus(exam, verdicts, fates)
    return [
        *_too_many(exam, surplus),
        *_wrong_labels(exam, kinds.get("wrong label", [])),
        *([] if surplus else _duplicates(exam, kinds.get("duplicate", []))),
        *([] if surplus else _junk(exam, kinds.get("junk", []))),
        *(_box_places(exam, verdicts) if exam.target.task in BOX_TASKS else _point_places(exam, kinds)),
        *_missed(exam, [fate for fate in fates if fate.counted_as == "missed"]),
    ]


def nouns_of(exam: Exam) -> tuple[str, str]:
    """Noun for a prediction, singular and plural."""
    return BOX if exam.target.task in BOX_TASKS else POINT


# ------------------------------------------------------------------------------------------------ too many


def _surplus(exam: Exam, verdicts: Sequence[Verdict], fates: Sequence[Fate]) -> list[Verdict]:
    """Predictions without an object; empty if they are few, or if the target has no objects."""
    kept = {fate.prediction for fate in fates}
    surplus = [verdict for verdict in verdicts if verdict.index not in kept and verdict.counted_as != "ignored"]
    n_objects = exam.target.n_objects
    is_much = len(surplus) >= MIN_SURPLUS and len(surplus) + len(kept - {None}) >= MIN_TIMES * n_objects
    return surplus if n_objects and is_much else []


def _too_many(exam: Exam, surplus: Sequence[Verdict]) -> Iterator[Finding]:
    """Weigh the surplus as a whole: one box of many costs almost nothing, all of them cost almost all precision.

    The cost is that for this answer, or for a right answer with the same surplus, whichever is larger.
    """
    if not surplus:
        return
    nouns = nouns_of(exam)
    n_repeated, n_junk = (sum(verdict.counted_as == kind for verdict in surplus) for kind in ("duplicate", "junk"))
    counts = {
        "repeat another": n_repeated,
        "match no object": n_junk,
        "count for none": len(surplus) - n_repeated - n_junk,
    }
    parts = ", ".join(f"{n} {words}" for words, n in counts.items() if n)
    n_objects = plural(exam.target.n_objects, "object")
    what = f"too many {nouns[1]}: {exam.answer.n_predicted} for {n_objects} ({parts}); each costs precision"
    right = replace(perfect_answer(exam.target), n_dropped=exam.answer.n_dropped, defects=exam.answer.defects)
    crowded = with_more(right, [(verdict.place, verdict.label) for verdict in surplus])
    beside_right = repair_answer(exam, right).value - repair_answer(exam, crowded).value
    gain = max(beside_right, gain_of(exam, without(exam.answer, [verdict.index for verdict in surplus])))
    yield Finding(f"too many {nouns[1]}", what, f"ask for each object once; else {LEARN}", gain)


# ------------------------------------------------------------------------------------------------ of any kind


def _wrong_labels(exam: Exam, wrong: list[Verdict]) -> Iterator[Finding]:
    target, nouns = exam.target, nouns_of(exam)
    bare = [verdict for verdict in wrong if not verdict.label.strip()]
    if bare and Defect.NO_LABEL not in exam.answer.defects:  # else it is a defect of the text
        have = f"{numbered(*nouns, (v.index for v in bare))} {'has' if len(bare) == 1 else 'have'}"
        what = f"no label: {have} no label, and several are asked for; {exam.preset.answer_format} has no labels"
        fix = "use an answer format with labels, such as qwen-json"
        yield Finding("no label", what, fix, _gain_labelled(exam, bare))
    wrong = [verdict for verdict in wrong if verdict.label.strip()]
    if not wrong:
        return
    gain = _gain_labelled(exam, wrong)
    known = list(dict.fromkeys([*target.categories, *target.labels]))
    unknown = [v for v in wrong if normalize_label(v.label) not in {normalize_label(label) for label in known}]
    more = f" ({plural(len(unknown or wrong), 'such label')})" if len(unknown or wrong) > 1 else ""
    if not unknown:
        first = wrong[0]
        meant = target.labels[first.target] if first.target is not None else ""
        shown = f"{nouns[0]} {first.index + 1} has label {quoted(first.label)}, the object there is {quoted(meant)}"
        yield Finding("wrong label", f"wrong label: {shown}{more}", LEARN, gain)
        return
    is_not = f"{quoted(unknown[0].label)} is not among {_some(known)}"
    spoken, asked = _scripts(v.label for v in unknown), _scripts(known)
    if spoken and asked and spoken.isdisjoint(asked):
        what = f"wrong language: {is_not}: not in the script of the prompt's labels{more}"
        yield Finding("wrong language", what, "ask for the category names as the data has them", gain)
    else:
        fix = "name the categories in the prompt, or convert the labels"
        yield Finding("wrong label", f"wrong label: {is_not}{more}", fix, gain)


def _gain_labelled(exam: Exam, verdicts: list[Verdict]) -> float:
    """Gain of these predictions with the labels of their objects."""
    return gain_of(exam, with_labels(exam.answer, _by_object(verdicts, exam.target.labels)))


def _by_object(verdicts: list[Verdict], values: Sequence[Value]) -> dict[int, Value]:
    """Prediction -> value of the object that it was compared with."""
    return {verdict.index: values[verdict.target] for verdict in verdicts if verdict.target is not None}


def _some(labels: Sequence[str], limit: int = 6) -> str:
    return ", ".join(labels[:limit]) + (f" and {len(labels) - limit} more" if len(labels) > limit else "")


def _scripts(labels: Iterable[str]) -> set[str]:
    """Scripts of some labels, from the first word of their letters' Unicode names: LATIN, CJK, CYRILLIC, ..."""
    letters = {char for label in labels for char in label[:100] if char.isalpha()}
    return {unicodedata.name(char, "UNKNOWN").split()[0].removesuffix("-A") for char in letters}


def _duplicates(exam: Exam, repeated: list[Verdict]) -> Iterator[Finding]:
    if not repeated:
        return
    first, nouns = repeated[0], nouns_of(exam)
    noun = f"{nouns[0]} {first.index + 1}"
    of = f"repeats {nouns[0]} {first.repeats + 1}" if first.repeats is not None else "marks an object that has one"
    more = f" ({plural(len(repeated), f'such {nouns[0]}', f'such {nouns[1]}')})" if len(repeated) > 1 else ""
    gain = gain_of(exam, without(exam.answer, [verdict.index for verdict in repeated]))
    yield Finding("duplicate", f"duplicate: {noun} {of} and costs precision{more}", LEARN, gain)


def _junk(exam: Exam, junk: list[Verdict]) -> Iterator[Finding]:
    """Predictions without a match; in an image without objects all of them, including dropped ones."""
    nouns, target = nouns_of(exam), exam.target
    n_claimed = len(junk) + (0 if target.n_objects else exam.answer.n_dropped)
    if not n_claimed:
        return
    answer = without(exam.answer, [verdict.index for verdict in junk])
    if target.n_objects:
        match = "matches" if len(junk) == 1 else "match"
        what = f"junk: {numbered(*nouns, (v.index for v in junk))} {match} no object"
        yield Finding("junk", what, LEARN, gain_of(exam, answer))
        return
    wanted = f"any {_some(target.categories, 3)}" if target.categories else "the object"
    what = f"false alarm: {plural(n_claimed, *nouns)} on an image without {wanted}"
    fix = "the right answer is []: allow it in the prompt (allow_none), and keep negatives in the data"
    yield Finding("false alarm", what, fix, gain_of(exam, replace(answer, n_dropped=0)))


def _missed(exam: Exam, missed: list[Fate]) -> Iterator[Finding]:
    if not missed:
        return
    perfect = perfect_answer(exam.target)
    places = perfect.boxes_xyxy or perfect.points_xy
    answer = with_more(exam.answer, [(places[fate.index], perfect.labels[fate.index]) for fate in missed])
    labels = _some([quoted(label) for label in dict.fromkeys(fate.label for fate in missed)], 3)
    what = f"missed {len(missed)} of {plural(exam.target.n_objects, 'object')}: {labels}"
    yield Finding("missed", what, LEARN, gain_of(exam, answer))


def _gain_moved(exam: Exam, verdicts: list[Verdict]) -> float:
    """Gain of these predictions with the exact boxes (points: centres) of their objects."""
    perfect = perfect_answer(exam.target)
    places = perfect.boxes_xyxy if exam.target.task in BOX_TASKS else object_points(exam.target)
    return gain_of(exam, with_places(exam.answer, _by_object(verdicts, places)))


# ------------------------------------------------------------------------------------------------ places of boxes


def _box_places(exam: Exam, verdicts: Sequence[Verdict]) -> Iterator[Finding]:
    """Boxes far from their object, below the threshold, or loose."""
    needs_iou = "thresholds" in exam.preset.looks_at
    least = OFF_TARGET * (exam.thresholds.match_iou if needs_iou else 0.5)
    paired = [verdict for verdict in verdicts if verdict.counted_as in ("below threshold", "match")]
    near = [verdict for verdict in paired if (verdict.overlap or 0.0) >= least]
    yield from _off_target(exam, [verdict for verdict in paired if (verdict.overlap or 0.0) < least])
    yield from _below(exam, [verdict for verdict in near if verdict.counted_as == "below threshold"])
    loose = [v for v in near if v.counted_as == "match" and (v.overlap or 0.0) < 1.0 - 1e-6]
    gain = _gain_moved(exam, loose) if loose else 0.0
    if _is_noticed(exam, gain):
        full = exam.thresholds.iou_full if needs_iou else 1.0
        worst = min(loose, key=lambda verdict: verdict.overlap or 0.0)
        reached = f"box {worst.index + 1} reaches IoU {iou_text(worst.overlap or 0.0, below=full)}"
        what = f"loose box: {reached}; full credit from {full:g}"
        yield Finding("loose box", what, LEARN, gain)


def _is_noticed(exam: Exam, gain: float) -> bool:
    """Whether objects found nearly exactly are a finding: they cost enough, or all that is missing."""
    return gain >= NO_COST * exam.full or 1e-6 < exam.to_full <= gain + 1e-6


def _off_target(exam: Exam, off: list[Verdict]) -> Iterator[Finding]:
    if not off:
        return
    best = max(off, key=lambda verdict: verdict.overlap or 0.0)
    more = f", the best of {len(off)} such boxes" if len(off) > 1 else ""
    what = f"off target: box {best.index + 1} reaches IoU {iou_text(best.overlap or 0.0)}{more}"
    width, height = exam.target.size_wh
    whole = [v for v in off if len(v.place) == 4 and iou(v.place, (0.0, 0.0, width, height)) >= WHOLE_IMAGE]
    if whole:
        are = "is" if len(whole) == 1 else "are"
        what += f"; {numbered(*BOX, (v.index for v in whole))} {are} as large as the image"
    fix = f"no other known frame fits: {LEARN} (if all rows are like this, run visionr1 doctor)"
    yield Finding("off target", what, fix, _gain_moved(exam, off))


def _below(exam: Exam, below: list[Verdict]) -> Iterator[Finding]:
    if not below:
        return
    best = max(below, key=lambda verdict: verdict.overlap or 0.0)
    needed = exam.thresholds.match_iou
    more = f" ({plural(len(below), 'such box', 'such boxes')})" if len(below) > 1 else ""
    reached = iou_text(best.overlap or 0.0, below=needed)
    what = f"below the threshold: box {best.index + 1} reaches IoU {reached} < {needed:g}{more}"
    schedule = follow_model(exam.preset.schedule, exam.response.frame.name)
    easiest = min(thresholds.match_iou for _, thresholds in schedule.points)
    fix = "start with an easier stage (schedule.stages)"
    if easiest < needed - 1e-9:
        fix = f"an earlier stage matches from IoU {easiest:g}; validation uses the last stage (validation=final)"
    yield Finding("below the threshold", what, fix, _gain_moved(exam, below))


# ------------------------------------------------------------------------------------------------ places of points


def _point_places(exam: Exam, kinds: dict[str, list[Verdict]]) -> Iterator[Finding]:
    """Points beside their object, or off its centre under criteria that reward the centre."""
    outside, matched = kinds.get("outside", []), kinds.get("match", [])
    if outside:
        nearest = min(outside, key=lambda verdict: verdict.overlap or 0.0)
        more = f" ({len(outside)} such points)" if len(outside) > 1 else ""
        what = f"outside: point {nearest.index + 1} is {nearest.overlap or 0.0:.0f} px outside the object{more}"
        fix, guess = LEARN, guess_frame(exam)
        if guess is not None:
            name = guess.frames[0].name
            are = "it is" if len(exam.answer.points_xy) == 1 else "all are"
            what += f"; read as {name} {are} on it, which may be chance"
            fix = f"a guess: frame={name}, if other completions fit too; else {LEARN}"
        yield Finding("outside", what, fix, _gain_moved(exam, outside))
    gain = _gain_moved(exam, matched) if matched else 0.0
    if _is_noticed(exam, gain):
        yield Finding("off centre", "off centre: the points are on their objects, not at the centre", LEARN, gain)


def count_findings(exam: Exam) -> list[Finding]:
    """A wrong count."""
    answer, there = exam.answer, exam.target.count or 0
    off = answer.stated_count - there
    if off == 0.0 or not answer.is_parsed:
        return []
    of_list = "" if answer.count is not None else " (the length of its list)"
    what = f"count off by {abs(off):g}: answer {answer.stated_count:g}{of_list}, expected {there}"
    return [Finding("count off", what, LEARN, gain_of(exam, replace(answer, count=float(there))))]


def text_findings(exam: Exam) -> list[Finding]:
    """A wrong answer in words."""
    expected, answered = exam.expected, exam.answer.text
    gain = gain_of(exam, replace(exam.answer, text=expected))
    if gain <= 0.0 or answered == expected or not answered.strip():
        return []
    shown = f"answer {quoted(answered)}, expected {quoted(expected)}"
    pointed = _DECIMAL_COMMA.sub(r"\1.\2", answered[:MAX_LOOKED_AT])
    if pointed != answered and gain_of(exam, replace(exam.answer, text=pointed)) >= gain - 1e-6:
        what = f"decimal comma: {shown}; a comma is read as a separator"
        return [Finding("decimal comma", what, "ask for a decimal point", gain)]
    if words_of(expected) in words_of(answered[:MAX_LOOKED_AT]) and words_of(expected).strip():
        what = f"answer among other words: {shown}"
        return [Finding("answer among other words", what, "ask for the answer alone", gain)]
    return [Finding("answer differs", f"answer differs: {shown}", LEARN, gain)]
