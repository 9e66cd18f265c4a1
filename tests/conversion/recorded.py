"""Records about one picture, and their conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scene_sets.base import pictures, rows_in
from scene_sets.row_files import write_jsonl

from verl_visionr1.conversion.datasets import records
from verl_visionr1.conversion.writing import Report

PICTURE = pictures()[0]
WIDTH, HEIGHT = PICTURE.size
NAME = PICTURE.file_name
BOX = (8.0, 16.0, 40.0, 60.0)
COLUMNS = ("image=image", "phrase=text", "boxes=boxes")


def convert(folder: Path, *rows: Any, **options: Any) -> tuple[list[dict[str, Any]], Report]:
    return converted(write_jsonl(folder / "a.jsonl", rows), **options)


def converted(path: Path, **options: Any) -> tuple[list[dict[str, Any]], Report]:
    report = records.convert(path, path.parent / "out.parquet", records.Options(**options))
    return rows_in(report), report


def row(boxes: Any = (BOX,), **changes: Any) -> dict[str, Any]:
    return {"image": NAME, "text": "the cat", "boxes": boxes, **changes}
