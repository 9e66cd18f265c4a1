"""The files of `refer` (RefCOCO/+/g, gRefCOCO, RefClef): refs, which name annotations, and instances, which hold them.

refs(unc).p is a pickle of a list of refs, as Python 2 wrote it; gRefCOCO's grefs(unc).json is the same as JSON.
instances.json has COCO's layout; its ids are those of COCO train2014. A bad entry raises an error when it is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from verl_visionr1.conversion.coco_json import decoded
from verl_visionr1.conversion.sources import read_json, read_pickle
from verl_visionr1.conversion.vocabulary import Key, key_of
from verl_visionr1.files import RowError, RowsError

PICKLES = (".p", ".pkl", ".pickle")
"""Suffixes of pickles."""
_REF_NAME = re.compile(r"(COCO_[a-z]+20\d\d_\d{12})_\d+(?=\.)")
_MATCH = "do the files match?"
_SPLIT_NAMES = {"validation": "val", "valid": "val"}


class Sentence(msgspec.Struct):
    """One expression: `sent` is cleaned (lower case, no punctuation), `raw` is as typed."""

    sent: str | None = None
    raw: str | None = None
    sent_id: Key = None

    @property
    def text(self) -> str:
        """The expression, or ""."""
        return (self.sent or self.raw or "").strip()


class Ref(msgspec.Struct):
    """One object and its expressions. gRefCOCO: several objects, or none (-1); only some copies have `no_target`.

    `file_name` is not the image's: it ends in `_<number>`.
    """

    image_id: int | str
    sentences: list[Sentence]
    split: str = ""
    ann_id: int | str | list[int | str] | None = None
    ref_id: Key = None
    file_name: str = ""
    no_target: bool | None = None

    @property
    def annotations(self) -> list[str]:
        """Keys of its annotations, each once, in their order."""
        ids = self.ann_id if isinstance(self.ann_id, list) else [self.ann_id]
        return list(dict.fromkeys(key for key in map(key_of, ids) if key is not None))

    @property
    def is_empty(self) -> bool:
        """Whether it refers to no object."""
        return self.annotations == ["-1"] or (not self.annotations and bool(self.no_target))


_DECODE_REF = msgspec.json.Decoder(Ref).decode


class Annotation(msgspec.Struct, gc=False):
    """An entry of `annotations`; `bbox` is x, y, width, height in pixels."""

    id: Any = None
    image_id: Any = None
    bbox: Any = None
    iscrowd: Any = 0


class InstancesImage(msgspec.Struct, gc=False):
    """An entry of `images`."""

    id: Any = None
    file_name: Any = None
    width: Any = None
    height: Any = None

    def name(self, where: str) -> str:
        """Its file name. Raises RowError if it has none."""
        if not isinstance(self.file_name, str) or not self.file_name:
            reason = f"image {self.id} has file_name {self.file_name!r}"
            raise RowError("image without file_name", f"{where}: {reason}; correct it")
        return self.file_name


class Instances(msgspec.Struct):
    """instances.json; segmentations are never decoded."""

    images: list[InstancesImage]
    annotations: list[Annotation]


class Index:
    """Images and annotations by their ids. Raises RowsError for an id that appears twice."""

    def __init__(self, instances: Instances) -> None:
        self._images = {key_of(entry.id): entry for entry in instances.images}
        self._annotations = {key_of(entry.id): entry for entry in instances.annotations}
        n_ids = len(self._images) + len(self._annotations)
        if n_ids < len(instances.images) + len(instances.annotations):
            raise RowsError("instances: an id of an image or annotation appears twice; fetch the file again")

    def find(self, ref: Ref, where: str) -> tuple[InstancesImage, list[Annotation]]:
        """Return the image of a ref, and its annotations; RowError if one is missing or belongs to another image."""
        image = self._images.get(key_of(ref.image_id))
        if image is None:
            raise RowError("unknown image_id", f"{where}: image_id {ref.image_id} is not in the instances; {_MATCH}")
        found = []
        for key in ref.annotations if not ref.is_empty else ():
            annotation = self._annotations.get(key)
            if annotation is None:
                raise RowError("unknown ann_id", f"{where}: ann_id {key} is not in the instances; {_MATCH}")
            if key_of(annotation.image_id) != key_of(ref.image_id):
                reason = f"ann_id {key} is on image {annotation.image_id}, the ref on image {ref.image_id}"
                raise RowError("annotation of another image", f"{where}: {reason}; {_MATCH}")
            found.append(annotation)
        return image, found


def ref_of(entry: Any, where: str) -> Ref:
    """Decode the ref of an entry. Raises RowError if it is malformed."""
    is_json = isinstance(entry, msgspec.Raw)
    return decoded(_DECODE_REF if is_json else partial(msgspec.convert, type=Ref), entry, where)


def read_referring(path: Path) -> list[Any] | Instances:
    """Read a file of refs (a list, with undecoded entries) or of instances (an object), recognized by its content.

    Raises:
        RowsError: unreadable, neither of the two, or a pickle of more than plain values.
    """
    if path.suffix.lower() not in PICKLES:
        return read_json(path, list[msgspec.Raw] | Instances)
    content = read_pickle(path)
    if not isinstance(content, list):
        raise RowsError(f"{path}: needs a list of refs, holds {type(content).__name__}; is it the right file?")
    return content


def in_split(found: str, wanted: str) -> bool:
    """Whether an entry of the split `found` belongs to the split `wanted`.

    As in refer's own reader: "test" includes all test splits, and testA and testB include testAB.

    >>> in_split("testAB", "testA"), in_split("testB", "test"), in_split("testB", "testA")
    (True, True, False)
    >>> in_split("val", "validation"), in_split("train", "val")
    (True, False)
    """
    found, wanted = _SPLIT_NAMES.get(found, found), _SPLIT_NAMES.get(wanted, wanted)
    if found == wanted:
        return True
    if not found.startswith("test"):
        return False
    return wanted == "test" or (wanted in ("testA", "testB", "testC") and wanted[-1] in found[4:])


def in_any_split(found: str, wanted: Iterable[str]) -> bool:
    """As `in_split`, for several splits; without any, every split is wanted."""
    return not (wanted := list(wanted)) or any(in_split(found, split) for split in wanted)


def image_name(file_name: str) -> str:
    """Return the name of the image file for a name in refs, which ends in a ref number.

    >>> image_name("COCO_train2014_000000581857_16.jpg"), image_name("a_16.jpg")
    ('COCO_train2014_000000581857.jpg', 'a_16.jpg')
    """
    return _REF_NAME.sub(r"\1", file_name)
