"""The command that `visionr1 doctor` prints for a file that is not in verl's layout converts that file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scene_sets.base import pictures
from typer.testing import CliRunner

from verl_visionr1.cli import app
from verl_visionr1.rows import read_rows
from verl_visionr1.tools.doctor.examination import examine

Record = dict[str, Any]


BOXES: dict[str, Callable[[Record], Record]] = {
    "caption and a list of boxes": lambda it: {"image": it["image"], "caption": it["label"], "box": it["xywh"]},
    "with sizes": lambda it: {**it["wh"], "file_name": it["image"], "phrase": it["label"], "a box": it["xyxy"]},
    "objects with categories": lambda it: {
        "file_name": it["image"],
        "objects": {"bbox": it["xyxy"], "categories": [it["label"]] * len(it["xyxy"])},
    },
    "question and boxes": lambda it: {"image": it["image"], "question": it["label"], "boxes": it["xyxy"]},
}
OTHERS: dict[str, Callable[[Record], Record]] = {
    "question and answer": lambda it: {"image": it["image"], "question": "What is it?", "answer": it["label"]},
    "a phrase and its count": lambda it: {"image": it["image"], "phrase": it["label"], "count": len(it["xyxy"])},
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


def convert_as_told(path: Path) -> list[Record]:
    """The ground truths of the rows that the printed command makes."""
    (reason,) = [group.examples[0].reason for group in examine([path]).found if group.kind == "layout"]
    words = shlex.split(reason.split("`")[1])
    assert words[:3] == ["visionr1", "convert", "records"]
    done = CliRunner().invoke(app, words[1:])
    assert done.exit_code == 0, f"{words}\n{done.output}"
    return [json.loads(row["reward_model"]["ground_truth"]) for row in read_rows(path.with_suffix(".parquet"))]


@pytest.mark.parametrize("layout", [*BOXES, *OTHERS])
def test_the_printed_command_converts_the_file(layout: str, tmp_path: Path) -> None:
    known = of_scenes(tmp_path)
    path = tmp_path / "it's a file.jsonl"
    path.write_text("".join(json.dumps({**BOXES, **OTHERS}[layout](it)) + "\n" for it in known))
    written = convert_as_told(path)
    if layout in BOXES:
        assert {str(it["boxes_xyxy"]) for it in written} == {str([[*map(float, it["xyxy"][0])]]) for it in known}
        assert {it["labels"][0] for it in written} == {it["label"] for it in known}
    else:
        assert len(written) == len(known)
