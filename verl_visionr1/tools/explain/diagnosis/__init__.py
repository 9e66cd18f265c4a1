"""Diagnose a completion's reward: findings, costliest first. Pure functions of text and target.

Each finding is weighed by a repair: how much would the reward rise if this one thing were right? The reading is
corrected first (frame, order of numbers, answer format, wrapping). Then the answer is compared with the target, so
that a wrong frame is not reported as five missed objects.
"""

from __future__ import annotations

from dataclasses import replace

from verl_visionr1.tools.explain.diagnosis.base import LEARN, NO_COST, Exam, Finding, perfect_answer
from verl_visionr1.tools.explain.diagnosis.contents import content_findings
from verl_visionr1.tools.explain.diagnosis.lists import nearly_json, several_lists
from verl_visionr1.tools.explain.diagnosis.readings import find_misreading, other_format
from verl_visionr1.tools.explain.diagnosis.repairs import reads_text, repair_answer, wrapping
from verl_visionr1.tools.explain.diagnosis.writing import opened_in_prompt, writing_findings

__all__ = ["Exam", "Finding", "cause_of", "findings_of"]

LEADING_WEIGHT = 1.5
"""A wrong frame, order or format, and far too many boxes, come before findings that cost up to this many times as much:
the former can be corrected at once, the latter hide other findings. The cost of missing text is only an upper bound."""


def findings_of(exam: Exam) -> list[Finding]:
    """Find the problems of a completion, or of how it is read. Never raises for any text."""
    found: list[Finding] = []
    for look in (opened_in_prompt, several_lists, nearly_json):
        exam, of_form = look(exam)
        found += of_form
    if reads_text(exam):  # then wrong coordinates may cost nothing until the wrapping is right
        exam, around = wrapping(exam)
        found += around
    reread, misreadings = _misreadings(exam)
    found += misreadings
    causes = {finding.cause for finding in misreadings}
    if not reads_text(exam) and "other format" not in causes:
        wrapped, around = wrapping(reread)
        found += around
        if around and not causes & {"swapped axes", "width and height"}:
            reread = wrapped
    written = writing_findings(reread, frozenset(finding.cause for finding in found))
    found += written
    if not any(finding.gain >= reread.to_full > 0.0 for finding in written):  # else there is nothing to compare
        contents = content_findings(reread)
        if "other format" in causes:  # without labels: also because of the other format
            bare = sum(finding.gain for finding in contents if finding.cause == "no label")
            contents = [finding for finding in contents if finding.cause != "no label"]
            found = [replace(it, gain=it.gain + bare) if it.cause == "other format" else it for it in found]
        found += contents
    found += _criteria(reread)
    leading = causes | {"too many boxes", "too many points"}
    return sorted(
        found,
        key=lambda finding: -round(finding.gain * (LEADING_WEIGHT if finding.cause in leading else 1.0), 6),
    )


def _misreadings(exam: Exam) -> tuple[Exam, list[Finding]]:
    """Find misreadings (frame, order of numbers, answer format); returns the corrected examination and the findings."""
    first, second = (find_misreading, other_format) if exam.answer.is_parsed else (other_format, find_misreading)
    reread, found = first(exam)
    return (reread, found) if found else second(exam)


def _criteria(exam: Exam) -> list[Finding]:
    """Criteria that give less than full reward to the ground truth as an answer: form, length."""
    perfect = repair_answer(exam, perfect_answer(exam.target))
    found: list[Finding] = []
    for criterion in perfect.preset.criteria:
        given = criterion.call(perfect.case)
        if criterion.weight and given < 1.0 - 1e-6:
            what = f"criterion {criterion.name} gives {given:.2f} even to a perfect answer"
            what += f": {first_line}" if (first_line := about(criterion.fn)) else ""
            gain = criterion.weight * (1.0 - given) / exam.preset.divisor
            found.append(Finding("criterion", what, "see what this criterion requires", gain))
    return found


def about(fn: object) -> str:
    """The first line of a criterion's docstring."""
    return (getattr(fn, "__doc__", None) or "").strip().partition("\n")[0].strip()


def _outside_range(exam: Exam) -> Finding | None:
    """A criterion of the user with a value outside [0, 1]: then the reward says nothing about the answer."""
    for criterion in exam.preset.criteria:
        value = criterion.call(exam.case)
        problem = criterion.range_problem(value)
        if problem:
            what = f"criterion out of range: {problem}; reward {exam.value:.3f}"
            gain = criterion.weight * max(0.0, -value) / exam.preset.divisor
            return Finding("criterion out of range", what, "correct the function", gain)
    return None


def cause_of(exam: Exam, findings: list[Finding]) -> Finding:
    """The cause: a criterion out of range, else the costliest finding, or "nothing wrong" for a full reward."""
    outside = _outside_range(exam)
    if outside is not None:
        return outside
    if exam.to_full <= 1e-6:
        return Finding("nothing wrong", f"nothing wrong: reward {exam.value:.3f}")
    first = findings[0] if findings else None
    if first is None or first.gain <= 0.0:
        what = f"reward {exam.value:.3f} of {exam.full:.3f}: see the criteria below"
        return Finding("unexplained", what, "", exam.to_full)
    costly = [finding for finding in findings if finding.gain >= NO_COST * exam.full]
    if costly:
        return costly[0]
    what = f"almost nothing wrong: reward {exam.value:.3f}; {first.what}"
    return replace(first, what=what, fix="" if first.fix == LEARN else first.fix)
