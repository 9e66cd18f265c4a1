"""Texts of a page: the completion, shortened if long, and the place of each prediction in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from verl_visionr1.answers import FORMATS
from verl_visionr1.answers.transcript import THINK
from verl_visionr1.tools.explain.diagnosis import Exam
from verl_visionr1.tools.explain.diagnosis.claims import Claim, answer_start, claims_in

HEAD, TAIL = 6000, 12000
"""Characters of a long text that are kept at its start and at its end."""
MAX_PROMPT = 4000
Span = tuple[int, int]
NOWHERE: Span = (-1, -1)

_SPECIAL = re.compile(r"<\|[a-z_0-9]{1,40}\|>")
_ANSWER = re.compile(r"\s*\bassistant\s*(?:<think>\s*)?$")
_USER = re.compile(r"(?:^|\n)\s*(?:user|USER|Human):?\s*\n")


class Shown(NamedTuple):
    """A text on the page; `n_cut` of its characters are left out at `at`."""

    text: str
    at: int
    n_cut: int

    @classmethod
    def of(cls, text: str) -> Shown:
        """Shorten a long text."""
        n_cut = len(text) - HEAD - TAIL
        return cls(text[:HEAD] + text[-TAIL:], HEAD, n_cut) if n_cut > 0 else cls(text, len(text), 0)

    def place(self, span: Span) -> Span:
        """Place of a piece of the whole text in the shown one; `NOWHERE` if part of it is left out."""
        start, end = span
        if end <= self.at:
            return span
        return (start - self.n_cut, end - self.n_cut) if start >= self.at + self.n_cut else NOWHERE

    @property
    def cut(self) -> Span | None:
        """(place in UTF-16 units, number) of the characters left out; None if none are."""
        return (in_utf16(self.text, [(self.at, self.at)])[0][0], self.n_cut) if self.n_cut else None


def spans_of(exam: Exam, text: str) -> list[Span]:
    """Find the place of each prediction in a text, in characters; `NOWHERE` if unknown.

    Args:
        exam: examination of the text's last turn.
        text: the whole completion.
    """
    shift = _shift(exam.completion, text)
    if shift is None:
        return [NOWHERE] * len(_spans(exam))
    return [span if span == NOWHERE else (span[0] + shift, span[1] + shift) for span in _spans(exam)]


def _shift(turn: str, text: str) -> int | None:
    """Start of the last turn in a text; the turn may begin with a `<think>` that the text lacks."""
    at = text.rfind(turn)
    if at >= 0:
        return at
    at = text.rfind(turn[len(THINK) :]) if turn.startswith(THINK) else -1
    return at - len(THINK) if at >= 0 else None


def _spans(exam: Exam) -> list[Span]:
    spoken = FORMATS[exam.preset.answer_format].parse(exam.completion)
    places: Sequence[tuple[float, ...]] = spoken.boxes_xyxy or spoken.points_xy
    claims = claims_in(exam.completion, answer_start(exam.completion)) if places else []
    spans: list[Span] = []
    following = 0
    for place in places:
        at = next((i for i in range(following, len(claims)) if _is_same(claims[i], place)), None)
        spans.append(NOWHERE if at is None else (claims[at].start, claims[at].end))
        following = following if at is None else at + 1
    return spans


def _is_same(claim: Claim, place: tuple[float, ...]) -> bool:
    """Whether a claim is this prediction; released parsers cut decimals off."""
    return claim.numbers == place or (not claim.fault and tuple(float(int(n)) for n in claim.numbers) == place)


def in_utf16(text: str, spans: Sequence[Span]) -> list[Span]:
    """Convert places in characters to UTF-16 units, as used by browsers.

    >>> in_utf16("a😀b", [(0, 1), (2, 3), (-1, -1)])
    [(0, 1), (3, 4), (-1, -1)]
    """
    if text.isascii() or max(text) <= "\uffff":
        return list(spans)
    units = list(accumulate((1 + (char > "\uffff") for char in text), initial=0))
    return [(units[start], units[end]) if start >= 0 else NOWHERE for start, end in spans]


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
