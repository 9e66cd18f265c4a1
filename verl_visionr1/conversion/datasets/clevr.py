"""CLEVR and related data sets -> parquet rows for verl: counting and pointing.

    visionr1 convert clevr scenes/CLEVR_train_scenes.json images/train clevr_train.parquet --limit 70000
    visionr1 convert clevr clevr_cogen_a_train/data/*.parquet . r1v_train.parquet
    visionr1 convert clevr superclevr_test200_counting_problems.jsonl images r1v_test.parquet --split test

The suffix of a file determines how it is read:

* `.json`, CLEVR's scenes: {"scenes": [{"image_filename": "CLEVR_train_000000.png", "image_index": 0, "objects":
  [{"color": "gray", "size": "large", "material": "rubber", "shape": "cube", "pixel_coords": [269, 88, 12.66], ...}]}]}.
  `--attributes` sets the phrases: "cube", "gray rubber cube". There are no boxes; an object's point is its projected 3D
  centre, which another object may hide. Images are RGBA, and are flattened.
* `.parquet`, R1-V's CLEVR-70k (`leonardPKU/clevr_cogen_a_train`): image, problem, solution "<answer> 3 </answer>".
* `.jsonl`, R1-V's SuperCLEVR: {"image_path": "./images/superCLEVR_new_025000.png", "question": ..., "ground_truth": 4}.
  The latter two are counting, with the data set's own questions.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from verl_visionr1.boxes import Point
from verl_visionr1.conversion.converter import Reading, converter
from verl_visionr1.conversion.counts import CountFlags
from verl_visionr1.conversion.flags import DataSource
from verl_visionr1.conversion.image_files import embedded_image, find_image, require_images
from verl_visionr1.conversion.items import Item
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.sources import read_json, read_records
from verl_visionr1.conversion.values import count_of, points_of, record_of, text_of
from verl_visionr1.files import RowError, RowsError

ATTRIBUTES = ("size", "color", "material", "shape")
"""Attributes of an object, in the word order of CLEVR's questions."""
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Options(CountFlags):
    """The command's flags; `--help` explains each."""

    data_source: DataSource = "visionr1/clevr_{task}"
    attributes: Annotated[
        list[str], f"Scenes: a kind of phrase, from {', '.join(ATTRIBUTES)}; repeat the flag for more kinds."
    ] = field(default_factory=lambda: ["shape", "color material shape"])

    def __post_init__(self) -> None:
        super().__post_init__()
        for text in self.attributes:
            if not text.split() or not set(text.split()) <= set(ATTRIBUTES):
                raise RowsError(f"--attributes {text!r}: needs some of {', '.join(ATTRIBUTES)}, with blanks between")


Places = dict[str, list[Point]]
"""Phrase -> centres of its objects."""


class Scene(NamedTuple):
    """One image: for each kind of phrase, the objects in it."""

    where: str
    image_id: str
    file_name: str
    kinds: list[Places]


def _read_scenes(path: Path, options: Options, ledger: Ledger) -> list[Scene]:
    document = read_json(path)
    entries = document.get("scenes") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise RowsError(f"{path}: no list of scenes; is it a *_scenes.json of CLEVR?")
    places = ((f"{path.name}: scenes[{number}]", entry, options) for number, entry in enumerate(entries))
    return list(ledger.each(_scene, places))


def _scene(where: str, entry: Any, options: Options) -> Iterator[Scene]:
    entry = record_of(entry, where)
    file_name = text_of(entry, ["image_filename"], where)
    where = f"{where} ({file_name})"
    objects = entry.get("objects")
    if not isinstance(objects, list):
        raise RowError("no objects", f"{where}: objects {str(objects)[:60]}: needs a list; correct it")
    kinds = [_places(where, objects, text.split()) for text in options.attributes]
    yield Scene(where, str(entry.get("image_index", "")), file_name, kinds)


def _places(where: str, objects: list[Any], attributes: Sequence[str]) -> Places:
    places: Places = defaultdict(list)
    for number, thing in enumerate(objects):
        at = f"{where}: objects[{number}]"
        thing = record_of(thing, at)
        words = [text_of(thing, [name], at) for name in ATTRIBUTES if name in attributes]
        coordinates = thing.get("pixel_coords")  # the third is the depth
        (point,) = points_of([coordinates[:2] if isinstance(coordinates, list) else coordinates], at)
        places[" ".join(words if "shape" in attributes else [*words, "object"])].append(point)
    return places


def _items_of_scenes(path: Path, images_dir: Path, options: Options, ledger: Ledger) -> Iterator[Item]:
    """Yield a row for each present phrase; with `--negatives` also one absent phrase of each kind."""
    scenes = _read_scenes(path, options, ledger)
    vocabularies = [sorted(set().union(*kinds)) for kinds in zip(*(scene.kinds for scene in scenes), strict=True)]
    rng = random.Random(options.seed)
    for scene in scenes:
        requested: Places = {}
        for places, vocabulary in zip(scene.kinds, vocabularies, strict=True):
            requested |= places
            absent = [phrase for phrase in vocabulary if phrase not in places] if options.negatives else []
            if absent:
                requested[rng.choice(absent)] = []
        with ledger.skipping():
            image = find_image(images_dir, scene.file_name, scene.where)
            for phrase, points in requested.items():
                for task in options.tasks:
                    yield Item(
                        where=scene.where,
                        image=image,
                        task=task,
                        phrases=(phrase,),
                        points_xy=points,
                        count=len(points),
                        image_id=scene.image_id,
                        file_name=scene.file_name,
                        source_ann={"file": path.name},
                    )


def _questions(where: str, record: Any, images_dir: Path, facts: dict[str, Any]) -> Iterator[Item]:
    """Yield the item of a question in R1-V's files."""
    record = record_of(record, where)
    question = text_of(record, ["problem", "question"], where)
    answer = record.get("solution", record.get("ground_truth"))
    if isinstance(answer, str) and (tagged := _ANSWER.search(answer)):
        answer = tagged[1]
    image = record.get("image", record.get("image_path"))
    yield Item(
        where=where,
        image=embedded_image(image, where, images_dir),
        task="counting",
        question=question,
        count=count_of(answer, where),
        file_name=image if isinstance(image, str) else "",
        source_ann=facts,
    )


def _items(annotations: Sequence[Path], images_dir: Path, options: Options, ledger: Ledger) -> Iterator[Item]:
    for path in annotations:
        if path.suffix.lower() == ".json":
            yield from _items_of_scenes(path, images_dir, options, ledger)
            continue
        if "pointing" in options.tasks:
            raise RowsError(f"{path}: counting questions without points; leave out --task")
        entries = enumerate(read_records(path))
        yield from ledger.each(_questions, ((*it, images_dir, {"file": path.name, "row": i}) for i, it in entries))


@converter("counting", "pointing", example="CLEVR_val_scenes.json images/val clevr_val.parquet --split val --task both")
def convert(
    annotations: Annotated[list[Path], "Files of one of the three kinds."],
    images_dir: Annotated[Path, "Folder of the images; any (.) if a parquet embeds them."],
    options: Options,
    ledger: Ledger,
) -> Reading:
    """The rows of scenes or questions."""
    require_images(images_dir)
    items = _items(annotations, images_dir, options, ledger)
    return Reading(items=items, files=annotations, allow_none=bool(options.negatives))
