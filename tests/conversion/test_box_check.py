"""Boxes in another convention than the converter takes: refused by their numbers, and read by `--box-format`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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


OWN = {  # format of the scene sets -> how it writes boxes
    "coco grounding": "xywh-abs",
    "lvis grounding": "xywh-abs",
    "ovdeval grounding": "xywh-abs",
    "d3 inter-group": "xywh-abs",
    "labelimg": "xyxy-abs",
    "yolo of roboflow": "cxcywh-norm1",
    "openimages grounding": "xyxy-norm1",
    "crowdhuman vbox": "xywh-abs",
    "refcoco": "xywh-abs",
    "vlm_r1 conversations": "xyxy-abs",
    "vision_r1": "xyxy-abs",
    "visual genome": "xywh-abs",
    "records table of phrases": "xywh-abs",
}
READERS = {form.name: form for form in FORMATS if form.name in OWN}
WRONG = ("xyxy-abs", "xywh-abs", "cxcywh-abs", "xyxy-norm1", "xywh-norm1000")
PAIRS = [(reader, name) for reader, own in OWN.items() for name in WRONG if name != own]


def convert(reader: str, name: str, folder: Path, **options: Any) -> Report:
    """Convert numbers of a convention."""
    form, labels = READERS[reader], [PERSON] * 4 if "crowdhuman" in reader else LABELS
    arguments = form.write(tuple(pictures(OWN[reader], name, labels)), folder / "source")
    return form.convert(*arguments, folder / "o.parquet", replace(form.options, **options))


@pytest.mark.parametrize(("reader", "name"), PAIRS, ids=[f"{reader}, {name}" for reader, name in PAIRS])
@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_another_convention_is_refused_with_the_option_that_reads_it(
    reader: str, name: str, on_error: str, tmp_path: Path
) -> None:
    with pytest.raises(RowsError) as caught:
        convert(reader, name, tmp_path, on_error=on_error)
    assert type(caught.value) is RowsError
    assert f"give --box-format {name};" in str(caught.value)
    assert not (tmp_path / "o.parquet").exists()


@pytest.mark.parametrize("reader", READERS)
def test_own_convention_and_named_ones_are_read(reader: str, tmp_path: Path) -> None:
    boxes = np.array(sorted(box for image in range(N_IMAGES) for box in boxes_of(image)))
    for number, name in enumerate((OWN[reader], *WRONG, "xywh-norm100")):
        report = convert(reader, name, tmp_path / str(number), **{"box_format": name} if number else {})
        found = np.unique([box for row in rows_in(report) for box in target(row).boxes_xyxy], axis=0)
        assert found == pytest.approx(boxes, abs=0.011)
        assert report.ledger.notes["box clipped to its image"] == 0


# ---------------------------------------------------------------------------------------------- the check alone


def check(boxes: list[list[float]], name: str = "xywh-abs", size: tuple[int, int] = SIZE, **how: Any) -> Ledger:
    ledger = Ledger()
    asked = BoxCheck("a.json", NAMED[name], **how)
    for number, box in enumerate(boxes):
        asked.add(f"box {number}", box, size)
    asked.require(ledger)
    return ledger


SOUND = [[10.0 * i, 5.0 * i, 30.0, 40.0] for i in range(1, 60)]
SPILL = [[600.0, 100.0, 80.0, 50.0]]
REFUSED = {
    "spilling over the edge": (SOUND[:40] + SPILL * 4, {}),
    "two of few, in corners": (
        [[300.0, 200.0, 500.0, 400.0], [320.0, 300.0, 640.0, 470.0], [1.0, 2.0, 30.0, 40.0]],
        {},
    ),
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


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str) -> None:
    boxes, how = REFUSED[what]
    with pytest.raises(RowsError, match=r"a\.json"):
        check(boxes, **how)


@pytest.mark.parametrize("what", ALLOWED)
def test_allowed(what: str) -> None:
    boxes, how = ALLOWED[what]
    check(boxes, **how)


def test_spilling_names_no_other_convention() -> None:
    with pytest.raises(RowsError, match="--max-clipped 1") as caught:
        check(SOUND[:40] + SPILL * 4)
    assert "--box-format" not in str(caught.value)
    assert "box 40: 600 100 80 50" in str(caught.value)


@pytest.mark.parametrize("name", ["xyxy-norm100", "xyxy-norm1000"])
@pytest.mark.parametrize("declared", ["xywh-abs", "cxcywh-abs", "xyxy-abs"])
def test_other_units_on_large_images(declared: str, name: str) -> None:
    """All numbers lie in a corner of the image, whatever their order."""
    numbers = [written(box, name) for image in range(N_IMAGES) for box in boxes_of(image)]
    with pytest.raises(RowsError, match=f"give --box-format {name};"):
        check(numbers, declared, size=(4000, 3000))


@pytest.mark.parametrize("order", ["xyxy", "xywh", "cxcywh", "yxyx"])
@pytest.mark.parametrize("unit", ["pixels", "1", "1000"])
def test_corners_and_back(order: str, unit: str) -> None:
    convention = Convention(order, unit)
    assert convention.as_written(convention.as_corners([0.25, 0.5, 0.75, 1.5])) == [0.25, 0.5, 0.75, 1.5]
    assert convention.as_corners(convention.as_written([1.0, 2.0, 3.0, 8.0])) == [1.0, 2.0, 3.0, 8.0]


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_share_must_be_one(value: float) -> None:
    with pytest.raises(RowsError, match="--max-clipped"):
        coco.Options(max_clipped=value)
    with pytest.raises(RowsError, match="--box-format xyxy: "):
        coco.Options(box_format="xyxy")
