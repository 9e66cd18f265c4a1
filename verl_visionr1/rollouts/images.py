"""Find the image of a rollout: named by its row, or in the matching row of the training data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from verl_visionr1.rollouts.finding import DIGEST, Finder
from verl_visionr1.rollouts.records import Counts, OnError, Rollout
from verl_visionr1.rollouts.training_rows import read_training_rows
from verl_visionr1.rows import open_parquet

Key = str | tuple[int, int, int]
"""A path; or numbers of a file of the training data, of the row in it, and of its embedded image."""


class ImageFinder:
    """Finds the images of rollouts by their rows, else in the training data.

    Args:
        data: parquet files of the training data.
    """

    def __init__(self, data: Sequence[Path], on_error: OnError = "skip") -> None:
        rows = [read_training_rows([file], on_error=on_error, counts=Counts()) for file in data]
        self._finders = [(number, Finder(one)) for number, one in enumerate(rows) if len(one)]

    def find(self, rollout: Rollout) -> set[Key]:
        """Find the image of a rollout; several if several rows of the data match."""
        own, index = own_path(rollout), rollout.target.image or 0
        if own is not None:
            return {own}
        keys: set[Key] = set()
        for number, finder in self._finders:
            for prompt in finder.prompts_of(rollout) or ():
                row = int(np.argmax(finder.rows.prompts == prompt))
                name = finder.rows.image_names[finder.rows.images[row]]
                if name is None or name.startswith(DIGEST):
                    keys.add((number, row, index))
                else:
                    keys.add(_named(name, index))
        return keys


def embedded_images(file: Path, places: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, bytes]]:
    """Yield (row, index, bytes) of some images in order of rows, reading only the needed parts of the file."""
    indices = defaultdict[int, list[int]](list)
    for row, index in sorted(places):
        indices[row].append(index)
    with open_parquet(file) as parquet:
        start = 0
        for group in range(parquet.num_row_groups if "images" in parquet.schema_arrow.names else 0):
            stop = start + parquet.metadata.row_group(group).num_rows
            here = [row for row in indices if start <= row < stop]
            column = parquet.read_row_group(group, columns=["images"])["images"] if here else []
            for row in here:
                images = column[row - start].as_py() or []
                for index in indices[row]:
                    image = images[index] if index < len(images) else None
                    if isinstance(image, Mapping) and isinstance(image.get("bytes"), bytes):
                        yield row, index, image["bytes"]
            start = stop


def find_image(rollout: Rollout, data: Sequence[Path]) -> tuple[Path | bytes | None, str]:
    """Find the image of one rollout.

    Args:
        rollout: the rollout, with `file` and `number`.
        data: parquet files of the training data.

    Returns:
        (file or bytes, ""), or (None, reason).
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
