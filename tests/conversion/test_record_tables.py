"""visionr1 convert records: a box a line, images inside records, and tables however they are written."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from recorded import BOX, COLUMNS, HEIGHT, NAME, PICTURE, WIDTH, convert, converted
from refused import mentions
from scene_sets.base import prompt, target
from scene_sets.row_files import write_jsonl, write_parquet
from scene_sets.tables import write_csv

from verl_visionr1.conversion.datasets import records
from verl_visionr1.files import RowError, RowsError


@pytest.fixture(autouse=True)
def images(tmp_path: Path) -> None:
    PICTURE.save(tmp_path)
    PICTURE.save(tmp_path, "b.png")


def tf_row(label: str = "cat", corners: tuple[Any, ...] = BOX, name: str = NAME) -> dict[str, Any]:
    size = {"filename": name, "width": WIDTH, "height": HEIGHT, "class": label}
    return {**size, **dict(zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))}


PHRASES = ("image=filename", "width=width", "height=height", "phrase=class", "boxes=xmin,ymin,xmax,ymax")


@pytest.mark.parametrize(
    "options", [{"preset": "tf-csv", "task": "detection"}, {"column": PHRASES, "box_format": "xyxy-abs"}]
)
@pytest.mark.parametrize(
    "names",
    [
        (NAME, f"./{NAME}", f"images/{NAME}", f"D:\\images\\{NAME}"),
        ("caf\u00e9.png", "cafe\u0301.png", "caf%C3%A9.png"),
    ],
)
def test_lines_of_one_image_belong_together(names: tuple[str, ...], options: Any, tmp_path: Path) -> None:
    PICTURE.save(tmp_path, names[0])
    rows = [tf_row(corners=(10 * i, 2, 10 * i + 8, 20), name=name) for i, name in enumerate(names)]
    rows.insert(1, tf_row(name="b.png"))
    found, _ = converted(write_csv(tmp_path / "a.csv", rows), images_dir=tmp_path, **options)
    lefts = [[box[0] for box in target(it).boxes_xyxy] for it in found]
    assert lefts == [[10 * i for i in range(len(names))], [BOX[0]]]


def test_images_of_one_end_of_their_names_are_not_put_together(tmp_path: Path) -> None:
    rows = [tf_row(name="cam1/b.png"), tf_row(corners=(1, 2, 30, 40), name="cam2/b.png")]
    with pytest.raises(RowError) as caught:
        converted(write_csv(tmp_path / "a.csv", rows), preset="tf-csv")
    assert caught.value.kind == "two names of one image file"


def test_a_line_without_a_box_is_an_image_without_objects(tmp_path: Path) -> None:
    rows = [{"path": str(tmp_path / NAME), **dict(zip("abcd", BOX, strict=True)), "class": "cat"}]
    rows.append({**dict.fromkeys(rows[0], ""), "path": str(tmp_path / "b.png")})
    path = write_csv(tmp_path / "a.csv", rows, header=False)
    (_,), report = converted(path, preset="retinanet-csv", task="grounding")
    found, report = converted(path, preset="retinanet-csv", task="grounding", negatives=0.5)
    assert [len(target(it).boxes_xyxy) for it in found] == [1, 0]
    found, report = converted(path, preset="retinanet-csv", task="detection", min_instances=0)
    assert report.negatives == {"detection": 1}
    assert all("If there is none" in prompt(it) for it in found)


@pytest.mark.parametrize("corners", [(50, 16, 40, 60), ("a", 1, 2, 3), ("", "", "", "")])
def test_what_has_a_bad_box_is_not_called_absent(corners: tuple[Any, ...], tmp_path: Path) -> None:
    rows = [tf_row("dog"), tf_row("cat", corners), tf_row("cat", name="b.png")]
    path = write_csv(tmp_path / "a.csv", rows)
    with pytest.raises(RowError) as caught:
        converted(path, preset="tf-csv")
    assert mentions(caught.value, "line 3")
    found, report = converted(path, preset="tf-csv", task="grounding", negatives=0.4, on_error="skip")
    assert sum(report.ledger.skipped.values()) == 1
    empty = [(target(it).categories, it["extra_info"]["file_name"]) for it in found if not target(it).boxes_xyxy]
    assert empty == [(("dog",), "b.png")]


def test_labels_that_are_numbers(tmp_path: Path) -> None:
    columns = ("image=image", "label=objects.category", "boxes=objects.bbox")
    made = {"image": NAME, "objects": {"bbox": [list(BOX)], "category": [1]}}
    options = {"column": columns, "box_format": "xyxy-abs", "task": "detection"}
    for category, class_names in ([1], None), ([7], "cat,dog"), (["bird"], "cat,dog"):
        bad = {**made, "objects": {**made["objects"], "category": category}}
        with pytest.raises(RowError) as caught:
            convert(tmp_path, bad, **options, class_names=class_names)
        assert mentions(caught.value, f"line 1: label {category[0]!r}", "--class-names")
    (found,), _ = convert(tmp_path, made, **options, class_names="cat, dog")
    assert (target(found).labels, target(found).categories) == (("dog",), ("cat", "dog"))


def test_labels_and_boxes_of_different_number(tmp_path: Path) -> None:
    made = {"image": NAME, "l": ["cat"], "b": [list(BOX), [1, 2, 30, 40]]}
    with pytest.raises(RowError, match=r"a\.jsonl: line 1: 1 .*2"):
        convert(tmp_path, made, column=("image=image", "label=l", "boxes=b"), box_format="xyxy-abs")


def test_a_missing_image_costs_its_lines_only(tmp_path: Path) -> None:
    def line(name: str, label: str) -> dict[str, Any]:
        return {"image": name, "label": label, **dict(zip("abcd", BOX, strict=True))}

    path = write_csv(tmp_path / "a.csv", [line("none.png", "cat"), line("none.png", "dog"), line(NAME, "dog")])
    options = {"column": ("image=image", "label=label", "boxes=a,b,c,d"), "box_format": "xyxy-abs"}
    (found,), report = converted(path, **options, on_error="skip", task="detection")
    assert target(found).labels == ("dog",)
    assert report.ledger.skipped == {"image file missing": 1}
    assert report.ledger.left_out["record of an image left out"] == 1


def test_lines_of_one_image_and_two_sizes(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [tf_row(), {**tf_row(), "width": 7}])
    with pytest.raises(RowError) as caught:
        converted(path, column=PHRASES, box_format="xyxy-abs")
    assert mentions(caught.value, "line 3", (7, 120), (160, 120), "a.csv: line 2")


def test_imagefolder_needs_a_format(tmp_path: Path) -> None:
    objects = {"bbox": [list(BOX)], "categories": ["cat"]}
    write_jsonl(tmp_path / "metadata.jsonl", [{"file_name": NAME, "objects": objects}])
    out = tmp_path / "out.parquet"
    with pytest.raises(RowsError) as caught:
        records.convert(tmp_path, out, records.Options(preset="imagefolder"))
    assert mentions(caught.value, "metadata.jsonl: line 1", "--box-format")
    report = records.convert(tmp_path, out, records.Options(preset="imagefolder", box_format="xyxy-abs"))
    assert report.rows == {"detection": 1, "grounding": 1}


def embedded(number: int, **changes: Any) -> dict[str, Any]:
    """A row whose image goes by the name that all have."""
    data = io.BytesIO()
    Image.new("RGB", (100, 80), (number, 0, 0)).save(data, "PNG")
    return {"image": {"bytes": data.getvalue(), "path": "image.png"}, **changes}


def test_embedded_images_are_told_apart_by_their_bytes(tmp_path: Path) -> None:
    boxes = [[1.0, 2.0, 10.0, 10.0], [30.0, 2.0, 10.0, 10.0]]
    rows = [embedded(i, objects={"bbox": [box], "categories": ["cat"]}) for i, box in enumerate(boxes)]
    options = {"preset": "imagefolder", "column": ["image=image"], "box_format": "xywh-abs", "task": "detection"}
    found, _ = converted(write_parquet(tmp_path / "hf.parquet", rows), **options)
    assert [target(it).boxes_xyxy for it in found] == [((1, 2, 11, 12),), ((30, 2, 40, 12),)]
    assert len({it["images"][0] for it in found}) == 2


def test_embedded_images_with_a_box_a_record(tmp_path: Path) -> None:
    """Those of the same bytes are put together, those of the same path are not."""
    places = [(0, 5.0), (1, 30.0), (0, 60.0)]
    rows = [embedded(i, text="cat", x1=x, y1=2.0, x2=x + 8, y2=9.0) for i, x in places]
    columns = ["image=image", "phrase=text", "boxes=x1,y1,x2,y2"]
    found, _ = converted(write_parquet(tmp_path / "hf.parquet", rows), column=columns, box_format="xyxy-abs")
    assert [[box[0] for box in target(it).boxes_xyxy] for it in found] == [[5, 60], [30]]


def test_folder_of_save_to_disk(tmp_path: Path) -> None:
    folder = tmp_path / "saved" / "train"
    table = pa.Table.from_pylist(
        [embedded(0, problem="Where?", solution="<answer>[{'Position':[1,2,500,600]}]</answer>")]
    )
    folder.mkdir(parents=True)
    for name in ("data-00000-of-00001.arrow", "cache-0123456789abcdef.arrow"):
        with pa.ipc.new_stream(folder / name, table.schema) as stream:
            stream.write_table(table)
    for name in ("dataset_info.json", "state.json", "notes.json"):
        (folder / name).write_text("{}")
    for source in (folder, folder.parent):
        report = records.convert(source, tmp_path / "out.parquet", records.Options(preset="visual-rft"))
        assert report.written.rows == 1


@pytest.mark.parametrize("column", [COLUMNS, ("image=image", "label=objects.category", "boxes=objects.bbox")])
def test_a_broken_parquet_file(column: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(RowsError) as caught:
        converted(path, column=column, box_format="xyxy-abs")
    assert mentions(caught.value, f"{path}: ")


@pytest.mark.parametrize("sign", [",", ", ", ";", "; ", "\t"])
def test_tables_are_read_whatever_stands_between_their_fields(sign: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    header = ",filename,width,height,class,xmin,ymin,xmax,ymax"  # pandas's index has no name
    line = f"0,{NAME},{WIDTH},{HEIGHT},a cat,8,16,40,60"
    path.write_text(f"{header}\n{line}\n".replace(",", sign))
    (found,), _ = converted(path, preset="tf-csv", task="detection")
    assert (target(found).labels, target(found).boxes_xyxy) == (("a cat",), (BOX,))


HEADER = "filename,class,xmin,ymin,xmax,ymax,width,height"
LINE = f"{NAME},caf\u00e9,8,16,40,60,{WIDTH},{HEIGHT}"
BAD_TABLES = {
    "comma in a number": (LINE.replace(",8,", ',"8,5",'), "utf-8", ("a.csv: line 3: box", "8,5")),
    "unit": (LINE.replace(",8,", ",8px,"), "utf-8", ("a.csv: line 3: box", "8px")),
    "surplus field": (f"{LINE},98", "utf-8", ("a.csv: line 3: ", "'98'")),
    "utf-16": (LINE, "utf-16", ("a.csv: ", "UTF-8")),
    "latin-1": (LINE, "latin-1", ("a.csv: ", "UTF-8")),
}


@pytest.mark.parametrize(("line", "encoding", "values"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_bad_tables(line: str, encoding: str, values: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(f"{HEADER}\n{LINE}\n{line}\n".encode(encoding))
    with pytest.raises(RowsError) as caught:
        converted(path, preset="tf-csv")
    assert mentions(caught.value, *values)
