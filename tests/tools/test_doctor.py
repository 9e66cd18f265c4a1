"""`visionr1 doctor`: each fault of a deliberately broken data set is named; a clean one passes in silence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize(("spoil", "code", "expected"), BROKEN.values(), ids=BROKEN)
def test_each_fault_is_named(copy: Path, spoil: Callable[[Path], None], code: int, expected: str) -> None:
    spoil(copy)
    done = doctor(copy / "train.parquet", copy / "val.parquet")
    assert re.search(expected, done.output, re.DOTALL), done.output
    assert done.exit_code == code


def test_validation_files_can_be_named(copy: Path) -> None:
    """Where rows say nothing of their split; a file cannot be both."""
    train, val = copy / "train.parquet", copy / "val.parquet"
    assert "overlap" not in doctor(train, val, "--val", val).output
    leaking(copy)
    change_rows(val, lambda row, truth, number: row["extra_info"].update(split=None))
    assert "overlap" not in doctor(train, val).output
    assert "overlap" in doctor(train, "--val", val).output
    (copy / "link.parquet").symlink_to(train)
    assert "train/validation overlap" in doctor(train, "--val", copy / "link.parquet").output


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

    def with_two_images(row: dict[str, Any], truth: Truth, number: int) -> None:
        truth.update({} if image is None else {"image": image})
        row["prompt"][0]["content"] = "<image>" + row["prompt"][0]["content"]
        row["images"] = [str(larger), *row["images"]]

    of_rows(with_two_images)(copy)
    kinds = {group["kind"] for group in json.loads(doctor(copy / "train.parquet", "--json").stdout)["found"]}
    assert ("another size" in kinds) == (image is None)


def test_budget_of_the_prompt(clean: Path) -> None:
    done = doctor(clean / "train.parquet", "--max-prompt", 60)
    assert "prompt too long" in done.output
    assert done.exit_code == 2
    assert doctor(clean / "train.parquet", "--max-prompt", 400).exit_code == 0


def test_prompts_longer_than_usual_are_noted(copy: Path) -> None:
    of_rows(lambda row, truth, number: truth.update(size_wh=[1280, 960]))(copy)
    done = doctor(copy / "train.parquet", "--no-images")
    assert ("note: prompt too long" in done.output, done.exit_code) == (True, 0)


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
