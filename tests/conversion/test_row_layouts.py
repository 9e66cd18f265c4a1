"""Rows for each framework: the same ground truth, columns as its reader has them, images that it opens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scene_sets.base import pictures
from scene_sets.coco_like import write_coco
from typer.testing import CliRunner

from verl_visionr1.cli import app
from verl_visionr1.conversion.datasets import coco
from verl_visionr1.files import RowsError
from verl_visionr1.rows import read_rows
from verl_visionr1.tools.doctor import check_parquet

COLUMNS = {  # framework -> its column of ground truth, that of the question, and how the question begins
    "easyr1": ("answer", "problem", "<image>"),
    "ms-swift": ("solution", "messages", "<image>"),
    "trl": ("ground_truth", "prompt", ""),
}
SHARED = {"images", "data_source", "ability", "extra_info"}
KINDS = [(".parquet", {}), (".parquet", {"embed": True}), (".jsonl", {})]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    annotations, images = write_coco(pictures()[:3], tmp_path_factory.mktemp("source"))
    return annotations, images


def convert(source: tuple[Path, Path], out: Path, **options: Any) -> list[dict[str, Any]]:
    """The rows that are written."""
    file = coco.convert(*source, out, coco.Options(**options)).written.file
    if out.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return list(read_rows(file))


@pytest.mark.parametrize(("suffix", "options"), KINDS, ids=["paths", "embedded", "jsonl"])
@pytest.mark.parametrize("framework", COLUMNS)
def test_rows_of_each_framework(
    framework: str, suffix: str, options: dict[str, Any], source: tuple[Path, Path], tmp_path: Path
) -> None:
    truth, question, beginning = COLUMNS[framework]
    expected = convert(source, tmp_path / "verl.parquet", task="all")
    rows = convert(source, out := tmp_path / f"rows{suffix}", task="all", to=framework, **options)
    assert len(rows) == len(expected)
    for row, ours in zip(rows, expected, strict=True):
        assert set(row) == SHARED | {truth, question}
        assert row[truth] == ours["reward_model"]["ground_truth"]
        asked = row[question] if isinstance(row[question], str) else row[question][0]["content"]
        assert asked == beginning + ours["extra_info"]["question"]
        assert (row["data_source"], row["ability"]) == (ours["data_source"], ours["ability"])
        assert {**row["extra_info"], "index": 0} == {**ours["extra_info"], "index": 0}
        (image,) = row["images"]
        path = ours["images"][0]
        if suffix == ".jsonl":
            assert image == path
        elif options:
            assert image == {"bytes": Path(path).read_bytes(), "path": None}
        else:
            assert image == {"bytes": None, "path": path}
    assert len({row["extra_info"]["index"] for row in rows}) == len(rows)
    assert doctor(out).exit_code == 0
    if suffix == ".jsonl":
        first, *others = out.read_text().splitlines()
        out.write_text("\n".join([json.dumps({**json.loads(first), truth: "{}"}), *others]) + "\n")
        (found,) = [group for group in json.loads(doctor(out).output)["found"] if group["severity"] == "error"]
        assert [example["row"] for example in found["examples"]] == [1]


@pytest.mark.parametrize("embed", [False, True])
def test_hf_images_are_fit_for_verl(embed: bool, source: tuple[Path, Path], tmp_path: Path) -> None:
    rows = convert(source, tmp_path / "a.parquet", hf_images=True, embed=embed)
    assert [(image["bytes"] is None, image["path"] is None) for row in rows for image in row["images"]] == [
        (not embed, embed)
    ] * len(rows)
    assert check_parquet(tmp_path / "a.parquet") == []


def test_an_image_that_is_gone_is_missed(source: tuple[Path, Path], tmp_path: Path) -> None:
    annotations, images = write_coco(pictures()[:2], tmp_path)
    convert((annotations, images), tmp_path / "a.parquet", hf_images=True, task="detection")
    (images / pictures()[1].file_name).unlink()
    assert [problem.row for problem in check_parquet(tmp_path / "a.parquet")] == [1]


@pytest.mark.verl
@pytest.mark.parametrize("embed", [False, True])
@pytest.mark.parametrize("framework", ["verl", "easyr1", "trl"])
def test_images_are_opened_by_datasets(framework: str, embed: bool, source: tuple[Path, Path], tmp_path: Path) -> None:
    from datasets import load_dataset

    convert(source, tmp_path / "a.parquet", to=framework, hf_images=framework == "verl", embed=embed, task="detection")
    rows = load_dataset("parquet", data_files=str(tmp_path / "a.parquet"), split="train", cache_dir=str(tmp_path / "c"))
    assert [row["images"][0].convert("RGB").tobytes() for row in rows] == [it.pixels for it in pictures()[:3]]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.jsonl", {}),
        ("a.jsonl", {"to": "trl", "embed": True}),
        ("a.parquet", {"to": "trl", "hf_images": True}),
        ("a.csv", {"to": "easyr1"}),
    ],
)
def test_what_no_reader_has_is_refused(
    name: str, options: dict[str, Any], source: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(RowsError):
        convert(source, tmp_path / name, **options)
    assert [*tmp_path.iterdir()] == []


def doctor(out: Path) -> Any:
    return CliRunner().invoke(app, ["doctor", str(out), "--verl", "no", "--json"])
