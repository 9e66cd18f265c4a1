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


# ---------------------------------------------------------------------------------------------- rows


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


def test_a_box(data: Dataset) -> None:
    (row,), _ = data.convert(data.write(entry()), task="grounding")
    assert (target(row).task, target(row).boxes_xyxy) == ("grounding", (BOX,))
    asked = 'Locate the element: "view the details". Output the coordinates in JSON format.'
    assert row["prompt"][0]["content"] == "<image>" + asked


def test_a_template_is_filled_with_the_bare_instruction(data: Dataset) -> None:
    (row,), _ = data.convert(data.write(entry()), prompt_template="Where would you tap to {phrases}?")
    assert row["prompt"][0]["content"] == "<image>Where would you tap to view the details?"


def test_another_answer_format(data: Dataset) -> None:
    (row,), _ = data.convert(data.write(entry()), answer_format="qwen-points")
    assert FORMATS["qwen-points"].then in row["prompt"][0]["content"]
    with pytest.raises(RowsError, match=r"--answer-format qwen-json: .*pointing"):
        data.convert(data.write(entry()), answer_format="qwen-json")


LAYOUTS: dict[str, dict[str, Any]] = {
    "v1 and v2": entry(XYWH),
    "pro": {"img_filename": "a.png", "bbox": XYXY, "instruction": "x", "img_size": list(WH), "ui_type": "text"},
    "seeclick": seeclick(FRACTIONS),
    "seeclick web": {"img_filename": "a.png", "url": "u", "elements": [{"instruction": "x", "bbox": FRACTIONS}]},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_keys_tell_the_convention(data: Dataset, layout: str) -> None:
    (row,), _ = data.convert(data.write(LAYOUTS[layout]))
    assert target(row).boxes_xyxy == (BOX,)


def test_parquet_with_images(data: Dataset) -> None:
    """The copy on Hugging Face: the images' bytes inside, boxes as fractions."""
    path = data.parquet({"file_name": "ios_1.png", "bbox": FRACTIONS, "instruction": "x", **MOBILE})
    (row,), _ = data.convert(path, images=False, embed=True)
    assert target(row).boxes_xyxy == (BOX,)
    assert row["images"] == [{"bytes": png()}]
    assert row["extra_info"]["image_id"] == "ios_1.png"


def test_many_rows_of_one_embedded_screenshot(data: Dataset) -> None:
    """Threads that write the same copy do not disturb each other."""
    path = data.parquet(*({"bbox": FRACTIONS, "instruction": f"x {i}"} for i in range(64)))
    found, _ = data.convert(path, images=False, workers=16)
    assert len({row["images"][0] for row in found}) == 1
    assert [it.name for it in (data.folder / "out_images").iterdir()] == [Path(found[0]["images"][0]).name]


def test_gui_r1_is_read_elsewhere(data: Dataset) -> None:
    path = data.write({"image": "a.png", "instruction": "open it", "gt_bbox": FRACTIONS, "gt_action": "click"})
    with pytest.raises(RowsError) as caught:
        data.convert(path, on_error="skip")
    assert mentions(caught.value, "screenspot_mobile.json: entry 0: ", "gt_bbox", "--preset gui-r1")


def test_several_files(data: Dataset) -> None:
    other = data.write(seeclick(FRACTIONS), name="widget_captioning.json")
    found, _ = data.convert(data.write(entry()), other)
    assert [target(row).boxes_xyxy for row in found] == [(BOX,)] * 2


# ---------------------------------------------------------------------------------------------- conventions


CANNOT = {
    "xyxy in a file of xywh": (entry([120, 280, 190, 390]), "xywh", "200 x 400"),
    "fractions in a file of xywh": (entry(FRACTIONS), "xywh", "0-1"),
    "xywh in a file of xyxy": (entry([150, 300, 30, 20], img_size=list(WH)), "xyxy", ""),
    "pixels in a file of fractions": (seeclick(XYXY), "fractions", "0-1"),
    "xywh as fractions": (seeclick([0.6, 0.6, 0.2, 0.1]), "fractions", ""),
}


@pytest.mark.parametrize("what", CANNOT)
def test_numbers_that_cannot_be_of_the_convention(data: Dataset, what: str) -> None:
    bad, convention, reason = CANNOT[what]
    with pytest.raises(RowError) as caught:
        data.convert(data.write(entry(), bad))
    others = ", ".join(name for name in ("xywh", "xyxy", "fractions") if name != convention)
    shown = str(caught.value)
    assert shown.startswith(f"screenspot_mobile.json: entry 1: box {bad['bbox']} is not {convention}: ")
    assert reason in shown
    assert shown.endswith(f"give --box-format ({others})")
    found, report = data.convert(data.write(*[entry()] * 30, bad), on_error="skip")  # one among many
    assert len(found) == 30
    assert report.ledger.skipped == {screenspot.MISFIT: 1}


def test_a_file_written_otherwise_is_refused_as_a_whole(data: Dataset) -> None:
    """Else the half of its boxes that pass for another convention would become wrong rows."""
    entries = [entry([10, 10, 40, 40])] * 8 + [entry([120, 280, 190, 390])] * 2
    with pytest.raises(RowsError) as caught:
        data.convert(data.write(*entries), on_error="skip")
    assert mentions(caught.value, "2 of 10 boxes", "screenspot_mobile.json")
    assert not (data.folder / "out.parquet").exists()
    found, _ = data.convert(data.write(*entries), box_format="xyxy")
    assert {target(row).boxes_xyxy[0] for row in found} == {(10, 10, 40, 40), (120, 280, 190, 390)}


def test_old_revisions_of_the_parquet_hold_pixels(data: Dataset) -> None:
    path = data.parquet({"file_name": "ios_1.png", "bbox": XYXY, "instruction": "x", **MOBILE})
    with pytest.raises(RowError, match=r"0-1.* --box-format \(xywh, xyxy\)"):
        data.convert(path, images=False)
    (row,), _ = data.convert(path, images=False, box_format="xyxy")
    assert target(row).boxes_xyxy == (BOX,)


def test_unknown_layouts_need_the_flag(data: Dataset) -> None:
    path = data.write({"image": "a.png", "bbox": XYXY, "instruction": "x"})
    with pytest.raises(RowError, match="keys bbox, image, instruction: "):
        data.convert(path)
    (row,), _ = data.convert(path, box_format="xyxy")
    assert target(row).boxes_xyxy == (BOX,)


def test_a_little_over_the_edge_is_clipped(data: Dataset) -> None:
    found, report = data.convert(
        data.write(
            entry([190, 395, 15, 8]), seeclick([-0.1, 0.5, 0.2, 0.6]), {**LAYOUTS["pro"], "bbox": [0, 0, 201, 9]}
        )
    )
    assert [target(row).boxes_xyxy for row in found] == [
        ((190, 395, 200, 400),),
        ((0, 200, 40, 240),),
        ((0, 0, 200, 9),),
    ]
    assert report.ledger.notes["box clipped to its image"] == 3


def test_a_screenshot_of_another_size(data: Dataset) -> None:
    with pytest.raises(RowError, match=r"\(3840, 2160\).*\(200, 400\)"):
        data.convert(data.write({**LAYOUTS["pro"], "img_size": [3840, 2160]}))


# ---------------------------------------------------------------------------------------------- bad entries


BAD: dict[str, tuple[Any, str]] = {
    "no object": (7, "'7'"),
    "no instruction": (entry(instruction=" "), "instruction"),
    "no box": ({**entry(), "bbox": None}, "box None"),
    "two numbers": (entry([1, 2]), r"box \[1, 2\]"),
    "text in the box": (entry([1, 2, "3", 4]), r"box \[1, 2, '3', 4\]"),
    "no extent": (entry([10, 10, 0, 5]), r"box = \[10, 10, 10, 15\]"),
    "off the screen": (seeclick([1.2, 0.5, 1.4, 0.6]), "outside the image"),
    "img_size": (entry(img_size=[200]), r"img_size: width and height .*need positive numbers"),
    "traversal": (entry(img_filename="../c.png"), r"\.\."),
    "no image file": (entry(img_filename="b.png"), r"b\.png"),
    "bad element": ({"img_filename": "a.png", "elements": [3]}, "entry 1: element 0: '3'"),
    "placeholder": (entry(instruction="tap <image>"), "holds <image>"),
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
