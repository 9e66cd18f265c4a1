"""What each framework hands over to its reward function: columns, turns, batches, and rows of the converters."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from framework_answers import SIZES_WH, make_target, perfect_answer
from ways import BUDGET, LOOSE, QWEN25, TARGET, TRUTH, by_swift, by_trl, by_verl, state

from verl_visionr1 import Target, score
from verl_visionr1.integrations import easyr1, ms_swift, trl, verl_function
from verl_visionr1.processed import size_by_loader, size_by_processor
from verl_visionr1.settings import SettingsError
from verl_visionr1.targets import TargetError


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
