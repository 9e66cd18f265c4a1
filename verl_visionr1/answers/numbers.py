"""Reads numbers: digits of any script with separators, percent and scales, English and Chinese words.

A text states a number if it contains exactly one: "1 or 2", "5 to 7" and "3, 7" state none.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import NamedTuple

MAX_DIGITS = 40
"""A longer run of digits is read as infinite."""
MAX_NUMBERS = 100
"""A text with more numbers states none."""


class Number(NamedTuple):
    """A number in a text.

    Attributes:
        value: may be infinite, never NaN; 50 for "50%".
        is_percent: whether a percent sign follows.
        start, end: its place in the text, with its sign, scale word and percent sign.
    """

    value: float
    is_percent: bool
    start: int
    end: int


def stated_numbers(text: str) -> list[Number]:
    """Return the distinct numbers that a text states; a text with one answer has one. Linear time.

    Of several numbers, those after the last conclusion ("=", "so", "total", "answer", ...) are returned. "1,234" is one
    number, "1,2" are two. A digit in a name ("v2", "m2", "CO2", "x^2") or an ordinal ("2nd") is no number. "one" is no
    number after words such as "the last", nor beside other numbers unless it is an alternative ("one or two"). Chinese
    numerals are read only without other numbers.
    """
    if len(text) <= 15 and text.isascii() and text.isdecimal():
        return [Number(float(text), False, 0, len(text))]
    found = _numbers(to_plain(text))
    if len(_different(found)) > 1:
        ends = [marker.end() for marker in _CONCLUSION.finditer(text) if marker.end() <= found[-1].start]
        if ends:
            return _different([number for number in found if number.start >= ends[-1]])
    return _different(found)


def to_plain(text: str) -> str:
    """Convert digits of all scripts, and signs of East Asian width, to ASCII, one character for one.

    Superscript digits and single-character fractions stay as they are.
    """
    return text if text.isascii() else "".join(map(_plain_char, text))


_SIGNS = {"\u2212": "-", "\u2013": "-", "\u2012": "-", "\u066b": ".", "\u066c": ",", "\u066a": "%", "\u3001": ","}


def _plain_char(char: str) -> str:
    if char.isascii():
        return char
    if char.isdecimal():
        return str(unicodedata.decimal(char))
    if char in _SIGNS:
        return _SIGNS[char]
    wide = unicodedata.normalize("NFKC", char) if unicodedata.east_asian_width(char) in "FH" else char
    return wide if len(wide) == 1 else char


_CONCLUSION = re.compile(r"=|\u2248|\b(?:so|therefore|thus|hence|total|answer)\b|共|所以|答案", re.I)
_ALTERNATIVE = re.compile(r"\s{0,9}(?:,|;|,?\s{0,9}\b(?:or|to|and)\b|[或到至~])\s{0,9}", re.I)


def _different(numbers: list[Number]) -> list[Number]:
    return list({number.value / (100.0 if number.is_percent else 1.0): number for number in numbers}.values())


def _are_alternatives(text: str, one: Number, other: Number) -> bool:
    return one.value != other.value and _ALTERNATIVE.fullmatch(text, one.end, other.start) is not None


def _numbers(text: str) -> list[Number]:
    """Return the numbers of a plain text in order, at most `MAX_NUMBERS` + 1 of each kind."""
    digits = list(islice(_in_digits(text), MAX_NUMBERS + 1))
    pieces: list[str] = []
    end = 0
    for number in digits:  # a scale word after digits is not read again as a word
        pieces += [text[end : number.start], "\0" * (number.end - number.start)]
        end = number.end
    words = islice(_in_words("".join([*pieces, text[end:]])), MAX_NUMBERS + 1)
    found = sorted([*digits, *words], key=lambda number: number.start) or list(_in_chinese(text))
    return [_apply_sign(text, number) for number in _without_pronouns(text, found)]


def _without_pronouns(text: str, found: list[Number]) -> list[Number]:
    """Remove "one" if there are other numbers, unless it is an alternative to one of them."""
    is_word = [number.value == 1.0 and text[number.start].isalpha() for number in found]
    if all(is_word) or not any(is_word):
        return found
    near = [_are_alternatives(text, *pair) for pair in pairwise(found)]
    return [n for n, word, before, after in zip(found, is_word, [False, *near], [*near, False], strict=True)
            if not word or before or after]  # fmt: skip


_MINUS = re.compile(r"(?:\b(?:minus|negative)\s|[负負]|(?<![\w)])-)$", re.IGNORECASE)


def _apply_sign(text: str, number: Number) -> Number:
    """Apply a sign before the number (a minus, or a word such as "negative")."""
    minus = _MINUS.search(text, max(0, number.start - 9), number.start)
    return number if minus is None else number._replace(value=-number.value, start=minus.start())


# Starts at a digit that does not follow a letter, digit, dot or ^. No part can match in two ways.
_DIGITS = re.compile(r"(?<![\w.^])[-+]?(?:\d+(?:,\d+)*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,4})?", re.ASCII)
_AFTER = re.compile(
    r"\s?(?:(%|\\%|percent\b)|(hundred|thousand|million|billion|trillion|dozen)\b|([万萬亿億]))",
    re.IGNORECASE,
)
_SCALES = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12, "dozen": 12.0}
_FRACTIONS = {"½": 0.5, "¼": 0.25, "¾": 0.75, "⅓": 1 / 3, "⅔": 2 / 3}
_ORDINALS = ("st", "nd", "rd", "th")


def _in_digits(text: str) -> Iterator[Number]:
    for match in _DIGITS.finditer(text):
        end = match.end()
        if text[end : end + 2].lower() not in _ORDINALS or text[end + 2 : end + 3].isalpha():
            yield from _read_numbers(text, match)


def _read_numbers(text: str, match: re.Match[str]) -> Iterator[Number]:
    """Read the numbers of a match of `_DIGITS` ("1,2" has two), with the scale word or percent sign after it."""
    token, start, end = match.group(), match.start(), match.end()
    for part in [token] if _has_thousands(token) else islice(token.split(","), MAX_NUMBERS + 1):
        value, is_percent, stop = _value(part), False, start + len(part)
        after = _AFTER.match(text, end) if stop == end else None
        if after is not None:
            is_percent = after.group(1) is not None
            scale = _SCALES.get((after.group(2) or "").lower()) or _CHINESE_SCALES.get(after.group(3) or "", 1.0)
            value, stop = value * scale, after.end()
        if stop == end and text[end : end + 1] in _FRACTIONS:
            value, stop = value + _FRACTIONS[text[end]], end + 1
        yield Number(value, is_percent, start, stop)
        start += len(part) + 1


def _has_thousands(token: str) -> bool:
    """Whether each comma of a token precedes a group of three digits; True without commas."""
    first, *groups = token.lstrip("-+").partition(".")[0].split(",")
    return len(first) <= 3 and all(len(group) == 3 for group in groups) if groups else True


def _value(token: str) -> float:
    token = token.replace(",", "")
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
_LARGE = {"thousand": 1e3, "million": 1e6, "billion": 1e9}
_WITH_ARTICLE = {"dozen": 12.0, "hundred": 100.0, "thousand": 1e3, "million": 1e6}
_PRONOUN_BEFORE = frozenset(
    ("no", "each", "this", "that", "another", "every", "any", "which", "the", "last", "first", "other")
)
"""Words after which "one" is no number."""


class _WordNumber:
    """A number in words that is being read."""

    __slots__ = ("end", "group", "last", "start", "thousands")

    def __init__(self, value: float, kind: str, start: int, end: int) -> None:
        self.thousands, self.group, self.last = 0.0, value, kind
        self.start, self.end = start, end

    def number(self) -> Number:
        return Number(self.thousands + self.group, False, self.start, self.end)

    def extend(self, word: str, gap: str) -> bool:
        """Add `word` if it belongs to this number; `gap` is the text before it. Returns whether it does."""
        if gap.strip(" -\u2011"):
            return False
        small, tens = _SMALL.get(word), _TENS.get(word)
        above = self.last in ("hundred", "and", *_LARGE)
        if small is not None and (above or (self.last == "tens" and 0 < small < 10)):
            self.group, self.last = self.group + small, "small"
        elif tens is not None and above:
            self.group, self.last = self.group + tens, "tens"
        elif word in ("hundred", "dozen") and self.last in ("small", "tens") and self.group < 100:
            self.group, self.last = self.group * _WITH_ARTICLE[word], word
        elif word in _LARGE and self.group and not 0 < self.thousands < 1e3 * _LARGE[word] and self.last != "and":
            self.thousands, self.group, self.last = self.thousands + self.group * _LARGE[word], 0.0, word
        elif word == "and" and self.last in ("hundred", *_LARGE):
            self.last = "and"
            return True  # "and" belongs to the number only if more follows: `end` does not move
        else:
            return False
        return True


def _in_words(text: str) -> Iterator[Number]:
    count: _WordNumber | None = None
    previous = ("", 0, 0)
    article: tuple[str, int] | None = None
    for match in _WORD.finditer(text):
        word, start, end = match.group().lower(), match.start(), match.end()
        if count is not None and count.extend(word, text[previous[2] : start]):
            count.end = count.end if word == "and" else end
        else:
            if count is not None:
                yield count.number()
            count = None
            if word in _SMALL and not (word == "one" and previous[0] in _PRONOUN_BEFORE):
                count = _WordNumber(_SMALL[word], "small", start, end)
            elif word in _TENS:
                count = _WordNumber(_TENS[word], "tens", start, end)
            elif word in _WITH_ARTICLE and article is not None and not text[previous[2] : start].strip():
                count = _WordNumber(_WITH_ARTICLE[word] * (0.5 if article[0] == "half" else 1.0), word, article[1], end)
        if word == "half":
            article = word, start
        elif word in ("a", "an"):
            article = article if previous[0] == "half" else (word, start)
        else:
            article = None
        previous = word, start, end
    if count is not None:
        yield count.number()


_CHINESE_DIGITS = {char: float(i) for i, char in enumerate("〇一二三四五六七八九")} | {"零": 0.0, "两": 2.0, "兩": 2.0}
_CHINESE_UNITS = {"十": 10.0, "廿": 20.0, "卅": 30.0, "百": 100.0, "千": 1000.0}
_CHINESE_SCALES = {"万": 1e4, "萬": 1e4, "亿": 1e8, "億": 1e8}
_CHINESE_RUN = "[" + "".join((*_CHINESE_DIGITS, *_CHINESE_UNITS, *_CHINESE_SCALES)) + "]{1,20}"
# Not after "number", "some" and "several"; no "some", "the same", "as usual", "together" (but "in all"), "surely".
_CHINESE = re.compile(rf"(?<![第几数])(?!一[些样起般直定切共]){_CHINESE_RUN}(?!几)")


def _in_chinese(text: str) -> Iterator[Number]:
    """Read Chinese numerals; adjacent digits ("seven eight" means seven or eight) are separate numbers."""
    for match in islice(_CHINESE.finditer(text), MAX_NUMBERS + 1):
        run, start = match.group(), match.start()
        if len(run) > 1 and all(_CHINESE_DIGITS.get(char) for char in run):
            for i, char in enumerate(run):
                yield Number(_CHINESE_DIGITS[char], False, start + i, start + i + 1)
        else:
            yield Number(_chinese_value(run), False, start, match.end())


def _chinese_value(run: str) -> float:
    total = section = digit = 0.0
    for char in run:
        if char in _CHINESE_DIGITS:
            digit = 10.0 * digit + _CHINESE_DIGITS[char]
        elif char in _CHINESE_UNITS:
            section, digit = section + (digit or 1.0) * _CHINESE_UNITS[char], 0.0
        else:
            total, section, digit = (total + section + digit) * _CHINESE_SCALES[char], 0.0, 0.0
    return total + section + digit
