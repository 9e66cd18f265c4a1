"""Boxes in another convention than the converter takes: refused by their numbers, and read by `--box-format`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refused import mentions
from scene_sets import FORMATS
from scene_sets.base import Picture, Thing, rows_in, target
from scene_sets.open_vocabulary import PERSON

from verl_visionr1.conversion.box_check import SAMPLE, BoxCheck
from verl_visionr1.conversion.conventions import NAMED, Convention
from verl_visionr1.conversion.datasets import coco
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.writing import Report
from verl_visionr1.files import RowsError

SIZE = (640, 480)
N_IMAGES = 6
LABELS = ("red circle", "green square", "blue triangle", "red square")
Box = tuple[float, float, float, float]


def boxes_of(image: int) -> list[Box]:
    """Four boxes of an image, x1 y1 x2 y2 in pixels; some reach the far edges, as boxes do."""
    i = float(image)
    return [
        (100 + 20 * i, 60 + 10 * i, 300 + 20 * i, 260 + 10 * i),
        (320 + 8 * i, 240 + 8 * i, 640, 480),
        (10 + 4 * i, 200 + 4 * i, 90 + 4 * i, 472 + i),
        (400 + 8 * i, 20 + 4 * i, 592 + 8 * i, 84 + 4 * i),
    ]


BOXES = [box for image in range(N_IMAGES) for box in boxes_of(image)]


def written(box: Box, name: str) -> list[float]:
    """Its numbers in a convention."""
    convention = NAMED[name]
    whole_w, whole_h = convention.fixed_wh or SIZE
    x, y = whole_w / SIZE[0], whole_h / SIZE[1]
    return convention.as_written([box[0] * x, box[1] * y, box[2] * x, box[3] * y])


def pictures(own: str, name: str, labels: Sequence[str]) -> Iterator[Picture]:
    """What a writer in its own convention has to be given for its file to hold the numbers of another."""
    for image in range(N_IMAGES):
        boxes = [tuple(NAMED[own].in_pixels(written(box, name), SIZE)) for box in boxes_of(image)]
        things = tuple(Thing(label, box) for label, box in zip(labels, boxes, strict=True))  # type: ignore[arg-type]
        yield Picture(image + 1, SIZE, things, bytes([40 * image, 20, 90]) * (SIZE[0] * SIZE[1]))


OWN = {  # format of the scene sets -> how it writes boxes, and a convention that it is not
    "coco grounding": ("xywh-abs", "xyxy-abs"),
    "lvis grounding": ("xywh-abs", "cxcywh-abs"),
    "ovdeval grounding": ("xywh-abs", "xyxy-norm1"),
    "d3 inter-group": ("xywh-abs", "xywh-norm1000"),
    "labelimg": ("xyxy-abs", "xywh-abs"),
    "yolo of roboflow": ("cxcywh-norm1", "xyxy-norm1"),
    "openimages grounding": ("xyxy-norm1", "cxcywh-abs"),
    "crowdhuman vbox": ("xywh-abs", "xyxy-abs"),
    "refcoco": ("xywh-abs", "xyxy-abs"),
    "vlm_r1 conversations": ("xyxy-abs", "xywh-abs"),
    "vision_r1": ("xyxy-abs", "cxcywh-abs"),
    "visual genome": ("xywh-abs", "xyxy-norm1"),
    "records table of phrases": ("xywh-abs", "xywh-norm1000"),
}
READERS = {form.name: form for form in FORMATS if form.name in OWN}


def convert(reader: str, name: str, folder: Path, **options: Any) -> Report:
    """Convert numbers of a convention."""
    form, labels = READERS[reader], [PERSON] * 4 if "crowdhuman" in reader else LABELS
    arguments = form.write(tuple(pictures(OWN[reader][0], name, labels)), folder / "source")
    return form.convert(*arguments, folder / "o.parquet", replace(form.options, **options))


@pytest.mark.parametrize("reader", READERS)
def test_another_convention_is_refused_with_the_option_that_reads_it(reader: str, tmp_path: Path) -> None:
    _, other = OWN[reader]
    with pytest.raises(RowsError) as caught:
        convert(reader, other, tmp_path / "a", on_error="skip")
    assert type(caught.value) is RowsError
    assert mentions(caught.value, f"--box-format {other};")
    assert not (tmp_path / "a" / "o.parquet").exists()
    report = convert(reader, other, tmp_path / "b", box_format=other)
    found = np.unique([box for row in rows_in(report) for box in target(row).boxes_xyxy], axis=0)
    assert found == pytest.approx(np.array(sorted(BOXES)), abs=0.011)
    assert report.ledger.notes["box clipped to its image"] == 0


# ---------------------------------------------------------------------------------------------- the check alone


def check(boxes: Sequence[Sequence[float]], name: str = "xywh-abs", size: tuple[int, int] = SIZE, **how: Any) -> None:
    asked = BoxCheck("a.json", NAMED[name], **how)
    for number, box in enumerate(boxes):
        asked.add(f"box {number}", box, size)
    asked.require(Ledger())


@pytest.mark.parametrize("name", ["xyxy-abs", "xywh-abs", "cxcywh-abs", "xyxy-norm1", "xywh-norm1", "xywh-norm1000"])
@pytest.mark.parametrize("own", ["xyxy-abs", "xywh-abs", "cxcywh-norm1", "xyxy-norm1"])
def test_each_convention_is_told_from_each_other(own: str, name: str) -> None:
    numbers = [written(box, name) for box in BOXES]
    check(numbers, name)
    if name != own:
        with pytest.raises(RowsError) as caught:
            check(numbers, own)
        assert mentions(caught.value, "a.json: ", own, f"--box-format {name};")


SOUND = [[10.0 * i, 5.0 * i, 30.0, 40.0] for i in range(1, 60)]
SPILL = [[600.0, 100.0, 80.0, 50.0]]
OF_FEW = [[300.0, 200.0, 500.0, 400.0], [320.0, 300.0, 640.0, 470.0], [1.0, 2.0, 30.0, 40.0]]
REFUSED = {
    "spilling over the edge": (SOUND[:40] + SPILL * 4, {}),
    "two of few, in corners": (OF_FEW, {}),
    "one in fractions": ([[0.1, 0.2, 0.5, 0.5]], {}),
    "two in whole fractions": ([[0.0, 0.0, 1.0, 1.0]] * 2, {}),
    "given, and wrong": (SPILL * 20, {"is_given": True}),
    "no clipping allowed": (SOUND[:40] + SPILL * 2, {"most": 0.0}),
    "thinned out": (SOUND * (4 * SAMPLE // len(SOUND)) + SPILL * 1000, {}),
}
ALLOWED = {
    "none": ([], {}),
    "sound": (SOUND, {}),
    "one in a hundred": (SOUND + SOUND + SPILL, {}),
    "one of two": (SPILL + SOUND[:1], {}),
    "by a pixel": ([[600.0, 100.0, 41.0, 50.0]] * 20, {}),
    "without extent, told one by one": (SOUND[:10] + [[10.0, 10.0, 0.0, 5.0]] * 10, {}),
    "one pixel in the corner": ([[0.0, 0.0, 1.0, 1.0]], {}),
    "most is clipped": (SPILL * 20, {"most": 1.0}),
    "in the upper left, as it is said": ([[2.0 * i, 2.0 * i, 9.0, 9.0] for i in range(1, 40)], {"is_given": True}),
    "thinned out": (SOUND * (4 * SAMPLE // len(SOUND)) + SPILL * 100, {}),
    "not finite": ([[float("nan"), 1.0, 2.0, 3.0]] * 20, {}),
}


@pytest.mark.parametrize(("boxes", "how"), REFUSED.values(), ids=REFUSED)
def test_refused(boxes: list[list[float]], how: dict[str, Any]) -> None:
    with pytest.raises(RowsError) as caught:
        check(boxes, **how)
    assert mentions(caught.value, "a.json: ")
    if boxes == REFUSED["spilling over the edge"][0]:  # no other convention fits
        assert mentions(caught.value, "box 40: 600 100 80 50", "--max-clipped 1")
        assert not mentions(caught.value, "--box-format")


@pytest.mark.parametrize(("boxes", "how"), ALLOWED.values(), ids=ALLOWED)
def test_allowed(boxes: list[list[float]], how: dict[str, Any]) -> None:
    check(boxes, **how)


@pytest.mark.parametrize("name", ["xyxy-norm100", "xyxy-norm1000"])
@pytest.mark.parametrize("declared", ["xywh-abs", "cxcywh-abs", "xyxy-abs"])
def test_other_units_on_large_images(declared: str, name: str) -> None:
    """All numbers lie in a corner of the image, whatever their order."""
    with pytest.raises(RowsError) as caught:
        check([written(box, name) for box in BOXES], declared, size=(4000, 3000))
    assert mentions(caught.value, f"--box-format {name};")


@pytest.mark.parametrize("order", ["xyxy", "xywh", "cxcywh", "yxyx"])
def test_corners_and_back(order: str) -> None:
    convention = Convention(order, "pixels")
    assert convention.as_written(convention.as_corners([0.25, 0.5, 0.75, 1.5])) == [0.25, 0.5, 0.75, 1.5]
    assert convention.as_corners(convention.as_written([1.0, 2.0, 3.0, 8.0])) == [1.0, 2.0, 3.0, 8.0]


@pytest.mark.parametrize(
    ("options", "value"),
    [*(({"max_clipped": it}, f"--max-clipped {it}: ") for it in (-0.1, 1.1)), ({"box_format": "xyxy"}, "xyxy: ")],
)
def test_flags(options: dict[str, Any], value: str) -> None:
    with pytest.raises(RowsError) as caught:
        coco.Options(**options)
    assert mentions(caught.value, value)
