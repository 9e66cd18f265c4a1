"""Find answers that are not one JSON list: several lists or blocks, and text that is almost JSON."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import msgspec

from verl_visionr1.answers import FORMATS, MAX_CHARS
from verl_visionr1.rewards.completion import BOX_TASKS
from verl_visionr1.tools.explain.diagnosis.base import Exam, Finding, quoted
from verl_visionr1.tools.explain.diagnosis.claims import answer_start

MAX_LITERAL = 20_000
"""Most characters of a list that is tried as a Python literal."""
MAX_LISTS = 20
"""Most lists of one answer that are checked."""
_FENCE = "```"
_TYPOGRAPHIC = str.maketrans("\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb", '"""\'\'""')
_BLOCK = re.compile(r"```[^`]{0,4000}```")  # bounded
_BARE_KEY = re.compile(r"([{,]\s{0,20})([A-Za-z_]\w{0,40})(\s{0,20}:)")  # bounded
_OUTER_QUOTE = re.compile(r"(?<=[\[{:,])(\s{0,20})'|'(?=\s{0,20}[\]}:,])")  # bounded
_TRAILING_COMMA = re.compile(r",\s{0,20}([\]}])")  # bounded


# ---------------------------------------------------------------------------------------------- one list of several


def several_lists(exam: Exam) -> tuple[Exam, list[Finding]]:
    """Find out whether one of several lists or blocks, or all of them joined, would earn more.

    Returns the examination of that list in place of the answer, and the finding.
    """
    spans = _lists(exam)
    lists = [exam.completion[first:last] for first, last in spans]
    start, end = (spans[0][0], spans[-1][1]) if spans else (0, 0)
    before, after = exam.completion[:start], exam.completion[end:]
    is_fenced = _FENCE in exam.completion[start:end] or before.count(_FENCE) > 1
    if (len(spans) < 2 and not (spans and is_fenced)) or exam.to_full < 1e-9:
        return exam, []
    before = _BLOCK.sub("", before)  # blocks that end before the first list
    if exam.completion[start:end].count(_FENCE) % 2 and _FENCE not in before:
        after = after.replace(_FENCE, "", 1)  # the closing fence of the last list
    exams = [exam.with_text(f"{before}{text}{after}") for text in lists]
    joined = _join(lists)
    together = exam.with_text(f"{before}{joined}{after}") if joined else exam
    alone = max(exams, key=lambda it: it.value)
    best = together if together.value > alone.value + 1e-6 else alone
    if best.value <= exam.value + 1e-6:
        return exam, []
    number = exams.index(alone)
    which = f"list {number + 1} of {len(lists)} alone would earn {alone.value:.3f}: {quoted(lists[number])}"
    if best is together:
        which = f"the objects are spread over {len(lists)} lists"
    read = "only the first ``` block is read" if is_fenced else "one list is read"
    what = f"several {'blocks' if is_fenced else 'lists'}: {read}; {which}"
    fix = "ask for one list, without an example of the format before it"
    return best, [Finding("several lists", what, fix, best.value - exam.value)]


def _lists(exam: Exam) -> list[tuple[int, int]]:
    """Places of the JSON lists of an answer, in characters of the completion."""
    if not _is_json(exam):
        return []
    start = answer_start(exam.completion)
    found = _outer_lists(exam.completion[start : start + MAX_CHARS])
    return [(first + start, last + start) for first, last in found][:MAX_LISTS]


def _is_json(exam: Exam) -> bool:
    """Whether the preset reads JSON and the task has boxes or points."""
    answer_format = FORMATS[exam.preset.answer_format]
    asks = exam.target.task in (*BOX_TASKS, "pointing")
    return asks and ('_2d"' in answer_format.example or answer_format.name.endswith("-released"))


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


def _join(lists: list[str]) -> str:
    """Join the objects of several lists; "" if one of them cannot be read."""
    decoded = [decode_json(text) for text in lists]
    if not all(isinstance(it, list) for it in decoded):
        return ""
    return json.dumps([*chain.from_iterable(decoded)], ensure_ascii=False)


# ---------------------------------------------------------------------------------------------- nearly JSON


def nearly_json(exam: Exam) -> tuple[Exam, list[Finding]]:
    """Find a list that is JSON except for its quotes, keys or commas; returns the repaired examination and the
    finding."""
    spans = _lists(exam)
    if not spans or not (exam.answer.defects or exam.answer.n_dropped):
        return exam, []
    start, end = spans[0]
    text = exam.completion[start:end]
    if decode_json(text) is not None:
        return exam, []
    for what, fix, repair in _REPAIRS:
        repaired = repair(text)
        if repaired is None or repaired == text or decode_json(repaired) is None:
            continue
        reread = exam.with_text(f"{exam.completion[:start]}{repaired}{exam.completion[end:]}")
        gain = reread.value - exam.value
        if gain > 1e-6 or len(reread.answer.defects) < len(exam.answer.defects):
            return reread, [Finding("malformed", f"malformed: {what}: {quoted(text)}", fix, max(0.0, gain))]
    return exam, []


def decode_json(text: str) -> Any:
    """Decode JSON; None for invalid JSON."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _as_python(text: str) -> str | None:
    """Convert a Python literal to JSON."""
    if len(text) > MAX_LITERAL:
        return None
    try:
        return json.dumps(ast.literal_eval(text), ensure_ascii=False)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


_ASK_JSON = "ask for JSON with double quotes; examples in the prompt need them too (json.dumps, not str)"
_REPAIRS: tuple[tuple[str, str, Callable[[str], str | None]], ...] = (
    ("a comma before a closing bracket, which JSON forbids", "", lambda text: _TRAILING_COMMA.sub(r"\1", text)),
    (
        "single quotes, as in a Python list; JSON needs double quotes",
        _ASK_JSON,
        lambda text: _OUTER_QUOTE.sub(r'\1"', text),
    ),
    ("a Python literal (quotes, None, True, tuples); JSON needs double quotes", _ASK_JSON, _as_python),
    ("typographic quotes; JSON needs straight quotes", _ASK_JSON, lambda text: text.translate(_TYPOGRAPHIC)),
    ("keys without quotes; JSON needs quotes", _ASK_JSON, lambda text: _BARE_KEY.sub(r'\1"\2"\3', text)),
)
"""(what is wrong, what to do, repair)."""
