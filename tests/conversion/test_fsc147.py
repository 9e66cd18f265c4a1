"""visionr1 convert fsc147: the 384-high frame, classes, exemplars, FSCD-147's boxes, repeated images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from refused import bad_entry, mentions

from verl_visionr1.conversion.datasets import fsc147
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.rows import read_rows, target_of

POINTS = [[240.5, 20.25], [30.0, 300.0], [100.0, 200.0]]
BOXES = [[230, 10, 20, 20], [20, 290, 20, 20], [90, 190, 20, 20]]  # x, y, width, height


class Source:
    """FSC-147 in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.images, self.out = folder, folder / "images_384_VarV2", folder / "out.parquet"
        self.images.mkdir()
        self.entries: dict[str, Any] = {}
        self.splits: dict[str, list[str]] = {"train": [], "val": [], "test": [], "val_coco": [], "test_coco": []}
        self.classes = ""
        self.colour = 0

    def image(
        self,
        name: str,
        words: str = "sea shells",
        split: str = "train",
        points: Any = POINTS,
        size: tuple[int, int] = (512, 384),
        **changes: Any,
    ) -> dict[str, Any]:
        self.colour += 1
        Image.new("RGB", size, (self.colour, 90, 90)).save(self.images / name)
        exemplar = [[230, 10], [230, 30], [250, 30], [250, 10]]
        entry = {
            "H": 768,
            "W": 1024,
            "ratio_h": 0.5,
            "ratio_w": 0.5,
            "r": [3, 3],
            "points": points,
            "box_examples_coordinates": [exemplar] * 4,
            "density_path": f"/nfs/density/{name}.npy",
            "img_path": f"/nfs/images/{name}",
        }
        self.entries[name] = {**entry, **changes}
        self.splits[split].append(name)
        self.classes += f"{name}\t{words}\n"
        return self.entries[name]

    def boxes(self, boxes: list[list[float]], name: str = "2.jpg") -> Path:
        path = self.folder / "instances_test.json"
        annotations = [{"id": i, "image_id": 7, "category_id": 1, "bbox": box} for i, box in enumerate(boxes)]
        image = {"id": 7, "file_name": name, "width": 512, "height": 384}
        path.write_text(json.dumps({"images": [image], "annotations": annotations, "categories": []}))
        return path

    def arguments(self) -> list[Path]:
        names = ("annotation_FSC147_384.json", "Train_Test_Val_FSC_147.json", "ImageClasses_FSC147.txt")
        paths = [self.folder / name for name in names]
        for path, text in zip(paths, (json.dumps(self.entries), json.dumps(self.splits), self.classes), strict=True):
            path.write_text(text)
        return [*paths, self.images, self.out]

    def convert(self, **options: Any) -> tuple[list[dict[str, Any]], Any]:
        report = fsc147.convert(*self.arguments(), fsc147.Options(**options))
        return list(read_rows(self.out)), report


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


def test_plural_classes_are_asked_for_in_a_question(source: Source) -> None:
    source.image("2.jpg", "sea shells")
    source.image("3.jpg", "m&m_pieces")
    rows, _ = source.convert()
    assert [row["prompt"][0]["content"] for row in rows] == [
        "<image>How many sea shells are there in the image? Answer with the number alone.",
        "<image>How many m&m pieces are there in the image? Answer with the number alone.",
    ]
    assert [target_of(row).categories for row in rows] == [("sea shells",), ("m&m pieces",)]


def test_point_over_the_edge_is_counted(source: Source) -> None:
    source.image("2.jpg", points=[*POINTS, [514, 20]])
    (row,), report = source.convert()
    assert (target_of(row).count, len(target_of(row).points_xy)) == (4, 3)
    assert report.ledger.notes["point outside its image: counted without its place"] == 1


def test_original_images_are_refused(source: Source) -> None:
    source.image("2.jpg", size=(1024, 768))
    with pytest.raises(RowError) as caught:
        source.convert()
    assert mentions(caught.value, "annotation_FSC147_384.json: '2.jpg': ", "1024 x 768", 384, "images_384_VarV2")


def test_boxes_stand_for_the_points(source: Source) -> None:
    source.image("2.jpg")
    rows, _ = source.convert(boxes=source.boxes(BOXES), task="both")
    counting, pointing = map(target_of, rows)
    assert counting.boxes_xyxy == ((20, 290, 40, 310), (90, 190, 110, 210), (230, 10, 250, 30))
    assert (counting.count, counting.points_xy, len(counting.labels)) == (3, (), 3)
    assert (pointing.boxes_xyxy, len(pointing.points_xy)) == ((), 3)


@pytest.mark.parametrize("boxes", [BOXES[:2], [[2 * v for v in box] for box in BOXES]], ids=["fewer", "other frame"])
def test_boxes_that_do_not_fit_the_points(source: Source, boxes: list[list[float]]) -> None:
    source.image("2.jpg")
    rows, report = source.convert(boxes=source.boxes(boxes))
    assert (target_of(rows[0]).boxes_xyxy, len(target_of(rows[0]).points_xy)) == ((), 3)
    assert report.ledger.notes["boxes that do not fit the points of their image: points used"] == len(boxes)


def test_boxes_of_another_layout(source: Source) -> None:
    source.image("2.jpg")
    path = source.boxes(BOXES)
    path.write_text('{"images": [], "annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4]}]}')
    with pytest.raises(RowsError, match=r"instances_test\.json: .*KeyError: 1.*instances_val\.json"):
        source.convert(boxes=path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": None}, "'3.jpg': points None"),
        ({"points": [[1, 2, 3]]}, "'3.jpg': point [1, 2, 3]"),
        ({"points": [["1", 2]]}, "'3.jpg': point ['1', 2]"),
    ],
)
def test_bad_entries(source: Source, change: dict[str, Any], message: str) -> None:
    source.image("2.jpg")
    source.image("3.jpg", **change)
    error, rows, _ = bad_entry(source.convert)
    assert str(error).startswith(f"annotation_FSC147_384.json: {message}")
    assert (len(rows), error.kind) == (1, "point malformed")


def test_image_without_annotation_or_class(source: Source) -> None:
    source.image("2.jpg")
    source.image("3.jpg")
    del source.entries["3.jpg"]
    with pytest.raises(RowError, match=r"'3\.jpg': .* no annotation"):
        source.convert()
    source.image("3.jpg")
    source.classes = "2.jpg\tsea shells\n"
    with pytest.raises(RowError, match=r"'3\.jpg': .* no class"):
        source.convert()


@pytest.mark.parametrize("line", ["3.jpg", "3.jpg\t", "2.jpg\tapples"])
def test_bad_line_of_classes(source: Source, line: str) -> None:
    source.image("2.jpg")
    source.classes += line + "\n"
    with pytest.raises(RowsError, match=r"ImageClasses_FSC147\.txt: line '.*': "):
        source.convert()


def test_splits(source: Source) -> None:
    source.image("2.jpg")
    source.image("3.jpg", split="val")
    rows, _ = source.convert(split="val")
    assert [row["extra_info"]["file_name"] for row in rows] == ["3.jpg"]
    with pytest.raises(RowsError) as caught:
        source.convert(split="dev")
    assert mentions(caught.value, "--split dev: ", "train, val, test, val_coco, test_coco")


def test_name_that_leads_out_is_refused(source: Source) -> None:
    source.image("2.jpg")
    (source.folder / "secret.jpg").write_bytes((source.images / "2.jpg").read_bytes())
    source.splits["train"].append("../secret.jpg")
    with pytest.raises(RowError, match=r"file_name '\.\./secret\.jpg'"):
        source.convert()
    _, report = source.convert(on_error="skip")
    assert report.ledger.notes["image that is in this split under another name"] == 0


def test_images_384_high_need_no_ratio(source: Source) -> None:
    entry = source.image("2.jpg")
    for key in ("H", "W", "ratio_h", "ratio_w"):
        del entry[key]
    assert len(source.convert()[0]) == 1


def test_images_of_another_height_need_their_ratio(source: Source) -> None:
    source.image("2.jpg", size=(512, 385), H=770)
    assert len(source.convert()[0]) == 1
    source.entries["2.jpg"]["ratio_h"] = "half"
    with pytest.raises(RowError, match="512 x 385"):
        source.convert()
