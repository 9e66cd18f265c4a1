"""N formats, one truth: the same scenes in every format become the same rows, and boxes lie on their pixels."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from scene_sets.base import SceneFormat, canon_of, detection, pictures, remeasured, rows_in

from verl_visionr1.tools.doctor import check_parquet

FAMILIES = ("coco_like", "detection_files", "open_vocabulary", "referring", "regions")
FORMATS: list[SceneFormat] = [it for family in FAMILIES for it in import_module(f"scene_sets.{family}").FORMATS]


@pytest.mark.parametrize("embed", [False, True], ids=["paths", "embedded"])
@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_every_format_gives_the_same_rows(form: SceneFormat, embed: bool, tmp_path: Path) -> None:
    arguments = form.write(pictures(), tmp_path / "source")
    report = form.convert(*arguments, tmp_path / "out.parquet", replace(form.options, embed=embed))
    found = rows_in(report)
    assert sorted(map(canon_of, found)) == sorted(form.expected(pictures()))
    assert not report.ledger.skipped
    for row in found:
        for box, bounds in remeasured(row):
            assert box == bounds
    assert check_parquet(tmp_path / "out.parquet") == []


def test_the_measure_sees_a_pixel(tmp_path: Path) -> None:
    picture = pictures()[0]
    truth = json.loads(detection([picture])[0][3])
    truth["boxes_xyxy"][0][2] += 1
    row = {"images": [str(picture.save(tmp_path))], "reward_model": {"ground_truth": json.dumps(truth)}}
    assert [box == bounds for box, bounds in remeasured(row)].count(False) == 1
