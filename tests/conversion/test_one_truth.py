"""N formats, one truth: the same scenes in every format become the same rows, and boxes lie on their pixels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from scene_sets import FORMATS
from scene_sets.base import SceneFormat, canon_of, detection, pictures, remeasured, rows_in

from verl_visionr1.rows import read_rows
from verl_visionr1.runtime.loading import loading_problem
from verl_visionr1.tools.doctor import check_parquet

EMBEDDED = [next(form for form in FORMATS if form.embeds is embeds) for embeds in (False, True)]
"""A converter does not know whether its images are embedded."""


@pytest.mark.parametrize(
    ("form", "embed"),
    [*((form, False) for form in FORMATS), *((form, True) for form in EMBEDDED)],
    ids=lambda it: it.name if isinstance(it, SceneFormat) else "embedded" if it else "paths",
)
def test_every_format_gives_the_same_rows(form: SceneFormat, embed: bool, tmp_path: Path) -> None:
    scenes = pictures()[:4]
    arguments = form.write(scenes, tmp_path / "source")
    report = form.convert(*arguments, tmp_path / "out.parquet", replace(form.options, embed=embed))
    found = rows_in(report)
    assert sorted(map(canon_of, found)) == sorted(form.expected(scenes))
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


@pytest.mark.verl
@pytest.mark.parametrize("embed", [False, True], ids=["paths", "embedded"])
def test_files_of_all_converters_load_together(embed: bool, tmp_path: Path) -> None:
    """verl concatenates them: one column of another type would stop the trainer."""
    files = []
    for number, form in enumerate({form.name.split()[0]: form for form in FORMATS}.values()):
        arguments = form.write(pictures()[:3], tmp_path / str(number))
        options = replace(form.options, embed=embed, limit=2)
        files.append(form.convert(*arguments, tmp_path / f"{number}.parquet", options).written.file)
    assert loading_problem(files) is None
    indexes = [row["extra_info"]["index"] for file in files for row in read_rows(file)]
    assert len(set(indexes)) == len(indexes)
