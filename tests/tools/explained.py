"""Explanations of answers about a cat and a dog, their page, and the command."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

from exams import TARGET
from rich.console import Console
from typer.testing import CliRunner

from verl_visionr1 import FRAMES, PRESETS, Target
from verl_visionr1.cli import app
from verl_visionr1.rewards import ResponseContext
from verl_visionr1.tools.explain.explanation import Explanation, explain
from verl_visionr1.tools.explain.page import page_of

TO_TARGET = ("--target", TARGET.to_json())


def explained(
    text: str, target: Target = TARGET, preset: str = "visionr1", progress: float | None = None, frame: str = "original"
) -> Explanation:
    return explain(text, target, PRESETS[preset], ResponseContext(FRAMES[frame]), progress=progress)


def page(explanation: Explanation) -> str:
    console = Console(record=True, width=160, file=StringIO())
    for part in page_of(explanation):
        console.print(part)
    return console.export_text()


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["explain", *map(str, arguments)])


def dump_row(output: str, **more: object) -> str:
    return json.dumps({"input": "?", "output": output, "gts": TARGET.to_json(), "score": 0.0, "step": 3, **more})
