"""Check columns and values of a parquet file: what would stop verl, or leave a row without a reward."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl_visionr1.files import RowsError
from verl_visionr1.rewards.routing import is_delegated
from verl_visionr1.row_layouts import EMBED_SCHEMA, PATH_SCHEMA, VERL_FEATURES
from verl_visionr1.rows import CONVERT_AGAIN, METADATA_KEY, open_parquet, read_rows, target_of
from verl_visionr1.targets import TargetError
from verl_visionr1.tools.doctor.problems import Problem, Severity

_BATCH_ROWS = 100  # images and all
_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_null)


def check_parquet(path: str | Path, *, images: bool = True, limit: int = 20) -> list[Problem]:
    """Return problems that would stop or falsify training on this file; no pixels are decoded.

    Args:
        images: in path mode, check that every image file exists.
        limit: stop after this many problems.
    """
    path = Path(path)
    try:
        return list(islice(structural_problems(path, images), limit))
    except RowsError as error:
        return [Problem(str(path), None, str(error).removeprefix(f"{path}: "))]


def structural_problems(path: Path, images: bool, delegate: Sequence[str] = ()) -> Iterator[Problem]:
    """As `check_parquet`, as an iterator over all problems.

    Args:
        images: check that every image file exists.
        delegate: data sources (globs) that verl's own reward scores; their ground truth is not checked.

    Raises:
        RowsError: the file cannot be read.
    """
    with open_parquet(path) as parquet:
        schema = parquet.schema_arrow
        whole_file = [*_schema_problems(path, schema), *_shard_problems(path), *_group_problems(path, parquet)]
    yield from whole_file
    if any(problem.severity is Severity.ERROR for problem in whole_file):
        return
    indexes: set[str] = set()
    number = -1
    for number, row in enumerate(_rows(path, schema)):
        if "images" not in schema.names and "<image>" in _content_of(row):
            reason = f"no column 'images', but the prompt of row {number} has '<image>'; {CONVERT_AGAIN}"
            yield Problem(str(path), None, reason, "column missing")
            return
        for kind, reason in _row_problems(row, images, delegate):
            yield Problem(str(path), number, reason, kind)
        index = (row.get("extra_info") or {}).get("index")
        if "extra_info" in row and (index is None or str(index) in indexes):
            reason = f"extra_info.index = {index}: needs a number that no other row has; {CONVERT_AGAIN}"
            yield Problem(str(path), number, reason, "index not unique", Severity.WARNING)
        indexes.add(str(index))
    if number < 0:
        yield Problem(str(path), None, f"has no row; {CONVERT_AGAIN}", "no row")


def _rows(path: Path, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    """Yield the rows, with the image data that verl would open."""
    columns = [name for name in PATH_SCHEMA.names if name in schema.names]
    is_feature = _has_image_feature(schema)
    for row in read_rows(path, columns=columns, batch_rows=_BATCH_ROWS):
        yield {**row, "images": [_image_of(image, is_feature) for image in row.get("images") or ()]}


def _image_of(image: Any, is_feature: bool) -> str | bytes | None:
    """Return what verl opens: the `bytes`, else for a feature its path."""
    if not isinstance(image, Mapping):
        return image or None
    if "bytes" not in image:
        return image["image"] or None
    return image["bytes"] or (is_feature and image.get("path")) or None


# ---------------------------------------------------------------------------------------------- the whole file


def _schema_problems(path: Path, schema: pa.Schema) -> Iterator[Problem]:
    """Report columns: those that stop verl are errors; a readable type other than ours only prevents mixing files."""
    for column in PATH_SCHEMA:
        if column.name not in schema.names:
            if column.name == "images":
                continue  # legal if no prompt has "<image>"
            severity = Severity.WARNING if column.name in ("ability", "extra_info") else Severity.ERROR
            reason = f"no column {column.name!r} (it has {', '.join(schema.names)}); {CONVERT_AGAIN}"
            yield Problem(str(path), None, reason, "column missing", severity)
            continue
        found = schema.field(column.name).type
        if found in (column.type, EMBED_SCHEMA.field(column.name).type) or _is_pair_of_feature(column.name, schema):
            continue
        reason = f"column {column.name!r} is {found}, needs {column.type}; {CONVERT_AGAIN}"
        severity = Severity.WARNING if _is_readable(column.name, found) else Severity.ERROR
        if severity is Severity.WARNING:
            reason += " (verl reads it alone, but not together with files of the usual schema)"
        yield Problem(str(path), None, reason, "column of another type", severity)
    if _has_image_feature(schema) and METADATA_KEY not in schema.metadata:  # our images are upright, without alpha
        reason = "its metadata declares Hugging Face Image features: verl then rotates images by EXIF and drops alpha,"
        reason = f"{reason} which it does not do without that metadata; {CONVERT_AGAIN}"
        yield Problem(str(path), None, reason, "image features", Severity.WARNING)


def _is_readable(name: str, found: pa.DataType) -> bool:
    """Whether verl and our reward can read a column of another type."""
    if name in ("images", "prompt") and not (pa.types.is_list(found) or pa.types.is_large_list(found)):
        return False
    if name == "images":
        value = found.value_type
        keys = {field.name: field.type for field in value.fields} if pa.types.is_struct(value) else {}
        if "bytes" in keys:
            return any(is_type(keys["bytes"]) for is_type in _BYTES)
        return _is_text(keys.get("image", value))
    if name == "prompt":
        return _has_text(found.value_type, "content")
    if name == "extra_info":
        return pa.types.is_struct(found) or pa.types.is_null(found)
    return _has_text(found, "ground_truth") if name == "reward_model" else _is_text(found)


def _has_text(found: pa.DataType, name: str) -> bool:
    return pa.types.is_struct(found) and any(it.name == name and _is_text(it.type) for it in found.fields)


def _is_text(found: pa.DataType) -> bool:
    return pa.types.is_string(found) or pa.types.is_large_string(found)


def _has_image_feature(schema: pa.Schema) -> bool:
    return b'"Image"' in (schema.metadata or {}).get(b"huggingface", b"")


def _is_pair_of_feature(name: str, schema: pa.Schema) -> bool:
    """Whether a column is `images` as written by `--hf-images`."""
    is_pair = schema.field(name).type == VERL_FEATURES.schema(embed=False).field(name).type
    return name == "images" and is_pair and _has_image_feature(schema)


def _shard_problems(path: Path) -> Iterator[Problem]:
    stem, _, total = path.stem.rpartition("-of-")
    name, _, number = stem.rpartition("-")
    if not (name and number.isdigit() and total.isdigit()):
        return
    shards = [path.with_name(f"{name}-{i:05d}-of-{total}.parquet") for i in range(int(total))]
    missing = [shard.name for shard in shards if not shard.exists()]
    if missing:
        counted = f"{len(missing)} of its {len(shards)} shards are missing, first {missing[0]}"
        reason = f"{counted}; {CONVERT_AGAIN}, or copy them too"
        yield Problem(str(path), None, reason, "shards missing")


def _group_problems(path: Path, parquet: pq.ParquetFile) -> Iterator[Problem]:
    """Report row groups with a nested column of 2 GB, which pyarrow cannot read back."""
    metadata = parquet.metadata
    for group in range(metadata.num_row_groups):
        columns = [metadata.row_group(group).column(i) for i in range(metadata.num_columns)]
        largest = max(columns, key=lambda column: column.total_uncompressed_size)
        if largest.total_uncompressed_size >= 2**31 and "." in largest.path_in_schema:
            size = f"{largest.total_uncompressed_size / 2**30:.1f} GiB of {largest.path_in_schema}"
            reason = f"row group {group} has {size}: pyarrow cannot read that back; {CONVERT_AGAIN}"
            yield Problem(str(path), None, reason, "row group too large")
            return


# ---------------------------------------------------------------------------------------------- one row


def _row_problems(row: Mapping[str, Any], images: bool, delegate: Sequence[str]) -> Iterator[tuple[str, str]]:
    if not row["data_source"]:
        yield "no data source", f"data_source = {row['data_source']!r}: needs a text; {CONVERT_AGAIN}"
    try:
        if not is_delegated(delegate, str(row["data_source"])):
            target_of(row)
    except TargetError as error:
        advice = f"or, if verl's own reward scores {row['data_source']!r} (visionr1.delegate), give --delegate"
        yield "unreadable truth", f"{error}; {CONVERT_AGAIN}, {advice}"
    turns = row["prompt"]
    if not turns or any(turn is None or turn["content"] is None for turn in turns):
        yield "malformed prompt", f"prompt = {str(turns)[:80]}: needs turns with a role and a text; {CONVERT_AGAIN}"
        return
    content, paths = _content_of(row), row["images"]
    if (n := content.count("<image>")) != len(paths):
        yield "placeholders", f"prompt has {n} '<image>' for {len(paths)} images: {content[:80]!r}; {CONVERT_AGAIN}"
    for i, file in enumerate(paths):
        if file is None:
            yield "no image", f"images[{i}] is empty: needs a path, or bytes; {CONVERT_AGAIN}"
        elif images and isinstance(file, str) and not (os.path.isabs(file) and os.path.exists(file)):
            reason = "no such image file" if os.path.isabs(file) else "needs an absolute path"
            yield "no such image", f"images: {file[:300]!r}: {reason}; convert it again where the images are"


def _content_of(row: Mapping[str, Any]) -> str:
    return "".join(turn["content"] or "" for turn in row["prompt"] or () if turn is not None)
