"""`visionr1 preset`: list the presets, or show one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from verl_visionr1.rewards import Preset


def preset(
    name: Annotated[str | None, typer.Argument(help="a preset, or a YAML file; default: list all")] = None,
) -> None:
    """Print the presets, or one of them as a YAML file to edit and train with (...visionr1.preset=FILE)."""
    import msgspec

    from verl_visionr1.rewards import PRESETS, find_preset
    from verl_visionr1.rewards.composition import preset_to_dict

    if name is None:
        typer.echo("\n".join(_lines(PRESETS)))
        return
    found = find_preset(name)
    plain = preset_to_dict(found)
    if "thresholds" not in found.looks_at:
        typer.echo("# no thresholds: none of its criteria uses them")
        own = plain.pop("schedule")
        plain |= {} if len(own.get("stages", ())) > 1 else {"schedule": {"kind": "off"}}
    typer.echo(msgspec.yaml.encode(plain).decode(), nl=False)


def _lines(presets: Mapping[str, Preset]) -> Iterator[str]:
    """Presets by task, each in a line: name, answer format, criteria that count."""
    by_tasks: dict[tuple[str, ...], list[Preset]] = {}
    for one in presets.values():
        by_tasks.setdefault(one.tasks, []).append(one)
    width = max(map(len, presets))
    for tasks, some in by_tasks.items():
        yield ", ".join(tasks)
        for one in some:
            weights = ", ".join(name if w == 1 else f"{name} x{w:g}" for name, w in one.weights.items() if w)
            yield f"  {one.name:<{width}}  {one.answer_format:<17}  {weights}"
    yield "visionr1 preset NAME prints one as YAML, with its source"
