"""Reasoning: opened in the prompt where the reward was not told, or with the whole answer in it."""

from __future__ import annotations

from msgspec.structs import replace

from verl_visionr1.answers.transcript import REASONING_TAGS
from verl_visionr1.targets import normalize_text
from verl_visionr1.tools.explain.diagnosis.base import Exam, Finding, plural
from verl_visionr1.tools.explain.diagnosis.claims import answer_start, claims_in

MAX_LOOKED_AT = 20_000
"""So many characters of a text are searched for the answer."""
_NO_THINKING = "+data.apply_chat_template_kwargs.enable_thinking=false turns it off"


def to_close(exam: Exam) -> str:
    """What to do about reasoning that was never closed."""
    fix = exam.cut_off_fix
    return f"{fix}; the prompt opens <think>: {_NO_THINKING}" if exam.response.reasoning_opened else fix


def opened_in_prompt(exam: Exam) -> tuple[Exam, list[Finding]]:
    """Whether the text closes a reasoning that it never opens, and the reward was not told that the prompt did.

    Returns:
        The examination with that told, and the finding.
    """
    text = exam.completion
    is_closed_only = any(closing in text and opening not in text for opening, closing in REASONING_TAGS)
    if exam.response.reasoning_opened or not is_closed_only:
        return exam, []
    told = exam.with_text(text, replace(exam.response, reasoning_opened=True))
    gain = told.value - exam.value
    if gain <= 1e-6:
        return exam, []
    what = "reasoning opened in the prompt: the text closes <think> and never opens it"
    fix = "set reasoning=opened (--reasoning opened); auto reads the prompt, which this row does not have"
    return told, [Finding("reasoning opened in the prompt", what, fix, gain)]


def only_reasoned(exam: Exam) -> Finding | None:
    """That the answer stands in the reasoning, and none that can be read after it; else None."""
    start = answer_start(exam.completion)
    if exam.target.task in ("counting", "text"):
        expected = words_of(exam.expected)
        reasoned = words_of(exam.completion[:start][-MAX_LOOKED_AT:])
        found = "the right answer" if expected.strip() and expected in reasoned and not exam.answer.is_parsed else ""
    else:
        found = _places_in(exam, start)
    if not found:
        return None
    is_closed = "</think>" in exam.completion
    where = "none that can be read after it" if is_closed else "which was never closed"
    fix = "the answer must follow </think>: say so in the prompt" if is_closed else to_close(exam)
    what = f"only in the reasoning: {found} in the reasoning, {where}"
    return Finding("only in the reasoning", what, fix, exam.to_full)


def _places_in(exam: Exam, start: int) -> str:
    """The boxes or points of the reasoning; "" where the answer has some, or where there is nothing to find."""
    meant = [claim for claim in claims_in(exam.completion, 0, start) if len(claim.numbers) in (2, 4)]
    if not meant or claims_in(exam.completion, start) or not exam.target.n_objects:
        return ""
    return plural(len(meant), *(("box", "boxes") if len(meant[0].numbers) == 4 else ("point", "points")))


def words_of(text: str) -> str:
    """Letters and digits between single blanks, so that whole words are found, and not parts of words.

    >>> words_of("It is Paris.")
    ' it is paris '
    """
    return f" {' '.join(''.join(char if char.isalnum() else ' ' for char in normalize_text(text)).split())} "
