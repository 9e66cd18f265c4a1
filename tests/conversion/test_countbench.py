"""visionr1 convert countbench: rows without an image, questions paired by order, images that are not RGB."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from refused import bad_entry

from verl_visionr1.conversion.datasets import countbench
from verl_visionr1.files import RowsError
from verl_visionr1.rows import read_rows, target_of
from verl_visionr1.tools.doctor import check_parquet


def picture(mode: str = "RGB", kind: str = "PNG") -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.new(mode, (48, 32)).save(buffer, kind)
    return {"bytes": buffer.getvalue(), "path": None}


def record(number: Any = 3, **changes: Any) -> dict[str, Any]:
    made = {"image": picture(), "text": f"{number} dogs", "question": f"How many dogs of {number}?", "number": number}
    made.update(changes)
    return {key: value for key, value in made.items() if value is not ...}


class Source:
    """CountBench in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out.parquet"
        self.paths: list[Path] = []

    def file(self, *records: dict[str, Any]) -> Path:
        path = self.folder / f"test-{len(self.paths):05d}.parquet"
        pq.write_table(pa.Table.from_pylist(list(records)), path)
        self.paths.append(path)
        return path

    def convert(self, **options: Any) -> tuple[list[dict[str, Any]], Any]:
        report = countbench.convert(self.paths, self.out, countbench.Options(**options))
        assert check_parquet(self.out) == []
        return list(read_rows(self.out)), report

    def questions(self, *questions: Any) -> Path:
        path = self.folder / "countbench_paired_questions.json"
        path.write_text(json.dumps([{"question": question} for question in questions]))
        return path


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


def test_rows_are_for_evaluation(source: Source) -> None:
    source.file(record(3), record(10))
    rows, _ = source.convert()
    assert [(target_of(row).count, row["extra_info"]["split"], row["data_source"]) for row in rows] == [
        (3, "test", "visionr1/countbench"),
        (10, "test", "visionr1/countbench"),
    ]
    assert rows[0]["prompt"][0]["content"] == "<image>How many dogs of 3? Answer with the number alone."
    assert json.loads(rows[0]["extra_info"]["source_ann"]) == {"row": 0, "text": "3 dogs"}


@pytest.mark.parametrize("nothing", [None, {"bytes": None, "path": None}])
def test_rows_without_an_image_are_left_out(source: Source, nothing: Any) -> None:
    source.file(record(3), record(4, image=nothing), record(5))
    rows, report = source.convert()
    assert [target_of(row).count for row in rows] == [3, 5]
    assert report.ledger.left_out == {"row without an image": 1}


def test_questions_are_paired_by_order_over_all_files(source: Source) -> None:
    plain = [record(n, question=..., image_url=f"https://example.org/{n}.jpg") for n in (2, 3, 4, 5)]
    plain[1]["image"] = None
    source.file(*plain[:2])
    source.file(*plain[2:])
    rows, report = source.convert(questions=source.questions("Two?", "Three?", "Four?", "Five?"))
    prompts = [row["prompt"][0]["content"].partition("?")[0] for row in rows]
    assert list(zip(prompts, [target_of(row).count for row in rows], strict=True)) == [
        ("<image>Two", 2),
        ("<image>Four", 4),
        ("<image>Five", 5),
    ]
    facts = json.loads(pq.read_schema(report.written.file).metadata[b"visionr1"])
    assert facts["source"] == "test-00000.parquet, test-00001.parquet, countbench_paired_questions.json"
    assert str(source.folder) not in json.dumps(facts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"number": None}, "test-00000.parquet: row 1: count 'None'"),
        ({"question": ""}, "question"),
        ({"image": {"bytes": b"<html>", "path": None}}, "row 1: "),
        ({"image": {"bytes": None, "path": "a.jpg"}}, "row 1: image 'a.jpg': give the folder of the images"),
    ],
)
def test_bad_rows(source: Source, change: dict[str, Any], message: str) -> None:
    source.file(record(2), record(3) | change)
    error, rows, _ = bad_entry(source.convert)
    assert message in str(error)
    assert len(rows) == 1


def test_questions_must_be_as_many_as_the_rows(source: Source) -> None:
    source.file(record(2, question=...), record(3, question=...))
    path = source.questions("Two?")
    with pytest.raises(RowsError) as caught:
        source.convert(questions=path)
    assert str(caught.value).startswith(f"{path}: 1 questions for 2 ")
