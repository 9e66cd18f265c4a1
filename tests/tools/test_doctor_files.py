"""`visionr1 doctor` on what is not in verl's layout, and on folders and paths of all kinds."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from doctor_rows import FORMS, LONG, a_row, doctor, kinds_in, write_rows
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scene_sets.base import pictures
from typer.testing import CliRunner

from verl_visionr1.cli import app
from verl_visionr1.conversion.conventions import Convention, best_convention, better_convention
from verl_visionr1.files import RowsError
from verl_visionr1.row_layouts import PATH_SCHEMA
from verl_visionr1.rows import read_rows
from verl_visionr1.targets import Target
from verl_visionr1.tools.doctor.examination import examine

Record = dict[str, Any]


def test_lines_count_blank_ones(tmp_path: Path) -> None:
    a_row(tmp_path)  # writes the image
    records = '\n{"image": "a.png", "problem": "q"}\n\n\n{"image": "gone.png", "problem": "q"}\n'
    (tmp_path / "a.jsonl").write_text(records)
    (group,) = [group for group in examine([tmp_path / "a.jsonl"]).found if group.kind == "no such image"]
    assert (group.examples[0].unit, group.examples[0].row) == ("line", 5)


OWN_LAYOUTS = {  # file -> (text, converter, exit code)
    "rec.json": ('[{"problem": "p", "normal_caption": "c", "bbox_list": [[1, 2, 3, 4]]}]', "vlm_r1", 0),
    "talk.jsonl": ('{"image": "a.png", "conversations": [{"from": "human", "value": "<image>?"}]}', "vlm_r1", 2),
    "train.odgt": ('{"ID": "1,2", "gtboxes": []}', "crowdhuman", 0),
    "spots.json": ('[{"img_filename": "a.png", "bbox": [1, 2, 3, 4], "instruction": "go"}]', "screenspot", 2),
    "tree.json": ('{"LabelName": "/m/1", "Subcategory": []}', "openimages", 0),
    "one.json": ('{"text": ["it"], "is_sentence": true, "shapes": []}', "reasonseg", 0),
    "a.json": ('{"images": [], "annotations": [], "categories": []}', "coco", 0),
    "b.json": ('{"info": {}, "scenes": [{"image_filename": "a.png", "objects": []}]}', "clevr", 0),
}


@pytest.mark.parametrize("name", OWN_LAYOUTS)
def test_a_data_sets_own_file_names_its_converter(tmp_path: Path, name: str) -> None:
    text, converter, exit_code = OWN_LAYOUTS[name]
    (tmp_path / name).write_text(text + "\n")
    done = doctor(tmp_path / name)
    assert (done.exit_code, f"`visionr1 convert {converter}`" in done.output) == (exit_code, True)
    assert "convert records" not in done.output


def test_results_of_a_detector_are_no_data(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}]')
    assert "visionr1 convert" not in doctor(tmp_path / "a.json").output


LAYOUTS: dict[str, Callable[[Record], Record]] = {
    "caption and a list of boxes": lambda it: {"image": it["image"], "caption": it["label"], "box": it["xywh"]},
    "with sizes": lambda it: {**it["wh"], "file_name": it["image"], "phrase": it["label"], "a box": it["xyxy"]},
    "objects with categories": lambda it: {
        "file_name": it["image"],
        "objects": {"bbox": it["xyxy"], "categories": [it["label"]] * len(it["xyxy"])},
    },
    "question and answer": lambda it: {"image": it["image"], "question": "What is it?", "answer": it["label"]},
    "a phrase and its count": lambda it: {"image": it["image"], "phrase": it["label"], "count": len(it["xyxy"])},
    "short names": lambda it: {"img": it["image"], "expr": it["label"], "bbox": it["xywh"][0], **it["wh"]},
    "any name of the image": lambda it: {"a pic": it["image"], "ref": it["label"], "bbox": it["xyxy"]},
    "a label and its count": lambda it: {"image": it["image"], "label": it["label"], "count": 0},
    "a label and its points": lambda it: {"image": it["image"], "label": it["label"], "points": [it["xyxy"][0][:2]]},
    "rows of EasyR1": lambda it: {"images": [it["image"]], "problem": f"<image>{it['label']}?", "answer": "yes"},
}


def of_scenes(folder: Path) -> list[Record]:
    """An object of each scene that is alone of its label."""
    found = []
    for picture in pictures():
        alone = next((it for it in picture.things if len(picture.of(it.label)) == 1), None)
        if alone is not None:
            wh = dict(zip(("width", "height"), picture.size, strict=True))
            boxes = {"xyxy": [list(alone.box)], "xywh": [alone.xywh]}
            found.append({**boxes, "image": str(picture.save(folder)), "label": alone.label, "wh": wh})
    return found * 2  # so many that the numbers tell what they are


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_printed_command_converts_the_file(layout: str, tmp_path: Path) -> None:
    known = of_scenes(tmp_path)
    path = tmp_path / "it's a file.jsonl"
    path.write_text("".join(json.dumps(LAYOUTS[layout](it)) + "\n" for it in known))
    (reason,) = [group.examples[0].reason for group in examine([path]).found if group.kind == "layout"]
    words = shlex.split(reason.split("`")[1])
    assert words[:3] == ["visionr1", "convert", "records"]
    done = CliRunner().invoke(app, words[1:])
    assert done.exit_code == 0, f"{words}\n{done.output}"
    rows = read_rows(path.with_suffix(".parquet"))
    written = [json.loads(row["reward_model"]["ground_truth"]) for row in rows]
    assert len(written) == len(known)
    if written[0]["task"] == "grounding":
        assert {str(it["boxes_xyxy"]) for it in written} == {str([[*map(float, it["xyxy"][0])]]) for it in known}
        assert {it["labels"][0] for it in written} == {it["label"] for it in known}


def test_a_table_is_read_and_its_command_converts_it(tmp_path: Path) -> None:
    """A box with a number a column, and a count of 0, in tables with a header."""
    known = of_scenes(tmp_path)
    tables = {
        "boxes.csv": ("filename,class,xmin,ymin,xmax,ymax", [[it["label"], *it["xyxy"][0]] for it in known]),
        "counts.tsv": ("image\tlabel\tcount", [[it["label"], 0] for it in known]),
    }
    for name, (header, rows) in tables.items():
        mark = "," if name.endswith("csv") else "\t"
        lines = [mark.join(map(str, [it["image"], *row])) for it, row in zip(known, rows, strict=True)]
        (tmp_path / name).write_text("\n".join([header, *lines]))
        (reason,) = [group.examples[0].reason for group in examine([tmp_path / name]).found if group.kind == "layout"]
        done = CliRunner().invoke(app, shlex.split(reason.split("`")[1])[1:])
        assert done.exit_code == 0, f"{reason}\n{done.output}"
    assert "empty truth" not in kinds_in(tmp_path / "counts.parquet")
    (note,) = [group.examples[0].reason for group in examine([tmp_path / "boxes.csv"]).found if group.kind == "columns"]
    assert ("xmin", str(known[0]["xyxy"][0][0])) in [tuple(part.split(" ")) for part in note.split(", ")]


def test_label_beside_count_is_the_phrase(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path, [{"image": it["image"], "name": it["label"], "n": 2} for it in of_scenes(tmp_path)])
    words = ["convert", "records", str(path), str(tmp_path / "a.parquet"), "--column", "image=image"]
    done = CliRunner().invoke(app, [*words, "--column", "label=name", "--column", "count=n"])
    assert done.exit_code == 0, done.output
    truths = [json.loads(row["reward_model"]["ground_truth"]) for row in read_rows(tmp_path / "a.parquet")]
    assert {(it["task"], it["count"]) for it in truths} == {("counting", 2)}


@pytest.mark.parametrize(
    ("record", "command"),
    [
        ({"input": "a", "output": "b", "gts": "c", "score": 1.0, "step": 1}, "visionr1 explain"),
        ({"step": 1, "data": {"loss": 1.0}}, "visionr1 watch"),
    ],
)
def test_files_of_a_run_are_no_training_data(tmp_path: Path, record: Record, command: str) -> None:
    for name in ("1.jsonl", "2.jsonl"):
        (tmp_path / name).write_text(f"{json.dumps(record)}\n")
    for path, code in ((tmp_path, 0), (tmp_path / "1.jsonl", 2)):
        (group,) = examine([path]).found
        assert (group.file, group.kind, group.count, int(group.severity)) == (str(path), "no data", 1, code)
        assert command in group.examples[0].reason


def write_jsonl(folder: Path, records: list[Any]) -> Path:
    path = folder / "train.jsonl"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def foreign_records(clean: Path, form: str = "xyxy-abs") -> list[dict[str, Any]]:
    records = []
    for row in read_rows(clean / "train.parquet"):
        truth = json.loads(row["reward_model"]["ground_truth"])
        boxes = [FORMS[form](box, *truth["size_wh"]) for box in truth.get("boxes_xyxy", [])]
        records.append({"image": row["images"][0], "problem": f"Where, {len(records)}?", "objects": {"bbox": boxes}})
    return records


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("xyxy-abs", "x1 y1 x2 y2 in pixels"),
        ("xywh-abs", "x y width height in pixels"),
        ("xyxy-norm1", "x1 y1 x2 y2 in fractions"),
        ("xyxy-norm1000", "in 0-1000"),
    ],
)
def test_coordinates_of_a_jsonl_are_guessed(clean: Path, tmp_path: Path, form: str, expected: str) -> None:
    done = doctor(write_jsonl(tmp_path, foreign_records(clean, form)))
    assert re.search(rf"note: coordinates\n\s+objects.bbox: .*{expected}", done.output), done.output
    assert "visionr1 convert records" in done.output
    assert done.exit_code == 0


@pytest.mark.parametrize(("whole", "expected"), [(1, "(xyxy-norm1)"), (100, "(xyxy-norm100)"), (400, "")])
@pytest.mark.parametrize("ours", [False, True])
def test_points_in_another_unit_are_seen(whole: int, expected: str, ours: bool, tmp_path: Path) -> None:
    Image.new("RGB", (400, 400)).save(tmp_path / "a.png")
    points = [[whole * i / 20, whole * (i + 1) / 20] for i in range(1, 19)]
    if ours:
        target = Target(task="pointing", size_wh=(400, 400), points_xy=points, labels=["cat"] * 18, categories=["cat"])
        path = write_rows(tmp_path / "a.parquet", [a_row(tmp_path, truth=target.to_json())])
    else:
        path = write_jsonl(tmp_path, [{"image": "a.png", "problem": "Where?", "objects": {"points": points}}])
    found = [group.examples[0].reason for group in examine([path]).found if group.kind == "coordinates"]
    assert [reason[-len(expected) :] for reason in found] == [expected] * bool(expected)
    assert all(reason.startswith(("points_xy", "objects.points")[not ours]) for reason in found)


def test_one_box_over_the_edge_changes_no_guess(clean: Path, tmp_path: Path) -> None:
    """A larger unit fits everything, in a corner of the image."""
    records = foreign_records(clean)
    records[0]["objects"]["bbox"][0][2] = 209
    done = doctor(write_jsonl(tmp_path, records))
    assert re.search(r"objects.bbox: x1 y1 x2 y2 in pixels \(xyxy-abs\): 9\d\.?\d* % of", done.output)
    assert re.search(r"; less likely .*: 100 % of \d+ boxes fit", done.output)


def test_missing_image_and_garbled_line_of_a_jsonl(clean: Path, tmp_path: Path) -> None:
    records = foreign_records(clean)
    folder = Path(records[0]["image"]).parent
    records = [{**record, "image": Path(record["image"]).name} for record in records[1:3]]
    path = write_jsonl(tmp_path, [{**records[0], "image": "gone.png"}, *records, ["no object"]])
    path.write_text(path.read_text() + '{"image": "cut')
    assert "line 2: image" in doctor(path).output
    done = doctor(path, "--images-dir", folder)
    assert "line 2: image" not in done.output
    assert "line 1: image 'gone.png': no such file" in done.output
    assert "line 4: " in done.output
    assert "line 5: " in done.output
    assert done.exit_code == 2


def test_paths_that_are_no_data(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    for path, expected in (
        (tmp_path / "none.parquet", "no such file or folder"),
        (tmp_path / "a.txt", "needs one of"),
    ):
        done = doctor(path)
        assert done.exit_code == 2
        assert expected in done.output
    assert "unreadable file" in doctor(tmp_path / "cut.parquet").output
    with pytest.raises(RowsError, match="in it; convert it"):
        examine([tmp_path / "empty"])


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        (f'{{"image":"a.png","bbox":[1{LONG},2,3,4]}}', "layout"),
        ('{"image":"a\\u0000.png"}', "no such image"),
        (f'{{"image":"{"a" * 5000}"}}', "no such image"),
        ('{"messages":[{"role":"user","content":"a"},null]}', "layout"),
        ("", "unreadable file"),
    ],
)
def test_odd_records_of_a_jsonl(tmp_path: Path, record: str, kind: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([record] * 12))
    assert kind in kinds_in(path)


def test_other_json_of_a_folder_is_passed_by(tmp_path: Path) -> None:
    row = a_row(tmp_path)
    write_rows(tmp_path / "a.parquet", [row], PATH_SCHEMA)
    (tmp_path / "dataset_info.json").write_text('{"features": {}}')
    assert kinds_in(tmp_path) == ["no data"]
    assert doctor(tmp_path).exit_code == 0
    assert doctor(tmp_path / "dataset_info.json").exit_code == 2


def test_an_arrow_stream_is_looked_at(tmp_path: Path) -> None:
    a_row(tmp_path)
    table = pa.Table.from_pylist([{"image": "gone.png", "problem": "a?"}])
    with pa.OSFile(str(tmp_path / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    done = doctor(tmp_path)
    assert "row 0: image 'gone.png': no such file" in done.output


@given(st.integers(0, 10_000), st.sampled_from(["", "xywh", "yxyx", "1000", "1"]))
def test_wrong_coordinates_are_named_and_right_ones_are_not(seed: int, wrong: str) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(60, 900, (200, 2))
    x1, y1, x2, y2 = (np.sort(rng.random((200, 2, 2)), axis=1) * sizes[:, None, :]).reshape(200, 4).T
    w, h = sizes.T
    made = {
        "": (x1, y1, x2, y2),
        "xywh": (x1, y1, x2 - x1, y2 - y1),
        "yxyx": (y1, x1, y2, x2),
        "1000": (x1 * 1000 / w, y1 * 1000 / h, x2 * 1000 / w, y2 * 1000 / h),
        "1": (x1 / w, y1 / h, x2 / w, y2 / h),
    }[wrong]
    boxes, wh = np.stack(made, axis=1).tolist(), [tuple(size) for size in sizes.tolist()]
    guess = better_convention(Convention("xyxy", "pixels"), boxes, wh)
    assert (guess is None) == (not wrong)
    if guess is not None:
        assert wrong in (guess.better.convention.order, guess.better.convention.unit)
        assert str(guess.better.convention) in best_convention(boxes, wh)
