"""`visionr1 doctor`: each fault of a deliberately broken data set is named; a clean one passes in silence."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner, Result

from verl_visionr1.cli import app
from verl_visionr1.conversion import scenes
from verl_visionr1.conversion.conventions import Convention, best_convention, better_convention
from verl_visionr1.conversion.datasets import coco
from verl_visionr1.files import RowsError
from verl_visionr1.processed import processed_size
from verl_visionr1.row_layouts import EMBED_SCHEMA, PATH_SCHEMA
from verl_visionr1.rows import read_rows
from verl_visionr1.targets import Target
from verl_visionr1.tools.doctor.examination import examine

N_IMAGES = 24
SIZE = (200, 120)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.parquet and val.parquet of detection and grounding, with negatives."""
    folder = tmp_path_factory.mktemp("clean")
    for split in ("train", "val"):
        annotations = scenes.write_split(folder / "scenes", split, count=N_IMAGES, seed=3, size_wh=SIZE, objects_max=4)
        options = coco.Options(task="both", negatives=0.1, split=split)
        coco.convert(annotations, folder / "scenes" / split, folder / f"{split}.parquet", options)
    return folder


@pytest.fixture
def copy(clean: Path, tmp_path: Path) -> Path:
    for split in ("train", "val"):
        shutil.copy(clean / f"{split}.parquet", tmp_path)
    return tmp_path


def doctor(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["doctor", *map(str, arguments), "--verl", "no"])


Truth = dict[str, Any]


def change_rows(path: Path, change: Callable[[dict[str, Any], Truth, int], None]) -> None:
    """Rewrite a file with each row changed in place: (row, its truth as a dictionary, number)."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    for number, row in enumerate(rows):
        truth = json.loads(row["reward_model"]["ground_truth"])
        change(row, truth, number)
        row["reward_model"]["ground_truth"] = json.dumps(truth)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def scale_boxes(path: Path, scale: Callable[[list[float], int, int], list[float]]) -> None:
    def change(row: dict[str, Any], truth: Truth, number: int) -> None:
        truth["boxes_xyxy"] = [scale(box, *truth["size_wh"]) for box in truth.get("boxes_xyxy", [])]

    change_rows(path, change)


# ---------------------------------------------------------------------------------------------- a clean one


def test_a_clean_data_set_passes_in_silence(clean: Path) -> None:
    for arguments in ([clean / "train.parquet", clean / "val.parquet"], [clean / "train.parquet"]):
        done = doctor(*arguments)
        assert (done.output, done.exit_code) == ("", 0)


@pytest.mark.verl
def test_clean_files_load_in_verl(clean: Path) -> None:
    done = CliRunner().invoke(
        app, ["doctor", str(clean / "train.parquet"), str(clean / "val.parquet"), "--verl", "yes"]
    )
    assert (done.output, done.exit_code) == ("", 0)


# ---------------------------------------------------------------------------------------------- broken ones


def inverted(folder: Path) -> None:
    def change(row: dict[str, Any], truth: Truth, number: int) -> None:
        if truth.get("boxes_xyxy") and number < 9:
            x1, y1, x2, y2 = truth["boxes_xyxy"][0]
            truth["boxes_xyxy"][0] = [x2, y1, x1, y2]

    change_rows(folder / "train.parquet", change)


def zero_area(folder: Path) -> None:
    def change(row: dict[str, Any], truth: Truth, number: int) -> None:
        if truth.get("boxes_xyxy") and number < 9:
            truth["boxes_xyxy"][0][3] = truth["boxes_xyxy"][0][1]

    change_rows(folder / "train.parquet", change)


def duplicate_boxes(folder: Path) -> None:
    def change(row: dict[str, Any], truth: Truth, number: int) -> None:
        if truth.get("boxes_xyxy") and number < 9:
            truth["boxes_xyxy"].append(truth["boxes_xyxy"][0])
            truth["labels"].append(truth["labels"][0])

    change_rows(folder / "train.parquet", change)


def fractions(folder: Path) -> None:
    scale_boxes(folder / "train.parquet", lambda b, w, h: [b[0] / w, b[1] / h, b[2] / w, b[3] / h])


def thousandths(folder: Path) -> None:
    rounded = lambda b, w, h: [round(v * 1000 / side) for v, side in zip(b, (w, h, w, h), strict=True)]  # noqa: E731
    scale_boxes(folder / "train.parquet", rounded)


def corner_and_size(folder: Path) -> None:
    scale_boxes(folder / "train.parquet", lambda b, w, h: [b[0], b[1], b[2] - b[0], b[3] - b[1]])


def y_before_x(folder: Path) -> None:
    scale_boxes(folder / "train.parquet", lambda b, w, h: [b[1], b[0], b[3], b[2]])


def processed_pixels(folder: Path) -> None:
    def scale(box: list[float], w: int, h: int) -> list[float]:
        new_w, new_h = processed_size((w, h), "qwen2.5-vl")
        x, y = new_w / w, new_h / h
        return [round(box[0] * x), round(box[1] * y), round(box[2] * x), round(box[3] * y)]

    annotations = scenes.write_split(folder / "scenes", "train", count=N_IMAGES, seed=3, size_wh=(240, 160))
    coco.convert(annotations, folder / "scenes" / "train", folder / "train.parquet")
    scale_boxes(folder / "train.parquet", scale)


def unnamed_labels(folder: Path) -> None:
    def change(row: dict[str, Any], truth: Truth, number: int) -> None:
        truth["labels"] = [label.replace("circle", "disk") for label in truth.get("labels", [])]

    change_rows(folder / "train.parquet", change)


def silent_negatives(folder: Path) -> None:
    def change(row: dict[str, Any], truth: Truth, number: int) -> None:
        for turn in row["prompt"]:
            turn["content"] = turn["content"].replace(" If there is none, output [].", "")

    change_rows(folder / "train.parquet", change)


def no_placeholder(folder: Path) -> None:
    def change(row: dict[str, Any], truth: Truth, number: int) -> None:
        row["prompt"][0]["content"] = row["prompt"][0]["content"].removeprefix("<image>" if number % 2 else "")

    change_rows(folder / "train.parquet", change)


def moved_images(folder: Path) -> None:
    change_rows(folder / "train.parquet", lambda row, truth, number: row.update(images=["/nowhere/a.png"]))


def other_image(folder: Path, name: str, write: Callable[[Image.Image, Path], None]) -> None:
    """Every third row shows a changed copy of its image."""

    def change(row: dict[str, Any], truth: Truth, number: int) -> None:
        if number % 3 == 0:
            with Image.open(row["images"][0]) as image:
                write(image, folder / f"{number}{name}")
            row["images"] = [str(folder / f"{number}{name}")]

    change_rows(folder / "train.parquet", change)


def rotated(folder: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    other_image(folder, ".jpg", lambda image, path: image.save(path, exif=tags))


def cut_off(folder: Path) -> None:
    def write(image: Image.Image, path: Path) -> None:
        image.save(path)
        path.write_bytes(path.read_bytes()[:-200])

    other_image(folder, ".png", write)


def shrunk(folder: Path) -> None:
    other_image(folder, ".png", lambda image, path: image.resize((100, 60)).save(path))


def long_answers(folder: Path) -> None:
    def change(row: dict[str, Any], truth: Truth, number: int) -> None:
        if truth["task"] == "detection":
            truth["boxes_xyxy"] = [[i, i, i + 20, i + 20.5] for i in range(60)]
            truth["labels"] = [truth["categories"][0]] * 60

    change_rows(folder / "train.parquet", change)


def repeated_rows(folder: Path) -> None:
    table = pq.read_table(folder / "train.parquet")
    pq.write_table(pa.concat_tables([table, table.slice(3, 2)]), folder / "train.parquet")


def leaking(folder: Path) -> None:
    """Some training images are copied under another name into validation."""
    table = pq.read_table(folder / "val.parquet")
    rows = table.to_pylist()
    detection = [row for row in read_rows(folder / "train.parquet") if row["ability"] == "detection"]
    for number, row in enumerate(detection[:5]):
        shutil.copy(row["images"][0], folder / f"copy{number}.png")
        row["images"] = [str(folder / f"copy{number}.png")]
        row["extra_info"].update(split="val", index=row["extra_info"]["index"] + 7)
        rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), folder / "val.parquet")


def always_one(folder: Path) -> None:
    annotations = Path(str(next(read_rows(folder / "train.parquet"))["images"][0])).parents[1]
    instances = annotations / "annotations" / "instances_train.json"
    coco.convert(instances, annotations / "train", folder / "train.parquet", coco.Options(task="counting"))


def of_another_project(folder: Path) -> None:
    table = pq.read_table(folder / "train.parquet")
    truth = pa.array([{"style": "rule", "ground_truth": [1.0, 2.0, 3.0, 4.0]}] * len(table))
    at = table.schema.get_field_index("reward_model")
    pq.write_table(table.set_column(at, "reward_model", truth), folder / "train.parquet")


BROKEN: list[tuple[Callable[[Path], None], int, str]] = [
    (inverted, 2, r"error: inverted box \(\d\).*row \d: boxes_xyxy\[0\] = .*x1 > x2"),
    (zero_area, 2, r"error: zero-area box \(\d\)"),
    (duplicate_boxes, 1, r"warning: duplicate box \(\d\).*is listed twice"),
    (fractions, 1, r"coordinates.*boxes_xyxy.*look like x1 y1 x2 y2 in fractions"),
    (thousandths, 2, r"coordinates.*boxes_xyxy: \d+ % of \d+ boxes.*look like x1 y1 x2 y2 in 0-1000"),
    (corner_and_size, 2, r"coordinates.*boxes_xyxy: \d+ % of \d+ boxes.*look like x y width height in pixels"),
    (y_before_x, 2, r"coordinates.*look like y1 x1 y2 x2 in pixels"),
    (
        processed_pixels,
        2,
        r"box outside its image.*coordinates.*qwen2.5-vl's processor resizes it|coordinates.*processor",
    ),
    (unnamed_labels, 1, r"label not in the prompt \(\d+\).*label '\w+ disk' is not in the prompt"),
    (silent_negatives, 1, r"empty truth \(\d+\).*the prompt does not say what to answer"),
    (no_placeholder, 2, r"placeholders \(\d+\).*prompt holds 0 '<image>' for 1 images"),
    (moved_images, 2, r"no such image \(\d+\).*/nowhere/a.png"),
    (rotated, 2, r"rotated image \(\d+\).*EXIF orientation 6"),
    (cut_off, 2, r"unreadable image \(\d+\)"),
    (shrunk, 2, r"another size \(\d+\).*has \(100, 60\), the row says \(200, 120\)"),
    (long_answers, 1, r"answer too long \(\d+\).*takes about \d{4} tokens \(60 objects\).*has 1024"),
    (repeated_rows, 1, r"repeated row \(2\).*asks what row \d asks"),
    (leaking, 1, r"train/validation overlap.*5 images are in .*train.parquet too"),
    (always_one, 1, r"unbalanced.*of \d+ counting rows \(\d\d %\) are 1"),
    (of_another_project, 2, r"column of another type.*'reward_model' is struct"),
]


@pytest.mark.parametrize(("spoil", "code", "expected"), BROKEN, ids=[case[0].__name__ for case in BROKEN])
def test_each_fault_is_named(copy: Path, spoil: Callable[[Path], None], code: int, expected: str) -> None:
    spoil(copy)
    done = doctor(copy / "train.parquet", copy / "val.parquet")
    assert re.search(expected, done.output, re.DOTALL), done.output
    assert done.exit_code == code


_COCO = """
person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant stop_sign
parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella handbag
tie suitcase frisbee skis snowboard sports_ball kite baseball_bat baseball_glove skateboard surfboard
tennis_racket bottle wine_glass cup fork knife spoon bowl banana apple sandwich orange broccoli carrot
hot_dog pizza donut cake chair couch potted_plant bed dining_table toilet tv laptop mouse remote
keyboard cell_phone microwave oven toaster sink refrigerator book clock vase scissors teddy_bear
hair_drier toothbrush
"""
COCO_NAMES = [name.replace("_", " ") for name in _COCO.split()]
COCO_SIZES = ((640, 480), (640, 427), (480, 640), (427, 640), (500, 375), (612, 612), (640, 640), (333, 500))


def write_coco_like(folder: Path, n_images: int = 60) -> Path:
    """As COCO is: its sizes and names, 7 objects an image and up to 60, of few categories at once, some crowds."""
    random = np.random.default_rng(0)
    images, annotations = [], []
    (folder / "images").mkdir()
    for i in range(n_images):
        size_wh = COCO_SIZES[i % len(COCO_SIZES)]
        Image.new("RGB", size_wh, (4 * i, 9, 9)).save(folder / "images" / f"{i:012d}.jpg")
        images.append({"id": i, "file_name": f"{i:012d}.jpg", "width": size_wh[0], "height": size_wh[1]})
        shown = [0, *random.integers(0, len(COCO_NAMES), 4).tolist()]
        for _ in range({0: 30, 1: 60}.get(i, int(min(random.lognormal(1.6, 0.95), 62)))):
            side = np.clip(random.lognormal(-2, 1, 2), 0.01, 0.99) * size_wh
            corner = random.uniform(0, 1, 2) * (size_wh - side)
            box = [*corner.round(2).tolist(), *side.round(2).tolist()]
            box[2:] = [min(box[k + 2], size_wh[k] - box[k]) for k in range(2)]
            kind = {"category_id": int(random.choice(shown)), "iscrowd": int(random.random() < 0.01)}
            annotations.append({"id": len(annotations), "image_id": i, "bbox": box, "area": box[2] * box[3], **kind})
    categories = [{"id": k, "name": name, "supercategory": "thing"} for k, name in enumerate(COCO_NAMES)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(document))
    return folder / "instances.json"


def test_coco_converted_with_defaults_passes_in_silence(tmp_path: Path) -> None:
    annotations = write_coco_like(tmp_path)
    report = coco.convert(annotations, tmp_path / "images", tmp_path / "train.parquet", coco.Options())
    assert max(report.objects) == 30
    assert report.ledger.left_out["detection row with more than 30 objects"]
    done = doctor(tmp_path / "train.parquet")
    assert (done.output, done.exit_code) == ("", 0)
    done = doctor(tmp_path / "train.parquet", "--max-response", 512)
    assert "answer too long" in done.output, "the fullest image is full enough to tell"


def test_one_file_for_training_and_validation_overlaps(copy: Path) -> None:
    train = copy / "train.parquet"
    (copy / "link.parquet").symlink_to(train)
    for arguments in ([train, "--val", train], [train, "--val", copy / "link.parquet"]):
        done = doctor(*arguments)
        assert done.exit_code == 1
        assert "train/validation overlap" in done.output
    assert "overlap" not in doctor(train, copy / "val.parquet", "--val", copy / "val.parquet").output


def test_overlap_counts_images(tmp_path: Path) -> None:
    """Four validation rows about one image are one image in both."""
    info = a_row(tmp_path)["extra_info"]
    write_rows(tmp_path / "a.parquet", [a_row(tmp_path)])
    asked = [[{"role": "user", "content": f"<image>Locate the cat, or say none ({i})"}] for i in range(4)]
    rows = [a_row(tmp_path, i, prompt=asked[i], extra_info=info | {"split": "val", "index": i}) for i in range(4)]
    write_rows(tmp_path / "b.parquet", rows)
    (group,) = examine([tmp_path / "a.parquet", tmp_path / "b.parquet"]).found
    assert (group.kind, group.examples[0].reason[:7]) == ("train/validation overlap", "1 image")


def test_lines_count_blank_ones(tmp_path: Path) -> None:
    a_row(tmp_path)  # writes the image
    records = '\n{"image": "a.png", "problem": "q"}\n\n\n{"image": "gone.png", "problem": "q"}\n'
    (tmp_path / "a.jsonl").write_text(records)
    (group,) = [group for group in examine([tmp_path / "a.jsonl"]).found if group.kind == "no such image"]
    assert (group.examples[0].unit, group.examples[0].row) == ("line", 5)


OTHER_JSON = {
    "coco": {"images": [], "annotations": [], "categories": []},
    "clevr": {"info": {}, "scenes": [{"image_filename": "a.png", "objects": []}]},
    "fsc147": {"train": ["1.jpg"], "val": ["2.jpg"], "test": ["3.jpg"]},
}


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
    (note,) = [group.examples[0].reason for group in examine([tmp_path / name]).found if group.kind == "layout"]
    assert f"`visionr1 convert {converter}`" in note
    assert "records" not in note


@pytest.mark.parametrize(
    ("name", "converter"),
    [
        ("refs(unc).p", "refcoco"),
        ("a.xml", "voc"),
        ("obj.data", "yolo"),
        ("GT_1.mat", "shanghai"),
        ("a.csv", "records"),
    ],
)
def test_a_file_that_only_a_converter_reads_names_it(tmp_path: Path, name: str, converter: str) -> None:
    (tmp_path / name).write_text("x")
    done = doctor(tmp_path / name)
    assert (done.exit_code, f"visionr1 convert {converter}" in done.output) == (2, True)


def test_results_of_a_detector_are_no_data(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}]')
    (note,) = [group.examples[0].reason for group in examine([tmp_path / "a.json"]).found if group.kind == "layout"]
    assert "convert" in note
    assert "visionr1" not in note


@pytest.mark.parametrize("converter", OTHER_JSON)
def test_json_of_other_data_sets_names_their_converter(tmp_path: Path, converter: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(OTHER_JSON[converter]))
    done = doctor(tmp_path / "a.json")
    assert (done.exit_code, f"visionr1 convert {converter}" in done.output) == (0, True)


def test_advice_for_labels_is_not_that_for_counts(tmp_path: Path) -> None:
    kinds = []
    for counts in (True, False):
        rows = []
        for i in range(60):
            label = "cat" if i % 10 else "dog"
            target = Target(task="counting", size_wh=(100, 80), count=1 + (i % 10 == 0))
            target = (
                target
                if counts
                else Target(task="grounding", size_wh=(100, 80), boxes_xyxy=[[1, 1, 9, 9]], labels=[label])
            )
            rows.append(a_row(tmp_path, i, target.to_json()))
        (group,) = [g for g in examine([write_rows(tmp_path / "a.parquet", rows)]).found if g.kind == "unbalanced"]
        kinds.append("counts" in group.examples[0].reason)
    assert kinds == [True, False]


@pytest.mark.parametrize("dropped", [("reward_model",), ("prompt",), ("reward_model", "data_source", "prompt")])
def test_a_parquet_without_what_verl_reads_is_not_silent(tmp_path: Path, dropped: tuple[str, ...]) -> None:
    row = {key: value for key, value in a_row(tmp_path).items() if key not in dropped}
    done = doctor(write_rows(tmp_path / "a.parquet", [row]))
    assert done.exit_code == (2 if len(dropped) == 1 else 1)


def test_validation_files_can_be_named(copy: Path) -> None:
    """Where rows say nothing of their split."""
    leaking(copy)
    change_rows(copy / "val.parquet", lambda row, truth, number: row["extra_info"].update(split=None))
    assert "overlap" not in doctor(copy / "train.parquet", copy / "val.parquet").output
    assert "overlap" in doctor(copy / "train.parquet", "--val", copy / "val.parquet").output


@pytest.mark.verl
def test_what_verl_cannot_load_is_named(copy: Path) -> None:
    """Two files that load alone and not together: verl's own words."""
    embedded = copy / "embedded.parquet"
    scene = Path(str(next(read_rows(copy / "train.parquet"))["images"][0])).parents[1]
    options = coco.Options(task="detection", embed=True, seed=9)
    coco.convert(scene / "annotations" / "instances_val.json", scene / "val", embedded, options)
    done = CliRunner().invoke(app, ["doctor", str(copy / "train.parquet"), str(embedded), "--no-images"])
    assert done.exit_code == 2
    assert "verl's RLHFDataset cannot load" in done.output
    assert "together" in done.output


def test_rows_of_verls_own_reward_are_told(copy: Path) -> None:
    table = pq.read_table(copy / "train.parquet")
    rows = table.to_pylist()
    for row in rows[:3]:
        row["data_source"], row["reward_model"]["ground_truth"] = "openai/gsm8k", "#### 42"
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), copy / "train.parquet")
    unknown = doctor(copy / "train.parquet", "--json")
    assert unknown.exit_code == 2
    errors = [group for group in json.loads(unknown.stdout)["found"] if group["severity"] == "error"]
    assert [(group["kind"], group["count"]) for group in errors] == [("unreadable truth", 3)]
    known = doctor(copy / "train.parquet", "--delegate", "openai/*", "--json")
    found = {group["kind"]: (group["severity"], group["count"]) for group in json.loads(known.stdout)["found"]}
    assert found["scored by verl"] == ("note", 3)
    assert "unreadable truth" not in found


@pytest.mark.parametrize("image", [None, 1])
def test_of_several_images_the_one_of_the_ground_truth_has_its_size(copy: Path, image: int | None) -> None:
    table = pq.read_table(copy / "train.parquet")
    rows = table.to_pylist()
    larger = copy / "larger.jpg"
    Image.new("RGB", (400, 300)).save(larger)
    for row in rows:
        truth = json.loads(row["reward_model"]["ground_truth"]) | ({} if image is None else {"image": image})
        row["reward_model"]["ground_truth"] = json.dumps(truth)
        row["prompt"][0]["content"] = "<image>" + row["prompt"][0]["content"]
        row["images"] = [str(larger), *row["images"]]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), copy / "train.parquet")
    kinds = {group["kind"] for group in json.loads(doctor(copy / "train.parquet", "--json").stdout)["found"]}
    assert ("another size" in kinds) == (image is None)


def test_budget_of_the_prompt(clean: Path) -> None:
    done = doctor(clean / "train.parquet", "--max-prompt", 60)
    assert "prompt too long" in done.output
    assert done.exit_code == 2
    assert doctor(clean / "train.parquet", "--max-prompt", 400).exit_code == 0


# ---------------------------------------------------------------------------------------------- fixing


def soil(folder: Path) -> Path:
    """Everything that can be repaired safely, at once."""
    path = folder / "train.parquet"
    duplicate_boxes(folder)

    def change(row: dict[str, Any], truth: Truth, number: int) -> None:
        if number == 20:
            truth.update(boxes_xyxy=[[0, 0, 200.5, 50], [5, 5, 5, 9]], labels=["red circle"] * 2, categories=[])
            row["prompt"][0]["content"] = "<image>Where is the red circle?"
        if number in (3, 4):
            row["extra_info"]["index"] = 7
        shutil.copy(row["images"][0], folder / Path(row["images"][0]).name)
        row["images"] = [Path(row["images"][0]).name]

    change_rows(path, change)
    repeated_rows(folder)
    return path


def test_what_is_safe_is_repaired_and_reported(copy: Path) -> None:
    path = soil(copy)
    before = path.read_bytes()
    assert doctor(path).exit_code == 2
    done = doctor(path, "--fix", copy / "mended.parquet")
    for kind in (
        "2 x repeated row dropped",
        "x repeated box dropped",
        "1 x box clipped by up to a pixel",
        "1 x box without area dropped",
        "1 x extra_info.index made unique",
        "relative path of an image made absolute",
    ):
        assert kind in done.stderr
    assert re.search(r"row 20, boxes_xyxy\[1\] = \[5, 5, 5, 9\]: box without area", done.stderr)
    assert path.read_bytes() == before
    again = doctor(copy / "mended.parquet")
    assert (again.output, again.exit_code) == ("", 0)
    provenance = json.loads(pq.read_schema(copy / "mended.parquet").metadata[b"visionr1"])
    assert provenance["fixed"] == [{"by": "visionr1 doctor --fix", "file": "train.parquet"}]


@pytest.mark.parametrize("spoil", [fractions, rotated, unnamed_labels, silent_negatives, inverted, of_another_project])
def test_what_is_not_safe_is_left(copy: Path, spoil: Callable[[Path], None]) -> None:
    spoil(copy)
    found = doctor(copy / "train.parquet").output
    done = doctor(copy / "train.parquet", "--fix", copy / "mended.parquet")
    assert done.exit_code != 0
    if (copy / "mended.parquet").exists():
        assert doctor(copy / "mended.parquet").output == found.replace("train.parquet", "mended.parquet")


@pytest.mark.parametrize(
    ("spoil", "name"),
    [(thousandths, "xyxy-norm1000"), (fractions, "xyxy-norm1"), (corner_and_size, "xywh-abs")],
)
def test_coordinates_are_mended_as_told(copy: Path, spoil: Callable[[Path], None], name: str) -> None:
    """Doctor says what to tell it; boxes come back to within the rounding of what was written."""
    rows = list(read_rows(copy / "train.parquet"))
    truth = {row["extra_info"]["index"]: row["reward_model"]["ground_truth"] for row in rows}
    spoil(copy)
    assert f"--fix OUT.parquet --boxes-are {name}" in doctor(copy / "train.parquet").output
    done = doctor(copy / "train.parquet", "--fix", copy / "mended.parquet", "--boxes-are", name)
    assert "x box brought from" in done.stderr
    assert doctor(copy / "mended.parquet").exit_code == 0
    for row in read_rows(copy / "mended.parquet"):
        before = json.loads(truth[row["extra_info"]["index"]]).get("boxes_xyxy", [])
        after = json.loads(row["reward_model"]["ground_truth"]).get("boxes_xyxy", [])
        assert np.allclose(before, after, atol=0.11)


def test_right_boxes_are_not_spoiled(copy: Path) -> None:
    """Told what is not so, or told twice."""
    path = copy / "train.parquet"
    done = doctor(path, "--fix", copy / "spoiled.parquet", "--boxes-are", "xyxy-norm1")
    assert done.exit_code == 2
    assert re.search(
        r"row 0: box .* would be .* outside the image of \[200, 120\]: it is not.*nothing was", done.stderr
    )
    assert not (copy / "spoiled.parquet").exists()


def test_boxes_are_goes_with_fix(copy: Path) -> None:
    for arguments in (["--boxes-are", "xyxy-norm1"], ["--fix", copy / "a.parquet", "--boxes-are", "yxyx"]):
        done = doctor(copy / "train.parquet", *arguments)
        assert done.exit_code == 2
        assert "--boxes-are" in done.stderr


def test_fix_refuses_to_overwrite(copy: Path) -> None:
    path = copy / "train.parquet"
    for out, message in ((path, "another file"), (copy / "a.txt", "ends in .parquet")):
        done = doctor(path, "--fix", out)
        assert done.exit_code == 2
        assert message in done.stderr
    assert "one .parquet at a time" in doctor(path, copy / "val.parquet", "--fix", copy / "b.parquet").stderr


# ---------------------------------------------------------------------------------------------- anybody's files


def write_jsonl(folder: Path, records: list[Any]) -> Path:
    path = folder / "train.jsonl"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def foreign_records(clean: Path, form: Callable[[list[float], int, int], Any]) -> list[dict[str, Any]]:
    records = []
    for row in read_rows(clean / "train.parquet"):
        truth = json.loads(row["reward_model"]["ground_truth"])
        boxes = [form(box, *truth["size_wh"]) for box in truth.get("boxes_xyxy", [])]
        records.append({"image": row["images"][0], "problem": f"Where, {len(records)}?", "objects": {"bbox": boxes}})
    return records


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (lambda b, w, h: b, "x1 y1 x2 y2 in pixels"),
        (lambda b, w, h: [b[0], b[1], b[2] - b[0], b[3] - b[1]], "x y width height in pixels"),
        (lambda b, w, h: [b[0] / w, b[1] / h, b[2] / w, b[3] / h], "x1 y1 x2 y2 in fractions"),
        (lambda b, w, h: [round(1000 * v / side) for v, side in zip(b, (w, h) * 2, strict=True)], "in 0-1000"),
    ],
    ids=["xyxy", "xywh", "norm1", "norm1000"],
)
def test_coordinates_of_a_jsonl_are_guessed(
    clean: Path, tmp_path: Path, form: Callable[[list[float], int, int], Any], expected: str
) -> None:
    done = doctor(write_jsonl(tmp_path, foreign_records(clean, form)))
    assert re.search(rf"note: coordinates\n\s+objects.bbox: .*{expected}", done.output), done.output
    assert "visionr1 convert records" in done.output
    assert done.exit_code == 0


def test_one_box_over_the_edge_changes_no_guess(clean: Path, tmp_path: Path) -> None:
    """A larger unit fits everything, in a corner of the image."""
    records = foreign_records(clean, lambda b, w, h: b)
    records[0]["objects"]["bbox"][0][2] = 209
    done = doctor(write_jsonl(tmp_path, records))
    assert re.search(r"objects.bbox: x1 y1 x2 y2 in pixels \(xyxy-abs\): 9\d\.?\d* % of", done.output)
    assert re.search(r"; less likely .*: 100 % of \d+ boxes fit", done.output)


def test_images_of_a_jsonl_lie_elsewhere(clean: Path, tmp_path: Path) -> None:
    records = foreign_records(clean, lambda b, w, h: b)
    folder = Path(records[0]["image"]).parent
    path = write_jsonl(tmp_path, [{**record, "image": Path(record["image"]).name} for record in records])
    assert "no such file" in doctor(path).output
    done = doctor(path, "--images-dir", folder)
    assert "x1 y1 x2 y2 in pixels" in done.output
    assert done.exit_code == 0


def test_missing_image_and_garbled_line_of_a_jsonl(clean: Path, tmp_path: Path) -> None:
    records = foreign_records(clean, lambda b, w, h: b)
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
        (tmp_path / "a.txt", "cannot be checked; needs one of"),
    ):
        done = doctor(path)
        assert done.exit_code == 2
        assert expected in done.output
    assert "unreadable file" in doctor(tmp_path / "cut.parquet").output
    with pytest.raises(RowsError, match="in it; convert it"):
        examine([tmp_path / "empty"])


# ---------------------------------------------------------------------------------------------- hand-made rows

CAT = Target(task="grounding", size_wh=(100, 80), boxes_xyxy=[[1, 1, 50, 50]], labels=["cat"], categories=["cat"])
ASKED = [{"role": "user", "content": "<image>Locate the cat, or say none"}]


def a_row(folder: Path, number: int = 0, truth: str = CAT.to_json(), **changes: Any) -> dict[str, Any]:
    image = folder / "a.png"
    if not image.exists():
        Image.new("RGB", (100, 80), "red").save(image)
    info = {"split": "train", "index": number, "image_id": "a", "width": 100, "height": 80, "task": "grounding"}
    info |= {"question": "q", "file_name": "a.png", "source_ann": "{}"}
    row = {"data_source": "x", "prompt": ASKED, "images": [str(image)], "ability": "grounding"}
    return {**row, "reward_model": {"style": "rule", "ground_truth": truth}, "extra_info": info, **changes}


def a_text_row(folder: Path, number: int = 0, **changes: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": "What?"}]
    return a_row(folder, number, Target(task="text", answer="B").to_json(), prompt=turns, images=[], **changes)


def write_rows(path: Path, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> Path:
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path


def kinds_in(*paths: Path) -> list[str]:
    return [group.kind for group in examine(paths).found]


def embedded(folder: Path) -> dict[str, Any]:
    a_row(folder)
    return {"bytes": (folder / "a.png").read_bytes()}


LONG = "9" * 400
TYPED = [{"role": "user", "content": [{"type": "text", "text": "cat"}]}]


@pytest.mark.parametrize(
    ("changes", "schema", "expected"),
    [
        ({}, PATH_SCHEMA, []),
        ({"images": [None]}, PATH_SCHEMA, ["no image"]),
        ({"images": [{"bytes": None}]}, EMBED_SCHEMA, ["no image"]),
        ({"images": [{"bytes": b""}]}, EMBED_SCHEMA, ["no image"]),
        ({"images": ["/a\0.png"]}, PATH_SCHEMA, ["no such image"]),
        ({"images": ["/" + "a" * 5000]}, PATH_SCHEMA, ["no such image"]),
        ({"prompt": ["<image>cat"]}, None, ["column of another type"]),
        ({"prompt": TYPED}, None, ["column of another type"]),
        ({"prompt": [None]}, PATH_SCHEMA, ["malformed prompt"]),
        ({"extra_info": "{}"}, None, ["column of another type"]),
        (
            {"truth": CAT.to_json().replace("50.0", LONG)},
            PATH_SCHEMA,
            ["box malformed", "unreadable truth"],
        ),
        ({"truth": CAT.to_json().replace("[100,", f"[{LONG},")}, PATH_SCHEMA, ["another size"]),
    ],
)
def test_what_stops_verl_is_found_and_not_raised(
    tmp_path: Path, changes: dict[str, Any], schema: pa.Schema | None, expected: list[str]
) -> None:
    path = write_rows(tmp_path / "a.parquet", [a_row(tmp_path, **changes)], schema)
    done = doctor(path, "--html", tmp_path / "a.html")
    assert done.exit_code == (2 if expected else 0), done.output
    assert set(kinds_in(path)) == set(expected)


def test_images_of_embedded_rows_are_counted(tmp_path: Path) -> None:
    image = embedded(tmp_path)
    twice = write_rows(tmp_path / "twice.parquet", [a_row(tmp_path, images=[image] * 2)], EMBED_SCHEMA)
    assert kinds_in(twice) == ["placeholders"]
    rows = [a_row(tmp_path, images=[image]), a_text_row(tmp_path, 1)]
    assert kinds_in(write_rows(tmp_path / "text.parquet", rows, EMBED_SCHEMA)) == []


def test_a_file_without_images_may_hold_text_only(tmp_path: Path) -> None:
    rows = [{key: value for key, value in a_text_row(tmp_path).items() if key != "images"}]
    assert kinds_in(write_rows(tmp_path / "text.parquet", rows)) == []
    rows[0]["prompt"] = ASKED
    assert kinds_in(write_rows(tmp_path / "asked.parquet", rows)) == ["column missing"]


def fixed(folder: Path, *rows: dict[str, Any], schema: pa.Schema | None = None) -> list[dict[str, Any]]:
    path = write_rows(folder / "soiled.parquet", list(rows), schema)
    done = doctor(path, "--fix", folder / "mended.parquet")
    assert not isinstance(done.exception, Exception), done.exception
    assert done.exit_code in (0, 1, 2)
    return pq.read_table(folder / "mended.parquet").to_pylist() if (folder / "mended.parquet").exists() else []


def test_fix_keeps_keys_and_types_that_are_not_ours(tmp_path: Path) -> None:
    row = a_row(tmp_path, images=[{**embedded(tmp_path), "path": "a.png"}])
    row["extra_info"] = {"tools": {"a": [1]}, "index": 3, "answer": "kept"}
    row["reward_model"]["format"] = 0.5
    assert fixed(tmp_path, row) == [row]


@pytest.mark.parametrize(
    ("boxes", "labels", "left"),
    [
        ([[5, 5, 5, 50]], ["cat"], [0]),
        ([[5, 5, 5, 50], [1, 1, 9, 9]], ["cat", "dog"], [0, 1]),
        ([[5, 5, 5, 50], [1, 1, 9, 9]], ["cat", "cat"], [1]),
        ([[5, 5, 5, 10**400], [1, 1, 9, 9]], ["cat", "cat"], [0, 1]),
    ],
)
def test_fix_never_drops_the_last_of_what_is_there(
    tmp_path: Path, boxes: list[list[int]], labels: list[str], left: list[int]
) -> None:
    truth = {"task": "grounding", "size_wh": [100, 80], "boxes_xyxy": boxes, "labels": labels}
    (mended,) = fixed(tmp_path, a_row(tmp_path, truth=json.dumps(truth)), schema=PATH_SCHEMA)
    after = json.loads(mended["reward_model"]["ground_truth"])
    assert after["boxes_xyxy"] == [boxes[i] for i in left]
    assert after["labels"] == [labels[i] for i in left]


@pytest.mark.parametrize("change", [{"boxes_xyxy": 5}, {"size_wh": ["a", 80]}, {"labels": 3}, {"boxes_xyxy": None}])
def test_fix_leaves_truths_that_are_none(tmp_path: Path, change: dict[str, Any]) -> None:
    row = a_row(tmp_path, truth=json.dumps({**json.loads(CAT.to_json()), **change}))
    assert fixed(tmp_path, row, schema=PATH_SCHEMA) == [row]


def test_fix_compares_all_of_a_row_but_its_index(tmp_path: Path) -> None:
    rows = [a_row(tmp_path), a_row(tmp_path, 1), a_row(tmp_path, 0, data_source="y")]
    mended = fixed(tmp_path, *rows, schema=PATH_SCHEMA)
    assert [(row["data_source"], row["extra_info"]["index"]) for row in mended] == [("x", 0), ("y", 1)]


def test_page_starts_no_other_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *given, **_: started.append(given))
    a_row(tmp_path)
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n showpage\n"
    (tmp_path / "a.png").write_bytes(text)
    path = write_rows(tmp_path / "a.parquet", [a_row(tmp_path)], PATH_SCHEMA)
    assert "unreadable image" in doctor(path, "--html", tmp_path / "a.html").output
    assert "(no image)" in (tmp_path / "a.html").read_text()
    assert not started


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--html", "/proc/no/page.html"], "/proc/no/page.html"),
        (["--family", "nosuch", "--max-prompt", "10"], "family 'nosuch': needs one of"),
    ],
)
def test_options_that_cannot_be_are_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    done = doctor(write_rows(tmp_path / "a.parquet", [a_row(tmp_path)], PATH_SCHEMA), *options)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_markup_in_labels_and_names_is_text(tmp_path: Path) -> None:
    target = Target(task="grounding", size_wh=(100, 80), boxes_xyxy=[[1, 1, 9, 9]], labels=["[/b]cat"])
    turns = [{"role": "user", "content": "<image>[/b]cat"}]
    (tmp_path / "[/x]").mkdir(parents=True)
    row = a_row(tmp_path, truth=target.to_json(), prompt=turns)
    done = doctor(write_rows(tmp_path / "[/x]" / "[b].parquet", [row], PATH_SCHEMA), "--stats")
    assert done.exit_code == 0
    assert "[/b]cat: 1" in done.output
    assert "[b].parquet: 1 row" in done.output


# ---------------------------------------------------------------------------------------------- folders, several files


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


def test_overlap_inside_a_file(tmp_path: Path) -> None:
    other = a_row(tmp_path, 1, prompt=[{"role": "user", "content": "<image>Where is the cat, or none?"}])
    other["extra_info"]["split"] = "val"
    path = write_rows(tmp_path / "a.parquet", [a_row(tmp_path), other], PATH_SCHEMA)
    assert kinds_in(path) == ["train/validation overlap"]
    assert [group.kind for group in examine([], [path]).found] == []


def test_rows_of_another_training_file(tmp_path: Path) -> None:
    files = [write_rows(tmp_path / f"{name}.parquet", [a_row(tmp_path)], PATH_SCHEMA) for name in "ab"]
    (group,) = examine(files).found
    assert (group.kind, group.severity, group.file) == ("rows of another file", 1, str(files[1]))
    assert str(files[0]) in group.examples[0].reason


# ---------------------------------------------------------------------------------------------- conventions


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


# ---------------------------------------------------------------------------------------------- page and JSON


def test_page_shows_samples_and_escapes_what_files_say(copy: Path) -> None:
    def change(row: dict[str, Any], truth: Truth, number: int) -> None:
        truth["labels"] = [f"<script>alert({number})</script>"] * len(truth.get("labels", []))

    change_rows(copy / "train.parquet", change)
    done = doctor(copy / "train.parquet", "--html", copy / "page.html")
    page = (copy / "page.html").read_text()
    assert done.exit_code == 1
    assert "<script" not in page
    assert "&lt;script&gt;alert" in page
    assert page.count('<img src="data:image/jpeg;base64,') == 24
    assert "http" not in page.replace("http-equiv", "")


def test_json(copy: Path) -> None:
    duplicate_boxes(copy)
    found = json.loads(doctor(copy / "train.parquet", "--json").output)
    assert found["severity"] == "warning"
    assert found["found"][0]["kind"] == "duplicate box"
    assert found["files"][0]["tasks"]["detection"] == N_IMAGES
