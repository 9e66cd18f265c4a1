"""`visionr1 score`: saved rollouts judged again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from verl_visionr1.cli import rollouts as given
from verl_visionr1.files import RowsError
from verl_visionr1.frames import frame_named
from verl_visionr1.rewards import PRESETS, TASK_PRESETS
from verl_visionr1.rollouts.judging import Judging, Moment, preset_and_moment
from verl_visionr1.rollouts.records import Counts
from verl_visionr1.tools.score.rescore import OnRow, rescore
from verl_visionr1.tools.score.scored_rows import scored_rows
from verl_visionr1.tools.score.view import view_of


def score(
    files: Annotated[list[Path], typer.Argument(help="dumps of rollouts (.jsonl, .jsonl.gz, .parquet), or folders")],
    preset: given.PresetName = "visionr1",
    route: given.Route = None,
    progress: Annotated[str, typer.Option(help="fraction of training that sets the thresholds, or off")] = "off",
    stage: Annotated[int | None, typer.Option(help="stage of the schedule, from 0, instead of --progress")] = None,
    total_steps: Annotated[
        int | None, typer.Option(help="steps of the training: each row is judged as at its own step")
    ] = None,
    frame: given.FrameName = "original",
    processed: given.Processed = None,
    min_pixels: given.MinPixels = None,
    max_pixels: given.MaxPixels = None,
    reasoning: given.ReasoningState = "auto",
    max_tokens: Annotated[int | None, typer.Option(help="response budget, for criteria of length")] = None,
    vs: Annotated[
        str | None, typer.Option(metavar="PRESET[@STAGE]", help="compare with another reward, or another stage")
    ] = None,
    show: Annotated[int, typer.Option(help="with --vs: so many of the rows that differ most", min=0)] = 10,
    data: given.Data = None,
    column: given.Column = None,
    on_error: given.OnBadRow = "fail",
    out: Annotated[Path | None, typer.Option(help="write each row's scores to this .jsonl or .parquet")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Judge saved rollouts again, with any reward, at any stage: means, spread in a group, groups without gradient."""
    counts = Counts()
    try:
        moment = Moment(None if progress == "off" else _number(progress), stage, total_steps)
        processing = given.processing_of(processed, min_pixels, max_pixels)
        judging = Judging(
            given.preset_of(preset),
            frame_named(frame),
            moment,
            processing,
            max_tokens,
            given.routes_of(route),
            reasoning,
        )
        other = None
        if vs is not None:
            name, other_moment = preset_and_moment(vs, moment)
            other = replace(judging, preset=given.preset_of(name), moment=other_moment, by_task={})
        _refuse_overwriting(out, files)
        with given.opened(files, data, column, on_error, counts) as rollouts, _writer(out, judging) as on_row:
            report = rescore(rollouts, judging, other=other, n_shown=show, counts=counts, on_row=on_row)
    except ValueError as error:
        raise given.stop("score", error) from None
    errors = Console(stderr=True, soft_wrap=True)
    for example in counts.examples:
        errors.print(f"left out: {example}", markup=False, highlight=False)
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(report), indent=2))
        return
    console = Console()
    for part in view_of(report):
        console.print(part)


def _number(progress: str) -> float:
    try:
        return float(progress)
    except ValueError:
        raise ValueError(f"--progress {progress}: needs a fraction of training in [0, 1], or off") from None


def _refuse_overwriting(out: Path | None, files: list[Path]) -> None:
    for path in files:
        if out is not None and out.resolve() in (path.resolve(), path.resolve() / out.name):
            raise RowsError(f"--out {out}: would overwrite the rollouts, or stand among them; write elsewhere")


@contextmanager
def _writer(out: Path | None, judging: Judging) -> Iterator[OnRow | None]:
    if out is None:
        yield None
        return
    others = [*judging.by_task.values(), *(PRESETS[name] for name in dict.fromkeys(TASK_PRESETS.values()))]
    with scored_rows(out, [judging.preset, *others]) as on_row:
        yield on_row
