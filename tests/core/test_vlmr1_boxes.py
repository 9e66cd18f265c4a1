from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_visionr1 import Target, TargetError, score
from verl_visionr1.rewards.released.vlmr1_rec import (
    answer_format,
    between,
    format_rec_glm,
    format_rec_internvl,
    format_rec_qwen,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "vlmr1.jsonl"
# golden reward -> preset, metric
REWARDS = {
    "iou:qwen": ("vlmr1-rec-released", "iou"),
    "iou:internvl": ("vlmr1-rec-internvl-released", "iou"),
    "iou:glm": ("vlmr1-rec-glm-released", "iou"),
    "format_rec:qwen": ("vlmr1-rec-released", "format"),
    "format_rec:internvl": ("vlmr1-rec-internvl-released", "format"),
    "format_rec:glm": ("vlmr1-rec-glm-released", "format"),
    "format": ("vlmr1-ovd-released", "format"),
    "accuracy:od_ap": ("vlmr1-ovd-released", "ap"),
    "accuracy:od_ap50": ("vlmr1-ovd-released", "ap50"),
    "accuracy:odLength": ("vlmr1-ovd-released", "od_length"),
    "accuracy:weighted_sum": ("vlmr1-ovd-released", "weighted_sum"),
    "accuracy:map": ("vlmr1-ovd-released", "map"),
}
ROWS = [row for row in map(json.loads, GOLDEN.read_text().splitlines()) if row["reward"] in REWARDS]


def items_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The ground truth of a row in the reference's own format."""
    solution, reward = row["solution"], row["reward"]
    if solution is None:
        return []
    answers = list(between(solution, "<answer>", "</answer>"))
    if not answers and reward not in ("accuracy:map", "accuracy:weighted_sum"):
        raise TargetError("no answer")
    text = answers[-1] if answers else solution
    if reward.startswith("iou:"):
        return [{"bbox_2d": json.loads(text), "label": "x"}]
    blocks = list(between(text, "```json", "```"))
    return json.loads(blocks[-1]) if blocks else []


def target_of(row: dict[str, Any]) -> Target:
    items = items_of(row)
    if not all(isinstance(item, dict) for item in items):
        raise TargetError("no objects")
    return Target(
        task="grounding" if row["reward"].startswith("iou:") else "detection",
        size_wh=row["image_size"] or (1000, 1000),
        boxes_xyxy=[item["bbox_2d"] for item in items],
        labels=[item["label"] for item in items],
    )


def value_of(row: dict[str, Any]) -> float:
    preset, metric = REWARDS[row["reward"]]
    scaled = row["reward"] == "iou:qwen"
    return score(
        row["completion"],
        target_of(row),
        preset=preset,
        frame="qwen2.5-vl" if scaled else "original",
        processed_wh=tuple(row["kwargs"]["input_size"]) if scaled else None,
    ).metrics[metric]


def is_target(row: dict[str, Any]) -> bool:
    try:
        target_of(row)
    except (TargetError, json.JSONDecodeError):
        return False
    return True


JUDGED = [row for row in ROWS if is_target(row)]


def test_the_known_answers_apply() -> None:
    """All but 15, whose ground truth is no `Target`: bad ground truth is an error at conversion."""
    assert len(JUDGED) == len(ROWS) - 15 == 239


def test_known_answers_of_the_released_code() -> None:
    """Where it crashed, at a missing label, that is a wrong one: position 0, nothing missed."""
    for row in JUDGED:
        assert value_of(row) == pytest.approx(0.3 if row["raises"] else row["value"], abs=1e-6), row["id"]


# --- the released patterns, as twins ---------------------------------------------------------------------------------

FOUR = r"\[\d+,\s*\d+,\s*\d+,\s*\d+\]"
PATTERNS = {
    "qwen": (
        format_rec_qwen,
        lambda text: re.search(rf"<think>.*?</think>\s*<answer>.*?\{{.*{FOUR}.*\}}.*?</answer>", text, re.DOTALL),
    ),
    "internvl": (
        format_rec_internvl,
        lambda text: re.search(rf"<think>.*?</think>\s*<answer>.*?{FOUR}.*?</answer>", text, re.DOTALL),
    ),
    "glm": (format_rec_glm, lambda text: re.search(r"<think>(.*?)<answer>(.*?)</answer>", text, re.DOTALL)),
    "answer": (answer_format, lambda text: re.fullmatch(r"<think>.*?</think>\s*<answer>.*?</answer>", text, re.DOTALL)),
}
PARTS = [
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "{",
    "}",
    "[1, 2, 3, 4]",
    "[1,2,3,4,5]",
    "[",
    "]",
    " ",
    "\n",
    "x",
]
texts = st.lists(st.sampled_from(PARTS), max_size=12).map("".join)
likely = st.tuples(texts, texts, texts, texts, texts).map(
    lambda gaps: f"{gaps[0]}<think>{gaps[1]}</think>\n<answer>{gaps[2]}{{{gaps[3]}[1, 2,\n3, 40]}}</answer>{gaps[4]}"
)


@pytest.mark.parametrize(("ours", "released"), PATTERNS.values(), ids=PATTERNS)
@given(text=texts | likely | likely.map(str.strip))
def test_formats_are_those_of_the_released_patterns(
    ours: Callable[[str], float], released: Callable[[str], object], text: str
) -> None:
    assert ours(text) == (1.0 if released(text) else 0.0)


# --- bad input -------------------------------------------------------------------------------------------------------

CAT = Target(task="detection", size_wh=(640, 480), boxes_xyxy=[[100, 100, 200, 200]], labels=["Cat"])
RELEASED = ["vlmr1-rec-released", "vlmr1-rec-internvl-released", "vlmr1-rec-glm-released", "vlmr1-ovd-released"]
ODD_ITEMS = [
    *['{"bbox_2d": [100, 100, 200, 200], "label": "Cat"}', '{"bbox_2d": [100, 100, 200, 200]}'],
    *['{"bbox_2d": [NaN, 1, 2, 3], "label": "Cat"}', '{"bbox_2d": [-1e999, 1, 1e999, 3], "label": "Cat"}'],
    *[
        '{"bbox_2d": "1234", "label": "Cat"}',
        '{"bbox_2d": [1, 2, 3], "label": ["Cat"]}',
        "{}",
        "[]",
        "7",
        '"x"',
        "null",
    ],
    '{"bbox_2d": [200, 100, 100, 200], "label": "Cat"}',
    '{"bbox_2d": [0, 0, 1e9, 1e9], "label": "Cat"}',
    f'{{"bbox_2d": [1{"0" * 400}, 1, 2, 3], "label": "Cat"}}',
    f'{{"bbox_2d": [1{"0" * 5000}, 1, 2, 3], "label": "Cat"}}',
]


# --- what is only in the code ----------------------------------------------------------------------------------------


def od(*items: str) -> str:
    return f"<think>x</think><answer>```json\n[{', '.join(items)}]\n```</answer>"


SAID_CAT = '{"bbox_2d": [100, 100, 200, 200], "label": "Cat"}'
SAID_CAT_SMALL = '{"bbox_2d": [100, 100, 200, 200], "label": "cat"}'
SAID_DOG = '{"bbox_2d": [100, 100, 200, 200], "label": "dog"}'
JUNK = '{"bbox_2d": [300, 300, 350, 350], "label": "Cat"}'

# completion -> ap, od_length, weighted_sum
OD_VALUES = {
    "perfect": (od(SAID_CAT), 1, 1, 1),
    "labels differ in case": (od(SAID_CAT_SMALL), 0, 0, 1),
    "a wrong label": (od(SAID_DOG), 0, 0, 0.3),
    "junk after": (od(SAID_CAT, JUNK), 1, 0.5, 0.925),
    "junk before": (od(JUNK, SAID_CAT), 0.5, 0.25, 0.925),
    "a box inverted in one direction is not counted by AP": (od(ODD_ITEMS[11], SAID_CAT), 1, 0.5, 0.925),
    "of equal boxes the first": (od(SAID_CAT, *[SAID_DOG] * 40), 1, 1 / 41, 0.7 + 0.15 * (1 + 1 / 41)),
    "the 101st of a class": (od(*[JUNK] * 100, SAID_CAT), 0, 0, 0.7 + 0.15 * (1 + 1 / 101)),
}


@pytest.mark.parametrize(("text", "ap", "length", "total"), OD_VALUES.values(), ids=OD_VALUES)
def test_detection(text: str, ap: float, length: float, total: float) -> None:
    metrics = score(text, CAT, preset="vlmr1-ovd-released").metrics
    assert [metrics[name] for name in ("ap", "od_length", "weighted_sum")] == pytest.approx([ap, length, total])
    assert metrics["format"] == 1.0


def test_a_label_over_two_lines_is_one_for_the_weighted_sum_only() -> None:
    light = Target(task="detection", size_wh=(640, 480), boxes_xyxy=[[100, 100, 200, 200]], labels=["traffic light"])
    for label in ("traffic\nlight", "Traffic \nlight", "traffic\rlight", "Traffic \r\nlight"):
        metrics = score(od(SAID_CAT.replace("Cat", label)), light, preset="vlmr1-ovd-released").metrics
        assert [metrics["ap"], metrics["weighted_sum"]] == pytest.approx([0, 1])


@pytest.mark.parametrize(("number", "ap"), [(10**400, 0.0), (10**300, 1.0), ("NaN", 1.0)])
def test_one_absurd_number_beside_a_good_box(number: object, ap: float) -> None:
    absurd = f'{{"bbox_2d": [0, 0, {number}, {number}], "label": "Cat"}}'
    metrics = score(od(SAID_CAT, absurd), CAT, preset="vlmr1-ovd-released").metrics
    assert [metrics["ap"], metrics["od_length"]] == pytest.approx([ap, ap / 2])


# overlap in pixels -> Qwen and InternVL, GLM
STRIPS = {0: (0, 0), 1: (0, 1 / 199), 2: (2 / 198, 2 / 198), 3: (3 / 197, 3 / 197)}


@pytest.mark.parametrize(("overlap", "expected"), STRIPS.items(), ids=str)
def test_an_overlap_of_a_pixel_is_none(overlap: int, expected: tuple[float, float]) -> None:
    text = f"<answer>[{200 - overlap}, 100, {300 - overlap}, 200]</answer>"
    qwen, internvl, glm = (score(text, CAT, preset=preset).metrics["iou"] for preset in RELEASED[:3])
    assert (qwen, glm) == pytest.approx(expected)
    assert internvl == qwen


def test_a_missing_label_is_that_of_the_pair_before() -> None:
    two = Target(
        task="detection", size_wh=(640, 480), boxes_xyxy=[[100, 100, 200, 200], [0, 0, 50, 50]], labels=["Cat"] * 2
    )
    nameless = '{"bbox_2d": [0, 0, 50, 49]}'
    assert score(od(SAID_CAT, nameless), two, preset="vlmr1-ovd-released").metrics["weighted_sum"] == pytest.approx(
        0.7 * (1 + 0.98) / 2 + 0.3
    )


def test_only_the_qwen_module_knows_the_frame() -> None:
    """A target in original pixels, an answer in thousandths: each module compares in the units that it can."""
    target = Target(task="grounding", size_wh=(500, 250), boxes_xyxy=[[50, 50, 100, 100]], labels=["cat"])
    text = '<think>x</think><answer>{"bbox_2d": [100, 200, 200, 400]}</answer>'
    for preset in RELEASED[:3]:
        result = score(text, target, preset=preset, frame="qwen2-vl")
        assert result.metrics["iou"] == pytest.approx(1.0)
        assert result.value == pytest.approx(2.0)
