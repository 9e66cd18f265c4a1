"""The reward functions for other frameworks: every way in, steps, settings, and what each framework hands over."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from framework_answers import SIZES_WH, make_answers, make_target, perfect_answer

from verl_visionr1 import Target, score
from verl_visionr1.criteria import ADVANCED, BEGINNER
from verl_visionr1.frames import FrameError
from verl_visionr1.integrations import easyr1, ms_swift, trl, verl_function
from verl_visionr1.integrations.core import MissingStepError
from verl_visionr1.processed import PROCESSORS, SizeError, processed_size, size_by_loader, size_by_processor
from verl_visionr1.rewards import RewardError
from verl_visionr1.schedule import progress_at
from verl_visionr1.settings import SettingsError
from verl_visionr1.targets import TargetError

TARGET = make_target((640, 480))
TRUTH = TARGET.to_json()
COUNT = Target(task="counting", size_wh=(9, 9), count=3).to_json()
LOOSE = '[{"bbox_2d": [250, 250, 500, 660], "label": "cat"}, {"bbox_2d": [500, 0, 1000, 420], "label": "dog"}]'
PERFECT = perfect_answer(TARGET, "qwen3-vl")
QWEN25 = PROCESSORS["qwen2.5-vl"]
BUDGET = {"min_pixels": 262144, "max_pixels": 4194304}
FIXED: dict[str, Any] = {"frame": "qwen3-vl", "schedule": {"kind": "off"}}


def state(global_step: int, max_steps: int = 10) -> SimpleNamespace:
    return SimpleNamespace(global_step=global_step, max_steps=max_steps)


def by_verl(text: str, truth: str = TRUTH, extra: dict[str, Any] | None = None, **settings: Any) -> float:
    return verl_function.compute_score("x", text, truth, extra, **settings)["score"]


def by_easyr1(text: str, truth: str = TRUTH, **settings: Any) -> float:
    row = {"response": text, "response_length": 9, "ground_truth": truth}
    return easyr1.compute_score([row], **settings)[0]["overall"]


def by_trl(text: str, truth: str = TRUTH, trainer_state: Any = None, **settings: Any) -> float | None:
    completion = [{"role": "assistant", "content": text}]
    reward = trl.make_reward(**settings)
    return reward(prompts=[[]], completions=[completion], ground_truth=[truth], trainer_state=trainer_state)[0]


def by_swift(text: str, truth: str = TRUTH, trainer_state: Any = None, **settings: Any) -> float | None:
    reward = ms_swift.VisionReward(dict(settings))
    return reward([text], solution=[truth], data_source=["x"], trainer_state=trainer_state)[0]


WAYS = {  # the function, the model's input size, settings for processed pixels, the size of 500 x 375 pixels
    "verl": (by_verl, lambda wh: processed_size(wh, QWEN25), {}, (504, 364)),
    "easyr1": (
        by_easyr1,
        lambda wh: size_by_processor(easyr1.easyr1_size(wh, *BUDGET.values()), QWEN25),
        BUDGET,
        (588, 448),
    ),
    "trl": (by_trl, lambda wh: size_by_processor(wh, QWEN25), {}, (504, 364)),
    "ms-swift": (by_swift, lambda wh: size_by_loader(wh, QWEN25, {}), {}, (504, 364)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("frame", ["qwen3-vl", "qwen2.5-vl"])
def test_a_reward_is_what_score_says(way: str, frame: str) -> None:
    call, processed, budget, size_wh = WAYS[way]
    settings = {**FIXED, "frame": frame, **(budget if frame == "qwen2.5-vl" else {})}
    for i, (target, text) in enumerate(make_answers(frame, processed)):
        value = call(text, target.to_json(), **settings)
        assert value == score(text, target, frame=frame, processed_wh=processed(target.size_wh)).value
        assert value == 1.0 or i >= len(SIZES_WH)
    assert processed((500, 375)) == size_wh
    for truth in ("42", 42, {"count": 42}):
        with pytest.raises(TargetError, match=r"ground truth .*42"):
            call("", truth, **settings)


@pytest.mark.parametrize(
    ("call", "column"),
    [
        (lambda: trl.make_reward(**FIXED)(prompts=[[]], completions=["a"], solution=[TRUTH]), "ground_truth"),
        (lambda: ms_swift.VisionReward(FIXED)(["a"], ground_truth=[TRUTH]), "solution"),
    ],
)
def test_data_without_the_column_of_ground_truths(call: Callable[[], object], column: str) -> None:
    with pytest.raises(TargetError, match=f"no column {column};"):
        call()


@pytest.mark.parametrize("done", [0, 4, 5, 9])
def test_thresholds_follow_the_trainers_step(done: int) -> None:
    expected = score(LOOSE, TARGET, frame="qwen3-vl", progress=progress_at(done + 1, 10)).value
    assert by_trl(LOOSE, trainer_state=state(done), frame="qwen3-vl") == expected
    assert by_swift(LOOSE, trainer_state=state(done), frame="qwen3-vl") == expected
    assert by_trl(LOOSE, trainer_state=state(done, 99), frame="qwen3-vl", total_steps=10) == expected
    for told in ({"global_steps": done}, {"max_global_steps": done, "global_steps": 0}):
        given = verl_function.compute_score("x", LOOSE, TRUTH, told, frame="qwen3-vl", total_steps=10)
        assert (given["score"], given["progress"]) == (expected, progress_at(done + 1, 10))


MISSING: dict[str, Callable[[], object]] = {
    "verl without a step": lambda: by_verl(LOOSE, frame="qwen3-vl", total_steps=10),
    "verl without a total": lambda: by_verl("", TRUTH, {"global_steps": 1}, frame="qwen3-vl"),
    "verl, validation as in training": lambda: by_verl(
        "", TRUTH, {"split": "val"}, frame="qwen3-vl", total_steps=10, validation="current"
    ),
    "EasyR1": lambda: by_easyr1(LOOSE, frame="qwen3-vl"),
    "EasyR1 with a total": lambda: by_easyr1(LOOSE, frame="qwen3-vl", total_steps=10),
    "TRL without a state": lambda: by_trl(LOOSE, frame="qwen3-vl"),
    "TRL without a total": lambda: by_trl(LOOSE, trainer_state=state(3, -1), frame="qwen3-vl"),
    "ms-swift without a state": lambda: by_swift(LOOSE, frame="qwen3-vl"),
    "a ramp": lambda: by_verl(LOOSE, frame="qwen2.5-vl", schedule={"kind": "linear"}),
}


@pytest.mark.parametrize("call", MISSING.values(), ids=MISSING)
def test_a_missing_step_is_an_error_where_thresholds_move(call: Callable[[], object]) -> None:
    with pytest.raises(MissingStepError, match="visionr1"):
        call()


def test_a_missing_step_names_the_setting_of_that_preset() -> None:
    routes = {"task": {"detection": "visionr1-size-aware"}}
    for settings, fix in (({}, "schedule={kind: off}"), ({"routes": routes}, "base: visionr1-size-aware")):
        with pytest.raises(MissingStepError, match=fix):
            by_verl(LOOSE, frame="qwen3-vl", total_steps=10, **settings)


STEPLESS = {
    "off": ({"schedule": {"kind": "off"}}, None, None, -1),
    "what YAML makes of off": ({"schedule": {"kind": False}}, None, None, -1),
    "constant": ({"schedule": {"kind": "constant", "stages": [[0.75, 0.75, 0.9]]}}, None, ADVANCED.match_iou, 0),
    "a family whose default never moves": ({}, None, BEGINNER.match_iou, 0),
    "the same, with a step": ({"total_steps": 10}, {"global_steps": 5}, BEGINNER.match_iou, 0),
}


@pytest.mark.parametrize(("settings", "extra", "match_iou", "stage"), STEPLESS.values(), ids=STEPLESS)
def test_fixed_thresholds_need_no_step(settings: Any, extra: Any, match_iou: float | None, stage: int) -> None:
    given = verl_function.compute_score("x", LOOSE, TRUTH, extra, frame="qwen2.5-vl", **settings)
    assert (given["stage"], given["progress"]) == (stage, -1.0 if extra is None else 0.5)
    assert match_iou is None or given["match_iou"] == match_iou


def test_a_reward_without_thresholds_needs_no_step() -> None:
    given = verl_function.compute_score("x", "3", COUNT, {}, frame="qwen3-vl", total_steps=10)
    assert (given["score"], given["stage"], given["progress"]) == (1.0, -1.0, -1.0)
    assert by_easyr1("3", COUNT, frame="qwen3-vl", preset="counting") == 1.0


@pytest.mark.parametrize("split", ["val", "test"])
def test_validation_is_judged_by_the_last_stage(split: str) -> None:
    strict = score(LOOSE, TARGET, frame="qwen3-vl", progress=1.0).value
    for told in ({"split": split}, {"split": split, "global_steps": 1}):
        assert by_verl(LOOSE, TRUTH, told, frame="qwen3-vl", total_steps=10) == strict
    reward = trl.make_reward(frame="qwen3-vl")
    given = reward(completions=[LOOSE] * 2, ground_truth=[TRUTH] * 2, split=[split, "train"], trainer_state=state(0))
    assert given == [strict, score(LOOSE, TARGET, frame="qwen3-vl", progress=0.0).value]


GATE = {"frame": "qwen3-vl", "schedule": {"kind": "gated", "gate": {"bar": 0.5}}}
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "nothing said of the frame": ({}, SettingsError, "frame = None"),
    "unknown frame": ({"frame": "qwen9"}, FrameError, "frame = 'qwen9'"),
    "misspelt key": ({"frame": "qwen3-vl", "wieghts": {}}, SettingsError, "wieghts: unknown key; did you mean weights"),
    "unknown preset": ({"frame": "qwen3-vl", "preset": "x"}, RewardError, "preset = 'x'"),
    "a gate": (GATE, SettingsError, "schedule.kind = 'gated'"),
    "no tokens": ({"frame": "qwen3-vl", "max_tokens": 0}, SettingsError, "max_tokens = 0"),
    "no steps": ({"frame": "qwen3-vl", "total_steps": 0}, SettingsError, "total_steps = 0"),
    "a taken name": ({"frame": "qwen3-vl", "criteria": {"stage": {"fn": "recall"}}}, RewardError, "criteria.stage"),
    "no such folder": ({"model": "/no/such"}, SettingsError, "model = '/no/such'"),
    "wrong type": ({"frame": "qwen3-vl", "max_tokens": "many"}, SettingsError, "max_tokens = 'many'"),
    "half a budget": ({"frame": "qwen2.5-vl", "max_pixels": 9}, SizeError, "min_pixels = None"),
    "unknown reasoning": ({"frame": "qwen3-vl", "reasoning": "auto"}, SettingsError, "reasoning = 'auto'"),
}


@pytest.mark.parametrize(("settings", "error", "named"), BAD.values(), ids=BAD)
def test_bad_settings_name_key_and_value(settings: dict[str, Any], error: type[Exception], named: str) -> None:
    for make in (lambda: by_verl("", **settings), lambda: trl.make_reward(**settings)):
        with pytest.raises(error) as caught:
            make()
        assert named in str(caught.value)


def test_the_models_folder_tells_frame_and_budget(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    with pytest.raises(SettingsError, match="preprocessor_config"):
        by_trl(LOOSE, model=str(tmp_path))
    small = {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136, "max_pixels": 50176}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(small))
    answer = perfect_answer(TARGET, "qwen2.5-vl", (252, 168))
    assert by_trl(answer, model=str(tmp_path)) == 1.0
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(SettingsError, match="preprocessor_config"):
        by_trl(LOOSE, model=str(tmp_path))
    for content, named in (('{"model_type": "bert"}', "'bert'"), ("{", "config.json"), ("[]", "config.json")):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(SettingsError, match=named):
            by_trl(LOOSE, model=str(tmp_path))


def test_all_rows_report_the_same_floats_whatever_holds_the_settings() -> None:
    from omegaconf import OmegaConf

    settings = {**FIXED, "weights": {"recall": 2}, "delegate": ["openai/*"]}
    rows = [
        verl_function.compute_score("x", LOOSE, TRUTH, **settings),
        verl_function.compute_score("x", LOOSE, TRUTH, **OmegaConf.create(settings)),
        verl_function.compute_score("x", "3", COUNT, reward_router_address="a", **settings),
    ]
    assert {tuple(row) for row in rows} == {tuple(rows[0])}
    assert all(type(value) is float for row in rows for value in row.values())
    assert (rows[0], rows[2]["score"]) == (rows[1], 1.0)


@pytest.mark.verl
def test_other_data_sources_are_left_to_verl() -> None:
    settings = {**FIXED, "delegate": ["openai/*"]}
    maths = verl_function.compute_score("openai/gsm8k", "so it is #### 42", "42", {}, **settings)
    assert (maths["score"], maths["acc"], maths["route"]) == (1.0, 1.0, -2.0)
    assert tuple(maths) == tuple(verl_function.compute_score("x", LOOSE, TRUTH, **settings))


def test_an_integration_loads_no_framework() -> None:
    program = "from verl_visionr1.integrations import verl_function, easyr1, trl, ms_swift; import sys"
    run = subprocess.run([sys.executable, "-c", f"{program}; print(*sys.modules)"], capture_output=True, text=True)
    assert "verl_visionr1.integrations.trl" in run.stdout.split()
    assert not {"verl", "ray", "torch", "transformers", "trl", "swift", "omegaconf"} & set(run.stdout.split())


def test_rows_of_other_rewards_have_none() -> None:
    columns = {"ground_truth": [None, TRUTH], "data_source": ["maths", "x"], "images": [[], []]}
    assert trl.make_reward(**FIXED)(prompts=["", ""], completions=[PERFECT] * 2, **columns) == [None, 1.0]
    assert ms_swift.VisionReward(FIXED)([PERFECT] * 2, solution=[None, TRUTH]) == [None, 1.0]


def test_trl_logs_each_criterion() -> None:
    logged: dict[str, float] = {}
    given = trl.make_reward(frame="qwen3-vl")(
        completions=[PERFECT, "[]"],
        completion_ids=[[1] * 8, [1] * 4],
        ground_truth=[TRUTH] * 2,
        trainer_state=state(5),
        log_metric=logged.__setitem__,
    )
    expected = [score(text, TARGET, frame="qwen3-vl", progress=0.5) for text in (PERFECT, "[]")]
    assert given == [each.value for each in expected]
    for name in ("format", "recall", "precision", "iou_mean"):
        assert logged[f"visionr1/{name}"] == sum(each.metrics[name] for each in expected) / 2
    assert (logged["visionr1/n_tokens"], logged["visionr1/stage"], logged["visionr1/progress"]) == (6.0, 1.0, 0.5)


def test_only_the_last_turn_is_judged() -> None:
    said, tool = {"role": "assistant", "content": PERFECT}, {"role": "tool", "content": PERFECT}
    parts = {"role": "assistant", "content": [{"type": "text", "text": PERFECT}]}
    completions = [[said], [tool, parts], [said, tool], []]
    given = trl.make_reward(**FIXED)(completions=completions, ground_truth=[TRUTH] * 4)
    nothing = score("", TARGET).value
    assert given == [1.0, 1.0, nothing, nothing]


def test_routes_look_at_columns() -> None:
    routes = {"column": "reward", "values": {"paper": "visionr1-paper", "ours": "visionr1"}}
    reward = trl.make_reward(**FIXED, routes=routes)
    given = reward(completions=[LOOSE] * 2, ground_truth=[TRUTH] * 2, reward=["paper", "ours"])
    presets = ("visionr1-paper", "visionr1")
    assert given == [score(LOOSE, TARGET, frame="qwen3-vl", preset=name).value for name in presets]


def test_one_criterion_can_be_logged_by_ms_swift() -> None:
    recall = ms_swift.VisionReward(FIXED, "recall")
    assert recall([LOOSE], solution=[TRUTH]) == [score(LOOSE, TARGET, frame="qwen3-vl").metrics["recall"]]
    with pytest.raises(SettingsError, match="metric = 'recal'"):
        ms_swift.VisionReward(FIXED, "recal")


@pytest.mark.parametrize(
    ("environment", "budget"),
    [
        ({}, {}),
        ({"MAX_PIXELS": "1000000"}, {"max_pixels": 999600}),  # whole tokens of 28 x 28
        ({"IMAGE_MAX_TOKEN_NUM": "64", "MAX_PIXELS": "9"}, {"max_pixels": 50176}),
        ({"MIN_PIXELS": "3136", "IMAGE_MAX_TOKEN_NUM": "64"}, {"min_pixels": 3136, "max_pixels": 50176}),
    ],
)
def test_ms_swift_reads_its_budget_from_the_environment(
    environment: dict[str, str], budget: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    target = make_target((4032, 3024))
    answer = perfect_answer(target, "qwen2.5-vl", size_by_loader(target.size_wh, QWEN25, budget))
    assert by_swift(answer, target.to_json(), frame="qwen2.5-vl") == 1.0


def test_a_variable_of_ms_swift_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_PIXELS", "1e6")
    with pytest.raises(SettingsError, match="MAX_PIXELS = '1e6'"):
        by_swift(LOOSE, frame="qwen2.5-vl")


def test_a_batch_of_easyr1_at_five_image_sizes() -> None:
    for wrong in ((None, None), (0, 0), (9, 3)):
        with pytest.raises(SettingsError, match="min_pixels = "):
            by_easyr1(LOOSE, frame="qwen2.5-vl", min_pixels=wrong[0], max_pixels=wrong[1])
    _, processed, budget, _ = WAYS["easyr1"]
    settings = {"frame": "qwen2.5-vl", **budget}
    answers = make_answers("qwen2.5-vl", processed)[: len(SIZES_WH)]
    rows = [{"response": text, "response_length": 30, "ground_truth": target.to_json()} for target, text in answers]
    scores = easyr1.compute_score(rows, **settings)
    assert scores == [easyr1.compute_score(row, **settings) for row in rows]  # REWARD_TYPE = "sequential"
    assert [one["overall"] for one in scores] == [1.0] * 5
    assert all({"overall", "format", "accuracy"} <= one.keys() for one in scores)
    assert all(one["n_tokens"] == 30 and "clipped" not in one for one in scores)  # no budget was told
    assert easyr1.compute_score(rows[0], max_tokens=30, **settings) == {**scores[0], "clipped": 1.0}
    untold = easyr1.compute_score(rows[0]["response"], rows[0]["ground_truth"], **settings)  # EasyR1 0.3.0
    assert untold == {key: value for key, value in scores[0].items() if key != "n_tokens"}


@pytest.mark.parametrize("framework", ["verl", "easyr1", "ms-swift", "trl"])
def test_rows_of_the_converters_are_scored(framework: str, tmp_path: Path) -> None:
    """The columns of a converted file, as the framework hands them over."""
    from scene_sets.base import pictures
    from scene_sets.coco_like import write_coco

    from verl_visionr1.conversion.datasets import coco
    from verl_visionr1.rows import read_rows

    annotations, images = write_coco(pictures()[:3], tmp_path)
    options = coco.Options(task="all", split="val", to=framework)
    files = [coco.convert(annotations, images, tmp_path / "rows.parquet", options).written.file]
    rows = [row for file in files for row in read_rows(file)]
    assert rows
    for row in rows:
        truth = {**row, **row.get("reward_model", {})}
        truth = next(truth[name] for name in ("ground_truth", "answer", "solution") if name in truth)
        target = Target.from_json(truth)
        text = str(target.count) if target.task == "counting" else perfect_answer(target, "qwen3-vl")
        columns = {name: [value] for name, value in row.items() if name != "prompt"}
        if framework == "verl":
            scored = by_verl(text, truth, row["extra_info"], frame="qwen3-vl", total_steps=10)
        elif framework == "easyr1":
            scored = by_easyr1(text, truth, **FIXED)
        elif framework == "trl":
            completions = [[{"role": "assistant", "content": text}]]
            (scored,) = trl.make_reward(frame="qwen3-vl")(completions=completions, trainer_state=state(0), **columns)
        else:
            (scored,) = ms_swift.VisionReward({"frame": "qwen3-vl"})([text], trainer_state=state(0), **columns)
        assert scored == pytest.approx(1.0, abs=0.05)  # whole numbers of 1000
