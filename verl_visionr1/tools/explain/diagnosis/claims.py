"""Scan a completion for claims: all groups of numbers that could be a box or a point, parsed or not.

The parsers in `answers` decide what counts; this scanner explains why something did not. It accepts any keys, quotes
and shapes, reads at most `MAX_CHARS`, and never raises.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import msgspec

from verl_visionr1.answers import MAX_BOXES, MAX_CHARS
from verl_visionr1.answers.transcript import reasoning_end
from verl_visionr1.boxes import Box

MAX_CLAIM_CHARS = 2000
"""A longer object is not scanned."""
COORDINATE_KEYS = ("bbox_2d", "point_2d", "bbox", "box", "box_2d", "boxes", "points", "point")
LABEL_KEYS = ("label", "class", "name", "category", "text")
NOT_NUMBERS = "not bare, finite numbers"

_OBJECT = re.compile(r"\{[^{}]*\}")  # cannot backtrack: a scan ends at the first brace
_LIST = re.compile(r"\[([^\[\]{}]{1,200})\]")  # bounded
_NUMBER = re.compile(r"[-+]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][-+]?\d{1,3})?")  # bounded


@dataclass(frozen=True, slots=True)
class Claim:
    """A group of numbers in a completion, with the key and label beside them ("" if there is none).

    Attributes:
        numbers: as written; empty if there are none, or not all are finite.
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
    """Where the answer starts, after the reasoning; the length of the text if that was never closed."""
    end = reasoning_end(completion)
    return len(completion) if end is None else end


def claims_in(completion: str, start: int = 0, end: int | None = None) -> list[Claim]:
    """Find the claims in a part of a completion, in order; at most `MAX_BOXES`."""
    text = completion[start : start + MAX_CHARS if end is None else min(end, start + MAX_CHARS)]
    return list(islice(_objects(text, start), MAX_BOXES)) or list(islice(_lists(text, start), MAX_BOXES))


def find_read(claims: Sequence[Claim], places: Sequence[tuple[float, ...]]) -> list[int | None]:
    """Find the claim that each parsed box or point was read from; released parsers cut decimals off."""
    found: list[int | None] = []
    following = 0
    for place in places:
        at = next((i for i in range(following, len(claims)) if _is_same(claims[i], place)), None)
        found.append(at)
        following = following if at is None else at + 1
    return found


def _is_same(claim: Claim, place: tuple[float, ...]) -> bool:
    return claim.numbers == place or (not claim.fault and tuple(float(int(n)) for n in claim.numbers) == place)


def _objects(text: str, offset: int) -> Iterator[Claim]:
    for match in _OBJECT.finditer(text):
        chunk = match.group()
        if ("[" not in chunk and "_2d" not in chunk) or len(chunk) > MAX_CLAIM_CHARS:
            continue
        key, values, label = _fields(chunk)
        if values is None:
            continue
        numbers = _numbers(values)
        fault = fault_of(numbers, len(values)) if numbers else NOT_NUMBERS
        yield Claim(match.start() + offset, match.end() + offset, numbers, label, key, fault)


def _lists(text: str, offset: int) -> Iterator[Claim]:
    for match in _LIST.finditer(text):
        pieces = match.group(1).split(",")
        if not all(_NUMBER.fullmatch(piece.strip()) for piece in pieces):
            continue
        numbers = _numbers([float(piece) for piece in pieces])
        fault = fault_of(numbers, len(pieces)) if numbers else NOT_NUMBERS
        yield Claim(match.start() + offset, match.end() + offset, numbers, "", "", fault)


def _fields(chunk: str) -> tuple[str, list[Any] | None, str]:
    """Key and values of the coordinates of one `{...}`, and its label."""
    for attempt in (chunk, chunk.replace("'", '"')):
        try:
            item = msgspec.json.decode(attempt)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            continue
        label = next((item[key] for key in LABEL_KEYS if isinstance(item.get(key), str)), "")
        lists = [key for key, value in item.items() if isinstance(value, list) or key.endswith("_2d")]
        key = next((key for key in (*COORDINATE_KEYS, *lists) if key in lists), None)
        if key is None:
            return "", None, label
        values = item[key] if isinstance(item[key], list) else [item[key]]
        return key, values, label
    match = _LIST.search(chunk)
    if match is None:
        return "", None, ""
    key = next((key for key in COORDINATE_KEYS if key in chunk), "")
    return key, [float(number) for number in _NUMBER.findall(match.group(1))], ""


def _numbers(values: list[Any]) -> tuple[float, ...]:
    """The values as floats; empty unless all are finite numbers."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return ()
    try:
        numbers = tuple(map(float, values))
    except OverflowError:
        return ()
    return numbers if all(map(math.isfinite, numbers)) else ()


def fault_of(numbers: tuple[float, ...], n_values: int) -> str:
    """Why these numbers are not a box."""
    if n_values != 4 or len(numbers) != 4:
        return f"{n_values} number{'s' * (n_values != 1)} instead of 4"
    for axis, extent, low, high in (("x", "width", numbers[0], numbers[2]), ("y", "height", numbers[1], numbers[3])):
        if low > high:
            return f"inverted: {axis}1 = {low:g} > {axis}2 = {high:g}"
        if low == high:
            return f"no {extent}: {axis}1 = {axis}2 = {low:g}"
    return ""
