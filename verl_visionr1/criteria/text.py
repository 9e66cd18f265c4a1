"""Criteria of answers in words: choice, yes/no, exact, number, edit similarity, math.

All compare `answer.text`, the answer without reasoning and tags, with `target.answer`; an answer without text scores
0. If a criterion cannot read the target (a choice that names no option, a number without digits), every answer scores
0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from verl_visionr1.answers import Answer
from verl_visionr1.answers.numbers import Number, stated_numbers, to_plain
from verl_visionr1.criteria import math_equality
from verl_visionr1.criteria.thresholds import needs
from verl_visionr1.targets import Target, normalize_text

MAX_CHOICE_CHARS = 2000
"""A longer answer names no option."""
MAX_EDIT_CHARS = 20_000
"""Characters of a text that edit similarity compares; the rest counts as wrong."""


def exact(answer: Answer, target: Target) -> float:
    """1.0 iff the texts are equal, except case, surplus blanks, Unicode form, quotes, markup and a final full stop."""
    predicted, gold = answer.text, target.answer or ""
    if not predicted:
        return 0.0
    if predicted == gold:
        return 1.0
    gold = normal_text(gold)
    return 1.0 if gold and normal_text(predicted) == gold else 0.0


_BEFORE = " \t\r\n\"'`*_\u201c\u201d\u2018\u2019"
_AFTER = _BEFORE + ".!?,;:\u3002"
_FACTORIAL_END = re.compile(r"[\d)\]}]!")


def normal_text(text: str) -> str:
    """Normalize a text for comparison."""
    text = normalize_text(text).lstrip(_BEFORE)
    end = text.rstrip(_AFTER)
    if _FACTORIAL_END.match(text, len(end) - 1):
        end += "!"
    is_math = len(end) > 2 and end[0] == end[-1] == "$" and "$" not in end[1:-1]
    return end[1:-1].strip() if is_math else end


def choice(answer: Answer, target: Target) -> float:
    """1.0 iff the answer names the right option of a multiple choice, and no other; else 0.0.

    Answer and target may name it by letter ("B", "(b)", "B.", "B) a dog", "The answer is B") or, with `target.choices`,
    by the option's text; without them the letters A to Z are options. Several letters, a letter with another option's
    text, or the texts of several options are no answer.
    """
    right = _right_option(target.answer or "", tuple(target.choices))
    return 1.0 if right is not None and named_option(answer.text, target.choices) == right else 0.0


# A letter with a bracket or punctuation is a choice; without it "a" is an article and "I" a pronoun.
_LEADING = re.compile(r"[\s\"'*`]*(?:[(\[]([A-Za-z])[)\]]|([A-Za-z])(?=[.):,\]]|[\s*\"'`]*$))[.):,\]*\s]*")
_MENTION = re.compile(r"\(([A-Za-z])\)|(?<![\w'\u2019.+-])([A-Z])(?![\w'\u2019+-])(?!\.\w)")
# Chinese has no blanks: "the answer is B", "choose B", "B is right"; but not "vitamin B".
_HAN = re.compile(r"[\u3400-\u9fff]")
_HAN_BESIDE = re.compile(r"[选選项項择擇案是为為](?=[A-Z](?![A-Za-z0-9]))|(?<=[A-Z])[选選项項是]")
_ARTICLE = re.compile(r"\s(?!(?:or|and|is)\b)[a-z]")
_IS = re.compile(r"(?:is|option|answer|choice|choose|chose|select|pick)[:\s*\"'(]*$", re.IGNORECASE)
_PLAIN_WORD = re.compile(r"\w+")


def named_option(text: str, choices: Sequence[str]) -> int | None:
    """Return the index of the option that a text names; None for none or several."""
    if not text or len(text) > MAX_CHOICE_CHARS:
        return None
    text = normalize_text(text, fold_case=False)  # full-width letters and brackets
    texts = [normal_text(option) for option in choices]
    n_letters = len(choices) or 26
    normal = normal_text(text)
    if texts.count(normal) == 1 and not (len(normal) == 1 and 0 <= ord(normal) - ord("a") < n_letters):
        return texts.index(normal)
    leading = _LEADING.match(text)
    if leading is not None and (letter := _index(leading.group(1) or leading.group(2))) < n_letters:
        rest = normal_text(text[leading.end() :])
        if not rest:
            return letter
        if rest in texts:
            return letter if texts[letter] == rest else None
    letters = _mentioned_letters(text, n_letters)
    by_text = _mentioned_texts(normal, texts)
    if len(letters) == len(by_text) == 1 and letters != by_text:
        return None
    found = letters or by_text
    return found.pop() if len(found) == 1 else None


@lru_cache(maxsize=1024)
def _right_option(answer: str, choices: tuple[str, ...]) -> int | None:
    return named_option(answer, choices)


def _index(letter: str) -> int:
    return ord(letter.lower()) - ord("a")


def _mentioned_letters(text: str, n_letters: int) -> set[int]:
    """Find options whose letter is a word of the text: "option B", "(b)", "B."."""
    if _HAN.search(text) is not None and _MENTION.search(_HAN_BESIDE.sub(" ", text)) is not None:
        text = _HAN.sub(" ", text)  # each letter of a Chinese text that names one: "A and B"
    found: set[int] = set()
    for match in _MENTION.finditer(text):
        letter = match.group(1) or match.group(2)
        is_word = match.group(2) in ("A", "I") and _ARTICLE.match(text, match.end()) is not None
        if is_word and _IS.search(text[max(0, match.start() - 12) : match.start()]) is None:
            continue
        if _index(letter) < n_letters:
            found.add(_index(letter))
    return found


def _mentioned_texts(normal: str, texts: Sequence[str]) -> set[int]:
    """Find options whose text is in the answer as whole words, except those inside another such option's text."""
    predicted = f" {' '.join(_PLAIN_WORD.findall(normal))} "
    words = [f" {' '.join(_PLAIN_WORD.findall(option))} " for option in texts]
    found = {i for i, option in enumerate(words) if option.strip() and option in predicted}
    return {i for i in found if not any(words[i] != words[j] and words[i] in words[j] for j in found)}


def yes_no(answer: Answer, target: Target) -> float:
    """1.0 iff answer and target are both yes or both no; 0.0 for an answer with neither or both.

    Whole words count; "true" means yes and "false" no. "no" before another word ("no dog") is no answer, unless the
    text begins with it.
    """
    right = _parse_yes_no(target.answer or "")
    return 1.0 if right is not None and _parse_yes_no(answer.text) is right else 0.0


_YES_OR_NO = re.compile(r"(?<![\w'-])(?:(yes|true)|(false|no(?!\s+\w)))(?![\w'-])", re.IGNORECASE)
_NO_FIRST = re.compile(r"[\s\"'*`(]*no(?![\w'-])", re.IGNORECASE)


def _parse_yes_no(text: str) -> bool | None:
    """Return True for yes, False for no, None for neither or both."""
    text = normalize_text(text, fold_case=False)
    found = {match.group(1) is not None for match in _YES_OR_NO.finditer(text)}
    if _NO_FIRST.match(text) is not None:
        found.add(False)
    return found.pop() if len(found) == 1 else None


_ROUNDING = 1e-9
_POWER = re.compile(r"\s?(?:\^|\*\*\s?\d)")
_FACTORIAL = re.compile(r"\d\s?!")
_FRACTION = re.compile(
    r"[\s$]*(?:([-+]?\d{1,15})\s*/\s*(\d{1,15})|([-+]?)\\[dt]?frac\s*\{(\d{1,15})\}\s*\{(\d{1,15})\})[\s$.]*"
)


def number(answer: Answer, target: Target, *, tolerance: float = 0.0) -> float:
    """1.0 iff the answer states the target's number, up to the relative `tolerance`, and no other; else 0.0.

    Several different numbers ("1 or 2", "5 to 7") state none, as in counting: see `numbers.stated_numbers`. Thousands
    separators, fractions, "3 million" and number words are read. Units are not compared. "50%" equals both 50 and 0.5
    if the other side has no percent sign. ChartQA's relaxed accuracy has tolerance .05.

    Raises:
        ValueError: a tolerance outside [0, 1).
    """
    if not 0.0 <= tolerance < 1.0:
        raise ValueError(f"number: tolerance = {tolerance!r}: needs a number in [0, 1)")
    predicted, gold = _number(answer.text), _number(target.answer or "")
    if predicted is None or gold is None or _FACTORIAL.search(target.answer or ""):
        return 0.0
    scales = (1.0,) if predicted.is_percent == gold.is_percent else (1.0, 0.01 if predicted.is_percent else 100.0)
    allowed = (tolerance + _ROUNDING) * abs(gold.value)
    return 1.0 if any(abs(predicted.value * scale - gold.value) <= allowed for scale in scales) else 0.0


def _number(text: str) -> Number | None:
    """Read the number that a text states; None for none, several, or one that is not finite."""
    text = to_plain(text)
    fraction = _FRACTION.fullmatch(text)
    if fraction is not None:
        above, below, sign, tex_above, tex_below = fraction.groups()
        top, bottom = float(above or sign + tex_above), float(below or tex_below)
        if bottom:
            return Number(top / bottom, False, 0, len(text))
    found = stated_numbers(text)
    if len(found) != 1 or not abs(found[0].value) < float("inf"):
        return None
    return None if _POWER.match(text, found[0].end) else found[0]


@needs("rapidfuzz")
def edit_similarity(answer: Answer, target: Target, *, floor: float = 0.0, ignore_case: bool = True) -> float:
    """1 - Levenshtein distance / length of the longer text; 0.0 below `floor` (ANLS: .5).

    Surplus blanks and Unicode forms are ignored, and case with `ignore_case`. Characters beyond `MAX_EDIT_CHARS` count
    as wrong.

    Raises:
        ValueError: a floor outside [0, 1], or rapidfuzz is not installed.
    """
    if not 0.0 <= floor <= 1.0:
        raise ValueError(f"edit_similarity: floor = {floor!r}: needs a number in [0, 1]")
    distance = _levenshtein()
    predicted, gold = (normalize_text(text, fold_case=ignore_case) for text in (answer.text, target.answer or ""))
    if predicted == gold:
        return 1.0 if predicted else 0.0
    longer = max(len(predicted), len(gold))
    n_wrong = distance(predicted[:MAX_EDIT_CHARS], gold[:MAX_EDIT_CHARS]) + max(0, longer - MAX_EDIT_CHARS)
    similarity = max(0.0, 1.0 - n_wrong / longer)
    return similarity if similarity >= floor else 0.0


@lru_cache(maxsize=1)
def _levenshtein() -> Callable[[str, str], int]:
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError:
        raise ValueError("edit_similarity: needs rapidfuzz: pip install 'verl-visionr1[text]'") from None
    return Levenshtein.distance


@needs("math_verify", may_block=True)
def math(answer: Answer, target: Target, *, seconds: float = 2.0) -> float:
    """1.0 iff the answer equals the target as mathematics ("1/2", "0.5" and a LaTeX fraction are equal); else 0.0.

    Compared by math-verify in a child process with a deadline (`math_equality`); 0.0 after the deadline.

    Raises:
        ValueError: seconds of 0 or less, or math-verify is not installed.
    """
    if not seconds > 0.0:
        raise ValueError(f"math: seconds = {seconds!r}: needs a number above 0")
    math_equality.require_library()
    if not answer.text:
        return 0.0
    return 1.0 if math_equality.is_equal(answer.text, target.answer or "", seconds) else 0.0


CRITERIA: tuple[Callable[..., float], ...] = (exact, choice, yes_no, number, edit_similarity, math)
"""Criteria for presets."""
