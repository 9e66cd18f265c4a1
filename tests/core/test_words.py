"""Counts and words out of completions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_visionr1.answers import FORMATS, MAX_CHARS, Defect
from verl_visionr1.answers.numbers import stated_numbers
from verl_visionr1.answers.words import parse_count, parse_text

# text -> the different numbers that it states
NUMBERS = {
    "digits": ("7", [7]),
    "two numbers": ("7 of 10", [7, 10]),
    "thousands": ("it is 1,234,567", [1_234_567]),
    "thousands and a fraction": ("1,234.5", [1234.5]),
    "a list without blanks": ("1,2", [1, 2]),
    "four digits after a comma": ("12,3456", [12, 3456]),
    "a list": ("3, 7", [3, 7]),
    "alternatives": ("1 or 2 or 3", [1, 2, 3]),
    "alternatives with words between": ("maybe 3, perhaps 4", [3, 4]),
    "alternatives in words": ("one or two", [1, 2]),
    "alternatives in words and digits": ("three or 4", [3, 4]),
    "a range": ("5 to 7", [5, 7]),
    "a range with a hyphen": ("5-10", [5, 10]),
    "a range with a dash": ("5\u20137", [5, 7]),
    "a range in words": ("between five and seven", [5, 7]),
    "the same in digits and words": ("7 (seven)", [7]),
    "the same twice": ("7, I say 7", [7]),
    "a conclusion": ("3 red and 4 blue, so 7 in total", [7]),
    "an equation": ("3 + 4 = 7", [7]),
    "a conclusion of several": ("3 and 4, so 5 or 6", [5, 6]),
    "a total of several": ("5 to 7 in total", [5, 7]),
    "a comma after it": ("7, I think", [7]),
    "negative": ("-3", [-3]),
    "a minus sign": ("\u22123", [-3]),
    "a dash as sign": ("\u20133", [-3]),
    "minus in words": ("minus 7", [-7]),
    "negative in words": ("negative seven", [-7]),
    "minus before a word": ("-seven", [-7]),
    "a sum is no sign": ("x=-3", [-3]),
    "a bare fraction": (".5", [0.5]),
    "a full stop": ("7.", [7]),
    "an exponent": ("1e3", [1000]),
    "a huge exponent": ("1e999", [math.inf]),
    "very many digits": ("9" * 5000, [math.inf]),
    "percent": ("50%", [50]),
    "a scale": ("3.5 million", [3.5e6]),
    "a unit": ("12cm", [12]),
    "a name is no number": ("GPT4", []),
    "a power is no number": ("m^2", []),
    "an ordinal is no number": ("the 2nd", []),
    "words": ("twenty-one", [21]),
    "more words": ("two thousand three hundred and forty five", [2345]),
    "millions in words": ("two million three hundred thousand", [2_300_000]),
    "and between two numbers": ("two cats and three dogs", [2, 3]),
    "a dozen": ("a dozen", [12]),
    "two dozen": ("two dozen eggs", [24]),
    "half a dozen": ("half a dozen", [6]),
    "digits and dozen": ("2 dozen", [24]),
    "dozens": ("dozens of cats", []),
    "a hundred": ("a hundred and five", [105]),
    "vague words": ("several, a few", []),
    "digits before words": ("7 cats, the last one is red", [7]),
    "one as a pronoun": ("three cats, and this one is red", [3]),
    "one as a number": ("there is one", [1]),
    "one after another number": ("five in one row", [5]),
    "no one": ("there is no one", []),
    "none": ("none", []),
    "a word that begins like one": ("tension often", []),
    "full width": ("\uff17", [7]),
    "Arabic": ("\u0663\u066b\u0665", [3.5]),
    "Devanagari": ("\u096d", [7]),
    "a raised digit is none": ("m\u00b2", []),
    "a digit in a circle is none": ("\u2466", []),
    "Chinese": ("七", [7]),
    "Chinese, twenty in one sign": ("廿七", [27]),
    "seven and a half in two signs": ("7½", [7.5]),
    "a fraction in one sign": ("½", []),
    "Chinese tens": ("二十一", [21]),
    "Chinese hundreds": ("一百零五", [105]),
    "Chinese ten thousands": ("三万两千", [32_000]),
    "digits and a Chinese scale": ("3万", [30_000]),
    "Chinese in a sentence": ("一共有七只猫", [7]),
    "Chinese minus": ("负七", [-7]),
    "Chinese alternatives": ("三或四只", [3, 4]),
    "seven or eight": ("七八只", [7, 8]),
    "some": ("有一些猫", []),
    "the seventh": ("第七", []),
    "Roman": ("VII", []),
    "other languages": ("siete, sept, sieben", []),
    "numbers without end": ("1 2 " * 1000, [1, 2]),
    "nothing": ("", []),
}


@pytest.mark.parametrize(("text", "values"), NUMBERS.values(), ids=NUMBERS)
def test_stated_numbers(text: str, values: list[float]) -> None:
    assert [number.value for number in stated_numbers(text)] == values


@given(st.integers(0, 999_999))
def test_numbers_in_words_are_read_back(value: int) -> None:
    (number,) = stated_numbers(f"There are {in_words(value)} of them.")
    assert number == pytest.approx((value, False, 10, 10 + len(in_words(value))))


SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"


def in_words(value: int) -> str:
    """The twin: a number spelled out."""
    small, tens = SMALL.split(), TENS.split()
    if value < 20:
        return small[value]
    if value < 100:
        return tens[value // 10 - 2] + (f"-{small[value % 10]}" if value % 10 else "")
    if value < 1000:
        return f"{small[value // 100]} hundred" + (f" and {in_words(value % 100)}" if value % 100 else "")
    return f"{in_words(value // 1000)} thousand" + (f" {in_words(value % 1000)}" if value % 1000 else "")


@given(st.floats(0, 1e9).map(lambda x: round(x, 2)))
def test_numbers_with_separators_are_read_back(value: float) -> None:
    for text in (f"{value:,.2f}", f"{value:.2f}"):
        (number,) = stated_numbers(text)
        assert number.value == pytest.approx(value)
        assert (number.start, number.end) == (0, len(text))


# text -> count, defects
COUNTS = {
    "a number": ("7", 7, []),
    "blanks": (" \n7\n", 7, []),
    "a full stop": ("7.", 7, []),
    "bold": ("**7**", 7, []),
    "a word": ("Seven", 7, []),
    "two words": ("twenty-one.", 21, []),
    "an answer": ("<answer> 7 </answer>", 7, []),
    "reasoning and an answer": ("<think>3 or 4?</think>\n<answer>7</answer>", 7, []),
    "reasoning that the prompt opened": ("3 or 4?</think>7", 7, []),
    "boxed": (r"\boxed{7}", 7, []),
    "boxed after prose": (r"I see 3 and 4, so \boxed{7}.", 7, []),
    "a GLM box": ("<think>3</think>It is <|begin_of_box|>7<|end_of_box|>", 7, []),
    "zero": ("0", 0, []),
    "none": ("None", 0, []),
    "no cats": ("no cats", 0, ["prose"]),
    "there is none": ("There is none.", 0, ["prose"]),
    "no, but a number": ("No, there are 7", 7, ["prose"]),
    "know is not no": ("I do not know", None, ["no_count"]),
    "a sentence": ("There are 7 cats.", 7, ["prose"]),
    "text around the answer": ("So <answer>7</answer> it is", 7, ["prose"]),
    "a fraction of one": ("2.5", 2.5, []),
    "words only": ("many cats", None, ["no_count"]),
    "negative": ("-7", None, ["no_count"]),
    "negative in words": ("minus 7", None, ["no_count"]),
    "several": ("1 or 2 or 3", None, ["no_count"]),
    "a range": ("5 to 7", None, ["no_count"]),
    "a list of numbers": ("3, 7", None, ["no_count"]),
    "several, or none": ("no, 3 or 4", None, ["no_count"]),
    "full width": ("\uff17", 7, []),
    "Chinese": ("七。", 7, []),
    "Chinese none": ("没有猫", 0, ["prose"]),
    "a dozen": ("a dozen", 12, []),
    "NaN": ("NaN", None, ["no_count"]),
    "infinity": ("inf", None, ["no_count"]),
    "too large": ("1e12", None, ["no_count"]),
    "digits without end": ("9" * 10_000, None, ["no_count"]),
    "empty": ("", None, ["empty"]),
    "blank": (" \n", None, ["empty"]),
    "an empty answer": ("<think>7</think><answer></answer>", None, ["no_count"]),
    "only in the reasoning": ("<think>7</think>", None, ["no_count"]),
    "only in reasoning that never ends": ("<think>7", None, ["no_answer"]),
    "reasoning that opens late": ("Well, <think>7", None, ["no_answer"]),
    "reasoning that opens again": ("<think>6</think>hm <think>7", None, ["no_answer"]),
    "a box that never closes": ("<|begin_of_box|>7", 7, ["truncated"]),
    "a brace that never closes": (r"\boxed{7", 7, ["truncated"]),
}


@pytest.mark.parametrize(("text", "count", "defects"), COUNTS.values(), ids=COUNTS)
def test_counts(text: str, count: float | None, defects: list[str]) -> None:
    answer = parse_count(text)
    assert answer.count == count
    assert [defect.value for defect in answer.defects] == defects


# text -> what is read, defects
TEXTS = {
    "plain": (" a dog\n", "a dog", []),
    "after reasoning": ("<think>a cat?</think> a dog", "a dog", []),
    "an answer": ("<think>a cat?</think><answer> a dog </answer>", "a dog", []),
    "the last answer": ("<answer>a cat</answer><answer>a dog</answer>", "a dog", ["prose"]),
    "text around the answer": ("It is <answer>a dog</answer>", "a dog", ["prose"]),
    "an answer in the reasoning": ("<think><answer>a cat</answer></think>a dog", "a dog", []),
    "a GLM box": ("It is <|begin_of_box|>a dog<|end_of_box|>.", "a dog", []),
    "boxed": (r"It is \boxed{\frac{1}{2}}.", r"\frac{1}{2}", []),
    "the last boxed": (r"\boxed{1} \boxed{2}", "2", []),
    "boxed in an answer": (r"<answer>$\boxed{2}$</answer>", "2", []),
    "an answer that never closes": ("<answer>a dog", "a dog", ["prose"]),
    "braces that never close": (r"\boxed{\frac{1}{2}", r"\frac{1}{2}", ["truncated"]),
    "an empty box": (r"\boxed{}", "", ["no_text"]),
    "only reasoning": ("<think>a dog</think>", "", ["no_text"]),
    "reasoning that never ends": ("<think>a dog", "", ["no_answer"]),
    "an empty answer": ("<answer> </answer>", "", ["no_text"]),
    "nothing": ("", "", ["empty"]),
}


@pytest.mark.parametrize(("text", "said", "defects"), TEXTS.values(), ids=TEXTS)
def test_texts(text: str, said: str, defects: list[str]) -> None:
    answer = parse_text(text)
    assert answer.text == said
    assert [defect.value for defect in answer.defects] == defects


def test_a_long_answer_is_cut_and_long_reasoning_is_not() -> None:
    cut = parse_text("a" * (MAX_CHARS + 1))
    assert len(cut.text) == MAX_CHARS
    assert Defect.TOO_LONG in cut.defects
    reasoned = parse_text("<think>" + "a" * MAX_CHARS + "</think>a dog")
    assert (reasoned.text, reasoned.defects) == ("a dog", ())


@pytest.mark.parametrize("name", ["qwen-json", "qwen-points", "list", "molmo-points", "vlmr1-json"])
def test_a_list_is_no_number(name: str) -> None:
    """Coordinates must not be taken for a count; `counting-list` takes the length of a list."""
    from verl_visionr1.answers import Defect

    answer = parse_count(FORMATS[name].example)
    assert answer.count is None
    assert Defect.WRONG_KIND in answer.defects


@pytest.mark.parametrize(
    ("text", "count"), [("70,e-400", None), ("7,", 7.0), ("1,2,e5", None), ("1,,3", None), ("3,.", 3.0)]
)
def test_a_comma_that_leads_nowhere_ends_the_number(text: str, count: float | None) -> None:
    assert parse_count(text).count == count
