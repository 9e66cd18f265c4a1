"""Reading saved rollouts: verl's dumps as verl writes them, tables of one's own, and what is wrong with a row."""

from __future__ import annotations

import ast
import gzip
import json
import os
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_visionr1 import Target
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.rollouts.dumps import rollout_files
from verl_visionr1.rollouts.records import SEVERAL_SOURCES, Columns, Counts, Rollout, data_sources_of, read_rollouts

CAT = Target(task="detection", size_wh=(640, 480), boxes_xyxy=[[100, 100, 200, 200]], labels=["cat"])
DOG = Target(task="grounding", size_wh=(320, 240), boxes_xyxy=[[10, 10, 50, 50]], labels=["dog"])
SAID = '```json\n[{"bbox_2d": [100, 100, 200, 200], "label": "cat"}]\n```'


def row(**changes: Any) -> dict[str, Any]:
    """A row of a training dump, its columns in verl's order; `...` leaves one out."""
    plain = {"input": "Locate the cat.", "output": SAID, "gts": CAT.to_json(), "score": 1.0, "step": 7, "uid": "a1_0_0"}
    return {key: value for key, value in (plain | changes).items() if value is not ...}


def write_dump(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """As verl's `_write_generations` writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows))
    return path


def parquet_of(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def read(*files: Path, **options: Any) -> list[Rollout]:
    return list(read_rollouts(files, **options))


@pytest.mark.verl
def test_what_verl_itself_writes(tmp_path: Path) -> None:
    """`_write_generations` is cut out of its file: to import the trainer takes most of a minute."""
    source = Path(str(distribution("verl").locate_file("verl/trainer/ppo/v1/trainer_base.py"))).read_text()
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    (writer,) = [function for function in functions if function.name == "_write_generations"]
    writer.decorator_list = []
    names: dict[str, Any] = {"os": os, "json": json, "np": np}
    exec(ast.unparse(writer), names)
    extras = {"uid": ["a1_0_0"], "f1_50": [np.float32(0.5)], "acc": [None], "too_short": []}
    names["_write_generations"](["Locate."], [SAID], [CAT.to_json()], [np.float64(0.5)], extras, str(tmp_path), 3)
    ours = row(input="Locate.", score=0.5, step=3) | {"f1_50": 0.5, "acc": None}
    assert (tmp_path / "3.jsonl").read_text() == write_dump(tmp_path / "ours.jsonl", [ours]).read_text()


def test_all_kinds_of_files_read_alike(tmp_path: Path) -> None:
    rows = [row(uid=f"a1_{i}_0", score=i / 10, output=f"{SAID}é{i}") for i in range(5)]
    plain = write_dump(tmp_path / "1.jsonl", rows)
    packed = tmp_path / "1.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for file, first in ((plain, 1), (packed, 1), (parquet_of(tmp_path / "1.parquet", rows), 0)):
        rollouts = read(file)
        assert [r.completion for r in rollouts] == [one["output"] for one in rows]
        assert [r.saved for r in rollouts] == [one["score"] for one in rows]
        assert [r.where for r in rollouts] == [f"{file}:{first + i}" for i in range(5)]
        assert {(r.target, r.source, r.step, r.processed_wh, r.n_tokens) for r in rollouts} == {
            (CAT, "detection", 7, None, None)
        }
        assert len({r.group for r in rollouts}) == len({id(r.target) for r in rollouts}) == 1


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
    rows = [row(**one), row(**({"uid": "a1_1_0"} | two))]
    first, second = read(write_dump(tmp_path / "1.jsonl", rows))
    assert (first.group == second.group) is together
    (elsewhere,) = read(write_dump(tmp_path / "b" / "1.jsonl", rows[:1]))
    assert elsewhere.group != first.group


def test_of_several_turns_the_last_is_judged(tmp_path: Path) -> None:
    uids = ["a1_0_0", "a1_0_1", "a1_0_2", "a1_1_0", "a2_0_0", "a2_0_1"]
    counts = Counts()
    file = write_dump(tmp_path / "1.jsonl", [row(uid=uid, output=uid) for uid in uids])
    assert [rollout.completion for rollout in read(file, counts=counts)] == ["a1_0_2", "a1_1_0", "a2_0_1"]
    assert counts.n_earlier == 3


def test_a_folder_is_read_in_the_order_of_its_steps(tmp_path: Path) -> None:
    for name in ("10.jsonl", "2.jsonl", "1.jsonl", "extra.jsonl", ".5.jsonl", "notes.txt", "report.rows.jsonl"):
        write_dump(tmp_path / "rollouts" / name, [row()])
    files = rollout_files([tmp_path / "rollouts"])
    assert [file.name for file in files] == ["1.jsonl", "2.jsonl", "10.jsonl", "extra.jsonl"]
    with pytest.raises(RowsError, match=rf"did you mean {tmp_path}/rollouts\?"):
        rollout_files([tmp_path])


def test_columns_of_ones_own(tmp_path: Path) -> None:
    rows = [{"extra": {"said": "[]", "truth": json.loads(CAT.to_json())}, "output": "not this", "points": 0.5}]
    columns = Columns(completion=("extra.said",), ground_truth=("extra.truth",), score=("points",))
    (rollout,) = read(write_dump(tmp_path / "1.jsonl", rows), columns=columns)
    assert (rollout.completion, rollout.target, rollout.saved) == ("[]", CAT, 0.5)
    truth = {"style": "rule", "ground_truth": DOG.to_json()}
    rows = [{"data_source": "odd/dogs", "prompt": "dog?", "reward_model": truth, "response": "[]", "image": b"\xff"}]
    (rollout,) = read(parquet_of(tmp_path / "own.parquet", rows))
    assert (rollout.target, rollout.source, rollout.completion, rollout.saved) == (DOG, "odd/dogs", "[]", None)


ODD_VALUES = {
    "sizes": ("processed_wh", "processed_wh", [[644, 476], [0, 4], "x", [1]], [(644, 476), None, None, None]),
    "lengths": ("n_tokens", "n_tokens", [9, None, "x"], [9, None, None]),
    "rewards": ("score", "saved", [float("nan"), float("inf"), 10**400, None, True], [None] * 5),
    "steps": ("step", "step", [3, "seven", 2**63, None], [3, None, None, None]),
    "numbers": ("f1_50", "numbers", [0.5, 10**400, "x", True], [{"f1_50": 0.5}, {}, {}, {}]),
    "half a character": ("output", "completion", ["\ud800"], ["\ud800"]),
}


@pytest.mark.parametrize(("column", "field", "values", "expected"), ODD_VALUES.values(), ids=ODD_VALUES)
def test_values_that_rows_tell(column: str, field: str, values: list[Any], expected: list[Any], tmp_path: Path) -> None:
    lines = [json.dumps(row(**{column: value}, uid=f"{i}")) for i, value in enumerate(values)]
    (tmp_path / "1.jsonl").write_text("\n".join(lines))
    assert [getattr(rollout, field) for rollout in read(tmp_path / "1.jsonl")] == expected


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
    file.write_text("\n".join([good[0], "", good[1], line, *[line] * 5]) + "\n")
    stream = read_rollouts([file])
    assert next(stream).number == 1
    with pytest.raises(RowError, match=message) as raised:
        list(stream)
    assert str(raised.value).startswith(f"{file}: line 4: ")
    assert len(str(raised.value).splitlines()) == 1
    assert raised.value.kind == kind
    counts = Counts()
    assert [rollout.number for rollout in read(file, on_error="skip", counts=counts)] == [1, 3]
    assert (counts.n_skipped, len(counts.examples), counts.examples[0]) == (6, 5, str(raised.value))


def test_a_bad_parquet_row_is_named(tmp_path: Path) -> None:
    file = parquet_of(tmp_path / "1.parquet", [row(), row(uid="b_0_0", output=None)])
    with pytest.raises(RowError, match=r"1\.parquet: row 1: output is null"):
        read(file)


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
def test_no_line_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    file = tmp_path_factory.getbasetemp() / "lines.jsonl"
    file.write_bytes(b"\n".join(lines))
    counts = Counts()
    rollouts = read(file, on_error="skip", counts=counts)
    assert len(rollouts) + counts.n_skipped + counts.n_earlier <= file.read_bytes().count(b"\n") + 1
    for rollout in rollouts:
        rollout.source.encode()
        hash(rollout.group)


def test_the_data_trained_on_gives_the_source(tmp_path: Path) -> None:
    both = Target(task="counting", size_wh=(9, 9), count=1)
    data = []
    for name, pairs in {"a": [("coco/val", CAT), ("x", both)], "b": [("coco/val", CAT), ("y", both)]}.items():
        rows = [{"data_source": source, "reward_model": {"ground_truth": target.to_json()}} for source, target in pairs]
        data.append(parquet_of(tmp_path / f"{name}.parquet", rows))
    rows = [row(), row(uid="b_0_0", gts=DOG.to_json()), row(uid="c_0_0", gts=both.to_json())]
    rows.append(row(uid="d_0_0", data_source="own"))
    counts = Counts()
    rollouts = read(write_dump(tmp_path / "1.jsonl", rows), sources=data_sources_of(data), counts=counts)
    assert [rollout.source for rollout in rollouts] == ["coco/val", "grounding", SEVERAL_SOURCES, "own"]
    assert counts.n_unknown == 1


BAD_FILES = {
    "no such file": ("9.jsonl", None, "no such file or folder"),
    "an empty folder": (".", None, r"no \.jsonl"),
    "another kind": ("1.csv", b"a,b", "not a dump of rollouts"),
    "a cut-off archive": ("1.jsonl.gz", gzip.compress(json.dumps(row()).encode() * 99)[:-20], "cannot be read to its"),
    "no archive": ("1.jsonl.gz", b"plain text", "cannot be read to its end"),
    "a garbled table": ("1.parquet", b"PAR1", "not a whole parquet file"),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_one_line_that_names_it(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RowsError, match=message) as raised:
        read(*rollout_files([path]), on_error="skip")
    assert str(path) in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
