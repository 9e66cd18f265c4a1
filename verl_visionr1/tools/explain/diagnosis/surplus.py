"""Far more boxes or points than there are objects: what is surplus, priced together.

Each surplus box alone costs next to nothing, nor do the duplicates alone or the junk alone; together they cost nearly
all that precision has to give.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from verl_visionr1.rewards.completion import BOX_TASKS
from verl_visionr1.tools.explain.diagnosis.base import Exam, Finding, perfect_answer, plural
from verl_visionr1.tools.explain.diagnosis.repairs import gain_of, repaired, without_boxes
from verl_visionr1.tools.explain.diagnosis.verdicts import DUPLICATE, IGNORED, JUNK, Fate, Verdict

MIN_SURPLUS, MIN_TIMES = 5, 3
"""Too many are at least so many surplus ones, and at least so many predictions an object."""


def surplus_of(exam: Exam, verdicts: Sequence[Verdict], fates: Sequence[Fate]) -> list[Verdict]:
    """Predictions that no object is counted by; empty where they are few, or where there is nothing to find."""
    kept = {fate.prediction for fate in fates}
    surplus = [verdict for verdict in verdicts if verdict.index not in kept and verdict.counted_as != IGNORED]
    n_objects = exam.target.n_objects
    is_much = len(surplus) >= MIN_SURPLUS and len(surplus) + len(kept - {None}) >= MIN_TIMES * n_objects
    return surplus if n_objects and is_much else []


def too_many(exam: Exam, surplus: Sequence[Verdict]) -> Iterator[Finding]:
    """What the surplus costs: this answer, or a right one that says it besides, whichever loses more."""
    if not surplus:
        return
    nouns = ("box", "boxes") if exam.target.task in BOX_TASKS else ("point", "points")
    n_repeated, n_junk = (sum(verdict.counted_as == kind for verdict in surplus) for kind in (DUPLICATE, JUNK))
    counts = {
        "repeat another": n_repeated,
        "stand on no object": n_junk,
        "count for none": len(surplus) - n_repeated - n_junk,
    }
    parts = ", ".join(f"{n} {words}" for words, n in counts.items() if n)
    what = (
        f"too many {nouns[1]}: {exam.answer.n_predicted} for {plural(exam.target.n_objects, 'object')} ({parts}); "
        "each costs precision"
    )
    fix = "ask for each object once; else the model has to learn it"
    gain = gain_of(exam, without_boxes(exam.answer, [verdict.index for verdict in surplus]))
    yield Finding(f"too many {nouns[1]}", what, fix, max(gain, _cost_beside_a_right_answer(exam, surplus)))


def _cost_beside_a_right_answer(exam: Exam, surplus: Sequence[Verdict]) -> float:
    perfect = replace(perfect_answer(exam.target), n_dropped=exam.answer.n_dropped, defects=exam.answer.defects)
    places, labels = tuple(v.place for v in surplus), tuple(v.label for v in surplus)
    with_labels = perfect.labels + labels
    if exam.target.task in BOX_TASKS:
        crowded = replace(perfect, boxes_xyxy=(*perfect.boxes_xyxy, *places), labels=with_labels)
    else:
        crowded = replace(perfect, points_xy=(*perfect.points_xy, *places), labels=with_labels)
    return max(0.0, repaired(exam, perfect).value - repaired(exam, crowded).value)
