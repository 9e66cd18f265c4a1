"""Pages of a gallery that is made of a small run, and what stands in them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from gallery_runs import write_lines

from verl_visionr1 import FRAMES, PRESETS, Target
from verl_visionr1.rollouts.judging import Judging, Moment
from verl_visionr1.tools.gallery.page import Settings, Written, write_gallery

STEPS = 4
JUDGING = Judging(PRESETS["visionr1"], FRAMES["original"], Moment(total_steps=STEPS))
CAT = Target(task="detection", size_wh=(640, 480), boxes_xyxy=[[100, 100, 200, 200]], labels=["cat"])
SAID = '[{"bbox_2d": [100, 100, 200, 200], "label": "cat"}]'


def made(paths: Sequence[Path], out: Path, **options: Any) -> tuple[Written, dict[str, Any], list[str]]:
    """What was written, the payload and the pictures of the page."""
    written = write_gallery(paths, out, Settings(options.pop("judging", JUDGING), **options))
    html = out.read_text()
    return written, embedded(html, "payload"), embedded(html, "pictures")


def embedded(html: str, name: str) -> Any:
    (text,) = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script>', html, re.DOTALL)
    return json.loads(text, parse_constant=pytest.fail)


def line_of(payload: dict[str, Any], sample: dict[str, Any]) -> dict[str, Any]:
    return json.loads(Path(payload["files"][sample["file"]]).read_text().splitlines()[sample["line"] - 1])


def dump(path: Path, *rows: dict[str, Any]) -> Path:
    plain = {"input": "Locate the cat.", "output": SAID, "gts": CAT.to_json(), "step": 1}
    write_lines(path, [plain | row for row in rows])
    return path
