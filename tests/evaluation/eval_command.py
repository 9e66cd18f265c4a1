"""`visionr1 eval` in a test: the command, and folders of answers as generation leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from scripted import made, prediction
from typer.testing import CliRunner

from verl_visionr1.cli import app
from verl_visionr1.evaluation.generation.records import open_predictions
from verl_visionr1.evaluation.predictions import Prediction

ROOT = Path(__file__).parents[2]
RIGHT = '[{"bbox_2d": [62, 83, 312, 417], "label": "cat"}]'  # of 64 x 48 in 0-1000
WRONG = '[{"bbox_2d": [500, 500, 900, 900], "label": "cat"}]'


def visionr1(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})
    return done.exit_code, done.stdout, done.stderr


def refused(*words: object) -> str:
    code, out, err = visionr1("eval", *words)
    assert code == 2, out + err
    assert err.count("\n") == 1, "one line"
    assert err.startswith("visionr1 eval: ")
    return err


def answered(folder: Path, outputs: list[str], **settings: Any) -> Path:
    """A folder as generation leaves it."""
    with open_predictions(folder, made(**settings)) as file:
        file.append([said(row, output) for row, output in enumerate(outputs)])
    return folder


def said(row: int, output: str, **changes: Any) -> Prediction:
    return msgspec.structs.replace(prediction(row, output=output), image_id=str(row), **changes)
