"""COCO-format detection json -> parquet rows for verl: detection (a category list), grounding, counting (one phrase).

    python data_preprocess/coco.py instances_train2017.json train2017 coco_train.parquet --on-error skip

`coco_annotations.read_coco` reads and cleans the json, `plan` says which rows to make, `convert` makes them.
"""

from __future__ import annotations

import bisect
import difflib
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer
from coco_annotations import BOX, CROWD, Coco, read_coco
from conversion import DataSource, Flags, Ledger, OnError, Report, require_positive, run, write_rows
from rich.console import Console
from rich.progress import track

from verl_visionr1.answers import FORMATS
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.images import RowImage, in_upright_frame, prepare_image
from verl_visionr1.rows import Row
from verl_visionr1.targets import Target


class Task(str, Enum):
    """Which rows to make."""

    detection = "detection"
    grounding = "grounding"
    counting = "counting"
    both = "both"
    all = "all"


def tasks_of(task: Task | str) -> tuple[str, ...]:
    """The tasks that rows are made of.

    >>> tasks_of("both")
    ('detection', 'grounding')
    """
    name = Task(task).value
    return {"both": ("detection", "grounding"), "all": ("detection", "grounding", "counting")}.get(name, (name,))


@dataclass(frozen=True, kw_only=True)
class Options(Flags):
    """The command's flags; `--help` explains each.

    Raises:
        RowsError: a value out of range, naming the flag.
    """

    data_source: DataSource = "visionr1/coco_{task}"
    task: Annotated[
        Task,
        typer.Option(
            help="detection: every object of a category list; grounding: all objects of one phrase; counting: how many "
            "there are of one phrase; both: detection and grounding."
        ),
    ] = Task.both
    answer_format: Annotated[
        str, typer.Option(help="What the prompts ask for; " + ", ".join(n for n, f in FORMATS.items() if f.instruct))
    ] = "qwen-json"
    count_format: Annotated[
        str, typer.Option(help="The same for counting: count (a number), or a format of boxes or points (a list).")
    ] = "count"
    min_instances: Annotated[
        int, typer.Option(help="Fewest objects a row; 0 takes every image without objects as a row.")
    ] = 1
    max_instances: Annotated[int, typer.Option(help="Most objects a row: long answers overrun the response.")] = 30
    negatives: Annotated[
        float, typer.Option(help="Fraction of rows that ask for what is not there; all prompts then allow for it.")
    ] = 0.0
    categories: Annotated[
        list[str], typer.Option(help="Ask only for this category; give the flag once for each.", show_default=False)
    ] = field(default_factory=list)
    max_categories: Annotated[
        int | None,
        typer.Option(help="Detection: lists of so many categories, those in the image filled up with absent ones."),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.negatives < 1:
            raise RowsError(f"--negatives {self.negatives}: needs a fraction of all rows, from 0 to below 1")
        if not 0 <= self.min_instances <= self.max_instances:
            raise RowsError(f"--min-instances {self.min_instances} --max-instances {self.max_instances}: none fits")
        if self.negatives and self.min_instances == 0:
            raise RowsError("--negatives with --min-instances 0: the latter takes every empty image; give one of them")
        require_positive("--max-categories", self.max_categories)
        if self.prompt_template is not None and Task(self.task) is Task.all:
            raise RowsError("--prompt-template with --task all: counting asks another question; convert it apart")
        for task in tasks_of(self.task):
            flag = "count_format" if task == "counting" else "answer_format"
            known = [name for name, answer_format in FORMATS.items() if task in answer_format.tasks]
            if getattr(self, flag) not in known:
                shown = f"--{flag.replace('_', '-')} {getattr(self, flag)}"
                raise RowsError(f"{shown}: cannot answer {task}; needs one of {', '.join(known)}")

    @property
    def allow_none(self) -> bool:
        """Whether an answer may be empty: then every prompt says so, or the wording would give the answer away."""
        return self.negatives > 0 or self.min_instances == 0


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
    asks: list[Ask] = []
    for task in tasks_of(options.task):
        if task == "detection":
            asks += _plan_detection(coco, asked, options, ledger, rng)
        else:
            asks += _plan_phrases(coco, asked, options, ledger, rng, task)
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
    """One row for each image; negatives drawn evenly from the images that lack enough of the categories.

    Every list has the same length, whether its objects are there or not: its length must not tell.
    """
    length = min(options.max_categories or len(asked), len(asked))
    asked_set = frozenset(asked)
    asks: list[Ask] = []
    candidates, too_few = [], 0
    for image in range(len(coco.images)):
        boxes, present = _present(coco, image, asked_set)
        categories = asked
        if length < len(asked):
            found = rng.sample(sorted(boxes), min(len(boxes), length))
            absent = _absent(asked, present)
            categories = tuple(sorted(found + rng.sample(absent, min(len(absent), length - len(found)))))
        objects = sum(boxes[c] for c in categories)
        if len(asked) - len(present) >= length:
            candidates.append(image)
        if objects > options.max_instances:
            ledger.left_out[f"detection row with more than {options.max_instances} objects"] += 1
        elif objects >= options.min_instances:
            asks.append(Ask(image, "detection", categories))
        else:
            too_few += 1
    wanted = _number_of_negatives(options.negatives, len(asks))
    missing = max(wanted - len(candidates), 0)
    ledger.notes["detection negatives missing: too few empty images (--max-categories makes more)"] += missing
    chosen = rng.sample(candidates, wanted - missing)
    too_few -= len(chosen) if length == len(asked) else 0  # then those chosen are among those with too few
    ledger.left_out[f"detection row with fewer than {options.min_instances} objects"] += too_few
    for image in chosen:
        absent = _absent(asked, _present(coco, image, asked_set)[1])
        asks.append(Ask(image, "detection", tuple(sorted(rng.sample(absent, length)))))
    return asks


def _absent(asked: tuple[int, ...], present: set[int]) -> list[int]:
    return [category for category in asked if category not in present]


def _plan_phrases(
    coco: Coco, asked: tuple[int, ...], options: Options, ledger: Ledger, rng: random.Random, task: str
) -> list[Ask]:
    """One row for each image and category in it; negatives drawn evenly from all absent pairs.

    Of a crowd nobody knows how many it holds: it is no row of counting.
    """
    asked_set = frozenset(asked)
    single = {c: (c,) for c in asked}
    asks: list[Ask] = []
    absent_before = [0]  # absent pairs of all images before the i-th
    for image in range(len(coco.images)):
        boxes, present = _present(coco, image, asked_set)
        absent_before.append(absent_before[-1] + len(asked) - len(present))
        inexact = _inexact(coco, image) if task == "counting" else frozenset[int]()
        for category in sorted(present):
            if category in inexact:
                ledger.left_out["counting row for a category with a crowd or a bad box"] += 1
            elif boxes[category] == 0:
                ledger.left_out[f"{task} row for a category that is there only as crowd or bad box"] += 1
            elif boxes[category] < options.min_instances:
                ledger.left_out[f"{task} row with fewer than {options.min_instances} objects"] += 1
            elif boxes[category] > options.max_instances:
                ledger.left_out[f"{task} row with more than {options.max_instances} objects"] += 1
            else:
                asks.append(Ask(image, task, single[category]))
    wanted = _number_of_negatives(options.negatives, len(asks))
    missing = max(wanted - absent_before[-1], 0)
    ledger.notes[f"{task} negatives missing: too few absent categories"] += missing
    for number in rng.sample(range(absent_before[-1]), wanted - missing):
        image = bisect.bisect_right(absent_before, number) - 1
        absent = _absent(asked, _present(coco, image, asked_set)[1])
        asks.append(Ask(image, task, single[absent[number - absent_before[image]]]))
    return asks


def _inexact(coco: Coco, image: int) -> frozenset[int]:
    """Categories of an image whose number of objects its boxes do not tell."""
    return frozenset(coco.category[j] for j in coco.of_image(image) if coco.kind[j] != BOX)


# ------------------------------------------------------------------------------------------------ converting


def convert(
    annotations: Path, images_dir: Path, out: Path, options: Options | None = None, *, show_progress: bool = False
) -> Report:
    """The whole road from annotation file to parquet.

    Raises:
        RowsError: bad input file, flag, or disk. RowError: a bad row, with `on_error="fail"`.
    """
    options = options or Options()
    ledger = Ledger(fail=OnError(options.on_error) is OnError.fail)
    coco = read_coco(annotations, images_dir, ledger, options.excluded_ids)
    asks = plan(coco, options, ledger)
    if not asks:
        raise RowsError(f"{annotations}: no row is left: {ledger.losses()}; loosen the flags")
    rows = _rows(coco, asks, options, out.with_name(f"{out.stem}_upright"), ledger, show_progress)
    source = {"annotations": coco.name, "annotations_sha256": coco.sha256}
    return write_rows(rows, out, options, ledger, made_by="data_preprocess/coco.py", source=source)


def _rows(
    coco: Coco, asks: list[Ask], options: Options, upright_dir: Path, ledger: Ledger, show_progress: bool
) -> Iterator[Row]:
    groups = groupby(asks, key=lambda ask: ask.image)
    if show_progress:
        groups = track(groups, "images", total=len({ask.image for ask in asks}), transient=True)
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
            ledger.skip(RowError(error.kind, f"{coco.name}: image id {entry.image_id}: {error}"))
            ledger.notes["row of a skipped image"] += len(group)
            continue
        ledger.note_image(image)
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
        count=len(things) if ask.task == "counting" else None,
    )
    answer_format = FORMATS[options.count_format if ask.task == "counting" else options.answer_format]
    assert answer_format.instruct is not None  # `Options` has looked
    question = answer_format.instruct(ask.task, phrases, allow_none=options.allow_none)
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


# ------------------------------------------------------------------------------------------------ command


def main(
    annotations: Annotated[Path, typer.Argument(help="COCO-format detection json.", show_default=False)],
    images_dir: Annotated[Path, typer.Argument(help="Folder that file_name is relative to.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="File to write, <name>.parquet.", show_default=False)],
    flags: Options,
) -> Report:
    """Turn COCO-format detection json into the parquet that verl reads.

    Example: python data_preprocess/coco.py instances_val2017.json val2017 coco_val.parquet --split val --limit 500
    """
    return convert(annotations, images_dir, out, flags, show_progress=Console().is_terminal)


if __name__ == "__main__":
    run(main)
