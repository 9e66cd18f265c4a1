"""The benchmarks of `benchmarks/` measure what they say: the same answers, each preset on a task of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from verl_visionr1 import PRESETS
from verl_visionr1.answers import Answer
from verl_visionr1.matching import match_class_agnostic

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import reward_speed
from reward_speed import PROCESSED_WH, SIZE_WH, case_for, detection_case, floor, scorer


def test_the_floor_computes_what_we_compute() -> None:
    text, target = detection_case(50, 0)
    boxes = [item["bbox_2d"] for item in json.loads(text[8:-4])]
    w, h = SIZE_WH[0] / PROCESSED_WH[0], SIZE_WH[1] / PROCESSED_WH[1]
    matching = match_class_agnostic(Answer(tuple((x1 * w, y1 * h, x2 * w, y2 * h) for x1, y1, x2, y2 in boxes)), target)
    assert floor(text, target) == pytest.approx(sum(matching.ious))


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_is_measured_on_a_task_of_its_own(name: str) -> None:
    """And answered so that the cost is that of an answer which can be read."""
    text, target = case_for(PRESETS[name], 10, 0)
    assert target.task in PRESETS[name].tasks
    if name.startswith(("vlmr1-rec", "rec-")):
        assert target.task == "grounding"
        assert not target.is_multiclass
    assert scorer(PRESETS[name])(text, target).metrics["parsed"] == 1.0


def test_the_command_prints_ratios(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["reward_speed.py", "--boxes", "1", "--presets", "visionr1", "--rounds", "1"])
    monkeypatch.setattr(reward_speed, "N_SCENES", 2)
    reward_speed.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["floor", "visionr1"]
    assert lines[1].endswith("(1.00)")


@pytest.mark.verl
def test_both_managers_judge_the_same_rows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ours must see the answer and the size of the image in a row as the benchmark builds it."""
    import manager_speed

    seen: dict[int, list[dict[str, Any]]] = {}

    def run_once(subjects: dict[str, Any], rounds: int) -> dict[str, float]:
        for call, (rows,) in subjects.values():
            seen.setdefault(len(seen), call(*rows))
        return dict.fromkeys(subjects, 1.0)

    monkeypatch.setattr(manager_speed, "fastest", run_once)
    monkeypatch.setattr(manager_speed, "N_ROWS", 2)
    monkeypatch.setattr(sys, "argv", ["manager_speed.py", "--boxes", "3"])
    manager_speed.main()
    ours, naive = seen[0], seen[1]
    for seed, result in enumerate(ours):
        expected = scorer(PRESETS["visionr1"])(*detection_case(3, seed))
        assert result["reward_score"] == pytest.approx(expected.value)
        assert result["reward_extra_info"]["processed_w"] == PROCESSED_WH[0]
        assert result["reward_extra_info"]["unscored"] == 0.0
    assert [result["reward_score"] for result in naive] == [0.0, 0.0]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["naive", "visionr1"]
