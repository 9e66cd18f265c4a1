"""D3 (D-cube, Description Detection) -> parquet rows for verl: detection and grounding of descriptions.

    visionr1 convert d3 d3_pkl d3_images d3.parquet --task grounding

Reads `d3_pkl/{sentences,annotations,images,groups}.pkl` and `d3_images/`. (Their json lacks the groups; `visionr1
convert coco` reads it.) A box may fit several sentences ("a dog", "a dog not on a leash"). Most sentences fit nothing
in most images; these empty rows are the purpose of the data set.

Every image is asked for the sentences of its group, about four (`--ask intra`, the authors' default). Sentences that
fit nothing are rows too, unless `--negatives` limits them. `--ask inter` asks every image for all 422 sentences, with
negatives drawn by `--negatives` (default: none).

As in the authors' conversion to json, `iscrowd` is ignored, and a box is the first row of a numpy array or a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from verl_visionr1.conversion.coco_json import decoded
from verl_visionr1.conversion.conventions import NAMED
from verl_visionr1.conversion.converter import Reading, converter
from verl_visionr1.conversion.flags import DataSource
from verl_visionr1.conversion.image_files import find_image, require_images
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.planning import BOX_TASKS, VocabularyFlags, plan_reading
from verl_visionr1.conversion.sources import read_pickle
from verl_visionr1.conversion.vocabulary import LEFT_OUT, AnnotatedImage, Annotations, Columns, Key, key_of, named_once
from verl_visionr1.files import RowError, RowsError

T = TypeVar("T")
PICKLES = ("sentences", "annotations", "images", "groups")


@dataclass(frozen=True, kw_only=True)
class Options(VocabularyFlags):
    """The command's flags; `--help` explains each."""

    data_source: DataSource = "visionr1/d3_{task}"
    ask: Annotated[
        Literal["intra", "inter"], "intra: the sentences of the image's group; inter: all sentences of the data set."
    ] = "intra"
    descriptions: Annotated[
        Literal["full", "pres", "abs"], "full: all sentences; pres: those about presence; abs: those about absence."
    ] = "full"


class _Sentence(msgspec.Struct):
    raw_sent: str
    is_negative: Any = False


class _Image(msgspec.Struct):
    file_name: str
    width: int
    height: int


class _Annotation(msgspec.Struct):
    image_id: Key
    sent_id: list[Key]
    bbox: Any


class _Group(msgspec.Struct):
    inner_sent_id: list[Key]


def read_d3(path: Path, images_dir: Path, ledger: Ledger, options: Options) -> Annotations:
    """Read the boxes, and the sentences to ask for on each image."""
    require_images(images_dir)
    if not path.is_dir():
        raise RowsError(f"{path}: not a folder; give d3_pkl: a json does not have the sentences of each image")
    data, index_of = _read_pickles(path, images_dir, ledger, options)
    if options.ask == "inter":
        return data
    return replace(data, images=list(_with_groups(data, path, index_of, ledger)), own_negatives=True)


def _entries(folder: Path, name: str) -> dict[str, Any]:
    """Read key -> entry of one of the four pickles."""
    path = folder / f"{name}.pkl"
    found = read_pickle(path)
    if not isinstance(found, dict):
        raise RowsError(f"{path}: needs a dictionary, has {type(found).__name__}; is it from D3?")
    return {str(key_of(key)): entry for key, entry in found.items()}


def _decoded(folder: Path, name: str, type_: type[T], ledger: Ledger) -> Iterator[tuple[str, str, T]]:
    """Yield (place, id, entry) of each valid entry of one of the four pickles."""
    for key, entry in _entries(folder, name).items():
        where = f"{name}.pkl: entry {key}"
        with ledger.skipping():
            yield where, key, decoded(partial(msgspec.convert, type=type_), entry, where)


def _read_pickles(
    folder: Path, images_dir: Path, ledger: Ledger, options: Options
) -> tuple[Annotations, Mapping[str, int]]:
    """Read the boxes, and key of each sentence -> its index in the names."""
    sentences = {key: entry for _, key, entry in _decoded(folder, "sentences", _Sentence, ledger)}
    names, places = named_once([entry.raw_sent for entry in sentences.values()], ledger)
    index_of = dict(zip(sentences, places, strict=True))
    columns = options.columns(folder.name, names, ledger, NAMED["xywh-abs"])
    _add_images(columns, folder, images_dir)
    for where, key, entry in _decoded(folder, "annotations", _Annotation, ledger):
        _add_annotation(columns, where, key, entry, index_of)
    wanted = {"full": (True, False), "pres": (False,), "abs": (True,)}[options.descriptions]
    kept = {index_of[key] for key, entry in sentences.items() if bool(entry.is_negative) in wanted}
    return columns.finish(frozenset(range(len(names))) - kept), index_of


def _add_images(columns: Columns, folder: Path, images_dir: Path) -> None:
    columns.number_of.update(dict.fromkeys(_entries(folder, "images"), LEFT_OUT))
    for where, key, entry in _decoded(folder, "images", _Image, columns.ledger):
        if columns.excludes(key, entry.file_name):
            continue
        with columns.ledger.skipping():
            path = find_image(images_dir, entry.file_name, where)
            columns.add_image(AnnotatedImage(key, entry.file_name, path, (entry.width, entry.height)))


def _add_annotation(columns: Columns, where: str, key: str, entry: _Annotation, index_of: Mapping[str, int]) -> None:
    """Add a box for each sentence that it fits."""
    image = columns.number_of.get(str(key_of(entry.image_id)))
    if image == LEFT_OUT:
        columns.ledger.left_out["annotation of an image left out"] += 1
        return
    box = entry.bbox if isinstance(entry.bbox, list) else []
    box = box[0] if len(box) == 1 and isinstance(box[0], list) else box
    for sentence in dict.fromkeys(entry.sent_id):
        with columns.ledger.skipping():
            if image is None:
                reason = f"image_id {entry.image_id!r} is not in images.pkl"
                raise RowError("unknown image_id", f"{where}: {reason}; correct it")
            index = index_of.get(str(key_of(sentence)))
            if index is None:
                raise RowError("unknown sent_id", f"{where}: sent_id {sentence!r} is not in sentences.pkl; correct it")
            columns.add(image, index, box, key, written=f"bbox {str(entry.bbox)[:80]}")


def _with_groups(
    data: Annotations, folder: Path, index_of: Mapping[str, int], ledger: Ledger
) -> Iterator[AnnotatedImage]:
    """Yield the images with the sentences of their groups, without those missing from the annotations."""
    inner = {
        key: frozenset(index_of[it] for it in _ids(entry.inner_sent_id) if it in index_of)
        for _, key, entry in _decoded(folder, "groups", _Group, ledger)
    }
    listed = _entries(folder, "images")
    for image in data.images:
        entry = listed.get(image.image_id)
        group_id = entry.get("group_id") if isinstance(entry, dict) else None
        groups = _ids(group_id)
        if not all(group in inner for group in groups):
            reason = f"group_id {group_id!r} in images.pkl is not in groups.pkl"
            ledger.skip(RowError("unknown group_id", f"{data.name}: image id {image.image_id}: {reason}; correct it"))
            groups = []
        yield replace(image, checked=frozenset(index for group in groups for index in inner[group]))


def _ids(value: Any) -> list[str]:
    """Return one id or several, as text."""
    values: Iterable[Any] = value if isinstance(value, list) else [value]
    return [str(key_of(it)) for it in values]


@converter(*BOX_TASKS, example="d3_pkl d3_images d3_abs.parquet --descriptions abs --task grounding")
def convert(
    annotations: Annotated[Path, "Folder d3_pkl."],
    images_dir: Annotated[Path, "Folder d3_images."],
    options: Options,
    ledger: Ledger,
) -> Reading:
    """The rows of the annotations."""
    data = read_d3(annotations, images_dir, ledger, options)
    files = [annotations / f"{name}.pkl" for name in PICKLES]
    return plan_reading(data, options, ledger, files)
