"""The report of an evaluation, and one model against another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from answered import FEW, WH, answers, table_of

from verl_visionr1 import Target
from verl_visionr1.evaluation.comparison import DIFFERENCES, ROW_BY_ROW, compare
from verl_visionr1.evaluation.evaluating import evaluate
from verl_visionr1.evaluation.markdown import markdown
from verl_visionr1.evaluation.predictions import Prediction
from verl_visionr1.evaluation.records import Evaluation, load, save
from verl_visionr1.evaluation.settings import EvaluationError, EvaluationSettings
from verl_visionr1.files import RowsError


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


def test_against_itself_nothing_differs(mixed: Evaluation) -> None:
    for section in compare(mixed, mixed).sections:
        for _, here, there, difference, low, _, verdict in table_of(section, DIFFERENCES).values():
            assert (here == there, verdict) == (True, "")
            assert {difference, low} <= {0.0, None}
        for _, _, rose, fell, *_ in table_of(section, ROW_BY_ROW).values():
            assert {rose, fell} <= {0, ""}


def test_the_better_model_is_better_and_pairs_are_narrower() -> None:
    good, bad = (evaluate(answers(0, noise), EvaluationSettings(resamples=100)) for noise in (0.02, 0.06))
    elsewhere = [msgspec.structs.replace(row, image_id=f"x{row.row}") for row in answers(0, 0.06)]
    (section,), (apart,) = (
        compare(good, one).sections for one in (bad, evaluate(elsewhere, EvaluationSettings(resamples=100)))
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
    assert settings.endswith("confidence: constant, theirs order")
    assert "settings differ" in markdown(mixed, other)


def test_two_models_that_speak_otherwise_compare(mixed: Evaluation) -> None:
    other = msgspec.structs.replace(
        mixed, settings=msgspec.structs.replace(FEW, frame="qwen3-vl", max_tokens=99, resamples=9, preset="vlm-r1")
    )
    names = [note.split(": ")[1] for note in compare(mixed, other).notes]
    assert names == ["preset", "frame", "max_tokens", "resamples"], "what does not compare comes first"
    text = markdown(mixed, other)
    assert text.count("settings differ") == 1
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
