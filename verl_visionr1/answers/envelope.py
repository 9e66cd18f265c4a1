"""The wrapping around an answer: reasoning, `<answer>`, a ``` fence. The same for every format."""

from __future__ import annotations

import re

import msgspec

from verl_visionr1.answers.base import MAX_CHARS, Answer, Defect
from verl_visionr1.answers.transcript import last_turn, reasoning_end

UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)
"""Errors of msgspec on text of another type or form."""
_NONE: tuple[Defect, ...] = ()
_LANGUAGE = re.compile(r"(?:json|xml|html|text)(?![^\W_])", re.IGNORECASE)
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


def unwrap(text: str) -> tuple[str, tuple[Defect, ...]]:
    """Return the stripped answer of a completion, and the defects around it.

    The answer has at most `MAX_CHARS`; it is empty if the reasoning is never closed.
    """
    body = text.strip()
    is_bracketed = body.startswith("[") and body.endswith("]") and len(body) <= MAX_CHARS
    is_tagged = "<" in body or "\u25c1" in body  # reasoning may begin with a bracket too
    if is_bracketed and (not is_tagged or _is_list(body)):
        return body, _NONE
    body, defects = after_reasoning(body)
    body, fenced = inside_fence(body)
    return cut(body, defects if fenced else (Defect.PROSE,))


def after_reasoning(body: str) -> tuple[str, tuple[Defect, ...]]:
    """Return the text after the reasoning of the last turn, without `<answer>` tags. Takes stripped text."""
    if not body:
        return body, (Defect.EMPTY,)
    body = last_turn(body).strip()
    start = reasoning_end(body)
    if start is None or not body:
        return "", (Defect.NO_ANSWER,)
    body, answered = _inside_answer(body[start:].strip())
    return body, _NONE if answered else (Defect.PROSE,)


def inside_fence(text: str) -> tuple[str, bool]:
    """Return the content of the first ``` fence; True if the whole text is one fence, or has none.

    A fence that is never closed is no prose: the list inside shows whether the text was cut off.
    """
    start = text.find("```")
    if start < 0:
        return text, True
    inner = text[start + 3 :]
    language = _LANGUAGE.match(inner)
    if language is not None:
        inner = inner[language.end() :]
    end = inner.find("```")
    if end < 0:
        return inner.strip(), start == 0
    return inner[:end].strip(), start == 0 and end + 3 == len(inner)


def cut(body: str, defects: tuple[Defect, ...]) -> tuple[str, tuple[Defect, ...]]:
    """Cut an answer to `MAX_CHARS`."""
    if len(body) > MAX_CHARS:
        return body[:MAX_CHARS], (*defects, Defect.TOO_LONG)
    return body, defects


def is_none(body: str) -> bool:
    """Whether a text is "None", "none" or "None.": some prompts ask for it if there is no object."""
    return len(body) <= 5 and body.removesuffix(".").lower() == "none"


def empty_answer(body: str, defects: tuple[Defect, ...]) -> Answer | None:
    """Return an `Answer` without objects if the text is `[]`, "None" or empty; None for other texts."""
    if body == "[]" or is_none(body):
        return Answer((), (), 0, defects)
    return None if body else Answer((), (), 0, defects or (Defect.EMPTY,))


def _is_list(text: str) -> bool:
    try:
        _decode_list(text)
    except UNREADABLE:
        return False
    return True


def _inside_answer(text: str) -> tuple[str, bool]:
    """Return the content of the last `<answer>`; True if the whole text is one closed `<answer>`, or has none."""
    start = text.rfind("<answer>")
    if start < 0:
        return text, True
    inner = text[start + len("<answer>") :]
    end = inner.find("</answer>")
    if end < 0:
        return inner.strip(), False
    return inner[:end].strip(), start == 0 and end + len("</answer>") == len(inner)
