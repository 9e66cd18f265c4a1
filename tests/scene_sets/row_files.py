"""What the writers of rows share: files of rows, boxes in other units, and formats of `records.py`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scene_sets.base import Canon, Picture, SceneFormat, Thing
from verl_visionr1.conversion.datasets import records

Row = dict[str, Any]


def png(picture: Picture, folder: Path) -> bytes:
    """The bytes of an image file."""
    return picture.save(folder / "originals").read_bytes()


def write_jsonl(path: Path, rows: Sequence[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path, rows: Sequence[Row], features: Row | None = None) -> Path:
    """With the `huggingface` metadata that `datasets` writes, where features are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(list(rows))
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)
    return path


def asked(pictures: Sequence[Picture]) -> Iterator[tuple[Picture, str, list[Thing]]]:
    """(picture, label, its objects): one row each."""
    for picture in pictures:
        for label in picture.labels:
            yield picture, label, picture.of(label)


def scaled(thing: Thing, picture: Picture, whole: tuple[float, float]) -> list[float]:
    """A box where `whole` stands for the picture's size."""
    (width, height), (x1, y1, x2, y2) = picture.size, thing.box
    sx, sy = whole[0] / width, whole[1] / height
    return [x1 * sx, y1 * sy, x2 * sx, y2 * sy]


def own(
    name: str,
    write: Callable[..., tuple[Any, ...]],
    expected: Callable[..., list[Canon]],
    *,
    embeds: bool = False,
    **options: Any,
) -> Any:
    """A format of `records.py`; images lie in `images/` where they are not named by path."""

    def convert(source: Path, out: Path, given: records.Options) -> Any:
        images = source.parent / "images"
        return records.convert(source, out, replace(given, images_dir=images) if images.is_dir() else given)

    return SceneFormat(f"records {name}", write, convert, records.Options(**options), expected, embeds)
