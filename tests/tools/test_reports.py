"""Validations paired by prompt, their intervals and verdict; the report's files, and the figure's axes."""

from __future__ import annotations

import fcntl
import json
import math
import random
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from scored import rollout
from typer.testing import CliRunner
from validated_runs import SOURCE, make_dump, make_targets, make_validated_run

from verl_visionr1 import PRESETS
from verl_visionr1.cli import app
from verl_visionr1.rewards import Score
from verl_visionr1.rewards.composition import preset_to_dict
from verl_visionr1.rollouts.bootstrap import Estimate
from verl_visionr1.rollouts.inference import RUN_FILE
from verl_visionr1.rollouts.judged import TableBuilder
from verl_visionr1.rollouts.numbers import numbers_of
from verl_visionr1.rollouts.page import LOCK, PAGE, describe_page, wait_for_page
from verl_visionr1.rollouts.run import Run, Start
from verl_visionr1.tools.runs.figure import axis_range, find_switches, smooth, split_by_stage
from verl_visionr1.tools.runs.report import compare_run, judge_outcome, write_verdict
from verl_visionr1.tools.runs.steps import F1, REWARD, Metric, read_steps
from verl_visionr1.tools.runs.validations import (
    MIN_PROMPTS,
    Change,
    Section,
    Validation,
    compare,
    mark_change,
    measure,
    read_validation,
    read_validations,
    validation_folder,
)
from verl_visionr1.tools.runs.watch import watch

NAMES = ["reward", "F1@.5", "mean IoU", "recall", "precision", "format", "boxes/object"]


def write(folder: Path, step: int, rows: list[dict[str, object]]) -> Validation:
    file = folder / f"{step}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_validation(file)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_validated_run(tmp_path_factory.mktemp("run"), {0: 0.2, 4: 0.5, 8: 0.9})


@pytest.fixture(scope="module")
def validations(run_dir: Path) -> dict[int, Validation]:
    return read_validations(run_dir, read_steps(run_dir))


def test_rows_are_paired_by_prompt_whatever_their_uid_and_order(tmp_path: Path) -> None:
    rows = make_dump(make_targets(40), 0.5, 0)
    again = [{**row, "uid": f"{i}_0_0", "step": 1} for i, row in enumerate(random.Random(1).sample(rows, len(rows)))]
    before, after = write(tmp_path, 0, rows), write(tmp_path, 1, again)
    (section,) = compare(before, after)
    assert section.n == 40
    for change in section.changes:
        assert [change.difference.value, change.difference.low] == pytest.approx([0.0, 0.0], abs=1e-12)
        assert change.mark == "no change"
    with (tmp_path / "1.jsonl").open("a") as file:
        file.write('{"input": "half of a li')
    assert read_validation(tmp_path / "1.jsonl") == after
    (fewer,) = compare(before, write(tmp_path, 2, rows[:15]))
    assert fewer.n == 15, "prompts of both"


def test_one_mean_is_rounded_alike_in_all_tools() -> None:
    values = [7 / 9] * 77 + [0.77] * 123
    table = TableBuilder()
    for value in values:
        table.add(rollout("[]"), PRESETS["visionr1"], Score(value, {}))
    assert numbers_of(table.table()).reward == round(math.fsum(values) / len(values), 12)


def test_a_single_validation_is_named(run_dir: Path) -> None:
    for steps, named in (((), "no validation"), ((4,), "step 4")):
        found = compare_run(
            run_dir, {step: read_validation(run_dir / "validation" / f"{step}.jsonl") for step in steps}
        )
        assert (found.sections, named in found.notes[0]) == ((), True)


def test_means_are_those_that_verl_logs(run_dir: Path, validations: dict[int, Validation]) -> None:
    steps = read_steps(run_dir)
    (section,) = compare_run(run_dir, validations).sections
    assert section.source == SOURCE, "the one that was logged: dumps do not name it"
    assert [change.metric.name for change in section.changes] == NAMES
    for change in section.changes:
        logged = [steps[i].validation()[SOURCE][change.metric.key] for i in (0, -1)]
        assert [change.before, change.after] == pytest.approx(logged)


def test_a_paired_interval_is_narrower_than_that_of_two_samples(
    run_dir: Path, validations: dict[int, Validation]
) -> None:
    before, after = (measure(validations[step])[SOURCE]["F1@.5"] for step in (0, 8))
    (section,) = compare_run(run_dir, validations).sections
    change = section.changes[1]
    widths: list[float] = []
    for one in (before, after, change.difference):
        assert one.value is not None
        assert (one.low or -1.0) < one.value < (one.high or 2.0)
        widths.append((one.high or 0.0) - (one.low or 0.0))
    assert (change.metric, change.mark) == (F1, "better")
    assert widths[2] < math.hypot(*widths[:2]) * 1.3


def test_prompts_of_one_key_and_turns_of_one_trajectory(tmp_path: Path) -> None:
    """Two prompts alike count as two; of several outputs of a trajectory the last one counts."""
    row = {"input": "q", "gts": "g", "score": 0.0}
    rows = [{**row, "uid": "a_0_0", "score": 1.0}, {**row, "uid": "a_0_1", "score": 0.5}, {**row, "uid": "b_0_0"}]
    (unit,) = write(tmp_path, 0, rows).sources[""].values()
    assert (unit.n, unit.numbers["reward"]) == (2, 0.25)


def test_few_prompts_have_no_interval(tmp_path: Path) -> None:
    rows = make_dump(make_targets(MIN_PROMPTS - 1), 0.5, 0)
    (section,) = compare(write(tmp_path, 0, rows), write(tmp_path, 1, rows))
    assert {(change.difference.low, change.mark) for change in section.changes} == {(None, "")}
    assert judge_outcome(section) == "unknown"


def estimate(value: float, low: float | None, high: float | None) -> Estimate:
    return Estimate(value=value, low=low, high=high)


@pytest.mark.parametrize(
    ("difference", "distance", "mark"),
    [
        ((0.1, 0.05, 0.15), None, "better"),
        ((-0.1, -0.15, -0.05), None, "worse"),
        ((0.1, -0.05, 0.2), None, "no change"),
        ((0.23, 0.1, 0.3), (0.23, 0.1, 0.3), "worse"),  # boxes/object 1.39 -> 1.62
        ((-0.4, -0.5, -0.3), (-0.35, -0.4, -0.2), "better"),  # 1.4 -> 1.0
        ((0.2, 0.1, 0.3), (0.0, -0.1, 0.1), "changed"),  # 0.9 -> 1.1
        ((0.2, None, None), None, ""),
    ],
)
def test_marks(difference: tuple, distance: tuple | None, mark: str) -> None:
    assert mark_change(estimate(*difference), None if distance is None else estimate(*distance)) == mark


@pytest.mark.parametrize(
    ("reward", "quality", "outcome"),
    [
        ("better", "better", "better"),
        ("worse", "better", "better"),
        ("worse", "worse", "worse"),
        ("better", "no change", "no change"),
        ("better", "worse", "reward up, quality down"),
    ],
)
def test_the_verdict_goes_by_quality_and_names_a_reward_that_parts_from_it(
    reward: str, quality: str, outcome: str
) -> None:
    def change(metric: Metric, mark: str) -> Change:
        value = {"better": 0.1, "worse": -0.1, "no change": 0.0}[mark]
        return Change(metric, 0.5, 0.5 + value, estimate(value, value - 0.05, value + 0.05), mark)

    section = Section("coco", 328, [change(REWARD, reward), change(F1, quality)])
    assert judge_outcome(section) == outcome
    sentence = write_verdict(section, names_source=True)
    assert all(word in sentence for word in ("F1@.5", "328", "coco"))
    assert ("reward" in sentence.lower()) == (reward != quality)


def test_report_writes_the_table_as_json(run_dir: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(run_dir)], env={"COLUMNS": "140"})
    assert result.exit_code == 0, result.output
    rows = [line for line in result.output.splitlines() if line.startswith("│")]
    assert [line.split("│")[1].strip() for line in rows] == NAMES
    written = json.loads((run_dir / "report.json").read_text())
    assert written["steps"] == [0, 8]
    (section,) = written["sections"]
    assert (section["source"], section["n_prompts"], section["outcome"]) == (SOURCE, 60, "better")
    assert section["verdict"] in result.output
    for metric in section["metrics"]:
        assert metric["after"] - metric["before"] == pytest.approx(metric["difference"])
        assert metric["low"] <= metric["difference"] <= metric["high"]
    assert [validation["step"] for validation in written["validations"]] == [0, 4, 8]
    assert str(run_dir / "report.json") in result.output
    assert (run_dir / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "stage 1 (xi0 0.5)" in result.output


def test_without_verls_file_logger_the_dumps_are_compared(tmp_path: Path) -> None:
    folder = make_validated_run(tmp_path / "run", {0: 0.2, 4: 0.5}, n_prompts=20)
    shutil.rmtree(folder / "metrics")
    assert CliRunner().invoke(app, ["report", str(folder)]).exit_code == 0
    report = json.loads((folder / "report.json").read_text())
    assert (report["steps"], report["sections"][0]["n_prompts"]) == ([0, 4], 20)
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG"), "drawn without a step of training"


@pytest.mark.parametrize("name", ["report.json", "metrics/001.jsonl"])
def test_a_file_that_cannot_be_used_is_one_line(name: str, tmp_path: Path) -> None:
    folder = make_validated_run(tmp_path / "run", {0: 0.2, 4: 0.5}, n_prompts=2)
    shutil.rmtree(folder / "validation")
    (folder / name / "in the way").mkdir(parents=True)  # a folder: root may write to anything else
    result = CliRunner().invoke(app, ["report", str(folder)])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"visionr1 report: {folder / name}: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("place", ["visionr1_run.json", "run/visionr1_run.json", "run/validation/visionr1_run.json"])
def test_a_half_written_record_does_not_end_the_report(place: str, tmp_path: Path) -> None:
    folder = make_validated_run(tmp_path / "run", {0: 0.2, 4: 0.5}, n_prompts=20)
    (tmp_path / place).write_text('{"version": 1, "sta')
    result = CliRunner().invoke(app, ["report", str(folder)])
    assert result.exit_code == 0, result.stderr
    assert json.loads((folder / "report.json").read_text())["steps"] == [0, 4]
    (note,) = [line for line in result.stdout.splitlines() if str(tmp_path / place) in line]
    assert str(folder / "validation") in note, "what is used in its place"


@pytest.mark.parametrize(
    ("in_copy", "in_original", "found"),
    [
        ("0.jsonl", "0.jsonl", "copy"),
        ("notes.txt", "0.jsonl", "original"),
        (None, "0.jsonl", "original"),
        (None, None, "copy"),
    ],
)
def test_a_copied_run_is_read_where_it_is(
    in_copy: str | None, in_original: str | None, found: str, tmp_path: Path
) -> None:
    for name, file in (("copy", in_copy), ("original", in_original)):
        (tmp_path / name).mkdir()
        if file is not None:
            (tmp_path / name / "val").mkdir()
            (tmp_path / name / "val" / file).touch()
    told = str(tmp_path / "original" / "val")
    start = Start(presets=[preset_to_dict(PRESETS["visionr1"])], frame="unit", validation_dir=told)
    (tmp_path / "copy" / RUN_FILE).write_bytes(msgspec.json.encode(Run(starts=[start])))
    assert validation_folder(tmp_path / "copy") == tmp_path / found / "val"


def test_validations_at_several_stages_do_not_compare(run_dir: Path, validations: dict[int, Validation]) -> None:
    units = {
        key: replace(unit, numbers={**unit.numbers, "stage": 0.0})
        for key, unit in validations[0].sources[SOURCE].items()
    }
    comparison = compare_run(run_dir, {**validations, 0: Validation({SOURCE: units})})
    assert comparison.sections[0].stages == (frozenset({0}), frozenset({1}))
    assert "not comparable" in comparison.notes[0]


def test_watch_tells_the_change_since_the_first_validation(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verl_visionr1.tools.runs.watch.POLL_SECONDS", 0.0)
    console = Console(record=True, width=400, file=(tmp_path / "out").open("w"))
    watch(run_dir, total_steps=8, console=console)
    lines = console.export_text().splitlines()
    assert [line for line in lines if line.startswith("xi: ")] == [lines[1]], "once, before the first step"
    changes = [line for line in lines if line.startswith("  change since step 0")]
    assert len(changes) == 2
    places = [changes[1].find(f"  {name} ") for name in NAMES]
    assert sorted(places) == places
    assert places[0] > 0
    assert "[" in changes[1]


def test_where_the_gallery_is(tmp_path: Path) -> None:
    assert describe_page(tmp_path).startswith("not written")
    (tmp_path / "0.jsonl").write_text("{}\n")
    assert f"visionr1 gallery {tmp_path}" in describe_page(tmp_path)
    with (tmp_path / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not wait_for_page(tmp_path, 0.3)
        assert describe_page(tmp_path).endswith("(still being written)")
    (tmp_path / PAGE).write_text("page")
    assert describe_page(tmp_path) == str(tmp_path / PAGE)


def test_axes_start_where_a_change_can_be_judged() -> None:
    low, high = axis_range([0.7, 0.85])
    assert 0.65 < low < 0.7
    assert 0.85 < high < 0.9
    low, high = axis_range([0.8, 0.801])
    assert high - low == pytest.approx(0.1), "noise does not fill the panel"


def test_a_moving_mean_stops_at_a_stage(run_dir: Path) -> None:
    steps = read_steps(run_dir)
    assert [[step.number for step in part] for part in split_by_stage(steps)] == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert find_switches(steps) == [(5, 1)]
    means, errors = smooth([0.0, 1.0, 2.0])
    assert means.tolist() == [1.0, 1.0, 1.0]
    assert errors[0] == pytest.approx(1.0 / math.sqrt(3.0))
    assert math.isnan(smooth([0.5])[1][0])
