"""The plug-in against the installed verl: what a reward worker receives, built as verl builds it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from omegaconf import OmegaConf

from verl_visionr1 import PRESETS, Target, score
from verl_visionr1.alarm_rules import ALARMS, AlarmRules
from verl_visionr1.plugin.config import ConfigError, Settings, checked, settings_of
from verl_visionr1.rewards import TASK_PRESETS
from verl_visionr1.rewards.context import WIRE_KEY, Context, context_at
from verl_visionr1.schedule import progress_at, staged

TARGET = Target(task="detection", size_wh=(640, 480), boxes_xyxy=[[100, 100, 200, 200]], labels=["cat"])
ANSWER = '[{"bbox_2d": [100, 100, 200, 180], "label": "cat"}]'
IMAGE_TOKEN = 7
MODEL = {
    "model_type": "qwen2_5_vl",
    "image_token_id": IMAGE_TOKEN,
    "vision_config": {"patch_size": 14, "spatial_merge_size": 2},
}


# --- settings -----------------------------------------------------------------------------------------------------

BAD_SETTINGS = {
    "unknown preset": ({"preset": "x"}, "visionr1.preset = 'x': needs one of visionr1, "),
    "misspelt key": ({"wieghts": {}}, "visionr1.wieghts: unknown key; did you mean weights?"),
    "unknown criterion": ({"weights": {"recal": 1}}, "visionr1.weights = 'recal': needs one of format, recall"),
    "negative weight": ({"weights": {"recall": -1}}, "visionr1.weights.recall = -1.0: needs a number >= 0"),
    "all weights zero": ({"weights": dict.fromkeys(("format", "recall", "precision"), 0)}, "at least one above 0"),
    "unknown schedule": ({"schedule": {"kind": "foo"}}, "visionr1.schedule.kind = 'foo': needs one of off, constant"),
    "misspelt schedule key": ({"schedule": {"kin": 1}}, "visionr1.schedule.kin: unknown key; did you mean kind?"),
    "switch after the end": ({"schedule": {"at": 2}}, "visionr1.schedule.at = 2.0: needs a fraction"),
    "floor above full": ({"schedule": {"stages": [[0.5, 0.8, 0.7], [1, 1, 1]]}}, "a floor lies above"),
    "too few stages": (
        {"schedule": {"stages": [[0.5, 0.5, 0.7]]}},
        "stages has 1 entries: the preset has 2; set kind too",
    ),
    "unknown frame": ({"frame": "qwen9"}, "visionr1.frame = 'qwen9': needs one of original, unit"),
    "unknown reasoning": ({"reasoning": "on"}, "visionr1.reasoning = 'on': needs one of auto, opened, closed"),
    "unknown turns": ({"turns": "last"}, "visionr1.turns = 'last': needs one of auto, template, mask, whole"),
    "unknown stage": ({"validation": "x"}, "visionr1.validation = 'x': needs one of final, current, off"),
    "unknown criterion's judge": ({"criteria": {"a": {"fn": "b"}}}, "visionr1.criteria.a.fn = 'b': needs one of"),
    "unknown route": ({"routes": {"task": {"counting": "x"}}}, "visionr1.routes.task.counting: preset = 'x': needs"),
    "misspelt key of a preset": (
        {"presets": {"a": {"bse": "b"}}},
        "visionr1.presets.a.bse: unknown key; did you mean base?",
    ),
    "a preset's name that is taken": (
        {"presets": {"counting": {}}},
        "presets.counting: there is a preset of that name",
    ),
    "presets in a circle": (
        {"presets": {"a": {"base": "b"}, "b": {"base": "a"}}},
        "visionr1.presets.a.base: a circle: a -> b -> a",
    ),
    "a criterion's name that is taken": (
        {"criteria": {"acc": {"fn": "recall"}}},
        "visionr1.criteria.acc: every row reports something else by that name",
    ),
    "a gate in a preset": (
        {"presets": {"a": {"schedule": {"kind": "gated", "gate": {"bar": 0.5}}}}},
        "visionr1.presets.a.schedule.kind = 'gated': a gate belongs to the run",
    ),
    "a preset over nothing": ({"presets": {"a": {"base": "b"}}}, "visionr1.presets.a.preset = 'b': needs one of"),
    "unknown gate": (
        {"schedule": {"kind": "gated", "gate": {"br": 1}}},
        "visionr1.schedule.gate.br: unknown key; did you mean bar?",
    ),
    "gate without a bar": ({"schedule": {"kind": "gated"}}, "visionr1.schedule.gate.bar: kind=gated needs"),
    "gate on what nothing reports": (
        {"schedule": {"kind": "gated", "gate": {"bar": 0.5, "metric": "map"}}},
        "visionr1.schedule.gate.metric = 'map': needs one of format, recall",
    ),
    "gate with too many bars": (
        {"schedule": {"kind": "gated", "gate": {"bar": [0.5, 0.6]}}},
        "gate bar = (0.5, 0.6): has 2 entries for 1 moves",
    ),
    "no steps": ({"total_steps": 0}, "visionr1.total_steps=0: needs a number of steps above 0"),
    "unknown alarm": ({"alarms": {"box_flod": 2}}, "visionr1.alarms.box_flod: unknown key; did you mean box_flood?"),
    "an alarm's limit": (
        {"alarms": {"box_flood": 0.5}},
        "visionr1.alarms.box_flood = 0.5: needs a number above 1, or off",
    ),
    "an alarm's window": ({"alarms": {"window": 1}}, "visionr1.alarms.window = 1: needs a whole number of at least 3"),
    "alarms as a number": ({"alarms": 3}, "visionr1.alarms = 3: needs one of off"),
    "no mapping": (3, "visionr1=3: needs keys below it"),
}


@pytest.mark.parametrize(("plain", "message"), BAD_SETTINGS.values(), ids=BAD_SETTINGS.keys())
def test_bad_settings_name_key_and_value(plain: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked(plain)
    assert message in str(caught.value)
    assert str(caught.value).startswith("reward.reward_kwargs.visionr1")
    assert str(caught.value).count("reward_kwargs") == (2 if plain == 3 else 1)  # that one gives an example
    assert "\n" not in str(caught.value)


def test_settings_default_and_override() -> None:
    assert settings_of(OmegaConf.create({"reward": {}})) == Settings()
    preset = checked(
        {"preset": "visionr1-paper", "weights": {"format": 0, "recall": None}, "schedule": {"at": 0.25}}
    ).reward
    assert preset.weights == {"format": 0.0, "recall": 1.0, "precision": 1.0}
    assert preset.matching == "class_agnostic"
    assert preset.schedule.stage(0.3) == 1


def test_presets_of_ones_own_stand_on_one_another_in_any_order() -> None:
    presets = {"a": {"base": "b", "weights": {"recall": 2}}, "b": {"weights": {"format": 0}}}
    assert checked({"preset": "a", "presets": presets}).reward.weights == {"format": 0, "recall": 2, "precision": 1}


def test_null_is_as_if_not_set_and_numbers_are_names() -> None:
    assert (
        checked(dict.fromkeys(("preset", "weights", "criteria", "presets", "routes", "frame"))).reward.name
        == "visionr1"
    )
    routes = checked({"routes": {"column": "extra_info.kind", "values": {1: "counting", 2: "pointing"}}}).routing
    assert list(routes.by_column) == ["1", "2"]


def test_packaged_config_is_the_default() -> None:
    """The YAML shows every key; none of them may say something else than the code."""
    file = Path(__file__).parents[2] / "verl_visionr1" / "config" / "visionr1" / "progressive.yaml"
    settings = settings_of(OmegaConf.load(file))  # type: ignore[arg-type]
    assert settings.reward == Settings().reward
    released = OmegaConf.merge(
        OmegaConf.load(file), {"reward": {"reward_kwargs": {"visionr1": {"preset": "visionr1-released"}}}}
    )
    assert settings_of(released).reward.schedule == PRESETS["visionr1-released"].schedule  # type: ignore[arg-type]
    assert (settings.frame, settings.validation, settings.total_steps) == ("auto", "final", None)
    assert (settings.reasoning, settings.turns) == (Settings().reasoning, Settings().turns)
    assert (settings.alarm_rules, settings.extensions) == (Settings().alarm_rules, {})
    assert set(settings.alarms) == {field.name for field in dataclasses.fields(AlarmRules)}


def test_alarms_can_be_switched_off_as_yaml_says_it() -> None:
    assert checked({"alarms": False}).alarm_rules is checked({"alarms": "off"}).alarm_rules is None
    assert checked({"alarms": dict.fromkeys(ALARMS, False)}).alarm_rules is None
    assert checked({"alarms": None}).alarm_rules == AlarmRules()
    left = checked({"alarms": {"truncation": False, "window": 5, "box_flood": None}}).alarm_rules
    assert left == AlarmRules(window=5, truncation="off")


# --- context ------------------------------------------------------------------------------------------------------


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
    assert (extended.stage, extended.thresholds) == (1, late.final), "step 6 of 40 and later are at progress 1"
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


# --- reward manager -----------------------------------------------------------------------------------------------


class CharTokenizer:
    """Characters as ids: enough of a tokenizer for text that goes in and comes out."""

    name_or_path = None

    def decode(self, ids: object, skip_special_tokens: bool) -> str:
        return "".join(map(chr, ids))


def trajectory(
    text: str,
    target: object = TARGET,
    *,
    merged_wh: tuple[int, int] = (2, 3),
    padding: int = 5,
    **columns: object,
) -> object:
    """A DataProto as `AgentLoopWorker._compute_score` builds it: one row, M-RoPE positions, columns as arrays."""
    import torch
    from tensordict import TensorDict
    from verl import DataProto

    width, height = merged_wh
    prompt = [1, 2, *[IMAGE_TOKEN] * (width * height), 3]
    answer = [ord(character) for character in text]
    responses = torch.tensor([answer + [0] * padding])
    input_ids = torch.tensor([prompt + answer + [0] * padding])
    attention_mask = torch.ones_like(input_ids)
    if padding:
        attention_mask[:, -padding:] = 0
    rows = torch.arange(height).repeat_interleave(width) + 2
    columns_ids = torch.arange(width).repeat(height) + 2
    positions = torch.arange(input_ids.shape[1]).repeat(4, 1)
    positions[2, 2 : 2 + width * height], positions[3, 2 : 2 + width * height] = rows, columns_ids
    batch = TensorDict(
        {
            "responses": responses,
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": positions[None],
        },
        batch_size=1,
    )
    ground_truth = target.to_json() if isinstance(target, Target) else target
    row = {"reward_model": {"style": "rule", "ground_truth": ground_truth}, "index": 3, "data_source": "x", **columns}
    non_tensor = {key: np.array([value]) for key, value in row.items()}
    return DataProto(batch=batch, non_tensor_batch=non_tensor)


def manager(model_path: str | None = None, **settings: object) -> object:
    from verl_visionr1.plugin.reward_manager import VisionR1RewardManager

    config = OmegaConf.create(
        {
            "actor_rollout_ref": {"actor": {"optim": {"total_training_steps": 10}}, "model": {"path": model_path}},
            "trainer": {"v1": {"trainer_mode": "sync", "sync": {"parameter_sync_step": 1}}},
            "reward": {"reward_kwargs": {"visionr1": {"frame": "original", **settings}}},
        }
    )
    return VisionR1RewardManager(config, CharTokenizer(), None)


def judged(reward_manager: object, data: object) -> dict:
    return asyncio.run(reward_manager.run_single(data))


@pytest.mark.verl
@pytest.mark.parametrize("preset", ["visionr1", "visionr1-paper", "visionr1-released"])
@pytest.mark.parametrize("step", [1, 5, 6, 10])
def test_manager_scores_like_the_facade(preset: str, step: int) -> None:
    result = judged(manager(preset=preset), trajectory(ANSWER, global_steps=step, extra_info={"split": "train"}))
    expected = score(ANSWER, TARGET, preset=preset, progress=progress_at(step, 10))
    assert result["reward_score"] == expected.value
    assert {key: result["reward_extra_info"][key] for key in PRESETS[preset].metrics} == expected.metrics
    assert result["reward_extra_info"]["stage"] == (0.0 if step < 6 else 1.0)


@pytest.mark.verl
def test_an_answer_says_whether_it_is_cut_off_empty_or_repeats_itself() -> None:
    def signs(text: str) -> list[float]:
        extra = judged(reward_manager, trajectory(text, global_steps=1))["reward_extra_info"]
        return [extra[name] for name in ("clipped", "empty", "distinct_share")]

    reward_manager = manager()
    assert reward_manager.max_tokens is None
    assert "clipped" not in judged(reward_manager, trajectory(ANSWER, global_steps=1))["reward_extra_info"]
    reward_manager.max_tokens = len(ANSWER)  # as data.max_response_length says
    assert signs(ANSWER) == [1.0, 0.0, 1.0]
    assert signs("[]") == [0.0, 1.0, 1.0]
    assert signs(f"{ANSWER[:-1]}, {ANSWER[1:]}") == [1.0, 0.0, 0.5]


@pytest.mark.verl
def test_stamped_context_wins() -> None:
    stamped = Context(0.9).to_wire()
    result = judged(manager(), trajectory(ANSWER, global_steps=1, **{WIRE_KEY: stamped}))
    assert result["reward_score"] == score(ANSWER, TARGET, progress=0.9).value


@pytest.mark.verl
@pytest.mark.parametrize(("split", "progress"), [("train", 0.0), ("val", 1.0), ("test", 1.0)])
def test_without_callback_the_split_tells_validation(split: str, progress: float) -> None:
    result = judged(manager(), trajectory(ANSWER, global_steps=1, extra_info={"split": split}))
    assert result["reward_score"] == score(ANSWER, TARGET, progress=progress).value


WEIGHTS = {  # what V0, one-step-off and fully async say of an answer -> the step it belongs to
    "version": ({"global_steps": 4, "min_global_steps": 3, "max_global_steps": 4}, 5),
    "the newest counts": ({"global_steps": 3, "max_global_steps": 4}, 5),
    "one number": ({"global_steps": 7}, 8),
    "null beside it": ({"max_global_steps": None, "global_steps": 7}, 8),
    "before training": ({"max_global_steps": 0}, 1),
}


@pytest.mark.verl
@pytest.mark.parametrize(("fields", "step"), WEIGHTS.values(), ids=WEIGHTS)
def test_without_a_step_the_version_of_the_weights_tells_it(fields: dict, step: int) -> None:
    reward_manager = manager()
    for split, expected in (("train", progress_at(step, 10)), ("val", progress_at(step - 1, 10))):
        data = trajectory(ANSWER, tool_extra_fields=fields, extra_info={"split": split})
        assert judged(reward_manager, data)["reward_extra_info"]["progress"] == expected
    with_step = trajectory(ANSWER, tool_extra_fields=fields, global_steps=2)
    assert judged(reward_manager, with_step)["reward_extra_info"]["progress"] == progress_at(2, 10)


@pytest.mark.verl
@pytest.mark.parametrize("columns", [{}, {"tool_extra_fields": {}}, {"tool_extra_fields": {"max_global_steps": None}}])
def test_an_unknown_step_is_an_error_and_no_default(columns: dict) -> None:
    with pytest.raises(ConfigError, match=r"neither global_steps nor tool_extra_fields\.max_global_steps"):
        judged(manager(), trajectory(ANSWER, **columns))
    assert judged(manager(schedule={"kind": "off"}), trajectory(ANSWER, **columns))["reward_extra_info"]["stage"] == -1


@pytest.mark.verl
@pytest.mark.parametrize(
    ("merged_wh", "processed_wh"), [((2, 3), (56, 84)), ((23, 17), (644, 476)), ((1, 1), (28, 28))]
)
def test_processed_size_is_read_from_positions(merged_wh: tuple[int, int], processed_wh: tuple[int, int]) -> None:
    from verl_visionr1.plugin.image_size import ImageTokens, read_processed_size

    data = trajectory(ANSWER, merged_wh=merged_wh)
    assert read_processed_size(data.batch, ImageTokens.of(MODEL)) == processed_wh


@pytest.mark.verl
def test_processed_size_twin_of_transformers(tmp_path: Path) -> None:
    """Positions made by transformers' own Qwen2.5-VL rope index, for images of many sizes, two in a row."""
    import torch
    from transformers import Qwen2_5_VLConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

    from verl_visionr1.plugin.image_size import ImageChoiceError, ImageTokens, read_processed_size

    config = Qwen2_5_VLConfig()
    rope = SimpleNamespace(config=config)
    for name in ("get_vision_position_ids",):
        if hasattr(Qwen2_5_VLModel, name):
            setattr(rope, name, getattr(Qwen2_5_VLModel, name).__get__(rope))
    tokens = ImageTokens.of(config.to_dict())
    rng = np.random.default_rng(0)
    for _ in range(20):
        (w, h), (w2, h2) = rng.integers(1, 40, size=(2, 2)).tolist()
        image = [config.vision_start_token_id, *[config.image_token_id] * (w * h), config.vision_end_token_id]
        second = [config.vision_start_token_id, *[config.image_token_id] * (w2 * h2), config.vision_end_token_id]
        ids = torch.tensor([[5, 6, *image, 8, *second, 9, 10]])
        types = (ids == config.image_token_id).int()
        positions, _ = Qwen2_5_VLModel.get_rope_index(
            rope,
            input_ids=ids,
            mm_token_type_ids=types,
            image_grid_thw=torch.tensor([[1, 2 * h, 2 * w], [1, 2 * h2, 2 * w2]]),
            attention_mask=torch.ones_like(ids),
        )
        four = torch.cat([torch.arange(ids.shape[1])[None, None], positions], dim=0).transpose(0, 1)
        for number, wh in enumerate([(28 * w, 28 * h), (28 * w2, 28 * h2)]):
            assert read_processed_size({"input_ids": ids, "position_ids": four}, tokens, number) == wh
        with pytest.raises(ImageChoiceError, match="the row has 2 images"):
            read_processed_size({"input_ids": ids, "position_ids": four}, tokens)


@pytest.mark.verl
def test_bad_ground_truth_scores_the_floor_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    good = judged(manager(), trajectory(ANSWER, global_steps=1))
    for bad in ("{", '{"task": "detection"}', "7", 7):
        result = judged(manager(), trajectory(ANSWER, bad, global_steps=1))
        assert result["reward_score"] == 0.0
        assert result["reward_extra_info"]["unscored"] == 1.0
        assert result["reward_extra_info"].keys() == good["reward_extra_info"].keys()
    assert "row 3 cannot be scored" in caplog.text


MIXED = {
    "detection": (TARGET, ANSWER),
    "counting": (Target(task="counting", size_wh=(640, 480), count=3), "There are 3."),
    "pointing": (
        Target(task="pointing", size_wh=(640, 480), boxes_xyxy=[[0, 0, 9, 9]]),
        '[{"point_2d": [4, 4], "label": "x"}]',
    ),
    "text": (Target(task="text", answer="B"), "<answer>B</answer>"),
}


@pytest.mark.verl
@pytest.mark.parametrize("routes", [{}, {"task": {"counting": "counting"}}], ids=["by default", "by rule"])
def test_mixed_tasks_have_the_same_keys_and_their_own_rewards(routes: dict) -> None:
    reward_manager = manager(routes=routes)
    keys = set()
    for task, (target, text) in MIXED.items():
        result = judged(reward_manager, trajectory(text, target, global_steps=1))
        keys.add(tuple(result["reward_extra_info"]))
        name = "visionr1" if task == "detection" else TASK_PRESETS[task]
        expected = score(text, target, preset=name, progress=0.0, n_tokens=len(text))
        assert result["reward_score"] == expected.value > 0.5
        assert result["reward_extra_info"]["acc"] == expected.metrics["accuracy"] == 1.0
        assert result["reward_extra_info"]["unscored"] == 0.0
    assert len(keys) == 1


@pytest.mark.verl
def test_a_criterion_of_ones_own_that_fails_costs_its_row_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "own.py"
    file.write_text("def mine(answer):\n    return 1 / answer.n_predicted\n")
    reward_manager = manager(criteria={"mine": {"fn": f"{file}:mine"}})
    assert judged(reward_manager, trajectory(ANSWER, global_steps=1))["reward_extra_info"]["mine"] == 1.0
    failed = judged(reward_manager, trajectory("[]", global_steps=1))
    assert (failed["reward_score"], failed["reward_extra_info"]["unscored"]) == (0.0, 1.0)
    assert "division by zero" in caplog.text


def test_what_the_manager_reports_beside_criteria_is_taken() -> None:
    from verl_visionr1.plugin.config import TAKEN

    extra = judged(manager(), trajectory(ANSWER, global_steps=1))["reward_extra_info"]
    assert extra.keys() - set(PRESETS["visionr1"].metrics) <= TAKEN
    assert not any(TAKEN & set(preset.metrics) for preset in PRESETS.values())


@pytest.mark.verl
def test_of_several_outputs_only_the_last_ones_own_tokens_are_read() -> None:
    """verl pads prompt and response of each output as a whole, so that the mask of a long prompt says too much."""
    import torch

    data = trajectory(ANSWER, global_steps=1, response_len=len(ANSWER))
    data.batch["attention_mask"] = torch.ones_like(data.batch["attention_mask"])
    result = judged(manager(), data)
    assert result["reward_extra_info"]["n_tokens"] == len(ANSWER)
    assert result["reward_score"] == score(ANSWER, TARGET, progress=0.0).value


@pytest.mark.verl
def test_extra_info_may_be_anything() -> None:
    for extra_info in ('{"split": "val"}', None, 3):
        result = judged(manager(), trajectory(ANSWER, global_steps=1, extra_info=extra_info))
        assert result["reward_extra_info"]["unscored"] == 0.0


@pytest.mark.verl
def test_a_gate_needs_the_callback() -> None:
    with pytest.raises(ConfigError, match=r"kind=gated: needs the progress callback"):
        manager(schedule={"kind": "gated", "gate": {"bar": 0.5}})


@pytest.mark.verl
def test_reported_values_are_floats_and_never_called_reward() -> None:
    extra = judged(manager(), trajectory("", global_steps=1))["reward_extra_info"]
    assert all(type(value) is float for value in extra.values())
    assert "reward" not in extra


@pytest.mark.verl
def test_images_in_messages_are_not_touched() -> None:
    """A row whose messages would raise on any use scores as one without messages."""

    class Untouchable:
        def __getattribute__(self, name: str) -> object:
            if name in ("__class__", "__reduce_ex__", "__array_struct__", "__array_interface__", "__array__"):
                return object.__getattribute__(self, name)
            raise AssertionError(f"touched {name}")

    messages = np.empty(1, dtype=object)
    messages[0] = [Untouchable()]
    data = trajectory(ANSWER, global_steps=1)
    data.non_tensor_batch["raw_prompt"] = messages
    assert judged(manager(), data) == judged(manager(), trajectory(ANSWER, global_steps=1))


@pytest.mark.verl
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frame": "auto"}, "frame=auto: the frame of model type 'None' is not known"),
        ({"preset": "nope"}, "visionr1.preset = 'nope'"),
    ],
)
def test_manager_refuses_bad_settings_at_start(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        manager(**settings)


@pytest.mark.verl
def test_unknown_total_is_an_error_unless_the_rule_is_off() -> None:
    from verl_visionr1.plugin.run_facts import total_steps_of

    config = OmegaConf.create({"actor_rollout_ref": {"actor": {"optim": {"total_training_steps": -1}}}})
    with pytest.raises(ConfigError, match="total_steps=null: this trainer does not say"):
        total_steps_of(config, Settings())
    assert total_steps_of(config, checked({"schedule": {"kind": "off"}})) is None
    assert total_steps_of(config, Settings(total_steps=40)) == 40


@pytest.mark.verl
@pytest.mark.parametrize("n_images", [0, 4])
def test_cost_of_a_completion(benchmark: object, n_images: int) -> None:
    """`pytest tests/plugin -k cost --benchmark-enable`: what verl's worker spends on one, with its images."""
    data = trajectory(ANSWER, global_steps=1)
    messages = np.empty(1, dtype=object)
    messages[0] = [np.zeros((480, 640, 3), dtype=np.uint8) for _ in range(n_images)]
    data.non_tensor_batch["raw_prompt"] = messages
    reward_manager = manager()
    loop = asyncio.new_event_loop()
    assert benchmark(lambda: loop.run_until_complete(reward_manager.run_single(data)))["reward_score"] == 1.0
    loop.close()


# --- progress -----------------------------------------------------------------------------------------------------


def progress(total: int, **settings: object) -> object:
    from verl_visionr1.plugin.training_state import Progress

    return Progress(
        OmegaConf.create(
            {
                "actor_rollout_ref": {"actor": {"optim": {"total_training_steps": total}}},
                "reward": {"reward_kwargs": {"visionr1": settings}},
            }
        )
    )


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


@pytest.mark.verl
def test_batch_means_and_dead_groups() -> None:
    from verl_visionr1.plugin.training_metrics import batch_means

    keys = ["a_0_0", "a_1_0", "b_0_0", "b_1_0"]
    infos = [{"value": value, "recall": 1.0, "stage": 1.0} for value in (0.0, 1.0, 0.5, 0.5)]
    means = batch_means(keys, infos)
    assert means["visionr1/value/mean"] == 0.5
    assert means["visionr1/recall/mean"] == 1.0
    assert means["visionr1/group_std/mean"] == pytest.approx(0.5**0.5 / 2), "divided by n - 1, as verl's advantages"
    assert means["visionr1/frac_reward_zero_std/mean"] == 0.5
    assert "visionr1/stage/mean" not in means


@pytest.mark.verl
def test_a_mean_is_over_the_rows_that_have_the_criterion() -> None:
    from verl_visionr1.plugin.training_metrics import batch_means

    infos = [
        {"recall": 1.0, "count": 0.0, "acc": 1.0, "route": 0.0},
        {"recall": 0.0, "count": 0.5, "acc": 1.0, "route": 1.0},
        {"recall": 0.0, "count": 0.0, "acc": 1.0, "route": -1.0},
    ]
    means = batch_means(["a_0_0", "b_0_0", "c_0_0"], infos, [{"recall"}, {"count"}])
    assert (means["visionr1/recall/mean"], means["visionr1/count/mean"]) == (1.0, 0.5)


GATED = {"schedule": {"kind": "gated", "gate": {"metric": "iou_mean", "window": 2, "bar": 0.5, "patience": 1}}}


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

    config = progress(10, frame="original", **settings).config
    agent = {"agent_loop_manager_class": "verl_visionr1.plugin.progress.VisionR1AgentLoopManager"}
    more = {"actor_rollout_ref": {"rollout": {"agent": agent}, "model": {"path": None}}}
    return VisionR1RewardManager(OmegaConf.merge(config, more), CharTokenizer(), None)


@pytest.mark.verl
def test_a_gate_and_a_filter_of_groups_exclude_each_other() -> None:
    from verl_visionr1.plugin.run_facts import require_callback_for_gate

    config = OmegaConf.merge(
        manager_of_gated(**GATED).config,
        {"algorithm": {"filter_groups": {"enable": True, "metric": "accuracy"}}},
    )
    with pytest.raises(ConfigError, match=r"kind=gated: algorithm\.filter_groups\.enable=true takes away"):
        require_callback_for_gate(config, settings_of(config))
    require_callback_for_gate(config, checked({}))


NEVER_MOVES = {  # preset, metric of a gate: no row of the preset has the number, so that it is 0 for ever
    "boxes of counting rows": ("counting", "iou_mean"),
    "F1 of points": ("pointing", "f1_50"),
    "a criterion of another preset": ("visionr1", "exact"),
}


@pytest.mark.parametrize(("preset", "metric"), NEVER_MOVES.values(), ids=NEVER_MOVES)
def test_a_gate_on_what_no_row_of_the_preset_has_is_refused(preset: str, metric: str) -> None:
    schedule = {
        "kind": "gated",
        "stages": [[0.5, 0.5, 0.75], [0.75, 0.75, 0.9]],
        "gate": {"bar": 0.5, "metric": metric},
    }
    plain = {
        "preset": preset,
        "schedule": schedule,
        "routes": {"task": {"counting": "counting", "detection": "visionr1"}},
    }
    with pytest.raises(ConfigError, match=rf"visionr1\.schedule\.gate\.metric = '{metric}': needs one of"):
        checked(plain)


# --- thresholds by the model's family -----------------------------------------------------------------------------

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
    (tmp_path / "config.json").write_text(json.dumps(MODEL))
    reward_manager = manager(**{"frame": frame, **plain}, model_path=str(tmp_path))
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


# --- loading ------------------------------------------------------------------------------------------------------


def test_a_module_waited_for_may_share_its_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under pytest: one loader serves the module and what it imports."""
    import importlib.machinery
    import types

    from verl_visionr1.plugin.import_hooks import when_imported

    class Finder:
        def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
            return importlib.machinery.ModuleSpec(name, self) if name in ("made_outer", "made_inner") else None  # type: ignore[arg-type]

        def create_module(self, spec: object) -> None: ...

        def exec_module(self, module: types.ModuleType) -> None:
            if module.__name__ == "made_outer":
                __import__("made_inner")

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    for name in ("made_outer", "made_inner"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    seen: list[str] = []
    when_imported("made_outer", lambda module: seen.append(module.__name__))
    __import__("made_outer")
    assert seen == ["made_outer"]


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env={**os.environ, **environment}
    )


@pytest.mark.verl
def test_entry_point_registers_lazily() -> None:
    code = (
        "import sys, verl\n"
        "assert 'verl_visionr1.plugin' in sys.modules\n"
        "assert 'verl.experimental.reward_loop.reward_manager' not in sys.modules\n"
        "from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls\n"
        "print(get_reward_manager_cls('visionr1').__name__)"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("VisionR1RewardManager")


def test_a_failing_plugin_is_loud() -> None:
    """verl swallows what an entry point raises; the user still has to see it."""
    code = (
        "import contextlib, importlib.metadata, sys\n"
        "sys.modules['verl_visionr1.plugin.registration'] = None\n"  # makes the import fail
        "with contextlib.suppress(Exception):\n"
        "    [entry.load() for entry in importlib.metadata.entry_points(group='verl.plugins', name='visionr1')]"
    )
    done = run_python(code)
    assert done.returncode == 0
    assert "the plug-in could not be loaded" in done.stderr
    assert "Traceback" in done.stderr
