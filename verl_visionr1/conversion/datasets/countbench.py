"""CountBench -> parquet rows for verl: counting, for evaluation only (split "test").

    visionr1 convert countbench CountBenchQA/data/*.parquet countbench.parquet
    visionr1 convert countbench countbench/data/*.parquet countbench.parquet --questions QUESTIONS.json

`vikhyatk/CountBenchQA` has image, text, question, number. `nielsr/countbench` has image, text, number; its questions
are in big_vision's `countbench_paired_questions.json`, a list of {"question": ...} in the order of its 540 rows. Rows
with a null image (about 50 dead links) are left out. Its one grey image is kept; some published evaluations drop it,
and so have one row less.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from verl_visionr1.conversion.converter import Reading, converter
from verl_visionr1.conversion.flags import DataSource, Flags, Split
from verl_visionr1.conversion.image_files import embedded_image
from verl_visionr1.conversion.items import Item
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.sources import read_json, read_records
from verl_visionr1.conversion.values import count_of, record_of, text_of
from verl_visionr1.files import RowsError
from verl_visionr1.rows import open_parquet


@dataclass(frozen=True, kw_only=True)
class Options(Flags):
    """The command's flags; `--help` explains each."""

    data_source: DataSource = "visionr1/countbench"
    split: Split = "test"
    questions: Annotated[Path | None, "countbench_paired_questions.json, for files without questions of their own."] = (
        None
    )


def read_items(annotations: Sequence[Path], questions: Path | None, ledger: Ledger) -> Iterator[Item]:
    """Yield an item for each row with an image."""
    paired = _paired(annotations, questions) if questions else None
    for number, (where, record) in enumerate(chain.from_iterable(map(read_records, annotations))):
        with ledger.skipping():
            image = record_of(record, where).get("image")
            if any(image.values()) if isinstance(image, dict) else image is not None:
                yield _item(where, record if paired is None else {**record, **paired[number]}, number)
            else:
                ledger.left_out["row without an image"] += 1


def _paired(annotations: Sequence[Path], questions: Path) -> list[dict[str, Any]]:
    """Read the question of each row."""
    found = read_json(questions, list[dict[str, Any]])
    rows = 0
    for path in annotations:
        with open_parquet(path) as parquet:
            rows += parquet.metadata.num_rows
    if len(found) != rows:
        reason = f"{len(found)} questions for {rows} rows, but they are paired by order"
        raise RowsError(f"{questions}: {reason}; give the files that belong together")
    return [{"question": entry.get("question")} for entry in found]


def _item(where: str, record: Mapping[str, Any], number: int) -> Item:
    if "question" not in record:
        raise RowsError(f"{where}: no column question; give the questions file with --questions")
    return Item(
        where=where,
        image=embedded_image(record["image"], where),
        task="counting",
        question=text_of(record, ["question"], where),
        count=count_of(record.get("number"), where),
        file_name=url if isinstance(url := record.get("image_url"), str) else "",
        source_ann={"row": number, "text": record.get("text")},
    )


@converter("counting", example="CountBenchQA/data/test-*.parquet countbench.parquet --embed")
def convert(
    annotations: Annotated[list[Path], "The data set's parquet files."], options: Options, ledger: Ledger
) -> Reading:
    """The rows of the data set's files."""
    files = [*annotations, *([options.questions] if options.questions else [])]
    return Reading(items=read_items(annotations, options.questions, ledger), files=files)
