"""`visionr1 gallery`: write a web page of saved rollouts that works offline."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from verl_visionr1.cli import rollouts as given
from verl_visionr1.cli.judging import NO_OPTIONS, SPOKEN, Options, judging_for, takes
from verl_visionr1.files import RowsError
from verl_visionr1.rollouts.records import Counts, no_row


@takes("preset", "route", "progress", "stage", "total_steps", *SPOKEN, "max_tokens")
def gallery(
    paths: Annotated[
        list[Path],
        typer.Argument(help="dumps of rollouts (.jsonl, .jsonl.gz, .parquet), their folders, or runs' folders"),
    ],
    out: Annotated[Path, typer.Option(help="the page")] = Path("gallery.html"),
    data: Annotated[list[Path] | None, typer.Option(help="the training data, for images and data sources")] = None,
    title: Annotated[str, typer.Option(help="title of the page; default: the paths' names")] = "",
    limit: Annotated[int, typer.Option(help="most rollouts shown; curves use all")] = 4000,
    side: Annotated[int, typer.Option(help="longer side of a picture in pixels")] = 320,
    causes: Annotated[bool, typer.Option(help="add the first line of `explain` to each shown rollout")] = True,
    options: Options = NO_OPTIONS,
    column: given.Column = None,
    on_error: given.OnBadRow = "skip",
) -> None:
    """Write a web page of rollouts: images with boxes, the samples of a prompt side by side, filters and curves."""
    from verl_visionr1.tools.gallery.census import Settings
    from verl_visionr1.tools.gallery.page import write_gallery  # needs pillow and jinja2

    started = time.monotonic()
    errors = Console(stderr=True, soft_wrap=True)
    columns = given.columns_of(column)
    setup = judging_for(paths, options, columns)
    settings = Settings(
        setup.judging,
        data=tuple(data or setup.data),
        data_name="--data" if data else setup.data_name,
        title=title,
        limit=limit,
        side=side,
        has_causes=causes,
        validation_names=tuple(setup.validation_names),
        options=options.for_explain("progress", "total_steps").strip(),
        columns=columns,
        on_error=on_error,
    )
    with errors.status("judging") if sys.stderr.isatty() else nullcontext():
        written = write_gallery(paths, out, settings)
    if not written.n_all:
        raise RowsError(f"{paths[0]}: {' '.join(written.notes) or no_row(Counts())}")
    given.say([*setup.notes, *written.notes])
    part = "" if written.n_all == written.n_rollouts else f" of {written.n_all:,}"
    typer.echo(
        f"{out}: {written.n_rollouts:,}{part} rollouts of {written.n_prompts:,} prompts, "
        f"{written.n_images:,} images, {written.n_bytes / 1e6:.1f} MB, {time.monotonic() - started:.1f} s"
    )
