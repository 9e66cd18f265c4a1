"""Files of records and their layout, and a survey that checks their columns before any row is made."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from verl_visionr1.conversion.image_files import ImageKeys, embedded_image, require_images
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.records.fields import Entry, Fields, Layout, entry_of
from verl_visionr1.conversion.sources import files_of, read_csv, read_records
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.images import EmbeddedImage

KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
_TABLES = (".parquet", ".arrow")
_METADATA = re.compile(r"metadata\.(?:jsonl|csv|parquet)")


@dataclass(frozen=True, slots=True)
class RecordSource:
    """Some files of one layout.

    Attributes:
        images_dir: folder that image names are relative to.
        is_given: whether the user named it; then absolute names are searched in it, too.
    """

    files: tuple[Path, ...]
    layout: Layout
    images_dir: Path
    is_given: bool = True
    _key_of: dict[str, str] = field(default_factory=dict, repr=False)
    _keys: ImageKeys = field(default_factory=ImageKeys, repr=False)

    @staticmethod
    def found(source: Path, layout: Layout, images_dir: Path | None, split: str) -> RecordSource:
        """Find the files of a path: a file, an imagefolder (`metadata.*` in it or in its split's folder), or a folder.

        In a folder with parquet or arrow files, all other files are ignored as metadata.

        Raises:
            RowsError: no such file, or no such folder of images.
        """
        if images_dir is not None:
            require_images(images_dir, "--images-dir")
        folder = source
        if source.is_dir():
            folder = source / split if split and (source / split).is_dir() else source
            metadata = sorted(path for path in folder.iterdir() if _METADATA.fullmatch(path.name))
            found = metadata or files_of(folder, KINDS, split)
            files = metadata or [path for path in found if path.suffix.lower() in _TABLES] or found
        else:
            files, folder = files_of(source, KINDS), source.parent
        if not layout.class_names and "label" in layout.columns:
            layout = replace(layout, class_names=names_in_parquet(files[0], layout.columns["label"]))
        return RecordSource(tuple(files), layout, images_dir or folder, images_dir is not None)

    def records(self, *, with_images: bool = True) -> Iterator[tuple[str, Any]]:
        """Yield (place, record or its error); without images if that saves reading them."""
        for path in self.files:
            if self.layout.header:
                for number, record in read_csv(path, self.layout.header):
                    yield f"{path.name}: line {number}", record
            elif path.suffix.lower() == ".parquet" and not with_images:
                yield from self._without_images(path)
            else:
                yield from read_records(path)

    def _without_images(self, path: Path) -> Iterator[tuple[str, Any]]:
        from verl_visionr1.rows import open_parquet, read_rows

        with open_parquet(path) as parquet:
            names = parquet.schema_arrow.names
        image = self.layout.columns.get("image", "").partition(".")[0]
        heavy = {image, *self.layout.image_columns}
        columns = [name for name in names if name not in heavy]
        for number, record in enumerate(read_rows(path, columns=columns)):
            yield f"{path.name}: row {number}", {**dict.fromkeys(heavy & set(names)), **record}

    def entries(
        self,
        ledger: Ledger,
        split: str = "",
        *,
        with_images: bool = True,
        on_bad: Callable[[str, Fields], None] | None = None,
    ) -> Iterator[tuple[int, Entry]]:
        """Yield (number of the record, entry) of all good records of a split; the others go to the ledger.

        Args:
            split: of records with a split; "": all.
            on_bad: called with the place and fields of a record with invalid values.
        """
        for number, (where, record) in enumerate(self.records(with_images=with_images)):
            made = None
            try:
                made = self.layout.fields(where, record)
                if made.left_out:
                    ledger.left_out[made.left_out] += 1
                    continue
                entry = entry_of(where, made, self.layout)
            except RowError as error:
                ledger.skip(error)
                if made is not None and on_bad is not None:
                    on_bad(where, made)
                continue
            if split and entry.split and entry.split != split:
                ledger.left_out[f"row of split {entry.split} (--split)"] += 1
                continue
            for note in made.notes:
                ledger.notes[note] += 1
            yield number, entry

    def image_in(self, value: Any, where: str) -> Path | EmbeddedImage:
        """Return the image of a record's value, also in a list of one.

        Raises:
            RowError: no image, or one outside the folder.
        """
        value = value[0] if isinstance(value, list) and value else value
        name = value.get("path") if isinstance(value, dict) else value
        is_there = isinstance(name, str) and os.path.isabs(name) and not self.is_given
        return embedded_image(value, where, None if is_there else self.images_dir)

    def image_key(self, value: Any, where: str) -> str:
        """Return a key that all records of one image share, in any spelling of its name.

        For embedded images it is a digest of the bytes: their `path` is not reliable, since tools write `image.png` for
        all.

        Args:
            where: the key of a missing image.
        """
        image = value[0] if isinstance(value, list) and value else value
        data = image.get("bytes") if isinstance(image, Mapping) else image
        if isinstance(data, bytes) and data:
            return f"sha256:{hashlib.sha256(data).hexdigest()}"
        name = image.get("path") if isinstance(image, Mapping) else image
        key = name if isinstance(name, str) and name else where
        if key not in self._key_of:
            self._key_of[key] = key
            with suppress(RowError):  # reported when the image is used
                image = self.image_in(value, where)
                self._key_of[key] = self._keys.key(key, image) if isinstance(image, Path) else key
        return self._key_of[key]


# ---------------------------------------------------------------------------------------------- survey


def survey(source: RecordSource) -> tuple[str, ...]:
    """Read all records once; return the labels of a vocabulary, sorted, or all of `--class-names`.

    Raises:
        RowsError: a column that no record has. RowError: no label, and an unreadable record.
    """
    seen: set[str] = set()
    labels: set[str] = set()
    error: RowError | None = None
    for where, record in source.records(with_images=False):
        if isinstance(record, dict):
            seen.update(map(str, record))
            if source.layout.is_vocabulary:
                try:
                    labels.update(entry_of(where, source.layout.fields(where, record), source.layout).labels)
                except RowError as bad:  # reported when it is converted
                    error = error or bad
    missing = source.layout.missing(seen)
    if missing is not None and seen:
        name = ", ".join(path.name for path in source.files)
        raise RowsError(
            f"{name}: no column {missing!r}; it has {', '.join(sorted(seen))}; correct --column or --preset"
        )
    names = source.layout.class_names or tuple(sorted(labels))
    if error is not None and not names:
        raise error
    return names


def names_in_parquet(path: Path, column: str) -> tuple[str, ...]:
    """Return the names of a column's numbers from Hugging Face's metadata (ClassLabel); else ().

    Args:
        column: dotted name.
    """
    import pyarrow.parquet as pq

    if path.suffix.lower() != ".parquet":
        return ()
    metadata = pq.read_schema(path).metadata or {}
    try:
        feature: Any = msgspec.json.decode(metadata[b"huggingface"])["info"]["features"]
        for part in column.split("."):
            feature = feature["feature"] if "feature" in feature and part not in feature else feature
            feature = (feature[0] if isinstance(feature, list) else feature)[part]
        while "names" not in feature:
            feature = feature[0] if isinstance(feature, list) else feature["feature"]
        return tuple(map(str, feature["names"]))
    except (KeyError, TypeError, IndexError, msgspec.DecodeError):
        return ()
