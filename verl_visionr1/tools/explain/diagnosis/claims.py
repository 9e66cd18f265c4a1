"""Scan a completion for claims: all groups of numbers that could be a box or a point, parsed or not.

The parsers in `answers` decide what counts; this scanner explains why something did not. It accepts any keys, quotes
and shapes, reads at most `MAX_CHARS`, and never raises.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from verl_visionr1.answers import MAX_BOXES, MAX_CHARS
from verl_visionr1.answers.transcript import reasoning_end
from verl_visionr1.boxes import Box

MAX_CLAIM_CHARS = 2000
"""A longer object is not scanned."""
COORDINATE_KEYS = ("bbox_2d", "point_2d", "bbox", "box", "box_2d", "boxes", "points", "point")
QUOTED, NESTED, NOT_FINITE = "numbers in quotes", "numbers in nested lists", "not finite numbers"
"""Reasons why values are not usable numbers."""
LABEL_KEYS = ("label", "class", "name", "category", "text")

_OBJECT = re.compile(r"\{[^{}]*\}")  # cannot backtrack: a scan ends at the first brace
_LIST = re.compile(r"\[([^\[\]{}]{1,200})\]")  # bounded
_NUMBER = re.compile(r"[-+]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][-+]?\d{1,3})?")  # bounded


@dataclass(frozen=True, slots=True)
class Claim:
    """A group of numbers in a completion.

    Attributes:
        start, end: its place, in characters of the completion.
        numbers: as written; empty if there are none, or not all are finite.
        label: the label beside them; "" if there is none.
        key: their key; "" for a bare list.
        fault: why they are not a box; "" for a box of four numbers with x1 < x2 and y1 < y2.
    """

    start: int
    end: int
    numbers: tuple[float, ...]
    label: str
    key: str
    fault: str

    @property
    def box(self) -> Box | None:
        """Its four numbers, inverted or not; None unless there are four."""
        return cast(Box, self.numbers) if len(self.numbers) == 4 else None


def answer_start(completion: str) -> int:
    """Where the answer starts, after the reasoning; the length of the text if that was never closed.

    >>> answer_start("<think>well</think>[]"), answer_start("<think>well"), answer_start("[]")
    (19, 11, 0)
    """
    end = reasoning_end(completion)
    return len(completion) if end is None else end


def claims_in(completion: str, start: int = 0, end: int | None = None) -> list[Claim]:
    """Find the claims in a part of a completion, in order; at most `MAX_BOXES`.

    Objects `{...}` if any holds a list; else bare lists of numbers.

    >>> [claim.fault for claim in claims_in('[{"bbox_2d": [9, 0, 5, 5], "label": "cat"}]')]
    ['inverted: x1 = 9 > x2 = 5']
    >>> claims_in("cat-[0.1,0.2,0.3,0.4]")[0].numbers
    (0.1, 0.2, 0.3, 0.4)
    """
    text = completion[start : start + MAX_CHARS if end is None else min(end, start + MAX_CHARS)]
    found = _first(_objects(text, start)) or _first(_lists(text, start))
    return found


def _first(claims: Iterable[Claim]) -> list[Claim]:
    return [claim for claim, _ in zip(claims, range(MAX_BOXES), strict=False)]


def _objects(text: str, offset: int) -> Iterator[Claim]:
    for match in _OBJECT.finditer(text):
        chunk = match.group()
        if ("[" not in chunk and "_2d" not in chunk) or len(chunk) > MAX_CLAIM_CHARS:
            continue
        key, values, label = _fields(chunk)
        if values is None:
            continue
        fault = ""
        if len(values) == 1 and isinstance(values[0], list):
            values = cast(list[Any], values[0])
            fault = NESTED if key.endswith("_2d") else ""
        numbers = _numbers(values)
        fault = fault or (fault_of(numbers, len(values)) if numbers else _no_numbers(values))
        yield Claim(match.start() + offset, match.end() + offset, numbers, label, key, fault)


def _no_numbers(values: list[Any]) -> str:
    """Why values are not numbers."""
    if any(isinstance(value, list) for value in values):
        return NESTED
    pieces = [piece.strip() for value in values if isinstance(value, str) for piece in value[:200].split(",")]
    return QUOTED if any(_NUMBER.fullmatch(piece.strip("[]() ")) for piece in pieces) else NOT_FINITE


def _lists(text: str, offset: int) -> Iterator[Claim]:
    for match in _LIST.finditer(text):
        pieces = match.group(1).split(",")
        if not all(_NUMBER.fullmatch(piece.strip()) for piece in pieces):
            continue
        numbers = _numbers([float(piece) for piece in pieces])
        fault = fault_of(numbers, len(pieces)) if numbers else NOT_FINITE
        yield Claim(match.start() + offset, match.end() + offset, numbers, "", "", fault)


def _fields(chunk: str) -> tuple[str, list[Any] | None, str]:
    """Key and values of the coordinates of one `{...}`, and its label."""
    for attempt in (chunk, chunk.replace("'", '"')):
        try:
            item = msgspec.json.decode(attempt)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            continue
        label = next((item[key] for key in LABEL_KEYS if isinstance(item.get(key), str)), "")
        lists = {key: value for key, value in item.items() if isinstance(value, list)}
        key = next((key for key in (*COORDINATE_KEYS, *lists) if key in lists), None)
        if key is not None:
            return key, lists[key], label
        key = next((key for key in COORDINATE_KEYS if key.endswith("_2d") and isinstance(item.get(key), str)), "")
        return key, [item[key]] if key else None, label
    match = _LIST.search(chunk)
    if match is None:
        return "", None, ""
    key = next((key for key in COORDINATE_KEYS if key in chunk), "")
    return key, [float(number) for number in _NUMBER.findall(match.group(1))], ""


def _numbers(values: list[Any]) -> tuple[float, ...]:
    numbers: list[float] = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return ()
        try:
            number = float(value)
        except OverflowError:
            return ()
        if not math.isfinite(number):
            return ()
        numbers.append(number)
    return tuple(numbers)


def fault_of(numbers: tuple[float, ...], n_values: int) -> str:
    """Why these numbers are not a box.

    >>> fault_of((1.0, 2.0), 2), fault_of((1.0, 2.0, 1.0, 5.0), 4), fault_of((1.0, 2.0, 3.0, 4.0), 4)
    ('2 numbers instead of 4', 'no width: x1 = x2 = 1', '')
    """
    if n_values != 4 or len(numbers) != 4:
        return f"{n_values} number{'s' * (n_values != 1)} instead of 4"
    for axis, extent, low, high in (("x", "width", numbers[0], numbers[2]), ("y", "height", numbers[1], numbers[3])):
        if low > high:
            return f"inverted: {axis}1 = {low:g} > {axis}2 = {high:g}"
        if low == high:
            return f"no {extent}: {axis}1 = {axis}2 = {low:g}"
    return ""
