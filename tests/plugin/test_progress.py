"""Where a run is: the stage of a step, gates, checkpoints, and thresholds by the model's family."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from verl_rows import ANSWER, GATED, CharTokenizer, config_of, judged, manager, model_folder, progress, trajectory

from verl_visionr1 import Target, score
from verl_visionr1.plugin.config import checked, settings_of
from verl_visionr1.rewards.context import WIRE_KEY, Context, context_at
from verl_visionr1.schedule import progress_at, staged


@pytest.mark.parametrize(
    ("step", "total", "progress"),
    [(0, 40, 0.0), (1, 40, 0.0), (20, 40, 0.475), (21, 40, 0.5), (40, 40, 0.975), (41, 40, 1.0), (99, 40, 1.0)],
)
def test_progress_counts_completed_steps(step: int, total: int, progress: float) -> None:
    assert progress_at(step, total) == progress


def rule_at(step: int, total: int | None, validation: str = "final", **context: object) -> object:
    return context_at(step, total, **context).rule(staged(), validation)  # type: ignore[arg-type]


def test_stage_switches_at_the_right_step() -> None:
    assert [rule_at(step, 10).stage for step in range(12)] == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(("validation", "match_iou"), [("final", 0.75), ("current", 0.5), ("off", 0.5)])
def test_validation_stage(validation: str, match_iou: float) -> None:
    assert rule_at(1, 10, validation, is_validation=True).thresholds.match_iou == match_iou


def test_with_the_rule_off_validation_has_no_stage_either() -> None:
    assert rule_at(1, None, is_validation=True).stage == rule_at(1, None).stage == -1


def test_a_stage_that_training_never_reaches_judges_no_validation() -> None:
    """`at=1`: the paper's setting for Qwen2.5-VL-7B, beginner thresholds to the end."""
    never = staged(at=1.0)
    rule = Context(progress_at(10, 10), is_validation=True).rule(never, "final")
    assert (rule.thresholds, rule.stage) == (never(0.0), 0)


def test_validation_is_judged_by_a_stage_that_training_reaches() -> None:
    """Five steps with the switch at .9: the last step is at .8."""
    late = staged(at=0.9)
    stages = {total: context_at(1, total, is_validation=True).rule(late, "final").stage for total in (1, 5, 10, 100)}
    assert stages == {1: 0, 5: 0, 10: 1, 100: 1}
    extended = context_at(1, 5, n_steps=40, is_validation=True).rule(late, "final")
    assert (extended.stage, extended.thresholds) == (1, late.points[-1][1]), "step 6 of 40 and later are at progress 1"
    gated = context_at(1, 1, is_validation=True, gates={}).rule(late, "final")
    assert gated.stage == 1, "a gate may open at any step"


def test_gates_set_the_stage_of_each_source() -> None:
    context = Context(0.9, gates={"coco": 1, "far": 7})
    assert [context.rule(staged(), "final", source).stage for source in ("coco", "new", "far")] == [1, 0, 1]


def test_context_survives_the_wire_as_plain_values() -> None:
    for context in (
        Context(0.3, last_progress=0.8),
        Context(None, is_validation=True),
        Context(0.5, gates={"coco": 1}),
    ):
        assert Context.from_wire(json.loads(json.dumps(context.to_wire()))) == context


@pytest.mark.verl
def test_extending_a_run_does_not_lower_the_bar() -> None:
    state = progress(10).state(10)
    extended = progress(40)
    assert extended.rule(11).stage == 0
    extended.restore(state)
    assert extended.rule(11).stage == 1
    assert extended.total_steps == 10


@pytest.mark.verl
def test_an_explicit_total_overrules_the_checkpoint() -> None:
    resumed = progress(40, total_steps=40)
    resumed.restore(progress(10).state(10))
    assert resumed.total_steps == 40
    assert resumed.warn() == []


@pytest.mark.verl
def test_a_run_that_is_resumed_with_fewer_steps_says_what_it_will_not_reach() -> None:
    resumed = progress(250)
    resumed.restore(progress(1000).state(100))
    assert resumed.total_steps == 1000
    kept, unreached = resumed.warn()
    key = "reward.reward_kwargs.visionr1.total_steps=250"
    assert "total_steps is 250 but the checkpoint used 1000; keeping 1000" in kept
    assert key in kept
    assert unreached.startswith("stage 1 (0.75/0.75/0.9) is not reached in this run of 250 steps")
    assert "step 501" in unreached
    assert key in unreached
    decided = progress(250, total_steps=250)
    decided.restore(progress(1000).state(100))
    assert (decided.warn(), decided.rule(126).stage) == ([], 1)


OFF = {"schedule": {"kind": "off"}}


@pytest.mark.verl
@pytest.mark.parametrize(("before", "after"), [({}, OFF), (OFF, {}), (OFF, OFF)], ids=["now", "before", "always"])
def test_without_a_schedule_no_total_is_kept(before: dict, after: dict) -> None:
    """Neither of the run that had none, nor by one that has none."""
    resumed = progress(250, **after)
    resumed.restore(progress(1000, **before).state(100))
    assert resumed.total_steps == (None if after else 250)
    assert resumed.warn() == []


UNREACHED = {
    "too short": ({"schedule": {"at": 0.9}}, 5, ["stage 1"]),
    "meant never to come": ({"schedule": {"at": 1.0}}, 5, []),
    "reached": ({"schedule": {"at": 0.9}}, 10, []),
    "two of three": (
        {"schedule": {"kind": "piecewise", "starts": [0, 0.5, 0.9], "stages": [[0.5, 0.5, 0.75]] * 3}},
        1,
        ["stage 1", "stage 2"],
    ),
    "a gate": ({"schedule": {"kind": "gated", "gate": {"bar": 0.5}}}, 1, []),
    "rule off": ({"schedule": {"kind": "off"}}, 1, []),
}


@pytest.mark.verl
@pytest.mark.parametrize(("settings", "total", "stages"), UNREACHED.values(), ids=UNREACHED)
def test_a_stage_that_no_step_reaches_is_said(settings: dict, total: int, stages: list[str]) -> None:
    assert [told.partition(" (")[0] for told in progress(total, **settings).warn()] == stages


@pytest.mark.verl
def test_checkpoint_state_is_whole_or_absent(tmp_path: Path) -> None:
    from verl_visionr1.plugin.progress import STATE_FILE, ProgressCheckpoint

    config = progress(10).config
    ProgressCheckpoint(config).on_save(None, 6, str(tmp_path), async_save=False, future_argument=1)
    state = json.loads((tmp_path / STATE_FILE).read_text())
    assert (state["step"], state["total_steps"], state["stage"]) == (6, 10, 1)
    assert [file.name for file in tmp_path.iterdir()] == [STATE_FILE]


class Trainer:
    """What `write_state_ahead` asks of verl's trainer; `total_training_steps` is set by `_init_dataloader`."""

    total_training_steps = 10

    def __init__(self, folder: Path, save_freq: int) -> None:
        self.config = OmegaConf.create({"trainer": {"default_local_dir": str(folder), "save_freq": save_freq}})


@pytest.mark.verl
def test_the_state_is_there_before_verl_marks_the_checkpoint(tmp_path: Path) -> None:
    """verl writes `latest_checkpointed_iteration.txt`, then calls `on_save`: a kill in between must lose nothing."""
    from verl_visionr1.plugin.progress import STATE_FILE, ProgressCheckpoint, write_state_ahead

    followed = progress(10, **GATED)
    for step in range(1, 11):
        observed(followed, step, "coco", 0.9, followed.rule(step, "coco").stage)
        write_state_ahead(Trainer(tmp_path, 4), followed, step)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["global_step_10", "global_step_4", "global_step_8"]
    ahead = json.loads((tmp_path / "global_step_10" / STATE_FILE).read_text())
    callback = ProgressCheckpoint(followed.config)
    callback.progress = followed
    callback.on_save(None, 10, str(tmp_path / "global_step_10"))
    assert ahead == json.loads((tmp_path / "global_step_10" / STATE_FILE).read_text())
    resumed = progress(10, **GATED)
    resumed.restore(ahead)
    assert resumed.context(11).gates == {"coco": 1}
    write_state_ahead(Trainer(tmp_path / "never", -1), followed, 10)
    assert not (tmp_path / "never").exists()


def observed(followed: object, step: int, source: str, iou_mean: float, stage: int) -> None:
    followed.observe(step, [source] * 4, [{"iou_mean": iou_mean, "stage": float(stage), "unscored": 0.0}] * 4)


@pytest.mark.verl
def test_a_gate_opens_for_its_source_and_survives_a_checkpoint() -> None:
    followed = progress(10, **GATED)
    for step in (1, 2, 3):
        observed(followed, step, "coco", 0.9, followed.rule(step, "coco").stage)
        observed(followed, step, "hard", 0.1, 0)
    assert (followed.rule(4, "coco").stage, followed.rule(4, "hard").stage) == (1, 0)
    assert followed.context(4).gates["coco"] == 1
    resumed = progress(10, **GATED)
    resumed.restore(json.loads(json.dumps(followed.state(3))))
    assert resumed.rule(4, "coco").stage == 1
    assert resumed.state(3) == followed.state(3)


@pytest.mark.verl
def test_rows_that_were_judged_at_an_earlier_stage_do_not_move_a_gate() -> None:
    followed = progress(10, **GATED)
    for step in range(1, 9):
        observed(followed, step, "coco", 0.9, 0)  # late rollouts of the first stage
    assert followed.rule(9, "coco").stage == 1


@pytest.mark.verl
def test_rows_without_the_metric_do_not_hold_a_gate_shut() -> None:
    """Counting rows of the same data source have no IoU: it is reported as 0."""
    followed = progress(10, **GATED)
    rows = [{"iou_mean": 0.9, "stage": 0.0, "route": 0.0}, {"iou_mean": 0.0, "stage": 0.0, "route": -1.0}, {}]
    for step in (1, 2):
        followed.observe(step, ["mixed"] * 3, rows)
    assert followed.rule(3, "mixed").stage == 1


ROUTED = {"routes": {"data_source": {"routed/*": "v-triune"}}}


@pytest.mark.verl
def test_a_preset_with_a_schedule_of_its_own_goes_by_progress_and_moves_no_gate() -> None:
    """v-triune has three stages by progress; the run's gate counts the stages of the run's own preset."""
    reward_manager = manager_of_gated(**GATED, **ROUTED)
    for progress_now, stage in ((0.0, 0.0), (0.15, 1.0), (0.3, 2.0)):
        stamped = Context(progress_now, gates={"routed/x": 1, "x": 1}).to_wire()
        routed = judged(reward_manager, trajectory(ANSWER, data_source="routed/x", **{WIRE_KEY: stamped}))
        own = judged(reward_manager, trajectory(ANSWER, **{WIRE_KEY: stamped}))
        assert (routed["reward_extra_info"]["stage"], own["reward_extra_info"]["stage"]) == (stage, 1.0)
    followed = progress(10, **GATED, **ROUTED)
    rows = [{"iou_mean": 0.9, "stage": 0.0, "route": 1.0}] * 4
    for step in (1, 2, 3):
        followed.observe(step, ["routed/x"] * 4, rows)
    assert followed.context(4).gates == {}


def manager_of_gated(**settings: object) -> object:
    """With the callback named, as the flag does it."""
    from verl_visionr1.plugin.reward_manager import VisionR1RewardManager

    config = config_of(**settings)
    agent = {"agent_loop_manager_class": "verl_visionr1.plugin.progress.VisionR1AgentLoopManager"}
    more = {"actor_rollout_ref": {"rollout": {"agent": agent}, "model": {"path": None}}}
    return VisionR1RewardManager(OmegaConf.merge(config, more), CharTokenizer(), None)


@pytest.mark.verl
def test_a_gate_and_a_filter_of_groups_exclude_each_other() -> None:
    from verl_visionr1.plugin.run_facts import gate_problem

    config = OmegaConf.merge(
        manager_of_gated(**GATED).config, {"algorithm": {"filter_groups": {"enable": True, "metric": "accuracy"}}}
    )
    problem = gate_problem(config, settings_of(config)) or ""
    assert "schedule.kind=gated: algorithm.filter_groups.enable=true" in problem
    assert gate_problem(config, checked({})) is None


FAMILY = {  # frame, settings -> stage at progress .9, whether the reason is printed
    "Qwen2.5-VL": ("qwen2.5-vl", {}, 0, True),
    "another family": ("qwen3-vl", {}, 1, True),
    "the key that changes it": ("qwen2.5-vl", {"schedule": {"at": 0.5}}, 1, False),
    "the same key the other way": ("qwen3-vl", {"schedule": {"at": 1.0}}, 0, False),
    "thresholds of one's own": ("qwen2.5-vl", {"schedule": {"stages": [[0.5, 0.5, 0.7], [0.75, 0.75, 0.9]]}}, 1, False),
    "weights change nothing": ("qwen2.5-vl", {"weights": {"format": 0}, "schedule": {"at": None}}, 0, True),
    "a preset of one's own": ("qwen2.5-vl", {"preset": "mine", "presets": {"mine": {"base": "visionr1"}}}, 0, True),
    "a preset with its schedule": (
        "qwen2.5-vl",
        {"preset": "mine", "presets": {"mine": {"schedule": {"kind": "staged", "at": 0.5}}}},
        1,
        False,
    ),
}


@pytest.mark.verl
@pytest.mark.parametrize(("frame", "plain", "stage", "is_told"), FAMILY.values(), ids=FAMILY)
def test_thresholds_follow_the_models_family(
    frame: str, plain: dict, stage: int, is_told: bool, tmp_path: Path
) -> None:
    """The manager, the trainer's own line, and `score`."""
    reward_manager = manager(frame=frame, **plain, model=model_folder(tmp_path))
    data = trajectory("[]", **{WIRE_KEY: Context(0.9).to_wire()})
    assert judged(reward_manager, data)["reward_extra_info"]["stage"] == stage
    followed = progress(10, frame=frame, **plain)
    assert followed.rule(10).stage == stage
    assert (followed.reason is not None) == is_told
    assert not is_told or "arXiv 2503.18013, Table" in str(followed.reason)
    text = '[{"bbox_2d": [100, 100, 200, 160], "label": "cat"}]'
    target = Target(task="detection", size_wh=(1000, 1000), boxes_xyxy=[[100, 100, 200, 200]], labels=["cat"])
    got = score(
        text, target, preset=reward_manager.routes.default, frame=frame, processed_wh=(1000, 1000), progress=0.9
    )
    assert got.metrics["recall"] == (1.0 if stage == 0 else 0.0)
