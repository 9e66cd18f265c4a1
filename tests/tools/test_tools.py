"""Reading a run's numbers, watching it, reporting on it."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner

from verl_visionr1.cli import app
from verl_visionr1.rewards import PRESETS
from verl_visionr1.rewards.composition import preset_to_dict
from verl_visionr1.rollouts.run import Start, write_run
from verl_visionr1.tools.runs import alarms
from verl_visionr1.tools.runs.report import compare_run, judge_outcome
from verl_visionr1.tools.runs.steps import RunError, Step, read_steps
from verl_visionr1.tools.runs.validations import compare, logged_validation, read_validations
from verl_visionr1.tools.runs.watch import LEGEND, lines_of, watch

NAMES = ["reward", "F1@.5", "mean IoU", "recall", "precision", "format", "boxes/object"]


def validation(value: float, source: str = "visionr1/scenes") -> dict[str, float]:
    names = ("reward", "format", "recall", "precision", "iou_mean", "f1_50", "boxes_per_target")
    numbers = {f"val-aux/{source}/{name}/mean@1": value for name in names}
    return numbers | {f"val-core/{source}/acc/mean@1": value, "val-aux/num_turns/mean": 2.0}


def training(value: float, stage: float = 0.0) -> dict[str, float]:
    names = ("value", "format", "recall", "precision", "iou_mean", "f1_50", "accuracy", "frac_reward_zero_std")
    thresholds = {"match_iou": 0.5, "iou_floor": 0.5, "iou_full": 0.75}
    return {
        **{f"visionr1/{name}/mean": value for name in names},
        **{f"visionr1/threshold/{name}": number for name, number in thresholds.items()},
        "visionr1/stage": stage,
        "timing_s/step": 30.0,
    }


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run of four steps that was killed in step 3 and resumed from step 2."""
    starts = [
        [(0, validation(0.4)), (1, training(0.5)), (2, training(0.6) | validation(0.5)), (3, training(0.9))],
        [(2, validation(0.5)), (3, training(0.7, stage=1.0)), (4, training(0.8, stage=1.0) | validation(0.6))],
    ]
    (tmp_path / "metrics").mkdir()
    for i, lines in enumerate(starts):
        text = "".join(json.dumps({"step": step, "data": data}) + "\n" for step, data in lines)
        (tmp_path / "metrics" / f"{i:03d}.jsonl").write_text(text + '{"step": 5, "data": {"visionr1/va')
    return tmp_path


def test_a_resumed_run_reads_as_one(run_dir: Path) -> None:
    steps = read_steps(run_dir)
    assert [step.number for step in steps] == [0, 1, 2, 3, 4]
    assert steps[3].training("value") == 0.7, "the later start has the last word"
    assert steps[2].training("value") == 0.6, "what only the first start logged is kept"
    assert steps[0].training("value") is None


def test_a_number_beyond_floats_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "1.jsonl").write_text(json.dumps({"step": 1, "data": {"a": 10**400, "b": 2}}))
    assert read_steps(tmp_path) == [Step(1, {"b": 2.0})]


def test_no_run_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=str(tmp_path)):
        read_steps(tmp_path)
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert "no metrics" in " ".join(result.output.split())


def test_without_dumps_the_logged_means_are_compared_without_intervals(run_dir: Path) -> None:
    comparison = compare_run(run_dir, read_validations(run_dir, read_steps(run_dir)))
    (section,) = comparison.sections
    assert comparison.steps == (0, 4)
    assert {(change.before, change.after) for change in section.changes} == {(0.4, 0.6)}
    assert {(change.difference.low, change.mark) for change in section.changes} == {(None, "")}
    assert [change.metric.name for change in section.changes] == NAMES
    assert judge_outcome(section) == "unknown"
    assert str(run_dir / "validation") in comparison.notes[0], "the reader is told why there are no intervals"


def names_of(before: Step, after: Step) -> dict[str, list[str]]:
    sections = compare(logged_validation(before), logged_validation(after))
    return {section.source: [change.metric.name for change in section.changes] for section in sections}


def test_a_task_without_boxes_shows_its_accuracy() -> None:
    def counted(value: float) -> dict[str, float]:
        numbers = {"reward": value, "exact": value, "accuracy": value, "iou_mean": 0.0, "f1_50": 0.0, "route": 1.0}
        return {f"val-aux/counting/{name}/mean@1": number for name, number in numbers.items()}

    assert names_of(Step(0, counted(0.4)), Step(2, counted(0.5))) == {"counting": ["reward", "accuracy", "exact"]}


def test_a_mixed_run_shows_each_source_its_own_criteria() -> None:
    def both(value: float) -> dict[str, float]:
        boxes = {"reward": value, "recall": value, "exact": 0.0, "iou_mean": value, "f1_50": value}
        counts = {"reward": value, "recall": 0.0, "exact": value, "iou_mean": 0.0, "f1_50": 0.0, "accuracy": value}
        return {
            f"val-aux/{source}/{name}/mean@1": number
            for source, numbers in (("boxes", boxes), ("counts", counts))
            for name, number in numbers.items()
        }

    shown = names_of(Step(0, both(0.4)), Step(2, both(0.5)))
    assert shown == {"boxes": ["reward", "F1@.5", "mean IoU", "recall"], "counts": ["reward", "accuracy", "exact"]}
    assert names_of(Step(0, both(0.0)), Step(2, both(0.0))) == {"boxes": ["reward"], "counts": ["reward"]}


@pytest.fixture
def undrawn(undrawn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll takes a second too."""
    monkeypatch.setattr("verl_visionr1.tools.runs.watch.POLL_SECONDS", 0.0)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("n_validations", [0, 1])
def test_a_run_with_fewer_than_two_validations_shows_what_it_has(tmp_path: Path, n_validations: int) -> None:
    steps = [(0, validation(0.25) if n_validations else {}), (1, training(0.1)), (2, training(0.2))]
    (tmp_path / "metrics").mkdir()
    lines = [json.dumps({"step": step, "data": data}) for step, data in steps if data]
    (tmp_path / "metrics" / "000.jsonl").write_text("\n".join(lines) + "\n")
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert ("0.250" in result.output) == bool(n_validations)
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert (numbers["steps"], numbers["sections"]) == ([0][:n_validations], [])
    assert [each["step"] for each in numbers["validations"]] == [0][:n_validations]


def test_watch_says_step_reward_thresholds_and_time_left() -> None:
    first, later = Step(2, training(0.6)), Step(3, training(0.7, stage=1.0))
    legend, _ = lines_of(first, total_steps=10)
    assert LEGEND in legend, "explained before the first step"
    (line,) = lines_of(later, total_steps=10, seen=[first])
    assert line.startswith("step  3/10  reward 0.700  F1@.5 0.700  mean IoU 0.700  recall 0.700  precision 0.700")
    assert "format 0.700  stage 1 (xi 0.50/0.50/0.75)" in line
    assert "accuracy" not in line, "it is F1@.5"
    assert line.endswith("3 min 30 s left")


def test_a_task_without_boxes_has_neither_f1_nor_xi_in_its_lines() -> None:
    numbers = {key: value for key, value in training(0.7).items() if "iou_mean" not in key and "f1_50" not in key}
    (line,) = lines_of(Step(3, numbers), total_steps=10)
    assert "accuracy 0.700" in line
    assert "xi" not in line


@pytest.mark.usefixtures("undrawn")
def test_watch_ends_with_its_process(run_dir: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    console = Console(record=True, width=200, file=open(os.devnull, "w"))  # noqa: SIM115
    watch(run_dir, total_steps=10, console=console, pid=process.pid)
    text = console.export_text()
    assert "step  4/10" in text
    assert "validation at step 4" in text


def alarmed(value: float, *on: str) -> dict[str, float]:
    names = ("box_flood", "truncation")
    return training(value) | {f"visionr1/alarm/{name}": float(name in on) for name in names}


ALARMED = [
    Step(0, validation(0.1)),
    Step(1, alarmed(0.5)),
    Step(2, alarmed(0.6, "box_flood") | {"visionr1/boxes_per_target/mean": 2.5}),
    Step(3, alarmed(0.7, "box_flood", "truncation") | {"visionr1/clipped/mean": 0.4}),
    Step(4, alarmed(0.7, "truncation") | {"visionr1/clipped/mean": 0.5} | validation(0.2)),
]


def test_watch_says_what_starts_and_what_ends() -> None:
    lines = [list(alarms.lines_of(step, before.alarms)) for before, step in itertools.pairwise(ALARMED)]
    assert [len(each) for each in lines] == [0, 1, 1, 1]
    assert lines[1][0].startswith("[bold red]ALARM box_flood[/bold red] at step 2: boxes per object 2.5")
    assert lines[3] == ["alarm box_flood has ended at step 4: "]
    assert list(alarms.lines_of(Step(5, validation(0.1)), ["box_flood"])) == [], "a step that says nothing ends nothing"


@pytest.mark.usefixtures("undrawn")
def test_report_lists_the_alarms_of_the_run(run_dir: Path) -> None:
    spans = [(span.name, span.first.number, span.last.number) for span in alarms.spans_of(ALARMED)]
    assert spans == [("box_flood", 2, 3), ("truncation", 3, 4)]
    text = "".join(json.dumps({"step": step.number, "data": dict(step.numbers)}) + "\n" for step in ALARMED)
    (run_dir / "metrics" / "002.jsonl").write_text(text)
    said = CliRunner().invoke(app, ["report", str(run_dir)], env={"COLUMNS": "120"}).output
    assert "Alarms in training" in said
    assert "share of clipped answers 0.5" in said
    assert "(still on)" in said
    console = Console(record=True, width=200, file=open(os.devnull, "w"))  # noqa: SIM115
    watch(run_dir, total_steps=4, console=console)
    assert "ALARM truncation at step 3: share of clipped answers 0.4" in console.export_text()


def test_numbers_of_alarms_are_no_criteria() -> None:
    names = ("recall", "distinct_share", "empty", "clipped", "budget_used")
    assert Step(1, {f"visionr1/{name}/mean": 0.5 for name in names}).criteria == ["recall"]


def test_watching_what_is_no_run_stops_at_once(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["watch", str(tmp_path)])
    assert result.exit_code == 2
    assert f"visionr1 watch: {tmp_path}: no metrics/ in it" in result.stderr


@pytest.mark.usefixtures("undrawn")
def test_watching_takes_the_steps_from_the_run(run_dir: Path) -> None:
    unknown = CliRunner().invoke(app, ["watch", str(run_dir)])
    assert unknown.exit_code == 2
    assert "--total-steps" in unknown.stderr
    start = Start(presets=[preset_to_dict(PRESETS["visionr1"])], frame="unit", n_steps=4, total_steps=9)
    write_run(
        msgspec.structs.replace(start, checkpoint_dir=str(run_dir / "checkpoints"), rollout_dir=str(run_dir / "r"))
    )
    done = CliRunner().invoke(app, ["watch", str(run_dir)])
    assert done.exit_code == 0, done.output
    assert "step 4/4" in done.output
