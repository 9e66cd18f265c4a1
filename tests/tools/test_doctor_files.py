"""`visionr1 doctor` on what is not in verl's layout, and on folders and paths of all kinds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from doctor_rows import FORMS, LONG, a_row, doctor, kinds_in, write_rows
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from verl_visionr1.conversion.conventions import Convention, best_convention, better_convention
from verl_visionr1.files import RowsError
from verl_visionr1.row_layouts import PATH_SCHEMA
from verl_visionr1.rows import read_rows
from verl_visionr1.targets import Target
from verl_visionr1.tools.doctor.examination import examine


def test_lines_count_blank_ones(tmp_path: Path) -> None:
    a_row(tmp_path)  # writes the image
    records = '\n{"image": "a.png", "problem": "q"}\n\n\n{"image": "gone.png", "problem": "q"}\n'
    (tmp_path / "a.jsonl").write_text(records)
    (group,) = [group for group in examine([tmp_path / "a.jsonl"]).found if group.kind == "no such image"]
    assert (group.examples[0].unit, group.examples[0].row) == ("line", 5)


OWN_LAYOUTS = {  # file -> (text, converter)
    "rec.json": ('[{"image": "a.png", "problem": "p", "normal_caption": "c", "bbox_list": [[1, 2, 3, 4]]}]', "vlm_r1"),
    "talk.jsonl": ('{"image": "a.png", "conversations": [{"from": "human", "value": "<image>?"}]}', "vlm_r1"),
    "train.odgt": ('{"ID": "1,2", "gtboxes": []}', "crowdhuman"),
    "tree.json": ('{"LabelName": "/m/1", "Subcategory": []}', "openimages"),
    "regions.json": ('[{"id": 1, "regions": [{"x": 1, "y": 2, "width": 3, "height": 4}]}]', "visual_genome"),
    "tally.json": (
        '[{"image": "a.png", "question": "q", "answer": 4, "question_id": 1, "data_source": "x"}]',
        "tallyqa",
    ),
    "super.jsonl": ('{"image_path": "a.png", "question": "q", "ground_truth": 4}', "clevr"),
    "spots.json": ('[{"img_filename": "a.png", "bbox": [1, 2, 3, 4], "instruction": "go"}]', "screenspot"),
    "one.json": ('{"text": ["it"], "is_sentence": true, "shapes": []}', "reasonseg"),
    "grefs(unc).json": ('[{"ref_id": 1, "ann_id": [-1], "sentences": []}]', "refcoco"),
}


@pytest.mark.parametrize("name", OWN_LAYOUTS)
def test_a_data_sets_own_file_names_its_converter(tmp_path: Path, name: str) -> None:
    """`records` reads none of them, or wrongly: the bbox_list of VLM-R1 is a pixel short."""
    text, converter = OWN_LAYOUTS[name]
    (tmp_path / name).write_text(text + "\n")
    note = layout_note(tmp_path / name)
    assert f"`visionr1 convert {converter}`" in note
    assert "records" not in note


OF_A_CONVERTER = {  # converter -> (file, text, exit code): read as no data, or as JSON of something else
    "refcoco": ("refs(unc).p", "x", 2),
    "voc": ("a.xml", "x", 2),
    "yolo": ("obj.data", "x", 2),
    "shanghai": ("GT_1.mat", "x", 2),
    "records": ("a.csv", "x", 2),
    "coco": ("a.json", '{"images": [], "annotations": [], "categories": []}', 0),
    "clevr": ("a.json", '{"info": {}, "scenes": [{"image_filename": "a.png", "objects": []}]}', 0),
    "fsc147": ("a.json", '{"train": ["1.jpg"], "val": ["2.jpg"], "test": ["3.jpg"]}', 0),
}


@pytest.mark.parametrize("converter", OF_A_CONVERTER)
def test_a_file_that_only_a_converter_reads_names_it(tmp_path: Path, converter: str) -> None:
    name, text, exit_code = OF_A_CONVERTER[converter]
    (tmp_path / name).write_text(text)
    done = doctor(tmp_path / name)
    assert (done.exit_code, f"visionr1 convert {converter}" in done.output) == (exit_code, True)


def layout_note(path: Path) -> str:
    (note,) = [group.examples[0].reason for group in examine([path]).found if group.kind == "layout"]
    return note


def test_results_of_a_detector_are_no_data(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}]')
    note = layout_note(tmp_path / "a.json")
    assert "convert" in note
    assert "visionr1" not in note


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


def test_images_of_a_jsonl_lie_elsewhere(clean: Path, tmp_path: Path) -> None:
    records = foreign_records(clean)
    folder = Path(records[0]["image"]).parent
    path = write_jsonl(tmp_path, [{**record, "image": Path(record["image"]).name} for record in records])
    assert "no such file" in doctor(path).output
    done = doctor(path, "--images-dir", folder)
    assert "x1 y1 x2 y2 in pixels" in done.output
    assert done.exit_code == 0


def test_missing_image_and_garbled_line_of_a_jsonl(clean: Path, tmp_path: Path) -> None:
    records = foreign_records(clean)
    path = write_jsonl(tmp_path, [{**records[0], "image": "gone.png"}, *records[1:3], ["no object"]])
    path.write_text(path.read_text() + '{"image": "cut')
    done = doctor(path)
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
        (f'{{"image":"a.png","bbox":[1{LONG},2,3,4]}}', "box malformed"),
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


@given(st.integers(0, 10_000))
def test_right_coordinates_are_never_called_wrong(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(60, 2000, (200, 2))
    corners = np.sort(rng.random((200, 2, 2)), axis=1) * sizes[:, None, :]
    boxes, wh = corners.reshape(200, 4).tolist(), [tuple(size) for size in sizes.tolist()]
    assert better_convention(Convention("xyxy", "pixels"), boxes, wh) is None


@given(st.integers(0, 10_000), st.sampled_from(["xywh", "yxyx", "1000", "1"]))
def test_wrong_coordinates_are_named(seed: int, wrong: str) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(60, 900, (200, 2))
    x1, y1, x2, y2 = (np.sort(rng.random((200, 2, 2)), axis=1) * sizes[:, None, :]).reshape(200, 4).T
    w, h = sizes.T
    made = {
        "xywh": (x1, y1, x2 - x1, y2 - y1),
        "yxyx": (y1, x1, y2, x2),
        "1000": (x1 * 1000 / w, y1 * 1000 / h, x2 * 1000 / w, y2 * 1000 / h),
        "1": (x1 / w, y1 / h, x2 / w, y2 / h),
    }[wrong]
    boxes, wh = np.stack(made, axis=1).tolist(), [tuple(size) for size in sizes.tolist()]
    guess = better_convention(Convention("xyxy", "pixels"), boxes, wh)
    assert guess is not None
    assert wrong in (guess.better.convention.order, guess.better.convention.unit)
    assert str(guess.better.convention) in best_convention(boxes, wh)
