"""Points in another unit than `convert records` takes: refused by their numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from recorded import convert
from refused import mentions

from verl_visionr1.conversion.conventions import NAMED
from verl_visionr1.conversion.writing import Report
from verl_visionr1.files import RowsError

SIZE = (640, 480)


def pointing(folder: Path, name: str, n_rows: int = 15, **options: Any) -> Report:
    """Rows of two points each, written with their boxes' unit."""
    Image.new("RGB", SIZE).save(folder / "a.png")
    whole_w, whole_h = NAMED[name].fixed_wh or SIZE
    shares = [((i + 1) / 20, (i + 3) / 20) for i in range(n_rows)]
    rows = ({"image": "a.png", "q": f"cat {x}", "p": [[x * whole_w, y * whole_h]] * 2} for x, y in shares)
    return convert(folder, *rows, column=["image=image", "phrase=q", "points=p"], **options)[1]


@pytest.mark.parametrize(
    ("name", "given"),
    [(f"xyxy-norm{unit}", f"xyxy-{given}") for unit in (1, 100) for given in ("abs", "norm1000")],
)
def test_points_in_another_unit_are_refused(name: str, given: str, tmp_path: Path) -> None:
    with pytest.raises(RowsError) as caught:
        pointing(tmp_path, name, box_format=given, on_error="skip")
    assert mentions(caught.value, "a.jsonl", given, f"--box-format {name}")
    allowed = pointing(tmp_path, name, box_format=given, max_clipped=1.0)
    assert allowed.rows == pointing(tmp_path, name, box_format=name).rows == {"pointing": 15}


@pytest.mark.parametrize(
    ("name", "n_rows", "noted"), [("xyxy-norm100", 5, 1), ("xyxy-norm100", 3, 0), ("xyxy-abs", 15, 0)]
)
def test_few_points_in_another_unit_are_noted(name: str, n_rows: int, noted: int, tmp_path: Path) -> None:
    report = pointing(tmp_path, name, n_rows, box_format="xyxy-abs")
    assert sum(note.startswith("unit of points in doubt") for note in report.ledger.notes) == noted
