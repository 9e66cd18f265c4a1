"""A copy of a parquet file in which is mended what is safe to mend, and nothing else; each change is told.

Safe is what changes no truth: a row that repeats another to the letter (`extra_info` aside), an object that is named
twice, a box that reaches over the edge by a pixel, a box without area beside others of its label, an index that is not
unique, a relative path of an image that lies beside the file, images that are dictionaries of paths, columns of other
types than ours. Coordinates, labels, prompts, turned images, and an object of which only a box without area is left
are not: there the data set has to be converted again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from verl_visionr1.conversion.conventions import Convention
from verl_visionr1.files import RowsError, atomic_write
from verl_visionr1.rewriting import RowGroups, extended_metadata
from verl_visionr1.row_layouts import EMBED_SCHEMA, PATH_SCHEMA
from verl_visionr1.rows import open_parquet, read_rows
from verl_visionr1.tools.doctor.samples import MAX_SIDE, OURS, image_of

FACTS_KEY = "fixed"
"""Key, in the provenance, of what was mended."""
N_LISTED = 5
"""Changes of each kind that are named."""
_BATCH_ROWS = 100


@dataclass(slots=True)
class Changes:
    """What was mended: kind -> how often; `listed` names the first of each kind."""

    counts: Counter[str] = field(default_factory=Counter)
    listed: list[str] = field(default_factory=list)

    def add(self, kind: str, where: str) -> None:
        """Note a change."""
        self.counts[kind] += 1
        if self.counts[kind] <= N_LISTED:
            self.listed.append(f"{where}: {kind}")

    @property
    def lines(self) -> list[str]:
        """For a person to read."""
        return [f"fixed: {count} x {kind}" for kind, count in self.counts.most_common()] + self.listed


def fix_file(files: Sequence[Path], out: Path, boxes_are: Convention | None = None) -> Changes:
    """Write a mended copy of one file.

    Args:
        boxes_are: how the file writes its boxes, where that is not as it ought to: somebody has to say so.

    Raises:
        RowsError: several files, no parquet of verl's layout, `out` is that file, or it cannot be written.
    """
    if len(files) != 1 or not files[0].name.endswith(".parquet"):
        raise RowsError(f"--fix {out}: mends one .parquet at a time; name it alone")
    (path,) = files
    if out.suffix != ".parquet" or out.resolve() == path.resolve():
        raise RowsError(f"--fix {out}: needs the name of another file, that ends in .parquet")
    with open_parquet(path) as parquet:
        found = parquet.schema_arrow
    missing = [name for name in OURS if name not in found.names]
    if missing:
        raise RowsError(f"{path}: no column {missing[0]!r}: not in verl's layout; convert it")
    changes = Changes()
    schema = _schema(path, found, changes)
    metadata = extended_metadata(files, FACTS_KEY, {"by": "visionr1 doctor --fix", "file": path.name})
    if schema.types != found.types and metadata.pop(b"huggingface", None) is not None:
        changes.add("metadata of Hugging Face, which told other types, dropped", "the whole file")
    with atomic_write(out) as file, RowGroups(file, schema.with_metadata(metadata)) as groups:
        for batch in _batches(_Mender(path, changes, boxes_are).mended_rows(), schema, path):
            groups.add(batch)
    return changes


def _schema(path: Path, found: pa.Schema, changes: Changes) -> pa.Schema:
    """Our types where ours are named; a user's own columns and keys as they are."""
    fields = []
    for column in found:
        ours = column.type
        if column.name == "images":
            ours = _images_type(path, column.type)
        elif column.name in PATH_SCHEMA.names:
            ours = _with_ours(column.type, PATH_SCHEMA.field(column.name).type)
        if ours != column.type:
            changes.add(f"column {column.name!r}: {column.type} -> {ours}", "the whole file")
        fields.append(pa.field(column.name, ours))
    return pa.schema(fields)


def _with_ours(found: pa.DataType, ours: pa.DataType) -> pa.DataType:
    """Our type, with the keys beside ours that are found."""
    if pa.types.is_list(ours) and (pa.types.is_list(found) or pa.types.is_large_list(found)):
        return pa.list_(_with_ours(found.value_type, ours.value_type))
    if not (pa.types.is_struct(ours) and pa.types.is_struct(found)):
        return ours
    theirs = {field.name: field.type for field in found.fields}
    fields = [(it.name, _with_ours(theirs.pop(it.name, it.type), it.type)) for it in ours.fields]
    return pa.struct([*fields, *theirs.items()])


def _images_type(path: Path, found: pa.DataType) -> pa.DataType:
    """Bytes where the images are bytes, paths where they are paths.

    Raises:
        RowsError: both, or an image that is neither.
    """
    if not pa.types.is_struct(getattr(found, "value_type", pa.null())):
        return PATH_SCHEMA.field("images").type
    first: dict[str, int] = {}
    for number, row in enumerate(read_rows(path, columns=["images"], batch_rows=_BATCH_ROWS)):
        for image in row["images"] or ():
            first.setdefault(_form_of(image), number)
    if "nothing" in first:
        raise RowsError(f"{path}: row {first['nothing']}: an image has neither bytes nor a path; convert it again")
    if len(first) > 1:
        where = " and ".join(f"{form} in row {number}" for form, number in first.items())
        raise RowsError(f"{path}: its images are {where}: a file holds either; convert it again")
    return (PATH_SCHEMA if "a path" in first else EMBED_SCHEMA).field("images").type


def _form_of(image: Mapping[str, Any] | None) -> str:
    value = image_of(image)
    return "a path" if isinstance(value, str) and value else "bytes" if isinstance(value, bytes) else "nothing"


def _batches(rows: Iterator[dict[str, Any]], schema: pa.Schema, path: Path) -> Iterator[pa.RecordBatch]:
    while batch := list(islice(rows, _BATCH_ROWS)):
        try:
            yield pa.RecordBatch.from_pylist(batch, schema=schema)
        except (pa.ArrowException, OverflowError, TypeError, UnicodeError) as error:
            raise RowsError(f"{path}: its columns cannot be made ours ({error}); convert it again") from None


class _Mender:
    """The rows of a file, mended one by one."""

    def __init__(self, path: Path, changes: Changes, boxes_are: Convention | None = None) -> None:
        self.path, self.changes, self.boxes_are = path, changes, boxes_are
        self.seen: set[bytes] = set()
        self.indexes: set[int] = set()
        self.last_index = -1

    def mended_rows(self) -> Iterator[dict[str, Any]]:
        """All but those that repeat another to the letter."""
        for number, row in enumerate(read_rows(self.path, batch_rows=_BATCH_ROWS)):
            where = f"row {number}"
            if self._is_repeated(row):
                self.changes.add("repeated row dropped", where)
                continue
            self._mend_images(row, where)
            self._mend_truth(row, where)
            self._mend_index(row, where)
            yield row

    def _is_repeated(self, row: Mapping[str, Any]) -> bool:
        told = [value for name, value in row.items() if name != "extra_info"]
        digest = hashlib.blake2b(repr(told).encode(errors="replace"), digest_size=16).digest()
        if digest in self.seen:
            return True
        self.seen.add(digest)
        return False

    def _mend_images(self, row: dict[str, Any], where: str) -> None:
        images = row.get("images")
        if not isinstance(images, list):
            return
        for i, image in enumerate(images):
            value = image_of(image) if isinstance(image, Mapping) else image
            if isinstance(value, str) and not os.path.isabs(value):
                beside = os.path.abspath(self.path.parent / value)
                if os.path.exists(beside):
                    value = beside
                    self.changes.add("relative path of an image made absolute", where)
            images[i] = {"bytes": value} if isinstance(value, bytes) else value

    def _mend_index(self, row: dict[str, Any], where: str) -> None:
        info = row.get("extra_info")
        if not isinstance(info, dict):
            return
        index = info.get("index")
        if not isinstance(index, int) or index in self.indexes:
            index = info["index"] = self.last_index + 1
            self.changes.add("extra_info.index made unique", where)
        self.indexes.add(index)
        self.last_index = max(self.last_index, index)

    def _mend_truth(self, row: dict[str, Any], where: str) -> None:
        model = row["reward_model"]
        try:
            truth = json.loads(model["ground_truth"])
            boxes, labels = truth["boxes_xyxy"], truth.get("labels") or [None] * len(truth["boxes_xyxy"])
            size_wh = truth["size_wh"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return  # not what `Target` writes, or without boxes
        if not (isinstance(boxes, list) and isinstance(labels, list) and _are_numbers(size_wh, 2)):
            return
        if truth.get("points_xy") or truth.get("masks") or len(labels) != len(boxes):
            return  # lists that speak of the same objects
        written = list(boxes)
        if self.boxes_are is not None and all(_are_numbers(box, 4) for box in boxes):
            boxes = [self._as_told(box, size_wh, where) for box in boxes]
            self.changes.counts[f"box brought from {self.boxes_are} to x1 y1 x2 y2 in pixels"] += len(boxes)
        kept = self._mended_objects(boxes, labels, size_wh, where)
        if boxes != written or kept != list(zip(boxes, labels, strict=True)):
            truth["boxes_xyxy"] = [box for box, _ in kept]
            if truth.get("labels"):
                truth["labels"] = [label for _, label in kept]
            model["ground_truth"] = json.dumps(truth, separators=(",", ":"), ensure_ascii=False)

    def _as_told(self, box: Sequence[float], size_wh: Sequence[float], where: str) -> list[float]:
        """A box brought to pixels.

        Raises:
            RowsError: it is not written as it was said.
        """
        assert self.boxes_are is not None
        told = self.boxes_are.corners(box, (int(size_wh[0]), int(size_wh[1])))
        if min(told) < -1 or told[2] > size_wh[0] + 1 or told[3] > size_wh[1] + 1:
            reason = f"box {[*box]} would be {told}, outside the image of {[*size_wh]}: it is not {self.boxes_are}"
            raise RowsError(f"{self.path}: {where}: {reason}; nothing was written")
        return told

    def _mended_objects(
        self, boxes: Sequence[Any], labels: Sequence[Any], size_wh: Sequence[float], where: str
    ) -> list[tuple[Any, Any]]:
        kept: list[tuple[Any, Any]] = []
        pairs = list(zip(boxes, labels, strict=True))
        told = [label for box, label in pairs if _are_numbers(box, 4) and not _is_flat(box)]
        for i, (box, label) in enumerate(pairs):
            at = f"{where}, boxes_xyxy[{i}] = {box}"
            if not _are_numbers(box, 4) or (_is_flat(box) and label not in told):
                kept.append((box, label))
                continue
            x1, y1, x2, y2 = box
            if _is_flat(box):
                self.changes.add("box without area dropped", at)
                continue
            over = max(-x1, -y1, x2 - size_wh[0], y2 - size_wh[1])
            if 0 < over <= 1:
                box = [max(x1, 0), max(y1, 0), min(x2, size_wh[0]), min(y2, size_wh[1])]
                self.changes.add("box clipped by up to a pixel", at)
            if (box, label) in kept:
                self.changes.add("repeated box dropped", at)
                continue
            kept.append((box, label))
        return kept


def _are_numbers(value: Any, n: int) -> bool:
    """Whether a value is a list of n numbers that can be reckoned with."""
    if not isinstance(value, list) or len(value) != n:
        return False
    return all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < MAX_SIDE for v in value)


def _is_flat(box: Sequence[float]) -> bool:
    x1, y1, x2, y2 = box
    return (x1 == x2 and y1 <= y2) or (y1 == y2 and x1 <= x2)
