"""The preset that is a twin of the released Vision-R1 code: its known answers, and where it differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from reward_cases import CAT, DOG, NEGATIVE, TARGET, VISIONR1, said

from verl_visionr1 import Target, TargetError, score

GOLDEN = Path(__file__).parents[1] / "golden" / "visionr1.jsonl"


GOLDEN_REWARDS = {"recall_reward": "recall", "precision_reward": "precision", "dual_format_reward": "format"}
GOLDEN_ROWS = [row for row in map(json.loads, GOLDEN.read_text().splitlines()) if row["reward"] in GOLDEN_REWARDS]


def golden_target(row: dict[str, Any]) -> Target:
    items = [(box, label) for label, its_boxes in json.loads(row["solution"]) for box in its_boxes]
    if not row["kwargs"]["num_instances"]:  # the reference counts by a column of its own, and the row sets only that
        items = []
    return Target(
        task="detection",
        size_wh=row["image_size"],
        boxes_xyxy=[box for box, _ in items],
        labels=[label for _, label in items],
        categories=list(row["kwargs"]["target_id_map"]),
    )


def golden_score(row: dict[str, Any]) -> float:
    step = row["kwargs"]["step"]
    result = score(
        row["completion"],
        golden_target(row),
        preset="visionr1-released",
        frame="qwen2.5-vl",
        processed_wh=tuple(row["kwargs"]["input_size"]),
        progress=None if step is None else 0.49 if step < 1500 else 0.5,
    )
    return result.metrics[GOLDEN_REWARDS[row["reward"]]]


def test_the_known_answers_are_all_there() -> None:
    assert len(GOLDEN_ROWS) == 250
    assert {row["reward"] for row in GOLDEN_ROWS} == set(GOLDEN_REWARDS)


def test_known_answers_of_the_released_code() -> None:
    for row in GOLDEN_ROWS:
        if not row["raises"]:
            assert golden_score(row) == pytest.approx(row["value"], abs=1e-6), row["id"]


def test_where_the_released_code_crashed_the_value_is_low() -> None:
    crashes = {row["id"]: row for row in GOLDEN_ROWS if row["raises"]}
    assert set(crashes) == {"vr1-379", "vr1-386", "vr1-388"}
    assert golden_score(crashes["vr1-379"]) == 0.0, "a huge integer stops it"
    assert golden_score(crashes["vr1-386"]) == 0.0, "a class that the id map lacks is just another label"
    with pytest.raises(TargetError, match="needs x1 < x2"):
        golden_target(crashes["vr1-388"])  # bad ground truth is no matter of reward


@pytest.mark.parametrize("number", ["2e19", "1" + "0" * 30, "1e300", "1" + "0" * 400])
def test_one_absurd_number_beside_good_boxes_stops_the_released_code(number: str) -> None:
    absurd = f'{{"bbox_2d": [0, 0, {number}, {number}], "label": "cat"}}'
    metrics = score(f"{said(CAT, DOG)[:-1]}, {absurd}]", TARGET, preset="visionr1-released").metrics
    assert (metrics["recall"], metrics["precision"]) == (0.0, 0.0)
    large = f'{{"bbox_2d": [0, 0, {10**18}, 9], "label": "cat"}}'
    metrics = score(f"{said(CAT, DOG)[:-1]}, {large}]", TARGET, preset="visionr1-released").metrics
    assert (metrics["recall"], metrics["precision"]) == (1.0, 1.0), "float32 still measures it"


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\u2028", "\x85"])
def test_released_takes_every_line_end_of_unicode(end: str) -> None:
    metrics = score(f"```json{end}{said(CAT, DOG)}{end}```", TARGET, preset="visionr1-released").metrics
    assert metrics["recall"] == 1.0
    assert metrics["format"] == (1.0 if end == "\n" else 0.0), "its format knows but one"
    spoilt = said(CAT, DOG).replace('"bbox_2d": [', '"bbox_2d":[').replace('"dog"', f'"d{end}g"')
    metrics = score(f"```json\n{spoilt}\n```", TARGET, preset="visionr1-released").metrics
    assert metrics["recall"] == 0.0, "a line end in a label becomes one that JSON forbids"


def test_released_on_an_image_without_objects() -> None:
    """It pays for text that is not JSON; where it crashed, on a prediction, recall and precision are 0."""
    for text, expected in (("[]", (0, 1, 1)), ("nothing", (1, 1, 1)), (said(CAT), (0, 0, 0))):
        metrics = score(text, NEGATIVE, preset="visionr1-released").metrics
        assert tuple(metrics[name] for name in VISIONR1) == expected
