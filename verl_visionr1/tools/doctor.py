"""Is a parquet file fit for training? What would stop the trainer, or spoil a reward, is found before a run starts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from verl_visionr1.files import RowsError
from verl_visionr1.rows import CONVERT_AGAIN, EMBED_SCHEMA, PATH_SCHEMA, open_parquet, read_rows, target_of
from verl_visionr1.targets import TargetError


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why a file cannot be trained on; `row` is None where it is the whole file's.

    >>> print(Problem("train.parquet", 3, "reward_model.ground_truth is empty"))
    train.parquet: row 3: reward_model.ground_truth is empty
    """

    file: str
    row: int | None
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}" if self.row is None else f"{self.file}: row {self.row}: {self.reason}"


def check_parquet(path: str | Path, *, images: bool = True, limit: int = 20) -> list[Problem]:
    """What would stop or spoil a training run on this file; an empty list for a good one.

    Reads no pixels, and no image bytes.

    Args:
        path: one parquet file.
        images: in path mode, look whether every image file is there.
        limit: stop after so many problems.
    """
    path = Path(path)
    try:
        return list(islice(_problems(path, images), limit))
    except RowsError as error:
        return [Problem(str(path), None, str(error).removeprefix(f"{path}: "))]


def _problems(path: Path, images: bool) -> Iterator[Problem]:
    with open_parquet(path) as parquet:
        schema = parquet.schema_arrow
    whole_file = [*_schema_problems(schema), *_shard_problems(path)]
    if whole_file:
        yield from (Problem(str(path), None, reason) for reason in whole_file)
        return
    path_mode = schema.field("images").type == PATH_SCHEMA.field("images").type
    columns = ["data_source", "prompt", "reward_model", "extra_info"] + ["images"] * path_mode
    indexes: set[int | None] = set()
    number = -1
    for number, row in enumerate(read_rows(path, columns=columns)):
        yield from (Problem(str(path), number, reason) for reason in _row_problems(row, images))
        index = (row["extra_info"] or {}).get("index")
        if index is None or index in indexes:
            reason = f"extra_info.index = {index}: needs a number that no other row has; {CONVERT_AGAIN}"
            yield Problem(str(path), number, reason)
        indexes.add(index)
    if number < 0:
        yield Problem(str(path), None, f"holds no row; {CONVERT_AGAIN}")


def _schema_problems(schema: pa.Schema) -> Iterator[str]:
    for column in PATH_SCHEMA:
        if column.name not in schema.names:
            yield f"no column {column.name!r} (it has {', '.join(schema.names)}); {CONVERT_AGAIN}"
        elif schema.field(column.name).type not in (column.type, EMBED_SCHEMA.field(column.name).type):
            yield f"column {column.name!r} is {schema.field(column.name).type}, needs {column.type}; {CONVERT_AGAIN}"


def _shard_problems(path: Path) -> Iterator[str]:
    stem, _, total = path.stem.rpartition("-of-")
    name, _, number = stem.rpartition("-")
    if not (name and number.isdigit() and total.isdigit()):
        return
    shards = [path.with_name(f"{name}-{i:05d}-of-{total}.parquet") for i in range(int(total))]
    missing = [shard.name for shard in shards if not shard.exists()]
    if missing:
        counted = f"{len(missing)} of its {len(shards)} shards are missing"
        yield f"{counted}, first {missing[0]}; {CONVERT_AGAIN}, or copy them too"


def _row_problems(row: Mapping[str, Any], images: bool) -> Iterator[str]:
    if not row["data_source"]:
        yield f"data_source = {row['data_source']!r}: needs a text; {CONVERT_AGAIN}"
    try:
        target_of(row)
    except TargetError as error:
        yield f"reward_model.{error}; {CONVERT_AGAIN}"
    content = "".join(turn["content"] or "" for turn in row["prompt"] or ())
    placeholders = content.count("<image>")
    paths = row.get("images", [None])  # embed mode: the bytes are not read; every row has one image
    if placeholders != len(paths or ()):
        yield f"prompt holds {placeholders} '<image>' for {len(paths or ())} images: {content[:80]!r}; {CONVERT_AGAIN}"
    for file in paths or ():
        if images and file is not None and not (os.path.isabs(file) and os.path.exists(file)):
            reason = "no such image file" if os.path.isabs(file) else "needs an absolute path"
            yield f"images: {file!r}: {reason}; convert it again where the images are"
