"""The study of the papers' claims: which runs are chosen, and what its report makes of their numbers."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import typer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "claims"))
import alarm_replay
import arms
import differences
import released_rewards
import report
import rewards
import sets
import study

from verl_visionr1 import Target, score
from verl_visionr1.answers import Answer
from verl_visionr1.boxes import Box


def test_arms_and_contrasts_name_what_there_is() -> None:
    names = [arm.name for arm in arms.ARMS]
    assert len(names) == len(set(names))
    assert {claim for arm in arms.ARMS for claim in arm.claims} == set(arms.CLAIMS)
    for key, claim in arms.CLAIMS.items():
        of_claim = {arm.name for arm in arms.ARMS if key in arm.claims}
        assert {claim.baseline, *(name for c in claim.contrasts for name in (c.arm, c.baseline))} <= of_claim


@pytest.mark.parametrize(
    ("only", "seeds", "expected"),
    [
        (["rl"], 2, [("rl", 1), ("rl", 2)]),
        (
            ["easy", "strict"],
            None,
            [("easy", 1), ("strict", 1), ("easy", 2), ("strict", 2), ("easy", 3), ("strict", 3)],
        ),
        (["start"], 5, [("start", 1)]),
        (["rl-vs-start"], 1, [("start", 1), ("rl", 1)]),
    ],
)
def test_runs_are_chosen_seed_by_seed(only: list[str], seeds: int | None, expected: list[tuple[str, int]]) -> None:
    assert [(arm.name, seed) for arm, seed in study.choose(only, seeds)] == expected


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="rl-vs-all"):
        study.choose(["rl-vs-all"], None)


def test_sets_are_drawn_alike_every_time_and_differ_as_they_say(tmp_path: Path) -> None:
    few = {each.name: each for each in sets.SETS}
    for name, n_objects in (("in_domain", {2, 3}), ("fewer_objects", {1, 2, 3}), ("more_objects", {4, 5, 6})):
        drawn = []
        for folder in ("a", "b"):
            (tmp_path / folder / name).mkdir(parents=True)
            some = sets.HeldOutSet(
                **{f: getattr(few[name], f) for f in few[name].__dataclass_fields__} | {"n_scenes": 8}
            )
            drawn.append(sets._draw_images(some, tmp_path / folder / name))
        assert drawn[0] == drawn[1]
        counts = np.bincount([a["image_id"] for a in drawn[0]["annotations"]])
        assert {*counts[counts > 0]} <= n_objects


def test_counts_are_equally_frequent() -> None:
    counts = [0, 1, 1, 4, 2, 3, 1, 2, 6, 0, 3, 4]
    truths = [{"ground_truth": json.dumps({"count": count})} for count in counts]
    table = pa.table({"reward_model": truths, "row": [*range(len(counts))]})
    assert sets.balance(table)["row"].to_pylist() == [0, 1, 2, 3, 4, 5, 7, 9, 10, 11]


def keep(folder: Path, arm: str, seed: int, numbers: Mapping[str, np.ndarray]) -> None:
    """A result as `study.keep` writes it, of one metric."""
    np.savez_compressed(folder / f"{arm}_{seed}.npz", **{f"{name}/f1_50": each for name, each in numbers.items()})
    held_out = {name: {"f1_50": float(each.mean())} for name, each in numbers.items()}
    (folder / f"{arm}_{seed}.json").write_text(json.dumps({"held_out": held_out}))


@pytest.mark.parametrize(("gain", "says"), [(0.1, "holds"), (-0.1, "does not hold"), (0.0, "not decided")])
def test_a_contrast_is_judged_by_its_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gain: float, says: str
) -> None:
    rng = np.random.default_rng(0)
    start = rng.uniform(0.2, 0.8, 400)
    keep(tmp_path, "start", 1, {"in_domain": start})
    for seed in (1, 2):
        keep(tmp_path, "rl", seed, {"in_domain": start + gain + rng.normal(0, 0.05, 400) * (1 if gain else 20)})
    monkeypatch.setattr(differences, "RESULTS", tmp_path)
    for cached in (differences.seeds_of, differences.record_of, differences.numbers_of):
        cached.cache_clear()
    found = report.difference("rl", "start", "f1_50", ("in_domain",))
    assert found.low < found.value < found.high
    assert len(found.seeds) == 2
    assert found.value == pytest.approx(np.mean(found.seeds))
    assert report.judge_contrast(arms.Contrast(arm="rl", baseline="start"))[1] == says


def test_an_interval_covers_the_spread_between_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also that of an arm with one seed, from arms of its method; a start has none."""
    monkeypatch.setattr(differences, "RESULTS", tmp_path)
    for cached in (differences.seeds_of, differences.record_of, differences.numbers_of):
        cached.cache_clear()
    flat = np.full(400, 0.5)  # prompts that are all alike: the interval is that of the seeds
    keep(tmp_path, "start", 1, {"in_domain": flat})
    for seed, gain in enumerate((0.1, 0.12, 0.14), start=1):
        keep(tmp_path, "rl", seed, {"in_domain": flat + gain})
    keep(tmp_path, "off", 1, {"in_domain": flat + 0.2})
    of_mean = 4.303 * 0.02 / np.sqrt(3)  # Student's t with 2 degrees of freedom, times the standard error
    against_start = differences.difference("rl", "start", "f1_50", ("in_domain",))
    assert (against_start.low, against_start.high) == pytest.approx((0.12 - of_mean, 0.12 + of_mean), abs=1e-5)
    against_rl = differences.difference("off", "rl", "f1_50", ("in_domain",))
    assert against_rl.high - against_rl.value == pytest.approx(np.hypot(of_mean, 4.303 * 0.02), abs=1e-5)


EXPECTED = {"format": {"frac_reward_zero_std"}, "recall-alone": {"box_flood"}, "recall-alone-single": {"box_flood"}}
"""Arm whose reward is gamed, or soon says nothing about an answer -> alarms that every run of it must raise."""


@pytest.mark.parametrize(
    "file",
    [
        study.RESULTS / f"{arm.name}_{seed}.json"
        for arm in arms.ARMS
        if arm.method == "rl" and arm.task == "detection"
        for seed in differences.seeds_of(arm.name)
    ],
    ids=lambda file: file.stem,
)
def test_alarms_sound_on_gamed_runs_within_a_few_steps_and_on_no_healthy_one(file: Path) -> None:
    """Real training curves, recorded by the study."""
    record = json.loads(file.read_text())
    found = alarm_replay.replay(record["curve"])
    expected = EXPECTED.get(record["arm"], set[str]())
    assert expected <= found.first.keys()
    assert expected or not found.first
    if found.damaged_at is not None:
        assert min(found.first.values()) <= found.damaged_at + 6


def test_there_is_a_gamed_run_and_a_healthy_one() -> None:
    damaged = {
        name: alarm_replay.replay(json.loads((study.RESULTS / f"{name}.json").read_text())["curve"]).damaged_at
        for name in ("recall-alone-single_1", "rl_1")
    }
    assert damaged["recall-alone-single_1"] is not None
    assert damaged["rl_1"] is None


def test_no_threshold_is_lowered_for_size_on_these_scenes() -> None:
    kept = [json.loads(file.read_text()).get("rewards") for file in study.RESULTS.glob("*.json")]
    assert all(each["visionr1"] == each["visionr1-size-aware"] for each in kept if each)


def test_readme_shows_the_present_results() -> None:
    for cached in (differences.seeds_of, differences.record_of, differences.numbers_of):
        cached.cache_clear()
    readme = (study.ROOT / "README.md").read_text()
    assert report.put_summary(readme) == readme


CAT, DOG = (10.0, 10.0, 30.0, 40.0), (50.0, 20.0, 90.0, 60.0)


@pytest.mark.parametrize("claims", [(CAT, DOG), (DOG,), (CAT, DOG, (0.0, 0.0, 5.0, 5.0)), ((12.0, 11.0, 33.0, 40.0),)])
def test_released_rewards_are_those_of_the_released_preset_in_pixels(claims: tuple[Box, ...]) -> None:
    scene = Target(task="detection", size_wh=(100, 100), boxes_xyxy=(CAT, DOG), labels=("cat", "dog"))
    labels = ["cat" if box[0] < 40 else "dog" for box in claims]
    items = [{"bbox_2d": [*box], "label": label} for box, label in zip(claims, labels, strict=True)]
    text = f"<think>I look.</think><answer>```json\n{json.dumps(items)}\n```</answer>"
    released = score(text, scene, preset="vlmr1-ovd-released").metrics
    answer = Answer(claims, tuple(labels))
    assert released_rewards.released_ap(answer, scene) == pytest.approx(released["ap"])
    assert released_rewards.released_od_length(answer, scene) == pytest.approx(released["od_length"])
    assert released_rewards.released_weighted_sum(answer, scene) == pytest.approx(released["weighted_sum"])


def test_a_reward_orders_the_pairs_that_differ() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 500)
    draws = [0.2 + noise, 0.5 + noise, 0.2001 + noise[::-1]]
    pairs = rewards.decided_pairs(draws)
    assert pairs == [(1, 0), (1, 2)]
    assert rewards.share_in_order([0.3, 0.2, 0.1], pairs) == 0.5


def test_every_preset_judges_what_a_run_answered(tmp_path: Path) -> None:
    scene = Target(task="detection", size_wh=(100, 100), boxes_xyxy=(CAT,), labels=("cat",))
    said = '[{"bbox_2d": [100, 100, 300, 400], "label": "cat"}]'
    rows = [{"output": said, "gts": scene.to_json(), "data_source": source} for source in ("claims/in_domain", "other")]
    file = tmp_path / "predictions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**rows[0], "output": "no"}]))
    found = rewards.mean_rewards(file, "claims/in_domain")
    assert {*found} == {*rewards.NAMES}
    assert found["visionr1"] == [0.5, 0.5]
