"""`visionr1 difficulty`: rows found again, pass rates by hand, what is chosen, and the file that is written."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from verl_visionr1 import PRESETS, Target, rewriting
from verl_visionr1.cli import app
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.frames import FRAMES
from verl_visionr1.images import RowImage
from verl_visionr1.rollouts import finding
from verl_visionr1.rollouts.finding import Finder
from verl_visionr1.rollouts.judging import Judging
from verl_visionr1.rollouts.records import Counts, read_rollouts
from verl_visionr1.rollouts.training_rows import NOTHING, TrainingRows, bare, read_training_rows
from verl_visionr1.row_writer import RowWriter
from verl_visionr1.rows import Row, read_rows
from verl_visionr1.tools.difficulty.filtering import COLUMNS, filter_by_difficulty
from verl_visionr1.tools.difficulty.rates import measure
from verl_visionr1.tools.difficulty.report import Report
from verl_visionr1.tools.difficulty.selection import Bar, Rules, select
from verl_visionr1.tools.difficulty.view import view_of
from verl_visionr1.tools.doctor import check_parquet

ROOT = Path(__file__).parents[2]
WH = (640, 480)
JUDGING = Judging(PRESETS["visionr1"], FRAMES["original"])


def box_row(x: int = 0, question: str = "Where is the cat?", source: str = "boxes", image: str | bytes = "a") -> Row:
    target = Target(task="grounding", size_wh=WH, boxes_xyxy=[[x, 100, x + 100, 200]], labels=["cat"])
    return row_of(target, question, source, image)


def count_row(
    count: int = 1, question: str = "How many cats?", source: str = "counts", image: str | bytes = "a"
) -> Row:
    return row_of(Target(task="counting", size_wh=WH, count=count), question, source, image)


def row_of(target: Target, question: str, source: str, image: str | bytes) -> Row:
    """A row; an image of text is a path, of bytes an embedded file."""
    path, data = (f"/images/{image}.png", None) if isinstance(image, str) else ("/images/x.png", image)
    return Row(
        data_source=source,
        question=question,
        image=RowImage(path, data, WH, WH),
        target=target,
        image_id=str(image)[:20],
    )


def write_data(path: Path, rows: Iterable[Row], **provenance: Any) -> Path:
    rows = list(rows)
    with RowWriter(path, embed=rows[0].image.data is not None, provenance={"made_by": "a test", **provenance}) as to:
        for row in rows:
            to.write(row)
    return path


def answer(row: Row, passes: bool) -> str:
    """What is right for a row, or wrong."""
    if row.target.task == "counting":
        return str((row.target.count or 0) + (not passes))
    x1, y1, x2, y2 = row.target.boxes_xyxy[0]
    return json.dumps([{"bbox_2d": [x1, y1, x2, y2 if passes else y1 + 10], "label": "cat"}])


def in_template(question: str) -> str:
    """A prompt as verl's dumps hold it: decoded without special tokens."""
    return f"user\n{question}\nassistant\n"


def rollouts_of(row: Row, n_passed: int, n: int, uid: str = "") -> list[dict[str, Any]]:
    """n rollouts of a row in the layout of verl's training dumps, `n_passed` of them right."""
    truth, prompt = row.target.to_json(), in_template(row.question)
    return [
        {"input": prompt, "output": answer(row, i < n_passed), "gts": truth, "score": 0.5, "step": 1}
        | {"uid": f"{uid or hash((truth, prompt))}_{i}_0"}
        for i in range(n)
    ]


def write_dump(path: Path, rollouts: Iterable[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rollouts))
    return path


def rates_of(data: TrainingRows, dump: Path, *, bar: Bar | None = None, match: Any = "prompt") -> tuple[Any, list[Any]]:
    """(all numbers, pass rate of each row as a fraction of its samples, None where it has none)."""
    rates = measure(read_rollouts([dump], columns=COLUMNS), data, JUDGING, bar or Bar(), Finder(data, match))
    samples, passed = rates.samples[data.prompts], rates.passed[data.prompts]
    return rates, [f"{p}/{n}" if n else None for p, n in zip(passed, samples, strict=True)]


def filtered_by(dump: Path, data: Sequence[Path], out: Path | None = None, **options: Any) -> Report:
    names = {"match", "min_samples", "skipped"} & set(options)
    others = {name: options.pop(name) for name in names}
    bar = options.pop("bar", Bar())
    rollouts = read_rollouts([dump], columns=COLUMNS)
    return filter_by_difficulty(rollouts, read_training_rows(data), JUDGING, bar, Rules(**options), out=out, **others)


# ------------------------------------------------------------------------------------------------ rows found again


def test_a_row_is_found_by_its_ground_truth(tmp_path: Path) -> None:
    rows = [box_row(0), box_row(10), box_row(20)]
    data = read_training_rows([write_data(tmp_path / "d.parquet", rows)])
    dump = write_dump(tmp_path / "1.jsonl", [*rollouts_of(rows[2], 1, 4), *rollouts_of(rows[0], 3, 4)])
    rates, shown = rates_of(data, dump)
    assert shown == ["3/4", None, "1/4"]
    assert rates.fates == {"found": 8}


def test_rows_of_one_truth_are_told_apart_by_their_question(tmp_path: Path) -> None:
    questions = ["How many cats?", "How many cats? Or dogs?", "How  many\ndogs?", "How many"]
    rows = [count_row(question=question, image=str(i)) for i, question in enumerate(questions)]
    data = read_training_rows([write_data(tmp_path / "d.parquet", rows)])
    for i, row in enumerate(rows):  # one question holds another: the longest that the prompt holds is meant
        rates, shown = rates_of(data, write_dump(tmp_path / "1.jsonl", rollouts_of(row, i, 4)))
        assert shown == [f"{i}/4" if j == i else None for j in range(len(rows))]
        assert rates.fates["ambiguous"] == 0


def test_what_the_dump_does_not_tell_is_ambiguous_and_nobodys(tmp_path: Path) -> None:
    twins = [count_row(image=image) for image in "abc"]
    rows = [twins[0], count_row(2), *twins[1:]]
    file = write_data(tmp_path / "d.parquet", rows)
    dump = write_dump(tmp_path / "1.jsonl", [*rollouts_of(twins[0], 4, 4), *rollouts_of(rows[1], 2, 4)])
    report = filtered_by(dump, [file])
    assert (report.rollouts.found, report.rollouts.ambiguous) == (4, 4)
    assert (report.rows.rated, report.rows.ambiguous, report.rows.not_in_dump) == (1, 3, 0)
    unseen, unclear = report.notes
    assert unseen.startswith("3 of 4 selected rows")
    assert f"{file}: row 0 and {file}: row 2;" in unclear


def test_rows_that_never_pass_are_suspicious(tmp_path: Path) -> None:
    """The frame may be wrong, or the ground truth."""
    rows = [count_row(i) for i in range(12)]
    file = write_data(tmp_path / "d.parquet", rows)
    dump = write_dump(tmp_path / "1.jsonl", [one for row in rows for one in rollouts_of(row, 0, 4)])
    (note,) = filtered_by(dump, [file]).notes
    assert note.startswith("100% of 12 rows never pass; check --frame")
    dump = write_dump(tmp_path / "1.jsonl", [one for row in rows for one in rollouts_of(row, 1, 4)])
    assert filtered_by(dump, [file]).notes == []


@pytest.mark.parametrize("embed", [False, True])
def test_rows_that_are_the_same_share_their_rate(embed: bool, tmp_path: Path) -> None:
    images: list[Any] = [b"one", b"one", b"two"] if embed else ["one", "one", "two"]
    rows = [count_row(1, image=images[0]), count_row(1, image=images[1]), count_row(2, image=images[2])]
    data = read_training_rows([write_data(tmp_path / "d.parquet", rows)])
    rates, shown = rates_of(data, write_dump(tmp_path / "1.jsonl", rollouts_of(rows[0], 3, 4)))
    assert shown == ["3/4", "3/4", None]
    assert rates.fates["ambiguous"] == 0
    others = [
        replace(row, image=count_row(image=image).image) for row, image in zip(rows, images[1:] * 2, strict=False)
    ]
    data = read_training_rows([write_data(tmp_path / "e.parquet", others)])
    rates, shown = rates_of(data, write_dump(tmp_path / "1.jsonl", rollouts_of(rows[0], 3, 4)))
    assert rates.fates["ambiguous"] == 4


def test_another_question_is_another_row(tmp_path: Path) -> None:
    rows = [count_row(1), count_row(2)]
    file = write_data(tmp_path / "d.parquet", rows)
    others = rollouts_of(count_row(1, "How many dogs?"), 4, 4)
    dump = write_dump(tmp_path / "1.jsonl", [*rollouts_of(rows[1], 1, 4), *others])
    report = filtered_by(dump, [file])
    assert (report.rollouts.found, report.rollouts.other_question, report.rows.rated) == (4, 4, 1)
    assert "--match truth" in report.notes[0]
    report = filtered_by(dump, [file], match="truth")
    assert (report.rollouts.found, report.rollouts.other_question, report.rows.rated) == (8, 0, 2)


def test_a_truth_that_the_data_do_not_have(tmp_path: Path) -> None:
    file = write_data(tmp_path / "d.parquet", [count_row(1)])
    rollouts = [*rollouts_of(count_row(1), 4, 4), *rollouts_of(count_row(7), 4, 4)]
    report = filtered_by(write_dump(tmp_path / "1.jsonl", rollouts), [file])
    assert (report.rollouts.found, report.rollouts.not_in_data) == (4, 4)
    (note,) = report.notes
    assert note.startswith("4 rollouts have a ground truth that is not in --data")


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, [None, None]),
        ({"extra_info": {"index": "B"}}, [None, "4/4"]),
        ({"extra_info": {"index": 3}}, [None, None]),
        ({"images": ["/images/b.png"]}, [None, "4/4"]),
        ({"image": "images/b.png"}, [None, "4/4"]),
        ({"images": ["/elsewhere/b.png"]}, [None, None]),
        ({"images": [{"bytes": None, "path": "/images/b.png"}]}, [None, "4/4"]),
        ({"images": [{"image": 3}]}, [None, None]),
    ],
    ids=["nothing", "index", "index of no row", "image", "end of a path", "image of no row", "struct", "no image"],
)
def test_tables_of_ones_own_tell_more(told: dict[str, Any], expected: list[str | None], tmp_path: Path) -> None:
    rows = [count_row(image="a"), count_row(image="b")]
    file = write_data(tmp_path / "d.parquet", rows)
    if told.get("extra_info") == {"index": "B"}:
        told = {"extra_info": {"index": [row["extra_info"]["index"] for row in read_rows(file)][1]}}
    dump = write_dump(tmp_path / "1.jsonl", [one | told for one in rollouts_of(rows[0], 4, 4)])
    assert rates_of(read_training_rows([file]), dump)[1] == expected


def test_answers_beside_the_columns_trained_on(tmp_path: Path) -> None:
    """The training file itself, each row as often as it was sampled, with a column more."""
    file = write_data(tmp_path / "d.parquet", [count_row(image=b"a"), count_row(image=b"b"), count_row(2, image=b"b")])
    table = pq.read_table(file)
    sampled = table.take([1, 1, 2, 2]).append_column("response", pa.array(["1", "2", "2", "2"]))
    for columns in (sampled.column_names, ["images", "prompt", "reward_model", "response"]):
        pq.write_table(sampled.select(columns), tmp_path / "own.parquet")
        assert rates_of(read_training_rows([file]), tmp_path / "own.parquet")[1] == [None, "1/2", "2/2"]


def test_a_conversation_is_found_by_all_its_turns(tmp_path: Path) -> None:
    file = write_data(tmp_path / "d.parquet", [count_row(image="a"), count_row(image="b")])
    table = pq.read_table(file)
    rows = table.to_pylist()
    for row, said in zip(rows, ("Be brief.", "Be kind."), strict=True):
        row["prompt"] = [{"role": "system", "content": said}, *row["prompt"]]
    pq.write_table(pa.Table.from_pylist(rows, table.schema), file)
    one = rollouts_of(count_row(), 3, 4)
    dump = write_dump(tmp_path / "1.jsonl", [o | {"input": f"system\nBe kind.\n{o['input']}"} for o in one])
    assert rates_of(read_training_rows([file]), dump)[1] == [None, "3/4"]


WORDS = st.lists(st.sampled_from(["a", "b", "ab", "cat", " ", "\n", "<image>", "use", "?"]), max_size=6)


@given(st.lists(WORDS.map("".join), min_size=1, max_size=60, unique_by=bare), st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_a_prompt_is_always_its_own_rows(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], chance: random.Random
) -> None:
    """Few questions of one truth are looked for one by one, many by the template: both find the same row."""
    texts = [f"{text.replace('<image>', '')} {i % 2}" for i, text in enumerate(texts)]
    texts = list({bare(text): text for text in texts}.values())
    folder = tmp_path_factory.mktemp("data")
    rows = [count_row(question=text, image=str(i)) for i, text in enumerate(texts)]
    data = read_training_rows([write_data(folder / "d.parquet", rows)])
    chance.shuffle(order := list(range(len(rows))))
    dump = write_dump(folder / "1.jsonl", [one for i in order for one in rollouts_of(rows[i], i % 3, 2, uid=f"u{i}")])
    whole = rates_of(data, dump)[1]
    assert whole == [f"{min(i % 3, 2)}/2" for i in range(len(rows))]
    limit, finding._FEW = finding._FEW, 0
    try:
        assert rates_of(data, dump)[1] == whole
    finally:
        finding._FEW = limit


def test_many_questions_of_one_truth_are_found_fast(tmp_path: Path) -> None:
    rows = [count_row(question=f"How many of kind {i}?", image=str(i)) for i in range(3000)]
    finder = Finder(read_training_rows([write_data(tmp_path / "d.parquet", rows)]))
    looked_at = Counter[str]()
    holds = finder._holds
    finder._holds = lambda prompt, question: looked_at.update("x") or holds(prompt, question)  # type: ignore[method-assign]
    dump = write_dump(tmp_path / "1.jsonl", [one for row in rows[:200] for one in rollouts_of(row, 1, 1)])
    found = [finder.prompts_of(rollout) for rollout in read_rollouts([dump], columns=COLUMNS)]
    assert len({prompts for prompts in found if prompts and len(prompts) == 1}) == 200
    assert looked_at["x"] == 3000, "all of them for the first prompt, none for the others"


def test_layouts_of_verl(tmp_path: Path) -> None:
    """verl 0.9.1: training dumps of the v1 trainer and of the older one, validation dumps of both."""
    row = count_row(3)
    data = read_training_rows([write_data(tmp_path / "d.parquet", [row])])
    base = {"input": in_template("How many cats?"), "output": "3", "gts": row.target.to_json(), "score": 1.0, "step": 4}
    layouts: dict[str, dict[str, Any]] = {
        "v1 training": {"uid": "0f3c-11_{i}_0"},
        "v1 validation": {"reward": 1.0, "acc": 1.0, "value": 1.0, "uid": "0f3c-11_{i}_0"},
        "older training": {"acc": 1.0, "processed_w": 644.0, "processed_h": 476.0, "request_id": "9a-{i}"},
        "older validation": {"reward": 1.0, "acc": 1.0},
    }
    for extra in layouts.values():
        rollouts = [base | json.loads(json.dumps(extra).replace("{i}", str(i))) for i in range(4)]
        assert rates_of(data, write_dump(tmp_path / "4.jsonl", rollouts))[1] == ["4/4"]


@pytest.mark.verl
def test_a_prompt_that_went_through_a_tokenizer(tmp_path: Path) -> None:
    """What verl decodes is what the chat template made of the row's prompt, without special tokens."""
    jinja2 = pytest.importorskip("jinja2")
    tokenizers = pytest.importorskip("tokenizers")
    model = ROOT / "recipes/tiny/qwen3_vl_scenes"
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    template = jinja2.Template((model / "chat_template.jinja").read_text())
    asked = [
        'Locate "red box".\nJSON: [{"bbox_2d": [x1, y1, x2, y2]}]',
        "How many <|box_start|>cats<|box_end|>?",
        "How",
    ]
    rows = [count_row(question=question, image=str(i)) for i, question in enumerate(asked)]
    data = read_training_rows([write_data(tmp_path / "d.parquet", rows)])
    rollouts: list[dict[str, Any]] = []
    for row in rows:
        content = [{"type": "image"}, {"type": "text", "text": row.question}]
        text = template.render(messages=[{"role": "user", "content": content}], add_generation_prompt=True)
        said = tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=True)
        rollouts += [one | {"input": said} for one in rollouts_of(row, 1, 2)]
    assert rates_of(data, write_dump(tmp_path / "1.jsonl", rollouts))[1] == ["1/2"] * 3


def test_a_truth_written_another_way_is_the_same(tmp_path: Path) -> None:
    row = box_row(5)
    data = read_training_rows([write_data(tmp_path / "d.parquet", [row])])
    loose = json.dumps(json.loads(row.target.to_json()), indent=1).replace("100.0", "100")
    dump = write_dump(tmp_path / "1.jsonl", [one | {"gts": loose} for one in rollouts_of(row, 2, 2)])
    assert rates_of(data, dump)[1] == ["2/2"]


# ------------------------------------------------------------------------------------------------ pass rates


@pytest.mark.parametrize(
    ("metric", "at_least", "passes"),
    [("iou_mean", 0.6, True), ("iou_mean", 0.61, False), ("f1_50", 1.0, True), ("accuracy", 0.5, True)],
)
def test_an_answer_passes_by_its_metric(metric: Any, at_least: float, passes: bool, tmp_path: Path) -> None:
    row = box_row(0)
    said = json.dumps([{"bbox_2d": [0, 100, 100, 160], "label": "cat"}])  # IoU .6
    dump = write_dump(tmp_path / "1.jsonl", [rollouts_of(row, 1, 1)[0] | {"output": said}])
    data = read_training_rows([write_data(tmp_path / "d.parquet", [row, count_row()])])
    assert rates_of(data, dump, bar=Bar(metric, at_least))[1] == [f"{passes:d}/1", None]


def test_rows_without_boxes_are_measured_by_accuracy(tmp_path: Path) -> None:
    rows = [box_row(), count_row()]
    file = write_data(tmp_path / "d.parquet", rows)
    dump = write_dump(tmp_path / "1.jsonl", [*rollouts_of(rows[0], 1, 2), *rollouts_of(rows[1], 1, 2)])
    report = filtered_by(dump, [file], bar=Bar("iou_mean", 0.9))
    assert report.measured == {"counting": "accuracy", "grounding": "iou_mean"}
    assert (report.overall.rate, report.overall.rated) == (0.5, 2)


def test_too_few_samples_are_none(tmp_path: Path) -> None:
    rows = [count_row(i) for i in range(3)]
    file = write_data(tmp_path / "d.parquet", rows)
    dump = write_dump(tmp_path / "1.jsonl", [*rollouts_of(rows[0], 1, 3), *rollouts_of(rows[1], 1, 4)])
    report = filtered_by(dump, [file], min_samples=4)
    assert report.rows == msgspec.structs.replace(report.rows, rated=1, few_samples=1, not_in_dump=1, chosen=3)
    assert report.overall.rate == 0.25


def test_the_frame_reaches_the_judging(tmp_path: Path) -> None:
    row = box_row(0)
    file = write_data(tmp_path / "d.parquet", [row])
    said = json.dumps([{"bbox_2d": [0, 100 / 480 * 1000, 100 / 640 * 1000, 200 / 480 * 1000], "label": "cat"}])
    dump = write_dump(tmp_path / "1.jsonl", [one | {"output": said} for one in rollouts_of(row, 1, 2)])
    for frame, rate in (("qwen3-vl", 1.0), ("original", 0.0)):
        result = run(dump, "--data", file, "--frame", frame, "--json")
        assert json.loads(result.stdout)["overall"]["rate"] == rate


# ------------------------------------------------------------------------------------------------ what is chosen


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
    assert chosen([0.5] * 12, limit=4, seed=7) == [2, 4, 6, 7]


def test_a_limit_keeps_the_shares_of_counts_and_rates() -> None:
    rates = [0.0, 0.25, 0.5, 1.0] * 100
    counts = [1 + i % 5 // 2 for i in range(400)]
    rows = chosen(rates, counts, limit=100)
    assert len(rows) == 100
    before, after = Counter(counts), Counter(counts[row] for row in rows)
    assert all(abs(after[count] - before[count] / 4) <= 1 for count in before)
    before, after = Counter(rates), Counter(rates[row] for row in rows)
    assert all(abs(after[rate] - before[rate] / 4) <= 3 for rate in before)


# ------------------------------------------------------------------------------------------------ the file


def some_rows(n: int, embed: bool) -> list[Row]:
    return [box_row(i, source=f"s{i % 3}", image=bytes([i % 256]) * 50 if embed else str(i)) for i in range(n)]


def a_dump(path: Path, rows: Sequence[Row], seed: int | None = None) -> Path:
    """Row i passes i % 5 of 4 times (none at 4); rows of 4 are not in it."""
    rollouts = [one for i, row in enumerate(rows) if i % 5 < 4 for one in rollouts_of(row, i % 5, 4)]
    if seed is not None:
        random.Random(seed).shuffle(rollouts)
    return write_dump(path, rollouts)


@pytest.mark.parametrize("embed", [False, True])
def test_rows_stay_as_they_are(embed: bool, tmp_path: Path) -> None:
    rows = some_rows(230, embed)
    file = write_data(tmp_path / "d.parquet", rows, options={"seed": 3})
    dump = a_dump(tmp_path / "1.jsonl", rows)
    out = tmp_path / "new" / "out.parquet"
    report = filtered_by(dump, [file], out, max_rate=0.5)
    before, after = pq.read_table(file), pq.read_table(out)
    assert after.schema.equals(before.schema)
    places = [before["extra_info"].to_pylist().index(info) for info in after["extra_info"].to_pylist()]
    assert after.equals(before.take(places))
    assert len(places) == report.rows.chosen == 184
    assert places == sorted(places)
    assert list(check_parquet(out, images=False)) == []
    facts = json.loads(after.schema.metadata[b"visionr1"])
    done = facts.pop("difficulty")
    assert facts == json.loads(before.schema.metadata[b"visionr1"])
    assert [(one["rows_before"], one["rows_after"], one["rules"]["max_rate"]) for one in done] == [(230, 184, 0.5)]
    assert sorted(path.name for path in out.parent.iterdir()) == ["out.parquet"]
    options = pq.ParquetFile(out).metadata.row_group(0).column(0)
    assert options.compression == ("UNCOMPRESSED" if embed else "ZSTD")


def test_the_same_rollouts_give_the_same_bytes(tmp_path: Path) -> None:
    rows = some_rows(60, embed=True)
    file = write_data(tmp_path / "d.parquet", rows)
    written: set[bytes] = set()
    for seed in range(3):
        dump = a_dump(tmp_path / f"run{seed}" / "1.jsonl", rows, seed)
        out = tmp_path / f"{seed}.parquet"
        filtered_by(dump, [file], out, limit=30, seed=5)
        written.add(out.read_bytes())
    assert len(written) == 1


def test_done_twice_is_told_twice(tmp_path: Path) -> None:
    rows = some_rows(20, embed=False)
    file = write_data(tmp_path / "d.parquet", rows)
    dump = a_dump(tmp_path / "1.jsonl", rows)
    filtered_by(dump, [file], tmp_path / "one.parquet", min_rate=0.25)
    filtered_by(dump, [tmp_path / "one.parquet"], tmp_path / "two.parquet", max_rate=0.5)
    done = json.loads(pq.read_schema(tmp_path / "two.parquet").metadata[b"visionr1"])["difficulty"]
    assert [(one["data"], one["rows_after"]) for one in done] == [(["d.parquet"], 16), (["one.parquet"], 12)]


def test_several_files_become_one(tmp_path: Path) -> None:
    rows = some_rows(40, embed=True)
    files = [write_data(tmp_path / f"{i}.parquet", rows[i * 20 : i * 20 + 20], part=i) for i in range(2)]
    out = tmp_path / "out.parquet"
    report = filtered_by(a_dump(tmp_path / "1.jsonl", rows), files, out, max_rate=0.25, unseen="drop")
    ids = [row["extra_info"]["image_id"] for row in read_rows(out, columns=["extra_info"])]
    assert sorted(ids) == sorted(row.image_id for i, row in enumerate(rows) if i % 5 in (0, 1))
    assert report.rows.total == 40
    assert check_parquet(out) == []
    facts = json.loads(pq.read_schema(out).metadata[b"visionr1"])
    assert [part["part"] for part in facts["merged"]] == [0, 1]
    assert facts["schema"] == 1


def foreign(path: Path, rows: Sequence[Row], **options: Any) -> Path:
    """A file that somebody else wrote: more columns, other types, pandas' metadata, no provenance, no extra_info."""
    plain = write_data(path, rows)
    table = pq.read_table(plain).drop_columns(["extra_info"])
    n = len(rows)
    table = table.append_column("note", pa.array([None if i % 3 else {"a": [i, None]} for i in range(n)]))
    table = table.append_column("kind", pa.array([f"k{i % 4}" for i in range(n)]).dictionary_encode())
    table = table.append_column("long", pa.array([f"text {i}" for i in range(n)], pa.large_string()))
    table = table.append_column("when", pa.array(range(n), pa.timestamp("us", "UTC")))
    table = table.append_column("vector", pa.array([[i, i] for i in range(n)], pa.list_(pa.float32(), 2)))
    images = [[{"bytes": row.image.data, "path": f"{i}.png"}] for i, row in enumerate(rows)]
    table = table.set_column(2, "images", pa.array(images))
    metadata = {b"pandas": b'{"index_columns": []}', b"huggingface": b"{}"} | options.pop("metadata", {})
    pq.write_table(table.replace_schema_metadata(metadata), path, **options)
    return path


def test_columns_of_somebody_else_are_kept(tmp_path: Path) -> None:
    rows = some_rows(250, embed=True)
    file = foreign(tmp_path / "d.parquet", rows, row_group_size=60)
    out = tmp_path / "out.parquet"
    filtered_by(a_dump(tmp_path / "1.jsonl", rows), [file], out, max_rate=0.25, unseen="drop")
    before, after = pq.read_table(file), pq.read_table(out)
    assert after.schema.equals(before.schema)
    places = [int(text.split()[1]) for text in after["long"].to_pylist()]
    assert len(places) == 100
    assert after.to_pylist() == before.take(places).to_pylist()
    assert {key: value for key, value in after.schema.metadata.items() if key != b"visionr1"} == before.schema.metadata
    assert [*json.loads(after.schema.metadata[b"visionr1"])] == ["difficulty"]


@pytest.mark.parametrize("text", [b"\xff", b"[1]", b"{"])
def test_a_provenance_that_is_none_is_kept(text: bytes, tmp_path: Path) -> None:
    rows = some_rows(10, embed=True)
    file = foreign(tmp_path / "d.parquet", rows, metadata={b"visionr1": text})
    filtered_by(a_dump(tmp_path / "1.jsonl", rows), [file], out := tmp_path / "out.parquet")
    facts = json.loads(pq.read_schema(out).metadata[b"visionr1"])
    assert sorted(facts) == ["difficulty", "earlier"]


def test_row_groups_have_one_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewriting, "GROUP_BYTES", 1000)
    rows = some_rows(230, embed=True)  # 50 bytes an image, and about 280 of text
    file = write_data(tmp_path / "d.parquet", rows)
    filtered_by(a_dump(tmp_path / "1.jsonl", rows), [file], out := tmp_path / "out.parquet")
    metadata = pq.read_metadata(out)
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert (sum(sizes), max(sizes)) == (230, 4)
    monkeypatch.undo()
    filtered_by(a_dump(tmp_path / "1.jsonl", rows), [file], out)
    metadata = pq.read_metadata(out)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [100, 100, 30]


def test_memory_is_bounded(tmp_path: Path) -> None:
    """A file of 24 MB of images, some of which have to be looked at; what pyarrow holds at once is far less."""
    rows = [row(i // 2 * 2, image=bytes([i]) * (1 << 18)) for row in (box_row, count_row) for i in range(48)]
    rows = [replace(row, question=f"{row.question} {i % 2 if i < 48 else ''}") for i, row in enumerate(rows)]
    first = write_data(tmp_path / "d.parquet", rows[:1])
    with pq.ParquetWriter(tmp_path / "e.parquet", pq.read_schema(first), compression="none") as writer:
        for i in range(0, 96, 8):
            writer.write_table(pq.read_table(write_data(first, rows[i : i + 8])))
    dump = a_dump(tmp_path / "1.jsonl", rows)
    code = f"""
import pyarrow as pa
from pathlib import Path
from verl_visionr1 import rewriting
from verl_visionr1.cli import difficulty
rewriting.GROUP_BYTES = 1 << 20
dump, data, out = map(Path, {[str(dump), str(tmp_path / "e.parquet"), str(tmp_path / "o.parquet")]!r})
difficulty.difficulty([dump], [data], out, as_json=True)
print(pa.default_memory_pool().max_memory())
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert pq.read_metadata(tmp_path / "o.parquet").num_rows == 96
    assert int(found.stdout.splitlines()[-1]) < 16 << 20


def test_the_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = some_rows(230, embed=True)
    file = write_data(tmp_path / "d.parquet", rows)
    dump = a_dump(tmp_path / "1.jsonl", rows)
    out = tmp_path / "out" / "out.parquet"
    out.parent.mkdir()
    out.write_bytes(b"an older file")
    add = rewriting.RowGroups.add

    def full(self: Any, batch: pa.RecordBatch) -> None:
        add(self, batch)
        if self.n_rows > 70:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(rewriting.RowGroups, "add", full)
    with pytest.raises(RowsError, match=r"out\.parquet: the disk is full; nothing was left behind"):
        filtered_by(dump, [file], out)
    assert [path.name for path in out.parent.iterdir()] == ["out.parquet"]
    assert out.read_bytes() == b"an older file"


# ------------------------------------------------------------------------------------------------ the command


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["difficulty", *map(str, args)], env={"COLUMNS": "160"})


def test_without_pyarrow_the_command_says_what_to_install(tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules |= dict.fromkeys(["pyarrow", "PIL"])
from verl_visionr1.cli import main
sys.argv = ["visionr1", "difficulty", {str(tmp_path)!r}, "--data", "d.parquet"]
main()
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (
        2,
        "visionr1: this needs pyarrow: pip install 'verl-visionr1[tools]'\n",
    )


def test_the_command_says_what_the_function_says(tmp_path: Path) -> None:
    rows = [*some_rows(20, embed=False), *(count_row(i % 3, f"How many of {i}?") for i in range(20))]
    file = write_data(tmp_path / "d.parquet", rows)
    dump = a_dump(tmp_path / "run" / "1.jsonl", rows)
    out = tmp_path / "out.parquet"
    result = run(dump.parent, "--data", file, "--out", out, "--max-rate", 0.5, "--json")
    assert result.exit_code == 0
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == ["no visionr1_run.json"]
    report = filtered_by(dump, [file], tmp_path / "other.parquet", max_rate=0.5)
    said = msgspec.convert(json.loads(result.stdout), Report, strict=False)
    assert said == msgspec.structs.replace(report, out=str(out))
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "other.parquet"))
    assert (report.rows.total, report.rows.rated, report.rows.not_in_dump, report.rows.chosen) == (40, 32, 8, 32)
    assert {count: (part.before, part.after) for count, part in report.counts.items()} == {
        0: (7, 5),
        1: (7, 6),
        2: (6, 5),
    }
    bins = {(one.low, one.high): (one.before, one.after) for one in report.histogram if one.before}
    assert bins == {(0.0, 0.0): (8, 8), (0.2, 0.3): (8, 8), (0.5, 0.6): (8, 8), (0.7, 0.8): (8, 0)}
    assert len(report.histogram) == 12
    assert report.notes == []


def test_the_table(tmp_path: Path) -> None:
    rows = [*some_rows(20, embed=False), *(count_row(i % 3, f"How many of {i}?") for i in range(20))]
    file = write_data(tmp_path / "d.parquet", rows)
    dump = a_dump(tmp_path / "1.jsonl", rows)
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
    report = filtered_by(a_dump(tmp_path / "1.jsonl", rows), [file])
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for part in view_of(report):
        console.print(part)
    assert ("20 more: --json" in console.export_text()) is (n == 40)


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
    with pytest.raises(RowError, match=r"d\.parquet: row 3: reward_model\.ground truth '42'.*convert it again"):
        read_training_rows([file])
    result = run(dump, "--data", file, "--on-error", "skip", "--json", "--out", tmp_path / "o.parquet")
    report = json.loads(result.stdout)
    assert (report["rollouts"]["skipped"], report["rows"]["rated"], report["rows"]["chosen"]) == (2, 3, 4)
    assert len(result.stderr.splitlines()) == 3, "what is assumed without a run file, and two skipped rows"
    counts = Counts()
    assert read_training_rows([file], on_error="skip", counts=counts).truths.tolist() == [0, 1, 2, NOTHING]
    assert counts.n_skipped == 1


MISTAKES = {
    "no such dump": (["nothing.jsonl", "--data", "{data}"], "nothing.jsonl: no such file or folder"),
    "no such data": (["{dump}", "--data", "nothing.parquet"], "nothing.parquet: no such file"),
    "data twice": (["{dump}", "--data", "{data}", "--data", "{data}"], "given twice"),
    "data of other columns": (["{dump}", "--data", "{data}", "--data", "{embed}"], "columns differ"),
    "data without prompts": (["{dump}", "--data", "{bare}"], "no column 'prompt'"),
    "empty dump": (["{empty}", "--data", "{data}"], "dumps are empty"),
    "another run's dump": (["{dump}", "--data", "{embed}"], "none of 4 rollouts matches a row of --data: 4 have a"),
    "few samples": (["{dump}", "--data", "{data}", "--min-samples", "9"], "no row has 9 rollouts or more"),
    "nothing left": (
        ["{dump}", "--data", "{data}", "--min-rate", "1", "--unseen", "drop"],
        "no row selected: 1 of 2 rows have a pass rate, none in 1..1",
    ),
    "bar": (["{dump}", "--data", "{data}", "--bar", "0"], "--bar 0.0"),
    "bar of nan": (["{dump}", "--data", "{data}", "--bar", "nan"], "--bar nan"),
    "bounds": (["{dump}", "--data", "{data}", "--min-rate", "0.9", "--max-rate", "0.1"], "the first not above"),
    "bound of nan": (["{dump}", "--data", "{data}", "--min-rate", "nan"], "needs pass rates in [0, 1]"),
    "limit": (["{dump}", "--data", "{data}", "--limit", "0"], "--limit 0"),
    "out over data": (["{dump}", "--data", "{data}", "--out", "{data}"], "would overwrite"),
    "out among dumps": (["{folder}", "--data", "{data}", "--out", "{folder}/o.parquet"], "among the inputs"),
    "out of no kind": (["{dump}", "--data", "{data}", "--out", "o.json"], "verl reads only names that end in .parquet"),
    "preset": (["{dump}", "--data", "{data}", "--preset", "nobody"], "nobody"),
    "frame": (["{dump}", "--data", "{data}", "--frame", "nowhere"], "nowhere"),
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
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
