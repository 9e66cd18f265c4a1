"""visionr1 convert screenspot: every layout's boxes, files that are written otherwise, and the command."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from refused import bad_entry, mentions
from scene_sets.base import rows_in, target

from verl_visionr1 import score
from verl_visionr1.answers import FORMATS
from verl_visionr1.conversion.datasets import screenspot
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.rewards import PRESETS
from verl_visionr1.targets import Target

WH = (200, 400)
XYWH, XYXY, FRACTIONS = [42, 102, 97, 70], [42, 102, 139, 172], [0.21, 0.255, 0.695, 0.43]
BOX = (42, 102, 139, 172)
MOBILE = {"data_type": "icon", "data_source": "ios"}
ASK = 'Click on the element: "{}". Output the coordinates as [x, y].'


def png(colour: int = 90) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", WH, (colour, 90, 90)).save(buffer, "PNG")
    return buffer.getvalue()


class Dataset:
    """One screenshot, and files of entries about it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.images_dir = folder, folder / "imgs"
        self.images_dir.mkdir()
        (self.images_dir / "a.png").write_bytes(png())

    def write(self, *entries: Any, name: str = "screenspot_mobile.json") -> Path:
        path = self.folder / name
        path.write_text(json.dumps(list(entries)))
        return path

    def parquet(self, *entries: dict[str, Any]) -> Path:
        path = self.folder / "test.parquet"
        pq.write_table(pa.Table.from_pylist([{"image": {"bytes": png(), "path": None}, **it} for it in entries]), path)
        return path

    def convert(self, *paths: Path, images: bool = True, **options: Any) -> tuple[list[dict[str, Any]], Any]:
        images_dir = self.images_dir if images else None
        out = self.folder / "out.parquet"
        report = screenspot.convert(paths, out, screenspot.Options(images_dir=images_dir, **options))
        return rows_in(report), report


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path)


def entry(bbox: Any = XYWH, instruction: Any = "view the details", **changes: Any) -> dict[str, Any]:
    return {"img_filename": "a.png", "bbox": bbox, "instruction": instruction, **MOBILE, **changes}


def seeclick(bbox: Any) -> dict[str, Any]:
    return {"img_filename": "a.png", "bbox": bbox, "instruction": "settings"}


def test_a_click(data: Dataset) -> None:
    (row,), _ = data.convert(data.write(entry()), split="test")
    assert target(row) == Target(
        task="pointing", size_wh=WH, boxes_xyxy=[BOX], labels=["view the details"], categories=["view the details"]
    )
    assert row["prompt"][0]["content"] == "<image>" + ASK.format("view the details")
    assert row["data_source"] == "visionr1/screenspot_pointing"
    info = row["extra_info"]
    assert (info["image_id"], info["file_name"], info["split"]) == ("a.png", "a.png", "test")
    assert json.loads(info["source_ann"]) == MOBILE
    assert row["images"] == [str(data.images_dir / "a.png")]


def test_gui_click_reads_what_is_asked_for(data: Dataset) -> None:
    (row,), _ = data.convert(data.write(entry()))
    preset = PRESETS["gui-click"]
    assert FORMATS[preset.answer_format].then in row["prompt"][0]["content"]
    assert score("[90, 137]", target(row), preset=preset).value == 1
    assert score("[10, 137]", target(row), preset=preset).value < 1


LAYOUTS: dict[str, dict[str, Any]] = {
    "v1 and v2": entry(XYWH),
    "pro": {"img_filename": "a.png", "bbox": XYXY, "instruction": "x", "img_size": list(WH), "ui_type": "text"},
    "seeclick": seeclick(FRACTIONS),
    "seeclick web": {"img_filename": "a.png", "url": "u", "elements": [{"instruction": "x", "bbox": FRACTIONS}]},
}


def test_gui_r1_is_read_elsewhere(data: Dataset) -> None:
    path = data.write({"image": "a.png", "instruction": "open it", "gt_bbox": FRACTIONS, "gt_action": "click"})
    with pytest.raises(RowsError) as caught:
        data.convert(path, on_error="skip")
    assert mentions(caught.value, "screenspot_mobile.json: entry 0: ", "gt_bbox", "--preset gui-r1")


WRITTEN_OTHERWISE = {
    "xywh-abs": [entry([120 + i, 280, 190, 390]) for i in range(9)],
    "xyxy-abs": [{**LAYOUTS["pro"], "bbox": [150, 300 + i, 30, 20]} for i in range(9)],
    "xyxy-norm1": [seeclick([120, 280 + i, 190, 390]) for i in range(9)],
    "xywh-abs fractions": [entry([0.3, 0.25, 0.7, 0.4 + i / 100]) for i in range(9)],
}


@pytest.mark.parametrize("written", WRITTEN_OTHERWISE)
@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_a_file_written_otherwise_is_refused_as_a_whole(data: Dataset, written: str, on_error: str) -> None:
    """Else the boxes that pass for another convention would become wrong rows."""
    with pytest.raises(RowsError, match=r"screenspot_mobile\.json: .*--box-format xy"):
        data.convert(data.write(*WRITTEN_OTHERWISE[written]), on_error=on_error)
    assert not (data.folder / "out.parquet").exists()


def test_box_format(data: Dataset) -> None:
    """Of a file written otherwise, of pixels in an old parquet, and of unknown keys."""
    found, _ = data.convert(data.write(*WRITTEN_OTHERWISE["xywh-abs"]), box_format="xyxy-abs")
    assert target(found[0]).boxes_xyxy == ((120, 280, 190, 390),)
    path = data.parquet({"file_name": "ios_1.png", "bbox": XYXY, "instruction": "x", **MOBILE})
    (row,), _ = data.convert(path, images=False, box_format="xyxy-abs")
    assert target(row).boxes_xyxy == (BOX,)
    path = data.write({"image": "a.png", "bbox": XYXY, "instruction": "x"})
    with pytest.raises(RowError, match=r"keys bbox, image, instruction: .*--box-format"):
        data.convert(path)
    (row,), _ = data.convert(path, box_format="xyxy-abs")
    assert target(row).boxes_xyxy == (BOX,)


BAD: dict[str, tuple[Any, str]] = {
    "no object": (7, "'7'"),
    "no instruction": (entry(instruction=" "), "instruction"),
    "text in the box": (entry([1, 2, "3", 4]), r"box \[1, 2, '3', 4\]"),
    "fractions": (
        entry(FRACTIONS),
        r"box \[0\.21, 0\.255, 0\.695, 0\.43\]: .*xywh-abs.*; .*--box-format xyxy-norm1",
    ),
    "fractions with img_size": (
        entry(FRACTIONS, img_size=list(WH)),
        r"0\.43\]: .*xyxy-abs.*; .*--box-format xyxy-norm1",
    ),
    "corners in the wrong order": (entry([150, 300, 30, 20], img_size=list(WH)), "30"),
    "pixels as fractions": (seeclick(XYXY), "outside the image"),
    "off the screen": (seeclick([1.2, 0.5, 1.4, 0.6]), "outside the image"),
    "img_size": (entry(img_size=[200]), r"img_size: width and height .*need positive numbers"),
    "bad element": ({"img_filename": "a.png", "elements": [3]}, "entry 1: element 0: '3'"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_entries(data: Dataset, what: str) -> None:
    bad, message = BAD[what]
    path = data.write(entry(), bad)
    error, found, _ = bad_entry(data.convert, path)
    assert re.search(message, str(error))
    assert "screenspot_mobile.json: entry 1" in str(error)
    assert len(found) == 1


def test_images_without_a_folder(data: Dataset) -> None:
    with pytest.raises(RowsError) as caught:
        data.convert(data.write(entry()), images=False, on_error="skip")
    assert mentions(caught.value, "screenspot_mobile.json: entry 0: ", "'a.png'", "--images-dir")
    options = screenspot.Options(images_dir=data.folder / "none")
    with pytest.raises(RowsError, match=r"none: .*--images-dir"):
        screenspot.convert([data.write(entry())], data.folder / "a.parquet", options)
