"""`visionr1 explain`: why one completion earns what it earns."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from verl_visionr1.cli import rollouts as given
from verl_visionr1.cli.judging import Options, Told, judging_for, overridden
from verl_visionr1.files import RowsError
from verl_visionr1.frames import frame_named
from verl_visionr1.rewards import PRESETS, TASK_PRESETS, Preset, RewardError
from verl_visionr1.rollouts.columns import Columns
from verl_visionr1.rollouts.judging import EQUAL, Judging
from verl_visionr1.rollouts.records import Rollout
from verl_visionr1.targets import Target
from verl_visionr1.tools.explain.completion import (
    Completion,
    completion_at,
    completion_for,
    completion_of,
    dump_of_step,
    text_of,
)
from verl_visionr1.tools.explain.explanation import explain as explain_completion
from verl_visionr1.tools.explain.page import page_of

PLAIN_WIDTH = 160
"""Columns where no terminal says how many it has."""


def explain(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN_DIR|DUMP|-]",
            help="a run with --step and --row, a dump with --row, or data with --text and --row; - for a text",
        ),
    ] = None,
    row: Annotated[int | None, typer.Option(help="line of a .jsonl (from 1), row of a .parquet (from 0)")] = None,
    step: Annotated[int | None, typer.Option(help="the step of a run whose dump is meant")] = None,
    text: Annotated[str | None, typer.Option(help="the completion")] = None,
    text_file: Annotated[Path | None, typer.Option(help="a file that holds the completion")] = None,
    target: Annotated[str | None, typer.Option(metavar="JSON|FILE", help="ground truth (Target.to_json)")] = None,
    preset: Annotated[str | None, typer.Option(help="a preset, or a YAML file of one; else that of the task")] = None,
    frame: given.FrameName = None,
    processed: given.Processed = None,
    min_pixels: given.MinPixels = None,
    max_pixels: given.MaxPixels = None,
    reasoning: given.ReasoningState = None,
    max_tokens: given.MaxTokens = None,
    progress: given.ProgressName = None,
    stage: given.StageNumber = None,
    total_steps: given.TotalSteps = None,
    column: given.Column = None,
    image: Annotated[Path | None, typer.Option(help="the image, to draw on; else the row's own")] = None,
    draw: Annotated[Path | None, typer.Option(metavar="OUT.png", help="draw objects and predictions")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Explain one completion's reward: THE cause first, then how it was read, matched, judged and summed."""
    options = Options(
        preset=preset, progress=progress, stage=stage, total_steps=total_steps, frame=frame, processed=processed,
        min_pixels=min_pixels, max_pixels=max_pixels, reasoning=reasoning, max_tokens=max_tokens,
    )  # fmt: skip
    try:
        columns = given.columns_of(column)
        has_text = text is not None or text_file is not None
        path = None if has_text else _dump(source, step, row)
        told = judging_for([path], options, columns) if path is not None else Told(_judging(options))
        judging = told.judging
        if path is not None and row is not None:
            has_column = judging.routes is not None and bool(judging.routes.column)
            names = told.validation_names
            completion = completion_at(path, row, columns, target, validation_names=names, keeps_rows=has_column)
        else:
            completion = _completion(source, row, text, text_file, target, columns)
        rollout = completion.rollout or _rollout(completion)
        chosen = _preset(preset, completion.target) if preset or path is None else judging.preset_for(rollout)
        explanation = explain_completion(
            rollout.completion,
            rollout.target,
            chosen,
            judging.response(rollout),
            progress=judging.moment.progress,
            rule=judging.rule(rollout, chosen),
        )
        if draw is not None:
            from verl_visionr1.tools.explain.drawing import draw as draw_explanation

            draw_explanation(explanation, draw, image or completion.image)
    except ValueError as error:  # RewardError, FrameError, TargetError, RowsError, ...
        raise given.stop("explain", error) from None
    given.say(told.notes)
    if as_json:
        typer.echo(json.dumps({**explanation.as_dict(), "saved": rollout.saved}, indent=2))
        return
    console = Console(soft_wrap=False) if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    first, *rest = page_of(explanation)
    console.print(first, soft_wrap=True)
    for part in rest:
        console.print(part, highlight=False, soft_wrap=isinstance(part, Text))
    if rollout.saved is not None:
        console.print(f"  {_saved_line(rollout.saved, explanation.value)}", markup=False, highlight=False)
    if draw is not None:
        console.print(f"\ndrawn: {draw}", markup=False, highlight=False, soft_wrap=True)


def _saved_line(saved: float, value: float) -> str:
    """What the run gave, and whether it is what comes out here."""
    if abs(saved - value) <= EQUAL:
        return f"the run gave {saved:.6g}: the same"
    return f"the run gave {saved:.6g}, {value - saved:+.6g} here: it judged otherwise (preset, thresholds or frame)"


def _dump(source: str | None, step: int | None, row: int | None) -> Path | None:
    """The dump that the options name; None where a text is meant."""
    if source is None or source == "-":
        return None
    path = Path(source)
    if step is not None:
        path = dump_of_step(path, step)
    if row is None:
        raise RowsError(f"{source}: needs --row N: the line of a .jsonl (from 1), or the row of a .parquet (from 0)")
    return path


def _judging(options: Options) -> Judging:
    """How a text is judged, that no run wrote."""
    return overridden(Judging(given.preset_of("visionr1"), frame_named("original")), options)


def _rollout(completion: Completion) -> Rollout:
    """A text as a rollout of its own."""
    return Rollout(
        file="", number=0, completion=completion.text, target=completion.target, group=None, session=None,
        source=completion.target.task, step=None, saved=None, processed_wh=completion.processed_wh,
        n_tokens=completion.n_tokens, prompt=completion.prompt,
    )  # fmt: skip


def _completion(
    source: str | None, row: int | None, text: str | None, text_file: Path | None, target: str | None, columns: Columns
) -> Completion:
    """The text that the options name."""
    ways = [
        way for way, value in (("FILE or -", source), ("--text", text), ("--text-file", text_file)) if value is not None
    ]
    if len(ways) == 2 and source not in (None, "-") and row is not None:  # an answer to the question of a row
        if target is not None:
            raise RowsError(f"--target: the ground truth is that of {source}, row {row}; give one of them")
        return completion_for(text_of(text, text_file), Path(source or ""), row, columns)
    if len(ways) != 1:
        needed = "needs one of FILE --row N, -, --text, --text-file; or FILE --row N with one of the last two"
        raise RowsError(f"{' and '.join(ways) or 'no completion'}: {needed}")
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
