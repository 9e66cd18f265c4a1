"""The defects of a text in detail: where they stand, how they look, and what to do about this very one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from verl_visionr1.answers import FORMATS, Defect
from verl_visionr1.rewards.completion import BOX_TASKS
from verl_visionr1.tools.explain.diagnosis.base import Exam, numbered, plural, quoted
from verl_visionr1.tools.explain.diagnosis.claims import NESTED, QUOTED, Claim, answer_start

FAULT_FIXES: Mapping[str, str] = MappingProxyType(
    {
        QUOTED: "ask for bare numbers, [10, 20, 30, 40]; no example in the prompt may have them in quotes",
        NESTED: "ask for one flat list of numbers, [10, 20, 30, 40]; no example in the prompt may nest them",
    }
)
"""Fault of a claim -> what to do about it."""


class FoundClaims(NamedTuple):
    """The claims in the answer, and those in the reasoning before it."""

    answer: list[Claim]
    reasoning: list[Claim]


def detail_of(defect: Defect, exam: Exam, found: FoundClaims) -> tuple[str, str]:
    """What a defect is in this text, and what to do about it; "" where only the general text applies."""
    return _DETAIL[defect](exam, found) if defect in _DETAIL else ("", "")


def _truncated(exam: Exam, found: FoundClaims) -> tuple[str, str]:
    nouns = ("point", "points") if exam.answer.points_xy else ("box", "boxes")
    end = found.answer[-1].end if found.answer else answer_start(exam.completion)
    rest = exam.completion[end:].strip()
    stop = f"; it stops at {quoted(rest[-40:])}" if rest else ""
    if exam.target.task == "text" or (exam.target.task == "counting" and not found.answer):
        return "", ""
    return f"after {plural(exam.answer.n_predicted, *nouns)} the list is cut off{stop}", ""


def _no_list(exam: Exam, found: FoundClaims) -> tuple[str, str]:
    body = exam.completion[answer_start(exam.completion) :].strip()
    if found.answer:
        return f"{plural(len(found.answer), 'object')} in the text, but no JSON list [...] around", ""
    return f"the answer is prose or a single value: {quoted(body)}", ""


def _prose(exam: Exam, found: FoundClaims) -> tuple[str, str]:
    if not found.answer:
        return "text stands around the answer", ""
    before = exam.completion[answer_start(exam.completion) : found.answer[0].start].strip(" \n[")
    after = exam.completion[found.answer[-1].end :].strip(" \n]")
    return f"{quoted(before or after)} is not part of the answer", ""


def _malformed(exam: Exam, found: FoundClaims) -> tuple[str, str]:
    answer_format = FORMATS[exam.preset.answer_format]
    if answer_format.name.endswith("-released"):
        answer_format = FORMATS["qwen-json"]
    body = exam.completion[answer_start(exam.completion) :].strip()
    return f"{quoted(body)} is not of the form {quoted(answer_format.example, 60)}", ""


def _bad_box(exam: Exam, found: FoundClaims) -> tuple[str, str]:
    n = 4 if exam.target.task in BOX_TASKS or any(claim.box is not None for claim in found.answer) else 2
    faults = {i: _fault(claim, n) for i, claim in enumerate(found.answer) if _fault(claim, n)}
    if not faults:
        asked = "four finite numbers with x1 < x2 and y1 < y2" if n == 4 else "two finite numbers"
        return f"{plural(exam.answer.n_dropped, 'object')} without {asked}", ""
    are = "is" if len(faults) == 1 else "are"
    fault = next(iter(faults.values()))
    return f"{numbered('number', 'numbers', faults)} in the text {are} dropped ({fault})", FAULT_FIXES.get(fault, "")


def _fault(claim: Claim, n: int) -> str:
    """Why a claim is no box (n = 4), or no point (n = 2)."""
    if n == 4 or not claim.numbers or claim.fault in FAULT_FIXES:
        return claim.fault
    return "" if len(claim.numbers) == n else f"{plural(len(claim.numbers), 'number')} instead of {n}"


def _no_label(exam: Exam, found: FoundClaims) -> tuple[str, str]:
    bare = [p for p, label in enumerate(exam.answer.labels) if not label.strip()]
    if not bare:
        return "", ""
    nouns = ("box", "boxes") if exam.answer.boxes_xyxy else ("point", "points")
    return f"{numbered(*nouns, bare)} {'has' if len(bare) == 1 else 'have'} no label", ""


def _wrong_kind(exam: Exam, found: FoundClaims) -> tuple[str, str]:
    n, given, wanted = (2, "point", "boxes") if exam.target.task in BOX_TASKS else (4, "box", "points")
    others = [i for i, claim in enumerate(found.answer) if len(claim.numbers) == n]
    if not others or exam.target.task == "counting":
        return "", ""
    is_a = f"is a {given}" if len(others) == 1 else f"are {given}{'es' if n == 4 else 's'}"
    return f"{numbered('number', 'numbers', others)} in the text {is_a}, not among the asked-for {wanted}", ""


def _outside(exam: Exam, found: FoundClaims) -> tuple[str, str]:
    frame_wh = exam.response.frame.size_wh(exam.target.size_wh, exam.response.processed_wh)
    sx, sy = exam.scale_xy
    for p, place in enumerate(exam.answer.boxes_xyxy or exam.answer.points_xy):
        spoken = [number / scale for number, scale in zip(place, (sx, sy, sx, sy), strict=False)]
        edges = (*frame_wh, *frame_wh)
        if any(not -0.01 * edge <= number <= 1.01 * edge for number, edge in zip(spoken, edges, strict=False)):
            shown = ", ".join(f"{number:g}" for number in spoken)
            return (
                f"number {p + 1} ({shown}) reaches over frame {exam.response.frame.name} "
                f"(0-{frame_wh[0]:g} x 0-{frame_wh[1]:g})",
                "",
            )
    return "", ""


_DETAIL: Mapping[Defect, Callable[[Exam, FoundClaims], tuple[str, str]]] = MappingProxyType(
    {
        Defect.TRUNCATED: _truncated,
        Defect.NO_LIST: _no_list,
        Defect.PROSE: _prose,
        Defect.MALFORMED: _malformed,
        Defect.BAD_BOX: _bad_box,
        Defect.NO_LABEL: _no_label,
        Defect.WRONG_KIND: _wrong_kind,
        Defect.OUTSIDE: _outside,
    }
)
