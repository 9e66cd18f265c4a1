"""Records that anybody laid out (json, jsonl, csv, tsv, parquet, arrow, imagefolder) -> parquet rows for verl.

    visionr1 convert records boxes.csv boxes.parquet --images-dir images --preset tf-csv
    visionr1 convert records my.jsonl my.parquet --column image=file --column phrase=caption \\
        --column boxes=bbox --box-format xywh-abs
    visionr1 convert records ViRFT_COCO visual_rft.parquet --preset visual-rft

Say which column is what by `--column WHAT=NAME` (names with dots reach inside: `objects.bbox`), and what the numbers of
a box are by `--box-format`: xyxy, xywh or cxcywh, in pixels (abs) of the original image, fractions (norm1),
percent (norm100) or 0-1000 (norm1000). The declared format is checked against the numbers. What becomes of a record
follows from its columns:

* `label` and `boxes`: categories of a vocabulary, asked for as `--task` says. One label a box, in lists, or one box a
  record (`boxes=xmin,ymin,xmax,ymax`): then the records of one image are put together, and one without a box makes an
  image without objects. The vocabulary is all labels that occur, or `--class-names`; labels that are numbers need
  those, or a parquet of Hugging Face that names them.
* `phrase` (or a `question` of its own) and `boxes`: grounding; and `points`: pointing; and `count`: counting. An empty
  list or a count of 0: it is not there. Records of one image and phrase are put together where each has one box.
* `question` and `answer` (with `choices`): text. `solution`: a text that holds boxes or the answer.

`--preset` knows the rows of easyr1, ms-swift, visual-rft, r1-v, seg-zero, gui-r1, llamafactory and rex-thinker, and the
columns of tf-csv (TensorFlow, Roboflow), retinanet-csv (no header) and imagefolder (`metadata.jsonl` with `file_name`,
`objects.bbox`, `objects.categories`; its box format must be said). Columns given replace those of the preset, for
example `--preset easyr1 --column count=answer`. A folder is read as an imagefolder, as the parquet or arrow files in it
(`save_to_disk` of datasets, too), or else as all files in it.
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
    preset: Annotated[str | None, f"Layout that is known: {', '.join(PRESETS)}."] = None
    column: Annotated[list[str], "WHAT=NAME: which column is what; give the flag once for each."] = field(
        default_factory=list
    )
    images_dir: Annotated[Path | None, "Folder that names of images are relative to. Default: that of the file."] = None
    header: Annotated[str | None, "Names of the columns of a table without a header, joined by commas."] = None
    class_names: Annotated[
        str | None, "All labels, joined by commas; labels that are numbers stand for them, from 0."
    ] = None
    keep_prompts: KeepPrompts = False

    def __post_init__(self) -> None:
        if self.preset is not None and self.preset not in PRESETS:
            raise RowsError(f"--preset {self.preset}: {needs_one_of(self.preset, PRESETS)}")
        super().__post_init__()
        if self.preset is None and "image" not in self.layout.columns:
            raise RowsError("--column image=NAME is missing: which column holds the image? (or give --preset)")
        changed = [it for it in _VOCABULARY_ONLY if getattr(self, it) != _DEFAULTS[it]]
        if changed and not self.layout.is_vocabulary:
            flag = changed[0].replace("_", "-")
            raise RowsError(f"--{flag}: is for boxes with labels; rows of a phrase or question are what they say")
        if self.keep_prompts and self.layout.is_vocabulary:
            raise RowsError("--keep-prompts: boxes with labels have no prompts of their own")

    def format_of(self, task: str) -> str:
        """As `VocabularyFlags.format_of`; a click of GUI-R1 is asked for as one point, which `gui-click` reads."""
        if task == "pointing" and self.preset == "gui-r1":
            return checked_format("--answer-format", self.answer_format or "point", task)
        return super().format_of(task)

    @property
    def planned_tasks(self) -> tuple[str, ...]:
        """Rows of a phrase or a question say themselves what they ask."""
        return super().planned_tasks if self.layout.is_vocabulary else ()

    @property
    def share_of_negatives(self) -> float | None:
        """Planning draws those of a vocabulary; others are the records' own."""
        return None if self.layout.is_vocabulary else self.negatives

    @cached_property
    def layout(self) -> Layout:
        """Columns, format and preset together."""
        preset = PRESETS[self.preset] if self.preset is not None else Layout()
        return replace(
            preset,
            columns={**preset.columns, **columns_of(*self.column)},
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
    """Whether some row asks for what is not there."""
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
