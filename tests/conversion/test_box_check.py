"""Boxes in another convention than the converter takes: refused by their numbers, and read by `--box-format`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scene_sets.base import rows_in

from verl_visionr1.conversion.box_check import SAMPLE, BoxCheck
from verl_visionr1.conversion.conventions import NAMED, Convention
from verl_visionr1.conversion.datasets import (
    coco,
    crowdhuman,
    flickr30k,
    openimages,
    records,
    refcoco,
    vision_r1,
    visual_genome,
    vlm_r1,
    voc,
    yolo,
)
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.writing import Report
from verl_visionr1.files import RowsError
from verl_visionr1.targets import Target

SIZE = (640, 480)
N_IMAGES = 6
Box = tuple[float, float, float, float]
Numbers = list[list[float]]


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


def name_of(image: int) -> str:
    return f"{image + 1:012d}.jpg"


def save_images(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for image in range(N_IMAGES):
        Image.new("RGB", SIZE, (40 * image, 20, 90)).save(folder / name_of(image))
    return folder


# ---------------------------------------------------------------------------------------------- writers of each layout


def coco_json(numbers: list[Numbers]) -> dict[str, Any]:
    annotations = [
        {"id": 10 * i + j, "image_id": i, "category_id": 1, "bbox": box}
        for i, boxes in enumerate(numbers)
        for j, box in enumerate(boxes)
    ]
    images = [{"id": i, "file_name": name_of(i), "width": SIZE[0], "height": SIZE[1]} for i in range(N_IMAGES)]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}


def of_coco(folder: Path, numbers: list[Numbers], **options: Any) -> Report:
    (folder / "a.json").write_text(json.dumps(coco_json(numbers)))
    options = {"task": "grounding", **options}
    return coco.convert(
        folder / "a.json", save_images(folder / "images"), folder / "o.parquet", coco.Options(**options)
    )


def of_voc(folder: Path, numbers: list[Numbers], **options: Any) -> Report:
    (folder / "xml").mkdir(exist_ok=True)
    for i, boxes in enumerate(numbers):
        objects = "".join(
            "<object><name>cat</name><bndbox>"
            + "".join(f"<{corner}>{v}</{corner}>" for corner, v in zip(voc.CORNERS, box, strict=True))
            + "</bndbox></object>"
            for box in boxes
        )
        size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height></size>"
        (folder / "xml" / name_of(i)).with_suffix(".xml").write_text(f"<annotation>{size}{objects}</annotation>")
    options = {"task": "grounding", "zero_based": True, **options}
    return voc.convert(folder / "xml", save_images(folder / "images"), folder / "o.parquet", voc.Options(**options))


def of_yolo(folder: Path, numbers: list[Numbers], **options: Any) -> Report:
    (folder / "labels").mkdir(exist_ok=True)
    for i, boxes in enumerate(numbers):
        lines = "".join(f"0 {' '.join(map(repr, box))}\n" for box in boxes)
        (folder / "labels" / name_of(i)).with_suffix(".txt").write_text(lines)
    save_images(folder / "images")
    (folder / "data.yaml").write_text("train: images\nnames: [cat]\n")
    return yolo.convert(folder / "data.yaml", folder / "o.parquet", yolo.Options(task=yolo_task, **options))


yolo_task = coco.Options(task="grounding").task


def of_openimages(folder: Path, numbers: list[Numbers], **options: Any) -> Report:
    lines = ["ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf"]
    for i, boxes in enumerate(numbers):
        stem = Path(name_of(i)).stem
        lines += [f"{stem},x,/m/01,1,{a!r},{c!r},{b!r},{d!r},0" for a, b, c, d in boxes]
    (folder / "boxes.csv").write_text("\n".join(lines) + "\n")
    (folder / "classes.csv").write_text("/m/01,cat\n")
    out, images = folder / "o.parquet", save_images(folder / "images")
    asked = openimages.Options(task=yolo_task, **options)
    return openimages.convert(folder / "boxes.csv", folder / "classes.csv", images, out, asked)


def of_crowdhuman(folder: Path, numbers: list[Numbers], **options: Any) -> Report:
    lines = [
        {"ID": Path(name_of(i)).stem, "gtboxes": [{"tag": "person", "fbox": b, "vbox": b, "hbox": b} for b in boxes]}
        for i, boxes in enumerate(numbers)
    ]
    (folder / "a.odgt").write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = crowdhuman.Options(task=yolo_task, box="vbox", **options)
    return crowdhuman.convert(folder / "a.odgt", save_images(folder / "images"), folder / "o.parquet", asked)


def of_refcoco(folder: Path, numbers: list[Numbers], **options: Any) -> Report:
    document = coco_json(numbers)
    refs = [
        {
            "ref_id": it["id"],
            "ann_id": it["id"],
            "image_id": it["image_id"],
            "split": "train",
            "sentences": [{"sent": "it"}],
        }
        for it in document["annotations"]
    ]
    for name, content in (("grefs(unc).json", refs), ("instances.json", document)):
        (folder / name).write_text(json.dumps(content))
    sources = [folder / "grefs(unc).json", folder / "instances.json", save_images(folder / "images")]
    return refcoco.convert(sources, folder / "o.parquet", refcoco.Options(**options))


def of_vlm_r1(folder: Path, numbers: list[Numbers], **options: Any) -> Report:
    rows = [
        {
            "image": name_of(i),
            "conversations": [
                {"from": "human", "value": f"<image>{vlm_r1.REC} it."},
                {"from": "gpt", "value": json.dumps(boxes)},
            ],
        }
        for i, boxes in enumerate(numbers)
    ]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    images = save_images(folder / "images")
    return vlm_r1.convert(folder / "a.jsonl", images, folder / "o.parquet", vlm_r1.Options(**options))


def of_vision_r1(folder: Path, numbers: list[Numbers], **options: Any) -> Report:
    rows = [
        {
            "image": str(save_images(folder / "images").absolute() / name_of(i)),
            "problem": vision_r1.PHRASES[0][0] + "it" + vision_r1.PHRASES[0][1],
            "solution": json.dumps([["it", boxes]]),
            "width": SIZE[0],
            "height": SIZE[1],
        }
        for i, boxes in enumerate(numbers)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    return vision_r1.convert(folder / "train.parquet", folder / "o.parquet", vision_r1.Options(**options))


def of_visual_genome(folder: Path, numbers: list[Numbers], **options: Any) -> Report:
    entries = [
        {
            "id": i + 1,
            "regions": [
                {"region_id": j, "phrase": f"it {j}", "x": box[0], "y": box[1], "width": box[2], "height": box[3]}
                for j, box in enumerate(boxes)
            ],
        }
        for i, boxes in enumerate(numbers)
    ]
    (folder / "r.json").write_text(json.dumps(entries))
    images = folder / "images" / "VG_100K"
    for i in range(N_IMAGES):
        images.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE, (40 * i, 20, 90)).save(images / f"{i + 1}.jpg")
    asked = visual_genome.Options(**options)
    return visual_genome.convert(folder / "r.json", folder / "images", folder / "o.parquet", asked)


def of_records(folder: Path, numbers: list[Numbers], **options: Any) -> Report:
    rows = [{"file": name_of(i), "what": ["cat"] * len(boxes), "box": boxes} for i, boxes in enumerate(numbers)]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = ["image=file", "label=what", "boxes=box"]
    asked = {"task": "grounding", "images_dir": save_images(folder / "images"), "box_format": "xyxy-abs", **options}
    return records.convert(folder / "a.jsonl", folder / "o.parquet", records.Options(column=columns, **asked))


def of_phrases(folder: Path, numbers: list[Numbers], **options: Any) -> Report:
    rows = [{"file": name_of(i), "what": "it", "box": boxes} for i, boxes in enumerate(numbers)]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = ["image=file", "phrase=what", "boxes=box"]
    asked = {"images_dir": save_images(folder / "images"), "box_format": "xyxy-abs", **options}
    return records.convert(folder / "a.jsonl", folder / "o.parquet", records.Options(column=columns, **asked))


@dataclass(frozen=True)
class Reader:
    convert: Callable[..., Report]
    own: str


READERS = {
    "coco": Reader(of_coco, "xywh-abs"),
    "voc": Reader(of_voc, "xyxy-abs"),
    "yolo": Reader(of_yolo, "cxcywh-norm1"),
    "openimages": Reader(of_openimages, "xyxy-norm1"),
    "crowdhuman": Reader(of_crowdhuman, "xywh-abs"),
    "refcoco": Reader(of_refcoco, "xywh-abs"),
    "vlm_r1": Reader(of_vlm_r1, "xyxy-abs"),
    "vision_r1": Reader(of_vision_r1, "xyxy-abs"),
    "visual_genome": Reader(of_visual_genome, "xywh-abs"),
    "records": Reader(of_records, "xyxy-abs"),
    "records of phrases": Reader(of_phrases, "xyxy-abs"),
}
WRONG = ("xyxy-abs", "xywh-abs", "cxcywh-abs", "xyxy-norm1", "xywh-norm1000")
PAIRS = [(reader, name) for reader, it in READERS.items() for name in WRONG if name != it.own]


def numbers_in(name: str) -> list[Numbers]:
    return [[written(box, name) for box in boxes_of(image)] for image in range(N_IMAGES)]


def truth(report: Report) -> list[Box]:
    targets = [Target.from_json(row["reward_model"]["ground_truth"]) for row in rows_in(report)]
    return sorted(box for target in targets for box in target.boxes_xyxy)


ALL = sorted(box for image in range(N_IMAGES) for box in boxes_of(image))


@pytest.mark.parametrize(("reader", "name"), PAIRS, ids=[f"{reader}, {name}" for reader, name in PAIRS])
@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_another_convention_is_refused_with_the_option_that_reads_it(
    reader: str, name: str, on_error: str, tmp_path: Path
) -> None:
    with pytest.raises(RowsError) as caught:
        READERS[reader].convert(tmp_path, numbers_in(name), on_error=on_error)
    assert type(caught.value) is RowsError
    assert f"give --box-format {name};" in str(caught.value)
    assert not (tmp_path / "o.parquet").exists()


@pytest.mark.parametrize("reader", READERS)
def test_own_convention_and_named_ones_are_read(reader: str, tmp_path: Path) -> None:
    for number, name in enumerate((READERS[reader].own, *WRONG, "xywh-norm100")):
        folder = tmp_path / str(number)
        folder.mkdir()
        options = {} if number == 0 else {"box_format": name}
        report = READERS[reader].convert(folder, numbers_in(name), **options)
        assert np.array(truth(report)) == pytest.approx(np.array(ALL), abs=0.011)
        assert report.ledger.notes["box clipped to its image"] == 0


def test_flickr30k_reads_named_conventions(tmp_path: Path) -> None:
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Sentences").mkdir()
    images = save_images(tmp_path / "images")
    size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height></size>"

    def convert(name: str, **options: Any) -> Report:
        for i in range(N_IMAGES):
            stem = Path(name_of(i)).stem
            objects = ""
            for j, box in enumerate(boxes_of(i)):
                numbers = [int(v) for v in written(box, name)]
                corners = "".join(f"<{c}>{v}</{c}>" for c, v in zip(voc.CORNERS, numbers, strict=True))
                objects += f"<object><name>{j + 1}</name><bndbox>{corners}</bndbox></object>"
            (tmp_path / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
            phrases = " ".join(f"[/EN#{j + 1}/other it {j}]" for j in range(4))
            (tmp_path / "Sentences" / f"{stem}.txt").write_text(phrases + "\n")
        (tmp_path / "train.txt").write_text("".join(f"{Path(name_of(i)).stem}\n" for i in range(N_IMAGES)))
        return flickr30k.convert(tmp_path, images, tmp_path / "o.parquet", flickr30k.Options(**options))

    with pytest.raises(RowsError, match="give --box-format xywh-abs;"):
        convert("xywh-abs")
    assert truth(convert("xywh-abs", box_format="xywh-abs"))[-1] == pytest.approx((447.0, 43.0, 632.0, 104.0), abs=9)


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
