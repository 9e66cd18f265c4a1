"""What is wrong with points: beside the object, twice on it, on nothing, under a wrong label."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from verl_visionr1.answers import Defect
from verl_visionr1.tools.explain.diagnosis.base import (
    Exam,
    Finding,
    numbered,
    object_points,
    perfect_answer,
    plural,
    quoted,
)
from verl_visionr1.tools.explain.diagnosis.boxes import LEARN
from verl_visionr1.tools.explain.diagnosis.coordinates import guessed_frame
from verl_visionr1.tools.explain.diagnosis.repairs import gain_of, with_labels, with_places, without_boxes
from verl_visionr1.tools.explain.diagnosis.surplus import surplus_of, too_many
from verl_visionr1.tools.explain.diagnosis.verdicts import (
    DUPLICATE,
    MATCH,
    MISSED,
    OUTSIDE,
    WRONG_LABEL,
    Verdict,
    verdicts_of,
)


def point_findings(exam: Exam) -> list[Finding]:
    """What each kind of fault among points costs."""
    verdicts, fates = verdicts_of(exam)
    missed = [fate for fate in fates if fate.counted_as == MISSED]
    surplus = surplus_of(exam, verdicts, fates)
    few = [] if surplus else verdicts
    found = [
        *too_many(exam, surplus),
        *_outside(exam, verdicts),
        *_repeated(exam, few),
        *_labels(exam, verdicts),
        *_loose(exam, verdicts),
    ]
    if not exam.target.n_objects and verdicts:
        what = f"false alarm: {plural(len(verdicts), 'point')} on an image without the object"
        empty = replace(exam.answer, points_xy=(), labels=(), n_dropped=0)
        found.append(Finding("false alarm", what, "the right answer is an empty list", gain_of(exam, empty)))
    if missed:
        what = f"missed {len(missed)} of {exam.target.n_objects} objects: no point is meant for them"
        perfect = perfect_answer(exam.target)
        labels = exam.answer.labels + tuple(perfect.labels[fate.index] for fate in missed)
        points = exam.answer.points_xy + tuple(perfect.points_xy[fate.index] for fate in missed)
        answer = replace(exam.answer, points_xy=points, labels=labels)
        found.append(Finding("missed", what, LEARN, gain_of(exam, answer)))
    return found


def _outside(exam: Exam, verdicts: list[Verdict]) -> Iterator[Finding]:
    outside = [verdict for verdict in verdicts if verdict.counted_as == OUTSIDE]
    if not outside:
        return
    nearest = min(outside, key=lambda verdict: verdict.overlap or 0.0)
    more = f" ({len(outside)} such points)" if len(outside) > 1 else ""
    what = f"outside: point {nearest.index + 1} lies {nearest.overlap or 0.0:.0f} px outside the object{more}"
    fix = LEARN
    guess = guessed_frame(exam)
    if guess is not None:
        name = guess.frames[0].name
        they_lie = "it lies" if len(exam.answer.points_xy) == 1 else "all lie"
        what += f"; read as {name} {they_lie} on it, which may be chance"
        fix = f"a guess: frame={name}, if other completions fit it too; else the model has to learn it"
    yield Finding("outside", what, fix, gain_of(exam, with_places(exam.answer, _centres(exam, outside))))


def _centres(exam: Exam, verdicts: list[Verdict]) -> dict[int, tuple[float, ...]]:
    centres = object_points(exam.target)
    return {verdict.index: centres[verdict.target] for verdict in verdicts if verdict.target is not None}


def _repeated(exam: Exam, verdicts: list[Verdict]) -> Iterator[Finding]:
    repeated = [verdict for verdict in verdicts if verdict.counted_as == DUPLICATE]
    if repeated:
        points = numbered("point", "points", (v.index for v in repeated))
        what = f"duplicate: {points} {'marks' if len(repeated) == 1 else 'mark'} an object that has a point already"
        gain = gain_of(exam, without_boxes(exam.answer, [verdict.index for verdict in repeated]))
        yield Finding("duplicate", what, LEARN, gain)


def _labels(exam: Exam, verdicts: list[Verdict]) -> Iterator[Finding]:
    """Points under another object's label; those without any are a defect of the text, where the format has labels."""
    wrong = [verdict for verdict in verdicts if verdict.counted_as == WRONG_LABEL]
    if Defect.NO_LABEL in exam.answer.defects:
        wrong = [verdict for verdict in wrong if verdict.label.strip()]
    if wrong:
        labels = exam.target.labels
        right = {verdict.index: labels[verdict.target] for verdict in wrong if verdict.target is not None}
        first = wrong[0]
        what = f"wrong label: point {first.index + 1} says {quoted(first.label)}, the object there is "
        yield Finding(
            "wrong label", what + quoted(right[first.index]), LEARN, gain_of(exam, with_labels(exam.answer, right))
        )


def _loose(exam: Exam, verdicts: list[Verdict]) -> Iterator[Finding]:
    """Points that lie on their object, under criteria that ask for its middle."""
    matched = [verdict for verdict in verdicts if verdict.counted_as == MATCH]
    gain = gain_of(exam, with_places(exam.answer, _centres(exam, matched))) if matched else 0.0
    if gain > 0.0:
        yield Finding("off centre", "off centre: the points lie on their objects, not in the middle", LEARN, gain)
