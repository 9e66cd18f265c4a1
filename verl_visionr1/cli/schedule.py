"""`visionr1 schedule`: thresholds of a schedule, and scores of saved rollouts under it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from verl_visionr1.cli import rollouts as given
from verl_visionr1.cli.judging import (
    NO_OPTIONS,
    SPOKEN,
    Options,
    ScoringSetup,
    default_judging,
    judging_for,
    override,
    takes,
)
from verl_visionr1.rewards import Preset, Routes
from verl_visionr1.rewards.composition import ScheduleSettings
from verl_visionr1.rollouts.records import Counts
from verl_visionr1.schedule import follow_model, switch_of
from verl_visionr1.settings import decoded
from verl_visionr1.tools.schedule.replay import replay
from verl_visionr1.tools.schedule.view import replay_view, schedule_table


@takes(*SPOKEN)
def schedule(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN_DIR]", help="a run: use its schedule and rollouts")
    ] = None,
    preset: given.PresetName = None,
    kind: Annotated[
        str | None,
        typer.Option(help="constant, staged, linear, cosine, piecewise, gated or off, instead of the preset's"),
    ] = None,
    stages: Annotated[
        list[str] | None, typer.Option(metavar="XI0,XI1,XI2", help="thresholds of a stage; repeat it for each stage")
    ] = None,
    at: Annotated[float | None, typer.Option(help="staged: fraction of training at which it switches")] = None,
    starts: Annotated[str | None, typer.Option(metavar="0,F,...", help="piecewise: where each stage begins")] = None,
    steps: Annotated[int | None, typer.Option(help="length of the training in steps", min=1)] = None,
    rollouts: Annotated[
        list[Path] | None, typer.Option(help="saved rollouts (files or folders) to score under each stage")
    ] = None,
    options: Options = NO_OPTIONS,
    data: given.Data = None,
    column: given.Column = None,
    on_error: given.OnBadRow = "fail",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Print a schedule: thresholds over training; with --rollouts, scores of saved rollouts under each stage."""
    console = Console(highlight=False)
    found = None
    rollouts = [*([run] if run is not None else []), *(rollouts or [])]
    options = replace(options, preset=preset)
    setup = judging_for(rollouts, options, given.columns_of(column)) if rollouts else _setup_of(options)
    steps = steps or (None if setup.run is None else setup.run.last.total_steps)
    changed = _changed(setup.judging.preset, {"kind": kind, "at": at, "stages": stages, "starts": starts})
    family = setup.judging.frame.name
    reason = switch_of(family).reason if changed.schedule.follows_model else None
    changed = replace(changed, schedule=follow_model(changed.schedule, family))
    if rollouts:
        judging = replace(setup.judging, preset=changed, earlier=())
        if (routes := judging.routes) is not None:
            routes = Routes(changed, routes.by_task, routes.by_source, routes.by_column, routes.column)
            judging = replace(judging, routes=routes)
        counts, names = Counts(), setup.validation_names
        with given.opened(rollouts, data or setup.data, column, on_error, counts, validation_names=names) as stream:
            found = replay(stream, judging, counts)
    given.say(setup.notes)
    if as_json:
        points = [{"progress": start, **asdict(thresholds)} for start, thresholds in changed.schedule.points]
        plain = {"preset": changed.name, "interpolation": changed.schedule.interpolation, "points": points}
        plain |= {"off": asdict(changed.schedule.off), "rollouts": msgspec.to_builtins(found)}
        typer.echo(json.dumps(plain, indent=2))
        return
    if "thresholds" not in changed.looks_at:
        console.print(f"{changed.name}: no thresholds: none of its criteria uses them", soft_wrap=True, markup=False)
        reason = None
    else:
        console.print(schedule_table(changed.schedule, f"{changed.name}: {kind or 'its own schedule'}", steps))
    if kind == "gated":
        console.print("gated: in training a gate ends each stage, not the progress shown here")
    if reason is not None:
        console.print(f"switch of {family} models by default: {reason}", soft_wrap=True, markup=False)
    for part in replay_view(found) if found is not None else ():
        console.print(part)


def _setup_of(options: Options) -> ScoringSetup:
    """Judging without rollouts, from the options or the defaults."""
    return ScoringSetup(override(default_judging(), options))


def _changed(preset: Preset, options: dict[str, Any]) -> Preset:
    """The preset with the schedule of the options; None and [] are not given."""
    options = {name: value for name, value in options.items() if value not in (None, [])}
    if not options:
        return preset
    if "stages" in options:
        options["stages"] = [_numbers("--stages", stage) for stage in options["stages"]]
    if "starts" in options:
        options["starts"] = _numbers("--starts", options["starts"])
    settings = decoded(options, ScheduleSettings, "schedule")
    return replace(preset, schedule=settings.build(preset.schedule))


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} {text}: needs comma-separated numbers") from None
