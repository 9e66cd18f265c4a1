"""Exclusion lists as converters read them: what a line says, and which images it means."""

from __future__ import annotations

from pathlib import Path

import pytest

from verl_visionr1.conversion.identity import Exclusion, read_exclusion


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        ("coco:00139", "coco:139"),
        ("139# a note", "139"),
        ("139 # a.jpg", "139"),
        ("a.jpg\t# note", "a.jpg"),
        ("a#1.jpg", "a#1.jpg"),
        ("000000000139", "139"),
        ("000000000139.jpg", "coco:139"),
        ("a:b.jpg", "a:b.jpg"),
    ],
)
def test_lines_of_a_list(tmp_path: Path, line: str, entry: str) -> None:
    (tmp_path / "list.txt").write_text(f"#{line}\n  \n{line}\n")
    assert read_exclusion(tmp_path / "list.txt").ids == {entry}


def test_numbers_of_one_set_mean_nothing_in_another() -> None:
    excluded = Exclusion(["vg:139"])
    assert not excluded.holds("139", "COCO_val2014_000000000139.jpg", ["coco:139"])
    assert excluded.holds("139", "139.jpg", ["vg:139"])
