"""Findings about reasoning: opened in the prompt unnoticed, or with the whole answer in it."""

from __future__ import annotations

from msgspec.structs import replace

from verl_visionr1.answers.transcript import REASONING_TAGS
from verl_visionr1.targets import normalize_text
from verl_visionr1.tools.explain.diagnosis.base import Exam, Finding, plural
from verl_visionr1.tools.explain.diagnosis.claims import answer_start, claims_in

MAX_LOOKED_AT = 20_000
"""Most characters of a text that are searched for the answer."""
_NO_THINKING = "+data.apply_chat_template_kwargs.enable_thinking=false turns it off"


def to_close(exam: Exam) -> str:
    """What to do about unclosed reasoning."""
    fix = exam.cut_off_fix
    return f"{fix}; the prompt opens <think>: {_NO_THINKING}" if exam.response.reasoning_opened else fix


def opened_in_prompt(exam: Exam) -> tuple[Exam, list[Finding]]:
    """Find reasoning that the prompt opened without the reward's knowledge: the text only closes it.

    Returns:
        The examination with `reasoning_opened=True`, and the finding.
    """
    text = exam.completion
    is_closed_only = any(closing in text and opening not in text for opening, closing in REASONING_TAGS)
    if exam.response.reasoning_opened or not is_closed_only:
        return exam, []
    reread = exam.with_text(text, replace(exam.response, reasoning_opened=True))
    gain = reread.value - exam.value
    if gain <= 1e-6:
        return exam, []
    what = "reasoning opened in the prompt: the text closes <think> and never opens it"
    fix = "set reasoning=opened (--reasoning opened); auto reads the prompt, which this row does not have"
    return reread, [Finding("reasoning opened in the prompt", what, fix, gain)]


def only_reasoned(exam: Exam) -> Finding | None:
    """A finding if the answer is in the reasoning and no readable one follows; else None."""
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
    where = "no readable answer after it" if is_closed else "which was never closed"
    fix = "the answer must follow </think>: require that in the prompt" if is_closed else to_close(exam)
    what = f"only in the reasoning: {found} in the reasoning, {where}"
    return Finding("only in the reasoning", what, fix, exam.to_full)


def _places_in(exam: Exam, start: int) -> str:
    """Describe the boxes or points of the reasoning; "" if the answer has some, or if the target has no objects."""
    meant = [claim for claim in claims_in(exam.completion, 0, start) if len(claim.numbers) in (2, 4)]
    if not meant or claims_in(exam.completion, start) or not exam.target.n_objects:
        return ""
    return plural(len(meant), *(("box", "boxes") if len(meant[0].numbers) == 4 else ("point", "points")))


def words_of(text: str) -> str:
    """Letters and digits between single blanks, so that only whole words are found.

    >>> words_of("It is Paris.")
    ' it is paris '
    """
    return f" {' '.join(''.join(char if char.isalnum() else ' ' for char in normalize_text(text)).split())} "
