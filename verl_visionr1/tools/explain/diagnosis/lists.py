"""Find answers that are not one JSON list: several lists or blocks, and Python literals."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

import msgspec

from verl_visionr1.answers import FORMATS, MAX_CHARS
from verl_visionr1.rewards.completion import BOX_TASKS
from verl_visionr1.tools.explain.diagnosis.base import Exam, Finding, quoted
from verl_visionr1.tools.explain.diagnosis.claims import answer_start
from verl_visionr1.tools.explain.diagnosis.repairs import wrap_best

MAX_LITERAL = 20_000
"""Most characters of a list that is tried as a Python literal."""
MAX_LISTS = 20
"""Most lists of one answer that are checked."""
_FENCE = "```"
_TYPOGRAPHIC = str.maketrans("\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb", '"""\'\'""')


def several_lists(exam: Exam) -> tuple[Exam, list[Finding]]:
    """Find out whether one of several lists or blocks, or all of them joined, would earn more as the whole answer.

    Returns the examination of that list in place of the answer, and the finding.
    """
    spans = _lists(exam)
    is_fenced = exam.completion.count(_FENCE) > 2
    if (len(spans) < 2 and not (spans and is_fenced)) or exam.to_full < 1e-9:
        return exam, []
    lists = [exam.completion[first:last] for first, last in spans]
    decoded = [decode_json(text) for text in lists]
    joined = json.dumps([*chain.from_iterable(decoded)]) if all(isinstance(it, list) for it in decoded) else "[]"
    before = exam.completion[: answer_start(exam.completion)]
    tried = [wrap_best(exam.with_text(f"{before}{text}")) for text in (*lists, joined)]
    best = max(tried, key=lambda it: it.value)
    number = tried.index(best)
    if best.value <= exam.value + 1e-6:
        return exam, []
    which = f"the objects are spread over {len(lists)} lists"
    if number < len(lists):
        which = f"list {number + 1} of {len(lists)} alone would earn {best.value:.3f}: {quoted(lists[number])}"
    read = "only the first ``` block is read" if is_fenced else "one list is read"
    what = f"several {'blocks' if is_fenced else 'lists'}: {read}; {which}"
    fix = "ask for one list, without an example of the format before it"
    return best, [Finding("several lists", what, fix, best.value - exam.value)]


def _lists(exam: Exam) -> list[tuple[int, int]]:
    """Places of the JSON lists of an answer, if the preset reads JSON and the task has boxes or points."""
    answer_format = FORMATS[exam.preset.answer_format]
    is_json = '_2d"' in answer_format.example or answer_format.name.endswith("-released")
    if not is_json or exam.target.task not in (*BOX_TASKS, "pointing"):
        return []
    start = answer_start(exam.completion)
    found = _outer_lists(exam.completion[start : start + MAX_CHARS])
    return [(first + start, last + start) for first, last in found][:MAX_LISTS]


def _outer_lists(text: str) -> Iterator[tuple[int, int]]:
    """Places of the outermost brackets that hold an object or nothing."""
    depth, start = 0, 0
    for match in re.finditer(r"[\[\]]|```", text):
        sign = match.group()
        if sign == _FENCE:
            depth = 0  # no list spans a fence
        elif sign == "[":
            start = start if depth else match.start()
            depth += 1
        elif depth:
            depth -= 1
            inside = text[start : match.end()]
            if not depth and ("{" in inside or not inside[1:-1].strip()):
                yield start, match.end()


def nearly_json(exam: Exam) -> tuple[Exam, list[Finding]]:
    """Find a list in Python's syntax or with typographic quotes; returns it as JSON, examined, and the finding."""
    spans = _lists(exam)
    if not spans or not (exam.answer.defects or exam.answer.n_dropped):
        return exam, []
    start, end = spans[0]
    text = exam.completion[start:end]
    if decode_json(text) is not None:
        return exam, []
    repaired, why = _as_json(text), "Python, not JSON (single quotes, None, a trailing comma)"
    if repaired is None:
        straight, why = text.translate(_TYPOGRAPHIC), "typographic quotes; JSON needs straight ones"
        repaired = _as_json(straight) if decode_json(straight) is None else straight
    if repaired is None:
        return exam, []
    reread = exam.with_text(f"{exam.completion[:start]}{repaired}{exam.completion[end:]}")
    gain = reread.value - exam.value
    if gain <= 1e-6 and len(reread.answer.defects) >= len(exam.answer.defects):
        return exam, []
    what = f"malformed: {why}: {quoted(text)}"
    fix = "ask for JSON with double quotes; examples in the prompt need them too (json.dumps, not str)"
    return reread, [Finding("malformed", what, fix, max(0.0, gain))]


def decode_json(text: str) -> Any:
    """Decode JSON; None for invalid JSON."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _as_json(text: str) -> str | None:
    """Convert a Python literal to JSON; None if it is none."""
    if len(text) > MAX_LITERAL:
        return None
    try:
        return json.dumps(ast.literal_eval(text), ensure_ascii=False)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
