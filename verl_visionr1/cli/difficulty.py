"""`visionr1 difficulty`: filter a training file by difficulty, measured on saved rollouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from verl_visionr1.cli import rollouts as given
from verl_visionr1.cli.judging import NO_OPTIONS, SPOKEN, Options, ScoringSetup, judging_for, takes
from verl_visionr1.files import RowsError
from verl_visionr1.rollouts.places import dumps_of, refuse_overwriting
from verl_visionr1.rollouts.records import Counts
from verl_visionr1.tools.difficulty.selection import MIN_SAMPLES, Match, Metric, Rules, Unseen


@takes("preset", "route", *SPOKEN)
def difficulty(
    files: Annotated[list[Path], typer.Argument(help="dumps of rollouts (.jsonl, .jsonl.gz, .parquet), or folders")],
    data: Annotated[list[Path] | None, typer.Option(help="the training data (may repeat); default: the run's")] = None,
    out: Annotated[Path | None, typer.Option(help="write the chosen rows to this .parquet; else report only")] = None,
    metric: Annotated[Metric, typer.Option(help="metric that decides whether an answer passes")] = "accuracy",
    bar: Annotated[float, typer.Option(help="the metric's least value")] = 0.5,
    min_rate: Annotated[float, typer.Option(help="least pass rate of a row")] = 0.0,
    max_rate: Annotated[float, typer.Option(help="largest pass rate of a row")] = 1.0,
    min_samples: Annotated[
        int, typer.Option(help="minimum rollouts per row; rows below it count as unseen", min=1)
    ] = MIN_SAMPLES,
    unseen: Annotated[Unseen, typer.Option(help="rows without a pass rate")] = "keep",
    limit: Annotated[int | None, typer.Option(help="most rows to choose")] = None,
    match: Annotated[
        Match, typer.Option(help="match rows by ground truth and prompt, or only by ground truth")
    ] = "prompt",
    options: Options = NO_OPTIONS,
    column: given.Column = None,
    on_error: given.OnBadRow = "fail",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Filter training data by how often saved rollouts pass, row by row."""
    from verl_visionr1.rollouts.training_rows import read_training_rows
    from verl_visionr1.tools.difficulty.filtering import COLUMNS, filter_by_difficulty  # need pyarrow
    from verl_visionr1.tools.difficulty.view import view_of

    skipped = Counts()
    rules = Rules(
        metric=metric,
        bar=bar,
        min_samples=min_samples,
        match=match,
        min_rate=min_rate,
        max_rate=max_rate,
        unseen=unseen,
        limit=limit,
    )
    setup = judging_for(files, options, given.columns_of(column, COLUMNS))
    places = _training_dumps(files, setup, has_data=bool(data))
    data = data or _trained(files, setup)
    if out is not None:
        if out.suffix != ".parquet":
            raise RowsError(f"--out {out}: verl reads only names that end in .parquet; add it")
        refuse_overwriting(out, files, data)
    with given.opened(places, None, column, on_error, skipped, COLUMNS) as rollouts:
        rows = read_training_rows(data, on_error=on_error, counts=skipped)
        report = filter_by_difficulty(rollouts, rows, setup.judging, rules, out=out, skipped=skipped)
    given.say([*setup.notes, *(f"left out: {example}" for example in skipped.examples)])
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(report, str_keys=True), indent=2))
        return
    console = Console()
    for part in view_of(report):
        console.print(part, highlight=False)


def _trained(files: list[Path], setup: ScoringSetup) -> list[Path]:
    """The run's training files.

    Raises:
        RowsError: no run record with training files, or missing files.
    """
    named = [] if setup.run is None else [Path(file) for file in setup.run.last.train_files]
    present = [file for file in named if file.is_file()]
    if not named or len(present) < len(named):
        lost = next((str(file) for file in named if file not in present), "no run record")
        raise RowsError(f"--data: give the training data of {files[0]} ({lost} not found)")
    return present


def _training_dumps(files: list[Path], setup: ScoringSetup, *, has_data: bool) -> list[Path]:
    """The dumps of training of a run directory; validation has other data.

    Raises:
        RowsError: only dumps of validation, and no --data for them.
    """
    dumps = dumps_of(files)
    training = [file for dump in dumps if not dump.is_validation for file in dump.files]
    if not has_data and all(file.parent.name in setup.validation_names for file in training):
        raise RowsError(
            f"{files[0]}: it has only validation dumps; set trainer.rollout_data_dir (ROLLOUT_DIR of a recipe) "
            "to keep training dumps, or give the validation data with --data"
        )
    return training or [file for dump in dumps for file in dump.files]
