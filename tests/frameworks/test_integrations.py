"""The reward functions for other frameworks: every way in, steps, and settings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from framework_answers import SIZES_WH, make_answers, make_target, perfect_answer
from ways import BUDGET, LOOSE, QWEN25, TARGET, TRUTH, by_easyr1, by_swift, by_trl, by_verl, state

from verl_visionr1 import Target, score
from verl_visionr1.criteria import ADVANCED, BEGINNER
from verl_visionr1.frames import FrameError
from verl_visionr1.integrations import easyr1, ms_swift, trl, verl_function
from verl_visionr1.integrations.core import MissingStepError, Moment, make_scorer
from verl_visionr1.processed import PROCESSORS, SizeError, processed_size, size_by_loader, size_by_processor
from verl_visionr1.rewards import RewardError
from verl_visionr1.schedule import progress_at
from verl_visionr1.settings import SettingsError

WAYS = {
    "verl": (by_verl, lambda wh: processed_size(wh, QWEN25), {}),
    "easyr1": (by_easyr1, lambda wh: size_by_processor(easyr1.easyr1_size(wh, *BUDGET.values()), QWEN25), BUDGET),
    "trl": (by_trl, lambda wh: size_by_processor(wh, QWEN25), {}),
    "ms-swift": (by_swift, lambda wh: size_by_loader(wh, QWEN25, {}), {}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("frame", ["qwen3-vl", "qwen2.5-vl", "glm"])
def test_a_reward_is_what_score_says(way: str, frame: str) -> None:
    call, processed, budget = WAYS[way]
    settings = {"frame": frame, "schedule": {"kind": "off"}, **(budget if frame == "qwen2.5-vl" else {})}
    answers = make_answers(frame, processed)
    for i, (target, text) in enumerate(answers):
        value = call(target, text, **settings)
        assert value == score(text, target, frame=frame, processed_wh=processed(target.size_wh)).value
        if i < len(SIZES_WH):
            assert value == 1.0
    assert len(answers) == 40


def test_each_framework_resizes_in_its_own_way() -> None:
    sizes = {way: [processed(wh) for wh in SIZES_WH] for way, (_, processed, _) in WAYS.items()}
    assert sizes["verl"] != sizes["easyr1"]
    assert [sizes[way][1] for way in WAYS] == [(504, 364), (588, 448), (504, 364), (504, 364)]


@pytest.mark.parametrize("done", [0, 4, 5, 9])
def test_thresholds_follow_the_trainers_step(done: int) -> None:
    expected = score(LOOSE, TARGET, frame="qwen3-vl", progress=progress_at(done + 1, 10)).value
    settings = {"frame": "qwen3-vl"}
    assert trl.make_reward(**settings)(
        completions=[LOOSE], ground_truth=[TRUTH], trainer_state=state(done)
    ) == [expected]  # fmt: skip
    assert ms_swift.VisionReward(settings)([LOOSE], solution=[TRUTH], trainer_state=state(done)) == [expected]
    for told in ({"global_steps": done}, {"max_global_steps": done, "global_steps": 0}):
        given = verl_function.compute_score("x", LOOSE, TRUTH, told, total_steps=10, **settings)
        assert (given["score"], given["progress"]) == (expected, progress_at(done + 1, 10))


def test_total_steps_goes_before_the_trainers_own() -> None:
    reward = trl.make_reward(frame="qwen3-vl", total_steps=40)
    early = score(LOOSE, TARGET, frame="qwen3-vl", progress=0.2).value
    assert reward(completions=[LOOSE], ground_truth=[TRUTH], trainer_state=state(8)) == [early]


MISSING = {
    "verl without a step": lambda: by_verl(TARGET, LOOSE, frame="qwen3-vl", total_steps=10),
    "verl without a total": lambda: verl_function.compute_score("x", "", TRUTH, {"global_steps": 1}, frame="qwen3-vl"),
    "EasyR1": lambda: by_easyr1(TARGET, LOOSE, frame="qwen3-vl"),
    "EasyR1 with a total": lambda: by_easyr1(TARGET, LOOSE, frame="qwen3-vl", total_steps=10),
    "TRL without a state": lambda: by_trl(TARGET, LOOSE, frame="qwen3-vl"),
    "TRL without a total": lambda: trl.make_reward(frame="qwen3-vl")(
        completions=[LOOSE], ground_truth=[TRUTH], trainer_state=state(3, -1)
    ),
    "ms-swift without a state": lambda: by_swift(TARGET, LOOSE, frame="qwen3-vl"),
    "a ramp": lambda: by_verl(TARGET, LOOSE, frame="qwen2.5-vl", schedule={"kind": "linear"}),
}


@pytest.mark.parametrize("call", MISSING.values(), ids=MISSING)
def test_a_missing_step_is_an_error_where_thresholds_move(call: object) -> None:
    with pytest.raises(MissingStepError, match="visionr1"):
        call()


@pytest.mark.parametrize(
    ("schedule", "match_iou", "stage"),
    [
        ({"kind": "off"}, None, -1),
        ({"kind": False}, None, -1),  # what YAML makes of off
        ({"kind": "constant", "stages": [[0.75, 0.75, 0.9]]}, ADVANCED.match_iou, 0),
        (None, BEGINNER.match_iou, 0),  # the default of this family never moves
    ],
)
def test_fixed_thresholds_need_no_step(schedule: dict | None, match_iou: float | None, stage: int) -> None:
    given = verl_function.compute_score("x", LOOSE, TRUTH, None, frame="qwen2.5-vl", schedule=schedule)
    assert (given["stage"], given["progress"]) == (stage, -1.0)
    assert match_iou is None or given["match_iou"] == match_iou


def test_a_reward_without_thresholds_needs_no_step() -> None:
    """Counts and words are right or wrong, whatever the stage."""
    count = Target(task="counting", size_wh=(9, 9), count=3).to_json()
    given = verl_function.compute_score("x", "3", count, {}, frame="qwen3-vl", total_steps=10)
    assert (given["score"], given["stage"], given["progress"]) == (1.0, -1.0, -1.0)
    row = {"response": "3", "response_length": 1, "ground_truth": count}
    assert easyr1.compute_score([row], frame="qwen3-vl", preset="counting")[0]["overall"] == 1.0


@pytest.mark.parametrize("split", ["val", "test"])
def test_validation_is_judged_by_the_last_stage(split: str) -> None:
    strict = score(LOOSE, TARGET, frame="qwen3-vl", progress=1.0).value
    settings = {"frame": "qwen3-vl", "total_steps": 10}
    told = [{"split": split}, {"split": split, "global_steps": 1}]
    assert [verl_function.compute_score("x", LOOSE, TRUTH, each, **settings)["score"] for each in told] == [strict] * 2
    reward = trl.make_reward(frame="qwen3-vl")
    given = reward(completions=[LOOSE] * 2, ground_truth=[TRUTH] * 2, split=[split, "train"], trainer_state=state(0))
    assert given == [strict, score(LOOSE, TARGET, frame="qwen3-vl", progress=0.0).value]
    with pytest.raises(MissingStepError):
        verl_function.compute_score("x", LOOSE, TRUTH, told[0], validation="current", **settings)


def test_a_step_that_moves_nothing_is_still_reported() -> None:
    given = verl_function.compute_score("x", LOOSE, TRUTH, {"global_steps": 5}, frame="qwen2.5-vl", total_steps=10)
    assert (given["progress"], given["stage"]) == (0.5, 0)


BAD = {
    "nothing said of the frame": ({}, SettingsError, "frame = None"),
    "unknown frame": ({"frame": "qwen9"}, FrameError, "frame = 'qwen9'"),
    "misspelt key": ({"frame": "qwen3-vl", "wieghts": {}}, SettingsError, "wieghts: unknown key; did you mean weights"),
    "unknown preset": ({"frame": "qwen3-vl", "preset": "x"}, RewardError, "preset = 'x'"),
    "a gate": (
        {"frame": "qwen3-vl", "schedule": {"kind": "gated", "gate": {"bar": 0.5}}},
        SettingsError,
        "schedule.kind = 'gated'",
    ),
    "no steps": ({"frame": "qwen3-vl", "total_steps": 0}, SettingsError, "total_steps = 0"),
    "a taken name": ({"frame": "qwen3-vl", "criteria": {"stage": {"fn": "recall"}}}, RewardError, "criteria.stage"),
    "no such folder": ({"model": "/no/such"}, SettingsError, "model = '/no/such'"),
    "wrong type": ({"frame": "qwen3-vl", "max_tokens": "many"}, SettingsError, "max_tokens = 'many'"),
    "half a budget": ({"frame": "qwen2.5-vl", "max_pixels": 9}, SizeError, "min_pixels = None"),
    "unknown reasoning": ({"frame": "qwen3-vl", "reasoning": "auto"}, SettingsError, "reasoning = 'auto'"),
}


@pytest.mark.parametrize(("settings", "error", "named"), BAD.values(), ids=BAD)
def test_bad_settings_name_key_and_value(settings: dict, error: type[Exception], named: str) -> None:
    for make in (lambda: verl_function.compute_score("x", "", TRUTH, **settings), lambda: trl.make_reward(**settings)):
        with pytest.raises(error) as caught:
            make()
        assert named in str(caught.value)


def test_easyr1_needs_its_budget_for_processed_pixels() -> None:
    with pytest.raises(SettingsError, match="min_pixels = None"):
        by_easyr1(TARGET, LOOSE, frame="qwen2.5-vl")
    assert by_easyr1(TARGET, LOOSE, frame="qwen3-vl", schedule={"kind": "off"}) > 0.5  # others do not look at it


def test_the_models_folder_tells_frame_and_budget(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    with pytest.raises(SettingsError, match="preprocessor_config"):
        by_trl(TARGET, LOOSE, model=str(tmp_path))
    small = {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136, "max_pixels": 50176}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(small))
    target = make_target((640, 480))
    processed_wh = size_by_processor((640, 480), PROCESSORS["qwen2.5-vl"].from_config(small))
    assert processed_wh == (252, 168)
    answer = perfect_answer(target, "qwen2.5-vl", processed_wh)
    assert by_trl(target, answer, model=str(tmp_path)) == 1.0
    assert by_trl(target, answer, frame="qwen2.5-vl") < 1.0
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(SettingsError, match="'bert'"):
        by_trl(TARGET, LOOSE, model=str(tmp_path))


def test_settings_may_be_omegaconfs() -> None:
    from omegaconf import OmegaConf

    settings = OmegaConf.create({"frame": "qwen3-vl", "weights": {"recall": 2}, "schedule": {"kind": "off"}})
    given = verl_function.compute_score("x", LOOSE, TRUTH, **settings)
    assert given["score"] == by_verl(TARGET, LOOSE, frame="qwen3-vl", weights={"recall": 2}, schedule={"kind": "off"})


def test_all_rows_report_the_same_floats() -> None:
    settings = {"frame": "qwen3-vl", "schedule": {"kind": "off"}, "delegate": ["openai/*"]}
    count = Target(task="counting", size_wh=(9, 9), count=3).to_json()
    rows = [
        verl_function.compute_score("x", LOOSE, TRUTH, **settings),
        verl_function.compute_score("x", "3", count, **settings),
        verl_function.compute_score("x", "", TRUTH, reward_router_address="a", reward_model_tokenizer=None, **settings),
    ]
    assert {tuple(row) for row in rows} == {tuple(rows[0])}
    assert all(type(value) is float for row in rows for value in row.values())
    assert rows[1]["score"] == 1.0


@pytest.mark.verl
def test_other_data_sources_are_left_to_verl() -> None:
    settings = {"frame": "qwen3-vl", "schedule": {"kind": "off"}, "delegate": ["openai/*"]}
    maths = verl_function.compute_score("openai/gsm8k", "so it is #### 42", "42", {}, **settings)
    assert (maths["score"], maths["acc"], maths["route"]) == (1.0, 1.0, -2.0)
    assert tuple(maths) == tuple(verl_function.compute_score("x", LOOSE, TRUTH, **settings))


@pytest.mark.parametrize("module", ["core", "verl_function", "easyr1", "trl", "ms_swift"])
def test_an_integration_loads_no_framework(module: str) -> None:
    program = f"import sys, verl_visionr1.integrations.{module}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"verl", "ray", "torch", "transformers", "trl", "swift", "omegaconf"} & set(run.stdout.split())


def test_a_scorer_tells_what_it_does_not_know() -> None:
    def resize(*_: object) -> tuple[int, int]:
        return 1, 1

    with pytest.raises(MissingStepError, match="ask the trainer"):
        make_scorer({"frame": "qwen3-vl"}, resize, "ask the trainer", tells_step=False)
    assert make_scorer({"frame": "qwen3-vl"}, resize, "").evaluate("[]", TRUTH, Moment(1, 10))["stage"] == 0
    assert msgspec.structs.asdict(make_scorer({"frame": "qwen3-vl"}, resize, "").settings)["frame"] == "qwen3-vl"
