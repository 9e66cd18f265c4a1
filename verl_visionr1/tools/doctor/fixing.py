"""A copy of a parquet file in which is mended what is safe to mend, and nothing else; each change is told.

Safe is what changes no truth: a row that repeats another to the letter, an object that is named twice, a box that
reaches over the edge by a pixel or has no area, an index that is not unique, a relative path of an image that lies
beside the file, columns of another width than ours, row groups that are too large. Coordinates, labels, prompts and
turned images are not: there the data set has to be converted again.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from verl_visionr1.files import RowsError, whole_file
from verl_visionr1.rewriting import RowGroups, extended_metadata
from verl_visionr1.rows import EMBED_SCHEMA, PATH_SCHEMA, open_parquet, read_rows
from verl_visionr1.tools.doctor.samples import OURS

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


def fix_file(files: Sequence[Path], out: Path) -> Changes:
    """Write a mended copy of one file.

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
    schema = _schema(found, changes)
    metadata = extended_metadata(files, FACTS_KEY, {"by": "visionr1 doctor --fix", "file": path.name})
    with whole_file(out) as file, RowGroups(file, schema.with_metadata(metadata)) as groups:
        for batch in _batches(_Mender(path, changes).mended_rows(), schema, path):
            groups.add(batch)
    return changes


def _schema(found: pa.Schema, changes: Changes) -> pa.Schema:
    """Our types where ours are named; a user's own columns as they are."""
    fields = []
    for column in found:
        ours = PATH_SCHEMA.field(column.name).type if column.name in PATH_SCHEMA.names else column.type
        if column.name == "images" and pa.types.is_struct(getattr(column.type, "value_type", pa.null())):
            ours = EMBED_SCHEMA.field("images").type
        if ours != column.type:
            changes.add(f"column {column.name!r}: {column.type} -> {ours}", "the whole file")
        fields.append(pa.field(column.name, ours))
    return pa.schema(fields)


def _batches(rows: Iterator[dict[str, Any]], schema: pa.Schema, path: Path) -> Iterator[pa.RecordBatch]:
    while batch := list(islice(rows, _BATCH_ROWS)):
        try:
            yield pa.RecordBatch.from_pylist(batch, schema=schema)
        except (pa.ArrowException, OverflowError) as error:
            raise RowsError(f"{path}: its columns cannot be made ours ({error}); convert it again") from None


class _Mender:
    """The rows of a file, mended one by one."""

    def __init__(self, path: Path, changes: Changes) -> None:
        self.path, self.changes = path, changes
        self.seen: set[bytes] = set()
        self.indexes: set[int] = set()

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
        told = [row.get(name) for name in ("images", "prompt", "reward_model")]
        digest = hashlib.blake2b(repr(told).encode(errors="replace"), digest_size=16).digest()
        if digest in self.seen:
            return True
        self.seen.add(digest)
        return False

    def _mend_images(self, row: dict[str, Any], where: str) -> None:
        images = row.get("images") or []
        for i, image in enumerate(images):
            if isinstance(image, Mapping):
                images[i] = {"bytes": image.get("bytes")}
            elif isinstance(image, str) and not Path(image).is_absolute():
                beside = (self.path.parent / image).absolute()
                if beside.exists():
                    images[i] = str(beside)
                    self.changes.add("relative path of an image made absolute", where)

    def _mend_index(self, row: dict[str, Any], where: str) -> None:
        info = row.get("extra_info")
        if not isinstance(info, dict) or "index" not in info:
            return
        if not isinstance(info["index"], int) or info["index"] in self.indexes:
            info["index"] = max(self.indexes, default=-1) + 1
            self.changes.add("extra_info.index made unique", where)
        self.indexes.add(info["index"])

    def _mend_truth(self, row: dict[str, Any], where: str) -> None:
        model = row["reward_model"]
        try:
            truth = json.loads(model["ground_truth"])
            boxes, labels = truth["boxes_xyxy"], truth.get("labels") or [None] * len(truth["boxes_xyxy"])
            width, height = truth["size_wh"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return  # not what `Target` writes, or without boxes
        if truth.get("points_xy") or truth.get("masks") or len(labels) != len(boxes):
            return  # lists that speak of the same objects
        kept = self._mended_objects(boxes, labels, (width, height), where)
        if kept != list(zip(boxes, labels, strict=True)):
            truth["boxes_xyxy"] = [box for box, _ in kept]
            if truth.get("labels"):
                truth["labels"] = [label for _, label in kept]
            model["ground_truth"] = json.dumps(truth, separators=(",", ":"), ensure_ascii=False)

    def _mended_objects(
        self, boxes: Sequence[Any], labels: Sequence[Any], size_wh: tuple[int, int], where: str
    ) -> list[tuple[Any, Any]]:
        kept: list[tuple[Any, Any]] = []
        for i, (box, label) in enumerate(zip(boxes, labels, strict=True)):
            at = f"{where}, boxes_xyxy[{i}] = {box}"
            if not (isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float) for v in box)):
                kept.append((box, label))
                continue
            x1, y1, x2, y2 = box
            if (x1 == x2 and y1 <= y2) or (y1 == y2 and x1 <= x2):
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
