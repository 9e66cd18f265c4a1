"""`visionr1 check | watch | report`: inspect an installation and runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from verl_visionr1.cli.rollouts import quiet, say

GALLERY_SECONDS = 60.0
"""Most seconds that a report waits for the gallery of the last validation."""


def check(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """Print what verl sees: versions, plug-in, reward manager, platform. Exit code 1 if a run would fail."""
    with quiet():
        from verl_visionr1.runtime.check import findings

        found = findings()
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in found], indent=2))
    table = Table(show_header=False, box=None)
    for finding in found:
        verdict = "[green]ok[/green]" if finding.is_fine else "[red]no[/red]"
        table.add_row(verdict, escape(finding.what), escape(finding.found))
    if not as_json:
        Console().print(table)
    if not all(finding.is_fine for finding in found):
        raise typer.Exit(1)


RunDir = Annotated[Path, typer.Argument(help="directory of a run, with metrics/*.jsonl")]


def watch(
    run_dir: RunDir,
    total_steps: Annotated[
        int | None, typer.Option(help="steps of the run; default: from the run record", min=1)
    ] = None,
    pid: Annotated[int | None, typer.Option(help="stop when this process ends")] = None,
) -> None:
    """Print a run's steps as they are logged: reward, criteria, thresholds, time left, alarms."""
    from verl_visionr1.tools.runs.steps import RunError
    from verl_visionr1.tools.runs.validations import record_notes
    from verl_visionr1.tools.runs.watch import planned_steps
    from verl_visionr1.tools.runs.watch import watch as watch_run

    if pid is None and not (run_dir / "metrics").is_dir():  # no process is about to start a run there
        logged = f"trainer.logger=[console,file] and VERL_FILE_LOGGER_PATH={run_dir}/metrics/1.jsonl"
        raise RunError(f"{run_dir}: no metrics/ in it; recipes log there, a verl command with {logged}")
    total_steps = total_steps or planned_steps(run_dir)
    say(record_notes(run_dir))
    watch_run(run_dir, total_steps, Console(soft_wrap=True), pid)


def report(run_dir: RunDir) -> None:
    """Compare a run's first and last validation: paired 95 % intervals, a verdict, alarms.

    Writes RUN_DIR/report.png and RUN_DIR/report.json.
    """
    from verl_visionr1.rollouts.page import describe_page
    from verl_visionr1.tools.runs.report import report as report_run
    from verl_visionr1.tools.runs.validations import validation_folder

    made = report_run(run_dir)
    console = Console()
    for table in made.tables:
        console.print(table)
    for verdict in made.verdicts:
        console.print(verdict, style="bold", soft_wrap=True, markup=False, highlight=False)
    for note in made.notes:
        console.print(note, style="dim", soft_wrap=True, markup=False, highlight=False)
    page = describe_page(validation_folder(run_dir), GALLERY_SECONDS)
    for name, value in (("figure", made.figure), ("numbers", made.numbers), ("gallery", page)):
        console.print(f"{name + ':':<13} {value}", soft_wrap=True, markup=False, highlight=False)
