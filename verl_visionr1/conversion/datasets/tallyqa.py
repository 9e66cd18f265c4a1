"""TallyQA -> parquet rows for verl: counting with the data set's own questions.

    visionr1 convert tallyqa train.json images tally_train.parquet --on-error skip

`train.json` and `test.json` of TallyQA are lists of

    {"answer": 4, "data_source": "imported_genome", "image": "VG_100K_2/2410408.jpg", "image_id": 92410408,
     "issimple": false, "question": "How many headlights does the black bus have?", "question_id": 30095774}

and `images` has `VG_100K/`, `VG_100K_2/`, `train2014/` and `val2014/`, of Visual Genome and COCO 2014, so that
exclusion lists (`vg:2410408`, `coco:139`) apply. Only test.json has `issimple`. A question that is repeated for an
image becomes one row, or none if its answers differ.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from verl_visionr1.conversion.converter import Reading, converter
from verl_visionr1.conversion.flags import DataSource, Flags
from verl_visionr1.conversion.image_files import ImageKeys, find_below, find_image, require_images
from verl_visionr1.conversion.items import Item
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.sources import read_records
from verl_visionr1.conversion.values import count_of, record_of, text_of
from verl_visionr1.files import RowsError


@dataclass(frozen=True, kw_only=True)
class Options(Flags):
    """The command's flags; `--help` explains each."""

    data_source: DataSource = "visionr1/tallyqa"
    simple_only: Annotated[bool, "Leave out complex questions (only test.json marks them)."] = False


class Question(NamedTuple):
    """One entry: a question about an image, and one person's answer."""

    where: str
    text: str
    answer: int
    image: str
    record: Mapping[str, Any]


def _question(where: str, record: Any) -> Iterator[Question]:
    record = record_of(record, where)
    where = f"{where} (question_id {record.get('question_id')!r})"
    text, answer = text_of(record, ["question"], where), count_of(record.get("answer"), where)
    yield Question(where, text, answer, text_of(record, ["image"], where), record)


def read_questions(path: Path, images_dir: Path, options: Options, ledger: Ledger) -> list[list[Question]]:
    """Read the questions of each image, in the order of the file; equal questions once."""
    alike: dict[str, dict[str, list[Question]]] = defaultdict(lambda: defaultdict(list))
    key_of, keys = dict[str, str](), ImageKeys()
    has_simple = False
    for question in ledger.each(_question, read_records(path)):
        has_simple |= "issimple" in question.record
        if options.simple_only and question.record.get("issimple") is not True:
            ledger.left_out["question that is not simple (--simple-only)"] += 1
            continue
        if (name := question.image) not in key_of:
            found = find_below(images_dir, name)
            key_of[name] = name if found is None else keys.key(name, found)
        alike[key_of[name]][" ".join(re.findall(r"\w+", question.text.lower()))].append(question)
    if options.simple_only and not has_simple:
        raise RowsError(f"{path}: no entry has issimple (train.json never has); leave out --simple-only")
    return [list(_merge_repeats(questions, ledger)) for questions in alike.values()]


def _merge_repeats(alike: dict[str, list[Question]], ledger: Ledger) -> Iterator[Question]:
    for questions in alike.values():
        if len({question.answer for question in questions}) > 1:
            ledger.left_out["question repeated for its image with another answer"] += len(questions)
        else:
            ledger.notes["question repeated for its image with the same answer"] += len(questions) - 1
            yield questions[0]


def _items(questions: list[Question], images_dir: Path, name: str) -> Iterator[Item]:
    """Yield the items of an image."""
    path = find_image(images_dir, questions[0].image, questions[0].where) if questions else Path()
    for question in questions:
        kept = ("question_id", "data_source", "issimple")
        yield Item(
            where=question.where,
            image=path,
            task="counting",
            question=question.text,
            count=question.answer,
            image_id=str(question.record.get("image_id", "")),
            file_name=question.image,
            source_ann={"file": name, **{key: question.record[key] for key in kept if key in question.record}},
        )


@converter("counting", example="test.json images tally_test.parquet --split test --simple-only")
def convert(
    annotations: Annotated[Path, "train.json or test.json."],
    images_dir: Annotated[Path, "Folder with VG_100K, train2014, ..."],
    options: Options,
    ledger: Ledger,
) -> Reading:
    """The rows of an annotation file."""
    require_images(images_dir)
    questions = read_questions(annotations, images_dir, options, ledger)
    items = ledger.each(_items, ((of_image, images_dir, annotations.name) for of_image in questions))
    return Reading(items=items, files=[annotations], total=sum(map(len, questions)))
