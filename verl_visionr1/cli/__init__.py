"""`visionr1`: look at rewards, at an installation and at runs. One module a command, or a few that belong together."""

from __future__ import annotations

import typer

from verl_visionr1.cli import audit, explain, preset, runs, schedule, score

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
for command in (
    *(audit.audit, explain.explain, preset.preset, runs.check, runs.watch, runs.report),
    *(score.score, schedule.schedule),
):
    app.command()(command)


def main() -> None:
    """Entry point of the console script."""
    app()
