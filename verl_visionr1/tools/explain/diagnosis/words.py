"""What is wrong with a count or an answer in words."""

from __future__ import annotations

import re

from msgspec.structs import replace

from verl_visionr1.tools.explain.diagnosis.base import LEARN, Exam, Finding, quoted
from verl_visionr1.tools.explain.diagnosis.reasoning import MAX_LOOKED_AT, words_of
from verl_visionr1.tools.explain.diagnosis.repairs import gain_of

_DECIMAL_COMMA = re.compile(r"(?<![\d,.])(\d{1,30}),(\d{1,30})(?![\d,.])")  # bounded


def count_findings(exam: Exam) -> list[Finding]:
    """A count that is off."""
    answer, there = exam.answer, exam.target.count or 0
    off = answer.stated_count - there
    if off == 0.0 or not answer.is_parsed:
        return []
    of_list = "" if answer.count is not None else " (the length of its list)"
    what = f"count off by {abs(off):g}: says {answer.stated_count:g}{of_list}, there are {there}"
    return [Finding("count off", what, LEARN, gain_of(exam, replace(answer, count=float(there))))]


def text_findings(exam: Exam) -> list[Finding]:
    """An answer that differs."""
    expected, answered = exam.expected, exam.answer.text
    gain = gain_of(exam, replace(exam.answer, text=expected))
    if gain <= 0.0 or answered == expected or not answered.strip():
        return []
    shown = f"says {quoted(answered)}, expected {quoted(expected)}"
    pointed = _DECIMAL_COMMA.sub(r"\1.\2", answered[:MAX_LOOKED_AT])
    if pointed != answered and gain_of(exam, replace(exam.answer, text=pointed)) >= gain - 1e-6:
        what = f"decimal comma: {shown}; a comma is read as a separator"
        return [Finding("decimal comma", what, "ask for a decimal point", gain)]
    if words_of(expected) in words_of(answered[:MAX_LOOKED_AT]) and words_of(expected).strip():
        what = f"answer among other words: {shown}"
        return [Finding("answer among other words", what, "ask for the answer alone", gain)]
    return [Finding("answer differs", f"answer differs: {shown}", LEARN, gain)]
