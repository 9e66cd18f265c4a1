"""Evaluation files -> a list of their images, for `--exclude-image-ids`, so that no test image is trained on.

    visionr1 convert exclusion refcoco_tests.txt "refcoco/refs(unc).p" "refcocog/refs(umd).p" \\
        --split val --split test
    visionr1 convert coco instances_train2017.json train2017 coco.parquet --exclude-image-ids refcoco_tests.txt

Reads refs pickles and grefs json; COCO and LVIS json; records with an image column or id (.json, .jsonl, .odgt, .csv,
.tsv, .parquet, .arrow); lists of names by split (FSC-147); parquet that our converters wrote; folders of images; other
lists (.txt). `--split` applies to entries that name their split; "test" includes testA and testB.

The list has identities (`coco:139`, `vg:2410408`) if a name has one. Otherwise it has whole URLs or file names with the
folders of the source, or plain ids, which are compared with a data set's own ids. `--collection coco` declares plain
numbers as COCO's. `a/b.jpg` matches `x/a/b.jpg` and a bare `b.jpg`, but not `c/b.jpg`; a bare `b.jpg` in the list
matches all.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from verl_visionr1.conversion.identity import (
    identity_of_name,
    normal_image_id,
    path_name,
    read_exclusion,
    without_comment,
)
from verl_visionr1.conversion.image_files import IMAGE_SUFFIXES, files_in
from verl_visionr1.conversion.referring import PICKLES, in_any_split
from verl_visionr1.conversion.sources import read_json, read_pickle, read_records
from verl_visionr1.conversion.values import record_of
from verl_visionr1.files import RowsError, write_whole
from verl_visionr1.rows import open_parquet, parquet_errors

NAMES = (
    *("file_name", "filename", "image_filename", "img_filename", "image_name", "image_path", "img_path", "filepath"),
    *("coco_url", "image_url", "url", "image", "img", "images", "path"),
)
"""Keys of an image's name in records, the likelier first."""
IDS = ("image_id", "img_id", "ImageID", "id", "ID")
"""Keys of an image's id in records; the last two are not used for records of questions."""
QUESTIONS = ("question", "problem", "conversations", "messages", "instruction", "prompt")
"""Keys that only records of questions have."""
COLLECTIONS = {"coco_id": "coco", "cocoid": "coco"}
"""Key -> the collection that its number belongs to."""
LISTS = ("images", "scenes", "annotations", "questions", "data")
"""Keys of the records in a JSON object; the first one present is used."""

_COPY = re.compile(r"_images/[0-9a-f]{20}\.\w+$")  # named by `images.prepare_image`
_LONGEST_NAME = 1000  # anything longer is an image in base64
Entry = tuple[str, ...]
"""One image: the names that identify it."""


def build(out: Path, sources: Sequence[Path], splits: Sequence[str] = (), collection: str = "") -> list[str]:
    """Write the list of all images of some files; return a summary line for each file.

    Raises:
        RowsError: a file that cannot be read, names no image, or has no entry of the splits.
    """
    if out.suffix != ".txt":
        raise RowsError(f"{out}: the list comes first; needs a name that ends in .txt")
    lines, written = [], set[str]()
    report = []
    for path in sources:
        seen_splits: dict[str, None] = {}
        entries = dict.fromkeys(_images_of(path, splits, collection, seen_splits))
        if not entries and seen_splits:
            raise RowsError(f"{path}: no entry of split {', '.join(splits)}; give one of {', '.join(seen_splits)}")
        if not entries:
            raise RowsError(f"{path}: it names no image; is it the right file?")
        new = sorted({name for entry in entries for name in entry} - written, key=_order)
        written.update(new)
        chosen = f" split {', '.join(splits)}" if splits and seen_splits else ""
        title = f"from {_title(path)}{chosen}: {len(entries)} images"
        lines += [f"# {title}", *map(_check_name, new)]
        report.append(f"{title}, {len(new)} lines")
    write_whole(out, "".join(f"{line}\n" for line in lines).encode())
    return report


def _title(path: Path) -> str:
    return " ".join(Path(os.path.abspath(path)).name.split())


def _images_of(path: Path, splits: Sequence[str], collection: str, seen_splits: dict[str, None]) -> Iterator[Entry]:
    """Yield the images of one file or folder; collect the splits that its entries name."""
    if path.is_dir():
        for name in files_in(path):
            known = identity_of_name(f"{_title(path)}/{name}")
            yield (known,) if known else _identify([name], [], collection)
        return
    if path.suffix.lower() == ".txt":
        for name in sorted(read_exclusion(path).ids, key=_order):
            yield _identify([name], [], "") if _is_image(name) else (name,)
        return
    for where, record in _valid_records(path):
        if isinstance(split := record.get("split"), str) and split:
            seen_splits[split] = None
            if not in_any_split(split, splits):
                continue
        yield _entry_of(record, where, collection)


def _valid_records(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for where, record in _records(path):
        record = record_of(record, where)
        if isinstance(extra := record.get("extra_info"), Mapping):  # our own rows
            record = {**record, **extra}
        yield where, record


def _entry_of(record: Mapping[str, Any], where: str, collection: str) -> Entry:
    names = [name for key in NAMES for name in _texts(record.get(key))]
    copies = [name for name in names if _COPY.search(name)]
    names = [name for name in names if name not in copies]
    keys = IDS[:-2] if any(key in record for key in QUESTIONS) else IDS
    ids = [str(record[key]) for key in keys if record.get(key) not in (None, "")]
    numbers = [f"{COLLECTIONS[key]}:{record[key]}" for key in COLLECTIONS if record.get(key) is not None]
    if "sent_ids" in record and ids:  # names in refer are not file names
        names = [name for name in names if identity_of_name(name)]
    entry = _identify(names, ids, collection, numbers)
    if not entry and copies:
        reason = f"the row does not name its image: {copies[0]} is a copy, named after its content"
        raise RowsError(f"{where}: {reason}; list the data set's own files instead")
    if not entry:
        reason = f"no image named under its keys {', '.join(sorted(record))[:80]}"
        raise RowsError(f"{where}: {reason}; needs file_name, image or image_id")
    return entry


def _identify(names: Sequence[str], ids: Sequence[str], collection: str, numbers: Sequence[str] = ()) -> Entry:
    """Return all identities in an image's names; else its URL or file name; else its id."""
    known = dict.fromkeys([*(identity for name in names if (identity := identity_of_name(name))), *numbers])
    if known:
        return tuple(known)
    if names:
        return (path_name(names[0]),)
    if not ids:
        return ()
    number = normal_image_id(ids[0])
    return (f"{collection}:{number}" if collection and number.isdigit() else number,)


def _texts(value: Any) -> list[str]:
    """Return the names in a value: a text, a dictionary with a path, or a list of those."""
    if isinstance(value, Mapping):
        value = value.get("path")
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME else []


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        yield from _numbered(path, read_pickle(path))
    elif suffix == ".json":
        yield from _read_json_records(path)
    elif suffix == ".parquet":
        yield from _read_parquet_records(path)
    else:
        yield from read_records(path)


def _numbered(path: Path, entries: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(entries, list):
        raise RowsError(f"{path}: needs a list, holds {type(entries).__name__}; is it the right file?")
    for number, entry in enumerate(entries):
        yield f"{path.name}: entry {number}", entry


def _read_json_records(path: Path) -> Iterator[tuple[str, Any]]:
    """Read a list of records, an object with one, or names by split or as keys; segmentations stay undecoded."""
    content = read_json(path, list[Any] | dict[str, msgspec.Raw])
    if isinstance(content, list):
        yield from _numbered(path, content)
    elif key := next((key for key in LISTS if key in content), None):
        yield from _numbered(path, msgspec.json.decode(content[key]))
    elif content and all(map(_is_image, content)):
        yield from _numbered(path, [{"file_name": name} for name in content])
    else:
        for split, raw in content.items():
            try:
                names = msgspec.json.decode(raw, type=list[str])
            except msgspec.ValidationError:
                reason = f"has neither {', '.join(LISTS)} nor lists of names, but {', '.join(content)[:80]}"
                raise RowsError(f"{path}: {reason}; is it the right file?") from None
            yield from _numbered(path, [{"split": split, "file_name": name} for name in names])


def _read_parquet_records(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the records, without the bytes of images."""
    wanted = {*NAMES, *IDS, *COLLECTIONS, "split", "sent_ids", "extra_info"}
    with open_parquet(path) as file, parquet_errors(path):
        leaves = [file.schema.column(i) for i in range(len(file.schema))]
        names = [leaf.path for leaf in leaves if leaf.path.split(".")[0] in wanted and not _is_bytes(leaf)]
        if not names:
            reason = f"no column names an image: it has {', '.join(file.schema_arrow.names)}"
            raise RowsError(f"{path}: {reason}; rename the image's column to {NAMES[0]}")
        rows = (row for batch in file.iter_batches(columns=names) for row in batch.to_pylist())
        for number, row in enumerate(rows):
            yield f"{path.name}: entry {number}", row


def _is_bytes(leaf: Any) -> bool:
    return leaf.physical_type == "BYTE_ARRAY" and leaf.logical_type.type != "STRING"


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def _order(name: str) -> tuple[str, int, str]:
    collection, _, number = name.rpartition(":")
    return collection, int(number) if number.isdecimal() else -1, name


def _check_name(name: str) -> str:
    is_text = name.encode(errors="ignore").decode() == name  # names in a folder may be no UTF-8
    if not is_text or without_comment(name) != name or len(name.splitlines()) != 1:
        raise RowsError(f"{name!r}: a list would read this name differently; rename the file")
    return name


def main(
    out: Annotated[Path, typer.Argument(help="List to write, <name>.txt.", show_default=False)],
    files: Annotated[list[Path], typer.Argument(help="Evaluation files, or folders of images.", show_default=False)],
    split: Annotated[
        list[str] | None, typer.Option(help="Only entries of this split; repeat the flag for more.")
    ] = None,
    collection: Annotated[str, typer.Option(help="Collection that plain numbers belong to: coco, vg.")] = "",
) -> None:
    """List the images of evaluation files, for --exclude-image-ids of the converters.

    Example: visionr1 convert exclusion tests.txt "refs(unc).p" --split val --split testA --split testB
    """
    try:
        lines = build(out, files, split or (), collection)
    except RowsError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    for line in lines:
        typer.echo(line)
    typer.echo(f"list: {out}")
