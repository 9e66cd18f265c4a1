"""`visionr1 dry-run`: check a training command without starting it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from verl_visionr1.cli.rollouts import quiet


def dry_run(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="OVERRIDE...", help="the arguments of python -m verl.trainer.main_ppo"),
    ] = None,
    yaml: Annotated[bool, typer.Option("--yaml", help="print the whole config, resolved, on standard output")] = False,
    data_later: Annotated[
        bool, typer.Option("--data-later", help="accept missing data files: a note, not a failure")
    ] = False,
) -> None:
    """Compose and check a training command without starting it: no Ray, no GPU. Exit code 1 if it would fail."""
    with quiet():
        from verl_visionr1.runtime.dry_run import dry_run as run

        found = run(overrides or (), data_later=data_later)
    console = Console(soft_wrap=True, stderr=yaml)
    if yaml and found.config is not None:
        from omegaconf import OmegaConf

        typer.echo(OmegaConf.to_yaml(found.config), nl=False)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in found.summary:
        table.add_row(Text(label), Text(text))
    if found.summary:
        console.print(table)
    for note in found.notes:
        console.print(Text(f"note: {note}"))
    for problem in found.problems:
        Console(soft_wrap=True, stderr=True).print(Text(f"visionr1 dry-run: {problem}"))
    if not found.is_fine:
        raise typer.Exit(1)
    unseen = "; the notes say what was not checked" if found.notes else ""
    console.print(Text(f"verl's checks and the plug-in's pass{unseen}"))
    console.print(Text("to train: python -m verl.trainer.main_ppo with these arguments (a recipe: without --dry-run)"))
