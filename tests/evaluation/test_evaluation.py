"""Evaluation as a whole: intervals, reward against metric, the report, one model against another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from scipy import stats

from verl_visionr1 import PRESETS, Target, score
from verl_visionr1.evaluation.comparison import DIFFERENCES, ROW_BY_ROW, compare
from verl_visionr1.evaluation.correlation import Correlated, in_words
from verl_visionr1.evaluation.evaluating import evaluate
from verl_visionr1.evaluation.markdown import markdown
from verl_visionr1.evaluation.predictions import Prediction
from verl_visionr1.evaluation.records import Evaluation, Section, load, save
from verl_visionr1.evaluation.settings import EvaluationError, EvaluationSettings
from verl_visionr1.files import RowsError
from verl_visionr1.frames import FrameError
from verl_visionr1.rewards import RewardError
from verl_visionr1.rollouts.bootstrap import Estimate, Ratios, estimates_of
from verl_visionr1.rollouts.judging import Processing

WH = (640, 480)


def answers(seed: int, noise: float, *, n: int = 40, source: str = "coco", **fields: Any) -> list[Prediction]:
    """A model that finds most of the boxes of the same `n` images, the less exactly the more noise."""
    truth_rng, rng = np.random.default_rng(7), np.random.default_rng(seed)
    rows: list[Prediction] = []
    for i in range(n):
        corner, size = truth_rng.uniform(0, 300, (3, 2)), truth_rng.uniform(20, 150, (3, 2))
        boxes = np.round(np.hstack([corner, corner + size]))
        labels = truth_rng.choice(["cat", "dog"], 3).tolist()
        target = Target(
            task="detection", size_wh=WH, boxes_xyxy=boxes.tolist(), labels=labels, categories=["cat", "dog", "cow"]
        )
        moved = boxes + rng.normal(0, noise, (3, 4)) * np.tile(size, 2)
        found = zip(moved.tolist(), labels, rng.random(3) < 0.8, strict=True)
        text = json.dumps([{"bbox_2d": box, "label": label} for box, label, is_said in found if is_said])
        own = {"file": "val.parquet", "image_id": f"{i}", "uid": f"{i}", "data_source": source} | fields
        rows.append(Prediction(input="", output=text, gts=target.to_json(), row=i, **own))
    return rows


FEW = EvaluationSettings(resamples=100)


def table_of(section: Section, name: str) -> dict[Any, list[Any]]:
    """The rows of a table by their first cell."""
    return {row[0]: row for table in section.tables if table.name == name for row in table.rows}


# --- intervals -------------------------------------------------------------------------------------------------------


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
    (section,) = evaluate(answers(0, 0.1, n=100), EvaluationSettings(resamples=200)).sections
    for name in ("AP", "AP50", "AP75", "AR100", "F1@50", "reward", "AP/cat"):
        found = section.estimates[name]
        assert found.low is not None
        assert found.high is not None
        assert found.value is not None
        assert found.low < found.value < found.high, name
    assert section.estimates["AP/cow"] == Estimate(value=None, n=100)
    value, drawn = section.estimates["AP"].value or 0.0, np.array(section.draws["AP"], dtype=float)
    bias = drawn.mean() - value
    assert bias > 0.002
    assert section.estimates["AP"].low == pytest.approx(np.quantile(drawn, 0.025) - bias, abs=1e-5)
    assert section.estimates["AP"].high == pytest.approx(np.quantile(drawn, 0.975) - bias, abs=1e-5)


def is_large(row: Prediction) -> bool:
    """Whether no true box is small."""
    return all((c - a) * (d - b) > 1100 for a, b, c, d in Target.from_json(row.gts).boxes_xyxy)


def test_one_image_has_no_interval_and_no_verdict() -> None:
    for n_small, is_told in ((1, False), (12, True)):
        small = json.dumps([{"bbox_2d": [5, 5, 20, 20], "label": "cat"}])
        truth = Target(task="detection", size_wh=WH, boxes_xyxy=[[5, 5, 20, 20]], labels=["cat"], categories=["cat"])
        rows = [row for row in answers(0, 0.1) if is_large(row)]
        for i in range(n_small):
            rows[i] = msgspec.structs.replace(rows[i], output=small, gts=truth.to_json())
        good = evaluate(rows, FEW)
        bad = evaluate([msgspec.structs.replace(row, output="[]") for row in rows], FEW)
        found = good.sections[0].estimates["ARs"]
        assert found.value == pytest.approx(1.0)
        assert (found.low is not None, found.high is not None) == (is_told, is_told), n_small
        differences = table_of(compare(good, bad).sections[0], DIFFERENCES)
        assert differences["ARs"][-1] == ("better" if is_told else ""), n_small
        assert differences["AR100"][-1] == "better"


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


def test_no_resamples_give_no_intervals() -> None:
    (section,) = evaluate(answers(0, 0.1), EvaluationSettings(resamples=0)).sections
    assert {(found.low, found.high) for found in section.estimates.values()} == {(None, None)}
    assert section.draws == {}


# --- reward and metric -----------------------------------------------------------------------------------------------


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


WORDS = {
    "higher": (
        Estimate(value=0.8, low=0.7, high=0.9),
        "higher reward goes with higher F1 here: Spearman 0.80 [0.70, 0.90]",
    ),
    "lower": (Estimate(value=-0.5, low=-0.7, high=-0.3), "goes with LOWER F1 here: Spearman -0.50"),
    "none": (Estimate(value=0.1, low=-0.1, high=0.3), "no relation of reward and F1 shows here"),
    "same": (Estimate(value=None), "the same for all rows"),
    "no interval": (Estimate(value=0.9), "reward and F1: Spearman 0.90, without an interval, which may be chance"),
}


@pytest.mark.parametrize(("rho", "words"), WORDS.values(), ids=WORDS)
def test_what_a_correlation_says(rho: Estimate, words: str) -> None:
    assert words in in_words("F1", rho)


def test_the_table_by_reward_rises_where_the_reward_tells() -> None:
    (section,) = evaluate(answers(0, 0.1, n=100), msgspec.structs.replace(FEW, stage="off")).sections
    table = next(table for table in section.tables if table.name == "by reward")
    f1, ap = (
        np.array([line[table.columns.index(name)] for line in table.rows], dtype=float) for name in ("F1@50", "AP")
    )
    assert sum(int(line[2] or 0) for line in table.rows) == 100
    assert f1[-1] > f1[0]
    assert ap[-1] > ap[0]
    assert section.correlations[0].words.startswith("higher reward goes with higher F1@50 here: Spearman 0.")


# --- the same numbers as training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["visionr1", "vlmr1-rec", "visionr1-paper"])
def test_means_are_those_of_the_rewards_own_road(preset: str) -> None:
    rows = answers(1, 0.05, processed_wh=(644, 476))
    settings = EvaluationSettings(preset=preset, frame="qwen2.5-vl", resamples=0)
    means = evaluate(rows, settings).training["coco"]
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


def test_the_frame_and_the_stage_matter() -> None:
    rows = answers(1, 0.05)
    means = [
        evaluate(rows, EvaluationSettings(resamples=0, **options)).training["coco"]
        for options in ({}, {"stage": "off"}, {"frame": "qwen2.5-vl"}, {"frame": "qwen2-vl"})
    ]
    assert means[0]["reward"] != means[1]["reward"]
    assert means[0]["f1_50"] == means[1]["f1_50"]
    assert means[0]["iou_mean"] > means[2]["iou_mean"] > means[3]["iou_mean"]
    fixed = EvaluationSettings(resamples=0, frame="qwen2.5-vl", processing=Processing(fixed_wh=WH))
    assert evaluate(rows, msgspec.structs.replace(fixed, stage="off")).training["coco"] == means[1]
    easier = evaluate(rows, fixed).training["coco"]
    assert easier["reward"] > means[0]["reward"], "models of this family stay at the first stage by default"
    assert easier["f1_50"] == means[0]["f1_50"]


def test_samples_are_averaged_within_their_prompt_first() -> None:
    first, second = answers(0, 0.0, n=2)
    empty = msgspec.structs.replace(first, output="[]", sample=1)
    rewards = evaluate([first, empty, second], EvaluationSettings(resamples=0))
    values = [row.reward for row in rewards.rows]
    assert rewards.training["coco"]["reward"] == pytest.approx((np.mean(values[:2]) + values[2]) / 2)


# --- what cannot be evaluated ----------------------------------------------------------------------------------------

GOOD = answers(0, 0.0, n=1)[0]
BAD_ROWS = {
    "none": ([], "no prediction"),
    "twice": ([GOOD, GOOD], "val.parquet: row 0, sample 0: answered twice"),
    "no truth": ([msgspec.structs.replace(GOOD, gts="{}")], "val.parquet: row 0, sample 0: ground truth"),
}


@pytest.mark.parametrize(("rows", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_rows_that_cannot_be_evaluated(rows: list[Prediction], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        evaluate(rows)


BAD_SETTINGS: dict[str, tuple[dict[str, Any], type[ValueError], str]] = {
    "confidence": ({"confidence": "sure"}, EvaluationError, "confidence = 'sure'"),
    "family": ({"metrics": ("map",)}, EvaluationError, "metrics = 'map'"),
    "resamples": ({"resamples": -1}, EvaluationError, "resamples = -1"),
    "frame": ({"frame": "pixels"}, FrameError, "frame = 'pixels'"),
    "preset": ({"preset": "best"}, RewardError, "preset = 'best'"),
    "route": ({"routes": {"counting": "visionr1"}}, RewardError, "routes.counting: visionr1 judges"),
    "format": ({"answer_format": "xml"}, EvaluationError, "answer_format = 'xml'"),
}


@pytest.mark.parametrize(("options", "kind", "message"), BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_settings_that_cannot_be(options: dict[str, Any], kind: type[ValueError], message: str) -> None:
    with pytest.raises(kind, match=message):
        evaluate([GOOD], EvaluationSettings(**options))


def test_another_answer_format_is_read() -> None:
    text = "cat-[0.100,0.100,0.500,0.500]"
    truth = Target(task="grounding", size_wh=(1000, 1000), boxes_xyxy=[[100, 100, 500, 500]], labels=["cat"])
    row = msgspec.structs.replace(GOOD, output=text, gts=truth.to_json())
    (section,) = evaluate([row], EvaluationSettings(answer_format="griffon", frame="unit", resamples=0)).sections
    assert section.estimates["REC@75"].value == 1.0


# --- several data sources, the report --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed() -> Evaluation:
    rows = [*answers(0, 0.05, source="b|x\n", file="b"), *answers(1, 0.2, source="a", file="a")]
    count = Target(task="counting", size_wh=WH, count=2, categories=["cat"]).to_json()
    fields: dict[str, Any] = {"data_source": "counts", "file": "c", "uid": ""}
    rows += [Prediction(input="", output=text, gts=count, row=i, **fields) for i, text in enumerate("2322")]
    return evaluate(rows, FEW, model="run")


def test_each_data_source_and_task_has_its_own_numbers(mixed: Evaluation) -> None:
    keys = [section.key for section in mixed.sections]
    assert keys == [("a", "detection"), ("b|x\n", "detection"), ("counts", "counting")]
    (average,) = mixed.averages
    for name in ("AP", "F1@50", "reward"):
        values = [section.estimates[name].value or 0.0 for section in mixed.sections[:2]]
        assert average.estimates[name].value == pytest.approx(np.mean(values))
    assert set(mixed.training) == {"a", "b|x\n", "counts"}


def test_data_sources_are_drawn_apart() -> None:
    rows = [row for name in ("a", "b") for row in answers(0, 0.1, source=name, file=name)]
    found = evaluate(rows, FEW)
    first, second = found.sections
    assert first.estimates["AP"].value == second.estimates["AP"].value
    assert np.corrcoef(first.draws["AP"], second.draws["AP"])[0, 1] < 0.5
    mean, alone = found.averages[0].estimates["reward"], first.estimates["reward"]
    widths = [(one.high or 0.0) - (one.low or 0.0) for one in (mean, alone)]
    assert widths[0] == pytest.approx(widths[1] / np.sqrt(2), rel=0.3)


def test_the_report_is_read_back(mixed: Evaluation, tmp_path: Path) -> None:
    save(mixed, tmp_path / "out" / "evaluation.json")
    assert load(tmp_path / "out" / "evaluation.json") == mixed
    (tmp_path / "out" / "evaluation.rows.jsonl").unlink()
    assert load(tmp_path / "out" / "evaluation.json") == msgspec.structs.replace(mixed, rows=[])
    plain = json.loads((tmp_path / "out" / "evaluation.json").read_bytes())
    assert plain["version"] == 1
    assert "rows" not in plain
    assert plain["made_with"]["numpy"]


def test_reports_that_cannot_be_read(mixed: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_bytes(mixed.to_json().replace(b'"version": 1', b'"version": 0', 1))
    (tmp_path / "no.json").write_text('{"AP": 1}')
    for name, kind, message in (
        ("old.json", EvaluationError, r"old.json: .* `\$.version`"),
        ("no.json", EvaluationError, "no.json: not a report"),
        ("gone.json", RowsError, "cannot be read"),
    ):
        with pytest.raises(kind, match=message):
            load(tmp_path / name)


def test_markdown_shows_every_number_and_obeys_nothing(mixed: Evaluation) -> None:
    text = markdown(mixed)
    for section in (*mixed.sections, *mixed.averages):
        for name, found in section.estimates.items():
            assert name in text if "/" not in name else True
            assert found.value is None or f"{found.value:.3f}" in text
        for correlation in section.correlations:
            assert correlation.words in text
    assert "## b\\|x  (detection)" in text
    for line in text.splitlines():
        assert line.isprintable()
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len(tables) > 30


# --- one model against another ---------------------------------------------------------------------------------------


def test_against_itself_nothing_differs(mixed: Evaluation) -> None:
    for section in compare(mixed, mixed).sections:
        for _, here, there, difference, low, _, verdict in table_of(section, DIFFERENCES).values():
            assert (here == there, verdict) == (True, "")
            assert {difference, low} <= {0.0, None}
        for _, _, rose, fell, *_ in table_of(section, ROW_BY_ROW).values():
            assert {rose, fell} <= {0, ""}


def test_the_better_model_is_better_and_pairs_are_narrower() -> None:
    good, bad = (evaluate(answers(0, noise), EvaluationSettings(resamples=300)) for noise in (0.02, 0.06))
    elsewhere = [msgspec.structs.replace(row, image_id=f"x{row.row}") for row in answers(0, 0.06)]
    (section,), (apart,) = (
        compare(good, one).sections for one in (bad, evaluate(elsewhere, EvaluationSettings(resamples=300)))
    )
    assert (len(section.notes), len(apart.notes)) == (0, 1), "unpaired intervals are named"
    paired, unpaired = table_of(section, DIFFERENCES), table_of(apart, DIFFERENCES)
    assert {name: row[3] for name, row in paired.items()} == {name: row[3] for name, row in unpaired.items()}
    assert paired["AP75"][-1] == paired["mean IoU"][-1] == "better"
    assert table_of(compare(bad, good).sections[0], DIFFERENCES)["AP75"][-1] == "worse"
    widths = [some["mean IoU"][5] - some["mean IoU"][4] for some in (paired, unpaired)]
    assert widths[0] < 0.5 * widths[1], "the same boxes are found by both"
    text = markdown(good, bad)
    assert text.index("## Against the other evaluation") < text.index("## coco (detection)")
    assert "better" in text


def test_row_by_row_is_what_a_hand_counts() -> None:
    base, changed = answers(0, 0.0, n=6), answers(0, 0.0, n=6)
    changed[0] = msgspec.structs.replace(changed[0], output="[]")
    changed[1] = msgspec.structs.replace(changed[1], output=changed[1].output[:-1])  # no longer well-formed
    ours, theirs = evaluate(changed, FEW), evaluate(base, FEW)
    rows = table_of(compare(ours, theirs).sections[0], ROW_BY_ROW)
    assert rows["F1@50"][1:4] == [6, 0, 1]
    assert rows["reward up, F1@50 down"][1] == 0
    differing = [a.reward - b.reward for a, b in zip(ours.rows, theirs.rows, strict=True)]
    assert rows["reward"][4] == pytest.approx(np.mean(differing))
    assert table_of(compare(theirs, ours).sections[0], ROW_BY_ROW)["F1@50"][1:4] == [6, 1, 0]


def test_what_does_not_compare_is_said(mixed: Evaluation) -> None:
    other = evaluate(answers(0, 0.05, source="a"), msgspec.structs.replace(FEW, confidence="order"))
    settings, alone = compare(mixed, other).notes
    assert alone.startswith("only here: b|x\n (detection), ")
    assert settings.endswith("do not compare: confidence: constant, theirs order")
    assert "settings differ" in markdown(mixed, other)


def test_two_models_that_speak_otherwise_compare(mixed: Evaluation) -> None:
    other = msgspec.structs.replace(
        mixed, settings=msgspec.structs.replace(FEW, frame="qwen3-vl", max_tokens=99, resamples=9, preset="vlm-r1")
    )
    names = [note.split(": ")[1] for note in compare(mixed, other).notes]
    assert names == ["preset", "frame", "max_tokens", "resamples"], "what does not compare comes first"
    text = markdown(mixed, other)
    assert text.count("the numbers do not compare") == 1
    assert "* differs, as it may between models and runs: frame: original, theirs qwen3-vl\n" in text
    assert "\n\n\n" not in markdown(mixed, mixed)


def test_the_report_names_the_models(mixed: Evaluation) -> None:
    ours = evaluate(answers(0, 0.1), FEW, model="out/a|b")
    assert markdown(ours).startswith("# Evaluation of out/a\\|b\n")
    assert "## Against the other evaluation, of out/a\\|b\n" in markdown(mixed, ours)


def test_averages_over_other_data_sources_are_not_compared() -> None:
    one, other = (
        evaluate([row for name in names for row in answers(0, 0.1, source=name, file=name)], FEW)
        for names in (("a", "b"), ("a", "c"))
    )
    assert [section.source for section in compare(one, other).sections] == ["a"]
    assert [section.source for section in compare(one, one).sections] == ["a", "b", "mean of 2 data sources"]


def test_rows_of_other_images_are_not_held_against_each_other() -> None:
    one = evaluate(answers(0, 0.1), FEW)
    moved = [msgspec.structs.replace(row, image_id=f"x{row.row}") for row in answers(0, 0.1)]
    assert table_of(compare(one, evaluate(moved, FEW)).sections[0], ROW_BY_ROW) == {}
