"""Read and clean COCO-format detection json: every entry is checked, good ones go into compact columns.

Accepts COCO itself and variants of its layout: sparse, string or zero ids, missing area, iscrowd, width or height,
crowds (kept as regions to ignore), images without annotations, folders in file names; LVIS (images without file_name,
unchecked categories). Image files are opened only if the json gives no size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from verl_visionr1.conversion.conventions import NAMED
from verl_visionr1.conversion.image_files import ImageKeys, find_below, find_image, require_images, size_of_unturned
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.planning import VocabularyFlags
from verl_visionr1.conversion.sources import read_json
from verl_visionr1.conversion.values import is_numbers, size_of
from verl_visionr1.conversion.vocabulary import LEFT_OUT, AnnotatedImage, Annotations, Columns, Key, key_of, named_once
from verl_visionr1.files import RowError, RowsError

T = TypeVar("T")
_LAYOUT = (
    'COCO json has the lists images, annotations and categories ([{"id": 1, "name": "cat"}, ...]); add what is '
    "missing, or give another file (captions, results and test images have no boxes)"
)
MARKS = ("iscrowd", "ignore", "difficult")
"""Keys that set an annotation apart from normal objects."""
LOOK = 64
"""Number of first annotations whose areas check the box convention."""


class CocoCategory(msgspec.Struct):
    """An entry of `categories`."""

    id: Key = None
    name: str = ""
    supercategory: str | None = None
    frequency: Any = None  # LVIS: r, c or f


class CocoImage(msgspec.Struct):
    """An entry of `images`. Only ids are typed, so that its annotations are assigned even if other fields are bad.

    `neg_category_ids` and `not_exhaustive_category_ids` are LVIS's, `text` and `neg_text` OVDEval's.
    """

    id: Key = None
    file_name: Any = None
    coco_url: Any = None
    width: Any = None
    height: Any = None
    neg_category_ids: Any = None
    not_exhaustive_category_ids: Any = None
    text: Any = None
    neg_text: Any = None

    @property
    def has_lists(self) -> bool:
        """Whether it lists what to ask for on the image."""
        lists = (self.neg_category_ids, self.not_exhaustive_category_ids, self.text, self.neg_text)
        return any(it is not None for it in lists)


class _Belonging(msgspec.Struct, gc=False):
    """The part of an annotation that tells which category is in the image, also if the rest is malformed."""

    image_id: Key = None
    category_id: Key = None


class _Annotation(_Belonging, gc=False):
    id: Key = None
    bbox: Any = None  # any value: with a bad box, the category is still in the image
    iscrowd: Any = 0
    ignore: Any = 0  # of voc2coco and others: VOC's difficult
    difficult: Any = 0
    area: Any = None
    segmentation: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def mark(self) -> str:
        """The key that marks it, or ""."""
        return next((name for name in MARKS if getattr(self, name) not in (0, None, False, "0", "")), "")

    @property
    def area_of_box(self) -> float:
        """The area of its box without `bbox`: that around its polygons, else its `area`, or 0."""
        with suppress(msgspec.DecodeError):
            polygons = msgspec.json.decode(self.segmentation, type=list[list[float]])
            xs, ys = ([value for polygon in polygons for value in polygon[axis::2]] for axis in (0, 1))
            if len(xs) == len(ys) > 2:
                return (max(xs) - min(xs)) * (max(ys) - min(ys))
        return float(self.area) if is_numbers([self.area], 1) else 0.0


class CocoDocument(msgspec.Struct):
    """Entries stay undecoded, so that a bad one affects no other; segmentations of the first `LOOK` are decoded."""

    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[CocoCategory]


Aliases = Mapping[str, str] | Callable[[Sequence[CocoCategory]], Mapping[str, str]]
"""Category name -> name to ask for instead; or a function of all categories that returns this."""


@dataclass(frozen=True, slots=True)
class CocoParts:
    """The content of a file, for data sets that extend COCO's layout.

    Attributes:
        data: the boxes, as if every category had been checked on every image.
        entries: (number in `data.images`, entry) of images with lists of categories or texts.
        categories: as the file lists them.
        category_of: `key_of` the id of each category -> its index in `data.names`.
    """

    data: Annotations
    entries: list[tuple[int, CocoImage]]
    categories: list[CocoCategory]
    category_of: dict[str, int]


def read_coco(
    path: Path,
    images_dir: Path,
    ledger: Ledger,
    flags: VocabularyFlags | None = None,
    aliases: Mapping[str, str] | None = None,
) -> Annotations:
    """Read and check an annotation file; image files are opened only if the file gives no size.

    Raises:
        RowsError: missing or garbled file, or not COCO detection.
        RowError: a bad entry, if the ledger does not skip.
    """
    return with_checked(read_parts(path, images_dir, ledger, flags, aliases), ledger)


def read_parts(
    path: Path, images_dir: Path, ledger: Ledger, flags: VocabularyFlags | None = None, aliases: Aliases | None = None
) -> CocoParts:
    """As `read_coco`, without using the lists of categories or texts of images."""
    require_images(images_dir)
    flags = flags or VocabularyFlags(data_source="")
    document: CocoDocument = read_json(path, CocoDocument, _LAYOUT)
    aliases = aliases(document.categories) if callable(aliases) else aliases or {}
    category_of, names = _categories(path, document, aliases, ledger)
    columns = flags.columns(path.name, names, ledger, NAMED["xywh-abs"])
    entries = _images(document.images, columns, images_dir)
    _add_annotations(document.annotations, columns, category_of)
    categories = document.categories
    del document  # sorting makes copies
    data = columns.finish()
    ancestors = _ancestors(categories, category_of)
    roots = frozenset[int]().union(*ancestors.values()) - set(data.category)  # Roboflow adds such a root
    ledger.notes["category without a box that is the supercategory of others: not asked for"] += len(roots)
    data = _with_unsure_ancestors(replace(data, never_asked=roots), ancestors, ledger)
    return CocoParts(data, entries, categories, category_of)


def decoded(decode: Callable[[Any], T], entry: Any, where: str) -> T:
    """Decode one entry. Raises RowError, which names `where` and shows the start of the entry."""
    try:
        return decode(entry)
    except msgspec.DecodeError as error:
        shown = bytes(entry)[:100].decode("utf-8", "replace") if isinstance(entry, msgspec.Raw) else str(entry)[:100]
        raise RowError("malformed entry", f"{where} = {shown}: {error}; correct it") from None


def _categories(
    path: Path, document: CocoDocument, aliases: Mapping[str, str], ledger: Ledger
) -> tuple[dict[str, int], list[str]]:
    """Return key of each category -> index of its name, and the names; look-alike names are one category."""
    unknown = aliases.keys() - {category.name.strip() for category in document.categories}
    if unknown:
        raise RowsError(f"{path}: no category {sorted(unknown)[0]!r}, for which an alias is given; check its name")
    names, places = named_once([aliases.get(c.name.strip(), c.name) for c in document.categories], ledger)
    category_of: dict[str, int] = {}
    for number, category in enumerate(document.categories):
        key = key_of(category.id)
        if key is None:
            raise RowsError(f"{path}: categories[{number}]: id {category.id!r}: needs an id; correct it")
        if key in category_of:
            raise RowsError(f"{path}: categories[{number}]: id {category.id!r} appears twice; correct it")
        category_of[key] = places[number]
    return category_of, names


def _ancestors(categories: Sequence[CocoCategory], category_of: Mapping[str, int]) -> dict[int, frozenset[int]]:
    """Return category -> its ancestors in the file: its supercategory, the supercategory of that, and so on.

    They are present wherever it is. One that is its own supercategory, as in voc2coco, is a normal category.
    """
    named = {c.name.strip(): category_of[str(key_of(c.id))] for c in categories}
    above = {
        category_of[str(key_of(c.id))]: named[c.supercategory.strip()]
        for c in categories
        if c.supercategory and c.supercategory.strip() in named
    }
    ancestors: dict[int, frozenset[int]] = {}
    for category in above:
        found, at = {category}, category
        while (at := above.get(at, category)) not in found:
            found.add(at)
        ancestors[category] = frozenset(found - {category})
    return {category: found for category, found in ancestors.items() if found}


def _with_unsure_ancestors(data: Annotations, ancestors: Mapping[int, frozenset[int]], ledger: Ledger) -> Annotations:
    """Never ask for the ancestors of a category on its images: they are present, but their boxes are incomplete."""
    if not ancestors:
        return data
    images = list(data.images)
    for number, image in enumerate(images):
        there = frozenset[int]().union(*(ancestors.get(category, ()) for category in data.categories_on(number)))
        if unasked := there - data.never_asked:
            images[number] = replace(image, unsure=image.unsure | there)
            ledger.notes["category not asked for on an image that holds a kind of it"] += len(unasked)
    return replace(data, images=images)


def _images(raws: list[msgspec.Raw], columns: Columns, images_dir: Path) -> list[tuple[int, CocoImage]]:
    """Add the images; return the entries with lists of categories or texts."""
    decode = msgspec.json.Decoder(CocoImage).decode
    entries: list[tuple[int, CocoImage]] = []
    owners: dict[str, str] = {}
    keys = ImageKeys()
    for number, raw in enumerate(raws):
        where, key = f"{columns.name}: images[{number}]", None
        try:
            entry = decoded(decode, raw, where)
            key = key_of(entry.id)
            image = _image(where, entry, key, images_dir, columns.number_of)
            first = image.image_id
            if not entry.has_lists:
                first = owners.setdefault(keys.key(image.file_name, image.path), first)
            if first != image.image_id:
                # each id has a part of its objects, or all of them again
                columns.leave_out(first, "image whose file has another id too")
                reason = f"(id {image.image_id}): file_name {image.file_name!r} is also that of id {first}"
                raise RowError("image file twice", f"{where} {reason}; put their annotations under one id")
        except RowError as error:
            columns.ledger.skip(error)
            if key is not None:  # an id of two entries is ambiguous
                columns.leave_out(key, "image whose id appears twice")
            continue
        if not columns.excludes(image.image_id, image.file_name):
            taken = columns.add_image(image)
            entries += [(taken, entry)] if entry.has_lists else []
    return entries


def _image(where: str, entry: CocoImage, key: str | None, images_dir: Path, known: Mapping[str, int]) -> AnnotatedImage:
    of_url = "/".join(entry.coco_url.split("/")[-2:]) if isinstance(entry.coco_url, str) else None
    name = entry.file_name or of_url  # LVIS v1 has only the URL
    where = f"{where} (id {entry.id!r}, file_name {name!r})"
    if key is None or not name or not isinstance(name, str):
        raise RowError("image without id or file_name", f"{where}: needs both; correct it")
    if key in known:
        raise RowError("image id twice", f"{where}: this id appears twice; correct it")
    for field in ("neg_category_ids", "not_exhaustive_category_ids"):
        listed = getattr(entry, field)
        if listed is not None and not isinstance(listed, list):
            raise RowError(
                "malformed entry", f"{where}: {field} = {str(listed)[:80]!r}: needs a list of ids; correct it"
            )
    path = find_below(images_dir, name)
    if path is None and of_url:  # LVIS v0.5 gives COCO 2014's names to COCO 2017's images
        path = find_below(images_dir, of_url)
    path = path or find_image(images_dir, name, where)
    if entry.width is None or entry.height is None:
        size_wh = size_of_unturned(path, where)
    else:
        size_wh = size_of(entry.width, entry.height, where) or (0, 0)
    return AnnotatedImage(key, name, path, size_wh)


def _add_annotations(raws: list[msgspec.Raw], columns: Columns, category_of: Mapping[str, int]) -> None:
    decode = msgspec.json.Decoder(_Annotation).decode
    for number, raw in enumerate(raws):
        where = f"{columns.name}: annotations[{number}]"
        try:
            entry = _annotation(decode, raw, where)
            image = columns.number_of.get(key_of(entry.image_id) or "")
            category = category_of.get(key_of(entry.category_id) or "")
            if image is None:
                raise _unknown(f"{where} (id {entry.id!r})", "image_id", entry.image_id, columns.number_of)
            if category is None:
                raise _unknown(f"{where} (id {entry.id!r})", "category_id", entry.category_id, category_of)
            if image == LEFT_OUT:
                columns.ledger.left_out["annotation of an image left out"] += 1
                continue
            if isinstance(entry.bbox, RowError):
                columns.refuse(image, category, where, None)
                raise entry.bbox
            columns.add(image, category, entry.bbox, entry.id, mark=entry.mark, written=f"bbox {entry.bbox}")
            if number < LOOK and is_numbers(entry.bbox, 4) and (area := entry.area_of_box) > 0:
                columns.written.add_area(f"annotation id {entry.id!r}", entry.bbox, area)
        except RowError as error:
            columns.ledger.skip(error)


def _annotation(decode: Callable[[msgspec.Raw], _Annotation], raw: msgspec.Raw, where: str) -> _Annotation:
    """Decode an annotation; one with a number out of range, or a bad id, has the error for its box."""
    try:
        return decoded(decode, raw, where)
    except RowError as error:
        with suppress(msgspec.DecodeError):
            part = msgspec.json.decode(raw, type=_Belonging)
            return _Annotation(part.image_id, part.category_id, bbox=error)
        raise


def _unknown(where: str, key: str, value: Key, known: Collection[str]) -> RowError:
    """The error of an annotation whose image or category the file does not list."""
    shown = f"{', '.join(list(known)[:3])}{', ...' if len(known) > 3 else ''}" or "none"
    reason = f"{where}: {key} {value!r} is not among the file's (ids {shown})"
    return RowError(f"unknown {key}", f"{reason}; add it there, or correct or remove the annotation")


def with_checked(parts: CocoParts, ledger: Ledger, *, federated: bool = False) -> Annotations:
    """Return the boxes with the checked categories of each image (LVIS): those present, and known negatives.

    Args:
        federated: limit every image to its checked categories; else only images that list negatives.
    """
    data = parts.data
    images = list(data.images)

    def indexes(keys: list[Key] | None) -> frozenset[int]:
        found = [parts.category_of.get(key_of(key) or "") for key in keys or ()]
        ledger.notes["unknown category id in an image's list of categories"] += found.count(None)
        return frozenset(index for index in found if index is not None)

    for number in range(len(images)) if federated else ():
        images[number] = replace(images[number], checked=data.categories_on(number))
    for number, entry in parts.entries:
        negative = indexes(entry.neg_category_ids)
        lists_some = federated or entry.neg_category_ids is not None
        images[number] = replace(
            images[number],
            checked=data.categories_on(number) | negative if lists_some else None,
            unsure=images[number].unsure | indexes(entry.not_exhaustive_category_ids),
        )
    return replace(data, images=images)
