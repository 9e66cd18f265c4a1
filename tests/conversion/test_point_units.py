"""Points in another unit than `convert records` takes: refused by their numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from verl_visionr1.conversion.conventions import NAMED
from verl_visionr1.conversion.datasets import records
from verl_visionr1.conversion.writing import Report
from verl_visionr1.files import RowsError

SIZE = (640, 480)


def pointing(folder: Path, name: str, n_rows: int = 15, **options: Any) -> Report:
    """Rows of two points each, written with their boxes' unit."""
    Image.new("RGB", SIZE).save(folder / "a.png")
    whole_w, whole_h = NAMED[name].fixed_wh or SIZE
    shares = [((i + 1) / 20, (i + 3) / 20) for i in range(n_rows)]
    rows = [
        {"image": "a.png", "q": f"cat {i}", "p": [[x * whole_w, y * whole_h]] * 2} for i, (x, y) in enumerate(shares)
    ]
    path = folder / "a.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    column = ["image=image", "phrase=q", "points=p"]
    return records.convert(path, folder / "out.parquet", records.Options(column=column, **options))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("xyxy-norm1", "xyxy-abs"),
        ("xyxy-norm1", "xyxy-norm1000"),
        ("xyxy-norm1", "xyxy-norm100"),
        ("xyxy-norm100", "xyxy-abs"),
        ("xyxy-norm100", "xyxy-norm1000"),
    ],
)
def test_points_in_another_unit_are_refused(name: str, given: str, tmp_path: Path) -> None:
    with pytest.raises(RowsError) as caught:
        pointing(tmp_path, name, box_format=given, on_error="skip")
    assert all(text in str(caught.value) for text in ("a.jsonl", given, f"--box-format {name}"))
    allowed = pointing(tmp_path, name, box_format=given, max_clipped=1.0)
    right = pointing(tmp_path, name, box_format=name)
    assert allowed.rows == right.rows == {"pointing": 15}


@pytest.mark.parametrize(
    ("name", "n_rows", "noted"), [("xyxy-norm100", 5, 1), ("xyxy-norm100", 3, 0), ("xyxy-abs", 15, 0)]
)
def test_few_points_in_another_unit_are_noted(name: str, n_rows: int, noted: int, tmp_path: Path) -> None:
    report = pointing(tmp_path, name, n_rows, box_format="xyxy-abs")
    assert sum(note.startswith("unit of points in doubt") for note in report.ledger.notes) == noted
