"""Texts of a page: the completion and the prompt, shortened."""

from __future__ import annotations

import re

HEAD, TAIL = 6000, 12000
"""Characters of a long text that are kept at its start and at its end."""
MAX_PROMPT = 4000

_SPECIAL = re.compile(r"<\|[a-z_0-9]{1,40}\|>")
_ANSWER = re.compile(r"\s*\bassistant\s*(?:<think>\s*)?$")
_USER = re.compile(r"(?:^|\n)\s*(?:user|USER|Human):?\s*\n")


def shortened(text: str) -> str:
    """A text of which only the start and the end are kept if it is long; what is left out is said."""
    n_cut = len(text) - HEAD - TAIL
    return text if n_cut <= 0 else f"{text[:HEAD]}\n... {n_cut} characters left out ...\n{text[-TAIL:]}"


def question_of(prompt: str | None) -> str:
    """The last question of a prompt, without the text of common chat templates.

    >>> question_of("system\\nYou are helpful.\\nuser\\nWhere is the cat?\\nassistant\\n")
    'Where is the cat?'
    >>> question_of("<|im_start|>user\\n<|image_pad|>Where?<|im_end|>\\n<|im_start|>assistant\\n")
    'Where?'
    """
    text = _ANSWER.sub("", plain_prompt(prompt))
    return _USER.split(text)[-1].replace("<image>", "").strip()


def plain_prompt(prompt: str | None) -> str:
    """A prompt without special tokens, shortened."""
    text = _SPECIAL.sub("", (prompt or "")[: 50 * MAX_PROMPT]).strip()
    return text if len(text) <= MAX_PROMPT else f"{text[:MAX_PROMPT]}..."
