"""The reward functions for other frameworks: pure parts, and the framework's own call as a fixture."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from framework_answers import SIZES_WH, make_answers, make_target, perfect_answer

from verl_visionr1 import Target, score
from verl_visionr1.criteria import ADVANCED, BEGINNER
from verl_visionr1.frames import FrameError
from verl_visionr1.integrations import easyr1, ms_swift, trl, verl_function
from verl_visionr1.integrations.core import MissingStepError, Moment, make_scorer
from verl_visionr1.processed import PROCESSORS, SizeError, processed_size, size_by_loader, size_by_processor
from verl_visionr1.rewards import RewardError
from verl_visionr1.schedule import progress_at
from verl_visionr1.settings import SettingsError
from verl_visionr1.targets import TargetError

TARGET = make_target((640, 480))
TRUTH = TARGET.to_json()
LOOSE = '[{"bbox_2d": [250, 250, 500, 660], "label": "cat"}, {"bbox_2d": [500, 0, 1000, 420], "label": "dog"}]'
QWEN25 = PROCESSORS["qwen2.5-vl"]
BUDGET = {"min_pixels": 262144, "max_pixels": 4194304}


def state(global_step: int, max_steps: int = 10) -> SimpleNamespace:
    return SimpleNamespace(global_step=global_step, max_steps=max_steps)


# --- every way in gives the facade's score ------------------------------------------------------------------------


def by_verl(target: Target, text: str, **settings: object) -> float:
    return verl_function.compute_score("x", text, target.to_json(), {"split": "train"}, **settings)["score"]


def by_easyr1(target: Target, text: str, **settings: object) -> float:
    row = {"response": text, "response_length": 9, "ground_truth": target.to_json()}
    return easyr1.compute_score([row], **settings)[0]["overall"]


def by_trl(target: Target, text: str, **settings: object) -> float:
    completion = [{"role": "assistant", "content": text}]
    reward = trl.make_reward(**settings)
    return reward(prompts=[[]], completions=[completion], ground_truth=[target.to_json()])[0]


def by_swift(target: Target, text: str, **settings: object) -> float:
    return ms_swift.VisionReward(dict(settings))([text], solution=[target.to_json()], data_source=["x"])[0]


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


# --- progress -----------------------------------------------------------------------------------------------------


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


# --- settings -----------------------------------------------------------------------------------------------------

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


# --- what each framework hands over -------------------------------------------------------------------------------


def test_a_bad_ground_truth_is_an_error() -> None:
    for way in (by_verl, by_trl, by_swift):
        with pytest.raises(TargetError, match="'42'"):
            way(SimpleNamespace(to_json=lambda: "42"), "", frame="qwen3-vl", schedule={"kind": "off"})


def test_rows_of_other_rewards_have_none() -> None:
    columns = {"ground_truth": [None, TRUTH], "data_source": ["maths", "x"], "images": [[], []]}
    reward = trl.make_reward(frame="qwen3-vl", schedule={"kind": "off"})
    perfect = perfect_answer(TARGET, "qwen3-vl")
    assert reward(prompts=["", ""], completions=[perfect] * 2, **columns) == [None, 1.0]
    swift = ms_swift.VisionReward({"frame": "qwen3-vl", "schedule": {"kind": "off"}})
    assert swift([perfect] * 2, solution=[None, TRUTH]) == [None, 1.0]


def test_trl_logs_each_criterion() -> None:
    logged: dict[str, float] = {}
    reward = trl.make_reward(frame="qwen3-vl")
    perfect = perfect_answer(TARGET, "qwen3-vl")
    given = reward(
        completions=[perfect, "[]"],
        completion_ids=[[1] * 8, [1] * 4],
        ground_truth=[TRUTH] * 2,
        trainer_state=state(5),
        log_metric=logged.__setitem__,
    )
    expected = [score(text, TARGET, frame="qwen3-vl", progress=0.5) for text in (perfect, "[]")]
    assert given == [each.value for each in expected]
    for name in ("format", "recall", "precision", "iou_mean"):
        assert logged[f"visionr1/{name}"] == sum(each.metrics[name] for each in expected) / 2
    assert (logged["visionr1/n_tokens"], logged["visionr1/stage"], logged["visionr1/progress"]) == (6.0, 1.0, 0.5)


def test_only_the_last_turn_is_judged() -> None:
    perfect = perfect_answer(TARGET, "qwen3-vl")
    said, tool = {"role": "assistant", "content": perfect}, {"role": "tool", "content": perfect}
    parts = {"role": "assistant", "content": [{"type": "text", "text": perfect}]}
    reward = trl.make_reward(frame="qwen3-vl", schedule={"kind": "off"})
    completions = [[said], [tool, parts], [said, tool], []]
    given = reward(completions=completions, ground_truth=[TRUTH] * 4)
    assert given[:2] == [1.0, 1.0]
    assert given[2] == given[3] == score("", TARGET).value


def test_routes_look_at_columns() -> None:
    routes = {"column": "reward", "values": {"paper": "visionr1-paper", "ours": "visionr1"}}
    reward = trl.make_reward(frame="qwen3-vl", schedule={"kind": "off"}, routes=routes)
    given = reward(completions=[LOOSE] * 2, ground_truth=[TRUTH] * 2, reward=["paper", "ours"])
    assert given == [
        score(LOOSE, TARGET, frame="qwen3-vl", preset=name).value for name in ("visionr1-paper", "visionr1")
    ]


def test_one_criterion_can_be_logged_by_ms_swift() -> None:
    settings = {"frame": "qwen3-vl", "schedule": {"kind": "off"}}
    recall = ms_swift.VisionReward(settings, "recall")
    assert recall([LOOSE], solution=[TRUTH]) == [score(LOOSE, TARGET, frame="qwen3-vl").metrics["recall"]]
    with pytest.raises(SettingsError, match="metric = 'recal'"):
        ms_swift.VisionReward(settings, "recal")


@pytest.mark.parametrize(
    ("environment", "budget"),
    [
        ({}, {}),
        ({"MAX_PIXELS": "1003520"}, {"max_pixels": 1003520}),
        ({"MAX_PIXELS": "1000000"}, {"max_pixels": 999600}),  # whole tokens of 28 x 28
        ({"IMAGE_MAX_TOKEN_NUM": "64", "MAX_PIXELS": "9"}, {"max_pixels": 50176}),
        ({"MIN_PIXELS": "3136", "IMAGE_MAX_TOKEN_NUM": "64"}, {"min_pixels": 3136, "max_pixels": 50176}),
    ],
)
def test_ms_swift_reads_its_budget_from_the_environment(
    environment: dict[str, str], budget: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ms_swift.loader_budget(QWEN25, environment) == budget
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    target = make_target((4032, 3024))
    answer = perfect_answer(target, "qwen2.5-vl", size_by_loader(target.size_wh, QWEN25, budget))
    assert by_swift(target, answer, frame="qwen2.5-vl") == 1.0


# --- EasyR1's own call, as a fixture: it is in no package index ----------------------------------------------------


def easyr1_batches(function: object, kwargs: dict, rows: list[dict], reward_type: str) -> list[dict]:
    """`AutoRewardManager.compute_reward` of EasyR1 0.3.3, from the decoded response on (verl/workers/reward)."""
    from functools import partial

    reward_fn = partial(function, **kwargs)
    return reward_fn(rows) if reward_type == "batch" else [reward_fn(row) for row in rows]


@pytest.mark.parametrize("reward_type", ["batch", "sequential"])
def test_a_batch_of_easyr1_at_five_image_sizes(reward_type: str) -> None:
    targets = [make_target(wh) for wh in SIZES_WH]
    sizes = [size_by_processor(easyr1.easyr1_size(wh, *BUDGET.values()), QWEN25) for wh in SIZES_WH]
    rows = [
        {"response": perfect_answer(target, "qwen2.5-vl", wh), "response_length": 30, "ground_truth": target.to_json()}
        for target, wh in zip(targets, sizes, strict=True)
    ]
    scores = easyr1_batches(easyr1.compute_score, {"frame": "qwen2.5-vl", **BUDGET}, rows, reward_type)
    assert [one["overall"] for one in scores] == [1.0] * 5
    assert all({"overall", "format", "accuracy", "n_tokens"} <= one.keys() for one in scores)
    assert all(one["n_tokens"] == 30 and "clipped" not in one for one in scores)  # no budget was told
    full = easyr1.compute_score(rows[:1], frame="qwen2.5-vl", max_tokens=30, **BUDGET)
    assert full == [{**scores[0], "clipped": 1.0}]
    untold = easyr1.compute_score(rows[0]["response"], rows[0]["ground_truth"], frame="qwen2.5-vl", **BUDGET)
    assert untold == {key: value for key, value in scores[0].items() if key != "n_tokens"}


@pytest.mark.parametrize(("width", "height"), [(1, 1), (640, 480), (591, 443), (3000, 2000), (10, 9000)])
def test_easyr1_size_is_that_of_its_process_image(width: int, height: int) -> None:
    """The reference: `process_image` of EasyR1 0.3.3, with its images replaced by their sizes."""
    expected = (width, height)
    for bound, is_out in ((BUDGET["max_pixels"], int.__gt__), (BUDGET["min_pixels"], int.__lt__)):
        if is_out(expected[0] * expected[1], bound):
            factor = math.sqrt(bound / (expected[0] * expected[1]))
            expected = (int(expected[0] * factor), int(expected[1] * factor))
    assert easyr1.easyr1_size((width, height), *BUDGET.values()) == expected


# --- no framework is loaded ---------------------------------------------------------------------------------------


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


# --- rows that the converters write for each framework ------------------------------------------------------------


@pytest.mark.parametrize("framework", ["verl", "easyr1", "ms-swift", "trl"])
def test_rows_of_the_converters_are_scored(framework: str, tmp_path: Path) -> None:
    """The columns of a converted file, as the framework hands them over."""
    from scene_sets.base import pictures
    from scene_sets.coco_like import write_coco

    from verl_visionr1.conversion.datasets import coco
    from verl_visionr1.rows import read_rows

    annotations, images = write_coco(pictures()[:3], tmp_path)
    options = coco.Options(task="all", split="val", to=framework)
    files = coco.convert(annotations, images, tmp_path / "rows.parquet", options).written.files
    rows = [row for file in files for row in read_rows(file)]
    assert rows
    settings = {"frame": "qwen3-vl"}
    state_ = state(0)
    for row in rows:
        info, source = row["extra_info"], row["data_source"]
        if framework == "verl":
            truth = row["reward_model"]["ground_truth"]
            report = verl_function.compute_score(source, perfect(truth), truth, info, total_steps=10, **settings)
            scored = report["score"]
        elif framework == "easyr1":
            given = {"response": perfect(row["answer"]), "response_length": 9, "ground_truth": row["answer"]}
            scored = easyr1.compute_score([given], schedule={"kind": "off"}, **settings)[0]["overall"]
        elif framework == "trl":
            columns = {name: [value] for name, value in row.items() if name != "prompt"}
            completions = [[{"role": "assistant", "content": perfect(row["ground_truth"])}]]
            (scored,) = trl.make_reward(**settings)(completions=completions, trainer_state=state_, **columns)
        else:
            columns = {name: [value] for name, value in row.items()}
            reward = ms_swift.VisionReward(settings)
            (scored,) = reward([perfect(row["solution"])], trainer_state=state_, **columns)
        assert scored == pytest.approx(1.0, abs=0.05)  # whole numbers of 1000


def perfect(ground_truth: str) -> str:
    target = Target.from_json(ground_truth)
    return str(target.count) if target.task == "counting" else perfect_answer(target, "qwen3-vl")
