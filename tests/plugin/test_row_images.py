"""Rows that verl's data set can make prompts of, and rows that it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from run_configs import config_of, row

from verl_visionr1.plugin.preflight import reward_problems
from verl_visionr1.runtime import run_rows

pytestmark = pytest.mark.verl


GOOD_ROW = row()
NOBODY = {**GOOD_ROW, "prompt": [{"role": "user", "content": "Where is the cat?"}]}
UNREADABLE = {  # rows -> what is said of the file
    "two places for one image": (
        [{**row(n_images=2), "images": ["a.png"]}],
        "row 0: its prompt has 2 <image> for 1 im",
    ),
    "an image without a place": ([GOOD_ROW, NOBODY], "row 1: its prompt has 0 <image> for 1 images"),
    "a place without an image": (
        [GOOD_ROW, {**GOOD_ROW, "images": []}],
        "row 1: its prompt has 1 <image> for 0 images",
    ),
    "null": ([GOOD_ROW, {**GOOD_ROW, "images": None}], "row 1: its prompt has 1 <image> for 0 images"),
    "no column": (
        [{key: GOOD_ROW[key] for key in GOOD_ROW if key != "images"}],
        "row 0: its prompt has 1 <image> for 0",
    ),
    "no prompt": ([GOOD_ROW, {**GOOD_ROW, "prompt": None}], "row 1: its prompt is None: verl needs a list"),
    "an empty prompt": ([GOOD_ROW, {**GOOD_ROW, "prompt": []}], "row 1: its prompt is []: verl needs a list"),
    "a text as prompt": ([{**GOOD_ROW, "prompt": "<image>Where?"}], "column prompt has string: verl needs a list"),
    "messages without content": (
        [{**GOOD_ROW, "images": None, "prompt": [{"from": "human", "value": "Where?"}]}],
        "column prompt has list<",
    ),
    "a text as images": ([{**GOOD_ROW, "images": "a.png"}], "column images has string: verl needs a list of images"),
    "bare bytes": ([{**GOOD_ROW, "images": [b"x"]}], "column images has lists of binary"),
    "records of paths": ([{**GOOD_ROW, "images": [{"path": "a.png"}]}], "column images has lists of struct<path"),
}
READABLE = {
    "paths": [GOOD_ROW],
    "bytes and paths": [{**GOOD_ROW, "images": [{"bytes": b"x", "path": "a.png"}]}],
    "records": [{**GOOD_ROW, "images": [{"image": "a.png"}]}],
    "bytes": [{**GOOD_ROW, "images": [{"bytes": b"x"}]}],
    "text alone": [{**NOBODY, "images": None}],
    "one with, one without": [GOOD_ROW, {**NOBODY, "images": None}],
    "a video": [{**NOBODY, "images": None, "videos": ["a.mp4"], "prompt": [{"role": "user", "content": "<video>?"}]}],
    "parts": [{**NOBODY, "images": None, "prompt": [{"role": "user", "content": [{"type": "image", "image": "a"}]}]}],
    "parts of text": [{**NOBODY, "images": None, "prompt": [{"role": "user", "content": ["Where?"]}]}],
}


def unreadable(folder: Path, rows: list[dict[str, Any]], *overrides: str) -> list[str]:
    file = folder / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    return run_rows.row_problems(config_of(f"data.train_files={file}", *overrides))


@pytest.mark.parametrize(("rows", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_rows_that_verl_cannot_read(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    (found,) = unreadable(tmp_path, rows)
    assert found.startswith(f"data.train_files: {tmp_path}/rows.parquet: {message}")
    assert unreadable(tmp_path, rows, "data.custom_cls.path=mine.py") == [], "another data set may read them"


@pytest.mark.parametrize("rows", READABLE.values(), ids=READABLE)
def test_rows_that_verl_reads(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    assert unreadable(tmp_path, rows) == []


def test_another_budget_of_pixels_is_not_guessed(tmp_path: Path) -> None:
    size = "data.mm_processor_kwargs.size.longest_edge=200704"
    assert unreadable(tmp_path, [row((1000, 1000))], size) == []
    assert len(unreadable(tmp_path, [row((1000, 1000))])) == 1


def test_a_config_without_keys_has_those_of_verl(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([row()]), tmp_path / "rows.parquet")
    config = config_of(f"data.train_files={tmp_path}/rows.parquet")
    for key in ("image_key", "filter_overlong_prompts"):
        del config.data[key]
    OmegaConf.set_struct(config, True)
    assert run_rows.row_problems(config) == run_rows.row_notes(config) == []
    assert not any("no column" in problem for problem in reward_problems(config))
