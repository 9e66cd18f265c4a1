"""Reasoning that the prompt opens: what is said where a text, or a setting, does not fit it."""

from __future__ import annotations

from dataclasses import replace

from verl_visionr1.answers.transcript import REASONING_TAGS
from verl_visionr1.tools.explain.diagnosis.base import Exam, Finding

LONGER = "raise data.max_response_length, or ask for less text"
_NO_THINKING = "+data.apply_chat_template_kwargs.enable_thinking=false, where the model is not to reason"


def to_close(exam: Exam) -> str:
    """What to do about reasoning that was never closed."""
    return f"{LONGER}; the prompt opens <think>: {_NO_THINKING}" if exam.response.reasoning_opened else LONGER


def opened_in_prompt(exam: Exam) -> tuple[Exam, list[Finding]]:
    """Whether the text closes a reasoning that it never opens, and the reward was not told that the prompt did.

    The examination comes back as it is with that told.
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
    fix = "set reasoning=opened (--reasoning opened); auto reads it from the prompt, which this row lacks"
    return told, [Finding("reasoning opened in the prompt", what, fix, gain)]
