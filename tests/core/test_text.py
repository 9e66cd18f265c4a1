"""Criteria and presets of answers in words."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein
from worded import judged, target

from verl_visionr1 import score
from verl_visionr1.answers import Answer
from verl_visionr1.criteria.text import choice, edit_similarity, exact, named_option, number, yes_no
from verl_visionr1.rewards import PRESETS as ALL_PRESETS

PRESETS = [name for name, preset in ALL_PRESETS.items() if preset.tasks == ("text",) and not preset.is_sum]


EXACT = {
    "the same": ("a dog", "a dog", 1),
    "case and blanks": ("A  Dog\n", "a dog", 1),
    "a full stop": ("a dog.", "a dog", 1),
    "bold": ("**a dog**", "A dog.", 1),
    "quotes": ("\u201ca dog\u201d", "a dog", 1),
    "wide letters": ("\uff21 dog", "A dog", 1),
    "invisible characters": ("a\u200b dog\ufeff", "a dog", 1),
    "another word": ("a cat", "a dog", 0),
    "more words": ("a dog or a cat", "a dog", 0),
    "part of it": ("dog", "a dog", 0),
    "nothing": ("", "a dog", 0),
    "punctuation alone": ("?", "?", 1),
    "other punctuation alone": ("!", "?", 0),
}


@pytest.mark.parametrize(("said", "right", "expected"), EXACT.values(), ids=EXACT)
def test_exact(said: str, right: str, expected: float) -> None:
    assert judged(exact, said, right) == expected


OPTIONS = ("a cat", "a dog", "a cow", "vitamin A")
NAMED = {
    "a letter": ("B", 1),
    "a small letter": ("b", 1),
    "in brackets": ("(B)", 1),
    "in square brackets": ("[b]", 1),
    "a full stop": ("B.", 1),
    "a bracket": ("b)", 1),
    "a colon": ("B:", 1),
    "bold": ("**B**", 1),
    "in quotes": ('"B"', 1),
    "letter and text": ("B) a dog", 1),
    "letter, stop and text": ("B. A dog.", 1),
    "letter and text without a sign": ("B a dog", 1),
    "Chinese: the answer is B": ("\u7b54\u6848\u662fB\u3002", 1),
    "Chinese: choose B": ("\u9009B", 1),
    "Chinese: option B, since": ("\u6b63\u786e\u9009\u9879\u4e3aB\uff0c\u56e0\u4e3a\u662f\u72d7", 1),
    "Chinese: B is right": ("B\u662f\u6b63\u786e\u7684", 1),
    "Chinese: B and C": ("\u9009B\u548cC", None),
    "Chinese: A, B both": ("\u9009A\u3001B\u90fd\u5bf9", None),
    "Chinese: B, no vitamin A": ("\u7b54\u6848\u662fB\uff0c\u4e0d\u662f\u7ef4\u751f\u7d20A", None),
    "Chinese: a letter in a word": ("\u7b54\u6848\u662f\u7ef4\u751f\u7d20B", None),
    "Chinese: a word that begins with a letter": ("\u662fB\u8d85", None),
    "an invisible character": ("B\u200b", 1),
    "letter and another option's text": ("B) a cat", None),
    "the text": ("A dog", 1),
    "the text of an option that ends in a letter": ("vitamin A", 3),
    "its letter and that text": ("D. vitamin A", 3),
    "another letter and that text": ("A) vitamin A", None),
    "an article": ("A cow", 2),
    "a sentence": ("The answer is B.", 1),
    "a sentence with an article": ("A good answer is option B", 1),
    "a sentence with the letter A": ("The answer is A because it purrs", 0),
    "a sentence with a text": ("It shows a dog in the grass", 1),
    "a sentence with letter and text": ("It is (b), a dog", 1),
    "a sentence with a letter and another text": ("It is B, a cat", None),
    "two letters": ("A or B", None),
    "all letters": ("A, B, C, D", None),
    "two letters without a blank": ("A,B", None),
    "letters and a reason": ("A, because B is wrong", None),
    "two texts": ("a dog or a cat", None),
    "a letter that is no option": ("E", None),
    "a word": ("Because", None),
    "letters in a word": ("AB", None),
    "a pronoun": ("I think", None),
    "a hyphen": ("A-level", None),
    "nothing": ("", None),
    "very long": ("B" + " " * 5000 + "B", None),
}


@pytest.mark.parametrize(("said", "option"), NAMED.values(), ids=NAMED)
def test_options(said: str, option: int | None) -> None:
    assert named_option(said, OPTIONS) == option
    for right, letter in enumerate("ABCD"):
        assert choice(Answer(text=said), target(letter, OPTIONS)) == float(option == right)


def test_the_truth_may_be_a_letter_or_a_text() -> None:
    for right in ("B", "(b)", "a dog", "B. a dog"):
        assert choice(Answer(text="b."), target(right, OPTIONS)) == 1.0
        assert choice(Answer(text="A"), target(right, OPTIONS)) == 0.0


def test_letters_without_options() -> None:
    for said, right in (("(H)", "H"), ("The answer is H.", "h"), ("I", "I")):
        assert judged(choice, said, right) == 1.0
    assert judged(choice, "I think so", "I") == 0.0
    assert judged(choice, "H or G", "H") == 0.0


def test_a_truth_that_names_no_option_is_met_by_nothing() -> None:
    for said in ("A", "B", "a mouse", ""):
        assert choice(Answer(text=said), target("a mouse", OPTIONS)) == 0.0


def test_an_option_inside_another() -> None:
    options = ("red", "dark red", "4", "5")
    said = {"dark red": 1, "red": 0, "It is dark red.": 1, "It is red": 0, "4": 2, "C": 2, "It is 5": 3}
    assert {text: named_option(text, options) for text in said} == said


def test_options_that_are_letters() -> None:
    assert named_option("X", ("X", "Y")) == 0
    assert named_option("B", ("B", "A")) == 1, "a letter that is an option's is that option's"


SAYS = {
    "yes": ("yes", True),
    "Yes.": ("Yes.", True),
    "true": ("True", True),
    "no": ("NO", False),
    "no, with a reason": ("No, there is no dog.", False),
    "no without a comma": ("No there is not", False),
    "false": ("That is false", False),
    "yes, with a reason": ("Yes, there is no other dog", True),
    "the answer is no": ("The answer is no.", False),
    "both": ("yes and no", None),
    "both in two sentences": ("Yes. No.", None),
    "either": ("yes or no", None),
    "no dog is no answer": ("There is no dog", None),
    "inside a word": ("nothing", None),
    "inside another": ("yesterday", None),
    "not": ("not", None),
    "maybe": ("maybe", None),
    "a hyphen": ("no-one", None),
    "nothing": ("", None),
}


@pytest.mark.parametrize(("said", "is_yes"), SAYS.values(), ids=SAYS)
def test_yes_no(said: str, is_yes: bool | None) -> None:
    assert judged(yes_no, said, "Yes") == float(is_yes is True)
    assert judged(yes_no, said, "no") == float(is_yes is False)
    assert judged(yes_no, said, "maybe") == 0.0, "neither equals nothing, not even neither"


NUMBERS = {
    "the same": ("42", "42", 1),
    "a fraction of zero": ("42.0", "42", 1),
    "separators": ("1,234", "1234", 1),
    "a unit": ("12 cm", "12", 1),
    "a unit in the truth": ("12", "12 cm", 1),
    "a currency": ("$1,234.50", "1234.5", 1),
    "a sentence": ("It weighs 12 kg.", "12kg", 1),
    "percent on both": ("50%", "50 %", 1),
    "percent said": ("50%", "0.5", 1),
    "percent in the truth": ("0.5", "50%", 1),
    "percent left off": ("50", "50%", 1),
    "percent too much": ("0.5%", "50%", 0),
    "a fraction": ("1/2", "0.5", 1),
    "a fraction in the truth": ("0.25", "1/4", 1),
    "nothing over nothing": ("0/0", "1", 0),
    "a scale": ("3 million", "3,000,000", 1),
    "words": ("twenty-one", "21", 1),
    "negative": ("\u22125", "-5", 1),
    "the other sign": ("5", "-5", 0),
    "wrong": ("43", "42", 0),
    "near": ("42.1", "42", 0),
    "rounding": ("0.30000000000000004", "0.3", 1),
    "zero": ("0", "0", 1),
    "not zero": ("0.001", "0", 0),
    "infinite": ("1e999", "1e999", 0),
    "NaN": ("nan", "nan", 0),
    "no number": ("many", "42", 0),
    "nothing": ("", "42", 0),
    "a truth without a number": ("42", "many", 0),
    "several": ("1 or 2 or 42", "42", 0),
    "a range": ("40 to 42", "42", 0),
    "a list": ("3, 42", "42", 0),
    "a truth of several": ("42", "40 to 42", 0),
    "a conclusion": ("40 + 2 = 42", "42", 1),
    "a dozen": ("a dozen", "12", 1),
    "minus in words": ("minus 42", "-42", 1),
    "Chinese": ("四十二", "42", 1),
    "a footnote": ("7\u00b2", "7", 1),
    "a footnote is no digit": ("7\u00b2", "72", 0),
    "nor of a number of two": ("10\u00b2", "102", 0),
    "a half is no 2": ("\u00bd", "2", 0),
    "three quarters are no 4": ("\u00be", "4", 0),
    "square centimetres": ("25 cm\u00b2", "25", 1),
    "wide digits": ("\uff13\uff0e\uff15", "3.5", 1),
    "wide percent": ("\uff15\uff10\uff05", "50%", 1),
    "wide separators": ("1,234", "\uff11\uff0c\uff12\uff13\uff14", 1),
    "a wide fraction": ("\uff11\uff0f\uff12", "0.5", 1),
}


@pytest.mark.parametrize(("said", "right", "expected"), NUMBERS.values(), ids=NUMBERS)
def test_number(said: str, right: str, expected: float) -> None:
    assert judged(number, said, right) == expected


def test_tolerance() -> None:
    assert [judged(number, said, "100", tolerance=0.05) for said in ("94", "95", "105", "106")] == [0, 1, 1, 0]
    assert judged(number, "-105", "-100", tolerance=0.05) == 1.0
    for tolerance in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="tolerance"):
            judged(number, "1", "1", tolerance=tolerance)


short = st.text("abc D", max_size=12)


@given(short.filter(str.strip), short)
def test_edit_similarity_by_definition(right: str, said: str) -> None:
    a, b = " ".join(said.lower().split()), " ".join(right.lower().split())
    assert judged(edit_similarity, said, right) == pytest.approx(Levenshtein.normalized_similarity(a, b) if a else 0)


def test_criteria_of_words_know_every_unicode_form() -> None:
    assert judged(edit_similarity, "Cafe\u0301", "caf\u00e9") == 1.0
    assert judged(edit_similarity, "cafe\u0301", "caf\u00e9", ignore_case=False) == 1.0
    assert judged(edit_similarity, "STRASSE", "stra\u00dfe") == 1.0
    assert judged(exact, "STRASSE", "stra\u00dfe") == judged(exact, "Cafe\u0301.", "caf\u00e9") == 1.0
    assert judged(choice, "\uff08\uff22\uff09", "B") == 1.0
    assert judged(yes_no, "\uff39\uff25\uff33", "yes") == 1.0
    assert judged(number, "\uff14\uff12", "42") == 1.0


def test_edit_similarity_options() -> None:
    assert judged(edit_similarity, "abcd", "abxx") == 0.5
    assert judged(edit_similarity, "abcd", "abxx", floor=0.6) == 0.0
    assert judged(edit_similarity, "ABCD", "abcd", ignore_case=False) == 0.0
    with pytest.raises(ValueError, match="floor = 2"):
        judged(edit_similarity, "a", "a", floor=2)


def test_edit_similarity_of_long_texts() -> None:
    long = "ab" * 40_000
    assert judged(edit_similarity, long, long) == 1.0
    assert judged(edit_similarity, long, long + "b") == pytest.approx(0.25, abs=1e-3), "the rest counts as wrong"


# a truth, its options, a perfect answer, a wrong one
TRUTHS: dict[str, tuple[str, tuple[str, ...], str, str]] = {
    "text-exact": ("a dog", (), "A dog.", "a cat"),
    "multiple-choice": ("B", ("a cat", "a dog"), "(B)", "A"),
    "yes-no": ("no", (), "No.", "yes"),
    "number": ("1234", (), "1,234", "7"),
    "edit-similarity": ("a dog", (), "a dog", "xyzuv"),
    "math": ("0.5", (), "0.50", "7"),
}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "around", ["{}", "<think>hm</think><answer>{}</answer>", "<think>hm</think>{}", "\\boxed{{{}}}"]
)
def test_perfect_wrong_and_empty(preset: str, around: str) -> None:
    answer, choices, right, wrong = TRUTHS[preset]
    truth = target(answer, choices)
    assert score(around.format(right), truth, preset=preset).value == 1.0
    assert score(around.format(wrong), truth, preset=preset).value == pytest.approx(0.1)
    empty = score("", truth, preset=preset)
    assert (empty.value, empty.metrics["accuracy"]) == (0.0, 0.0)
