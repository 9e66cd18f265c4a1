"""`visionr1 doctor`: each fault of a deliberately broken data set is named; a clean one passes in silence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from doctor_rows import (
    BROKEN,
    N_IMAGES,
    Truth,
    change_rows,
    convert_again,
    doctor,
    duplicate_boxes,
    leaking,
    of_rows,
    write_rows,
)
from PIL import Image

from verl_visionr1.conversion.datasets import coco


def test_a_clean_data_set_passes_in_silence(clean: Path) -> None:
    for arguments in ([clean / "train.parquet", clean / "val.parquet"], [clean / "train.parquet"]):
        done = doctor(*arguments)
        assert (done.output, done.exit_code) == ("", 0)


@pytest.mark.verl
def test_clean_files_load_in_verl(clean: Path) -> None:
    files = [clean / "train.parquet", clean / "val.parquet"]
    done = doctor(*files, "--verl", "yes")
    assert (done.stdout, done.exit_code) == ("", 0)
    assert [str(file) in done.stderr for file in files] == [True, True]  # said before the wait
    assert done.stderr.count("\n") == 1
    assert json.loads(doctor(*files, "--verl", "yes", "--json").stdout)["found"] == []


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
    assert report.ledger.left_out["detection row with more than 30 objects (--max-instances)"]
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
    convert_again(copy, "val", embedded, coco.Options(task="detection", embed=True, seed=9))
    done = doctor(copy / "train.parquet", embedded, "--no-images", "--verl", "auto")
    assert done.exit_code == 2
    assert "verl's RLHFDataset cannot load" in done.output
    assert "together" in done.output


def test_rows_of_verls_own_reward_are_told(copy: Path) -> None:
    table = pq.read_table(copy / "train.parquet")
    rows = table.to_pylist()
    for row in rows[:3]:
        row["data_source"], row["reward_model"]["ground_truth"] = "openai/gsm8k", "#### 42"
    write_rows(copy / "train.parquet", rows, table.schema)
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
    larger = copy / "larger.jpg"
    Image.new("RGB", (400, 300)).save(larger)

    @of_rows
    def with_two_images(row: dict[str, Any], truth: Truth, number: int) -> None:
        truth.update({} if image is None else {"image": image})
        row["prompt"][0]["content"] = "<image>" + row["prompt"][0]["content"]
        row["images"] = [str(larger), *row["images"]]

    with_two_images(copy)
    kinds = {group["kind"] for group in json.loads(doctor(copy / "train.parquet", "--json").stdout)["found"]}
    assert ("another size" in kinds) == (image is None)


def test_budget_of_the_prompt(clean: Path) -> None:
    done = doctor(clean / "train.parquet", "--max-prompt", 60)
    assert "prompt too long" in done.output
    assert done.exit_code == 2
    assert doctor(clean / "train.parquet", "--max-prompt", 400).exit_code == 0


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
