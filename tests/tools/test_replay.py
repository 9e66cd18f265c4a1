"""`visionr1 schedule`: what it shows of a schedule, and what it makes of saved rollouts under each stage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from verl_visionr1 import PRESETS, Preset, Target, score
from verl_visionr1.cli import app
from verl_visionr1.criteria import ADVANCED, BEGINNER
from verl_visionr1.files import RowsError
from verl_visionr1.frames import FRAMES
from verl_visionr1.rollouts.judging import Judging, Moment
from verl_visionr1.rollouts.records import Rollout
from verl_visionr1.schedule import Schedule, constant, first_step, linear, piecewise, progress_at, staged
from verl_visionr1.tools.schedule import replay as replay_module
from verl_visionr1.tools.schedule.replay import list_moments, replay
from verl_visionr1.tools.score.rescore import rescore

CAT = Target(task="detection", size_wh=(640, 480), boxes_xyxy=[[100, 100, 200, 200]], labels=["cat"])


def said(height: float) -> str:
    """A box that overlaps the target by height / 100."""
    return json.dumps([{"bbox_2d": [100, 100, 200, 100 + height], "label": "cat"}])


def rollouts(groups: Sequence[Sequence[float]], target: Target = CAT) -> list[Rollout]:
    unknown = dict.fromkeys(("session", "saved", "processed_wh", "n_tokens"))
    known: dict[str, Any] = {"file": "1.jsonl", "number": 1, "target": target, "step": 1, **unknown}
    return [
        Rollout(**known, completion=said(height), group=i, source="coco" if i % 2 else "own")
        for i, heights in enumerate(groups)
        for height in heights
    ]


def judging(preset: str | Preset = "visionr1") -> Judging:
    return Judging(PRESETS[preset] if isinstance(preset, str) else preset, FRAMES["original"])


def test_stages_by_hand() -> None:
    # off: (1 + 1 + IoU) / 3; stage 0: IoU of .6 counts .6, from .75 on 1; stage 1: nothing below .75, .8 counts .8.
    found = replay(rollouts([[60, 80], [60, 70]]), judging())
    off, beginner, advanced = found.stages
    assert [(stage.name, stage.progress, stage.match_iou) for stage in found.stages] == [
        ("no schedule", None, 0.5),
        ("stage 0", 0.0, 0.5),
        ("stage 1", 0.5, 0.75),
    ]
    assert off.overall.reward == pytest.approx((2 + (0.6 + 0.8 + 0.6 + 0.7) / 4) / 3)
    assert beginner.overall.reward == pytest.approx((2 + (0.6 + 1 + 0.6 + 0.7) / 4) / 3)
    assert advanced.overall.reward == pytest.approx((1 / 3 + 2.8 / 3 + 1 / 3 + 1 / 3) / 4)
    assert [stage.overall.frac_reward_zero_std for stage in found.stages] == [0.0, 0.0, 0.5]
    assert (advanced.sources["own"].frac_reward_zero_std, advanced.sources["coco"].frac_reward_zero_std) == (0.0, 1.0)
    assert advanced.overall.group_std == pytest.approx((2.8 / 3 - 1 / 3) / 2 * 0.5**0.5)


PRESETS_TRIED = {
    "default": PRESETS["visionr1"],
    "paper": PRESETS["visionr1-paper"],
    "released": PRESETS["visionr1-released"],
    "three stages": replace(
        PRESETS["visionr1"],
        schedule=piecewise([(0, BEGINNER), (0.3, BEGINNER.towards(ADVANCED, 0.5)), (0.6, ADVANCED)]),
    ),
    "ramp": replace(PRESETS["visionr1"], schedule=linear(BEGINNER, ADVANCED, begin=0.2)),
    "accuracy that looks at thresholds": replace(PRESETS["visionr1"], accuracy="precision"),
}


@pytest.mark.parametrize("preset", PRESETS_TRIED.values(), ids=PRESETS_TRIED)
def test_each_stage_is_what_re_scoring_there_gives(preset: Preset) -> None:
    rows = rollouts([[45, 60, 80, 90], [100, 77], [20]])
    found = replay(rows, judging(preset))
    assert len(found.stages) == len(list_moments(preset.schedule)) >= 3
    for stage in found.stages:
        alone = rescore(rows, replace(judging(preset), moment=Moment(progress=stage.progress)))
        assert stage.overall == alone.overall
        assert stage.sources == alone.sources
    assert found.stages[1].overall != found.stages[-1].overall


def test_each_row_is_read_and_matched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counted(completion: str, *args: Any) -> Any:
        calls.append(completion)
        return real(completion, *args)

    real = replay_module.read_completion
    monkeypatch.setattr(replay_module, "read_completion", counted)
    replay(rollouts([[60, 80], [90]]), judging())
    assert calls == [said(60), said(80), said(90)]


ADVICE = {
    "too hard": ([[55, 60], [60, 70], [80, 90]], ["stage 1 leaves 67% of the prompt groups"], "too hard"),
    "within the limit": ([[55, 60], [80, 90]], [], ""),
    "mastered": ([[98, 99], [95, 99], [60, 80]], ["stage 0 leaves 67%", "stage 1 leaves 67%"], "already solved"),
    "no groups": ([[60], [70]], [], ""),
}


@pytest.mark.parametrize(("groups", "starts", "cause"), ADVICE.values(), ids=ADVICE)
def test_advice(groups: list[list[float]], starts: list[str], cause: str) -> None:
    found = replay(rollouts(groups), judging())
    assert len(found.advice) == len(starts)
    for line, start in zip(found.advice, starts, strict=True):
        assert line.startswith(start)
        assert cause in line


def test_rows_of_another_task_follow_their_own_schedule() -> None:
    early = replace(PRESETS["visionr1"], tasks=("grounding",), schedule=staged(at=0.1))
    found = replay(rollouts([[60]]), judging(early))
    assert found.routed == {"detection": "visionr1"}
    assert [stage.overall.reward for stage in found.stages[1:]] == pytest.approx([2.6 / 3, 2.6 / 3])
    with pytest.raises(RowsError, match="dumps are empty"):
        replay([], judging(early))


@given(st.floats(0, 1), st.integers(1, 500))
@settings(max_examples=300, deadline=None)
def test_first_step_is_the_first(progress: float, total: int) -> None:
    reached = [step for step in range(1, total + 1) if progress_at(step, total) >= progress]
    assert first_step(progress, total) == (reached[0] if reached else None)


def run(*args: object) -> Any:
    return CliRunner().invoke(app, ["schedule", *map(str, args)], env={"COLUMNS": "120"})


def test_the_command_prints_steps() -> None:
    result = run("--steps", 40)
    assert result.exit_code == 0, result.output
    cells = [[cell.strip() for cell in line.split("│")[1:4]] for line in result.stdout.splitlines() if "│" in line]
    assert cells == [["0", "1", "0"], ["0.5", "21", "1"], ["off", "", ""]]
    never = [line.split() for line in run("--steps", 40, "--at", 1.0).stdout.splitlines() if "never" in line]
    assert [(row[5], row[7]) for row in never] == [("1", "0.75")], (
        "the stage that is never reached, and what it asks for"
    )


KINDS = {
    "its own": ([], PRESETS["visionr1"].schedule),
    "later": (["--at", "0.7"], staged(at=0.7)),
    "linear": (["--kind", "linear"], linear(BEGINNER, ADVANCED)),
    "piecewise": (["--kind", "piecewise", "--starts", "0,0.2"], piecewise([(0, BEGINNER), (0.2, ADVANCED)])),
    "own stages": (
        ["--kind", "constant", "--stages", ".75,.75,.9"],
        constant(ADVANCED),
    ),
}


@pytest.mark.parametrize(("options", "schedule"), KINDS.values(), ids=KINDS)
def test_options_describe_the_schedule(options: list[str], schedule: Schedule) -> None:
    assert run(*options).exit_code == 0
    shown = json.loads(run(*options, "--json").stdout)
    assert (shown["interpolation"], shown["rollouts"]) == (schedule.interpolation, None)
    assert [(point["progress"], point["match_iou"]) for point in shown["points"]] == [
        (start, thresholds.match_iou) for start, thresholds in schedule.points
    ]


FAMILIES = {"qwen2.5-vl": [0.0, 1.0], "qwen3-vl": [0.0, 0.5], "original": [0.0, 0.5]}


@pytest.mark.parametrize(("family", "starts"), FAMILIES.items(), ids=FAMILIES)
def test_the_default_switch_follows_the_model_and_a_set_one_does_not(
    family: str, starts: list[float], tmp_path: Path
) -> None:
    frame = ["--frame", family, "--processed", "100x100"]
    rollouts = ["--rollouts", write_dump(tmp_path / "1.jsonl")]
    shown = json.loads(run(*frame, *rollouts, "--json").stdout)
    assert [point["progress"] for point in shown["points"]] == starts
    assert [stage["progress"] for stage in shown["rollouts"]["stages"]] == [None, *starts]
    assert [stage["match_iou"] for stage in shown["rollouts"]["stages"]] == [0.5, 0.5, 0.75]
    chosen = json.loads(run(*frame, "--at", 0.25, "--json").stdout)
    assert [point["progress"] for point in chosen["points"]] == [0.0, 0.25]


def write_dump(path: Path) -> Path:
    rows = [
        {"input": "cat?", "output": said(height), "gts": CAT.to_json(), "score": 0.0, "step": 1, "uid": f"{g}_{i}_0"}
        for g, heights in enumerate([[60, 80], [60, 70], [55, 65]])
        for i, height in enumerate(heights)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_command_replays_rollouts(tmp_path: Path) -> None:
    file = write_dump(tmp_path / "1.jsonl")
    plain = json.loads(run("--rollouts", file, "--json").stdout)["rollouts"]
    assert [stage["overall"]["frac_reward_zero_std"] for stage in plain["stages"]] == pytest.approx([0, 0, 2 / 3])
    assert plain["stages"][2]["overall"]["reward"] == pytest.approx(
        sum(score(said(h), CAT, progress=0.5).value for h in (60, 80, 60, 70, 55, 65)) / 6
    )
    result = run("--rollouts", tmp_path)
    assert result.exit_code == 0, result.output
    assert "66.7%" in result.stdout
    assert "stage 1 leaves 67% of the prompt groups without gradient (more than 50%)" in " ".join(result.stdout.split())


def test_skipped_and_delegated_rows_are_counted(tmp_path: Path) -> None:
    file = write_dump(tmp_path / "1.jsonl")
    delegated = {**json.loads(file.read_text().splitlines()[0]), "route": -2.0}
    file.write_text(file.read_text() + json.dumps(delegated) + "\n{}\n")
    assert run("--rollouts", file).exit_code == 2
    result = run("--rollouts", file, "--on-error", "skip")
    assert result.exit_code == 0
    assert "could not be read: 1" in result.stdout
    assert "1 rows left out: verl's own reward" in result.stdout


MISTAKES = {
    "no such kind": (["--kind", "steps"], "schedule.kind = 'steps'"),
    "thresholds in words": (["--stages", "easy"], "--stages easy"),
    "one stage": (["--stages", ".5,.5,.75"], "stages has 1 entries"),
    "at": (["--at", "2"], "at = 2.0"),
    "no such preset": (["--preset", "visionr2"], "preset = 'visionr2'"),
    "no rollouts": (["--rollouts", "nothing.jsonl"], "nothing.jsonl: no such file"),
}


@pytest.mark.parametrize(("args", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(args: list[str], message: str) -> None:
    result = run(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("visionr1 schedule: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
