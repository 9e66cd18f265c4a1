"""`visionr1 explain`: why one completion earns what it earns."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from verl_visionr1.answers.transcript import is_reasoning_opened
from verl_visionr1.cli import rollouts as given
from verl_visionr1.files import RowsError
from verl_visionr1.frames import frame_named
from verl_visionr1.rewards import PRESETS, TASK_PRESETS, Preset, ResponseContext, RewardError
from verl_visionr1.rollouts.columns import Columns
from verl_visionr1.targets import Target
from verl_visionr1.tools.explain.completion import Completion, completion_at, completion_for, completion_of, text_of
from verl_visionr1.tools.explain.explanation import explain as explain_completion
from verl_visionr1.tools.explain.page import page_of

PLAIN_WIDTH = 160
"""Columns where no terminal says how many it has."""


def explain(
    source: Annotated[
        str | None,
        typer.Argument(metavar="[FILE|-]", help="a dump, or data with --text, both with --row; - for a text"),
    ] = None,
    row: Annotated[int | None, typer.Option(help="line of a .jsonl (from 1), row of a .parquet (from 0)")] = None,
    text: Annotated[str | None, typer.Option(help="the completion")] = None,
    text_file: Annotated[Path | None, typer.Option(help="a file that holds the completion")] = None,
    target: Annotated[str | None, typer.Option(metavar="JSON|FILE", help="ground truth (Target.to_json)")] = None,
    preset: Annotated[str | None, typer.Option(help="a preset, or a YAML file of one; else that of the task")] = None,
    frame: given.FrameName = "original",
    processed: given.Processed = None,
    min_pixels: given.MinPixels = None,
    max_pixels: given.MaxPixels = None,
    reasoning: given.ReasoningState = "auto",
    max_tokens: Annotated[int | None, typer.Option(help="response budget, for criteria of length")] = None,
    progress: Annotated[
        float | None, typer.Option(help="fraction of training that sets the thresholds; else off")
    ] = None,
    column: given.Column = None,
    image: Annotated[Path | None, typer.Option(help="the image, to draw on; else the row's own")] = None,
    draw: Annotated[Path | None, typer.Option(metavar="OUT.png", help="draw objects and predictions")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Explain one completion's reward: THE cause first, then how it was read, matched, judged and summed."""
    try:
        completion = _completion(source, row, text, text_file, target, given.columns_of(column))
        spoken = frame_named(frame)
        processing = given.processing_of(processed, min_pixels, max_pixels)
        processed_wh = completion.processed_wh if processed is None else None
        processed_wh = processed_wh or processing.size_wh(completion.target.size_wh, spoken)
        explanation = explain_completion(
            completion.text,
            completion.target,
            _preset(preset, completion.target),
            ResponseContext(
                spoken,
                processed_wh,
                completion.n_tokens,
                max_tokens,
                is_reasoning_opened(reasoning, completion.prompt),
            ),
            progress=progress,
        )
        if draw is not None:
            from verl_visionr1.tools.explain.drawing import draw as draw_explanation

            draw_explanation(explanation, draw, image or completion.image)
    except ValueError as error:  # RewardError, FrameError, TargetError, RowsError, ...
        raise given.stop("explain", error) from None
    if as_json:
        typer.echo(json.dumps(explanation.as_dict(), indent=2))
        return
    console = Console(soft_wrap=False) if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    first, *rest = page_of(explanation)
    console.print(first, soft_wrap=True)
    for part in rest:
        console.print(part, highlight=False, soft_wrap=isinstance(part, Text))
    if draw is not None:
        console.print(f"\ndrawn: {draw}", markup=False, highlight=False, soft_wrap=True)


def _completion(
    source: str | None, row: int | None, text: str | None, text_file: Path | None, target: str | None, columns: Columns
) -> Completion:
    """The one completion that the options name."""
    ways = [
        way for way, value in (("FILE or -", source), ("--text", text), ("--text-file", text_file)) if value is not None
    ]
    is_file = source is not None and source != "-"
    if len(ways) == 2 and is_file and row is not None:  # an answer of one's own to the question of a row
        if target is not None:
            raise RowsError(f"--target: the ground truth is that of {source}, row {row}; give one of them")
        return completion_for(text_of(text, text_file), Path(source or ""), row, columns)
    if len(ways) != 1:
        needed = "needs one of FILE --row N, -, --text, --text-file; or FILE --row N with one of the last two"
        raise RowsError(f"{' and '.join(ways) or 'no completion'}: {needed}")
    if source is not None and is_file:
        if row is None:
            raise RowsError(
                f"{source}: needs --row N: the line of a .jsonl (from 1), or the row of a .parquet (from 0)"
            )
        return completion_at(Path(source), row, columns, target)
    if target is None:
        raise RowsError("--target: needs the ground truth, as JSON or as a file of it")
    if source == "-":
        text = sys.stdin.buffer.read().decode(errors="replace")
    return completion_of(text, text_file, target)


def _preset(spec: str | None, target: Target) -> Preset:
    """The preset that was asked for, else that of the task."""
    preset = given.preset_of(TASK_PRESETS[target.task] if spec is None else spec)
    if target.task not in preset.tasks:
        able = [name for name, other in PRESETS.items() if target.task in other.tasks]
        raise RewardError(
            f"--preset {preset.name}: judges {', '.join(preset.tasks)}, the target is of task {target.task}; "
            f"take one of {', '.join(able)}"
        )
    return preset
