"""What `visionr1 score` adds up, against numbers worked out by hand and by numpy and scipy."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scored import CAT, FAIR, ONE, PERFECT, POOR, PROSE, VALUES, judging, rollout, said

from verl_visionr1 import PRESETS, FrameError, RewardError, Score, Target, score
from verl_visionr1.files import RowsError
from verl_visionr1.frames import FRAMES
from verl_visionr1.rewards import TASK_PRESETS
from verl_visionr1.rollouts.inference import infer
from verl_visionr1.rollouts.judged import TableBuilder
from verl_visionr1.rollouts.judging import Moment, Processing, preset_and_moment
from verl_visionr1.rollouts.numbers import numbers_of
from verl_visionr1.rollouts.records import Counts, Rollout
from verl_visionr1.tools.score.rescore import agreement_of, rescore
from verl_visionr1.tools.score.view import view_of


def test_means_and_groups_by_hand() -> None:
    rows = [rollout(PERFECT), rollout(PROSE, "b", "own"), rollout(PROSE), rollout(PROSE, "b", "own")]
    rows += [rollout(FAIR, "c"), rollout(POOR, "d"), rollout(POOR, "d")]  # c alone: no group
    report = rescore(rows, judging())
    everything, coco, own = report.overall, report.sources["coco"], report.sources["own"]
    assert (report.n_rows, everything.n, coco.n, own.n) == (7, 7, 5, 2)
    assert everything.reward == pytest.approx((1 + 0 + 0 + 0 + 2.6 / 3 + 1 / 3 + 1 / 3) / 7)
    assert coco.reward == pytest.approx((1 + 2.6 / 3 + 2 / 3) / 5)
    assert coco.metrics["recall"] == pytest.approx(2 / 5)
    assert coco.metrics["iou_mean"] == pytest.approx((1 + 0 + 0.6 + 0.4 + 0.4) / 5)
    assert (everything.unreadable, coco.unreadable, own.unreadable) == pytest.approx((3 / 7, 1 / 5, 1.0))
    assert (everything.n_groups, coco.n_groups, own.n_groups) == (3, 2, 1)
    assert (everything.group_std, coco.group_std) == pytest.approx((0.5**0.5 / 3, 0.5**0.5 / 2))
    zero_std = [numbers.frac_reward_zero_std for numbers in (everything, coco, own)]
    assert zero_std == pytest.approx([2 / 3, 1 / 2, 1.0])
    assert everything.reward_zero_std == pytest.approx(1 / 6)
    alone = rescore([rollout(PERFECT, "a"), rollout(PROSE, "b")], judging()).overall
    spread = (alone.group_std, alone.reward_zero_std, alone.frac_reward_zero_std)
    assert (alone.n_groups, *spread) == (0, None, None, None)


@pytest.mark.parametrize(
    ("groups", "n_by_text", "n_hints"), [("aabb", 0, 0), ("aabb", 4, 1), ("aabb", 1, 1), ("abcd", 4, 0)]
)
def test_groups_that_may_not_be_the_runs_are_named(groups: str, n_by_text: int, n_hints: int) -> None:
    report = rescore([rollout(FAIR, group) for group in groups], judging(), counts=Counts(n_by_text=n_by_text))
    assert len(report.hints) == n_hints
    assert all("--column" in hint for hint in report.hints)


VALUE = st.sampled_from([0.0, 0.1, 0.3, 0.1 + 0.2, 1 / 3, 1.0])


@given(st.lists(st.tuples(st.integers(0, 4), VALUE), min_size=1, max_size=40))
@settings(max_examples=40, deadline=None)
def test_the_table_is_what_numpy_says(rewards: list[tuple[int, float]]) -> None:
    builder = TableBuilder()
    for group, value in rewards:
        builder.add(rollout("", str(group)), PRESETS["visionr1"], Score(value, {"parsed": value}))
    numbers = numbers_of(builder.table())
    groups, values = np.array(rewards).T
    members = [values[groups == g] for g in np.unique(groups) if (groups == g).sum() > 1]
    assert (numbers.reward, numbers.metrics["parsed"]) == pytest.approx((values.mean(), values.mean()))
    assert numbers.n_groups == len(members)
    if members:
        assert numbers.group_std == pytest.approx(np.mean([np.std(m, ddof=1) for m in members]), abs=1e-9)
        flat = [np.std(m) < 1e-9 for m in members]  # rounding is no spread
        assert numbers.frac_reward_zero_std == pytest.approx(np.mean(flat))


def test_rows_of_another_task_go_to_their_own_preset() -> None:
    many = Target(task="counting", size_wh=(640, 480), count=3)
    rows = [rollout(PERFECT), rollout(FAIR, "b", target=ONE), rollout("3", "c", target=many)]
    report = rescore(rows, replace(judging(), preset=replace(PRESETS["visionr1-paper"], tasks=("grounding",))))
    assert report.routed == {"detection": "visionr1", "counting": TASK_PRESETS["counting"]}
    own = score("3", many, preset=TASK_PRESETS["counting"]).value
    assert report.overall.reward == pytest.approx((1.0 + 2.6 / 3 + own) / 3)


MOMENTS = {
    "off": (Moment(), 2.6 / 3),
    "a fraction": (Moment(progress=0.2), 2.6 / 3),
    "later": (Moment(progress=0.9), 1 / 3),
    "a stage": (Moment(stage=1), 1 / 3),
    "early step": (Moment(total_steps=10), 2.6 / 3),
    "late step": (Moment(total_steps=1), 1 / 3),
}


@pytest.mark.parametrize(("moment", "value"), MOMENTS.values(), ids=MOMENTS)
def test_the_moment_sets_the_thresholds(moment: Moment, value: float) -> None:
    assert rescore([rollout(FAIR, step=2)], judging(moment=moment)).overall.reward == pytest.approx(value)


BAD_MOMENTS = {
    "two at once": (lambda: Moment(0.5, 1), "--progress 0.5 and --stage 1: give only one"),
    "percent": (lambda: Moment(50.0), "needs a fraction of training"),
    "no steps": (lambda: Moment(total_steps=0), "needs at least 1"),
    "no such stage": (lambda: rescore([rollout("")], judging(moment=Moment(stage=2))), "has the stages 0, 1"),
    "no step": (
        lambda: rescore([rollout("", step=None)], judging(moment=Moment(total_steps=9))),
        "1.jsonl:1 has no step",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD_MOMENTS.values(), ids=BAD_MOMENTS)
def test_a_moment_that_cannot_be(make: Any, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        make()


def test_another_preset_and_its_stage() -> None:
    default = Moment(progress=0.5)
    for text, preset, moment in (
        ("visionr1", "visionr1", default),
        ("visionr1@0", "visionr1", Moment(stage=0)),
        ("visionr1@off", "visionr1", Moment()),
        ("a@b.yaml@1", "a@b.yaml", Moment(stage=1)),
        ("@1", "@1", default),
    ):
        assert preset_and_moment(text, default) == (preset, moment)


def in_processed(width: int, height: int) -> str:
    box = [100 * width / 640, 100 * height / 480, 200 * width / 640, 200 * height / 480]
    return json.dumps([{"bbox_2d": box, "label": "cat"}])


@pytest.mark.parametrize(
    ("row", "processing"),
    [
        (rollout(in_processed(320, 240), processed_wh=(320, 240)), Processing()),
        (rollout(in_processed(644, 476)), Processing()),
        (rollout(in_processed(320, 240), processed_wh=(320, 240)), Processing(fixed_wh=(1280, 960))),
        (rollout(in_processed(308, 224)), Processing(min_pixels=3136, max_pixels=28 * 28 * 100)),
        (rollout(in_processed(1280, 960)), Processing(fixed_wh=(1280, 960))),
    ],
)
def test_the_processed_size_is_the_rows_or_replayed(row: Rollout, processing: Processing) -> None:
    report = rescore([row], judging(frame="qwen2.5-vl", processing=processing))
    assert report.overall.metrics["iou_mean"] == pytest.approx(1.0)


def test_a_processed_size_that_nobody_knows_is_an_error() -> None:
    frame = replace(FRAMES["qwen2.5-vl"], name="mine")
    with pytest.raises(FrameError, match="processed_wh"):
        rescore([rollout(PERFECT)], replace(judging(), frame=frame))


def scipy_agreement(a: Sequence[float], b: Sequence[float], groups: Sequence[int]) -> tuple[Any, ...]:
    """Row by row, as scipy has it; groups in which one reward is constant have no agreement."""
    x, y, g = np.array(a), np.array(b), np.array(groups)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        within = [stats.spearmanr(x[g == i], y[g == i]).statistic for i in np.unique(g)]
        overall = stats.spearmanr(x, y).statistic
    defined = [rho for rho in within if not np.isnan(rho)]
    return overall, len(defined), np.mean(defined)


@pytest.mark.parametrize("sizes", [[2] * 9, [1, 2, 3, 5, 8, 1], [300, 2, 300]], ids=str)
@pytest.mark.parametrize("levels", [3, 1000], ids=["ties", "no ties"])
def test_agreement_is_what_scipy_says(sizes: list[int], levels: int) -> None:
    random = np.random.default_rng(len(sizes) + levels)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    random.shuffle(groups)
    a, b = random.integers(levels, size=(2, len(groups))) / levels
    found = agreement_of(a, b, groups)
    assert found.n == len(groups)
    assert (found.spearman, found.n_groups, found.spearman_within) == pytest.approx(scipy_agreement(a, b, groups))


def test_agreement_of_constant_rewards_is_unknown() -> None:
    found = agreement_of([1.0, 1.0], [0.0, 1.0], [0, 0])
    assert (found.spearman, found.n_groups, found.spearman_within) == (None, 0, None)
    assert agreement_of([0.1 + 0.2, 0.3], [0.0, 1.0], [0, 0]).spearman is None, "rounding is no rank"


def test_another_reward_beside_it() -> None:
    texts = [PERFECT, FAIR, POOR, PROSE, FAIR, PERFECT]
    rows = [rollout(text, "ab"[i % 2], number=i) for i, text in enumerate(texts)]
    other = rescore(rows, judging(), other=judging(moment=Moment(stage=1)), n_shown=2).comparison
    assert other is not None
    late = [1.0, 1 / 3, 1 / 3, 0.0, 1 / 3, 1.0]
    assert other.overall.reward == pytest.approx(np.mean(late))
    assert other.sources["coco"].n == 6
    found = (other.agreement.spearman, other.agreement.n_groups, other.agreement.spearman_within)
    assert found == pytest.approx(scipy_agreement([VALUES[text] for text in texts], late, [0, 1] * 3))
    assert [row.where for row in other.differing] == ["1.jsonl:1", "1.jsonl:4"]
    assert [(row.value, row.other) for row in other.differing] == [(pytest.approx(2.6 / 3), pytest.approx(1 / 3))] * 2


def test_rows_differ_by_shares_of_the_largest_value() -> None:
    rows = [rollout(PERFECT, number=1), rollout(PROSE, number=2), rollout(POOR, number=3)]
    comparison = rescore(rows, judging(), other=judging("visionr1-released"), n_shown=9).comparison
    assert comparison is not None
    shares = [abs(row.value - row.other / 3) for row in comparison.differing]
    assert shares == sorted(shares, reverse=True)
    assert "1.jsonl:1" not in [row.where for row in comparison.differing], "1 of 1 is 3 of 3"


def test_a_comparison_needs_a_task_that_both_judge() -> None:
    other = replace(judging(), preset=replace(PRESETS["visionr1"], tasks=("grounding",)))
    with pytest.raises(RowsError, match="no row that both"):
        rescore([rollout(PERFECT)], judging(), other=other)
    report = rescore([rollout(PERFECT), rollout(FAIR, target=ONE)], judging(), other=other)
    assert report.comparison is not None
    assert (report.overall.n, report.comparison.overall.n) == (2, 1)


def saved_by(**options: Any) -> list[Rollout]:
    """Rollouts whose rewards were saved as verl saves them, judged with some options."""
    texts = [said(height) for height in range(40, 101, 5)] + [PROSE]
    values = [float(np.float32(score(text, CAT, **options).value)) for text in texts]
    return [rollout(text, f"{i}", saved=value) for i, (text, value) in enumerate(zip(texts, values, strict=True))]


def test_saved_rewards_that_are_right() -> None:
    report = rescore(saved_by(), judging())
    assert report.saved is not None
    assert (report.saved.n, report.saved.equal, report.hints) == (14, 1.0, [])
    assert report.saved.mean == pytest.approx(report.overall.reward)
    assert report.saved.max_difference < 1e-6


def test_saved_rewards_that_differ_by_hand() -> None:
    rows = [rollout(PERFECT, saved=1.0), rollout(POOR, saved=0.0), rollout(PROSE, source="own", saved=0.5)]
    report = rescore([*rows, rollout(PROSE)], judging())
    assert report.saved is not None
    assert (report.saved.n, report.saved.mean, report.saved.equal) == (3, 0.5, pytest.approx(1 / 3))
    assert report.saved.mean_difference == pytest.approx((1 / 3 + 0.5) / 3)
    assert (report.saved.max_difference, report.saved_by_source["own"].max_difference) == pytest.approx((0.5, 0.5))
    (hint,) = report.hints
    assert hint.startswith("67%")


def test_the_wrong_frame_is_found() -> None:
    wide = Target(task="detection", size_wh=(1280, 960), boxes_xyxy=[[100, 100, 200, 200]], labels=["cat"])
    boxes = [[100 / 1.28, 100 / 0.96, 200 / 1.28, (100 + h) / 0.96] for h in range(50, 101, 5)]
    texts = [json.dumps([{"bbox_2d": box, "label": "cat"}]) for box in boxes]
    rows = [rollout(text, target=wide, saved=score(text, wide, frame="qwen3-vl", progress=0.0).value) for text in texts]
    (hint,) = rescore(rows, judging(moment=Moment(stage=0))).hints
    assert "--frame qwen2-vl reproduces 100%" in hint
    assert rescore(rows, judging(frame="qwen3-vl", moment=Moment(stage=0))).hints == []


@pytest.mark.parametrize(
    ("options", "given", "found"),
    [
        ({"progress": 0.9}, "visionr1", "--stage 1 reproduces 100%"),
        ({"preset": "visionr1-released"}, "visionr1", "--preset visionr1-released"),
        ({}, "vlmr1-rec", "--preset visionr1 "),  # of those that give the rewards equally, the default of the task
        ({}, "rec-hit", "--preset visionr1 "),
    ],
)
def test_the_wrong_stage_or_preset_is_found(options: dict[str, Any], given: str, found: str) -> None:
    (hint,) = rescore(saved_by(**options), judging(given)).hints
    assert found in hint


@pytest.mark.parametrize("name", ["visionr1", "vlmr1-rec", "rec-hit", "rec-giou"])
def test_the_criteria_of_a_dump_decide_between_presets_that_give_its_rewards(name: str) -> None:
    given = [(text, score(text, ONE, preset=name)) for text in (PERFECT, PROSE)]
    rows = [rollout(text, target=ONE, saved=it.value, numbers=it.metrics) for text, it in given]
    assert infer(rows, judging()).judging.preset.name == name
    without = [msgspec.structs.replace(row, numbers={}) for row in rows]
    assert infer(without, judging()).judging.preset.name == "visionr1", "the given one, which gives the rewards"


@pytest.mark.parametrize("n_sources", [1, 2, 9])
def test_the_view_takes_any_number_of_sources(n_sources: int) -> None:
    rows = [rollout(text, f"{i}", f"s{i % n_sources}") for i, text in enumerate([FAIR, PROSE] * 9)]
    parts = list(view_of(rescore(rows, judging(), other=judging("visionr1-paper"))))
    assert ("more data sources" in str(parts[2])) is (n_sources > 6)
