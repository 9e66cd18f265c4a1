"""CrowdHuman odgt -> parquet rows for verl: detection, grounding and counting of people or heads in crowds.

    visionr1 convert crowdhuman annotation_train.odgt Images people.parquet --box vbox --max-instances 60

`annotation_train.odgt`, `annotation_val.odgt`: one JSON per line; `Images/<ID>.jpg`, where the ID has a comma. Boxes
are x, y, width, height in pixels; sizes are read from the images. `fbox` is the whole body, including hidden parts and
those outside the image (clipped); `vbox` is the visible part, `hbox` the head. Boxes with the tag "mask" (crowds,
reflections, statues), and people or heads with `ignore`, are regions to ignore: their images make no counting rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from verl_visionr1.conversion.box_check import MOST_CLIPPED
from verl_visionr1.conversion.conventions import NAMED
from verl_visionr1.conversion.converter import Reading, converter
from verl_visionr1.conversion.flags import DataSource
from verl_visionr1.conversion.image_files import find_below, find_image, require_images, size_of_unturned
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.planning import BOX_TASKS, VocabularyFlags, plan_reading
from verl_visionr1.conversion.sources import read_records
from verl_visionr1.conversion.values import record_of, text_of
from verl_visionr1.conversion.vocabulary import AnnotatedImage, Columns
from verl_visionr1.files import RowError

BODIES_OUTSIDE = 0.5
"""Share of whole bodies that may extend outside the image; of other boxes `MOST_CLIPPED` may."""


@dataclass(frozen=True, kw_only=True)
class Options(VocabularyFlags):
    """The command's flags; `--help` explains each."""

    data_source: DataSource = "visionr1/crowdhuman_{task}"
    box: Annotated[
        Literal["fbox", "vbox", "hbox"],
        "fbox: the whole body with hidden parts (used by the benchmark); vbox: the visible part; hbox: the head.",
    ] = "fbox"
    name: Annotated[str | None, "What to ask for. Default: person, or head with --box hbox."] = None

    @property
    def phrase(self) -> str:
        """The requested phrase."""
        return self.name or ("head" if self.box == "hbox" else "person")


def _image(where: str, record: Any, images_dir: Path, columns: Columns) -> AnnotatedImage | None:
    """Return the image of a line, or None if excluded. A repeated ID is refused: it has two sets of boxes."""
    record = record_of(record, where)
    if not isinstance(record.get("gtboxes"), list):
        raise RowError("malformed entry", f"{where}: {str(record)[:80]!r}: needs ID and a list gtboxes; correct it")
    image_id = text_of(record, ["ID"], where)
    where = f"{where} (ID {image_id!r})"
    is_known = image_id in columns.number_of
    columns.leave_out(image_id)
    if is_known:
        raise RowError("image ID twice", f"{where}: this ID appears twice; correct it")
    name = f"{image_id}.jpg"
    if columns.excludes(image_id, name):
        return None
    path = find_below(images_dir / "Images", name) or find_image(images_dir, name, where)  # `Images`: from the zips
    return AnnotatedImage(image_id, name, path, size_of_unturned(path, where))


def _add(columns: Columns, image: int, place: int, entry: Any, kind: str) -> None:
    """Add one box, or region to ignore."""
    entry = entry if isinstance(entry, dict) else {}
    is_person = entry.get("tag") == "person"
    ignored = _ignored(entry, "extra") or (kind == "hbox" and _ignored(entry, "head_attr"))
    mark = ("ignore" if ignored else "") if is_person else str(entry.get("tag", "no person"))
    key = kind if is_person or "fbox" not in entry else "fbox"  # a crowd has no single head
    box = entry.get(key)
    columns.add(image, 0, box, place, mark=mark, written=f"{key} {str(box)[:80]}")


def _ignored(entry: dict[str, Any], attributes: str) -> bool:
    """Whether `extra` or `head_attr` has `ignore`; both and their keys may be missing."""
    found = entry.get(attributes)
    return isinstance(found, dict) and bool(found.get("ignore"))


@converter(*BOX_TASKS, example="annotation_val.odgt Images heads.parquet --box hbox --task detection")
def convert(
    annotations: Annotated[Path, "annotation_train.odgt or annotation_val.odgt."],
    images_dir: Annotated[Path, "Folder of the images."],
    options: Options,
    ledger: Ledger,
) -> Reading:
    """The rows of an annotation file: all boxes of one kind, under one category."""
    require_images(images_dir)
    most = BODIES_OUTSIDE if options.box == "fbox" else MOST_CLIPPED
    columns = options.columns(annotations.name, [options.phrase], ledger, NAMED["xywh-abs"], most)
    for where, record in read_records(annotations):
        with ledger.skipping():
            image = _image(where, record, images_dir, columns)
            if image is None:
                continue
            number = columns.add_image(image)
            for place, entry in enumerate(record["gtboxes"]):
                with ledger.skipping():
                    _add(columns, number, place, entry, options.box)
    return plan_reading(columns.finish(), options, ledger, [annotations])
