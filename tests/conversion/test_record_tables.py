"""visionr1 convert records: a box a line, images inside records, and tables however they are written."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from recorded import BOX, HEIGHT, NAME, PICTURE, WIDTH, convert, converted
from refused import bad_entry
from scene_sets.base import NAMES, prompt, target
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


def test_lines_of_one_image_belong_together(tmp_path: Path) -> None:
    rows = [tf_row("cat"), tf_row("dog", name="b.png"), tf_row("dog", (1, 2, 30, 40))]
    found, _ = converted(write_csv(tmp_path / "a.csv", rows), preset="tf-csv", task="detection")
    assert [target(it).labels for it in found] == [("cat", "dog"), ("dog",)]
    assert {target(it).categories for it in found} == {("cat", "dog")}


@pytest.mark.parametrize("how", ["tf-csv", "phrases"])
@pytest.mark.parametrize(
    ("file", "names"),
    [
        (NAME, (NAME, f"./{NAME}", f"x/../{NAME}")),
        (NAME, (NAME, f"images/{NAME}", f"D:\\images\\{NAME}")),
        ("caf\u00e9.png", ("caf\u00e9.png", "cafe\u0301.png", "caf%C3%A9.png")),
    ],
)
def test_lines_of_one_image_under_several_names_belong_together(
    file: str, names: tuple[str, ...], how: str, tmp_path: Path
) -> None:
    PICTURE.save(tmp_path, file)
    rows = [tf_row(corners=(10 * i, 2, 10 * i + 8, 20), name=name) for i, name in enumerate(names)]
    columns = ("image=filename", "width=width", "height=height", "phrase=class", "boxes=xmin,ymin,xmax,ymax")
    options = {"preset": how, "task": "detection"} if how == "tf-csv" else {"column": columns, "box_format": "xyxy-abs"}
    (found,), _ = converted(write_csv(tmp_path / "a.csv", rows), images_dir=tmp_path, **options)
    assert [box[0] for box in target(found).boxes_xyxy] == [0, 10, 20]


def test_images_of_one_end_of_their_names_are_not_put_together(tmp_path: Path) -> None:
    rows = [tf_row(name="cam1/b.png"), tf_row(corners=(1, 2, 30, 40), name="cam2/b.png")]
    path = write_csv(tmp_path / "a.csv", rows)
    with pytest.raises(RowError) as caught:
        converted(path, preset="tf-csv")
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
    with pytest.raises(RowError, match=r"line 3"):
        converted(path, preset="tf-csv")
    found, report = converted(path, preset="tf-csv", task="grounding", negatives=0.4, on_error="skip")
    assert sum(report.ledger.skipped.values()) == 1
    empty = [(target(it).categories, it["extra_info"]["file_name"]) for it in found if not target(it).boxes_xyxy]
    assert empty == [(("dog",), "b.png")]


def test_labels_that_are_numbers(tmp_path: Path) -> None:
    columns = ("image=image", "label=objects.category", "boxes=objects.bbox")
    made = {"image": NAME, "objects": {"bbox": [list(BOX)], "category": [1]}}
    options = {"column": columns, "box_format": "xyxy-abs", "task": "detection"}
    with pytest.raises(RowError, match=r"line 1: label 1: .*--class-names"):
        convert(tmp_path, made, **options)
    with pytest.raises(RowError, match=r"label 7: .*--class-names"):
        convert(tmp_path, {**made, "objects": {"bbox": [list(BOX)], "category": [7]}}, **options, class_names="cat,dog")
    (found,), _ = convert(tmp_path, made, **options, class_names="cat, dog")
    assert (target(found).labels, target(found).categories) == (("dog",), ("cat", "dog"))
    made["objects"]["category"] = ["bird"]
    with pytest.raises(RowError, match=r"label 'bird': .*2 --class-names"):
        convert(tmp_path, made, **options, class_names="cat,dog")


def test_labels_and_boxes_of_different_number(tmp_path: Path) -> None:
    made = {"image": NAME, "l": ["cat"], "b": [list(BOX), [1, 2, 30, 40]]}
    with pytest.raises(RowError, match=r"a\.jsonl: line 1: 1 labels .*2 boxes"):
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
    columns = ("image=filename", "width=width", "height=height", "phrase=class", "boxes=xmin,ymin,xmax,ymax")
    path = write_csv(tmp_path / "a.csv", [tf_row(), {**tf_row(), "width": 7}])
    with pytest.raises(RowError, match=r"line 3: .*\(7, 120\).*\(160, 120\) .*a\.csv: line 2"):
        converted(path, column=columns, box_format="xyxy-abs")


def test_imagefolder_needs_a_format(tmp_path: Path) -> None:
    objects = {"bbox": [list(BOX)], "categories": ["cat"]}
    write_jsonl(tmp_path / "metadata.jsonl", [{"file_name": NAME, "objects": objects}])
    out = tmp_path / "out.parquet"
    with pytest.raises(RowsError, match="--box-format"):
        records.convert(tmp_path, out, records.Options(preset="imagefolder"))
    report = records.convert(tmp_path, out, records.Options(preset="imagefolder", box_format="xyxy-abs"))
    assert report.rows == {"detection": 1, "grounding": 1}


def test_names_of_scenes_are_sorted() -> None:
    """What `--class-names` of the scene sets rests on."""
    assert list(NAMES) == sorted(NAMES)


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


@pytest.mark.parametrize("sign", [",", ", ", ";", "; ", "\t"])
def test_tables_are_read_whatever_stands_between_their_fields(sign: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    header = "filename,width,height,class,xmin,ymin,xmax,ymax"
    line = f"{NAME},{WIDTH},{HEIGHT},a cat,8,16,40,60"
    path.write_text(f"{header}\n{line}\n".replace(",", sign))
    (found,), _ = converted(path, preset="tf-csv", task="detection")
    assert (target(found).labels, target(found).boxes_xyxy) == (("a cat",), (BOX,))


@pytest.mark.parametrize("corner", ["8,5", "8px", "left"])
def test_a_table_of_bad_boxes_names_the_first(corner: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f'filename,class,xmin,ymin,xmax,ymax\n{NAME},cat,"{corner}",16,40,60\n')
    columns = ("image=filename", "label=class", "boxes=xmin,ymin,xmax,ymax")
    with pytest.raises(RowError, match=r"a\.csv: line 2: box") as caught:
        converted(path, column=columns, box_format="xyxy-abs")
    assert caught.value.kind == "box malformed"


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_table_in_another_encoding_says_so(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(f"filename,class,xmin,ymin,xmax,ymax\n{NAME},caf\u00e9,8,16,40,60\n".encode(encoding))
    with pytest.raises(RowsError, match="UTF-8"):
        converted(path, preset="tf-csv")


def test_lines_with_surplus_fields_are_bad_records(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    line = f"{NAME},cat,8,16,40,60,{WIDTH},{HEIGHT}"
    path.write_text(f"filename,class,xmin,ymin,xmax,ymax,width,height\n{line}\n{line},98\n")
    error, found, _ = bad_entry(converted, path, preset="tf-csv", task="detection")
    assert str(error).startswith("a.csv: line 3: fields '98'")
    assert (len(found), error.kind) == (1, "malformed entry")
