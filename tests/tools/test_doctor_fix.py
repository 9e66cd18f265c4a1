"""`visionr1 doctor --fix`: what is safe is mended and told, the rest is left as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from doctor_rows import (
    CAT,
    FORMS,
    Truth,
    a_row,
    change_rows,
    doctor,
    duplicate_boxes,
    embedded,
    fractions,
    inverted,
    of_another_project,
    of_boxes,
    repeated_rows,
    rotated,
    unnamed_labels,
    write_rows,
)

from verl_visionr1.conversion.conventions import NAMED
from verl_visionr1.row_layouts import PATH_SCHEMA
from verl_visionr1.rows import read_rows
from verl_visionr1.tools.doctor.fixing import fix_file


def test_what_is_safe_is_repaired_and_reported(copy: Path) -> None:
    path = copy / "train.parquet"
    duplicate_boxes(copy)

    def change(row: dict[str, Any], truth: Truth, number: int) -> None:
        if number == 20:
            truth.update(boxes_xyxy=[[0, 0, 200.5, 50], [5, 5, 5, 9]], labels=["red circle"] * 2, categories=[])
            row["prompt"][0]["content"] = "<image>Where is the red circle?"

    change_rows(path, change)
    repeated_rows(copy)
    before = path.read_bytes()
    assert doctor(path).exit_code == 2
    done = doctor(path, "--fix", copy / "mended.parquet")
    for kind in (
        "2 x repeated row dropped",
        "x repeated box dropped",
        "1 x box clipped by up to a pixel",
        "1 x box without area dropped",
    ):
        assert kind in done.stderr
    assert re.search(r"row 20, boxes_xyxy\[1\] = \[5, 5, 5, 9\]: box without area", done.stderr)
    assert path.read_bytes() == before
    again = doctor(copy / "mended.parquet")
    assert (again.output, again.exit_code) == ("", 0)
    provenance = json.loads(pq.read_schema(copy / "mended.parquet").metadata[b"visionr1"])
    assert provenance["fixed"] == [{"by": "visionr1 doctor --fix", "file": "train.parquet"}]


@pytest.mark.parametrize("spoil", [fractions, rotated, unnamed_labels, inverted, of_another_project], ids=range(5))
def test_what_is_not_safe_is_left(copy: Path, spoil: Callable[[Path], None]) -> None:
    spoil(copy)
    found = doctor(copy / "train.parquet").output
    done = doctor(copy / "train.parquet", "--fix", copy / "mended.parquet")
    assert done.exit_code != 0
    if (copy / "mended.parquet").exists():
        assert doctor(copy / "mended.parquet").output == found.replace("train.parquet", "mended.parquet")


@pytest.mark.parametrize("name", ["xyxy-norm1000", "xyxy-norm1", "xywh-abs"])
def test_coordinates_are_mended_as_told(copy: Path, name: str) -> None:
    """Doctor says what to tell it; boxes come back to within the rounding of what was written."""
    rows = list(read_rows(copy / "train.parquet"))
    truth = {row["extra_info"]["index"]: row["reward_model"]["ground_truth"] for row in rows}
    of_boxes(FORMS[name])(copy)
    assert f"--fix OUT.parquet --boxes-are {name}" in doctor(copy / "train.parquet").output
    done = doctor(copy / "train.parquet", "--fix", copy / "mended.parquet", "--boxes-are", name)
    assert "x box converted from" in done.stderr
    assert doctor(copy / "mended.parquet").exit_code == 0
    for row in read_rows(copy / "mended.parquet"):
        before = json.loads(truth[row["extra_info"]["index"]]).get("boxes_xyxy", [])
        after = json.loads(row["reward_model"]["ground_truth"]).get("boxes_xyxy", [])
        assert np.allclose(before, after, atol=0.11)


@pytest.mark.parametrize(
    "others",
    [
        {"ignore_xyxy": [[0.5, 0.5, 0.9, 0.95]] * 2},
        {"points_xy": [[20, 20], [70, 60]]},
        {"masks": [{"polygons_xy": [[10, 8, 40, 8, 40, 40]]}] * 2},
    ],
    ids=["ignored", "points", "masks"],
)
def test_all_boxes_are_brought_to_pixels_and_the_rest_stays(tmp_path: Path, others: dict[str, Any]) -> None:
    boxes = [[0.1, 0.1, 0.4, 0.5], [0.5, 0.5, 0.9, 0.95]]
    truth = {"task": "grounding", "size_wh": [100, 80], "boxes_xyxy": boxes, "labels": ["cat", "cat"], **others}
    path = write_rows(tmp_path / "a.parquet", [a_row(tmp_path, truth=json.dumps(truth))])
    changes = fix_file([path], tmp_path / "mended.parquet", NAMED["xyxy-norm1"])
    assert changes.counts.total() == 2 + len(others.get("ignore_xyxy", ()))
    (row,) = read_rows(tmp_path / "mended.parquet")
    truth["boxes_xyxy"] = [[10, 8, 40, 40], [50, 40, 90, 76]]
    truth |= {"ignore_xyxy": [[50, 40, 90, 76]] * 2} if "ignore_xyxy" in others else {}
    assert json.loads(row["reward_model"]["ground_truth"]) == truth


REFUSED = {  # options -> what is said
    "boxes that are right": (["--fix", "a.parquet", "--boxes-are", "xyxy-norm1"], "row 0: box .* outside the image"),
    "no --fix": (["--boxes-are", "xyxy-norm1"], "--boxes-are"),
    "no such convention": (["--fix", "a.parquet", "--boxes-are", "yxyx"], "--boxes-are"),
    "the file itself": (["--fix", "train.parquet"], "another file"),
    "another suffix": (["--fix", "a.txt"], "ends in .parquet"),
    "two files": (["val.parquet", "--fix", "a.parquet"], "one .parquet at a time"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_leaves_no_file(options: list[str], message: str, copy: Path) -> None:
    done = doctor(copy / "train.parquet", *(copy / it if "." in it else it for it in options))
    assert done.exit_code == 2
    assert re.search(message, done.stderr)
    assert {path.name for path in copy.iterdir()} == {"train.parquet", "val.parquet"}


def fixed(folder: Path, *rows: dict[str, Any], schema: pa.Schema | None = None) -> list[dict[str, Any]]:
    path = write_rows(folder / "soiled.parquet", list(rows), schema)
    done = doctor(path, "--fix", folder / "mended.parquet")
    assert not isinstance(done.exception, Exception), done.exception
    assert done.exit_code in (0, 1, 2)
    return pq.read_table(folder / "mended.parquet").to_pylist() if (folder / "mended.parquet").exists() else []


def test_fix_keeps_keys_and_types_that_are_not_ours(tmp_path: Path) -> None:
    row = a_row(tmp_path, images=[{**embedded(tmp_path), "path": "a.png"}])
    row["extra_info"] = {"tools": {"a": [1]}, "index": 3, "answer": "kept"}
    row["reward_model"]["format"] = 0.5
    assert fixed(tmp_path, row) == [row]


@pytest.mark.parametrize(
    ("boxes", "labels", "left"),
    [
        ([[5, 5, 5, 50]], ["cat"], [0]),
        ([[5, 5, 5, 50], [1, 1, 9, 9]], ["cat", "dog"], [0, 1]),
        ([[5, 5, 5, 50], [1, 1, 9, 9]], ["cat", "cat"], [1]),
        ([[5, 5, 5, 10**400], [1, 1, 9, 9]], ["cat", "cat"], [0, 1]),
    ],
)
def test_fix_never_drops_the_last_of_what_is_there(
    tmp_path: Path, boxes: list[list[int]], labels: list[str], left: list[int]
) -> None:
    truth = {"task": "grounding", "size_wh": [100, 80], "boxes_xyxy": boxes, "labels": labels}
    (mended,) = fixed(tmp_path, a_row(tmp_path, truth=json.dumps(truth)), schema=PATH_SCHEMA)
    after = json.loads(mended["reward_model"]["ground_truth"])
    assert after["boxes_xyxy"] == [boxes[i] for i in left]
    assert after["labels"] == [labels[i] for i in left]


@pytest.mark.parametrize("change", [{"boxes_xyxy": 5}, {"size_wh": ["a", 80]}, {"labels": 3}, {"boxes_xyxy": None}])
def test_fix_leaves_truths_that_are_none(tmp_path: Path, change: dict[str, Any]) -> None:
    row = a_row(tmp_path, truth=json.dumps({**json.loads(CAT.to_json()), **change}))
    assert fixed(tmp_path, row, schema=PATH_SCHEMA) == [row]


def test_fix_compares_all_of_a_row_but_its_origin(tmp_path: Path) -> None:
    rows = [a_row(tmp_path), a_row(tmp_path, 1), a_row(tmp_path, 0, data_source="y")]
    assert [row["data_source"] for row in fixed(tmp_path, *rows, schema=PATH_SCHEMA)] == ["x", "y"]
