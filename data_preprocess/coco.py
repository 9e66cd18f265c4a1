"""COCO-format detection json -> parquet rows for verl: detection (a category list) and grounding (one phrase).

    python data_preprocess/coco.py instances_train2017.json train2017 coco_train.parquet --on-error skip

Reads COCO itself and what tools export as "COCO": sparse, string or zero ids, missing area, iscrowd, width or height,
crowds (kept as regions to ignore), images without annotations, sizes swapped by EXIF.
"""

from __future__ import annotations

import bisect
import difflib
import hashlib
import json
import math
import mmap
import random
import string
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from importlib.metadata import version
from itertools import groupby
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from verl_visionr1.answers import instruction
from verl_visionr1.rows import (
    PLACEHOLDERS,
    Ledger,
    Row,
    RowError,
    RowImage,
    RowsError,
    RowWriter,
    Written,
    in_upright_frame,
    prepare_image,
    read_size,
)
from verl_visionr1.targets import Box, Target

T = TypeVar("T")


class Task(str, Enum):
    """Which rows to make."""

    detection = "detection"
    grounding = "grounding"
    both = "both"


class OnError(str, Enum):
    """What to do with a bad row."""

    fail = "fail"
    skip = "skip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command's flags; `--help` explains each.

    Raises:
        RowsError: a value out of range, naming the flag.
    """

    task: str = "both"
    split: str = "train"
    limit: int | None = None
    seed: int = 0
    min_instances: int = 1
    max_instances: int = 30
    negatives: float = 0.0
    categories: tuple[str, ...] = ()
    max_categories: int | None = None
    prompt_template: str | None = None
    data_source: str = "visionr1/coco_{task}"
    embed: bool = False
    on_error: str = "fail"
    shard_rows: int | None = None
    exclude_image_ids: frozenset[str] = frozenset()
    verify_decode: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.negatives < 1:
            raise RowsError(f"--negatives {self.negatives}: needs a fraction of all rows, from 0 to below 1")
        if not 0 <= self.min_instances <= self.max_instances:
            raise RowsError(f"--min-instances {self.min_instances} --max-instances {self.max_instances}: none fits")
        if self.negatives and self.min_instances == 0:
            raise RowsError("--negatives with --min-instances 0: the latter takes every empty image; give one of them")
        for flag, value in (("limit", self.limit), ("max-categories", self.max_categories)):
            if value is not None and value < 1:
                raise RowsError(f"--{flag} {value}: needs at least 1")
        _check_template("--prompt-template", self.prompt_template or "{phrases}", "phrases", needed=True)
        if any(text in (self.prompt_template or "") for text in PLACEHOLDERS):
            raise RowsError(f"--prompt-template {self.prompt_template!r}: leave out <image>; it is put first anyway")
        _check_template("--data-source", self.data_source, "task", needed=False)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of one image's rows, in order."""
        return ("detection", "grounding") if self.task == "both" else (self.task,)

    @property
    def allow_none(self) -> bool:
        """Whether an answer may be empty: then every prompt says so, or the wording would give the answer away."""
        return self.negatives > 0 or self.min_instances == 0


def _check_template(flag: str, template: str, name: str, *, needed: bool) -> None:
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
    except ValueError as error:
        raise RowsError(f"{flag} {template!r}: {error}; write {{{{ and }}}} for braces") from None
    if not fields <= {name} or (needed and not fields):
        raise RowsError(f"{flag} {template!r}: its one field is {{{name}}}; write {{{{ and }}}} for braces")


# ------------------------------------------------------------------------------------------------ reading

Key = int | str | float | None
BOX, CROWD, BAD, DUPLICATE = range(4)


class _Category(msgspec.Struct):
    id: Key = None
    name: str = ""
    supercategory: str | None = None


class _Image(msgspec.Struct):
    """Only the id is typed: whatever else is wrong, its annotations are then known to belong to it."""

    id: Key = None
    file_name: Any = None
    width: Any = None
    height: Any = None


class _Annotation(msgspec.Struct, gc=False):
    id: Key = None
    image_id: Key = None
    category_id: Key = None
    bbox: list[float] | None = None
    iscrowd: int | bool | None = 0


class _Document(msgspec.Struct):
    """Entries stay undecoded, so that a bad one costs only itself, and segmentations are never decoded."""

    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[_Category]


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One entry of `images`; `size_wh` is the frame of its boxes."""

    image_id: str
    file_name: str
    size_wh: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Coco:
    """A whole annotation file as compact columns; the N annotations are grouped by image.

    Attributes:
        images_dir: absolute folder of `CocoImage.file_name`.
        names: C category names.
        roots: indexes of categories whose supercategory is "none": Roboflow exports hold one that nothing belongs to.
        starts: annotations of image i are `starts[i]:starts[i + 1]`.
        boxes_xyxy: (N, 4) float64 in the annotated frame, clipped to the image.
        category: N indexes into `names`.
        kind: N of BOX, CROWD, BAD (a box that cannot be used) or DUPLICATE.
        annotation_ids: N ids as they stand in the file.
    """

    name: str
    sha256: str
    images_dir: Path
    images: list[CocoImage]
    names: list[str]
    roots: frozenset[int]
    starts: Sequence[int]
    boxes_xyxy: np.ndarray
    category: Sequence[int]
    kind: Sequence[int]
    annotation_ids: Sequence[Key]

    def of_image(self, image: int) -> range:
        """The annotations of one image."""
        return range(self.starts[image], self.starts[image + 1])


def read_coco(path: Path, images_dir: Path, ledger: Ledger, exclude: frozenset[str] = frozenset()) -> Coco:
    """Read and check an annotation file; image files are opened only where the file gives no size.

    Args:
        exclude: image ids to leave out (leading zeros do not count).

    Raises:
        RowsError: missing or garbled file, or not COCO detection.
        RowError: a bad entry, where the ledger's policy is to fail.
    """
    if not images_dir.is_dir():
        raise RowsError(f"{images_dir}: no such folder of images; check IMAGES_DIR")
    text, document = _read_document(path)
    category_of, names = _read_categories(path, document)
    roots = frozenset(category_of[_key(c.id) or ""] for c in document.categories if c.supercategory == "none")
    image_of, images = _read_images(document.images, images_dir, ledger, exclude)
    columns = _Columns(path.name, images, image_of, category_of, ledger)
    for number, raw in enumerate(document.annotations):
        try:
            columns.add(number, raw)
        except RowError as error:
            ledger.skip(error)
    sha256 = hashlib.sha256(text).hexdigest()
    del document, text  # before sorting makes copies
    order, starts = columns.order()
    return Coco(
        name=path.name,
        sha256=sha256,
        images_dir=images_dir.absolute(),
        images=images,
        names=names,
        roots=roots,
        starts=starts,
        boxes_xyxy=np.frombuffer(columns.boxes).reshape(-1, 4)[order],
        category=_taken(columns.category, order),
        kind=_taken(columns.kind, order),
        annotation_ids=[columns.ids[i] for i in order],
    )


def _taken(column: array[int], order: np.ndarray) -> array[int]:
    """An `array`, because single items of a numpy array are slow."""
    return array(column.typecode, np.array(column)[order].tobytes())


def _read_document(path: Path) -> tuple[memoryview, _Document]:
    try:
        with open(path, "rb") as file:  # mapped, so that the text is the page cache's memory, not ours
            text = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        text = text[3:] if text[:3] == b"\xef\xbb\xbf" else text
        return text, msgspec.json.decode(text, type=_Document)
    except FileNotFoundError:
        raise RowsError(f"{path}: no such annotation file; check ANNOTATIONS") from None
    except msgspec.ValidationError as error:
        raise RowsError(f"{path}: not COCO detection json ({error}); needs images, annotations, categories") from None
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise RowsError(f"{path}: not whole JSON ({error}); fetch the file again") from None
    except OSError as error:
        raise RowsError(f"{path}: cannot be read: {error.strerror or error}") from None


def _key(value: Key) -> str | None:
    """An id as text: 7, 7.0 and "7" are one id, whoever wrote the file."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else None if value is None else str(value)


def _read_categories(path: Path, document: _Document) -> tuple[dict[str, int], list[str]]:
    """Key of each category -> its index in the names; two ids of one name are one category."""
    category_of: dict[str, int] = {}
    names: dict[str, int] = {}
    for number, category in enumerate(document.categories):
        key, name = _key(category.id), category.name.strip()
        if key is None or not name or any(text in name for text in PLACEHOLDERS):
            reason = f"categories[{number}]: id {category.id!r}, name {category.name!r}"
            raise RowsError(f"{path}: {reason}: needs an id and a name without {', '.join(PLACEHOLDERS)}; mend it")
        if key in category_of:
            raise RowsError(f"{path}: categories[{number}]: id {category.id!r} is there twice; mend it")
        category_of[key] = names.setdefault(name, len(names))
    if not names:
        raise RowsError(f"{path}: categories is empty; detection needs at least one")
    return category_of, list(names)


def _read_images(
    entries: list[msgspec.Raw], images_dir: Path, ledger: Ledger, exclude: frozenset[str]
) -> tuple[dict[str, int], list[CocoImage]]:
    """Key of each image -> its index, or -1 where it is left out."""
    decode = msgspec.json.Decoder(_Image).decode
    exclude = frozenset(_without_zeros(text) for text in exclude)
    image_of: dict[str, int] = {}
    images: list[CocoImage] = []
    for number, raw in enumerate(entries):
        key = None
        try:
            entry = _decoded(decode, raw, f"images[{number}]")
            key = _key(entry.id)
            if key is not None and _without_zeros(key) in exclude:
                image_of[key] = -1
                ledger.left_out["image on the exclusion list"] += 1
                continue
            image = _checked_image(number, entry, images_dir, image_of)
        except RowError as error:
            ledger.skip(error)
            if key is not None:
                image_of.setdefault(key, -1)
            continue
        image_of[image.image_id] = len(images)
        images.append(image)
    return image_of, images


def _without_zeros(text: str) -> str:
    return text.lstrip("0") or "0" if text.isdigit() else text


def _decoded(decode: Callable[[msgspec.Raw], T], raw: msgspec.Raw, where: str) -> T:
    try:
        return decode(raw)
    except msgspec.DecodeError as error:
        shown = bytes(raw)[:100].decode("utf-8", "replace")
        raise RowError("malformed entry", f"{where} = {shown}: {error}; mend it") from None


def _checked_image(number: int, entry: _Image, images_dir: Path, image_of: dict[str, int]) -> CocoImage:
    key, name = _key(entry.id), entry.file_name
    where = f"images[{number}] (id {entry.id!r}, file_name {name!r})"
    if key is None or not name or not isinstance(name, str):
        raise RowError("image without id or file_name", f"{where}: needs both; mend it")
    if key in image_of:
        raise RowError("image id twice", f"{where}: this id is there twice; mend it")
    windows = PureWindowsPath(name)  # takes both / and \ for separators
    if windows.root or ".." in windows.parts or "\0" in name:
        raise RowError("file_name outside the images folder", f"{where}: must lie inside IMAGES_DIR; mend it")
    if entry.width is None or entry.height is None:
        size_wh, orientation = read_size(images_dir / name)
        if orientation != 1:
            reason = f"no width and height, and the file has EXIF orientation {orientation}"
            raise RowError("frame unknown", f"{where}: {reason}: the frame of its boxes is unknown; add both")
    else:
        size_wh = (entry.width, entry.height)
        if not all(isinstance(side, int | float) and side >= 1 for side in size_wh):
            raise RowError("image without size", f"{where}: width and height {size_wh}: need positive numbers; mend it")
        size_wh = (int(entry.width), int(entry.height))
    return CocoImage(key, name, size_wh)


class _Columns:
    """Annotations on their way into `Coco`, as plain arrays: a large file has millions."""

    def __init__(
        self,
        name: str,
        images: list[CocoImage],
        image_of: dict[str, int],
        category_of: dict[str, int],
        ledger: Ledger,
    ) -> None:
        self.name, self.images, self.ledger = name, images, ledger
        self.image_of, self.category_of = image_of, category_of
        self.decode = msgspec.json.Decoder(_Annotation).decode
        self.image, self.category, self.kind, self.boxes = array("i"), array("i"), array("b"), array("d")
        self.ids: list[Key] = []

    def add(self, number: int, raw: msgspec.Raw) -> None:
        """Take one entry of `annotations`.

        Raises:
            RowError: it cannot be used. Where its image and category are known it is kept as BAD: the category is in
                the image, so no row may say that it is not.
        """
        entry = _decoded(self.decode, raw, f"{self.name}: annotations[{number}]")
        image = self.image_of.get(_key(entry.image_id) or "")
        category = self.category_of.get(_key(entry.category_id) or "")
        if image is None or category is None:
            field, value = ("image_id", entry.image_id) if image is None else ("category_id", entry.category_id)
            where = f"{self.name}: annotations[{number}] (id {entry.id!r})"
            raise RowError(f"unknown {field}", f"{where}: {field} {value!r} is not in the file; mend it")
        if image < 0:
            self.ledger.left_out["annotation of an image left out"] += 1
            return
        size_wh = self.images[image].size_wh
        try:
            box, clipped = clip_box(entry.bbox, size_wh)
        except RowError as error:
            self._append(image, category, BAD, (0, 0, 0, 0), entry.id)
            where = f"{self.name}: annotation id {entry.id!r} (image id {self.images[image].image_id})"
            raise RowError(error.kind, f"{where}: {error}") from None
        self.ledger.notes["box clipped to its image"] += clipped
        self._append(image, category, CROWD if entry.iscrowd else BOX, box, entry.id)

    def _append(self, image: int, category: int, kind: int, box: Box, annotation_id: Key) -> None:
        self.image.append(image)
        self.category.append(category)
        self.kind.append(kind)
        self.boxes.extend(box)
        self.ids.append(annotation_id)

    def order(self) -> tuple[np.ndarray, array[int]]:
        """Mark repeated boxes; return the order by image, and where each image starts in it."""
        columns = (*np.frombuffer(self.boxes).reshape(-1, 4).T, *map(np.array, (self.category, self.kind, self.image)))
        order = np.lexsort(columns)
        again = np.frombuffer(self.kind, dtype=np.int8)[order[1:]] == BOX
        for column in columns:
            again &= column[order[1:]] == column[order[:-1]]
        for i in order[1:][again]:
            self.kind[i] = DUPLICATE
        if again.any():
            self.ledger.notes["repeated box (same image, category and numbers) dropped"] += int(again.sum())
        image = columns[-1]
        by_image = np.argsort(image, kind="stable")
        return by_image, array("q", np.searchsorted(image[by_image], np.arange(len(self.images) + 1)).tobytes())


def clip_box(box_xywh: Sequence[float] | None, size_wh: tuple[int, int]) -> tuple[Box, bool]:
    """COCO's x, y, width, height -> corners inside the image, and whether clipping moved an edge.

    Raises:
        RowError: not four finite numbers, no extent, or wholly outside; the message starts with the value.

    >>> clip_box([10, 20, 30, 40], (100, 50))
    ((10, 20, 40, 50), True)
    """
    advice = "mend or remove the annotation"
    if box_xywh is None or len(box_xywh) != 4 or not all(map(math.isfinite, box_xywh)):
        raise RowError("bbox malformed", f"bbox = {box_xywh}: needs four finite numbers x, y, width, height; {advice}")
    x, y, width, height = box_xywh
    if width <= 0 or height <= 0:
        raise RowError("bbox without extent", f"bbox = {box_xywh}: width and height must be positive; {advice}")
    box = (max(x, 0), max(y, 0), min(x + width, size_wh[0]), min(y + height, size_wh[1]))
    if not (box[0] < box[2] and box[1] < box[3]):
        raise RowError("bbox outside its image", f"bbox = {box_xywh}: outside the image of {size_wh}; {advice}")
    return box, box != (x, y, x + width, y + height)


# ------------------------------------------------------------------------------------------------ planning


@dataclass(frozen=True, slots=True)
class Ask:
    """One row to be: which image is asked for which categories. Costs no image access."""

    image: int
    task: str
    categories: tuple[int, ...]


def plan(coco: Coco, options: Options, ledger: Ledger) -> list[Ask]:
    """All rows in the order of images; the same seed and file give the same rows.

    Raises:
        RowsError: an unknown category name.
    """
    rng = random.Random(options.seed)
    asked = _asked_categories(coco, options)
    planners = {"detection": _plan_detection, "grounding": _plan_grounding}
    asks = [ask for task in options.tasks for ask in planners[task](coco, asked, options, ledger, rng)]
    asks.sort(key=lambda ask: (ask.image, ask.task, ask.categories))
    if options.limit is not None and len(asks) > options.limit:
        ledger.left_out["row over --limit"] += len(asks) - options.limit
        asks = [asks[i] for i in sorted(rng.sample(range(len(asks)), options.limit))]
    return asks


def _asked_categories(coco: Coco, options: Options) -> tuple[int, ...]:
    index = {name: i for i, name in enumerate(coco.names)}
    for name in options.categories:
        if name not in index:
            close = difflib.get_close_matches(name, coco.names, 3, 0.5) or coco.names[:10]
            raise RowsError(f"--categories {name!r}: not in {coco.name}; did you mean {', '.join(close)}?")
    if options.categories:
        return tuple(sorted({index[name] for name in options.categories}))
    empty_roots = coco.roots - set(coco.category)
    return tuple(i for i in range(len(coco.names)) if i not in empty_roots)


def _present(coco: Coco, image: int, asked: frozenset[int]) -> tuple[Counter[int], set[int]]:
    """Usable boxes per asked-for category, and all asked-for categories with any annotation."""
    annotations = [j for j in coco.of_image(image) if coco.category[j] in asked]
    boxes = Counter(coco.category[j] for j in annotations if coco.kind[j] == BOX)
    return boxes, {coco.category[j] for j in annotations}


def _number_of_negatives(fraction: float, positives: int) -> int:
    """So many that they are `fraction` of all rows."""
    return round(fraction / (1 - fraction) * positives)


def _plan_detection(
    coco: Coco, asked: tuple[int, ...], options: Options, ledger: Ledger, rng: random.Random
) -> list[Ask]:
    """Every list has the same length, whether its objects are there or not: its length must not tell."""
    length = min(options.max_categories or len(asked), len(asked))
    asked_set = frozenset(asked)
    positives, candidates, too_few = [], [], 0
    for image in range(len(coco.images)):
        boxes, present = _present(coco, image, asked_set)
        absent = [c for c in asked if c not in present]
        categories = asked
        if length < len(asked):
            found = rng.sample(sorted(boxes), min(len(boxes), length))
            filled = rng.sample(absent, min(len(absent), length - len(found)))
            categories = tuple(sorted(found + filled))
        objects = sum(boxes[c] for c in categories)
        if len(absent) >= length:
            candidates.append((image, absent))
        if objects > options.max_instances:
            ledger.left_out[f"detection row with more than {options.max_instances} objects"] += 1
        elif objects >= options.min_instances:
            positives.append(Ask(image, "detection", categories))
        else:
            too_few += 1
    wanted = _number_of_negatives(options.negatives, len(positives))
    if len(candidates) < wanted:
        ledger.notes["detection negatives missing: too few empty images (--max-categories makes more)"] += wanted - len(
            candidates
        )
    chosen = rng.sample(candidates, min(wanted, len(candidates)))
    too_few -= len(chosen) if length == len(asked) else 0  # then those chosen are among those with too few
    ledger.left_out[f"detection row with fewer than {options.min_instances} objects"] += too_few
    return positives + [Ask(image, "detection", tuple(sorted(rng.sample(absent, length)))) for image, absent in chosen]


def _plan_grounding(
    coco: Coco, asked: tuple[int, ...], options: Options, ledger: Ledger, rng: random.Random
) -> list[Ask]:
    """One row for each image and category in it; negatives drawn evenly from all absent pairs."""
    asked_set = frozenset(asked)
    single = {c: (c,) for c in asked}
    asks, absent_before = [], [0]
    for image in range(len(coco.images)):
        boxes, present = _present(coco, image, asked_set)
        absent_before.append(absent_before[-1] + len(asked) - len(present))
        for category in sorted(present):
            if boxes[category] == 0:
                ledger.left_out["grounding row for a category that is there only as crowd or bad box"] += 1
            elif boxes[category] < options.min_instances:
                ledger.left_out[f"grounding row with fewer than {options.min_instances} objects"] += 1
            elif boxes[category] > options.max_instances:
                ledger.left_out[f"grounding row with more than {options.max_instances} objects"] += 1
            else:
                asks.append(Ask(image, "grounding", single[category]))
    wanted = _number_of_negatives(options.negatives, len(asks))
    if absent_before[-1] < wanted:
        ledger.notes["grounding negatives missing: too few absent categories"] += wanted - absent_before[-1]
    for number in rng.sample(range(absent_before[-1]), min(wanted, absent_before[-1])):
        image = bisect.bisect_right(absent_before, number) - 1
        present = _present(coco, image, asked_set)[1]
        absent = [c for c in asked if c not in present]
        asks.append(Ask(image, "grounding", single[absent[number - absent_before[image]]]))
    return asks


# ------------------------------------------------------------------------------------------------ converting


@dataclass(frozen=True, slots=True)
class Report:
    """What one conversion did.

    Attributes:
        rows: task -> rows; `negatives`: task -> rows among them whose target is empty.
        objects: objects in a row -> how many rows have so many.
        skipped_list: file with a line for each skipped thing, where there is one.
    """

    written: Written
    rows: Counter[str]
    negatives: Counter[str]
    objects: Counter[int]
    ledger: Ledger
    skipped_list: Path | None
    seconds: float


def convert(
    annotations: Path, images_dir: Path, out: Path, options: Options | None = None, *, console: Console | None = None
) -> Report:
    """The whole road from annotation file to parquet.

    Args:
        console: where to show progress; None shows none.

    Raises:
        RowsError: bad input file, flag, or disk. RowError: a bad row, with `on_error="fail"`.
    """
    started = time.perf_counter()
    options = options or Options()
    ledger = Ledger(fail=options.on_error == "fail")
    coco = read_coco(annotations, images_dir, ledger, options.exclude_image_ids)
    asks = plan(coco, options, ledger)
    rows, negatives, objects = Counter[str](), Counter[str](), Counter[int]()
    if not asks:
        raise RowsError(f"{annotations}: no row is left: {_counts(ledger.left_out + ledger.skipped)}; loosen the flags")
    writer = RowWriter(out, embed=options.embed, provenance=_provenance(coco, options), shard_rows=options.shard_rows)
    with writer:
        for row in _rows(coco, asks, options, out, ledger, console):
            writer.write(row)
            rows[row.target.task] += 1
            negatives[row.target.task] += not row.target.boxes_xyxy
            objects[len(row.target.boxes_xyxy)] += 1
    assert writer.written is not None
    skipped_list = _list_skipped(out, ledger)
    return Report(writer.written, rows, negatives, objects, ledger, skipped_list, time.perf_counter() - started)


def _rows(
    coco: Coco, asks: list[Ask], options: Options, out: Path, ledger: Ledger, console: Console | None
) -> Iterator[Row]:
    upright_dir = out.with_name(f"{out.stem}_upright")
    groups = groupby(asks, key=lambda ask: ask.image)
    if console is not None:
        total = len({ask.image for ask in asks})
        groups = track(groups, "images", total=total, console=console, transient=True)
    for number, group in groups:
        entry, group = coco.images[number], list(group)
        try:
            image = prepare_image(
                coco.images_dir / entry.file_name,
                embed=options.embed,
                upright_dir=upright_dir,
                verify_decode=options.verify_decode,
            )
            rows = [_row(coco, ask, image, options) for ask in group]
        except RowError as error:
            where = f"{coco.name}: image id {entry.image_id}"
            ledger.skip(RowError(error.kind, f"{where}: {error}"))
            ledger.notes["row of a skipped image"] += len(group)
            continue
        ledger.notes.update(f"image: {change}" for change in image.changes)
        if image.orientation != 1 and image.stored_wh == image.size_wh:
            ledger.notes["image turned by EXIF without a change of size: boxes taken as drawn upright"] += 1
        yield from rows


def _row(coco: Coco, ask: Ask, image: RowImage, options: Options) -> Row:
    entry = coco.images[ask.image]
    found = [j for j in coco.of_image(ask.image) if coco.category[j] in ask.categories]
    things = [j for j in found if coco.kind[j] == BOX]
    crowds = [j for j in found if coco.kind[j] == CROWD]
    phrases = [coco.names[c] for c in ask.categories]
    target = Target(
        task=ask.task,
        size_wh=image.size_wh,
        boxes_xyxy=in_upright_frame(coco.boxes_xyxy[things].tolist(), image, entry.size_wh),
        labels=[coco.names[coco.category[j]] for j in things],
        categories=phrases,
        ignore_xyxy=in_upright_frame(coco.boxes_xyxy[crowds].tolist(), image, entry.size_wh),
    )
    question = instruction(ask.task, phrases, allow_none=options.allow_none)
    if options.prompt_template is not None:
        question = options.prompt_template.format(phrases=", ".join(phrases))
    source = {"file": coco.name, "annotation_ids": [coco.annotation_ids[j] for j in found]}
    return Row(
        data_source=options.data_source.format(task=ask.task),
        question=question,
        image=image,
        target=target,
        split=options.split,
        image_id=entry.image_id,
        file_name=entry.file_name,
        source_ann=json.dumps(source),
    )


def _provenance(coco: Coco, options: Options) -> dict[str, Any]:
    chosen = asdict(options)
    chosen["exclude_image_ids"] = sorted(options.exclude_image_ids)
    made_by = f"data_preprocess/coco.py, verl-visionr1 {version('verl-visionr1')}"
    return {"made_by": made_by, "annotations": coco.name, "annotations_sha256": coco.sha256, "options": chosen}


def _list_skipped(out: Path, ledger: Ledger) -> Path | None:
    path = out.with_name(f"{out.stem}.skipped.txt")
    if not ledger.listed:
        path.unlink(missing_ok=True)  # of an earlier run
        return None
    path.write_text("".join(f"{line}\n" for line in ledger.listed), encoding="utf-8")
    return path


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{n} x {kind}" for kind, n in counter.most_common()) or "nothing was found"


# ------------------------------------------------------------------------------------------------ command


def read_image_ids(path: Path) -> frozenset[str]:
    """Image ids to exclude: a JSON list, or text with one id a line (blank lines and # comments do not count).

    Raises:
        RowsError: missing file, or neither of the two.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RowsError(f"--exclude-image-ids {path}: cannot be read: {error}") from None
    if text.lstrip().startswith(("[", "{")):
        try:
            ids = msgspec.json.decode(text, type=list[int | str])
        except msgspec.DecodeError as error:
            raise RowsError(f"--exclude-image-ids {path}: needs a list of ids: {error}") from None
        return frozenset(map(str, ids))
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return frozenset(line for line in lines if line)


def print_report(report: Report, console: Console) -> None:
    """Rows, boxes, objects per row, everything skipped, left out or changed, and where it was written."""
    table = Table("", "rows", "of them empty", title="written", title_justify="left")
    for task, count in sorted(report.rows.items()):
        table.add_row(task, str(count), str(report.negatives[task]))
    console.print(table)
    boxes = sum(number * count for number, count in report.objects.items())
    console.print(f"boxes {boxes}; objects a row: {_histogram(report.objects)}")
    for title, counter in (
        ("skipped as bad", report.ledger.skipped),
        ("left out", report.ledger.left_out),
        ("noted", report.ledger.notes),
    ):
        for kind, count in counter.most_common():
            if count:
                console.print(f"{title}: {count} x {kind}", highlight=False, markup=False, soft_wrap=True)
    for line in report.ledger.listed[:10]:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    if report.skipped_list is not None:
        console.print(f"all {len(report.ledger.listed)} skipped: {report.skipped_list}", soft_wrap=True, markup=False)
    size = report.written.size_bytes / 2**20
    console.print(f"{report.written.rows} rows, {size:.1f} MiB, {report.seconds:.1f} s:", highlight=False)
    for file in report.written.files:
        console.print(f"  {file}", soft_wrap=True, highlight=False, markup=False)


def _histogram(objects: Counter[int]) -> str:
    bins = ((0, 0), (1, 1), (2, 3), (4, 7), (8, 15), (16, 30), (31, sys.maxsize))
    parts = []
    for low, high in bins:
        count = sum(n for number, n in objects.items() if low <= number <= high)
        name = str(low) if low == high else f"{low}+" if high == sys.maxsize else f"{low}-{high}"
        parts += [f"{name}: {count}"] if count else []
    return ", ".join(parts)


def main(
    annotations: Annotated[Path, typer.Argument(help="COCO-format detection json.", show_default=False)],
    images_dir: Annotated[Path, typer.Argument(help="Folder that file_name is relative to.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="File to write, <name>.parquet.", show_default=False)],
    task: Annotated[
        Task, typer.Option(help="detection: every object of a category list; grounding: all objects of one phrase.")
    ] = Task.both,
    split: Annotated[str, typer.Option(help="Name of the split, kept in extra_info.")] = "train",
    limit: Annotated[int | None, typer.Option(help="At most so many rows, drawn by seed.")] = None,
    seed: Annotated[int, typer.Option(help="Of every draw; the same seed gives the same file.")] = 0,
    min_instances: Annotated[
        int, typer.Option(help="Fewest objects a row; 0 takes every image without objects as a row.")
    ] = 1,
    max_instances: Annotated[int, typer.Option(help="Most objects a row: long answers overrun the response.")] = 30,
    negatives: Annotated[
        float, typer.Option(help="Fraction of rows that ask for what is not there; all prompts then allow for it.")
    ] = 0.0,
    categories: Annotated[
        list[str] | None, typer.Option(help="Ask only for this category; give the flag once for each.")
    ] = None,
    max_categories: Annotated[
        int | None,
        typer.Option(help="Detection: lists of so many categories, those in the image filled up with absent ones."),
    ] = None,
    prompt_template: Annotated[
        str | None, typer.Option(help="Prompt instead of the package's own; {phrases} stands for what is asked for.")
    ] = None,
    data_source: Annotated[
        str, typer.Option(help="verl's name of the data set, by which it groups validation; {task} may stand in it.")
    ] = "visionr1/coco_{task}",
    embed: Annotated[
        bool, typer.Option("--embed", help="Store the image files in the parquet instead of their paths.")
    ] = False,
    on_error: Annotated[
        OnError, typer.Option(help="At a bad row: stop, or leave it out, count it and list it.")
    ] = OnError.fail,
    shard_rows: Annotated[
        int | None, typer.Option(help="Rows a file: <name>-00000-of-00003.parquet, ... instead of one file.")
    ] = None,
    exclude_image_ids: Annotated[
        Path | None, typer.Option(help="File of image ids to leave out (one a line, or a JSON list): test images.")
    ] = None,
    verify_decode: Annotated[
        bool, typer.Option("--verify-decode", help="Decode every pixel (slow) instead of reading headers and ends.")
    ] = False,
) -> None:
    """Turn COCO-format detection json into the parquet that verl reads.

    Example: python data_preprocess/coco.py instances_val2017.json val2017 coco_val.parquet --split val --limit 500
    """
    console = Console()
    try:
        options = Options(
            task=task.value,
            split=split,
            limit=limit,
            seed=seed,
            min_instances=min_instances,
            max_instances=max_instances,
            negatives=negatives,
            categories=tuple(categories or ()),
            max_categories=max_categories,
            prompt_template=prompt_template,
            data_source=data_source,
            embed=embed,
            on_error=on_error.value,
            shard_rows=shard_rows,
            exclude_image_ids=read_image_ids(exclude_image_ids) if exclude_image_ids else frozenset(),
            verify_decode=verify_decode,
        )
        report = convert(annotations, images_dir, out, options, console=console if console.is_terminal else None)
    except RowsError as error:
        hint = "\n(--on-error skip leaves such rows out and lists them)" if isinstance(error, RowError) else ""
        print(f"error: {error}{hint}", file=sys.stderr)
        raise typer.Exit(1) from None
    print_report(report, console)


if __name__ == "__main__":
    typer.run(main)
