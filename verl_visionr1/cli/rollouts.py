"""Shared by the commands: options for rollouts, columns and coordinates; errors in one line; quiet imports."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress

from verl_visionr1.answers.transcript import Reasoning
from verl_visionr1.rewards import Preset, find_preset
from verl_visionr1.rollouts.judging import Processing
from verl_visionr1.rollouts.places import dumps_of
from verl_visionr1.rollouts.records import Columns, Counts, OnError, Rollout, data_sources_of, read_rollouts
from verl_visionr1.settings import needs_one_of
from verl_visionr1.targets import TASKS


def option(name: str, meaning: str, **more: Any) -> Any:
    """An option of a command."""
    return typer.Option(name, help=meaning, **more)


PresetName = Annotated[str | None, option("--preset", "a preset's name, or a YAML file; default: the run's")]
Route = Annotated[list[str] | None, option("--route", "another preset for a task (may repeat)", metavar="TASK=PRESET")]
MinPixels = Annotated[int | None, option("--min-pixels", "min_pixels of data.mm_processor_kwargs; needs --max-pixels")]
MaxPixels = Annotated[int | None, option("--max-pixels", "max_pixels of data.mm_processor_kwargs; needs --min-pixels")]
ReasoningState = Annotated[
    Reasoning | None, option("--reasoning", "whether prompts end inside <think>; auto: read each prompt")
]
Data = Annotated[list[Path] | None, option("--data", "the training data, for the rows' data source")]
OnBadRow = Annotated[OnError, option("--on-error", "what to do with an unreadable row")]
_WHAT = ", ".join(Columns.__struct_fields__)
Column = Annotated[
    list[str] | None, option("--column", f"name of a column (may repeat); WHAT: {_WHAT}", metavar="WHAT=NAME")
]


def say(notes: Iterable[str]) -> None:
    """Print notes on standard error."""
    errors = Console(stderr=True, soft_wrap=True)
    for note in notes:
        errors.print(note, markup=False, highlight=False)


def stop(command: str, error: Exception, code: int = 2) -> typer.Exit:
    """Print an error in one line; returns the exit with this code."""
    line = " ".join(str(error).split())
    Console(stderr=True, soft_wrap=True).print(f"visionr1 {command}: {line}", markup=False, highlight=False)
    return typer.Exit(code)


def columns_of(given: list[str] | None, defaults: Columns | None = None) -> Columns:
    """Parse --column over the command's defaults."""
    names: dict[str, tuple[str, ...]] = {}
    for item in given or ():
        what, is_given, name = item.partition("=")
        if what not in Columns.__struct_fields__ or not is_given or not name:
            raise ValueError(f"--column {item}: needs WHAT=NAME; WHAT {needs_one_of(what, Columns.__struct_fields__)}")
        names[what] = (name,)
    return msgspec.structs.replace(defaults or Columns(), **names)


def preset_of(spec: str) -> Preset:
    """Find the given preset, and check the packages of its criteria."""
    preset = find_preset(spec)
    preset.require_installed()
    return preset


def routes_of(given: list[str] | None) -> dict[str, Preset]:
    """Parse --route: task -> preset."""
    routes: dict[str, Preset] = {}
    for item in given or ():
        task, _, name = item.partition("=")
        if task not in TASKS or not name:
            raise ValueError(f"--route {item}: needs TASK=PRESET; TASK is one of {', '.join(TASKS)}")
        routes[task] = preset_of(name)
        if task not in routes[task].tasks:
            raise ValueError(f"--route {item}: {name} is for {', '.join(routes[task].tasks)}")
    return routes


def processing_of(processed: str | None, min_pixels: int | None, max_pixels: int | None) -> Processing:
    """Parse the options of the processed size."""
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
    """Read the rollouts of some paths, with a progress bar of their files on a terminal."""
    files = [file for dump in dumps_of(paths) for file in dump.files]
    errors = Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress:
        yield read_rollouts(
            progress.track(files, description="scoring"),
            columns=columns_of(column, defaults),
            sources=data_sources_of(data) if data else None,
            validation_names=validation_names,
            on_error=on_error,
            counts=counts,
        )


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
