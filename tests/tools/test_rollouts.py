"""Reading saved rollouts: verl's dumps as verl writes them, tables of one's own, and what is wrong with a row."""

from __future__ import annotations

import ast
import gzip
import importlib.util
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_visionr1 import Target
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.rollouts.dumps import rollout_files
from verl_visionr1.rollouts.records import SEVERAL_SOURCES, Columns, Counts, Rollout, data_sources_of, read_rollouts

CAT = Target(task="detection", size_wh=(640, 480), boxes_xyxy=[[100, 100, 200, 200]], labels=["cat"])
DOG = Target(task="grounding", size_wh=(320, 240), boxes_xyxy=[[10, 10, 50, 50]], labels=["dog"])
SAID = '```json\n[{"bbox_2d": [100, 100, 200, 200], "label": "cat"}]\n```'


def row(**changes: Any) -> dict[str, Any]:
    """A row of a training dump, its columns in verl's order."""
    plain = {"input": "Locate the cat.", "output": SAID, "gts": CAT.to_json(), "score": 1.0, "step": 7, "uid": "a1_0_0"}
    return {key: value for key, value in (plain | changes).items() if value is not ...}


def write_dump(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """As verl's `_write_generations` writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows))
    return path


def read(*files: Path, **options: Any) -> list[Rollout]:
    return list(read_rollouts(files, **options))


def test_a_training_dump(tmp_path: Path) -> None:
    file = write_dump(tmp_path / "7.jsonl", [row(), row(uid="a1_1_0", output="é", score=0.25)])
    first, second = read(file)
    assert first.where == f"{file}:1"
    assert (first.completion, first.target, first.source) == (SAID, CAT, "detection")
    assert (first.step, first.saved, first.processed_wh, first.n_tokens) == (7, 1.0, None, None)
    assert (second.completion, second.saved, second.number) == ("é", 0.25, 2)
    assert first.group == second.group
    assert first.target is second.target, "ground truth is read once a group"


def verls_writer() -> Callable[..., None]:
    """`_write_generations` of the installed verl, cut out of its file: to import the trainer takes most of a minute."""
    spec = importlib.util.find_spec("verl")
    assert spec is not None
    assert spec.submodule_search_locations
    source = Path(spec.submodule_search_locations[0], "trainer/ppo/v1/trainer_base.py").read_text()
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    (writer,) = [function for function in functions if function.name == "_write_generations"]
    writer.decorator_list = []
    names: dict[str, Any] = {"os": os, "json": json, "np": np}
    exec(ast.unparse(writer), names)
    return names["_write_generations"]


@pytest.mark.verl
def test_what_verl_itself_writes(tmp_path: Path) -> None:
    extras = {"uid": ["a1_0_0"], "f1_50": [np.float32(0.5)], "acc": [None], "too_short": []}
    verls_writer()(["Locate."], [SAID], [CAT.to_json()], [np.float64(0.5)], extras, str(tmp_path), 3)
    ours = row(input="Locate.", score=0.5, step=3) | {"f1_50": 0.5, "acc": None}
    assert (tmp_path / "3.jsonl").read_text() == write_dump(tmp_path / "ours.jsonl", [ours]).read_text()
    (rollout,) = read(tmp_path / "3.jsonl")
    assert (rollout.completion, rollout.saved, rollout.step) == (SAID, 0.5, 3)


UIDS = {
    "rollouts of one prompt": ({}, {"uid": "a1_5_0"}, True),
    "another prompt": ({}, {"uid": "a2_0_0"}, False),
    "another step": ({}, {"step": 8}, False),
    "underscores in the sample's id": ({"uid": "a_b_0_0"}, {"uid": "a_b_1_0"}, True),
    "one id for a whole group": ({"uid": "a1"}, {"uid": "a1"}, True),
    "an id without numbers at its end": ({"uid": "a_b_c"}, {"uid": "a_b_d"}, False),
    "a number as id": ({"uid": 3}, {"uid": 3}, True),
    "no id: same prompt and truth": ({"uid": ...}, {"uid": ...}, True),
    "no id: another prompt": ({"uid": ...}, {"uid": ..., "input": "Find it."}, False),
    "no id: another truth": ({"uid": ...}, {"uid": ..., "gts": DOG.to_json()}, False),
    "no id: another image": ({"uid": ..., "image": "a/1.png"}, {"uid": ..., "image": "a/2.png"}, False),
    "no id: the same images": ({"uid": ..., "images": ["1.png"]}, {"uid": ..., "images": ["1.png"]}, True),
    "no id: another row": ({"uid": ..., "index": 1}, {"uid": ..., "index": 2}, False),
    "no id: another row of the data": ({"uid": ..., "extra_info": {"index": 1}}, {"uid": ..., "index": 2}, False),
    "no id: another image id": ({"uid": ..., "image_id": 1}, {"uid": ..., "extra_info": {"image_id": "2"}}, False),
    "no id: another size": ({"uid": ..., "processed_wh": [28, 28]}, {"uid": ..., "processed_wh": [28, 56]}, False),
    "one id, whatever the image": ({"uid": "a", "image": "1.png"}, {"uid": "a", "image": "2.png"}, True),
}


@pytest.mark.parametrize(("one", "two", "together"), UIDS.values(), ids=UIDS)
def test_groups(one: dict[str, Any], two: dict[str, Any], together: bool, tmp_path: Path) -> None:
    first, second = read(write_dump(tmp_path / "1.jsonl", [row(**one), row(**({"uid": "a1_1_0"} | two))]))
    assert (first.group == second.group) is together


def test_runs_in_two_folders_are_apart(tmp_path: Path) -> None:
    files = [write_dump(tmp_path / run / "1.jsonl", [row(uid=...)]) for run in "ab"]
    first, second = read(*files)
    assert first.group != second.group


def test_of_several_turns_the_last_is_judged(tmp_path: Path) -> None:
    uids = ["a1_0_0", "a1_0_1", "a1_0_2", "a1_1_0", "a2_0_0", "a2_0_1"]
    counts = Counts()
    file = write_dump(tmp_path / "1.jsonl", [row(uid=uid, output=uid) for uid in uids])
    assert [rollout.completion for rollout in read(file, counts=counts)] == ["a1_0_2", "a1_1_0", "a2_0_1"]
    assert counts.n_earlier == 3


def test_a_folder_is_read_in_the_order_of_its_steps(tmp_path: Path) -> None:
    for step in (10, 2, 1):
        write_dump(tmp_path / f"{step}.jsonl", [row(step=step)])
    write_dump(tmp_path / "extra.jsonl", [row()])
    (tmp_path / ".5.jsonl").write_text("hidden")
    (tmp_path / "notes.txt").write_text("no dump")
    (tmp_path / "report.rows.jsonl").write_text("numbers of visionr1 eval")
    assert [file.name for file in rollout_files([tmp_path])] == ["1.jsonl", "2.jsonl", "10.jsonl", "extra.jsonl"]


def test_the_folder_above_dumps_names_them(tmp_path: Path) -> None:
    (tmp_path / "rollouts").mkdir()
    with pytest.raises(RowsError, match=rf"did you mean {tmp_path}/rollouts\?"):
        rollout_files([tmp_path])


def parquet_of(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def test_all_kinds_of_files_read_alike(tmp_path: Path) -> None:
    rows = [row(uid=f"a1_{i}_0", score=i / 10, output=f"{SAID}{i}") for i in range(5)]
    plain = write_dump(tmp_path / "1.jsonl", rows)
    packed = tmp_path / "1.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    table = parquet_of(tmp_path / "1.parquet", rows)

    def content(file: Path) -> list[tuple[Any, ...]]:
        return [(r.completion, r.target, r.group, r.source, r.step, r.saved) for r in read(file)]

    assert content(plain) == content(packed) == content(table)
    assert [r.number for r in read(plain)] == [1, 2, 3, 4, 5]
    assert [r.number for r in read(table)] == [0, 1, 2, 3, 4]


def test_completions_beside_the_columns_trained_on(tmp_path: Path) -> None:
    truth = {"style": "rule", "ground_truth": DOG.to_json()}
    rows = [{"data_source": "odd/dogs", "prompt": "dog?", "reward_model": truth, "response": "[]", "image": b"\xff"}]
    (rollout,) = read(parquet_of(tmp_path / "own.parquet", rows))
    assert (rollout.target, rollout.source, rollout.completion, rollout.saved) == (DOG, "odd/dogs", "[]", None)


def test_columns_by_other_names(tmp_path: Path) -> None:
    rows = [{"extra": {"said": "[]", "truth": json.loads(CAT.to_json())}, "output": "not this", "points": 0.5}]
    columns = Columns(completion=("extra.said",), ground_truth=("extra.truth",), score=("points",))
    (rollout,) = read(write_dump(tmp_path / "1.jsonl", rows), columns=columns)
    assert (rollout.completion, rollout.target, rollout.saved) == ("[]", CAT, 0.5)


def test_sizes_and_lengths_that_rows_tell(tmp_path: Path) -> None:
    told = [row(uid=f"a_{i}_0", processed_wh=wh, n_tokens=9) for i, wh in enumerate([[644, 476], [0, 4], "x", [1]])]
    rollouts = read(write_dump(tmp_path / "1.jsonl", told))
    assert [rollout.processed_wh for rollout in rollouts] == [(644, 476), None, None, None]
    assert rollouts[0].n_tokens == 9


BAD_ROWS = {
    "cut off": ('{"input": "Loca', "not JSON", "still being written"),
    "a list": ("[1, 2]", "not an object", "needs a JSON object"),
    "nested too deep": ("[" * 100_000, "not JSON", "is not JSON"),
    "no completion": (json.dumps(row(output=...)), "no completion", "no column output or completion or response"),
    "null completion": (json.dumps(row(output=None)), "no completion", "--column completion=NAME"),
    "completion that is not text": (json.dumps(row(output=[1])), "completion", "is not text"),
    "no ground truth": (json.dumps(row(gts=None)), "no ground_truth", "--column ground_truth=NAME"),
    "another project's ground truth": (json.dumps(row(gts="42")), "ground truth", "ground truth '42'"),
    "half a character in the ground truth": (json.dumps(row(gts={"task": "\ud800"})), "ground truth", "surrogate"),
    "a number too large": (json.dumps(row(gts={"count": 10**400})), "ground truth", "missing required field"),
    "inverted box": (json.dumps(row(gts=CAT.to_json().replace("[100.0,", "[300.0,"))), "ground truth", "needs x1 < x2"),
}


@pytest.mark.parametrize(("line", "kind", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_is_named_or_skipped(line: str, kind: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "1.jsonl"
    good = [json.dumps(row(uid=f"a1_{i}_0")) for i in range(2)]
    file.write_text("\n".join([good[0], "", line, good[1]]) + "\n")
    with pytest.raises(RowError, match=message) as raised:
        read(file)
    assert str(raised.value).startswith(f"{file}: line 3: ")
    assert len(str(raised.value).splitlines()) == 1
    assert raised.value.kind == kind
    counts = Counts()
    assert [rollout.number for rollout in read(file, on_error="skip", counts=counts)] == [1, 4]
    assert counts.n_skipped == 1
    assert counts.examples == [str(raised.value)]


def test_a_bad_parquet_row_is_named(tmp_path: Path) -> None:
    file = parquet_of(tmp_path / "1.parquet", [row(), row(uid="b_0_0", output=None)])
    with pytest.raises(RowError, match=r"1\.parquet: row 1: output is null"):
        read(file)


def test_few_examples_of_many_skipped_rows_are_kept(tmp_path: Path) -> None:
    counts = Counts()
    assert read(write_dump(tmp_path / "1.jsonl", [{}] * 100), on_error="skip", counts=counts) == []
    assert counts.n_skipped == 100
    assert len(counts.examples) == 5


def test_rows_are_a_stream(tmp_path: Path) -> None:
    file = tmp_path / "1.jsonl"
    file.write_text("".join(json.dumps(row(uid=f"a{i}_0_0")) + "\n" for i in range(3)) + "broken\n")
    stream = read_rollouts([file])
    assert [next(stream).number for _ in range(2)] == [1, 2]
    with pytest.raises(RowError):
        list(stream)


def test_what_python_writes_but_json_does_not_know(tmp_path: Path) -> None:
    lines = [
        json.dumps(row(score=float("nan"))),
        json.dumps(row(score=float("inf"), uid="b_0_0")),
        json.dumps(row(output="\ud800", uid="c_0_0")),
        json.dumps(row(score=10**400, uid="d_0_0", step="seven")),
        json.dumps(row(score=None, uid="e_0_0", step=None)),
    ]
    (tmp_path / "1.jsonl").write_text("\n".join(lines))
    rollouts = read(tmp_path / "1.jsonl")
    assert [rollout.saved for rollout in rollouts] == [None, None, 1.0, None, None]
    assert rollouts[2].completion == "\ud800"
    assert [rollout.step for rollout in rollouts[3:]] == [None, None]


LINES = st.one_of(
    st.binary(max_size=60),
    st.fixed_dictionaries(
        {"gts": st.sampled_from([CAT.to_json(), "", None, 3, {"task": "text"}])},
        optional={
            "output": st.one_of(st.none(), st.text(max_size=20), st.floats(), st.lists(st.integers(), max_size=2)),
            "uid": st.one_of(st.text(max_size=8), st.integers(), st.lists(st.none(), max_size=2)),
            "score": st.one_of(st.floats(), st.text(max_size=3), st.booleans(), st.integers()),
            "step": st.one_of(st.floats(), st.integers(), st.none()),
            "data_source": st.one_of(st.text(st.characters(), max_size=3), st.just("\ud800"), st.integers()),
            "processed_wh": st.one_of(st.lists(st.floats(), max_size=3), st.integers()),
        },
    ).map(lambda one: json.dumps(one).encode()),
)


@given(st.lists(LINES, max_size=6))
@settings(max_examples=150, deadline=None)
def test_no_line_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    file = tmp_path_factory.mktemp("dump") / "1.jsonl"
    file.write_bytes(b"\n".join(lines))
    counts = Counts()
    rollouts = read(file, on_error="skip", counts=counts)
    assert len(rollouts) + counts.n_skipped + counts.n_earlier <= file.read_bytes().count(b"\n") + 1
    for rollout in rollouts:
        rollout.source.encode()
        hash(rollout.group)


def trained_on(path: Path, rows: Sequence[tuple[str, Target]]) -> Path:
    columns = [{"data_source": source, "reward_model": {"ground_truth": target.to_json()}} for source, target in rows]
    return parquet_of(path, columns)


def test_the_data_trained_on_gives_the_source(tmp_path: Path) -> None:
    both = Target(task="counting", size_wh=(9, 9), count=1)
    data = trained_on(tmp_path / "a.parquet", [("coco/val", CAT), ("x", both)])
    more = trained_on(tmp_path / "b.parquet", [("coco/val", CAT), ("y", both)])
    sources = data_sources_of([data, more])
    rows = [row(), row(uid="b_0_0", gts=DOG.to_json()), row(uid="c_0_0", gts=both.to_json())]
    rows.append(row(uid="d_0_0", data_source="own"))
    counts = Counts()
    rollouts = read(write_dump(tmp_path / "1.jsonl", rows), sources=sources, counts=counts)
    assert [rollout.source for rollout in rollouts] == ["coco/val", "grounding", SEVERAL_SOURCES, "own"]
    assert counts.n_unknown == 1


def no_such_file(folder: Path) -> Path:
    return folder / "9.jsonl"


def an_empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def another_kind_of_file(folder: Path) -> Path:
    (folder / "1.csv").write_text("a,b")
    return folder / "1.csv"


def a_cut_off_archive(folder: Path) -> Path:
    (folder / "1.jsonl.gz").write_bytes(gzip.compress(json.dumps(row()).encode() * 99)[:-20])
    return folder / "1.jsonl.gz"


def no_archive(folder: Path) -> Path:
    (folder / "1.jsonl.gz").write_text("plain text")
    return folder / "1.jsonl.gz"


def a_garbled_table(folder: Path) -> Path:
    (folder / "1.parquet").write_bytes(b"PAR1")
    return folder / "1.parquet"


BAD_FILES = {
    "no such file": (no_such_file, "no such file or folder"),
    "an empty folder": (an_empty_folder, r"no \.jsonl"),
    "another kind": (another_kind_of_file, "not a dump of rollouts"),
    "a cut-off archive": (a_cut_off_archive, "cannot be read to its end"),
    "no archive": (no_archive, "cannot be read to its end"),
    "a garbled table": (a_garbled_table, "not a whole parquet file"),
}


@pytest.mark.parametrize(("make", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_one_line_that_names_it(make: Any, message: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    with pytest.raises(RowsError, match=message) as raised:
        read(*rollout_files([path]), on_error="skip")
    assert str(path) in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
