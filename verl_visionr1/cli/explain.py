"""`visionr1 explain`: explain the reward of one completion."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from verl_visionr1.cli import rollouts as given
from verl_visionr1.cli.judging import (
    NO_OPTIONS,
    SPOKEN,
    Options,
    ScoringSetup,
    is_described,
    judging_for,
    override,
    takes,
)
from verl_visionr1.files import RowsError
from verl_visionr1.frames import frame_named
from verl_visionr1.rewards import TASK_PRESETS
from verl_visionr1.rewards.base import CriterionError
from verl_visionr1.rollouts.columns import Columns
from verl_visionr1.rollouts.inference import sample_of
from verl_visionr1.rollouts.judging import EQUAL, Judging, Moment
from verl_visionr1.rollouts.records import Rollout, read_rollouts
from verl_visionr1.tools.explain.causes import count_causes, describe_causes
from verl_visionr1.tools.explain.completion import (
    answered_with,
    choose_dump,
    read_text,
    rollout_at,
    rollout_for,
    rollout_of,
    target_of,
)
from verl_visionr1.tools.explain.explanation import Explanation
from verl_visionr1.tools.explain.explanation import explain as explain_completion
from verl_visionr1.tools.explain.page import page_of

NEEDS_ROW = "needs --row N: the line of a .jsonl (from 1), or the row of a .parquet (from 0)"
PLAIN_WIDTH = 160
"""Width without a terminal."""


@takes("route", *SPOKEN, "max_tokens", "progress", "stage", "total_steps")
def explain(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN_DIR|DUMP]",
            help="a run or a dump, or data with --row and --text",
        ),
    ] = None,
    row: Annotated[
        int | None,
        typer.Option(help="line of a .jsonl (from 1), row of a .parquet (from 0); default: one of the commonest cause"),
    ] = None,
    step: Annotated[int | None, typer.Option(help="the step of a run; default: its last")] = None,
    text: Annotated[str | None, typer.Option(help="the completion")] = None,
    text_file: Annotated[Path | None, typer.Option(help="a file with the completion")] = None,
    target: Annotated[str | None, typer.Option(metavar="JSON|FILE", help="ground truth (Target.to_json)")] = None,
    preset: Annotated[str | None, typer.Option(help="a preset, or a YAML file of one; default: the task's")] = None,
    options: Options = NO_OPTIONS,
    column: given.Column = None,
    image: Annotated[Path | None, typer.Option(help="the image to draw on; default: the row's")] = None,
    data: Annotated[list[Path] | None, typer.Option(help="with --draw: the training data, for the image")] = None,
    draw: Annotated[Path | None, typer.Option(metavar="OUT.png", help="draw objects and predictions")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Explain one completion's reward: the cause first, then how it was read, matched, scored and summed."""
    options = replace(options, preset=preset)
    try:
        columns = given.columns_of(column)
        answer = text if text_file is None else read_text(text_file)
        path, notes = None, list[str]()
        if source is not None:
            path, notes = choose_dump(Path(source), step)
        if path is not None and target is not None:
            raise RowsError(f"--target: {path}, row {row} has a ground truth; give one of them")
        if path is not None and (answer is None or is_described(path)):
            setup = judging_for([path], options, columns)
            if row is None and answer is None:
                row, why = _typical_row(path, columns, setup)
                notes.append(why)
            rollout = _saved_rollout(path, row, columns, setup)
            rollout = rollout if answer is None else answered_with(answer, rollout)
        else:
            setup = _setup_without_run(options, is_row=path is not None)
            rollout = _given_rollout(path, row, answer, target, columns)
        explanation = _explain(rollout, setup.judging, preset)
        notes += setup.notes
        if draw is not None:
            notes += _draw(explanation, draw, image, rollout, data or setup.data)
    except CriterionError as error:
        reason = f"no reward: {error}; in training such a row has reward 0; correct the function"
        raise CriterionError(reason) from None
    if as_json:
        typer.echo(json.dumps({**explanation.as_dict(), "saved": rollout.saved}, indent=2))
    else:
        _print(explanation, rollout, draw)
    given.say(notes)


def _setup_without_run(options: Options, *, is_row: bool) -> ScoringSetup:
    """How an answer without a run is scored: one to a row of training data as at the start of training."""
    judging, notes = Judging(given.preset_of("visionr1"), frame_named("original")), ()
    if is_row and options.moment is None:
        judging = replace(judging, moment=Moment(progress=0.0))
        notes = ("no run: thresholds of the start of training; --progress or --stage chooses others",)
    return ScoringSetup(override(judging, options), notes)


def _typical_row(path: Path, columns: Columns, setup: ScoringSetup) -> tuple[int, str]:
    """Choose a row with the most frequent cause of lost reward; with a note on the choice."""
    sample = sample_of(read_rollouts([path], columns=columns, on_error="skip"))
    causes = count_causes(sample, setup.judging)
    if not causes:
        raise RowsError(f"{path}: {'no row loses reward' if sample else 'no answer in it'}; {NEEDS_ROW}")
    row = causes[0].row
    return row, f"row {row} is explained ({describe_causes(causes, len(sample))}); --row N chooses another"


def _saved_rollout(path: Path, row: int | None, columns: Columns, setup: ScoringSetup) -> Rollout:
    """Read one answer of a dump."""
    if row is None:
        raise RowsError(f"{path}: {NEEDS_ROW}")
    routes = setup.judging.routes
    names, keeps_rows = setup.validation_names, routes is not None and bool(routes.column)
    return rollout_at(path, row, columns, validation_names=names, keeps_rows=keeps_rows)


def _given_rollout(
    path: Path | None, row: int | None, answer: str | None, target: str | None, columns: Columns
) -> Rollout:
    """Make a rollout of a given text: an answer to a row's question, or to a target."""
    if answer is None:
        raise RowsError("no answer: needs RUN_DIR --row N, DUMP --row N, --text or --text-file")
    if path is not None:
        if row is None:
            raise RowsError(f"{path}: {NEEDS_ROW}")
        return rollout_for(answer, path, row, columns)
    if target is None:
        raise RowsError("--target: needs the ground truth, as JSON or as a file")
    return rollout_of(answer, target_of(target))


def _explain(rollout: Rollout, judging: Judging, preset: str | None) -> Explanation:
    """Explain by the given preset, else the run's, else the task's."""
    task = rollout.target.task
    if preset is not None or not rollout.file:
        chosen = given.preset_of(TASK_PRESETS[task] if preset is None else preset)
        chosen.require_task(rollout.target)
    else:
        chosen = judging.preset_for(rollout)
    return explain_completion(
        rollout.completion,
        rollout.target,
        chosen,
        judging.response(rollout),
        progress=judging.moment.progress,
        rule=judging.rule(rollout, chosen),
        is_clipped=rollout.is_clipped,
    )


def _draw(explanation: Explanation, out: Path, image: Path | None, rollout: Rollout, data: list[Path]) -> list[str]:
    """Draw on the given image, else on the row's; returns a note if there is none."""
    from verl_visionr1.rollouts.images import find_image
    from verl_visionr1.tools.explain.drawing import draw

    found, why_not = (image, "") if image is not None else find_image(rollout, data)
    draw(explanation, out, found)
    return [f"no background image: {why_not}"] if found is None else []


def _print(explanation: Explanation, rollout: Rollout, drawn: Path | None) -> None:
    console = Console(soft_wrap=False) if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    first, *rest = page_of(explanation)
    console.print(first, soft_wrap=True)
    if rollout.saved is not None:
        is_same = abs(rollout.saved - explanation.value) <= EQUAL
        line = f"the run gave {rollout.saved:.6g}" + (
            ": the same" if is_same else f", recomputed {explanation.value:.6g}"
        )
        # else the page explains another reward than the run's
        why = (
            "" if is_same else ": preset, thresholds or frame differ from the run's; set --frame, --preset, --progress"
        )
        console.print(line + why, markup=False, highlight=False, soft_wrap=True)
    for part in rest:
        console.print(part, highlight=False, soft_wrap=isinstance(part, Text))
    if drawn is not None:
        console.print(f"\ndrawn: {drawn}", markup=False, highlight=False, soft_wrap=True)
