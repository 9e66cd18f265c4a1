"""CPU time of one completion, text to Score, beside what no reward can do without (the floor).

`pytest tests/benchmarks --benchmark-enable --benchmark-columns=median,mean,min,rounds` prints a table for each number
of boxes, in microseconds a completion, with the ratio to the fastest in brackets. A plain test run executes each once.
The workload, and a command that takes the floor and the presets in turns, are in `benchmarks/reward_speed.py`.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from verl_visionr1 import PRESETS, Target
from verl_visionr1.answers import Answer
from verl_visionr1.matching import match_class_agnostic

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import reward_speed
from reward_speed import N_BOXES, PROCESSED_WH, SIZE_WH, case_for, detection_case, floor, scorer


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


def measured(
    benchmark: BenchmarkFixture, judge: Callable[[str, Target], object], cases: Sequence[tuple[str, Target]]
) -> None:
    scenes = itertools.cycle(cases)
    judge(*next(scenes))  # the first one loads scipy
    benchmark(lambda: judge(*next(scenes)))


@pytest.mark.parametrize("n", N_BOXES)
@pytest.mark.parametrize("name", PRESETS)
def test_score(benchmark: BenchmarkFixture, name: str, n: int) -> None:
    benchmark.group, benchmark._timer = f"{n} boxes", time.process_time
    preset = PRESETS[name]
    measured(benchmark, scorer(preset), [case_for(preset, n, seed) for seed in range(64)])


@pytest.mark.parametrize("n", N_BOXES)
def test_target_there_and_back(benchmark: BenchmarkFixture, n: int) -> None:
    """Reading ground truth is not in the numbers above: a run reads it once a prompt."""
    benchmark.group, benchmark._timer = f"{n} boxes", time.process_time
    measured(
        benchmark,
        lambda text, target: Target.from_json(target.to_json()),
        [detection_case(n, seed) for seed in range(64)],
    )


@pytest.mark.parametrize("n", N_BOXES)
def test_floor(benchmark: BenchmarkFixture, n: int) -> None:
    benchmark.group, benchmark._timer = f"{n} boxes", time.process_time
    measured(benchmark, floor, [detection_case(n, seed) for seed in range(64)])


@pytest.mark.benchmark(group="import")
@pytest.mark.parametrize("code", ["pass", "import numpy, msgspec", "import verl_visionr1"])
def test_import(benchmark: BenchmarkFixture, code: str) -> None:
    """Wall time of a fresh interpreter; the first is what Python itself needs."""
    benchmark.pedantic(lambda: subprocess.run([sys.executable, "-c", code], check=True), rounds=5)
