"""Write a copy of a parquet file with safe repairs only; each change is reported.

A repair is safe if it keeps the ground truth: drop a row that repeats another exactly (except `extra_info`), a repeated
object, or a box without area beside others of its label; clip a box one pixel over the edge. Coordinates change only
with `boxes_are`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from verl_visionr1.conversion.conventions import Convention
from verl_visionr1.conversion.values import is_numbers
from verl_visionr1.files import RowsError, atomic_write
from verl_visionr1.row_writer import RowGroups, extended_metadata, has_embedded
from verl_visionr1.rows import read_rows, schema_of
from verl_visionr1.tools.doctor.samples import MAX_SIDE, OURS

FACTS_KEY = "fixed"
"""Key of the repairs in the provenance."""
N_LISTED = 5
"""Changes of each kind that are listed."""
_BATCH_ROWS = 100


@dataclass(slots=True)
class Changes:
    """The repairs: kind -> number; `listed` has the first of each kind."""

    counts: Counter[str] = field(default_factory=Counter)
    listed: list[str] = field(default_factory=list)

    def add(self, kind: str, where: str) -> None:
        """Count a change."""
        self.counts[kind] += 1
        if self.counts[kind] <= N_LISTED:
            self.listed.append(f"{where}: {kind}")

    @property
    def lines(self) -> list[str]:
        """A readable summary."""
        return [f"fixed: {count} x {kind}" for kind, count in self.counts.most_common()] + self.listed


def fix_file(files: Sequence[Path], out: Path, boxes_are: Convention | None = None) -> Changes:
    """Write a repaired copy of one file.

    Args:
        boxes_are: box convention of the file, if it is not x1 y1 x2 y2 in pixels.

    Raises:
        RowsError: several files, not a parquet in verl's layout, or `out` is that file or cannot be written.
    """
    if len(files) != 1 or not files[0].name.endswith(".parquet"):
        raise RowsError(f"--fix {out}: repairs one .parquet at a time; give only that file")
    (path,) = files
    if out.suffix != ".parquet" or out.resolve() == path.resolve():
        raise RowsError(f"--fix {out}: needs the name of another file that ends in .parquet")
    schema = schema_of(path)
    missing = [name for name in OURS if name not in schema.names]
    if missing:
        raise RowsError(f"{path}: no column {missing[0]!r}: not in verl's layout; convert it")
    changes = Changes()
    facts = {"by": "visionr1 doctor --fix", "file": path.name}
    schema = schema.with_metadata(extended_metadata(files, FACTS_KEY, facts))
    with atomic_write(out) as file, RowGroups(file, schema, embed=has_embedded(schema)) as groups:
        rows = _fixed_rows(path, changes, boxes_are)
        while batch := list(islice(rows, _BATCH_ROWS)):
            groups.add(pa.RecordBatch.from_pylist(batch, schema=schema))
    return changes


def _fixed_rows(path: Path, changes: Changes, boxes_are: Convention | None) -> Iterator[dict[str, Any]]:
    """Yield all rows repaired, except exact repeats."""
    seen: set[bytes] = set()
    for number, row in enumerate(read_rows(path, batch_rows=_BATCH_ROWS)):
        where = f"row {number}"
        compared = repr([value for name, value in row.items() if name != "extra_info"])
        digest = hashlib.blake2b(compared.encode(errors="replace"), digest_size=16).digest()
        if digest in seen:
            changes.add("repeated row dropped", where)
            continue
        seen.add(digest)
        try:
            _fix_truth(row["reward_model"], changes, where, boxes_are)
        except RowsError as error:
            raise RowsError(f"{path}: {error}; nothing was written") from None
        yield row


def _fix_truth(model: Any, changes: Changes, where: str, boxes_are: Convention | None) -> None:
    """Repair boxes and labels in place; leave a ground truth without boxes or in another format.

    Raises:
        RowsError: a box does not fit `boxes_are`.
    """
    try:
        truth = json.loads(model["ground_truth"])
        size_wh, boxes, ignored = truth["size_wh"], truth.get("boxes_xyxy", []), truth.get("ignore_xyxy") or []
        labels = truth.get("labels") or [None] * len(boxes)
    except (ValueError, TypeError, KeyError, RecursionError):
        return
    if not (isinstance(boxes, list) and isinstance(labels, list) and _are_numbers(size_wh, 2)):
        return
    written = (boxes, ignored)
    is_sound = isinstance(ignored, list) and all(_are_numbers(box, 4) for box in (*boxes, *ignored))
    if boxes_are is not None and is_sound:
        boxes, ignored = ([_to_pixels(box, size_wh, where, boxes_are) for box in some] for some in (boxes, ignored))
        changes.counts[f"box converted from {boxes_are} to x1 y1 x2 y2 in pixels"] += len(boxes) + len(ignored)
    if not (truth.get("points_xy") or truth.get("masks") or len(labels) != len(boxes)):  # lists of the same objects
        kept = _fix_objects(list(zip(boxes, labels, strict=True)), size_wh, changes, where)
        boxes, labels = [box for box, _ in kept], [label for _, label in kept]
    if (boxes, ignored) != written:
        truth["boxes_xyxy"] = boxes
        truth |= {"labels": labels} if truth.get("labels") else {}
        truth |= {"ignore_xyxy": ignored} if ignored else {}
        model["ground_truth"] = json.dumps(truth, separators=(",", ":"), ensure_ascii=False)


def _to_pixels(box: Sequence[float], size_wh: Sequence[float], where: str, boxes_are: Convention) -> list[float]:
    found = boxes_are.corners(box, (int(size_wh[0]), int(size_wh[1])))
    if min(found) < -1 or found[2] > size_wh[0] + 1 or found[3] > size_wh[1] + 1:
        reason = f"box {[*box]}, read as {boxes_are}, is {found}: outside the image of {[*size_wh]}"
        raise RowsError(f"{where}: {reason}; give another --boxes-are")
    return found


def _fix_objects(
    objects: list[tuple[Any, Any]], size_wh: Sequence[float], changes: Changes, where: str
) -> list[tuple[Any, Any]]:
    """Return the objects (box, label) to keep, clipped."""
    kept: list[tuple[Any, Any]] = []
    with_area = {label for box, label in objects if _are_numbers(box, 4) and not _is_flat(box)}
    for i, (box, label) in enumerate(objects):
        at = f"{where}, boxes_xyxy[{i}] = {box}"
        if not _are_numbers(box, 4) or (_is_flat(box) and label not in with_area):
            kept.append((box, label))
        elif _is_flat(box):
            changes.add("box without area dropped", at)
        else:
            x1, y1, x2, y2 = box
            if 0 < max(-x1, -y1, x2 - size_wh[0], y2 - size_wh[1]) <= 1:
                box = [max(x1, 0), max(y1, 0), min(x2, size_wh[0]), min(y2, size_wh[1])]
                changes.add("box clipped by up to a pixel", at)
            if (box, label) in kept:
                changes.add("repeated box dropped", at)
            else:
                kept.append((box, label))
    return kept


def _are_numbers(value: Any, n: int) -> bool:
    """Whether a value is a list of n numbers of ordinary size."""
    return is_numbers(value, n) and all(abs(v) < MAX_SIDE for v in value)


def _is_flat(box: Sequence[float]) -> bool:
    x1, y1, x2, y2 = box
    return (x1 == x2 and y1 <= y2) or (y1 == y2 and x1 <= x2)
