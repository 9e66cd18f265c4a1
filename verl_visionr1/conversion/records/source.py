"""Files of records and their layout, and a survey that checks their columns before any row is made."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from verl_visionr1.conversion.image_files import ImageKeys, embedded_image, require_images
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.records.fields import Entry, Layout
from verl_visionr1.conversion.sources import files_of, read_csv, read_records
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.images import EmbeddedImage

KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")


@dataclass(frozen=True, slots=True)
class RecordSource:
    """Some files of one layout."""

    files: tuple[Path, ...]
    layout: Layout
    images_dir: Path  # that image names are relative to
    is_given: bool = True  # the user named it: absolute names are searched in it, too
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
        folder = source / split if split and (source / split).is_dir() else source
        files = sorted(path for path in folder.glob("metadata.*") if path.suffix in (".jsonl", ".csv", ".parquet"))
        if not files:
            found = files_of(folder, KINDS, split)
            files = [path for path in found if path.suffix.lower() in (".parquet", ".arrow")] or found
        folder = folder if source.is_dir() else source.parent
        if not layout.class_names and "label" in layout.columns:
            layout = replace(layout, class_names=names_in_parquet(files[0], layout.columns["label"]))
        return RecordSource(tuple(files), layout, images_dir or folder, images_dir is not None)

    @property
    def name(self) -> str:
        """The names of the files, for messages."""
        return ", ".join(path.name for path in self.files)

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
        from verl_visionr1.rows import read_rows, schema_of

        names = schema_of(path).names
        heavy = {self.layout.columns.get("image", "").partition(".")[0], "image", "images"} & set(names)
        for number, record in enumerate(read_rows(path, columns=[name for name in names if name not in heavy])):
            yield f"{path.name}: row {number}", {**dict.fromkeys(heavy), **record}

    def entries(
        self,
        ledger: Ledger,
        split: str = "",
        *,
        with_images: bool = True,
        on_bad: Callable[[Entry], None] = lambda entry: None,
    ) -> Iterator[tuple[int, Entry]]:
        """Yield (number of the record, entry) of all good records of a split; the others go to the ledger.

        Args:
            split: of records with a split; "": all.
            on_bad: called with a record that has invalid values.
        """
        for number, (where, record) in enumerate(self.records(with_images=with_images)):
            with ledger.skipping():
                entry = self.layout.entry(where, record)
                if entry.left_out:
                    ledger.left_out[entry.left_out] += 1
                    continue
                try:
                    entry.check(self.layout)
                except RowError:
                    on_bad(entry)
                    raise
                if split and entry.split and entry.split != split:
                    ledger.left_out[f"row of split {entry.split} (--split)"] += 1
                    continue
                ledger.notes.update(entry.notes)
                yield number, entry

    def image_in(self, image: Any, where: str) -> Path | EmbeddedImage:
        """Return the image of a record's value; `RowError` if there is none, or one outside the folder."""
        name = image.get("path") if isinstance(image, dict) else image
        is_there = isinstance(name, str) and os.path.isabs(name) and not self.is_given
        return embedded_image(image, where, None if is_there else self.images_dir)

    def image_key(self, entry: Entry) -> str:
        """Return a key that all records of one image share, in any spelling of its name.

        For embedded images it is a digest of the bytes: their `path` is not reliable, since tools write `image.png` for
        all. For a missing image it is the place of the record.
        """
        data = entry.image.get("bytes") if isinstance(entry.image, dict) else entry.image
        if isinstance(data, bytes) and data:
            return f"sha256:{hashlib.sha256(data).hexdigest()}"
        key = entry.file_name or entry.where
        if key not in self._key_of:
            self._key_of[key] = key
            with suppress(RowError):  # reported when the image is used
                image = self.image_in(entry.image, entry.where)
                self._key_of[key] = self._keys.key(key, image) if isinstance(image, Path) else key
        return self._key_of[key]


def survey(source: RecordSource) -> tuple[str, ...]:
    """Read all records once; return the labels of a vocabulary, sorted, or all of `--class-names`.

    Raises `RowsError`: a column that no record has. RowError: no label, and an unreadable record.
    """
    seen: set[str] = set()
    labels: set[str] = set()
    error: RowError | None = None
    for where, record in source.records(with_images=False):
        if isinstance(record, dict):
            seen.update(map(str, record))
            if source.layout.is_vocabulary:
                try:
                    entry = source.layout.entry(where, record)
                    entry.check(source.layout)
                    labels.update(entry.label)
                except RowError as bad:  # reported when it is converted
                    error = error or bad
    missing = source.layout.missing(seen)
    if missing is not None and seen:
        has = f"it has {', '.join(sorted(seen))}"
        raise RowsError(f"{source.name}: no column {missing!r}; {has}; correct --column or --preset")
    names = source.layout.class_names or tuple(sorted(labels))
    if error is not None and not names:
        raise error
    return names


def names_in_parquet(path: Path, column: str) -> tuple[str, ...]:
    """Return the names of the numbers in a (dotted) column, from Hugging Face's metadata (ClassLabel); else ()."""
    from verl_visionr1.rows import open_parquet

    if path.suffix.lower() != ".parquet":
        return ()
    with open_parquet(path) as parquet:
        metadata = parquet.schema_arrow.metadata or {}
    try:
        feature: Any = msgspec.json.decode(metadata[b"huggingface"])["info"]["features"]
        for part in column.split("."):
            feature = feature["feature"] if "feature" in feature and part not in feature else feature
            feature = (feature[0] if isinstance(feature, list) else feature)[part]
        while "names" not in feature:
            feature = feature[0] if isinstance(feature, list) else feature["feature"]
        return tuple(map(str, feature["names"]))
    except (KeyError, TypeError, IndexError, UnicodeDecodeError, msgspec.DecodeError):
        return ()
