"""Find the image of a rollout: named by its row, or in the matching row of the training data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from verl_visionr1.rollouts.finding import Finder
from verl_visionr1.rollouts.records import Counts, OnError, Rollout
from verl_visionr1.rollouts.training_rows import read_training_rows
from verl_visionr1.rows import open_parquet

DIGEST = "sha256:"
"""Prefix of the name of an embedded image."""

Key = str | tuple[int, int, int]
"""A path; or numbers of a file of the training data, of the row in it, and of its embedded image."""


class ImageFinder:
    """Finds the images of rollouts by their rows, else in the training data.

    Args:
        data: parquet files of the training data.

    Raises:
        RowsError: a file that cannot be read.
    """

    def __init__(self, data: Sequence[Path], on_error: OnError = "skip") -> None:
        self._files = [_DataFile(number, file, on_error) for number, file in enumerate(data)]

    def find(self, rollout: Rollout) -> set[Key]:
        """Find the image of a rollout; several if several rows of the data match."""
        own = own_path(rollout)
        return {own} if own is not None else set[Key]().union(*(file.keys_of(rollout) for file in self._files))


class _DataFile:
    """One file of the training data."""

    def __init__(self, number: int, file: Path, on_error: OnError) -> None:
        self._number = number
        self._rows = read_training_rows([file], on_error=on_error, counts=Counts())
        self._finder = Finder(self._rows) if len(self._rows) else None
        self._first_rows = np.unique(self._rows.prompts, return_index=True)[1]

    def keys_of(self, rollout: Rollout) -> set[Key]:
        """Images of the rows that match a rollout; of several in a row, the one of its ground truth."""
        prompts = self._finder.prompts_of(rollout) if self._finder is not None else None
        index = rollout.target.image or 0
        return {self._key(int(self._first_rows[prompt]), index) for prompt in prompts or ()}

    def _key(self, row: int, index: int) -> Key:
        name = self._rows.image_names[self._rows.images[row]]
        return (self._number, row, index) if name is None or name.startswith(DIGEST) else _named(name, index)


def embedded_images(file: Path, places: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, bytes]]:
    """Yield (row, index, bytes) of some images in order of rows, reading only the needed parts of the file.

    Raises:
        RowsError: the file cannot be read.
    """
    indices = defaultdict[int, list[int]](list)
    for row, index in places:
        indices[row].append(index)
    wanted = np.asarray(sorted(indices))
    with open_parquet(file) as parquet:
        start = 0
        for group in range(parquet.num_row_groups):
            stop = start + parquet.metadata.row_group(group).num_rows
            here = wanted[(wanted >= start) & (wanted < stop)]
            if len(here) and "images" in parquet.schema_arrow.names:
                column = parquet.read_row_group(group, columns=["images"])["images"]
                for row in here.tolist():
                    images = column[row - start].as_py()
                    for index in indices[row]:
                        image = _bytes_in(images, index)
                        if image is not None:
                            yield row, index, image
            start = stop


def find_image(rollout: Rollout, data: Sequence[Path]) -> tuple[Path | bytes | None, str]:
    """Find the image of one rollout.

    Args:
        rollout: the rollout, with `file` and `number`.
        data: parquet files of the training data.

    Returns:
        (file or bytes, ""), or (None, reason).

    Raises:
        RowsError: a file of the data that cannot be read.
    """
    index = rollout.target.image or 0
    if rollout.file.endswith(".parquet"):
        for *_, image in embedded_images(Path(rollout.file), [(rollout.number, index)]):
            return image, ""
    keys = ImageFinder(data).find(rollout)
    if not keys and not data:
        named = f"its image {rollout.image!r} does not exist" if rollout.image else "the row names no image"
        return None, f"{named}; give --data DATA.parquet to find it, or --image FILE"
    if len(keys) != 1:
        found = f"{len(keys)} rows" if keys else "no row"
        return None, f"{found} of {', '.join(map(str, data))} match; give --image FILE"
    key = keys.pop()
    if isinstance(key, str):
        return Path(key), ""
    return next(image for *_, image in embedded_images(data[key[0]], [key[1:]])), ""


def own_path(rollout: Rollout) -> str | None:
    """The image file that a row names for its ground truth, if it exists."""
    name = _named(rollout.image or "", rollout.target.image or 0).removeprefix("file://")
    if not name or name.startswith(DIGEST) or "\0" in name:
        return None
    for path in (Path(name), Path(rollout.file).parent / name):
        try:
            if path.is_file():
                return str(path)
        except OSError:  # an invalid file name
            return None
    return None


def _named(names: str, index: int) -> str:
    """One of the images in an `image_name`; "" if there are fewer."""
    return dict(enumerate(names.split("\n"))).get(index, "")


def _bytes_in(images: Any, index: int) -> bytes | None:
    image = images[index] if images and index < len(images) else None
    data = image.get("bytes") if isinstance(image, Mapping) else None
    return data if isinstance(data, bytes) else None
