"""What is wrong with the text itself: each defect that the parser names, in words, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from msgspec.structs import replace

from verl_visionr1.answers import FORMATS, MAX_BOXES, MAX_CHARS, Answer, Defect
from verl_visionr1.boxes import Box
from verl_visionr1.rewards.completion import BOX_TASKS
from verl_visionr1.tools.explain.diagnosis.base import (
    Exam,
    Finding,
    numbered,
    object_points,
    perfect_answer,
    plural,
    quoted,
    without_defects,
)
from verl_visionr1.tools.explain.diagnosis.claims import answer_start, claims_in
from verl_visionr1.tools.explain.diagnosis.details import FoundClaims, detail_of
from verl_visionr1.tools.explain.diagnosis.formats import plain_first
from verl_visionr1.tools.explain.diagnosis.reasoning import LONGER, to_close
from verl_visionr1.tools.explain.diagnosis.repairs import gain_of, with_boxes, with_labels
from verl_visionr1.tools.explain.diagnosis.verdicts import MISSED, verdicts_of
from verl_visionr1.tools.explain.diagnosis.words import only_reasoned

ASK = "say in the prompt how to answer (verl_visionr1.answers has the wording)"

WORDS: Mapping[Defect, tuple[str, str]] = MappingProxyType(
    {
        Defect.EMPTY: ("empty: there is no answer", f"{LONGER}; look at the stop tokens"),
        Defect.NO_LIST: ("no list: the answer is no JSON list", ASK),
        Defect.NO_ANSWER: ("unclosed reasoning: <think> was never closed, so there is no answer", LONGER),
        Defect.PROSE: ("prose: text stands around the answer", "ask for the answer alone"),
        Defect.MALFORMED: ("malformed: the answer is not written in the asked-for form", ASK),
        Defect.TRUNCATED: ("truncated: the answer is cut off", LONGER),
        Defect.BAD_BOX: (
            "bad box: needs four finite numbers with x1 < x2 and y1 < y2 (a point: two finite numbers)",
            "ask for these numbers in the prompt, with an example; else the model has to learn it",
        ),
        Defect.NO_LABEL: ("no label: each object needs a label", "ask for a label in the prompt"),
        Defect.OUTSIDE: ("outside: the answer reaches over the edge of the image", "look at frame; see the conversion"),
        Defect.TOO_LONG: (
            f"too long: an answer is read up to {MAX_CHARS} characters",
            "lower data.max_response_length",
        ),
        Defect.TOO_MANY: (f"too many: {MAX_BOXES} boxes are matched", "lower data.max_response_length"),
        Defect.NO_COUNT: ("no count: the answer holds no number", ASK),
        Defect.NO_TEXT: ("no text: nothing stands where the answer's words should be", ASK),
        Defect.WRONG_KIND: ("wrong kind: boxes or points where something else is asked for", ASK),
    }
)
"""Defect -> what it is, beginning with its kind, and what to do."""


def defect_words(defect: Defect) -> tuple[str, str]:
    """What a defect is, and what to do about it."""
    return WORDS.get(defect, (defect.value.replace("_", " "), ""))


def writing_findings(exam: Exam, explained: frozenset[str]) -> list[Finding]:
    """What the text's form costs.

    Args:
        exam: the completion; under the reading that explains it best.
        explained: causes that were found already, which explain some defects.
    """
    start = answer_start(exam.completion)
    found = FoundClaims(claims_in(exam.completion, start), claims_in(exam.completion, 0, start))
    n_read = len(exam.answer.boxes_xyxy) or len(exam.answer.points_xy)
    if not n_read and explained & {"other format"}:
        return []
    if not n_read and exam.target.task in (*BOX_TASKS, "pointing"):
        finding = _other_kind(exam, found) or _in_reasoning(exam, found) or _wrong_key(exam, found)
        if finding is not None:
            return [finding]
    reasoned = only_reasoned(exam) if exam.target.task in ("counting", "text") else None
    if reasoned is not None:
        return [reasoned]
    return [*_inverted(exam, found), *_defects(exam, found, explained)]


def _other_kind(exam: Exam, found: FoundClaims) -> Finding | None:
    """Points where boxes were asked for, or the other way round."""
    wanted, given, n = ("boxes", "points", 2) if exam.target.task in BOX_TASKS else ("points", "boxes", 4)
    field = f"{given}_x{'y' if given == 'points' else 'yxy'}"
    names = (exam.preset.answer_format, *FORMATS)
    is_other = bool(found.answer) and all(len(claim.numbers) == n for claim in found.answer)
    if not is_other and exam.answer.defects and not any(len(claim.numbers) == 6 - n for claim in found.answer):
        answers = [FORMATS[name].parse(exam.completion) for name in names]
        is_other = any(getattr(answer, field) and not answer.defects for answer in answers)
    if not is_other and Defect.WRONG_KIND not in exam.answer.defects:
        return None
    what = f"{given} instead of {wanted}: the answer marks {given}, task {exam.target.task} asks for {wanted}"
    fix = f"ask for {wanted} in the prompt, or train on task {'pointing' if given == 'points' else 'detection'}"
    return Finding(f"{given} instead of {wanted}", what, fix, exam.to_full)


def list_or_number(exam: Exam) -> Finding | None:
    """A list where one number is read for the count, or one number where the length of a list is; else None."""
    if exam.target.task != "counting":
        return None
    found = claims_in(exam.completion, answer_start(exam.completion))
    answer, name = exam.answer, exam.preset.answer_format
    if name != "count":
        stated = FORMATS["count"].parse(exam.completion)
        if Defect.NO_LIST not in answer.defects or stated.defects:
            return None
        what = f"a number instead of a list: the answer is {stated.stated_count:g}, preset {exam.preset.name} "
        fix = "preset counting reads one number, or ask for a list"
        return Finding("number instead of a list", f"{what}takes the length of a list", fix, exam.to_full)
    read = ((f.name, f.parse(exam.completion)) for f in plain_first(name))
    of_format, listed = next(((f, a) for f, a in read if not a.defects and (a.boxes_xyxy or a.points_xy)), ("", None))
    if Defect.WRONG_KIND not in answer.defects and not (listed and listed.boxes_xyxy):
        return None
    n = listed.n_predicted if listed else len(found)
    are_points = listed.points_xy if listed else found and len(found[0].numbers) == 2
    nouns = ("point", "points") if are_points else ("box", "boxes")
    what = f"{nouns[1]} instead of a number: the answer lists {plural(n, *nouns)}, preset {exam.preset.name} reads one"
    with_format = "" if of_format in ("", "qwen-json") else f" (with answer_format={of_format})"
    fix = f"preset counting-list{with_format} takes the length of a list, or ask for a number"
    return Finding(f"{nouns[1]} instead of a number", f"{what} number", fix, exam.to_full)


def _in_reasoning(exam: Exam, found: FoundClaims) -> Finding | None:
    """Boxes or points that stand in the reasoning alone."""
    meant = [claim for claim in found.reasoning if len(claim.numbers) in (2, 4)]
    if found.answer or not meant or not exam.target.n_objects:
        return None
    nouns = ("box", "boxes") if len(meant[0].numbers) == 4 else ("point", "points")
    closed = "none after it" if "</think>" in exam.completion else "which was never closed"
    what = f"only in the reasoning: {plural(len(meant), *nouns)} in the reasoning, {closed}"
    fix = "the answer must follow </think>: say so in the prompt" if "none" in closed else to_close(exam)
    return Finding("only in the reasoning", what, fix, exam.to_full)


def _wrong_key(exam: Exam, found: FoundClaims) -> Finding | None:
    """Boxes under a key that the format does not know."""
    key = "bbox_2d" if exam.target.task in BOX_TASKS else "point_2d"
    example = FORMATS[exam.preset.answer_format].example
    key = "box_2d" if '"box_2d"' in example else key
    keys = {claim.key for claim in found.answer if not claim.fault} - {key, ""}
    if not keys or key not in example + FORMATS["qwen-json"].example:
        return None
    what = f"wrong key: the boxes stand under {quoted(min(keys))}, not under {quoted(key)}"
    return Finding("wrong key", what, ASK, exam.to_full)


def _inverted(exam: Exam, found: FoundClaims) -> list[Finding]:
    """Boxes that would be read with their corners swapped."""
    if len(exam.answer.boxes_xyxy) >= sum(claim.box is not None for claim in found.answer):
        return []
    faulty = [(i, claim) for i, claim in enumerate(found.answer) if claim.fault.startswith("inverted")]
    if not faulty or exam.target.task not in BOX_TASKS:
        return []
    sx, sy = exam.scale_xy
    swapped: list[tuple[Box, str]] = []
    for _, claim in faulty:
        x1, y1, x2, y2 = claim.numbers
        box = (min(x1, x2) * sx, min(y1, y2) * sy, max(x1, x2) * sx, max(y1, y2) * sy)
        if box[0] < box[2] and box[1] < box[3]:
            swapped.append((box, claim.label))
    gain = gain_of(exam, with_boxes(exam.answer, swapped, n_dropped=len(swapped)))
    first = faulty[0][1].fault.removeprefix("inverted: ")
    is_no = "is no box" if len(faulty) == 1 else "are no boxes"
    dropped = "and is dropped" if len(faulty) == 1 else "and are dropped"
    numbers = numbered("number", "numbers", (i for i, _ in faulty))
    what = f"inverted box: {numbers} in the text {is_no} ({first}) {dropped}"
    fix = "ask for x1, y1, x2, y2 with x1 < x2 and y1 < y2; the model has to learn it"
    return [Finding("inverted box", what, fix, max(gain, shared_gain(exam)))]


def _defects(exam: Exam, found: FoundClaims, explained: frozenset[str]) -> Iterator[Finding]:
    """One finding a defect."""
    shared = shared_gain(exam)
    unread = not exam.answer.is_parsed or not exam.completion.strip()
    for defect in named_defects(exam):
        cause, _, rest = defect_words(defect)[0].partition(":")
        fix = to_close(exam) if defect is Defect.NO_ANSWER else defect_words(defect)[1]
        if defect is Defect.PROSE and explained & {"prose", "wrapping"}:
            continue
        if defect is Defect.BAD_BOX and any(claim.fault.startswith("inverted") for claim in found.answer):
            continue
        detail, own_fix = detail_of(defect, exam, found)
        what = f"{cause}: {detail}" if detail else f"{cause}:{rest}" if rest else cause
        yield Finding(
            cause, what, own_fix or fix, exam.to_full if unread else max(shared, gain_of(exam, _mended(exam, defect)))
        )


def named_defects(exam: Exam) -> tuple[Defect, ...]:
    """The defects of the answer. Released formats know but one, "malformed": there, what the usual parser calls it."""
    defects = exam.answer.defects
    if Defect.MALFORMED not in defects or not exam.preset.answer_format.endswith("-released"):
        return defects
    return FORMATS["qwen-json"].parse(exam.completion).defects or defects


def shared_gain(exam: Exam) -> float:
    """Each defect's share in what all of them cost: of several, no single one can be mended with any gain."""
    answer = exam.answer
    return gain_of(exam, replace(answer, defects=())) / len(answer.defects) if answer.defects else 0.0


def _mended(exam: Exam, defect: Defect) -> Answer:
    """The answer without a defect; a cut-off one also with what may have been cut off, labels where they lacked."""
    answer = without_defects(exam.answer, {defect} if defect in exam.answer.defects else {Defect.MALFORMED})
    if defect is Defect.BAD_BOX:
        return replace(answer, n_dropped=0)
    if defect is Defect.TRUNCATED:
        return _completed(exam, answer)
    if defect is Defect.NO_LABEL and exam.target.labels:
        bare = [v for v in verdicts_of(exam)[0] if v.target is not None and not v.label.strip()]
        return with_labels(answer, {v.index: exam.target.labels[v.target] for v in bare if v.target is not None})
    return answer


def _completed(exam: Exam, answer: Answer) -> Answer:
    """A cut-off answer with what it may have been going to say."""
    target, perfect = exam.target, perfect_answer(exam.target)
    if target.task == "counting":
        there = float(target.count or 0)
        return replace(answer, count=there) if answer.stated_count < there else answer
    if target.task == "text":
        return replace(answer, text=perfect.text)
    missing = [fate.index for fate in verdicts_of(exam)[1] if fate.counted_as == MISSED]
    if target.task in BOX_TASKS:
        return with_boxes(answer, [(perfect.boxes_xyxy[t], perfect.labels[t]) for t in missing])
    points, labels = object_points(target), perfect.labels
    points_xy = (*answer.points_xy, *(points[t] for t in missing))
    return replace(answer, points_xy=points_xy, labels=(*answer.labels, *(labels[t] for t in missing)))
