"""The columns of a parquet file, and what stands in them: what would stop verl, or leave a row without a reward."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from verl_visionr1.files import RowsError
from verl_visionr1.rewards.routing import is_delegated
from verl_visionr1.row_layouts import EMBED_SCHEMA, PATH_SCHEMA, VERL_FEATURES
from verl_visionr1.rows import CONVERT_AGAIN, METADATA_KEY, open_parquet, target_of
from verl_visionr1.targets import TargetError
from verl_visionr1.tools.doctor.problems import Problem, Severity

_BATCH_ROWS = 100  # images and all
_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_null)


def check_parquet(path: str | Path, *, images: bool = True, limit: int = 20) -> list[Problem]:
    """What would stop or spoil a training run on this file; an empty list for a good one.

    Decodes no pixels; of embedded images only the lengths are looked at.

    Args:
        path: one parquet file.
        images: in path mode, look whether every image file is there.
        limit: stop after so many problems.
    """
    path = Path(path)
    try:
        return list(islice(structural_problems(path, images), limit))
    except RowsError as error:
        return [Problem(str(path), None, str(error).removeprefix(f"{path}: "))]


def structural_problems(path: Path, images: bool, delegate: Sequence[str] = ()) -> Iterator[Problem]:
    """As `check_parquet`, all of them, one after the other.

    Args:
        path: one parquet file.
        images: look whether every image file is there.
        delegate: data sources (globs) whose ground truth verl's own reward reads, so that it may be anything.

    Raises:
        RowsError: the file cannot be read.
    """
    with open_parquet(path) as parquet:
        schema = parquet.schema_arrow
        whole_file = [*_schema_problems(path, schema), *_shard_problems(path), *_group_problems(path, parquet)]
    yield from whole_file
    if any(problem.severity is Severity.ERROR for problem in whole_file):
        return
    has_images = "images" in schema.names
    indexes: set[str] = set()
    number = -1
    for number, row in enumerate(_rows(path, schema.names)):
        if not has_images and "<image>" in _content_of(row):
            reason = f"no column 'images', and the prompt of row {number} holds '<image>'; {CONVERT_AGAIN}"
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
        yield Problem(str(path), None, f"holds no row; {CONVERT_AGAIN}", "no row")


def _rows(path: Path, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows, with what `images_of` makes of their images."""
    columns = [name for name in ("data_source", "prompt", "reward_model", "extra_info", "images") if name in names]
    for batch in batches_of(path, columns):
        is_feature = _has_image_feature(batch.schema)
        images = images_of(batch.column("images"), is_feature=is_feature) if "images" in names else [[]] * len(batch)
        rows = batch.select([name for name in columns if name != "images"]).to_pylist()
        for row, shown in zip(rows, images, strict=True):
            yield {**row, "images": shown}


def batches_of(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns, a few rows in memory at a time.

    Raises:
        RowsError: the file cannot be read.
    """
    with open_parquet(path) as parquet:
        try:
            yield from parquet.iter_batches(batch_size=_BATCH_ROWS, columns=list(columns))
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0]
            raise RowsError(f"{path}: not a whole parquet file ({reason}); {CONVERT_AGAIN}") from None


def images_of(column: pa.Array, *, is_feature: bool = False) -> list[list[str | bool | None]]:
    """What verl finds for each image of some rows: a path; True for bytes, which are not copied; None for nothing.

    Args:
        is_feature: the column is a feature of Hugging Face: then a path beside `bytes` is opened where those are null.
    """
    flat, parents = column.flatten(), column.value_parent_indices().to_pylist()
    paths: list[str | None] = []
    if pa.types.is_struct(flat.type):
        fields = {field.name: values for field, values in zip(flat.type.fields, flat.flatten(), strict=True)}
        if "bytes" in fields:  # then verl opens these, whatever stands beside them
            lengths = pc.call_function("binary_length", [fields["bytes"].cast(pa.large_binary())])
            flat = lengths.cast(pa.bool_())
        else:
            flat = fields["image"]
        paths = fields["path"].to_pylist() if is_feature and "path" in fields else []
    images: list[list[str | bool | None]] = [[] for _ in range(len(column))]
    for parent, value, path in zip_longest(parents, flat.to_pylist(), paths):
        images[parent].append(value or path or None)
    return images


# ---------------------------------------------------------------------------------------------- the whole file


def _schema_problems(path: Path, schema: pa.Schema) -> Iterator[Problem]:
    """Columns that stop verl are errors; columns of another type than ours only keep files from being mixed."""
    for column in PATH_SCHEMA:
        if column.name not in schema.names:
            if column.name == "images":
                continue  # legal where no prompt holds "<image>"
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
            reason += " (verl reads it alone, but not beside files of the usual schema)"
        yield Problem(str(path), None, reason, "column of another type", severity)
    if _has_image_feature(schema) and METADATA_KEY not in schema.metadata:  # our images are upright, without alpha
        reason = (
            "its metadata says that images are Hugging Face Image features: verl then turns them by EXIF and drops "
        )
        reason += f"alpha, and without that metadata it does neither; {CONVERT_AGAIN}"
        yield Problem(str(path), None, reason, "image features", Severity.WARNING)


def _is_readable(name: str, found: pa.DataType) -> bool:
    """Whether verl and our reward can read a column, though its type is another."""
    if name == "reward_model":
        return pa.types.is_struct(found) and any(
            field.name == "ground_truth" and _is_text(field.type) for field in found.fields
        )
    if name == "images":
        if not (pa.types.is_list(found) or pa.types.is_large_list(found)):
            return False
        value = found.value_type
        keys = {field.name: field.type for field in value.fields} if pa.types.is_struct(value) else {}
        if "bytes" in keys:
            return any(is_type(keys["bytes"]) for is_type in _BYTES)
        return _is_text(keys.get("image", value))
    if name == "prompt":
        turn = found.value_type if pa.types.is_list(found) or pa.types.is_large_list(found) else pa.null()
        return pa.types.is_struct(turn) and any(it.name == "content" and _is_text(it.type) for it in turn.fields)
    if name == "extra_info":
        return pa.types.is_struct(found) or pa.types.is_null(found)
    return _is_text(found)


def _is_text(found: pa.DataType) -> bool:
    return pa.types.is_string(found) or pa.types.is_large_string(found)


def _has_image_feature(schema: pa.Schema) -> bool:
    return b'"Image"' in (schema.metadata or {}).get(b"huggingface", b"")


def _is_pair_of_feature(name: str, schema: pa.Schema) -> bool:
    """Whether a column is that of images which `--hf-images` writes."""
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
        counted = f"{len(missing)} of its {len(shards)} shards are missing"
        reason = f"{counted}, first {missing[0]}; {CONVERT_AGAIN}, or copy them too"
        yield Problem(str(path), None, reason, "shards missing")


def _group_problems(path: Path, parquet: pq.ParquetFile) -> Iterator[Problem]:
    """pyarrow cannot read back a nested column of 2 GB in one row group."""
    metadata = parquet.metadata
    for group in range(metadata.num_row_groups):
        columns = [metadata.row_group(group).column(i) for i in range(metadata.num_columns)]
        largest = max(columns, key=lambda column: column.total_uncompressed_size)
        if largest.total_uncompressed_size >= 2**31 and "." in largest.path_in_schema:
            size = f"{largest.total_uncompressed_size / 2**30:.1f} GiB of {largest.path_in_schema}"
            reason = f"row group {group} holds {size}: pyarrow cannot read that back; {CONVERT_AGAIN}"
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
        yield "unreadable truth", f"reward_model.{error}; {CONVERT_AGAIN}, {advice}"
    turns = row["prompt"]
    if not turns or any(turn is None or turn["content"] is None for turn in turns):
        yield "malformed prompt", f"prompt = {str(turns)[:80]}: needs turns with a role and a text; {CONVERT_AGAIN}"
        return
    content, paths = _content_of(row), row["images"]
    placeholders = content.count("<image>")
    if placeholders != len(paths):
        counted = f"prompt holds {placeholders} '<image>' for {len(paths)} images"
        yield "placeholders", f"{counted}: {content[:80]!r}; {CONVERT_AGAIN}"
    for i, file in enumerate(paths):
        if file is None:
            yield "no image", f"images[{i}] is empty: needs a path, or bytes; {CONVERT_AGAIN}"
        elif images and isinstance(file, str) and not (os.path.isabs(file) and os.path.exists(file)):
            reason = "no such image file" if os.path.isabs(file) else "needs an absolute path"
            yield "no such image", f"images: {file[:300]!r}: {reason}; convert it again where the images are"


def _content_of(row: Mapping[str, Any]) -> str:
    return "".join(turn["content"] or "" for turn in row["prompt"] or () if turn is not None)
