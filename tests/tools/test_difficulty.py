"""`visionr1 difficulty`: pass rates by hand, what is chosen, and the command."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from difficulty_data import (
    a_dump,
    box_row,
    count_row,
    filtered_by,
    rates_of,
    rollouts_of,
    run,
    some_rows,
    write_data,
    write_dump,
)

from verl_visionr1 import PRESETS
from verl_visionr1.files import RowError
from verl_visionr1.rewards.composition import preset_to_dict
from verl_visionr1.rollouts.records import Counts
from verl_visionr1.rollouts.run import Start, write_run
from verl_visionr1.rollouts.training_rows import NOTHING, read_training_rows
from verl_visionr1.tools.difficulty.filtering import Report
from verl_visionr1.tools.difficulty.selection import Rules, select


@pytest.mark.parametrize(
    ("metric", "bar", "passes"),
    [("iou_mean", 0.6, True), ("iou_mean", 0.61, False), ("f1_50", 1.0, True), ("accuracy", 0.5, True)],
)
def test_an_answer_passes_by_its_metric(metric: Any, bar: float, passes: bool, tmp_path: Path) -> None:
    rows = [box_row(0), count_row()]
    said = json.dumps([{"bbox_2d": [0, 100, 100, 160], "label": "cat"}])  # IoU .6
    dumped = [rollouts_of(rows[0], 1, 1)[0] | {"output": said}, *rollouts_of(rows[1], 1, 2)]
    data = read_training_rows([write_data(tmp_path / "d.parquet", rows)])
    found, rates = rates_of(data, write_dump(tmp_path / "1.jsonl", dumped), metric=metric, bar=bar)
    assert rates == [f"{passes:d}/1", "1/2"]
    assert found.metrics == {"counting": "accuracy", "grounding": metric}


def test_too_few_samples_are_none(tmp_path: Path) -> None:
    rows = [count_row(i) for i in range(3)]
    file = write_data(tmp_path / "d.parquet", rows)
    dump = write_dump(tmp_path / "1.jsonl", [*rollouts_of(rows[0], 1, 3), *rollouts_of(rows[1], 1, 4)])
    report = filtered_by(dump, [file], min_samples=4)
    expected = {"total": 3, "rated": 1, "not_in_dump": 1, "few_samples": 1, "ambiguous": 0, "chosen": 3}
    assert report.rows == expected
    assert report.overall.rate == 0.25


def test_the_frame_reaches_the_judging(tmp_path: Path) -> None:
    row = box_row(0)
    file = write_data(tmp_path / "d.parquet", [row])
    said = json.dumps([{"bbox_2d": [0, 100 / 480 * 1000, 100 / 640 * 1000, 200 / 480 * 1000], "label": "cat"}])
    dump = write_dump(tmp_path / "1.jsonl", [one | {"output": said} for one in rollouts_of(row, 1, 2)])
    for frame, rate in (("qwen3-vl", 1.0), ("original", 0.0)):
        result = run(dump, "--data", file, "--frame", frame, "--json")
        assert json.loads(result.stdout)["overall"]["rate"] == rate


def chosen(rates: Sequence[float | None], counts: Sequence[int] | None = None, **rules: Any) -> list[int]:
    n = len(rates)
    known = np.array([np.nan if rate is None else rate for rate in rates], dtype=float)
    which = np.full(n, NOTHING) if counts is None else np.array(counts)
    return select(known, np.zeros(n, dtype=np.int64), which, Rules(**rules)).tolist()


def test_bounds_are_inclusive() -> None:
    rates = [0.0, 0.3, 0.5, 3 / 10, 0.7, 1.0, None]
    assert chosen(rates, min_rate=0.3, max_rate=0.7) == [1, 2, 3, 4, 6]
    assert chosen(rates, min_rate=0.3, max_rate=0.7, unseen="drop") == [1, 2, 3, 4]
    assert chosen(rates) == list(range(7))


def test_the_draw_is_the_same_on_every_machine() -> None:
    assert chosen([0.5] * 12, limit=4) == [6, 7, 8, 9]


def test_a_limit_keeps_the_shares_of_counts_and_rates() -> None:
    rates = [0.0, 0.25, 0.5, 1.0] * 100
    counts = [1 + i % 5 // 2 for i in range(400)]
    rows = chosen(rates, counts, limit=100)
    assert len(rows) == 100
    before, after = Counter(counts), Counter(counts[row] for row in rows)
    assert all(abs(after[count] - before[count] / 4) <= 1 for count in before)
    before, after = Counter(rates), Counter(rates[row] for row in rows)
    assert all(abs(after[rate] - before[rate] / 4) <= 3 for rate in before)


def mixed(folder: Path) -> tuple[Path, Path]:
    """Data of boxes and of counts, and a dump."""
    rows = [*some_rows(20, embed=False), *(count_row(i % 3, f"How many of {i}?") for i in range(20))]
    return write_data(folder / "d.parquet", rows), a_dump(folder / "run" / "1.jsonl", rows)


def test_the_command_says_what_the_function_says(tmp_path: Path) -> None:
    file, dump = mixed(tmp_path)
    out = tmp_path / "out.parquet"
    result = run(dump.parent, "--data", file, "--out", out, "--max-rate", 0.5, "--json")
    assert result.exit_code == 0
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == ["no visionr1_run.json"]
    report = filtered_by(dump, [file], tmp_path / "other.parquet", max_rate=0.5)
    said = msgspec.convert(json.loads(result.stdout), Report, strict=False)
    assert said == msgspec.structs.replace(report, out=str(out))
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "other.parquet"))
    expected = {"total": 40, "rated": 32, "not_in_dump": 8, "few_samples": 0, "ambiguous": 0, "chosen": 32}
    assert report.rows == expected
    counts = {count: (part.before, part.after) for count, part in report.counts.items()}
    assert counts == {0: (7, 5), 1: (7, 6), 2: (6, 5)}
    bins = {(one.low, one.high): (one.before, one.after) for one in report.histogram if one.before}
    assert bins == {(0.0, 0.0): (8, 8), (0.2, 0.3): (8, 8), (0.5, 0.6): (8, 8), (0.7, 0.8): (8, 0)}
    assert len(report.histogram) == 12
    assert report.notes == []


@pytest.mark.parametrize("place", [".", "validation", "validation/8.jsonl"])
def test_validation_alone_is_not_taken_for_training(place: str, tmp_path: Path) -> None:
    rows = some_rows(20, embed=False)
    data, other = write_data(tmp_path / "val.parquet", rows), write_data(tmp_path / "train.parquet", [box_row(99)])
    named = ("checkpoint_dir", "checkpoints"), ("validation_dir", "validation"), ("rollout_dir", "rollouts")
    folders: dict[str, Any] = {name: str(tmp_path / folder) for name, folder in named}
    start = Start(
        presets=[preset_to_dict(PRESETS["visionr1"])], frame="original", train_files=[str(other)],
        **folders,
    )  # fmt: skip
    write_run(start)
    a_dump(tmp_path / "validation" / "8.jsonl", rows)
    found = run(tmp_path / place)
    assert (found.exit_code, found.stdout) == (2, "")
    assert "trainer.rollout_data_dir" in found.stderr
    assert run(tmp_path / place, "--data", data).exit_code == 0
    write_dump(tmp_path / "rollouts" / "8.jsonl", rollouts_of(box_row(99), 2, 4))
    assert run(tmp_path).exit_code == 0


def test_the_table(tmp_path: Path) -> None:
    file, dump = mixed(tmp_path)
    result = run(dump, "--data", file)
    assert result.exit_code == 0
    lines = [" ".join(line.replace("│", " ").split()) for line in result.stdout.splitlines()]
    for line in (
        "pass: counting: accuracy, grounding: accuracy >= 0.5 (visionr1, frame original)",
        f"0.2..0.3 8 {'#' * 30} 8",
        "unseen 8 8",
        "40 rows: 32 with a pass rate, 8 not in the dump, 0 with too few samples, 0 ambiguous",
        "rollouts: 128 matched to a row, 0 ambiguous, 0 of another question, 0 not in the data",
        "40 of 40 rows selected; nothing written (use --out)",
    ):
        assert line in lines, result.stdout


@pytest.mark.parametrize("n", [0, 1, 40])
def test_the_view_takes_any_number_of_counts(n: int, tmp_path: Path) -> None:
    rows = [box_row(), *(count_row(i) for i in range(n))]
    file = write_data(tmp_path / "d.parquet", rows)
    shown = run(a_dump(tmp_path / "1.jsonl", rows), "--data", file).stdout
    assert ("20 more: --json" in shown) is (n == 40)


def test_bad_rows_fail_or_are_skipped(tmp_path: Path) -> None:
    rows = some_rows(4, embed=False)
    file = write_data(tmp_path / "d.parquet", rows)
    table = pq.read_table(file)
    spoilt = table.to_pylist()
    spoilt[3]["reward_model"]["ground_truth"] = "42"
    pq.write_table(pa.Table.from_pylist(spoilt, table.schema), file)
    dump = a_dump(tmp_path / "1.jsonl", rows[:3])
    with open(dump, "a") as lines:
        lines.write("broken\n")
    with pytest.raises(RowError, match=r"d\.parquet: row 3: reward_model\.ground_truth '42'.*convert it again"):
        read_training_rows([file])
    result = run(dump, "--data", file, "--on-error", "skip", "--json", "--out", tmp_path / "out" / "o.parquet")
    report = json.loads(result.stdout)
    assert (report["rollouts"]["skipped"], report["rows"]["rated"], report["rows"]["chosen"]) == (2, 3, 4)
    assert len(result.stderr.splitlines()) == 3, "what is assumed without a run file, and two skipped rows"
    counts = Counts()
    assert read_training_rows([file], on_error="skip", counts=counts).truths.tolist() == [0, 1, 2, NOTHING]
    assert counts.n_skipped == 1


MISTAKES = {
    "no such dump": (["nothing.jsonl", "--data", "{data}"], "nothing.jsonl: no such file or folder"),
    "data twice": (["{dump}", "--data", "{data}", "--data", "{data}"], "given twice"),
    "data of other columns": (["{dump}", "--data", "{data}", "--data", "{embed}"], "columns differ"),
    "data without prompts": (["{dump}", "--data", "{bare}"], "no column 'prompt'"),
    "empty dump": (["{empty}", "--data", "{data}"], "dumps are empty"),
    "another run's dump": (["{dump}", "--data", "{embed}"], "none of 4 rollouts matches a row of e.parquet: 4 have a"),
    "few samples": (["{dump}", "--data", "{data}", "--min-samples", "9"], "no row has 9 rollouts or more"),
    "nothing left": (
        ["{dump}", "--data", "{data}", "--min-rate", "1", "--unseen", "drop"],
        "no row selected: 1 of 2 rows have a pass rate, none in 1..1",
    ),
    "bar": (["{dump}", "--data", "{data}", "--bar", "0"], "--bar 0.0"),
    "bar of nan": (["{dump}", "--data", "{data}", "--bar", "nan"], "--bar nan"),
    "bounds": (["{dump}", "--data", "{data}", "--min-rate", "0.9", "--max-rate", "0.1"], "the first not above"),
    "out over data": (["{dump}", "--data", "{data}", "--out", "{data}"], "would overwrite"),
    "out among dumps": (["{folder}", "--data", "{data}", "--out", "{folder}/o.parquet"], "{folder}/o.parquet: "),
    "out of no kind": (["{dump}", "--data", "{data}", "--out", "o.json"], "verl reads only names that end in .parquet"),
}


@pytest.mark.parametrize(("args", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(args: list[str], message: str, tmp_path: Path) -> None:
    rows = [box_row(0), box_row(1)]
    data = write_data(tmp_path / "d.parquet", rows)
    dump = write_dump(tmp_path / "run" / "1.jsonl", rollouts_of(rows[0], 2, 4))
    (tmp_path / "empty.jsonl").write_text("\n")
    pq.write_table(pq.read_table(data).drop_columns(["prompt"]), tmp_path / "bare.parquet")
    names = {
        "data": data,
        "dump": dump,
        "folder": dump.parent,
        "empty": tmp_path / "empty.jsonl",
        "bare": tmp_path / "bare.parquet",
        "embed": write_data(tmp_path / "e.parquet", [box_row(9, image=b"a")]),
    }
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    result = run(*(arg.format_map(names) for arg in args))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("visionr1 difficulty: ")
    assert message.format_map(names) in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
