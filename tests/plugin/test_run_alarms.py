"""Alarms of a run: from what the reward manager says of each answer to the lines that are printed."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from omegaconf import DictConfig, OmegaConf

from verl_visionr1.alarms import AlarmState, Batch
from verl_visionr1.criteria import OFF
from verl_visionr1.frames import FRAMES
from verl_visionr1.rewards import PRESETS, TASK_PRESETS, ResponseContext
from verl_visionr1.rewards.completion import DEGENERATION_METRICS, degeneration_metrics, read_completion
from verl_visionr1.targets import Target

CAT = Target(task="detection", size_wh=(640, 480), boxes_xyxy=[[100, 100, 200, 200]], labels=["cat"])
NONE = Target(task="detection", size_wh=(640, 480), categories=["cat"])
COUNT = Target(task="counting", size_wh=(640, 480), count=3)
POINT = Target(task="pointing", size_wh=(640, 480), points_xy=[[5, 5]], labels=["cat"])
TEXT = Target(task="text", answer="yes")
BOX = '{"bbox_2d": [100, 100, 200, 180], "label": "cat"}'

SAID = {
    # completion, target: distinct share, empty
    "one box": (f"[{BOX}]", CAT, 1.0, 0.0),
    "the same box three times": (f"[{BOX}, {BOX}, {BOX}]", CAT, 1 / 3, 0.0),
    "the same place under another label": (f"[{BOX}, {BOX.replace('cat', 'dog')}]", CAT, 0.5, 0.0),
    "a pixel beside": (f"[{BOX}, {BOX.replace('180', '181')}]", CAT, 1.0, 0.0),
    "nothing, where there is something": ("[]", CAT, 1.0, 1.0),
    "nothing, where there is nothing": ("[]", NONE, 1.0, 0.0),
    "prose": ("There is a cat.", CAT, 1.0, 1.0),
    "no text": ("", CAT, 1.0, 1.0),
    "a box that cannot be": ('[{"bbox_2d": [3, 3, 1, 1], "label": "cat"}]', CAT, 1.0, 0.0),
    "a count": ("<answer>0</answer>", COUNT, 1.0, 0.0),
    "no count": ("many", COUNT, 1.0, 1.0),
    "points": ('[{"point_2d": [5, 5], "label": "a"}, {"point_2d": [5, 5], "label": "a"}]', POINT, 0.5, 0.0),
    "no answer": ("<answer></answer>", TEXT, 1.0, 1.0),
    "an answer": ("<answer>no</answer>", TEXT, 1.0, 0.0),
}


@pytest.mark.parametrize(("text", "target", "distinct", "empty"), SAID.values(), ids=SAID)
def test_signs_of_an_answer(text: str, target: Target, distinct: float, empty: float) -> None:
    preset = PRESETS[TASK_PRESETS[target.task]]
    case = read_completion(text, target, preset, OFF, ResponseContext(FRAMES["original"]))
    assert degeneration_metrics(case) == dict(zip(DEGENERATION_METRICS, (pytest.approx(distinct), empty), strict=True))


def config_of(**trainer: object) -> DictConfig:
    return OmegaConf.create(
        {
            "actor_rollout_ref": {"actor": {"optim": {"total_training_steps": 40}}, "model": {"path": None}},
            "data": {"max_response_length": 100},
            "trainer": trainer,
            "reward": {
                "reward_kwargs": {
                    "visionr1": {
                        "frame": "qwen3-vl",
                        "alarms": {"window": 3, "patience": 1, "repetition": "off"},
                        "routes": {"task": {"counting": "counting"}},
                    }
                }
            },
        }
    )


def infos(n_boxes: float, f1: float = 0.5, value: float = 0.5, **more: float) -> list[dict[str, float]]:
    """Two prompts of two rollouts each, of which one is a count that must not be taken for boxes."""
    row = {"value": value, "f1_50": f1, "n_predicted": n_boxes, "n_target": 2.0, "route": 0.0, "n_tokens": 20.0}
    row |= {"distinct_share": 1.0, "empty": 0.0, "clipped": 0.0, "unscored": 0.0, **more}
    counted = {**row, "n_predicted": 999.0, "value": 1.0, "f1_50": 0.0, "route": 1.0}
    return [row, {**row, "value": value + 0.1, "n_predicted": n_boxes + 2.0}, counted, counted]


KEYS = ["b_0_0", "b_1_0", "a_0_0", "a_1_0"]


@pytest.mark.verl
def test_a_batch_tells_boxes_of_rows_that_have_boxes() -> None:
    from verl_visionr1.plugin.training_metrics import batch_of
    from verl_visionr1.plugin.training_state import Progress

    presets = Progress(config_of()).routes.presets
    lost = {"value": 0.0, "f1_50": 0.0, "unscored": 1.0, "route": 0.0, "n_tokens": 9e9}
    batch = batch_of(7, 1, [*KEYS, "c_0_0", "d_0_0"], [*infos(2.0), lost, {}], presets)
    assert batch == Batch(
        7,
        1,
        reward=pytest.approx(0.55),
        f1=0.5,
        boxes=3.0,
        boxes_per_object=1.5,
        distinct_share=1.0,
        n_tokens=20.0,
        empty=0.0,
        clipped=0.0,
        frac_reward_zero_std=0.5,  # the prompt of counts; prompts of one rollout do not count
        unscored=0.2,
    )
    assert batch_of(1, 0, ["x_0_0"], [{}], presets) == Batch(1, 0)


def alarmed(progress: object, boxes: Iterator[float] | list[float], first_step: int = 1) -> dict[str, float]:
    """The alarm metrics after some batches, through the function that the trainer calls."""
    from verl_visionr1.plugin.training_metrics import alarm_metrics

    metrics = {}
    for step, n_boxes in enumerate(boxes, start=first_step):
        metrics = alarm_metrics(progress, step, KEYS, infos(n_boxes))
    return metrics


@pytest.mark.verl
def test_an_alarm_is_a_metric_and_a_line_with_the_command_to_look(capsys: pytest.CaptureFixture[str]) -> None:
    from verl_visionr1.plugin.training_state import Progress

    progress = Progress(config_of(rollout_data_dir="/run/rollouts"))
    metrics = alarmed(progress, [1.0, 1.1, 1.0, 1.0, 1.0, 7.0, 7.0, 7.1])
    assert metrics["visionr1/alarm/box_flood"] == 1.0
    assert "visionr1/alarm/repetition" not in metrics
    assert {name for name, value in metrics.items() if value} == {"visionr1/alarm/box_flood"}
    (line,) = capsys.readouterr().out.splitlines()
    assert "box_flood at step 6: boxes per object 2, at the start 1.02; look: visionr1 gallery /run/rollouts" in line
    alarmed(progress, [1.0] * 9, first_step=9)
    (line,) = capsys.readouterr().out.splitlines()
    assert "box_flood has ended at step 12: boxes per object 1, at the start 1.02" in line


@pytest.mark.verl
@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        ({}, "; set trainer.rollout_data_dir=DIR to keep training rollouts for visionr1 gallery DIR"),
        ({"validation_data_dir": "/run/val"}, "; look at validation: visionr1 gallery /run/val; set trainer.rollout"),
    ],
)
def test_without_a_dump_the_line_says_how_to_have_one(
    trainer: dict, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from verl_visionr1.plugin.training_state import Progress

    alarmed(Progress(config_of(**trainer)), [1.0, 1.1, 1.0, 1.0, 1.0, 7.0, 7.0, 7.1])
    assert said in capsys.readouterr().out


@pytest.mark.verl
def test_the_command_to_look_can_be_pasted_whatever_the_folder_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    from verl_visionr1.plugin.training_state import Progress

    alarmed(Progress(config_of(rollout_data_dir="/my runs/a")), [1.0, 1.1, 1.0, 1.0, 1.0, 7.0, 7.0, 7.1])
    assert "visionr1 gallery '/my runs/a'" in capsys.readouterr().out


@pytest.mark.verl
def test_an_alarm_that_fails_is_a_warning_and_training_goes_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from verl_visionr1.plugin import training_metrics
    from verl_visionr1.plugin.training_state import Progress

    def fail(name: str, *_: object) -> str:
        raise ValueError(name)

    progress = Progress(config_of(rollout_data_dir="/run/rollouts"))
    monkeypatch.setattr(training_metrics, "reading", fail)
    with caplog.at_level(logging.WARNING):
        told = [
            training_metrics.alarm_metrics(progress, step, KEYS, infos(n_boxes))
            for step, n_boxes in enumerate([1.0, 1.1, 1.0, 1.1, 7.0, 7.0, 7.1, 7.1])
        ]
    assert told[3] != {}
    assert told[-2:] == [{}, {}]
    (record,) = caplog.records
    assert record.getMessage().startswith("visionr1: alarms: ValueError: ")
    assert record.getMessage().endswith("; no more alarms in this run")
    assert progress.state(7)["alarms"] is None


@pytest.mark.verl
def test_alarms_survive_a_checkpoint_and_old_checkpoints_have_none(caplog: pytest.LogCaptureFixture) -> None:
    from verl_visionr1.plugin.training_state import Progress

    run = Progress(config_of())
    alarmed(run, [1.0, 1.1, 1.0, 1.0, 1.0, 7.0, 7.0])
    state = json.loads(json.dumps(run.state(7)))
    resumed = Progress(config_of())
    resumed.restore(state)
    assert resumed.alarms == run.alarms != AlarmState()
    assert alarmed(resumed, [7.1], 8) == alarmed(run, [7.1], 8)
    assert resumed.alarms.is_on("box_flood")

    of_version_2 = {key: value for key, value in state.items() if key != "alarms"} | {"version": 2}
    with caplog.at_level(logging.WARNING):
        for old in (of_version_2, state | {"alarms": None}, state | {"alarms": {"tracks": 3}}):
            resumed.restore(old)
            assert resumed.alarms == AlarmState()
    assert [record.getMessage()[:17] for record in caplog.records] == ["visionr1: alarms "]


@pytest.mark.verl
def test_alarms_also_survive_with_the_progressive_rule_off() -> None:
    from verl_visionr1.plugin.training_state import Progress

    config = config_of()
    config.reward.reward_kwargs.visionr1.schedule = {"kind": "off"}
    run, resumed = Progress(config), Progress(config)
    alarmed(run, [1.0, 1.1, 1.0])
    resumed.restore(json.loads(json.dumps(run.state(3))))
    assert resumed.alarms == run.alarms != AlarmState()


@pytest.mark.verl
def test_the_stage_changes_with_each_switch_and_each_gate() -> None:
    from verl_visionr1.gate import Gates, GateState
    from verl_visionr1.plugin.training_metrics import stage_of
    from verl_visionr1.plugin.training_state import Progress

    run = Progress(config_of())
    assert [stage_of(run, step) != stage_of(run, 1) for step in (2, 20, 21, 40)] == [False, False, True, True]
    config = config_of()
    config.reward.reward_kwargs.visionr1.schedule = {"kind": "gated", "gate": {"bar": 0.5}}
    gated = Progress(config)
    before = stage_of(gated, 1)
    gated.gates = gated.gates.with_state(
        Gates(gated.gates.gate, 2, {"coco": GateState(1), "lvis": GateState(0)}).state()
    )
    assert stage_of(gated, 1) != before


@pytest.mark.verl
def test_no_alarms_no_metrics() -> None:
    from verl_visionr1.plugin.training_state import Progress

    config = config_of()
    config.reward.reward_kwargs.visionr1.alarms = "off"
    run = Progress(config)
    assert alarmed(run, [1.0] * 3) == {}
    assert run.state(3)["alarms"] is None
