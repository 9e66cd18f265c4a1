"""Inspect rewards, installations and training runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from importlib.metadata import version
from typing import Annotated, Any

import typer

from verl_visionr1.cli import (
    audit,
    convert,
    difficulty,
    doctor,
    dry_run,
    eval,
    explain,
    gallery,
    plan,
    preset,
    reshard,
    runs,
    schedule,
    score,
)
from verl_visionr1.cli.rollouts import stop

COMMANDS = (
    *(doctor.doctor, explain.explain, score.score, eval.eval, audit.audit, schedule.schedule, preset.preset),
    *(difficulty.difficulty, gallery.gallery, runs.check, runs.watch, runs.report),
    *(plan.plan, dry_run.dry_run, reshard.reshard),
)
OPTIONAL = {"PIL": "pillow", **{name: name for name in ("defusedxml", "jinja2", "matplotlib", "pyarrow", "scipy")}}
"""Packages needed only by some options, by import name."""
TRAINING = ("torch", "verl", "ray", "omegaconf", "hydra", "tensordict", "transformers", "huggingface_hub", "datasets")
"""Packages of training, needed by some commands."""

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"verl-visionr1 {version('verl-visionr1')}")
        raise typer.Exit


@app.callback()
def root(
    is_version_wanted: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Options of the program."""


def stopping(command: Callable[..., None]) -> Callable[..., None]:
    """Make a command print an error about its input, in one line, and exit with code 2."""

    @wraps(command)
    def run(*given: Any, **named: Any) -> None:
        try:
            command(*given, **named)
        except ValueError as error:  # RowsError, RewardError, FrameError, ...
            raise stop(command.__name__.replace("_", "-"), error) from None

    return run


for command in COMMANDS:
    app.command()(stopping(command))
app.add_typer(convert.app, name="convert")


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in OPTIONAL and error.name not in TRAINING:
            raise
        extra, note = ("data" if sys.argv[1:2] == ["convert"] else "tools"), ""
        if package in TRAINING:
            extra, note = "gpu", " (without a GPU: [cpu])"
        install = f"pip install 'verl-visionr1[{extra}]'{note}"
        typer.echo(f"visionr1: this needs {OPTIONAL.get(package, package)}: {install}", err=True)
        raise SystemExit(2) from None
