"""Check columns and values of a converted file: what would stop the trainer, or leave a row without a reward."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa

from verl_visionr1.files import RowError, RowsError
from verl_visionr1.rewards.routing import is_delegated
from verl_visionr1.row_layouts import EMBED_SCHEMA, PATH_SCHEMA, VERL_FEATURES
from verl_visionr1.rows import CONVERT_AGAIN, METADATA_KEY, open_parquet, read_rows, schema_of
from verl_visionr1.tools.doctor.problems import Problem, Severity
from verl_visionr1.tools.doctor.samples import Sample, has_image_features, samples_of


def check_parquet(path: str | Path, *, images: bool = True, limit: int = 20) -> list[Problem]:
    """Return problems that would stop or falsify training on this file; no pixels are decoded.

    Args:
        images: in path mode, check that every image file exists.
        limit: stop after this many problems.
    """
    path = Path(path)
    try:
        return list(islice(_problems(path, images), limit))
    except RowsError as error:
        return [Problem(str(path), None, str(error).removeprefix(f"{path}: "))]


def _problems(path: Path, images: bool) -> Iterator[Problem]:
    whole_file = file_problems(path)
    yield from whole_file
    if any(problem.severity is Severity.ERROR for problem in whole_file):
        return
    indexes: set[str] = set()
    for sample in samples_of(path, "verl"):
        if not isinstance(sample, RowError):
            yield from row_problems(sample, indexes, images=images)


# ---------------------------------------------------------------------------------------------- the whole file


def file_problems(path: Path) -> list[Problem]:
    """Return the problems of the columns of a file in verl's layout.

    Raises:
        RowsError: the file cannot be read.
    """
    with open_parquet(path) as parquet:
        found = [*_schema_problems(path, parquet.schema_arrow)]
        if not parquet.metadata.num_rows:
            found.append(Problem(str(path), None, f"has no row; {CONVERT_AGAIN}", "no row"))
    return found


def _schema_problems(path: Path, schema: pa.Schema) -> Iterator[Problem]:
    """Report missing columns; another type than ours only prevents mixing files, if the values are readable."""
    is_feature = has_image_features(path)
    for column in PATH_SCHEMA:
        if column.name not in schema.names:
            if column.name == "images" and not _asks_for_images(path):
                continue  # rows of text
            severity = Severity.WARNING if column.name in ("ability", "extra_info") else Severity.ERROR
            reason = f"no column {column.name!r} (it has {', '.join(schema.names)}); {CONVERT_AGAIN}"
            yield Problem(str(path), None, reason, "column missing", severity)
            continue
        found = schema.field(column.name).type
        known = [it.field(column.name).type for it in (PATH_SCHEMA, EMBED_SCHEMA, VERL_FEATURES.schema(embed=False))]
        if found not in known[: 3 if is_feature else 2]:
            reason = f"column {column.name!r} is {found}, needs {column.type}; {CONVERT_AGAIN}"
            reason += " (verl cannot load it together with files of the usual schema)"
            yield Problem(str(path), None, reason, "column of another type", Severity.WARNING)
    if is_feature and METADATA_KEY not in schema.metadata:  # our images are upright, without alpha
        reason = "its metadata declares Hugging Face Image features: verl then rotates images by EXIF and drops alpha,"
        reason = f"{reason} which it does not do without that metadata; {CONVERT_AGAIN}"
        yield Problem(str(path), None, reason, "image features", Severity.WARNING)


def _asks_for_images(path: Path) -> bool:
    if "prompt" not in schema_of(path).names:
        return False
    return "<image>" in str(next(read_rows(path, columns=["prompt"], batch_rows=1), ""))


# ---------------------------------------------------------------------------------------------- one row


def row_problems(
    sample: Sample, indexes: set[str], *, images: bool = True, delegate: Sequence[str] = ()
) -> Iterator[Problem]:
    """Yield what would stop the trainer at a converted row.

    Args:
        indexes: `extra_info.index` of the rows before; its own is added.
        images: check that every image file exists.
        delegate: data sources (globs) that verl's own reward scores; their ground truth is not checked.
    """
    if not sample.data_source:
        reason = f"data_source = {sample.record.get('data_source')!r}: needs a text; {CONVERT_AGAIN}"
        yield sample.problem("no data source", reason)
    if sample.truth_error and not is_delegated(delegate, sample.data_source):
        advice = f"or, if verl's own reward scores {sample.data_source!r} (visionr1.delegate), give --delegate"
        yield sample.problem("unreadable truth", f"{sample.truth_error}; {CONVERT_AGAIN}, {advice}")
    turns = sample.record.get("prompt")
    if not turns or not (isinstance(turns, list) and all(map(_is_turn, turns))):
        reason = f"prompt = {str(turns)[:80]}: needs turns with a role and a text; {CONVERT_AGAIN}"
        yield sample.problem("malformed prompt", reason)
    else:
        yield from _image_problems(sample, images)
    if not isinstance(info := sample.record.get("extra_info"), Mapping | None):
        reason = f"extra_info = {str(info)[:60]!r}: verl needs a struct, or no such column; {CONVERT_AGAIN}"
        yield sample.problem("malformed extra_info", reason)
        return
    index = sample.info.get("index")
    if "extra_info" in sample.record and (index is None or str(index) in indexes):
        reason = f"extra_info.index = {index}: needs a number that no other row has; {CONVERT_AGAIN}"
        yield sample.problem("index not unique", reason, Severity.WARNING)
    indexes.add(str(index))


def _is_turn(turn: object) -> bool:
    return isinstance(turn, Mapping) and isinstance(turn.get("content"), str)


def _image_problems(sample: Sample, must_exist: bool) -> Iterator[Problem]:
    content = sample.prompt or ""
    n = content.count("<image>")
    if n != len(sample.images) and sample.layout != "trl":  # whose trainer puts the images first
        reason = f"prompt has {n} '<image>' for {len(sample.images)} images: {content[:80]!r}"
        yield sample.problem("placeholders", f"{reason}; {CONVERT_AGAIN}")
    for i, file in enumerate(sample.images):
        if file is None:
            value = str(sample.record["images"][i])[:60]
            reason = f"images[{i}] = {value}: needs a path, or {{'bytes': ...}}; {CONVERT_AGAIN}"
            yield sample.problem("no image", reason)
        elif must_exist and isinstance(file, str) and not (os.path.isabs(file) and os.path.exists(file)):
            reason = "no such image file" if os.path.isabs(file) else "needs an absolute path"
            yield sample.problem(
                "no such image", f"images: {file[:300]!r}: {reason}; convert it again where the images are"
            )
