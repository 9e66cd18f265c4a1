"""The report of an evaluation, and one model against another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from answered import FEW, WH, answers, evaluated, table_of

from verl_visionr1 import Target
from verl_visionr1.evaluation import average_precision
from verl_visionr1.evaluation.comparison import DIFFERENCES, ROW_BY_ROW, compare
from verl_visionr1.evaluation.markdown import markdown
from verl_visionr1.evaluation.predictions import Prediction
from verl_visionr1.evaluation.records import Evaluation, load, save
from verl_visionr1.evaluation.settings import EvaluationError, EvaluationSettings
from verl_visionr1.files import RowsError


@pytest.fixture(scope="module", autouse=True)
def few_orders() -> Iterator[None]:
    """Fewer random orders of tied images: each takes a while."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(average_precision, "N_ORDERS", 5)
        yield


@pytest.fixture(scope="module")
def mixed() -> Evaluation:
    rows = [*answers(0, 0.05, n=20, source="b|x\n", file="b"), *answers(1, 0.2, n=20, source="a", file="a")]
    count = Target(task="counting", size_wh=WH, count=2, categories=["cat"]).to_json()
    fields: dict[str, Any] = {"data_source": "counts", "file": "c", "uid": ""}
    rows += [Prediction(input="", output=text, gts=count, row=i, **fields) for i, text in enumerate("2322")]
    return evaluated(rows, FEW, model="run")


def test_each_data_source_and_task_has_its_own_numbers(mixed: Evaluation) -> None:
    keys = [section.key for section in mixed.sections]
    assert keys == [("a", "detection"), ("b|x\n", "detection"), ("counts", "counting")]
    (average,) = mixed.averages
    for name in ("AP", "F1@50", "reward"):
        values = [section.estimates[name].value or 0.0 for section in mixed.sections[:2]]
        assert average.estimates[name].value == pytest.approx(np.mean(values))
    assert set(mixed.training) == {"a", "b|x\n", "counts"}


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
    save(mixed, tmp_path / "new.json")
    whole = (tmp_path / "new.json").read_bytes()
    (tmp_path / "old.json").write_bytes(whole.replace(b'"version": 1', b'"version": 0', 1))
    (tmp_path / "no.json").write_text('{"AP": 1}')
    for name, kind, message in (
        ("old.json", EvaluationError, r"old.json: .* `\$.version`"),
        ("no.json", EvaluationError, "no.json: not a report"),
        ("gone.json", RowsError, "gone.json"),
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
    good, bad = (evaluated(answers(0, noise), EvaluationSettings(resamples=100)) for noise in (0.02, 0.06))
    elsewhere = [msgspec.structs.replace(row, image_id=f"x{row.row}") for row in answers(0, 0.06)]
    (section,), (apart,) = (
        compare(good, one).sections for one in (bad, evaluated(elsewhere, EvaluationSettings(resamples=100)))
    )
    assert (len(section.notes), len(apart.notes)) == (0, 1), "unpaired intervals are named"
    assert table_of(apart, ROW_BY_ROW) == {}, "no common rows"
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
    ours, theirs = evaluated(changed, FEW), evaluated(base, FEW)
    rows = table_of(compare(ours, theirs).sections[0], ROW_BY_ROW)
    assert rows["F1@50"][1:4] == [6, 0, 1]
    assert rows["reward up, F1@50 down"][1] == 0
    differing = [a.reward - b.reward for a, b in zip(ours.rows, theirs.rows, strict=True)]
    assert rows["reward"][4] == pytest.approx(np.mean(differing))
    assert table_of(compare(theirs, ours).sections[0], ROW_BY_ROW)["F1@50"][1:4] == [6, 1, 0]


def test_what_does_not_compare_is_said(mixed: Evaluation) -> None:
    other = msgspec.structs.replace(FEW, confidence="order")
    alone, own, may = compare(mixed, evaluated(answers(0, 0.05, n=5, source="a"), other, max_tokens=9)).notes[::-1]
    assert alone.startswith("only here: b|x\n (detection), ")
    assert sorted(note.split(": ")[1] for note in (own, may)) == ["confidence", "max_tokens"]


def test_equal_rows_of_other_sources_are_drawn_apart_and_averaged() -> None:
    found = evaluated([row for name in "ab" for row in answers(0, 0.1, n=8, source=name, file=name)], FEW)
    first, second = found.sections
    assert first.estimates["AP"].value == second.estimates["AP"].value == found.averages[0].estimates["AP"].value
    assert first.draws["AP"] != second.draws["AP"]


def test_averages_over_other_data_sources_are_not_compared() -> None:
    one, other = (
        evaluated([row for name in names for row in answers(0, 0.1, n=5, source=name, file=name)], FEW)
        for names in (("a", "b"), ("a", "c"))
    )
    assert [section.source for section in compare(one, other).sections] == ["a"]
    assert [section.source for section in compare(one, one).sections] == ["a", "b", "mean of 2 data sources"]
