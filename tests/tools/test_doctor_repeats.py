"""`visionr1 doctor`: rows with the question and image of another, with the same ground truth or another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from doctor_rows import CAT, a_row, write_rows

from verl_visionr1 import Target
from verl_visionr1.row_layouts import PATH_SCHEMA
from verl_visionr1.rows import read_rows, target_of
from verl_visionr1.tools.doctor.examination import examine
from verl_visionr1.tools.doctor.fixing import fix_file

OTHER = Target(task="grounding", size_wh=(100, 80), boxes_xyxy=[[50, 40, 70, 60]], labels=["cat"])
COUNTS = [Target(task="counting", size_wh=(100, 80), count=count).to_json() for count in (1, 2)]


def found_in(*paths: Path) -> dict[str, list[int | None]]:
    kinds = ("repeated row", "other ground truth", "rows of another file")
    return {group.kind: [it.row for it in group.examples] for group in examine(paths).found if group.kind in kinds}


def rows_of(path: Path, *truths: str) -> Path:
    return write_rows(path, [a_row(path.parent, i, truth) for i, truth in enumerate(truths)], PATH_SCHEMA)


@pytest.mark.parametrize("truths", [(CAT.to_json(), OTHER.to_json()), COUNTS], ids=["boxes", "counts"])
def test_another_ground_truth_is_no_repeat(truths: tuple[str, str], tmp_path: Path) -> None:
    one, two = truths
    path = rows_of(tmp_path / "a.parquet", one, two, one)
    assert found_in(path) == {"repeated row": [2], "other ground truth": [1]}
    fix_file([path], tmp_path / "fixed.parquet")
    kept = [target_of(row).to_json() for row in read_rows(tmp_path / "fixed.parquet")]
    assert kept == [one, two]


def test_only_objects_are_to_be_put_together(tmp_path: Path) -> None:
    for truths, is_joined in (((CAT.to_json(), OTHER.to_json()), True), (COUNTS, False)):
        (group,) = [it for it in examine([rows_of(tmp_path / "a.parquet", *truths)]).found if "truth" in it.kind]
        assert ("objects" in group.examples[0].reason) is is_joined


def test_lines_with_one_box_each(tmp_path: Path) -> None:
    a_row(tmp_path)
    boxes = ([1, 2, 30, 40], [50, 40, 70, 60], [1, 2, 30, 40])
    lines = [{"image": "a.png", "caption": "cat", "question": "Where is the cat?", "box": box} for box in boxes]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert found_in(tmp_path / "mine.jsonl") == {"repeated row": [3], "other ground truth": [2]}


def test_between_files(tmp_path: Path) -> None:
    for truth, is_other in ((CAT, False), (OTHER, True)):
        files = [rows_of(tmp_path / "a.parquet", CAT.to_json()), rows_of(tmp_path / "b.parquet", truth.to_json())]
        (group,) = examine(files).found
        assert (group.kind, group.file) == ("rows of another file", str(files[1]))
        assert ("1 with another ground truth" in group.examples[0].reason) is is_other
