"""Training data of boxes and counts, and dumps of rollouts of them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from verl_visionr1 import PRESETS, Target
from verl_visionr1.cli import app
from verl_visionr1.frames import FRAMES
from verl_visionr1.images import RowImage
from verl_visionr1.rollouts.judging import Judging
from verl_visionr1.rollouts.records import read_rollouts
from verl_visionr1.rollouts.training_rows import TrainingRows, read_training_rows
from verl_visionr1.row_writer import write_rows
from verl_visionr1.rows import Row
from verl_visionr1.tools.difficulty.filtering import COLUMNS, Measured, Report, filter_by_difficulty, measure
from verl_visionr1.tools.difficulty.selection import Rules

WH = (640, 480)
JUDGING = Judging(PRESETS["visionr1"], FRAMES["original"])


def box_row(x: int = 0, question: str = "Where is the cat?", source: str = "boxes", image: str | bytes = "a") -> Row:
    target = Target(task="grounding", size_wh=WH, boxes_xyxy=[[x, 100, x + 100, 200]], labels=["cat"])
    return row_of(target, question, source, image)


def count_row(
    count: int = 1, question: str = "How many cats?", source: str = "counts", image: str | bytes = "a"
) -> Row:
    return row_of(Target(task="counting", size_wh=WH, count=count), question, source, image)


def row_of(target: Target, question: str, source: str, image: str | bytes) -> Row:
    """A row; an image of text is a path, of bytes an embedded file."""
    path, data = (f"/images/{image}.png", None) if isinstance(image, str) else ("/images/x.png", image)
    return Row(
        data_source=source,
        question=question,
        image=RowImage(path, data, WH, WH),
        target=target,
        image_id=str(image)[:20],
    )


def write_data(path: Path, rows: Iterable[Row], **provenance: Any) -> Path:
    rows = list(rows)
    write_rows(rows, path, embed=rows[0].image.data is not None, provenance={"made_by": "a test", **provenance})
    return path


def answer(row: Row, passes: bool) -> str:
    """What is right for a row, or wrong."""
    if row.target.task == "counting":
        return str((row.target.count or 0) + (not passes))
    x1, y1, x2, y2 = row.target.boxes_xyxy[0]
    return json.dumps([{"bbox_2d": [x1, y1, x2, y2 if passes else y1 + 10], "label": "cat"}])


def in_template(question: str) -> str:
    """A prompt as verl's dumps hold it: decoded without special tokens."""
    return f"user\n{question}\nassistant\n"


def rollouts_of(row: Row, n_passed: int, n: int, uid: str = "") -> list[dict[str, Any]]:
    """n rollouts of a row in the layout of verl's training dumps, `n_passed` of them right."""
    truth, prompt = row.target.to_json(), in_template(row.question)
    return [
        {"input": prompt, "output": answer(row, i < n_passed), "gts": truth, "score": 0.5, "step": 1}
        | {"uid": f"{uid or hash((truth, prompt))}_{i}_0"}
        for i in range(n)
    ]


def write_dump(path: Path, rollouts: Iterable[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rollouts))
    return path


def rates_of(data: TrainingRows, dump: Path, **rules: Any) -> tuple[Measured, list[str | None]]:
    """(all numbers, pass rate of each row as a fraction of its samples, None where it has none)."""
    found = measure(read_rollouts([dump], columns=COLUMNS), data, JUDGING, Rules(**rules))
    return found, [f"{p}/{n}" if n else None for p, n in zip(found.passed, found.samples, strict=True)]


def filtered_by(dump: Path, data: Sequence[Path], out: Path | None = None, **rules: Any) -> Report:
    rollouts = read_rollouts([dump], columns=COLUMNS)
    return filter_by_difficulty(rollouts, read_training_rows(data), JUDGING, Rules(**rules), out=out)


def some_rows(n: int, embed: bool) -> list[Row]:
    return [box_row(i, source=f"s{i % 3}", image=bytes([i % 256]) * 50 if embed else str(i)) for i in range(n)]


def a_dump(path: Path, rows: Sequence[Row], seed: int | None = None) -> Path:
    """Row i passes i % 5 of 4 times (none at 4); rows of 4 are not in it."""
    rollouts = [one for i, row in enumerate(rows) if i % 5 < 4 for one in rollouts_of(row, i % 5, 4)]
    if seed is not None:
        random.Random(seed).shuffle(rollouts)
    return write_dump(path, rollouts)


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["difficulty", *map(str, args)], env={"COLUMNS": "160"})
