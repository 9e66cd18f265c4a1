"""Criteria of the text's structure."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_visionr1.criteria.structure import (
    cosine_length,
    no_repetition,
    overlong,
    think_answer,
    think_answer_glm,
)

TEMPLATES = (think_answer, think_answer_glm)
# text -> think and answer, the same as GLM writes it
SHAPES = {
    "a list after reasoning": ("<think>a</think>[1]", (0, 1)),
    "reasoning and an answer": ("<think>a</think>\n<answer>b</answer>", (1, 1)),
    "blanks around": ("\n<think>a</think> <answer>b</answer>\n", (1, 1)),
    "text before": ("a<think>a</think><answer>b</answer>", (0, 0)),
    "text between": ("<think>a</think>b<answer>b</answer>", (0, 0)),
    "text after": ("<think>a</think><answer>b</answer>c", (0, 0)),
    "two answers": ("<think>a</think><answer>b</answer><answer>c</answer>", (0, 0)),
    "two reasonings": ("<think>a</think><think>a</think><answer>b</answer>", (0, 0)),
    "nested reasoning": ("<think><think>a</think><answer>b</answer>", (0, 0)),
    "an answer in the reasoning": ("<think><answer>a</answer></think><answer>b</answer>", (0, 0)),
    "blank reasoning": ("<think> </think><answer>b</answer>", (0, 0)),
    "a blank answer": ("<think>a</think><answer> </answer>", (0, 0)),
    "tags in capitals": ("<Think>a</Think><answer>b</answer>", (0, 0)),
    "no reasoning": ("<answer>b</answer>", (0, 0)),
    "no answer": ("<think>a</think>", (0, 0)),
    "tags crossed": ("<think>a</think></answer>b<answer>", (0, 0)),
    "plain text after reasoning": ("<think>a</think>b", (0, 1)),
    "a box": ("<think>a</think>It is <|begin_of_box|>b<|end_of_box|>.", (0, 1)),
    "a box that never closes": ("<think>a</think><|begin_of_box|>b", (0, 0)),
    "a box closed first": ("<think>a</think><|end_of_box|>b<|begin_of_box|>", (0, 0)),
    "an empty box": ("<think>a</think><|begin_of_box|> <|end_of_box|>", (0, 0)),
    "two boxes": ("<think>a</think>" + "<|begin_of_box|>b<|end_of_box|>" * 2, (0, 0)),
    "reasoning that never ends": ("<think>a", (0, 0)),
    "nothing": ("", (0, 0)),
}


@pytest.mark.parametrize(("text", "expected"), SHAPES.values(), ids=SHAPES)
def test_templates(text: str, expected: tuple[float, ...]) -> None:
    assert tuple(template(text) for template in TEMPLATES) == expected


tokens, lengths = st.integers(0, 5000), st.floats(0, 1)


@given(tokens, tokens, lengths)
def test_a_wrong_answer_never_earns_more_than_a_right_one(right: int, wrong: int, accuracy: float) -> None:
    low, between, high = (cosine_length(n, a, 1000) for n, a in ((wrong, 0.0), (right, accuracy), (right, 1.0)))
    assert 0.0 <= low < high <= 1.0
    assert between <= high


@given(tokens, st.integers(1, 1000))
def test_right_answers_want_to_be_short_and_wrong_ones_long(n: int, more: int) -> None:
    assert cosine_length(n, 1.0, 1000) >= cosine_length(n + more, 1.0, 1000)
    assert cosine_length(n, 0.0, 1000) <= cosine_length(n + more, 0.0, 1000)
    assert cosine_length(n, 0.0, 1000, long_wrong=0.0) == 0.0, "neutral"
    assert overlong(n, 1000) >= overlong(n + more, 1000)


COSINES = {(0, 1): 1, (500, 1): 0.75, (1000, 1): 0.5, (9000, 1): 0.5, (0, 0): 0, (500, 0): 0.125, (2000, 0): 0.25}


@pytest.mark.parametrize(("n_tokens", "accuracy", "expected"), [(*key, value) for key, value in COSINES.items()])
def test_cosine_length(n_tokens: int, accuracy: float, expected: float) -> None:
    assert cosine_length(n_tokens, accuracy, 1000) == pytest.approx(expected)
    assert cosine_length(n_tokens, accuracy, None, budget=1000) == pytest.approx(expected)
    assert cosine_length(n_tokens, accuracy, 7, budget=1000) == pytest.approx(expected), "the option comes first"


# DAPO: length 20480 of which 4096 are the buffer; its punishment plus 1.
OVERLONG = {0: 1, 16384: 1, 18432: 0.5, 20480: 0, 30000: 0}


@pytest.mark.parametrize(("n_tokens", "expected"), OVERLONG.items())
def test_overlong(n_tokens: int, expected: float) -> None:
    assert overlong(n_tokens, 20480) == pytest.approx(expected)
    assert overlong(n_tokens, 20480, buffer=4096) == pytest.approx(expected)


BAD_OPTIONS: dict[str, tuple[Callable[[], float], str]] = {
    "no budget for the cosine": (lambda: cosine_length(1, 1.0, None), "cosine_length: budget = None"),
    "no budget for overlong": (lambda: overlong(1, None), "overlong: budget = None"),
    "a budget of 0": (lambda: overlong(1, 9, budget=0), "budget = 0"),
    "wrong earns more": (lambda: cosine_length(1, 1.0, 9, long_right=0.1), "long_wrong = 0.25"),
    "a bound above 1": (lambda: cosine_length(1, 1.0, 9, long_right=1.5), "long_right = 1.5"),
    "a buffer above the budget": (lambda: overlong(1, 9, buffer=10), "buffer = 10"),
    "a buffer of 0": (lambda: overlong(1, 9, buffer=0), "buffer = 0"),
    "no words": (lambda: no_repetition("a", n=0), "n = 0"),
}


@pytest.mark.parametrize(("call", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_options(call: Callable[[], float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


REPEATED = {
    "nothing": ("", 6, 1),
    "few words": ("a a a a a", 6, 1),
    "no word twice": ("one two three four five six seven", 6, 1),
    "twelve words": ("a b c d e f A B C D E F", 6, 6 / 7),
    "one word": ("a " * 50, 6, 1 / 45),
    "pairs": ("a b a b a b", 2, 2 / 5),
    "words": ("a b a", 1, 2 / 3),
}


@pytest.mark.parametrize(("text", "n", "expected"), REPEATED.values(), ids=REPEATED)
def test_no_repetition(text: str, n: int, expected: float) -> None:
    assert no_repetition(text, n=n) == pytest.approx(expected)
