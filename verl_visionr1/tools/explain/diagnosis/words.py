"""What is wrong with a count or an answer in words."""

from __future__ import annotations

import re

from msgspec.structs import replace

from verl_visionr1.targets import normalize_text
from verl_visionr1.tools.explain.diagnosis.base import Exam, Finding, quoted
from verl_visionr1.tools.explain.diagnosis.boxes import LEARN
from verl_visionr1.tools.explain.diagnosis.claims import answer_start
from verl_visionr1.tools.explain.diagnosis.reasoning import to_close
from verl_visionr1.tools.explain.diagnosis.repairs import gain_of

MAX_LOOKED_AT = 20_000
"""So many characters of the reasoning are searched for the answer."""


_DECIMAL_COMMA = re.compile(r"(?<![\d,.])(\d{1,30}),(\d{1,30})(?![\d,.])")  # bounded


def only_reasoned(exam: Exam) -> Finding | None:
    """That the right count or words stand in the reasoning, and none that can be read after it; else None."""
    target, answer = exam.target, exam.answer
    start = answer_start(exam.completion)
    words = _words(exam.completion[:start][-MAX_LOOKED_AT:])
    expected = str(target.count) if target.task == "counting" else target.answer or ""
    if answer.is_parsed or not _words(expected).strip() or _words(expected) not in words:
        return None
    closed = "</think>" in exam.completion
    what = "only in the reasoning: the right answer stands there, " + (
        "and none that can be read after it" if closed else "and it was never closed"
    )
    fix = "the answer must follow </think>: say so in the prompt" if closed else to_close(exam)
    return Finding("only in the reasoning", what, fix, exam.to_full)


def _words(text: str) -> str:
    """Letters and digits between single blanks, so that whole words are found, and not parts of words."""
    return f" {' '.join(''.join(char if char.isalnum() else ' ' for char in normalize_text(text)).split())} "


def count_findings(exam: Exam) -> list[Finding]:
    """A count that is off."""
    target, answer = exam.target, exam.answer
    there = target.count or 0
    off = answer.stated_count - there
    if off == 0.0 or not answer.is_parsed:
        return []
    of_list = "" if answer.count is not None else " (the length of its list)"
    what = f"count off by {abs(off):g}: says {answer.stated_count:g}{of_list}, there are {there}"
    return [Finding("count off", what, LEARN, gain_of(exam, replace(answer, count=float(there))))]


def text_findings(exam: Exam) -> list[Finding]:
    """An answer that differs."""
    expected, said = exam.target.answer or "", exam.answer.text
    gain = gain_of(exam, replace(exam.answer, text=expected))
    if gain <= 0.0 or said == expected or not said.strip():
        return []
    shown = f"says {quoted(said)}, expected {quoted(expected)}"
    pointed = _DECIMAL_COMMA.sub(r"\1.\2", said[:MAX_LOOKED_AT])
    if pointed != said and gain_of(exam, replace(exam.answer, text=pointed)) >= gain - 1e-6:
        what = f"decimal comma: {shown}; a comma is read as a separator"
        return [Finding("decimal comma", what, "ask for a decimal point", gain)]
    if _words(expected) in _words(said[:MAX_LOOKED_AT]) and _words(expected).strip():
        return [
            Finding("answer among other words", f"answer among other words: {shown}", "ask for the answer alone", gain)
        ]
    return [Finding("answer differs", f"answer differs: {shown}", LEARN, gain)]
