"""Check the image of each row: present, readable, upright, and of the size in the ground truth."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from verl_visionr1.files import RowError
from verl_visionr1.images import EmbeddedImage, read_size
from verl_visionr1.tools.doctor.problems import Problem, Severity
from verl_visionr1.tools.doctor.samples import Sample
from verl_visionr1.tools.doctor.truth import problem_of

_HEAD = 1 << 16  # bytes at the start and end of a file that identify it

CONVERT_UPRIGHT = "convert it with `visionr1 convert` (and its width and height), which copies it upright"
KINDS = {"image file missing": "no such image", "image unreadable": "unreadable image"}
"""Kind of error in `prepare_image` -> kind of problem."""


class Seen(NamedTuple):
    """The result of inspecting an image file."""

    size_wh: tuple[int, int] | None
    orientation: int
    error: RowError | None
    digest: str


def inspect_image(image: str | bytes) -> Seen:
    """Read size, orientation and digest of an image, from path or bytes; pixels are not decoded."""
    if isinstance(image, str):
        return _seen_file(image)
    return _seen(EmbeddedImage("embedded image", image), _digest(len(image), image[:_HEAD], image[-_HEAD:]))


@lru_cache(maxsize=200_000)
def _seen_file(path: str) -> Seen:
    try:
        with open(path, "rb") as file:
            head, length = file.read(_HEAD), os.fstat(file.fileno()).st_size
            file.seek(-min(length, _HEAD), os.SEEK_END)
            digest = _digest(length, head, file.read())
    except (OSError, ValueError):  # ValueError: an invalid name
        digest = ""
    return _seen(path, digest)


def _seen(image: str | EmbeddedImage, digest: str) -> Seen:
    try:
        size_wh, orientation = read_size(image)
    except RowError as error:
        return Seen(None, 1, error, digest)
    return Seen(size_wh, orientation, None, digest)


def _digest(length: int, head: bytes, tail: bytes) -> str:
    """Return a digest that is equal only for copies of a file."""
    return hashlib.blake2b(b"%d:%b%b" % (length, head, tail), digest_size=16).hexdigest()


def picture_problems(sample: Sample) -> Iterator[Problem]:
    """Yield problems of one row's images. `parquet` reports missing files of our own rows."""
    is_ours = sample.target is not None or bool(sample.truth_error)
    for i, image in enumerate(sample.images):
        name = image if isinstance(image, str) else "embedded image"
        if isinstance(image, str) and not os.path.exists(image):
            if not is_ours:
                reason = f"image {image[:300]!r}: no such file; check the folder of the images"
                yield problem_of(sample, "no such image", reason)
            continue
        found = inspect_image(image)
        if found.error is not None:
            yield problem_of(sample, KINDS.get(found.error.kind, found.error.kind), str(found.error))
        elif found.orientation != 1:
            reason = f"{name}: has EXIF orientation {found.orientation}, which verl ignores"
            severity = Severity.ERROR if is_ours else Severity.WARNING
            yield problem_of(sample, "rotated image", f"{reason}; {CONVERT_UPRIGHT}", severity)
        elif i == sample.image_index and sample.size_wh is not None and found.size_wh != sample.size_wh:
            reason = f"{name}: size is {found.size_wh}, but {sample.size_wh} in the row"
            advice = "its boxes are in another frame: convert it again from the images that were annotated"
            yield problem_of(sample, "another size", f"{reason}; {advice}")
