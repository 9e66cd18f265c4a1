"""`visionr1 preset`: list the presets, or show one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from verl_visionr1.rewards import Preset

console = Console()


def preset(
    name: Annotated[str | None, typer.Argument(help="a preset, or a YAML file; default: list all")] = None,
) -> None:
    """Print the presets, or one of them as a YAML file to edit and train with (...visionr1.preset=FILE)."""
    import msgspec

    from verl_visionr1.rewards import PRESETS, find_preset
    from verl_visionr1.rewards.composition import preset_to_dict

    if name is None:
        console.print(_table(PRESETS))
        return
    plain = preset_to_dict(find_preset(name))
    typer.echo(msgspec.yaml.encode(plain).decode(), nl=False)


def _table(presets: Mapping[str, Preset]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("preset", "tasks", "criteria", "answer format", "source"):
        table.add_column(column, overflow="fold", no_wrap=column == "preset")
    for one in presets.values():
        weights = ", ".join(name if w == 1 else f"{name} x{w:g}" for name, w in one.weights.items())
        table.add_row(one.name, ", ".join(one.tasks), weights, one.answer_format, one.source)
    return table
