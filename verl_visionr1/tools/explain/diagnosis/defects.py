"""Describe the defects of a text: where they are, how they look, and what to do about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from verl_visionr1.answers import FORMATS, MAX_BOXES, MAX_CHARS, Defect
from verl_visionr1.rewards.completion import BOX_TASKS
from verl_visionr1.tools.explain.diagnosis.base import LEARN, Exam, numbered, plural, quoted
from verl_visionr1.tools.explain.diagnosis.claims import NESTED, QUOTED, Claim, answer_start, claims_in
from verl_visionr1.tools.explain.diagnosis.reasoning import to_close

ASK = "describe the answer format in the prompt (verl_visionr1.answers has the wording)"
SHORTER = "lower data.max_response_length"
WORDS: Mapping[Defect, tuple[str, str]] = MappingProxyType(
    {
        Defect.EMPTY: ("empty: there is no answer", ""),
        Defect.NO_LIST: ("no list: the answer is not a JSON list", ASK),
        Defect.NO_ANSWER: ("unclosed reasoning: <think> was never closed, so there is no answer", ""),
        Defect.PROSE: ("prose: there is text around the answer", "ask for the answer alone"),
        Defect.MALFORMED: ("malformed: the answer does not have the required form", ASK),
        Defect.TRUNCATED: ("truncated: the answer is cut off", ""),
        Defect.BAD_BOX: (
            "bad box: needs four finite numbers with x1 < x2 and y1 < y2 (a point: two finite numbers)",
            f"ask for these numbers in the prompt, with an example; else {LEARN}",
        ),
        Defect.NO_LABEL: ("no label: each object needs a label", "ask for a label in the prompt"),
        Defect.OUTSIDE: (
            "outside: the answer reaches over the edge of the image",
            "check the frame; see the coordinates",
        ),
        Defect.TOO_LONG: (f"too long: at most {MAX_CHARS} characters are read", SHORTER),
        Defect.TOO_MANY: (f"too many: at most {MAX_BOXES} boxes are matched", SHORTER),
        Defect.NO_COUNT: ("no count: the answer has no number", ASK),
        Defect.NO_TEXT: ("no text: the answer has no words", ASK),
        Defect.WRONG_KIND: ("wrong kind: boxes or points instead of another kind of answer", ASK),
    }
)
"""Defect -> (description, beginning with its kind; what to do, "" if it depends on the response budget)."""
FAULT_FIXES: Mapping[str, str] = MappingProxyType(
    {
        QUOTED: "ask for bare numbers, [10, 20, 30, 40]; remove quotes around numbers in the prompt's examples",
        NESTED: "ask for one flat list of numbers, [10, 20, 30, 40]; remove nested lists from the prompt's examples",
    }
)
"""Fault of a claim -> what to do about it."""


class FoundClaims(NamedTuple):
    """Claims of the answer, and of the reasoning before it."""

    answer: list[Claim]
    reasoning: list[Claim]

    @classmethod
    def of(cls, exam: Exam) -> FoundClaims:
        """Find the claims of a completion."""
        start = answer_start(exam.completion)
        return cls(claims_in(exam.completion, start), claims_in(exam.completion, 0, start))


def named_defects(exam: Exam) -> tuple[Defect, ...]:
    """Defects of the answer. Released formats have only "malformed"; for them, the usual parser names the defect."""
    defects = exam.answer.defects
    if Defect.MALFORMED not in defects or not exam.preset.answer_format.endswith("-released"):
        return defects
    return FORMATS["qwen-json"].parse(exam.completion).defects or defects


def describe_defect(defect: Defect, exam: Exam, found: FoundClaims) -> tuple[str, str, str]:
    """Describe a defect in this text: kind, description (beginning with the kind), what to do."""
    words, fix = WORDS[defect]
    kind = words.partition(":")[0]
    if not fix:
        fix = to_close(exam) if defect is Defect.NO_ANSWER else exam.cut_off_fix
    detail = _DETAIL[defect](exam, found) if defect in _DETAIL else ""
    if defect is Defect.BAD_BOX:
        fix = next((FAULT_FIXES[c.fault] for c in found.answer if c.fault in FAULT_FIXES), fix)
    return kind, f"{kind}: {detail}" if detail else words, fix


def _body(exam: Exam) -> str:
    return exam.completion[answer_start(exam.completion) :].strip()


def _truncated(exam: Exam, found: FoundClaims) -> str:
    if exam.target.task == "text" or (exam.target.task == "counting" and not found.answer):
        return ""
    end = found.answer[-1].end if found.answer else answer_start(exam.completion)
    rest = exam.completion[end:].strip()
    stop = f"; it stops at {quoted(rest[-40:])}" if rest else ""
    nouns = ("point", "points") if exam.answer.points_xy else ("box", "boxes")
    return f"after {plural(exam.answer.n_predicted, *nouns)} the list is cut off{stop}"


def _no_list(exam: Exam, found: FoundClaims) -> str:
    if found.answer:
        return f"{plural(len(found.answer), 'object')} in the text, but no JSON list [...] around them"
    return f"the answer is prose or a single value: {quoted(_body(exam))}"


def _prose(exam: Exam, found: FoundClaims) -> str:
    if not found.answer:
        return ""
    before = exam.completion[answer_start(exam.completion) : found.answer[0].start].strip(" \n[")
    after = exam.completion[found.answer[-1].end :].strip(" \n]")
    return f"{quoted(before or after)} is not part of the answer"


def _malformed(exam: Exam, found: FoundClaims) -> str:
    own = exam.preset.answer_format
    example = FORMATS["qwen-json" if own.endswith("-released") else own].example
    return f"{quoted(_body(exam))} is not of the form {quoted(example, 60)}"


def _bad_box(exam: Exam, found: FoundClaims) -> str:
    n = 4 if exam.target.task in BOX_TASKS or any(claim.box is not None for claim in found.answer) else 2
    faults = {i: fault for i, claim in enumerate(found.answer) if (fault := _fault(claim, n))}
    if not faults:
        asked = "four finite numbers with x1 < x2 and y1 < y2" if n == 4 else "two finite numbers"
        return f"{plural(exam.answer.n_dropped, 'object')} without {asked}"
    are = "is" if len(faults) == 1 else "are"
    return f"{numbered('object', 'objects', faults)} in the text {are} not read ({next(iter(faults.values()))})"


def _fault(claim: Claim, n: int) -> str:
    """Why a claim is not a box (n = 4) or not a point (n = 2)."""
    if n == 4 or not claim.numbers or claim.fault in FAULT_FIXES:
        return claim.fault
    return "" if len(claim.numbers) == n else f"{plural(len(claim.numbers), 'number')} instead of {n}"


def _no_label(exam: Exam, found: FoundClaims) -> str:
    bare = [p for p, label in enumerate(exam.answer.labels) if not label.strip()]
    nouns = ("box", "boxes") if exam.answer.boxes_xyxy else ("point", "points")
    return f"{numbered(*nouns, bare)} {'has' if len(bare) == 1 else 'have'} no label" if bare else ""


def _wrong_kind(exam: Exam, found: FoundClaims) -> str:
    n, nouns, wanted = (2, ("point", "points"), "boxes")
    if exam.target.task not in BOX_TASKS:
        n, nouns, wanted = (4, ("box", "boxes"), "points")
    others = [i for i, claim in enumerate(found.answer) if len(claim.numbers) == n]
    if not others or exam.target.task == "counting":
        return ""
    are = f"is a {nouns[0]}" if len(others) == 1 else f"are {nouns[1]}"
    return f"{numbered('object', 'objects', others)} in the text {are}, but the task needs {wanted}"


def _outside(exam: Exam, found: FoundClaims) -> str:
    frame_wh = exam.response.frame.size_wh(exam.target.size_wh, exam.response.processed_wh)
    for p, place in enumerate(exam.answer.boxes_xyxy or exam.answer.points_xy):
        spoken = [number / scale for number, scale in zip(place, exam.scale_xy * 2, strict=False)]
        if any(not -0.01 * edge <= number <= 1.01 * edge for number, edge in zip(spoken, frame_wh * 2, strict=False)):
            shown = ", ".join(f"{number:g}" for number in spoken)
            reach = f"0-{frame_wh[0]:g} x 0-{frame_wh[1]:g}"
            return f"object {p + 1} ({shown}) reaches over the edge of frame {exam.response.frame.name} ({reach})"
    return ""


_DETAIL: Mapping[Defect, Callable[[Exam, FoundClaims], str]] = MappingProxyType(
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
"""Defect -> its description in a text; "" if only the general one applies."""
