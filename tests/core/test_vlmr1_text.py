"""VLM-R1's rewards of text as released, against its known answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from verl_visionr1 import Target, TargetError, score
from verl_visionr1.rewards.released import vlmr1_text
from verl_visionr1.rewards.released.vlmr1_text import is_same_latex, normal_latex

GOLDEN = Path(__file__).parents[1] / "golden" / "vlmr1.jsonl"
# reward -> preset, metric
REWARDS = {
    "format": ("default", "format"),
    "length:cosine": ("default", "length"),
    "repetition": ("default", "repetition"),
    "accuracy:default": ("default", "correct"),
    "accuracy:mcq": ("mcq", "correct"),
    "accuracy:yes_no": ("yes-no", "correct"),
    "accuracy:all_match": ("all-match", "correct"),
    "accuracy:math": ("math", "correct"),
}
ROWS = [row for row in map(json.loads, GOLDEN.read_text().splitlines()) if row["reward"] in REWARDS]
EMPTY_TRUTH = "vlmr1-593"


def target_of(row: dict[str, Any]) -> Target:
    solution = row["solution"] or "<answer> it has no truth </answer>"
    return Target(task="text", answer=solution.removeprefix("<answer>").removesuffix("</answer>").strip())


def test_the_known_answers_are_all_there() -> None:
    assert len(ROWS) == 79
    assert {row["reward"] for row in ROWS} == set(REWARDS)
    assert not [row["id"] for row in ROWS if row["raises"]]


def test_known_answers() -> None:
    for row in ROWS:
        if row["id"] != EMPTY_TRUTH:
            method, metric = REWARDS[row["reward"]]
            n_tokens = row["kwargs"].get("gen_len")
            result = score(row["completion"], target_of(row), preset=f"vlmr1-{method}-released", n_tokens=n_tokens)
            assert result.metrics[metric] == pytest.approx(row["value"], abs=1e-6), row["id"]


def test_an_empty_truth_is_no_matter_of_reward() -> None:
    (row,) = (row for row in ROWS if row["id"] == EMPTY_TRUTH)
    assert row["completion"] == ""
    with pytest.raises(TargetError, match="needs a non-empty text"):
        target_of(row)


# What the facts say beyond the known answers: completion, truth -> value.
MCQ = {
    "a bracket is not seen": ("<answer>A)</answer>", "A", 0),
    "a truth in brackets is seen by nobody": ("<answer>(A)</answer>", "(A)", 0),
    "a truth of two lines keeps its tags": ("<answer>A</answer>", "so\nA", 0),
    "several letters, one late": ("<answer>A. I am sure that it is B.</answer>", "B", 1),
    "several letters, one twice": ("<answer>B, A, A, and then so on and on</answer>", "A", 1),
}
YES_NO = {"unknown equals unknown": ("I see", "maybe", 1), "a truth of two lines": ("yes", "yes\n.", 1)}
DEFAULT = {
    "likeness of words": ("<answer>cat</answer>", "car", 2 / 3),
    "likeness where the truth has a digit": ("<answer>4 cats</answer>", "5 cats", 10 / 12),
    "another letter": ("<answer>it is C.</answer>", "B", 0),
    "no letter": ("<answer>it is so</answer>", "B", 0),
}
MATH = {
    "boxed": (r"<answer>\boxed{\dfrac12}</answer>", r"\frac{1}{2}", 1),
    "boxed, but not paired": (r"<answer>\boxed{\dfrac12</answer>", r"\frac{3}{2}", 0),
    "capitals are lost": (r"<answer>$\Pi$</answer>", r"$\pi$", 1),
    "the whole answer in normal form": ("<answer>[1,2]</answer>", "[1, 2]", 1),
    "the whole answer, another": ("<answer>[1,2]</answer>", "[1, 3]", 0),
    "units, without a box": (r"<answer>so \left(a\right) \text{ cm}</answer>", "so (a)", 1),
    "no form of a quotient of words": ("<answer>u / v w</answer>", "u/v w", 0),
    "fbox, where it stopped": (r"<answer>\fbox{[1,2]}</answer>", "[1, 2]", 0),
    "boxed without braces, where it stopped": (r"<answer>\boxed[1,2] {}</answer>", "[1, 2]", 0),
    "a bare carriage return": ("<answer>so\rit is</answer>", "so it is", 1),
}
FURTHER = {"mcq": MCQ, "yes-no": YES_NO, "default": DEFAULT, "math": MATH}


@pytest.mark.parametrize(
    ("method", "completion", "answer", "value"),
    [pytest.param(m, *case, id=f"{m}: {name}") for m, cases in FURTHER.items() for name, case in cases.items()],
)
def test_further_cases(method: str, completion: str, answer: str, value: float) -> None:
    result = score(completion, Target(task="text", answer=answer), preset=f"vlmr1-{method}-released")
    assert result.metrics["correct"] == pytest.approx(value)
    assert result.metrics["accuracy"] == pytest.approx(value)


BOX = '{"bbox_2d": [0, 0, 1, 1], "label": "a"}'
REPETITION = {
    "any fence": (f"```\n[{BOX}, {BOX}]\n```", -0.5),
    "ten times": (f"```json\n[{', '.join([BOX] * 10)}]\n```", -0.9),
    "single quotes": (f"```json\n[{BOX}, {BOX}]\n```".replace('"', "'"), -0.5),
    "cut off after the label": (f"```json\n[{BOX}, {BOX[:-1]}\n```", -0.5),
    "cut off in the label": (f"```json\n[{BOX}, {BOX[:-2]}\n```", -0.5),
    "cut off in the box": (f"```json\n[{BOX}, {BOX[:15]}\n```", 0),
    "a list that never closes": (f"[{BOX}, {BOX}", 0),
    "numbers, where it crashed": ("```json\n[1, 2]\n```", -1),
    "a fence in capitals": (f"```JSON\n[{BOX}, {BOX}]\n```", -0.5),
    "a fence of another language": (f"```python\nboxes = [{BOX}, {BOX}]\n```", -0.5),
    "prose": ("no box at all", 0),
}


@pytest.mark.parametrize(("text", "value"), REPETITION.values(), ids=REPETITION)
def test_repetition(text: str, value: float) -> None:
    assert vlmr1_text.repetition_released(text) == pytest.approx(value)


LATEX = {
    r"\tfrac12": r"\frac{1}{2}",
    r"\frac1{72}": r"\frac{1}{72}",
    r"\frac{a}b": r"\frac{a}b",
    r"\sqrt3": r"\sqrt{3}",
    "k = 3": "3",
    "abc = 3": "abc=3",
    "a=b=c": "a=b=c",
    ".5": r"\frac{1}{2}",
    r"5\text{ cm}": "5",
    r"\left(1, 2\right)": "(1,2)",
    r"90^\circ": "90",
    r"\$5": "5",
    "3/4": r"\frac{3}{4}",
    "03/4": "03/4",
    "": "",
}


@pytest.mark.parametrize(("text", "form"), LATEX.items())
def test_normal_latex(text: str, form: str) -> None:
    assert normal_latex(text) == form


@pytest.mark.parametrize("text", [r"\text{ a}\text{ b}", r"\frac", r"\sqrt", r"2\frac\frac12", "a/b", "1/b"])
def test_texts_without_a_normal_form_equal_themselves(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        normal_latex(text)
    assert is_same_latex(text, text)
    assert not is_same_latex(text, text + " ")


def test_a_preset_is_a_sum_of_accuracy_and_format() -> None:
    completion = "<think>a</think><answer>B.</answer>"
    result = score(completion, Target(task="text", answer="B"), preset="vlmr1-mcq-released", n_tokens=1024)
    assert result.value == 2.0
    weighted = vlmr1_text.PRESETS[1].with_weights({"length": 1, "repetition": 1})
    assert score(completion, Target(task="text", answer="B"), preset=weighted, n_tokens=1024).value == 2.5
