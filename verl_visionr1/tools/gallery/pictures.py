"""The image of each prompt, small: found by its path in the dump, or by the row of the training data."""

from __future__ import annotations

import base64
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, features

from verl_visionr1.files import RowsError
from verl_visionr1.images import FORMATS
from verl_visionr1.rollouts.finding import Finder
from verl_visionr1.rollouts.records import Counts, Rollout
from verl_visionr1.rollouts.training_rows import read_training_rows
from verl_visionr1.rows import open_parquet
from verl_visionr1.targets import NO_IMAGE
from verl_visionr1.tools.gallery.settings import Settings

NONE = -1
"""Stands for the picture of a prompt that has none."""
QUALITY = 78
_DIGEST = "sha256:"
_KIND = "WEBP" if features.check("webp") else "JPEG"
_OPTIONS = {"method": 2} if _KIND == "WEBP" else {}  # four times as fast as the default, and as small

Key = str | tuple[int, int, int]
"""A path; or the number of a file of the training data, of the row in it, and of the image embedded there."""


class _Data:
    """One file of the training data."""

    def __init__(self, number: int, file: Path, settings: Settings) -> None:
        self.number = number
        self.file = file
        self.rows = read_training_rows([file], on_error=settings.on_error, counts=Counts())
        self._finder = Finder(self.rows) if len(self.rows) else None
        self._first_rows = np.unique(self.rows.prompts, return_index=True)[1]

    def keys_of(self, rollout: Rollout) -> set[Key]:
        """The images of the rows that a rollout may be of: of several in a row, the one its ground truth is about."""
        prompts = self._finder.prompts_of(rollout) if self._finder is not None else None
        index = rollout.target.image or 0
        return {self._key(int(self._first_rows[prompt]), index) for prompt in prompts or ()}

    def _key(self, row: int, index: int) -> Key:
        name = self.rows.image_names[self.rows.images[row]]
        return (self.number, row, index) if name is None or name.startswith(_DIGEST) else _named(name, index)

    def embedded(self, places: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, bytes]]:
        """(row, index, bytes) of some images, in order of rows: only the parts of the file that hold them are read."""
        indices = defaultdict[int, list[int]](list)
        for row, index in places:
            indices[row].append(index)
        wanted = np.asarray(sorted(indices))
        with open_parquet(self.file) as parquet:
            start = 0
            for group in range(parquet.num_row_groups):
                stop = start + parquet.metadata.row_group(group).num_rows
                here = wanted[(wanted >= start) & (wanted < stop)]
                if len(here):
                    column = parquet.read_row_group(group, columns=["images"])["images"]
                    for row in here.tolist():
                        images = column[row - start].as_py()
                        for index in indices[row]:
                            image = _bytes_in(images, index)
                            if image is not None:
                                yield row, index, image
                start = stop


class Pictures:
    """Numbers the images that are asked for; `encoded` reads each of them once.

    Attributes:
        n_left_out: prompts whose image came after `Settings.max_images` others.
        n_unknown: prompts whose image is not known.
        unreadable: why images could not be read.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.n_left_out = self.n_unknown = 0
        self.unreadable: list[str] = []
        self._numbers: dict[Key, int] = {}
        self._data = [_Data(number, file, settings) for number, file in enumerate(settings.data)]

    def number_of(self, rollout: Rollout) -> int:
        """Number of the picture of a rollout's prompt, or `NONE`."""
        if tuple(rollout.target.size_wh) == NO_IMAGE:
            return NONE
        key = _own_path(rollout)
        if key is None:
            key = self._found(rollout)
        if key is None:
            self.n_unknown += 1
            return NONE
        if key not in self._numbers and len(self._numbers) >= self.settings.max_images:
            self.n_left_out += 1
            return NONE
        return self._numbers.setdefault(key, len(self._numbers))

    def _found(self, rollout: Rollout) -> Key | None:
        """The image of the rows that a rollout may be of, where they all have one and the same."""
        keys = set[Key]().union(*(data.keys_of(rollout) for data in self._data))
        return keys.pop() if len(keys) == 1 else None

    def encoded(self) -> list[str]:
        """The pictures as data URLs, in the order of their numbers; "" for one that cannot be read."""
        found = [""] * len(self._numbers)
        for key, number in self._numbers.items():
            if isinstance(key, str):
                found[number] = self._encode(Path(key), key)
        known: dict[bytes, str] = {}  # rows of one image hold it each
        for data in self._data:
            places = [key[1:] for key in self._numbers if isinstance(key, tuple) and key[0] == data.number]
            for row, index, image in data.embedded(places) if places else ():
                digest = hashlib.blake2b(image, digest_size=16).digest()
                if digest not in known:
                    known[digest] = self._encode(io.BytesIO(image), f"{data.file}: row {row}")
                found[self._numbers[data.number, row, index]] = known[digest]
        return found

    def _encode(self, source: Path | io.BytesIO, name: str) -> str:
        try:
            return encoded_picture(source, self.settings.side)
        except RowsError as error:
            self.unreadable.append(f"{name}: {error}")
            return ""


def encoded_picture(source: Path | io.BytesIO, side: int) -> str:
    """An image as a small upright picture in a data URL.

    Args:
        side: its longer side in pixels, at most.

    Raises:
        RowsError: it cannot be read.
    """
    try:
        with Image.open(source, formats=FORMATS) as image:
            image.draft("RGB", (side, side))
            picture = ImageOps.exif_transpose(image).convert("RGB")
            picture.thumbnail((side, side), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            picture.save(buffer, _KIND, quality=QUALITY, **_OPTIONS)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise RowsError(f"no image that can be read ({error})") from None
    return f"data:image/{_KIND.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _own_path(rollout: Rollout) -> str | None:
    """The file that a row names as the image its ground truth is about, where it is there."""
    name = _named(rollout.image or "", rollout.target.image or 0).removeprefix("file://")
    if not name or name.startswith(_DIGEST) or "\0" in name:
        return None
    for path in (Path(name), Path(rollout.file).parent / name):
        try:
            if path.is_file():
                return str(path)
        except OSError:  # a name that no file can have
            return None
    return None


def _named(names: str, index: int) -> str:
    """One of the images that `image_name` tells of; "" where there are fewer."""
    return dict(enumerate(names.split("\n"))).get(index, "")


def _bytes_in(images: Any, index: int) -> bytes | None:
    image = images[index] if images and index < len(images) else None
    data = image.get("bytes") if isinstance(image, Mapping) else None
    return data if isinstance(data, bytes) else None
