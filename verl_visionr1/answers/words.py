"""Answers without boxes: a count as a number or in words, and plain text."""

from __future__ import annotations

import re

from verl_visionr1.answers.base import MAX_CHARS, Answer, AnswerFormat, Defect
from verl_visionr1.answers.envelope import after_reasoning, cut
from verl_visionr1.answers.numbers import stated_numbers

MAX_COUNT = 1e9
"""The largest valid count."""


def parse_count(text: str) -> Answer:
    r"""Read a count: `7`, `seven`, `<answer> 7 </answer>`, `\boxed{7}`, `There are 7 cats.`, `no cats`.

    The count is the one number in the text that `parse_text` reads, finite and in [0, `MAX_COUNT`]; several different
    ones are no count. Without a number, "no" and "none" are 0. Well-formed: the number alone, optionally with markup or
    a full stop. A list of boxes or points is no number: the preset `counting-list` takes its length.
    """
    body, defects = answer_in(text)
    if not body:
        return Answer(defects=defects or (Defect.NO_COUNT,))
    if _LIST.search(body):
        return Answer(defects=(*defects, Defect.WRONG_KIND))
    numbers = stated_numbers(body)
    if len(numbers) == 1:
        value, written = numbers[0].value, body[numbers[0].start : numbers[0].end]
    elif numbers:
        return Answer(defects=(*defects, Defect.NO_COUNT))
    elif (none := _NONE.search(body)) is not None:
        value, written = 0.0, none.group()
    else:
        return Answer(defects=(*defects, Defect.NO_COUNT))
    if not 0.0 <= value <= MAX_COUNT:
        return Answer(defects=(*defects, Defect.NO_COUNT))
    if body.strip(_MARKUP) != written.strip(_MARKUP) and Defect.PROSE not in defects:
        defects = (*defects, Defect.PROSE)
    return Answer(count=value, defects=defects)


def parse_text(text: str) -> Answer:
    r"""Read an answer in words: the text after `</think>`; of that, the last `<answer>`, GLM box or `\boxed{}`, if any.

    Well-formed: some text; tags are optional, but closed, and there is no text around `<answer>` (around a GLM box or
    `\boxed{}` it is no defect). Reasoning that is never closed is no answer.
    """
    body, defects = answer_in(text)
    return Answer(text=body, defects=defects if body else defects or (Defect.NO_TEXT,))


_MARKUP = " \t\r\n.*_`$'\"。"
_LIST = re.compile(r"bbox|box_2d|point_2d|<point|\[\s{0,9}\[")  # coordinates are no count
_NONE = re.compile(r"(?<![\w'-])(?:no|none|nothing)(?![\w'])|(?<!有)没有", re.IGNORECASE)
_BRACE = re.compile(r"[{}]")
_BOX = ("<|begin_of_box|>", "<|end_of_box|>")


def answer_in(text: str) -> tuple[str, tuple[Defect, ...]]:
    """Return the stripped answer of a completion, and the defects around it. Linear time."""
    body, defects = after_reasoning(text.strip())
    body, box_closed = _inside_box(body)
    body, boxed_closed = _read_boxed(body)
    return cut(body.strip(), defects if box_closed and boxed_closed else (*defects, Defect.TRUNCATED))


def _inside_box(body: str) -> tuple[str, bool]:
    """Return the content of the last GLM box, or all text without one; True unless a box is never closed."""
    start = body.rfind(_BOX[0])
    if start < 0:
        return body, True
    inner = body[start + len(_BOX[0]) :]
    end = inner.find(_BOX[1])
    return (inner, False) if end < 0 else (inner[:end], True)


def _read_boxed(body: str) -> tuple[str, bool]:
    r"""Return the content of the last `\boxed{...}`, with paired braces; True unless it is never closed."""
    start = body.rfind("\\boxed{")
    if start < 0:
        return body, True
    inner = body[start + len("\\boxed{") :][: MAX_CHARS + 1]
    depth = 1
    for brace in _BRACE.finditer(inner):
        depth += 1 if brace.group() == "{" else -1
        if not depth:
            return inner[: brace.start()], True
    return inner, False


COUNT = AnswerFormat(
    "count",
    parse_count,
    "7",
    {"counting": "Count every {phrases} in the image and answer with the number alone."},
    " If there is none, answer 0.",
    separator=" and every ",
    then="Answer with the number alone.",
)
TEXT = AnswerFormat(
    "text",
    parse_text,
    "a dog",
    {"text": "{phrase} Answer with the final answer alone."},
    " If there is none, answer none.",
)
