"""Evaluation as a whole: intervals, reward against metric, and what cannot be evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from answered import WH, answers, evaluated, judged
from scipy import stats

from verl_visionr1 import PRESETS, Target, score
from verl_visionr1.evaluation import average_precision
from verl_visionr1.evaluation.correlation import Correlated, in_words
from verl_visionr1.evaluation.predictions import Prediction
from verl_visionr1.evaluation.settings import EvaluationError, EvaluationSettings
from verl_visionr1.frames import FrameError
from verl_visionr1.rewards import RewardError
from verl_visionr1.rollouts.bootstrap import Estimate, Ratios, estimates_of


@pytest.fixture(scope="module", autouse=True)
def few_orders() -> Iterator[None]:
    """Fewer random orders of tied images: each takes a while."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(average_precision, "N_ORDERS", 5)
        yield


def test_the_interval_of_a_mean_is_the_textbooks() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, 400)
    ratios = Ratios(np.arange(400), {"mean": (values, np.ones(400))})
    found, draws = estimates_of([ratios], 400, n_resamples=2000, seed=1, level=0.95)
    half = 1.96 * values.std() / 20.0
    assert found["mean"].value == pytest.approx(values.mean())
    assert found["mean"].low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found["mean"].high == pytest.approx(values.mean() + half, abs=0.1 * half)
    again, _ = estimates_of([ratios], 400, n_resamples=2000, seed=1, level=0.95)
    other, _ = estimates_of([ratios], 400, n_resamples=2000, seed=2, level=0.95)
    assert again == found
    assert other != found
    assert draws["mean"].shape == (2000,)


def test_rows_of_one_image_are_drawn_together() -> None:
    values = np.repeat(np.random.default_rng(0).normal(size=50), 8)
    ones = np.ones(400)
    widths = []
    for units in (np.arange(400), np.repeat(np.arange(50), 8)):
        found, _ = estimates_of(
            [Ratios(units, {"m": (values, ones)})], len(set(units)), n_resamples=500, seed=0, level=0.9
        )
        widths.append((found["m"].high or 0.0) - (found["m"].low or 0.0))
    assert widths[1] == pytest.approx(np.sqrt(8) * widths[0], rel=0.2)


def test_ap_lies_in_its_interval_though_its_resamples_do_not_average_to_it() -> None:
    (section,) = evaluated(answers(0, 0.1), EvaluationSettings(resamples=200)).sections
    for name in ("AP", "AP50", "AP75", "AR100", "F1@50", "reward", "AP/cat"):
        found = section.estimates[name]
        assert found.low is not None
        assert found.high is not None
        assert found.value is not None
        assert found.low < found.value < found.high, name
    assert section.estimates["AP/cow"] == Estimate(value=None, n=40)
    value, drawn = section.estimates["AP"].value or 0.0, np.array(section.draws["AP"], dtype=float)
    bias = drawn.mean() - value
    assert bias > 0.002
    assert section.estimates["AP"].low == pytest.approx(np.quantile(drawn, 0.025) - bias, abs=1e-5)
    assert section.estimates["AP"].high == pytest.approx(np.quantile(drawn, 0.975) - bias, abs=1e-5)


@pytest.mark.parametrize(("n_with", "is_known"), [(1, False), (12, True)])
def test_a_metric_of_one_image_has_no_interval(n_with: int, is_known: bool) -> None:
    has = (np.arange(40) < n_with).astype(float)
    found, _ = estimates_of([Ratios(np.arange(40), {"m": (has, has)})], 40, n_resamples=200, seed=0, level=0.95)
    assert (found["m"].value, found["m"].low is not None) == (1.0, is_known)


def test_the_interval_of_ap_stays_between_0_and_1() -> None:
    class Skewed:
        @property
        def values(self) -> dict[str, tuple[float | None, int]]:
            return {"AP": (0.01, 5), "AP50": (0.99, 5), "MAE": (7.0, 5)}

        def resampled(self, weights_bu: np.ndarray) -> dict[str, np.ndarray]:
            some = np.linspace(0.0, 0.1, len(weights_bu))
            return {"AP": some, "AP50": 1.0 - some, "MAE": 5.0 + some}

    found, _ = estimates_of([Skewed()], 5, n_resamples=100, seed=0, level=0.9)
    assert (found["AP"].low, found["AP"].high) == (0.0, pytest.approx(0.055))
    assert (found["AP50"].low, found["AP50"].high) == (pytest.approx(0.945), 1.0)
    assert found["MAE"].high == pytest.approx(5.095)


@pytest.mark.parametrize("seed", range(3))
def test_correlations_of_resamples_are_scipys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reward = np.round(rng.random(30), 1)
    metric = np.round(0.5 * reward + rng.random(30), 1)
    correlated = Correlated(np.arange(30), reward, {"m": metric})
    weights = rng.integers(0, 3, (1, 30))
    a, b = np.repeat(reward, weights[0]), np.repeat(metric, weights[0])
    found = correlated.resampled(weights.astype(np.float32))
    assert found["spearman/m"][0] == pytest.approx(stats.spearmanr(a, b).statistic)
    assert found["pearson/m"][0] == pytest.approx(stats.pearsonr(a, b).statistic)
    assert correlated.values["spearman/m"] == (pytest.approx(stats.spearmanr(reward, metric).statistic), 30)


@pytest.mark.parametrize(
    ("rho", "word"),
    [
        (Estimate(value=0.8, low=0.7, high=0.9), "higher F1"),
        (Estimate(value=-0.5, low=-0.7, high=-0.3), "LOWER F1"),
        (Estimate(value=0.1, low=-0.1, high=0.3), "no clear"),
        (Estimate(value=None), "constant"),
        (Estimate(value=0.9), "without an interval"),
    ],
)
def test_the_sign_of_a_correlation_is_told(rho: Estimate, word: str) -> None:
    assert word in in_words("F1", rho)


def test_the_table_by_reward_rises_where_the_reward_tells() -> None:
    (section,) = evaluated(answers(0, 0.1, n=60), EvaluationSettings(resamples=30), stage="off").sections
    table = next(table for table in section.tables if table.name == "by reward")
    f1, ap = (
        np.array([line[table.columns.index(name)] for line in table.rows], dtype=float) for name in ("F1@50", "AP")
    )
    assert sum(int(line[2] or 0) for line in table.rows) == 60
    assert f1[-1] > f1[0]
    assert ap[-1] > ap[0]
    assert section.correlations[0].words.startswith("higher reward goes with higher F1@50 here: Spearman 0.")


@pytest.mark.parametrize("preset", ["visionr1", "vlmr1-rec", "visionr1-paper"])
def test_means_are_those_of_the_rewards_own_road(preset: str) -> None:
    rows = answers(1, 0.05, processed_wh=(644, 476))
    means = evaluated(rows, preset=preset, frame="qwen2.5-vl").training["coco"]
    final = {"progress": 1.0} if len(PRESETS[preset].schedule.points) > 1 else {}
    judged = [
        score(
            row.output, Target.from_json(row.gts), preset=preset, frame="qwen2.5-vl", processed_wh=(644, 476), **final
        )
        for row in rows
    ]
    assert means["reward"] == pytest.approx(np.mean([one.value for one in judged]))
    for key in ("iou_mean", "f1_50", "accuracy", "parsed", "n_predicted"):
        assert means[key] == pytest.approx(np.mean([one.metrics[key] for one in judged])), key
    assert means["acc"] == means["accuracy"]


def test_no_resamples_give_no_intervals() -> None:
    (section,) = evaluated(answers(0, 0.1)).sections
    assert {(found.low, found.high) for found in section.estimates.values()} == {(None, None)}
    assert section.draws == {}


def test_the_frame_and_the_stage_matter() -> None:
    rows = answers(1, 0.05)
    means = [
        evaluated(rows, **options).training["coco"]
        for options in ({}, {"stage": "off"}, {"frame": "qwen2.5-vl"}, {"frame": "qwen2-vl"})
    ]
    assert means[0]["reward"] != means[1]["reward"]
    assert means[0]["f1_50"] == means[1]["f1_50"]
    assert means[0]["iou_mean"] > means[2]["iou_mean"] > means[3]["iou_mean"]
    fixed: dict[str, Any] = {"frame": "qwen2.5-vl", "processed": "{}x{}".format(*WH)}
    assert evaluated(rows, **fixed, stage="off").training["coco"] == means[1]
    easier = evaluated(rows, **fixed).training["coco"]
    assert easier["reward"] > means[0]["reward"], "models of this family stay at the first stage by default"
    assert easier["f1_50"] == means[0]["f1_50"]


def test_samples_are_averaged_within_their_prompt_first() -> None:
    first, second = answers(0, 0.0, n=2)
    empty = msgspec.structs.replace(first, output="[]", sample=1)
    rewards = evaluated([first, empty, second])
    values = [row.reward for row in rewards.rows]
    assert rewards.training["coco"]["reward"] == pytest.approx((np.mean(values[:2]) + values[2]) / 2)


GOOD = answers(0, 0.0, n=1)[0]
BAD_ROWS = {
    "none": ([], "no prediction"),
    "twice": ([GOOD, GOOD], "val.parquet: row 0, sample 0: "),
    "no truth": ([msgspec.structs.replace(GOOD, gts="{}")], "val.parquet: row 0, sample 0: ground truth"),
}


@pytest.mark.parametrize(("rows", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_rows_that_cannot_be_evaluated(rows: list[Prediction], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        evaluated(rows)


BAD_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "confidence": ({"confidence": "sure"}, "confidence = 'sure'"),
    "family": ({"metrics": ("map",)}, "metrics = 'map'"),
    "resamples": ({"resamples": -1}, "resamples = -1"),
}


@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        EvaluationSettings(**settings)


BAD_OPTIONS: dict[str, tuple[dict[str, Any], type[ValueError], str]] = {
    "frame": ({"frame": "pixels"}, FrameError, "frame = 'pixels'"),
    "preset": ({"preset": "best"}, RewardError, "preset = 'best'"),
    "route": ({"route": ["counting=visionr1"]}, ValueError, "--route counting=visionr1: visionr1 is for detection"),
    "format": ({"answer_format": "xml"}, EvaluationError, "answer_format = 'xml'"),
}


@pytest.mark.parametrize(("options", "kind", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_options_that_cannot_be(options: dict[str, Any], kind: type[ValueError], message: str) -> None:
    with pytest.raises(kind, match=message):
        judged(**options)


def test_another_answer_format_is_read() -> None:
    text = "cat-[0.100,0.100,0.500,0.500]"
    truth = Target(task="grounding", size_wh=(1000, 1000), boxes_xyxy=[[100, 100, 500, 500]], labels=["cat"])
    row = msgspec.structs.replace(GOOD, output=text, gts=truth.to_json())
    (section,) = evaluated([row], answer_format="griffon", frame="unit").sections
    assert section.estimates["REC@75"].value == 1.0
