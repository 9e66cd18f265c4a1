"""PixMo-Count and PixMo-Points -> parquet rows for verl: counting and pointing.

    visionr1 convert pixmo pixmo-count/data/train-*.parquet pixmo_images count_train.parquet --on-error skip

The parquet of `allenai/pixmo-count` has image_url, image_sha256, count, label and points as {"x": [...], "y": [...]}
(no points in the validation and test files). That of `allenai/pixmo-points` has points as [{"x": ..., "y": ...}], and
counts of 0, which are kept. Fetch the images first: `pixmo_images` is searched, with subfolders, for files named by the
SHA-256 of their URL (as by Molmo's scripts) or of their content, with any suffix. URLs die: a row whose image is
missing or differs from the annotated one is left out and counted.

Points of PixMo-Count are pixels. For PixMo-Points the data set's card states pixels, Molmo's code percent.
`--point-unit auto` decides from the numbers of each file: percent never exceeds 100, and pixels never exceed the
image's size.

To hold out PixMo-Points' evaluation set, list its image_sha256 or image_url for `--exclude-image-ids`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from verl_visionr1.boxes import Point
from verl_visionr1.conversion.converter import Reading, converter
from verl_visionr1.conversion.counts import CountFlags, points_inside
from verl_visionr1.conversion.flags import DataSource
from verl_visionr1.conversion.image_files import require_images
from verl_visionr1.conversion.items import Item
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.point_units import PointEvidence
from verl_visionr1.conversion.sources import read_records, sha256_of
from verl_visionr1.conversion.values import count_of, points_of, record_of, text_of
from verl_visionr1.files import RowError, walk
from verl_visionr1.images import read_size

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Options(CountFlags):
    """The command's flags; `--help` explains each."""

    data_source: DataSource = "visionr1/pixmo_{task}"
    point_unit: Annotated[
        Literal["auto", "pixel", "percent"], "Unit of the points; auto: guess it from the numbers of each file."
    ] = "auto"
    verify_images: Annotated[
        bool, typer.Option("--verify-images/--trust-images", help="Compare each image with its image_sha256.")
    ] = True


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the data set; `points` is None if not given."""

    where: str
    url: str
    sha256: str | None
    label: str
    count: int
    points: list[Point] | None


def _entry(where: str, record: Any) -> Iterator[Entry]:
    record = record_of(record, where)
    url, label = text_of(record, ["image_url"], where), text_of(record, ["label"], where)
    where = f"{where} ({label!r})"
    points = None if record.get("points") is None else points_of(record["points"], where)
    count = record.get("count")
    count = len(points) if count is None and points is not None else count_of(count, where)
    if points == [] and count:
        points = None  # missing points in a table
    if points is not None and len(points) != count:
        raise RowError("count and points differ", f"{where}: count is {count}, points are {len(points)}; correct it")
    sha256 = record.get("image_sha256")
    yield Entry(where, url, sha256.lower() if isinstance(sha256, str) and sha256 else None, label, count, points)


Images = Mapping[str, Path]
"""SHA-256 in the name of an image file -> the file."""


def _list_images(folder: Path) -> Images:
    require_images(folder)
    stems = (
        (name.partition(".")[0].lower(), Path(parent, name))
        for parent, names in walk(folder.absolute())
        for name in names
    )
    return {stem: path for stem, path in stems if _SHA256.fullmatch(stem)}


def _image_of(entry: Entry, images: Images) -> Path | None:
    """Find the image of a row by the hash of its content or URL."""
    return images.get(entry.sha256 or "") or images.get(_digest(entry.url))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _survey(path: Path, images: Images, *, with_sizes: bool) -> tuple[PointEvidence, bool]:
    """Return statistics of a file's points, and whether a row asks for absent objects.

    Image sizes are read only if the unit of points has to be guessed.
    """
    evidence, has_negatives = PointEvidence(), False
    read = lru_cache(maxsize=None)(read_size)
    for entry in Ledger(fail=False).each(_entry, read_records(path)):
        has_negatives |= entry.count == 0
        image = _image_of(entry, images) if with_sizes and entry.points else None
        if image is not None:
            with suppress(RowError):  # reported when its row is made
                evidence.add(entry.points or (), read(image)[0])
    return evidence, has_negatives


def _items_of(path: Path, images: Images, unit: str, options: Options, ledger: Ledger) -> Iterator[Item]:
    """Yield the rows of a file with an image."""
    digest_of = lru_cache(maxsize=None)(lambda path: sha256_of([path]))
    for entry in ledger.each(_entry, read_records(path)):
        image = _image_of(entry, images)
        if image is None:
            ledger.left_out["row whose image is not in the folder"] += 1
        elif options.verify_images and entry.sha256 is not None and digest_of(image) != entry.sha256:
            ledger.left_out["row whose image is not the annotated one (image_sha256, --verify-images)"] += 1
        else:
            yield from _items(entry, image, unit, options, ledger)


def _items(entry: Entry, image: Path, unit: str, options: Options, ledger: Ledger) -> Iterator[Item]:
    whole_wh = (100, 100) if unit == "percent" else None
    for task in options.tasks:
        if task == "pointing" and entry.points is None and entry.count:
            ledger.left_out["pointing row without points"] += 1
            continue
        points = entry.points or []
        if task == "counting" and points:  # keep those in the image
            try:
                points = points_inside(points, read_size(image)[0], ledger, whole_wh)
            except RowError:  # an unreadable image: reported when its row is made
                points = []
        yield Item(
            where=entry.where,
            image=image,
            task=task,
            phrases=(entry.label,),
            question=options.how_many(entry.label, task),
            whole_wh=whole_wh,
            points_xy=points,
            count=entry.count,
            image_id=entry.sha256 or _digest(entry.url),
            file_name=entry.url,
            identities=(entry.url,),
            source_ann={"file": entry.where.partition(":")[0], "point_unit": unit},
        )


@converter("counting", "pointing", example="pixmo-points/data/*.parquet pixmo_images points.parquet --task pointing")
def convert(
    annotations: Annotated[list[Path], "The data set's parquet files."],
    images_dir: Annotated[Path, "Folder of the fetched images."],
    options: Options,
    ledger: Ledger,
) -> Reading:
    """The rows with an image."""
    images = _list_images(images_dir)
    guess = options.point_unit == "auto"
    surveys = {path: _survey(path, images, with_sizes=guess) for path in annotations}
    units = {
        path: evidence.percent_or_pixel(path.name) if guess else options.point_unit
        for path, (evidence, _) in surveys.items()
    }
    own_negatives = options.negatives is None and any(has_negatives for _, has_negatives in surveys.values())
    return Reading(
        items=(item for path, unit in units.items() for item in _items_of(path, images, unit, options, ledger)),
        files=annotations,
        facts={"point_units": ", ".join(units.values())},
        allow_none=own_negatives or bool(options.negatives),
    )
