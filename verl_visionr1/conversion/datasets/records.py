"""Records in any layout (json, jsonl, csv, tsv, parquet, arrow, imagefolder) -> parquet rows for verl.

    visionr1 convert records boxes.csv boxes.parquet --images-dir images --preset tf-csv
    visionr1 convert records my.jsonl my.parquet --column image=file --column phrase=caption \\
        --column boxes=bbox --box-format xywh-abs
    visionr1 convert records ViRFT_COCO visual_rft.parquet --preset visual-rft

`--column WHAT=NAME` gives the meaning of a column (dots reach nested values: `objects.bbox`). `--box-format` gives the
box format: xyxy, xywh or cxcywh, in pixels (abs) of the original image, fractions (norm1), percent (norm100) or 0-1000
(norm1000). The declared format is checked against the numbers. The columns determine the rows:

* `label` and `boxes`: categories of a vocabulary, for the rows of `--task`. Either lists with one label per box, or one
  box per record (`boxes=xmin,ymin,xmax,ymax`); then the records of one image are merged, and one without a box makes an
  image without objects. The vocabulary is all labels that occur, or `--class-names`; numeric labels need those, or a
  Hugging Face parquet with names.
* `phrase` (or a `question` of its own) and `boxes`: grounding; and `points`: pointing; and `count`: counting, where
  `label` is a `phrase`. An empty list or a count of 0 means no object. Records of one image and phrase are merged if
  each has one box.
* `question` and `answer` (with `choices`): text. `solution`: a text with boxes or the answer.

`--preset` knows the rows of easyr1, ms-swift, visual-rft, r1-v, seg-zero, gui-r1, llamafactory and rex-thinker, and the
columns of tf-csv (TensorFlow, Roboflow), retinanet-csv (no header) and imagefolder (`metadata.jsonl` with `file_name`,
`objects.bbox`, `objects.categories`; it needs `--box-format`). `--column` replaces columns of the preset, for example
`--preset easyr1 --column count=answer`. A folder is read as an imagefolder, as its parquet or arrow files (also from
`save_to_disk` of datasets), or else as all files in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated

from verl_visionr1.conversion.conventions import NAMED
from verl_visionr1.conversion.converter import Reading, converter
from verl_visionr1.conversion.flags import DataSource, checked_format
from verl_visionr1.conversion.items import Item
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.planning import VocabularyFlags
from verl_visionr1.conversion.records.fields import Layout, columns_of
from verl_visionr1.conversion.records.frameworks import PRESETS
from verl_visionr1.conversion.records.items import items_of_questions, items_of_vocabulary
from verl_visionr1.conversion.records.solutions import KeepPrompts
from verl_visionr1.conversion.records.source import RecordSource, survey
from verl_visionr1.files import RowsError
from verl_visionr1.settings import needs_one_of

_VOCABULARY_ONLY = ("task", "categories", "min_instances", "max_categories", "class_names")


@dataclass(frozen=True, kw_only=True)
class Options(VocabularyFlags):
    """The command's flags; `--help` explains each."""

    data_source: DataSource = "visionr1/records_{task}"
    preset: Annotated[str | None, f"Known layout: {', '.join(PRESETS)}."] = None
    column: Annotated[list[str], "WHAT=NAME: meaning of a column; repeat the flag for more."] = field(
        default_factory=list
    )
    images_dir: Annotated[Path | None, "Folder that image names are relative to. Default: that of the file."] = None
    header: Annotated[str | None, "Names of the columns of a table without a header, joined by commas."] = None
    class_names: Annotated[
        str | None, "All labels, joined by commas; numeric labels are indexes into them, from 0."
    ] = None
    keep_prompts: KeepPrompts = False

    def __post_init__(self) -> None:
        if self.preset is not None and self.preset not in PRESETS:
            raise RowsError(f"--preset {self.preset}: {needs_one_of(self.preset, PRESETS)}")
        super().__post_init__()
        if self.preset is None and "image" not in self.layout.columns:
            raise RowsError("--column image=NAME is missing: give the column of the image, or --preset")
        changed = [it for it in _VOCABULARY_ONLY if getattr(self, it) != _DEFAULTS[it]]
        if changed and not self.layout.is_vocabulary:
            flag = changed[0].replace("_", "-")
            raise RowsError(
                f"--{flag}: only for boxes with labels, not for rows with a phrase or question; leave it out"
            )
        if self.keep_prompts and self.layout.is_vocabulary:
            raise RowsError("--keep-prompts: boxes with labels have no prompts; leave it out")

    def format_of(self, task: str) -> str:
        """As `VocabularyFlags.format_of`; a click of GUI-R1 is one point, for `gui-click`."""
        if task == "pointing" and self.preset == "gui-r1":
            return checked_format("--answer-format", self.answer_format or "point", task)
        return super().format_of(task)

    @property
    def planned_tasks(self) -> tuple[str, ...]:
        """None for rows with their own phrase or question."""
        return super().planned_tasks if self.layout.is_vocabulary else ()

    @property
    def share_of_negatives(self) -> float | None:
        """None for a vocabulary, whose negatives are drawn in planning."""
        return None if self.layout.is_vocabulary else self.negatives

    @cached_property
    def layout(self) -> Layout:
        """The preset, changed by the options."""
        preset = PRESETS[self.preset] if self.preset is not None else Layout()
        columns = {**preset.columns, **columns_of(*self.column)}
        if {"label", "count"} <= columns.keys() and not {"phrase", "boxes"} & columns.keys():
            columns["phrase"] = columns.pop("label")  # what is counted
        return replace(
            preset,
            columns=columns,
            box_format=preset.box_format if self.box_format is None else NAMED.get(self.box_format),
            header=tuple(name.strip() for name in self.header.split(",")) if self.header else preset.header,
            class_names=tuple(name.strip() for name in (self.class_names or "").split(",") if name.strip()),
        )


_DEFAULTS = {it.name: it.default_factory() if callable(it.default_factory) else it.default for it in fields(Options)}


def _questions(records: RecordSource, options: Options, ledger: Ledger, *, images: bool = True) -> Iterator[Item]:
    return items_of_questions(
        records, ledger, split=options.split, keep_prompts=options.keep_prompts, with_images=images
    )


def _has_none(records: RecordSource, options: Options) -> bool:
    """Whether some row asks for absent objects."""
    return any(item.is_negative for item in _questions(records, options, Ledger(fail=False), images=False))


@converter(
    "detection",
    "grounding",
    "counting",
    "pointing",
    "text",
    example="train.csv train.parquet --images-dir images --preset tf-csv",
)
def convert(source: Annotated[Path, "File of records, or a folder."], options: Options, ledger: Ledger) -> Reading:
    """The rows of a file, an imagefolder, or a folder of files."""
    records = RecordSource.found(source, options.layout, options.images_dir, options.split)
    labels = survey(records)
    if options.layout.is_vocabulary:
        items, total = items_of_vocabulary(records, labels, options, ledger)
        allow_none = bool(options.negatives) or options.min_instances == 0
    else:
        items, total = _questions(records, options, ledger), None
        allow_none = options.negatives != 0 and _has_none(records, options)
    return Reading(items=items, files=records.files, allow_none=allow_none, total=total)
