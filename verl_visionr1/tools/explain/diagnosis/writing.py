"""Findings about the text itself: each defect that the parser names, and its cost."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from verl_visionr1.answers import FORMATS, Answer, Defect
from verl_visionr1.rewards.completion import BOX_TASKS
from verl_visionr1.tools.explain.diagnosis.base import (
    LEARN,
    Exam,
    Finding,
    numbered,
    object_points,
    perfect_answer,
    plural,
    quoted,
)
from verl_visionr1.tools.explain.diagnosis.claims import answer_start, claims_in
from verl_visionr1.tools.explain.diagnosis.defects import ASK, FoundClaims, describe_defect, named_defects
from verl_visionr1.tools.explain.diagnosis.readings import plain_first
from verl_visionr1.tools.explain.diagnosis.reasoning import only_reasoned
from verl_visionr1.tools.explain.diagnosis.repairs import Place, gain_of, with_labels, with_more
from verl_visionr1.tools.explain.diagnosis.verdicts import verdicts_of


def writing_findings(exam: Exam, explained: frozenset[str]) -> list[Finding]:
    """Find what the form of the text costs.

    Args:
        explained: causes found before, which explain some defects.
    """
    found = FoundClaims.of(exam)
    n_read = len(exam.answer.boxes_xyxy) or len(exam.answer.points_xy)
    if not n_read and "other format" in explained:
        return []
    if n_read and exam.target.task not in ("counting", "text"):
        alone = None
    elif exam.target.task in ("counting", "text"):
        alone = only_reasoned(exam)
    else:
        alone = _other_kind(exam, found) or only_reasoned(exam) or _wrong_key(exam, found)
    return [alone] if alone is not None else [*_inverted(exam, found), *_defects(exam, found, explained)]


def _other_kind(exam: Exam, found: FoundClaims) -> Finding | None:
    """Points instead of boxes, or boxes instead of points."""
    wanted, given, n = ("boxes", "points", 2) if exam.target.task in BOX_TASKS else ("points", "boxes", 4)
    field = f"{given}_x{'y' if given == 'points' else 'yxy'}"
    names = (exam.preset.answer_format, *FORMATS)
    is_other = bool(found.answer) and all(len(claim.numbers) == n for claim in found.answer)
    if not is_other and exam.answer.defects and not any(len(claim.numbers) == 6 - n for claim in found.answer):
        answers = [FORMATS[name].parse(exam.completion) for name in names]
        is_other = any(getattr(answer, field) and not answer.defects for answer in answers)
    if not is_other and Defect.WRONG_KIND not in exam.answer.defects:
        return None
    cause = f"{given} instead of {wanted}"
    what = f"{cause}: the answer marks {given}, task {exam.target.task} asks for {wanted}"
    fix = f"ask for {wanted} in the prompt, or train on task {'pointing' if given == 'points' else 'detection'}"
    return Finding(cause, what, fix, exam.to_full)


def list_or_number(exam: Exam) -> Finding | None:
    """A list where the preset reads one number, or a number where it counts a list; else None."""
    if exam.target.task != "counting":
        return None
    answer, name = exam.answer, exam.preset.answer_format
    if name != "count":
        stated = FORMATS["count"].parse(exam.completion)
        if Defect.NO_LIST not in answer.defects or stated.defects:
            return None
        number = f"the answer is {stated.stated_count:g}"
        what = f"a number instead of a list: {number}, preset {exam.preset.name} counts the items of a list"
        fix = "preset counting reads one number, or ask for a list"
        return Finding("number instead of a list", what, fix, exam.to_full)
    read = ((f.name, f.parse(exam.completion)) for f in plain_first(name))
    of_format, listed = next(((f, a) for f, a in read if not a.defects and (a.boxes_xyxy or a.points_xy)), ("", None))
    if Defect.WRONG_KIND not in answer.defects and not (listed and listed.boxes_xyxy):
        return None
    found = claims_in(exam.completion, answer_start(exam.completion))
    n = listed.n_predicted if listed else len(found)
    are_points = listed.points_xy if listed else found and len(found[0].numbers) == 2
    nouns = ("point", "points") if are_points else ("box", "boxes")
    cause = f"{nouns[1]} instead of a number"
    what = f"{cause}: the answer lists {plural(n, *nouns)}, preset {exam.preset.name} reads one number"
    with_format = "" if of_format in ("", "qwen-json") else f" (with answer_format={of_format})"
    fix = f"preset counting-list{with_format} counts a list, or ask for a number"
    return Finding(cause, what, fix, exam.to_full)


def _wrong_key(exam: Exam, found: FoundClaims) -> Finding | None:
    """Boxes under a key unknown to the format."""
    example = FORMATS[exam.preset.answer_format].example
    key = "box_2d" if '"box_2d"' in example else "bbox_2d" if exam.target.task in BOX_TASKS else "point_2d"
    keys = {claim.key for claim in found.answer if not claim.fault} - {key, ""}
    if not keys or key not in example + FORMATS["qwen-json"].example:
        return None
    what = f"wrong key: the boxes have the key {quoted(min(keys))} instead of {quoted(key)}"
    return Finding("wrong key", what, ASK, exam.to_full)


def _inverted(exam: Exam, found: FoundClaims) -> Iterator[Finding]:
    """Boxes that are valid with their corners swapped."""
    faulty = {i: claim for i, claim in enumerate(found.answer) if claim.fault.startswith("inverted")}
    n_claimed = sum(claim.box is not None for claim in found.answer)
    if not faulty or exam.target.task not in BOX_TASKS or len(exam.answer.boxes_xyxy) >= n_claimed:
        return
    sx, sy = exam.scale_xy
    swapped: list[tuple[Place, str]] = []
    for claim in faulty.values():
        x1, y1, x2, y2 = claim.numbers
        box = (min(x1, x2) * sx, min(y1, y2) * sy, max(x1, x2) * sx, max(y1, y2) * sy)
        if box[0] < box[2] and box[1] < box[3]:
            swapped.append((box, claim.label))
    gain = gain_of(exam, with_more(exam.answer, swapped, n_dropped=len(swapped)))
    first = next(iter(faulty.values())).fault.removeprefix("inverted: ")
    are = "is" if len(faulty) == 1 else "are"
    what = f"inverted box: {numbered('object', 'objects', faulty)} in the text {are} not read ({first})"
    fix = f"ask for x1, y1, x2, y2 with x1 < x2 and y1 < y2; else {LEARN}"
    yield Finding("inverted box", what, fix, max(gain, _shared_gain(exam)))


def _defects(exam: Exam, found: FoundClaims, explained: frozenset[str]) -> Iterator[Finding]:
    """One finding for each defect."""
    shared = _shared_gain(exam)
    is_unread = not exam.answer.is_parsed or not exam.completion.strip()
    has_inverted = any(claim.fault.startswith("inverted") for claim in found.answer)
    for defect in named_defects(exam):
        if defect is Defect.PROSE and explained & {"prose", "wrapping"}:
            continue
        if defect is Defect.BAD_BOX and has_inverted:
            continue
        gain = exam.to_full if is_unread else max(shared, gain_of(exam, _repair(exam, defect)))
        yield Finding(*describe_defect(defect, exam, found), gain)


def _shared_gain(exam: Exam) -> float:
    """Each defect's share of their total cost; with several defects, no single repair gains anything."""
    answer = exam.answer
    return gain_of(exam, replace(answer, defects=())) / len(answer.defects) if answer.defects else 0.0


def _repair(exam: Exam, defect: Defect) -> Answer:
    """Repair one defect: a cut-off answer gets the missing objects, unlabelled objects get labels."""
    gone = defect if defect in exam.answer.defects else Defect.MALFORMED
    answer = replace(exam.answer, defects=tuple(one for one in exam.answer.defects if one is not gone))
    if defect is Defect.BAD_BOX:
        return replace(answer, n_dropped=0)
    if defect is Defect.TRUNCATED:
        return _complete(exam, answer)
    if defect is Defect.NO_LABEL and exam.target.labels:
        bare = [v for v in verdicts_of(exam)[0] if v.target is not None and not v.label.strip()]
        return with_labels(answer, {v.index: exam.target.labels[v.target] for v in bare if v.target is not None})
    return answer


def _complete(exam: Exam, answer: Answer) -> Answer:
    """Complete a cut-off answer with all missing objects."""
    target, perfect = exam.target, perfect_answer(exam.target)
    if target.task == "counting":
        there = float(target.count or 0)
        return replace(answer, count=there) if answer.stated_count < there else answer
    if target.task == "text":
        return replace(answer, text=perfect.text)
    missing = [fate.index for fate in verdicts_of(exam)[1] if fate.counted_as == "missed"]
    places = perfect.boxes_xyxy if target.task in BOX_TASKS else object_points(target)
    return with_more(answer, [(places[t], perfect.labels[t]) for t in missing])
