"""Numbers as people write them: digits with separators, percent and scale words, and number words up to a million."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

MAX_DIGITS = 40
"""A longer run of digits is read as infinite."""


class Number(NamedTuple):
    """A number in a text.

    Attributes:
        value: may be infinite, never NaN; of "50%" it is 50.
        is_percent: whether a percent sign follows.
        start, end: where it stands in the text, its sign, scale word and percent sign included.
    """

    value: float
    is_percent: bool
    start: int
    end: int


def last_number(text: str) -> Number | None:
    """The last number that is written in digits, else the last one in words, else None. Linear time.

    "1,234" is one number, "1,2" are two; a digit that belongs to a name ("v2", "m2", "CO2", "x^2") or an ordinal
    ("2nd") is none. "one" is taken for a number only where no other stands ("the last one is red").

    >>> last_number("of 1,234.5 that is -7.5%").value
    -7.5
    >>> last_number("3 million").value, last_number("twenty-one of the cats").value
    (3000000.0, 21.0)
    >>> last_number("no cats") is None
    True
    """
    digits: re.Match[str] | None = None
    for match in _DIGITS.finditer(text):
        if not _is_ordinal(text, match.end()):
            digits = match
    if digits is not None:
        return _number(text, digits)
    last: Number | None = None
    for number in _in_words(text):
        if last is None or number.value != 1.0 or last.value == 1.0:
            last = number
    return last


# Starts at a digit that no letter, digit, dot or ^ precedes; nothing in it can be matched in two ways.
_DIGITS = re.compile(r"(?<![\w.^])[-+\u2212]?(?:\d+(?:,\d+)*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,4})?", re.ASCII)
_AFTER = re.compile(r"\s?(?:(%|\\%|percent\b)|(hundred|thousand|million|billion|trillion)\b)", re.IGNORECASE)
_SCALES = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_ORDINALS = ("st", "nd", "rd", "th")


def _is_ordinal(text: str, end: int) -> bool:
    return text[end : end + 2].lower() in _ORDINALS and not text[end + 2 : end + 3].isalpha()


def _number(text: str, match: re.Match[str]) -> Number:
    """The number of a match of `_DIGITS`, with the scale word or percent sign behind it."""
    token, start, end = match.group(), match.start(), match.end()
    cut = 0 if _has_thousands(token) else token.rfind(",", 0, len(token.rstrip(","))) + 1  # "1,2": the last of them
    value = _value(token[cut:])
    is_percent = False
    after = _AFTER.match(text, end)
    if after is not None:
        is_percent = after.group(1) is not None
        value *= 1.0 if is_percent else _SCALES[after.group(2).lower()]
        end = after.end()
    return Number(value, is_percent, start + cut, end)


def _has_thousands(token: str) -> bool:
    """Whether the commas of a token stand before groups of three digits; True where there is no comma."""
    first, *groups = token.lstrip("-+\u2212").partition(".")[0].rstrip(",").split(",")
    return len(first) <= 3 and all(len(group) == 3 for group in groups) if groups else True


def _value(token: str) -> float:
    token = token.replace(",", "").replace("\u2212", "-")
    if len(token) > MAX_DIGITS:
        return -math.inf if token.startswith("-") else math.inf
    return float(token)


_WORD = re.compile(r"[A-Za-z]+")
_SMALL_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS_WORDS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SMALL = {word: float(value) for value, word in enumerate(_SMALL_WORDS)}
_TENS = {word: 10.0 * (2 + i) for i, word in enumerate(_TENS_WORDS)}
_PRONOUN_BEFORE = frozenset(
    ("no", "each", "this", "that", "another", "every", "any", "which", "the", "last", "first", "other")
)
"""Words after which "one" is no number."""


class _Count:
    """A number in words while it is read."""

    __slots__ = ("end", "group", "last", "start", "thousands")

    def __init__(self, value: float, kind: str, start: int, end: int) -> None:
        self.thousands, self.group, self.last = 0.0, value, kind
        self.start, self.end = start, end

    def number(self) -> Number:
        return Number(self.thousands + self.group, False, self.start, self.end)

    def takes(self, word: str, gap: str) -> bool:
        """Go on with `word` if it belongs to this number; `gap` is what stands between."""
        if gap.strip(" -\u2011"):
            return False
        small, tens = _SMALL.get(word), _TENS.get(word)
        above = self.last in ("hundred", "thousand", "and")
        if small is not None and (above or (self.last == "tens" and 0 < small < 10)):
            self.group, self.last = self.group + small, "small"
        elif tens is not None and above:
            self.group, self.last = self.group + tens, "tens"
        elif word == "hundred" and self.last in ("small", "tens") and self.group < 100:
            self.group, self.last = self.group * 100, "hundred"
        elif word == "thousand" and not self.thousands and self.last != "and":
            self.thousands, self.group, self.last = self.group * 1000, 0.0, "thousand"
        elif word == "and" and self.last in ("hundred", "thousand"):
            self.last = "and"
            return True  # it belongs to the number only if more follows: `end` stays
        else:
            return False
        return True


def _in_words(text: str) -> Iterator[Number]:
    count: _Count | None = None
    previous, previous_end = "", 0
    for match in _WORD.finditer(text):
        word, start, end = match.group().lower(), match.start(), match.end()
        if count is not None and count.takes(word, text[previous_end:start]):
            count.end = count.end if word == "and" else end
        else:
            if count is not None:
                yield count.number()
            count = None
            if word in _SMALL and not (word == "one" and previous in _PRONOUN_BEFORE):
                count = _Count(_SMALL[word], "small", start, end)
            elif word in _TENS:
                count = _Count(_TENS[word], "tens", start, end)
        previous, previous_end = word, end
    if count is not None:
        yield count.number()
