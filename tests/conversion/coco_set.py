"""A COCO data set in a folder, whose images show what it annotates."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from refused import mentions

from verl_visionr1.conversion.datasets import coco
from verl_visionr1.rows import RowError, read_rows
from verl_visionr1.tools.doctor import check_parquet

COLOURS = {"red box": (255, 0, 0), "green box": (0, 255, 0), "blue box": (0, 0, 255)}
RED, GREEN, BLUE = 3, 7, 90  # category ids: sparse, as in COCO
CATEGORIES = [{"id": i, "name": name} for i, name in zip((RED, GREEN, BLUE), COLOURS, strict=True)]
NAME_OF = {category["id"]: category["name"] for category in CATEGORIES}
WH = (160, 96)


class Dataset:
    """A COCO dataset in a folder; `image` draws what it annotates."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.images_dir = folder, folder / "images"
        self.images_dir.mkdir(parents=True)
        self.document: dict[str, Any] = {"images": [], "annotations": [], "categories": list(CATEGORIES)}

    def image(self, *boxes: tuple[int, list[float]], name: str = "", **changes: Any) -> dict[str, Any]:
        number = 100 + 17 * len(self.document["images"])
        name = name or f"{number:012d}.png"
        picture = Image.new("RGB", WH, (90, 90, 90))
        for category, (x, y, w, h) in boxes:
            ImageDraw.Draw(picture).rectangle((x, y, x + w - 1, y + h - 1), fill=COLOURS[NAME_OF[category]])
        (self.images_dir / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(self.images_dir / name)
        entry = {"id": number, "file_name": name, "width": WH[0], "height": WH[1], **changes}
        self.document["images"].append(entry)
        for category, box in boxes:
            self.annotate(entry["id"], category, box, iscrowd=0)
        return entry

    def annotate(self, image_id: Any, category: Any, box: Any, **changes: Any) -> int:
        number = 1000 + len(self.document["annotations"])
        entry = {"id": number, "image_id": image_id, "category_id": category, "bbox": box, **changes}
        self.document["annotations"].append(entry)
        return number

    def write(self) -> Path:
        path = self.folder / "instances.json"
        path.write_text(json.dumps(self.document), encoding="utf-8")
        return path

    def convert(self, out: str = "out.parquet", **options: Any) -> tuple[list[dict[str, Any]], Any]:
        report = coco.convert(self.write(), self.images_dir, self.folder / out, coco.Options(**options))
        found = list(read_rows(report.written.file))
        assert check_parquet(report.written.file) == []
        assert sum(report.rows.values()) == len(found) == report.written.rows
        return found, report

    def bad(self, *values: object) -> RowError:
        """Convert with --on-error fail; the message must name these values."""
        with pytest.raises(RowError) as caught:
            self.convert()
        assert mentions(caught.value, *values), caught.value
        assert sorted(path.name for path in self.folder.iterdir()) == ["images", "instances.json"]
        assert "\n" not in str(caught.value)
        return caught.value


def measured(row: dict[str, Any], colour: tuple[int, ...]) -> tuple[float, ...]:
    """Bounds of one colour in the image of a row, opened without a look at EXIF, as verl does."""
    (image,) = row["images"]
    pixels = np.asarray(Image.open(io.BytesIO(image["bytes"]) if isinstance(image, dict) else image), dtype=int)
    ys, xs = np.nonzero((np.abs(pixels - colour) < 100).all(axis=-1))
    return float(xs.min()), float(ys.min()), float(xs.max()) + 1, float(ys.max()) + 1


A, B, C = [8, 16, 40, 24], [64, 8, 16, 72], [96, 40, 56, 32]


def many(data: Dataset, count: int = 60) -> Dataset:
    """Image i holds i % 3 red boxes, and a green one where i is even; every sixth is empty but for blue."""
    for i in range(count):
        boxes = [(RED, [8.0 * (k + 1), 8, 6, 6]) for k in range(i % 3)] + [(GREEN, A)] * (i % 2)
        data.image(*boxes)
    return data
