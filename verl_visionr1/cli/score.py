"""`visionr1 score`: score saved rollouts again."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from verl_visionr1.cli import rollouts as given
from verl_visionr1.cli.judging import NO_OPTIONS, SPOKEN, Options, judging_for, takes
from verl_visionr1.rollouts.judging import Judging, preset_and_moment
from verl_visionr1.rollouts.places import dumps_of, refuse_overwriting
from verl_visionr1.rollouts.records import Counts
from verl_visionr1.tools.score.rescore import Report, rescore, scored_rows
from verl_visionr1.tools.score.view import view_of


@takes("preset", "route", "progress", "stage", "total_steps", *SPOKEN, "max_tokens")
def score(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_DIR|DUMP...",
            help="a run directory, or dumps of rollouts (.jsonl, .jsonl.gz, .parquet), or folders with dumps",
        ),
    ],
    options: Options = NO_OPTIONS,
    vs: Annotated[
        str | None, typer.Option(metavar="PRESET[@STAGE]", help="compare with another reward, or another stage")
    ] = None,
    show: Annotated[int, typer.Option(help="with --vs: number of the most differing rows", min=0)] = 10,
    data: given.Data = None,
    column: given.Column = None,
    on_error: given.OnBadRow = "fail",
    out: Annotated[Path | None, typer.Option(help="write each row's scores to this .jsonl")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Score saved rollouts again, as the run did or with any reward: means, groups, and the run's own rewards."""
    reports: dict[str, Report] = {}
    columns = given.columns_of(column)
    setup = judging_for(files, options, columns)
    if out is not None:
        refuse_overwriting(out, files)
    dumps = dumps_of(files)
    other = _other(vs, setup.judging)
    with nullcontext() if out is None else scored_rows(out) as on_row:
        for dump in dumps:
            counts = Counts()
            source = given.opened(
                list(dump.files),
                data or setup.data,
                column,
                on_error,
                counts,
                validation_names=setup.validation_names,
            )
            with source as rollouts:
                reports[dump.name] = rescore(
                    rollouts, setup.judging, other=other, n_shown=show, counts=counts, on_row=on_row
                )
            given.say(f"left out: {example}" for example in counts.examples)
    given.say(setup.notes)
    if as_json:
        plain = msgspec.to_builtins(reports)
        typer.echo(json.dumps(plain if len(plain) > 1 else next(iter(plain.values())), indent=2))
        return
    console = Console()
    words = options.for_explain() + "".join(f" --column {quote(one)}" for one in column or ())
    for name, report in reports.items():
        if len(reports) > 1:
            console.rule(name, align="left")
        for part in view_of(report, setup.overrides, options=words, data="--data" if data else setup.data_name):
            console.print(part, soft_wrap=isinstance(part, Text))  # a terminal wraps lines itself


def _other(vs: str | None, judging: Judging) -> Judging | None:
    """The reward to compare with."""
    if vs is None:
        return None
    name, moment = preset_and_moment(vs, judging.moment)
    return replace(judging, preset=given.preset_of(name), moment=moment, by_task={}, routes=None, earlier=())
