"""Shared by the commands: options for rollouts, columns and coordinates; errors in one line; quiet imports."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from verl_visionr1.answers.transcript import Reasoning
from verl_visionr1.rewards import Preset, find_preset
from verl_visionr1.rollouts.dumps import Advance
from verl_visionr1.rollouts.judging import Processing
from verl_visionr1.rollouts.places import dumps_of
from verl_visionr1.rollouts.records import Columns, Counts, OnError, Rollout, data_sources_of, read_rollouts
from verl_visionr1.settings import needs_one_of
from verl_visionr1.targets import TASKS

PresetName = Annotated[str | None, typer.Option("--preset", help="a preset's name, or a YAML file; default: the run's")]
Route = Annotated[
    list[str] | None, typer.Option("--route", metavar="TASK=PRESET", help="another preset for a task (may repeat)")
]
FrameName = Annotated[str | None, typer.Option("--frame", help="coordinates of the answers; default: the run's")]
Processed = Annotated[
    str | None,
    typer.Option("--processed", metavar="WxH", help="size of every image as the model saw it; default: computed"),
]
MinPixels = Annotated[
    int | None,
    typer.Option("--min-pixels", help="min_pixels of data.mm_processor_kwargs; needs --max-pixels"),
]
MaxPixels = Annotated[
    int | None,
    typer.Option("--max-pixels", help="max_pixels of data.mm_processor_kwargs; needs --min-pixels"),
]
ReasoningState = Annotated[
    Reasoning | None,
    typer.Option("--reasoning", help="whether prompts end inside <think>; auto: read each prompt"),
]
Data = Annotated[list[Path] | None, typer.Option("--data", help="the training data, for the rows' data source")]
OnBadRow = Annotated[OnError, typer.Option("--on-error", help="what to do with an unreadable row")]
_WHAT = ", ".join(Columns.__struct_fields__)
Column = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="WHAT=NAME", help=f"name of a column (may repeat); WHAT: {_WHAT}"),
]


ProgressName = Annotated[
    str | None,
    typer.Option("--progress", help="fraction of training that sets the thresholds, or off; default: as in the run"),
]
StageNumber = Annotated[int | None, typer.Option("--stage", help="stage of the schedule, from 0, for all rows")]
TotalSteps = Annotated[
    int | None, typer.Option("--total-steps", help="steps of the training: each row is scored as at its own step")
]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", help="response budget, for criteria of length", min=1)]


def say(notes: Iterable[str]) -> None:
    """Print notes on standard error."""
    errors = Console(stderr=True, soft_wrap=True)
    for note in notes:
        errors.print(note, markup=False, highlight=False)


def fraction_of(progress: str) -> float:
    """Parse the option --progress."""
    try:
        return float(progress)
    except ValueError:
        raise ValueError(f"--progress {progress}: needs a fraction of training in [0, 1], or off") from None


def stop(command: str, error: Exception, code: int = 2) -> typer.Exit:
    """Print an error in one line; returns the exit with this code."""
    line = " ".join(str(error).split())
    Console(stderr=True, soft_wrap=True).print(f"visionr1 {command}: {line}", markup=False, highlight=False)
    return typer.Exit(code)


def columns_of(given: list[str] | None, defaults: Columns | None = None) -> Columns:
    """Parse --column over the command's defaults.

    >>> columns_of(["completion=answer"]).completion
    ('answer',)
    """
    names: dict[str, tuple[str, ...]] = {}
    for item in given or ():
        what, is_given, name = item.partition("=")
        if what not in Columns.__struct_fields__ or not is_given or not name:
            raise ValueError(f"--column {item}: needs WHAT=NAME; WHAT {needs_one_of(what, Columns.__struct_fields__)}")
        names[what] = (name,)
    return msgspec.structs.replace(defaults or Columns(), **names)


def preset_of(spec: str) -> Preset:
    """Find the given preset, and check the packages of its criteria.

    Raises:
        RewardError: no such preset, or a criterion's package is not installed.
    """
    preset = find_preset(spec)
    preset.require_installed()
    return preset


def routes_of(given: list[str] | None) -> dict[str, Preset]:
    """Parse --route: task -> preset.

    >>> routes_of(["counting=counting-mra"])["counting"].name
    'counting-mra'
    """
    routes: dict[str, Preset] = {}
    for item in given or ():
        task, _, name = item.partition("=")
        if task not in TASKS or not name:
            raise ValueError(f"--route {item}: needs TASK=PRESET; TASK {needs_one_of(task, TASKS)}")
        routes[task] = preset_of(name)
        if task not in routes[task].tasks:
            raise ValueError(f"--route {item}: {name} is for {', '.join(routes[task].tasks)}")
    return routes


def processing_of(processed: str | None, min_pixels: int | None, max_pixels: int | None) -> Processing:
    """Parse the options of the processed size.

    >>> processing_of("644x476", None, None).fixed_wh
    (644, 476)
    """
    if processed is None:
        return Processing(None, min_pixels, max_pixels)
    width, _, height = processed.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ValueError(f"--processed {processed}: needs WIDTHxHEIGHT in pixels, for example 644x476")
    return Processing((int(width), int(height)))


@contextmanager
def opened(
    paths: list[Path],
    data: list[Path] | None,
    column: list[str] | None,
    on_error: OnError,
    counts: Counts,
    defaults: Columns | None = None,
    validation_names: Collection[str] = (),
) -> Iterator[Iterator[Rollout]]:
    """Read the rollouts of some paths, with a progress bar on a terminal."""
    files = [file for dump in dumps_of(paths) for file in dump.files]
    columns = columns_of(column, defaults)
    sources = data_sources_of(data) if data else None
    with _progress(sum(file.stat().st_size for file in files)) as advance:
        names = {"columns": columns, "sources": sources, "validation_names": validation_names}
        yield read_rollouts(files, **names, on_error=on_error, counts=counts, advance=advance)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings of verl and torch about missing engines and devices; errors are shown."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _progress(n_bytes: int) -> Iterator[Advance | None]:
    if not sys.stderr.isatty():
        yield None
        return
    shown = (TextColumn("scoring"), BarColumn(), TextColumn("{task.percentage:3.0f} %"), TimeRemainingColumn())
    with Progress(*shown, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("scoring", total=n_bytes)
        yield lambda n: progress.advance(task, n)
