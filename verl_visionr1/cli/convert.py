"""`visionr1 convert`: the converters of data sets; each is a command, loaded on use."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from verl_visionr1.conversion.catalog import CONVERTERS, TOOLS, load_command


class _Deferred(TyperCommand):
    """A command with only its summary until it is called."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The context of the loaded command, which click then invokes."""
        app = typer.Typer(add_completion=False)
        app.command(self.name)(load_command(str(self.name)))
        return typer.main.get_command(app).make_context(info_name, args, parent, **extra)


class Converters(TyperGroup):
    """All commands of the catalog."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands, in the catalog's order."""
        return [*CONVERTERS, *TOOLS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command by name; None if unknown."""
        summary = {**CONVERTERS, **TOOLS}.get(cmd_name)
        return None if summary is None else _Deferred(cmd_name, callback=lambda: None, help=summary)


app = typer.Typer(cls=Converters, no_args_is_help=True, help="Turn a data set into rows of training data.")
