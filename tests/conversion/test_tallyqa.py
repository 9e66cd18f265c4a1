"""visionr1 convert tallyqa: questions with several answers, images of two collections, simple questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from refused import bad_entry, mentions

from verl_visionr1.conversion.datasets import tallyqa
from verl_visionr1.files import RowsError
from verl_visionr1.rows import read_rows, target_of

BUS = {
    "answer": 4,
    "data_source": "imported_genome",
    "image": "VG_100K_2/2410408.jpg",
    "image_id": 92410408,
    "issimple": False,
    "question": "How many headlights does the black bus have?",
    "question_id": 30095774,
}


class Source:
    """TallyQA in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, *records: Any) -> Path:
        for record in records:
            name = record.get("image") if isinstance(record, dict) else None
            if isinstance(name, str) and ".." not in name:
                (self.folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (40, 30), (10, 200, 30)).save(self.folder / "images" / name)
        path = self.folder / "test.json"
        path.write_text(json.dumps(records))
        return path

    def convert(self, *records: Any, **options: Any) -> tuple[list[dict[str, Any]], Any]:
        path, out = self.path(*records), self.folder / "out.parquet"
        report = tallyqa.convert(path, self.folder / "images", out, tallyqa.Options(**options))
        return list(read_rows(out)), report


@pytest.fixture
def source(tmp_path: Path) -> Source:
    (tmp_path / "images").mkdir()
    return Source(tmp_path)


def test_zero_is_an_answer_and_kept(source: Source) -> None:
    rows, report = source.convert({**BUS, "answer": 0}, {**BUS, "question": "How many wheels?"})
    assert [target_of(row).count for row in rows] == [0, 4]
    assert report.negatives == {"counting": 1}
    rows, _ = source.convert({**BUS, "answer": 0}, {**BUS, "question": "How many wheels?"}, negatives=0.0)
    assert [target_of(row).count for row in rows] == [4]


def test_similar_questions_of_an_image_become_one(source: Source) -> None:
    other = {**BUS, "question": "how many headlights  does the black bus have", "question_id": 2}
    rows, report = source.convert(BUS, other)
    assert [json.loads(row["extra_info"]["source_ann"])["question_id"] for row in rows] == [30095774]
    assert report.ledger.notes["question repeated for its image with the same answer"] == 1


def test_similar_questions_with_other_answers_are_left_out(source: Source) -> None:
    other = {**BUS, "question": "How many headlights does the black bus have", "answer": 2}
    elsewhere = {**BUS, "image": "train2014/COCO_train2014_000000000139.jpg", "answer": 2}
    rows, report = source.convert(BUS, elsewhere, other)
    assert [row["extra_info"]["file_name"] for row in rows] == [elsewhere["image"]]
    assert report.ledger.left_out["question repeated for its image with another answer"] == 2


def test_simple_only(source: Source) -> None:
    simple = {**BUS, "issimple": True, "question": "How many buses?"}
    rows, report = source.convert(BUS, simple, simple_only=True)
    assert [json.loads(row["extra_info"]["source_ann"])["issimple"] for row in rows] == [True]
    assert report.ledger.left_out["question that is not simple (--simple-only)"] == 1


def test_train_has_no_issimple(source: Source) -> None:
    entry = {key: value for key, value in BUS.items() if key != "issimple"}
    rows, _ = source.convert(entry)
    assert "issimple" not in json.loads(rows[0]["extra_info"]["source_ann"])
    with pytest.raises(RowsError) as caught:
        source.convert(entry, simple_only=True)
    assert str(caught.value).startswith(f"{source.folder}/test.json: ")
    assert mentions(caught.value, "issimple", "--simple-only")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"answer": "many"}, "count 'many'"), ({"question": " "}, "question"), ({"image": None}, "image")],
)
def test_bad_entries(source: Source, change: dict[str, Any], message: str) -> None:
    error, rows, _ = bad_entry(source.convert, BUS, {**BUS, **change, "question_id": 8})
    assert str(error).startswith("test.json: entry 1 (question_id 8): ")
    assert message in str(error)
    assert len(rows) == 1


def test_questions_of_one_image_under_two_names_are_compared(source: Source) -> None:
    wheels = {**BUS, "question": "How many wheels?"}
    (row,), report = source.convert(BUS, {**BUS, "image": f"./{BUS['image']}", "answer": 2}, wheels)
    assert row["prompt"][0]["content"].startswith("<image>How many wheels?")
    assert report.ledger.left_out["question repeated for its image with another answer"] == 2
