"""`visionr1 schedule`: thresholds of a schedule, and scores of saved rollouts under it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from verl_visionr1.cli import rollouts as given
from verl_visionr1.cli.judging import NO_OPTIONS, SPOKEN, Options, ScoringSetup, judging_for, takes
from verl_visionr1.frames import frame_named
from verl_visionr1.rewards import Preset, Routes
from verl_visionr1.rewards.composition import ScheduleSettings
from verl_visionr1.rollouts.judging import Judging
from verl_visionr1.rollouts.records import Counts
from verl_visionr1.schedule import follow_model, switch_of
from verl_visionr1.settings import decoded
from verl_visionr1.tools.schedule.replay import TOO_MANY_DEAD, Replay, replay
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
    begin: Annotated[float | None, typer.Option(help="linear, cosine: fraction at which it begins")] = None,
    end: Annotated[float | None, typer.Option(help="linear, cosine: fraction at which it ends")] = None,
    starts: Annotated[str | None, typer.Option(metavar="0,F,...", help="piecewise: where each stage begins")] = None,
    steps: Annotated[int | None, typer.Option(help="length of the training in steps", min=1)] = None,
    rollouts: Annotated[
        list[Path] | None, typer.Option(help="saved rollouts (files or folders) to score under each stage")
    ] = None,
    options: Options = NO_OPTIONS,
    data: given.Data = None,
    column: given.Column = None,
    on_error: given.OnBadRow = "fail",
    max_dead: Annotated[
        float, typer.Option(help="largest share of groups without gradient in a stage", min=0.0, max=1.0)
    ] = TOO_MANY_DEAD,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Print a schedule: thresholds over training; with --rollouts, scores of saved rollouts under each stage."""
    console = Console()
    found = None
    try:
        rollouts = [*([run] if run is not None else []), *(rollouts or [])]
        options = dataclasses.replace(options, preset=preset)
        setup = judging_for(rollouts, options, given.columns_of(column)) if rollouts else _setup_of(options)
        steps = steps or (None if setup.run is None else setup.run.last.total_steps)
        changed = _changed(setup.judging.preset, kind, stages, at, begin, end, starts)
        model_frame = setup.judging.frame
        reason = switch_of(model_frame.name).reason if changed.schedule.follows_model else None
        changed = dataclasses.replace(changed, schedule=follow_model(changed.schedule, model_frame.name))
        title = f"{changed.name}: {kind or 'its own schedule'}"
        if rollouts:
            judging = dataclasses.replace(setup.judging, preset=changed, earlier=())
            if setup.judging.routes is not None:
                judging = _routed(judging, setup.judging.routes, changed)
            counts = Counts()
            names = setup.validation_names
            with given.opened(rollouts, data or setup.data, column, on_error, counts, validation_names=names) as stream:
                found = replay(stream, judging, too_many_dead=max_dead, counts=counts)
    except ValueError as error:
        raise given.stop("schedule", error) from None
    given.say(setup.notes)
    if as_json:
        typer.echo(json.dumps(_plain(changed, found), indent=2))
        return
    console.print(schedule_table(changed.schedule, title, steps))
    if kind == "gated":
        console.print("gated: in training a gate ends each stage, not the progress shown here", highlight=False)
    if reason is not None:
        console.print(
            f"switch of {model_frame.name} models by default: {reason}", soft_wrap=True, markup=False, highlight=False
        )
    for part in replay_view(found) if found is not None else ():
        console.print(part)


def _setup_of(options: Options) -> ScoringSetup:
    """Judging without rollouts, from the options or the defaults."""
    preset, frame = options.preset or "visionr1", options.frame or "original"
    return ScoringSetup(Judging(given.preset_of(preset), frame_named(frame)))


def _routed(judging: Judging, routes: Routes, changed: Preset) -> Judging:
    """The run's routes with the changed preset as their default."""
    changed_routes = Routes(changed, routes.by_task, routes.by_source, routes.by_column, routes.column)
    return dataclasses.replace(judging, routes=changed_routes)


def _changed(
    preset: Preset,
    kind: str | None,
    stages: list[str] | None,
    at: float | None,
    begin: float | None,
    end: float | None,
    starts: str | None,
) -> Preset:
    """The preset with the schedule of the options."""
    options: dict[str, Any] = {"kind": kind, "at": at, "begin": begin, "end": end}
    options["stages"] = [_numbers("--stages", stage) for stage in stages] if stages else None
    options["starts"] = None if starts is None else _numbers("--starts", starts)
    options = {name: value for name, value in options.items() if value is not None}
    if not options:
        return preset
    settings = decoded(options, ScheduleSettings, "schedule")
    return dataclasses.replace(preset, schedule=settings.build(preset.schedule))


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} {text}: needs comma-separated numbers") from None


def _plain(preset: Preset, found: Replay | None) -> dict[str, Any]:
    points = [{"progress": start, **dataclasses.asdict(t)} for start, t in preset.schedule.points]
    plain = {"preset": preset.name, "interpolation": preset.schedule.interpolation, "points": points}
    return plain | {"off": dataclasses.asdict(preset.schedule.off), "rollouts": msgspec.to_builtins(found)}
