"""RefCOCO, RefCOCO+, RefCOCOg, RefClef and gRefCOCO -> parquet rows for verl: one row for each expression.

    visionr1 convert refcoco "refcoco/refs(unc).p" refcoco/instances.json train2014 refcoco_train.parquet
    visionr1 convert refcoco "grefs(unc).json" instances.json train2014 grefcoco_val.parquet --split val

Files as distributed by `refer`: `refs(<unc|google|umd|berkeley>).p` (or gRefCOCO's `grefs(unc).json`), `instances.json`
(or COCO's own `instances_train2014.json`) and the folder of COCO's train2014 images. Splits: train, val, testA (people)
and testB (others); RefCOCOg's umd: train, val, test. RefCOCOg's google split shares images between train and val.

Two re-distributions on Hugging Face are also read:

    visionr1 convert refcoco testA-00000-of-00001.parquet refcoco_testA.parquet --split testA
    visionr1 convert refcoco train-00000-of-00001.parquet coco refcoco_train.parquet

lmms-lab/RefCOCO(plus, g) embeds the images, and has no train split. jxu124/refcoco(plus, g) names images as
`coco/train2014/...`: give the folder that contains `coco`. Its boxes are those of `raw_anns`.

Files and the folder are recognized by their content, so their order does not matter; the output is last. All validation
and test images are in COCO's train2014 and train2017: make an exclusion list (`exclusion.py`) for them. gRefCOCO's
expressions without an object become rows without objects; its prompts then explain how to answer that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from verl_visionr1.conversion.converter import Reading, converter
from verl_visionr1.conversion.flags import BoxFlags, DataSource
from verl_visionr1.conversion.image_files import embedded_image, find_image
from verl_visionr1.conversion.items import Item
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.referring import (
    Annotation,
    Index,
    Instances,
    InstancesImage,
    Ref,
    Sentence,
    image_name,
    in_split,
    read_referring,
    ref_of,
)
from verl_visionr1.conversion.sources import read_records
from verl_visionr1.conversion.values import numbers_of, size_of
from verl_visionr1.conversion.vocabulary import key_of
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.images import EmbeddedImage

_SPLIT_IN_NAME = re.compile(r"(train|val|validation|test[ABC]?)-\d+-of-\d+\.parquet")


@dataclass(frozen=True, kw_only=True)
class Options(BoxFlags):
    """The command's flags; `--help` explains each."""

    data_source: DataSource = "visionr1/refcoco_{task}"
    task: Annotated[
        Literal["grounding", "pointing"], "grounding: the box of the object; pointing: a point in that box."
    ] = "grounding"


@dataclass(slots=True)
class _Sources:
    """The sources, by kind."""

    refs: list[tuple[str, list[Any]]] = field(default_factory=list)  # name of the file, entries
    tables: list[Path] = field(default_factory=list)
    instances: Instances | None = None
    images_dir: Path | None = None


def _sort_sources(sources: Sequence[Path]) -> _Sources:
    given = _Sources()
    for path in sources:
        if path.is_dir():
            if given.images_dir is not None:
                reason = "two folders of images; give one folder that contains both"
                raise RowsError(f"{given.images_dir} and {path}: {reason}")
            given.images_dir = path
        elif path.suffix.lower() == ".parquet":
            given.tables.append(path)
        elif isinstance(content := read_referring(path), list):
            given.refs.append((path.name, content))
        elif given.instances is None:
            given.instances = content
        else:
            raise RowsError(f"{path}: a second file of instances; convert each data set separately")
    first = given.refs[0][0] if given.refs else ""
    if first and given.instances is None:
        raise RowsError(f"{first}: has no boxes; also give the instances.json beside it")
    if first and given.images_dir is None:
        raise RowsError(f"{first}: has no images; also give the folder of COCO's train2014")
    if not first and not given.tables:
        raise RowsError("no file of refs: needs refs(...).p, grefs(unc).json or .parquet files")
    return given


class _Found(NamedTuple):
    """A ref with its annotations and image."""

    where: str
    source: str
    ref: Ref
    things: Sequence[Annotation]
    image: InstancesImage
    path: Path | EmbeddedImage


def _read_refs(given: _Sources, ledger: Ledger) -> Iterator[tuple[str, str, Ref]]:
    for name, entries in given.refs:
        for number, entry in enumerate(entries):
            with ledger.skipping():
                ref = ref_of(entry, where := f"{name}: entry {number}")
                yield f"{where} (ref_id {ref.ref_id})", name, ref


def _of_files(
    refs: Sequence[tuple[str, str, Ref]], given: _Sources, options: Options, ledger: Ledger
) -> Iterator[_Found]:
    """Yield the split's refs in refer's files, those of one image in succession."""
    if given.instances is None or given.images_dir is None:
        return
    index = Index(given.instances)
    first: dict[str | None, int] = {}
    for number, (_, _, ref) in enumerate(refs):
        first.setdefault(key_of(ref.image_id), number)
    for where, source, ref in sorted(refs, key=lambda it: first[key_of(it[2].image_id)]):
        with ledger.skipping():
            if _is_of_split(ref, options, ledger):
                image, things = index.find(ref, where)
                path = find_image(given.images_dir, image.name(where), where)
                yield _Found(where, source, ref, things, image, path)


def _is_of_split(ref: Ref, options: Options, ledger: Ledger) -> bool:
    found = in_split(ref.split, options.split)
    ledger.left_out[f"ref of split {ref.split} (--split)"] += not found
    return found


def _of_tables(given: _Sources, options: Options, ledger: Ledger) -> Iterator[_Found]:
    for path in given.tables:
        for where, record in read_records(path):
            if "raw_anns" not in record and not {"answer", "bbox", "image"} <= record.keys():
                reason = f"columns {', '.join(sorted(record))}: neither lmms-lab's nor jxu124's RefCOCO"
                raise RowsError(f"{path}: {reason}; is it the right file?")
            with ledger.skipping():
                if "raw_anns" not in record:
                    yield _lmms_lab(where, record, path, given.images_dir, options.split)
                elif given.images_dir is None:
                    raise RowsError(f"{path}: has no images; give the folder that contains coco/train2014/...")
                elif _is_of_split((found := _jxu124(where, record, path, given.images_dir)).ref, options, ledger):
                    yield found


def _jxu124(where: str, record: dict[str, Any], path: Path, images_dir: Path) -> _Found:
    """Read a row of jxu124's files: a ref, with its annotation and image as JSON text."""
    try:
        ref = msgspec.convert(record, Ref)
        thing = msgspec.json.decode(record["raw_anns"], type=Annotation)
        image = msgspec.json.decode(record["raw_image_info"], type=InstancesImage)
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise RowError("malformed entry", f"{where}: {error}; is it the right file?") from None
    where = f"{where} (ref_id {ref.ref_id})"
    name = record.get("image_path") or image.name(where)
    return _Found(where, path.name, ref, [thing], image, find_image(images_dir, name, where))


def _lmms_lab(where: str, record: dict[str, Any], path: Path, images_dir: Path | None, split: str) -> _Found:
    """Read a row of lmms-lab's files: a box (x, y, width, height), its image, and all its expressions."""
    named = _SPLIT_IN_NAME.fullmatch(path.name)
    if named and not in_split(named[1], split):
        raise RowsError(f"{path}: its name has the split {named[1]}, not {split}; give --split {named[1]}")
    number = record.get("question_id")
    where = f"{where} (question_id {number})"
    name = image_name(str(record.get("file_name") or ""))
    digits = re.search(r"_0*(\d+)\.", name)
    sentences = [Sentence(text) for text in record["answer"] or ()]
    ref = Ref(digits[1] if digits else "", sentences, split, str(number))
    thing = Annotation(bbox=record["bbox"], iscrowd=record.get("iscrowd"))
    image = embedded_image(record["image"], where, images_dir)
    return _Found(where, path.name, ref, [thing], InstancesImage(file_name=name), image)


def _items_of(found: _Found, options: Options, ledger: Ledger) -> Iterator[Item]:
    """Yield one item for each expression of a ref."""
    where, ref, image = found.where, found.ref, found.image
    written = options.convention("xywh-abs")
    boxes = [written.as_corners(numbers_of(thing.bbox, 4, where)) for thing in found.things]
    size_wh = size_of(image.width, image.height, f"{where}: image {image.id}")
    if not boxes and not ref.is_empty:
        raise RowError("ref without annotation", f"{where}: ann_id {ref.ann_id}: needs one, or -1 for none; correct it")
    if boxes and ref.no_target:
        raise RowError("ref without and with target", f"{where}: no_target, but with ann_id {ref.ann_id}; correct it")
    if any(thing.iscrowd for thing in found.things):
        ledger.notes["expression for a crowd annotation: its box is the target"] += len(ref.sentences)
    for sentence in ref.sentences:
        if not sentence.text:
            ledger.skip(RowError("empty expression", f"{where}: sent_id {sentence.sent_id} has no text; remove it"))
            continue
        facts = {"file": found.source, "ref_id": ref.ref_id, "sent_id": sentence.sent_id, "ann_ids": ref.annotations}
        yield Item(
            where=where,
            image=found.path,
            task=options.task,
            phrases=(sentence.text,),
            annotated_wh=size_wh,
            written=written,
            boxes_xyxy=boxes,
            image_id=str(key_of(ref.image_id)),
            file_name=str(image.file_name or ""),
            source_ann=facts,
        )


@converter("grounding", "pointing", example='"refs(unc).p" instances.json train2014 testA.parquet --split testA')
def convert(
    sources: Annotated[
        list[Path], "refs(...).p or grefs(unc).json, instances.json, images folder; or .parquet files; in any order."
    ],
    options: Options,
    ledger: Ledger,
) -> Reading:
    """The rows of refs, or of parquet files."""
    given = _sort_sources(sources)
    refs = list(_read_refs(given, ledger))
    some_empty = any(ref.is_empty for *_, ref in refs)

    def items() -> Iterator[Item]:
        for found in chain(_of_files(refs, given, options, ledger), _of_tables(given, options, ledger)):
            with ledger.skipping():
                yield from _items_of(found, options, ledger)

    return Reading(
        items=items(),
        files=[path for path in sources if path.is_file()],
        allow_none=some_empty if options.negatives is None else options.negatives > 0,
    )
