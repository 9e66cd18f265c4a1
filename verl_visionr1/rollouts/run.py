"""The run record `visionr1_run.json`, which every tool reads for a run.

The plug-in writes it when training starts. Each start adds an entry, since a resumed run may score its later steps with
other settings.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from verl_visionr1.answers.transcript import Reasoning
from verl_visionr1.files import RowsError, read_bytes, write_whole
from verl_visionr1.frames import frame_named
from verl_visionr1.rewards import Preset, RewardError, Routes
from verl_visionr1.rewards.composition import PresetSettings, preset_to_dict
from verl_visionr1.rewards.context import ValidationStage
from verl_visionr1.rewards.presets import build_preset
from verl_visionr1.rollouts.inference import RUN_FILE
from verl_visionr1.rollouts.judging import Judging, Moment, Processing, Training
from verl_visionr1.rollouts.places import step_number
from verl_visionr1.schedule import follow_model
from verl_visionr1.settings import SettingsError, decoded

logger = logging.getLogger(__name__)

CHILDREN = ("checkpoints", "rollouts", "validation")
"""Folders of a run directory that may have the file, if the run directory itself does not."""


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """Reward settings of a run from one start on.

    Attributes:
        presets: whole presets (`composition.preset_to_dict`); the default first, then those of routes, in the
            order of the dumps' "route". Their schedules follow the model's family.
        by_task, by_source, by_column: rule -> index in `presets`; `column` is the column of `by_column`.
        total_steps: steps that count as the whole of training; None without a schedule.
        min_pixels, max_pixels: the budget of images in pixels; None: the model's own.
        model, model_type: its path, and the type in its config.json.
        chat_template_kwargs: `data.apply_chat_template_kwargs`.
    """

    from_step: int = 1
    presets: list[dict[str, Any]]
    by_task: dict[str, int] = {}
    by_source: dict[str, int] = {}
    by_column: dict[str, int] = {}
    column: str | None = None
    delegate: list[str] = []
    validation: ValidationStage = "final"
    total_steps: int | None = None
    n_steps: int | None = None
    is_gated: bool = False
    frame: str
    reasoning: Reasoning = "auto"
    turns: str = "auto"
    min_pixels: int | None = None
    max_pixels: int | None = None
    max_tokens: int | None = None
    model: str = ""
    model_type: str = ""
    chat_template_kwargs: dict[str, Any] = {}
    train_files: list[str] = []
    val_files: list[str] = []
    rollout_dir: str | None = None
    validation_dir: str | None = None
    checkpoint_dir: str | None = None
    versions: dict[str, str] = {}

    def judging(self, *, is_evaluation: bool = False) -> Judging:
        """Settings for scoring a rollout of this start again; `is_evaluation`: see `Training`."""
        presets = [_built(plain) for plain in self.presets]
        places = (self.by_task, self.by_source, self.by_column)
        rules = [{key: presets[place] for key, place in one.items()} for one in places]
        routes = Routes(presets[0], *rules, column=tuple(self.column.split(".")) if self.column else ())
        training = Training(
            self.total_steps, self.n_steps, self.validation, is_gated=self.is_gated, is_evaluation=is_evaluation
        )
        return Judging(
            presets[0],
            frame_named(self.frame),
            Moment(run=training),
            Processing(None, self.min_pixels, self.max_pixels),
            self.max_tokens,
            reasoning=self.reasoning,
            routes=routes,
        )

    @property
    def names(self) -> str:
        """Names of its presets."""
        return ", ".join(str(preset.get("name")) for preset in self.presets)

    def describe(self) -> str:
        """Describe the run in one line."""
        steps = "no schedule (base thresholds)" if self.total_steps is None else f"{self.total_steps} steps"
        pixels = "" if self.max_pixels is None else f", {self.min_pixels} to {self.max_pixels} pixels"
        return f"preset {self.names}, frame {self.frame}, {steps}, validation {self.validation}{pixels}"


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """The run record: its starts, in the order of their steps."""

    version: int = 1
    starts: list[Start]

    @property
    def last(self) -> Start:
        """The current start."""
        return self.starts[-1]

    def judging(self) -> Judging:
        """Settings for scoring its rollouts again, each by the start of its step."""
        before = tuple((after.from_step - 1, start.judging()) for start, after in pairwise(self.starts))
        return replace(self.last.judging(), earlier=before)

    def at(self, step: int) -> Start:
        """The start that a checkpoint of this step belongs to."""
        return next((start for start in reversed(self.starts) if start.from_step <= step), self.starts[0])

    def with_start(self, start: Start) -> Run:
        """Add a start: later ones are dropped, an equal one is kept."""
        kept = [one for one in self.starts if one.from_step < start.from_step]
        is_known = bool(kept) and msgspec.structs.replace(kept[-1], from_step=start.from_step) == start
        return Run(starts=kept if is_known else [*kept, start])


def _built(plain: Mapping[str, Any]) -> Preset:
    try:
        return build_preset(decoded(dict(plain), PresetSettings))
    except SettingsError as error:
        raise RewardError(f"preset {plain.get('name')}: {error}") from None


def presets_of(routes: Routes, family: str) -> dict[str, Any]:
    """Routes as fields of `Start`, with schedules for a model of that family."""
    presets = [replace(preset, schedule=follow_model(preset.schedule, family)) for preset in routes.presets]
    fields: dict[str, Any] = {"presets": list(map(preset_to_dict, presets)), "column": ".".join(routes.column) or None}
    for name in ("by_task", "by_source", "by_column"):
        fields[name] = {key: int(routes.index(preset)) for key, preset in getattr(routes, name).items()}
    return fields


def run_directory(start: Start) -> Path:
    """The run directory: the common folder of verl's outputs, else the folder of the checkpoints.

    Recipes give `RUN_DIR/checkpoints` and `RUN_DIR/validation`; verl's own default has no folder in common with dumps.
    """
    own = Path(start.checkpoint_dir or ".").absolute()
    others = _dump_folders(start)
    parents = {folder.parent for folder in (own, *others)}
    if others and len(parents) == 1:
        return parents.pop()
    return own.parent if own.name == CHILDREN[0] else own


def _dump_folders(start: Start) -> list[Path]:
    return [Path(folder).absolute() for folder in (start.rollout_dir, start.validation_dir) if folder]


def run_files(start: Start) -> list[Path]:
    """Paths of the file: in the run directory, and in each folder of dumps that is not directly in it."""
    folder = run_directory(start)
    outside = [dumps for dumps in _dump_folders(start) if dumps.parent != folder]
    return [one / RUN_FILE for one in dict.fromkeys((folder, *outside))]


def write_run(start: Start) -> list[Path]:
    """Append a start to the record; written atomically."""
    files = run_files(start)
    for file in files:
        run = Run(starts=[start])
        try:
            run = read_run(file).with_start(start) if file.is_file() else run
        except RowsError as error:  # another version, or not a record
            logger.warning("visionr1: %s; it is replaced, so settings of earlier starts are lost", error)
        write_whole(file, msgspec.json.format(msgspec.json.encode(run), indent=1))
    return files


def read_run(file: Path) -> Run:
    """Read a run record."""
    data = read_bytes(file)
    try:
        run = msgspec.json.decode(data, type=Run)
    except msgspec.DecodeError as error:
        raise RowsError(f"{file}: not a visionr1 run record ({error}); delete it to continue without it") from None
    if run.version != 1 or not run.starts or not all(start.presets for start in run.starts):
        raise RowsError(f"{file}: unknown version {run.version}; update verl-visionr1")
    return run


def find_run(path: Path) -> Path | None:
    """Find the record of a run directory, a folder of dumps or a dump; None if there is none."""
    start = Path(os.path.abspath(path if path.is_dir() else path.parent))
    for folder in (start, *(start / child for child in CHILDREN)):
        if (folder / RUN_FILE).is_file():
            return folder / RUN_FILE
    above = start.parent / RUN_FILE
    return above if above.is_file() and start.name in _folder_names(read_run(above)) else None


def start_of_model(path: Path) -> tuple[Path, Start] | None:
    """The record of a run, or of the run that a checkpoint `global_step_N` is in, and the start of this model."""
    folders = (path, *path.parents)
    step = next((folder for folder in folders if step_number(folder)), None)
    file = find_run(path if step is None else step.parent)
    if file is None:
        return None
    run = read_run(file)
    return file, run.last if step is None else run.at(step_number(step))


def _folder_names(run: Run) -> set[str]:
    """Names of the folders that a run writes to; without paths, since the run may have been moved."""
    folders = [(start.rollout_dir, start.validation_dir, start.checkpoint_dir) for start in run.starts]
    return {Path(folder).name for each in folders for folder in each if folder}


def run_of(paths: Sequence[Path]) -> tuple[Path, Run] | None:
    """The run that all paths belong to; None if they belong to none, or to several with different settings."""
    files = [find_run(path) for path in paths]
    known = [file for file in files if file is not None]
    if not known or len(known) < len(files):
        return None
    runs = [read_run(file) for file in dict.fromkeys(known)]
    return (known[0], runs[0]) if all(run.last.presets == runs[0].last.presets for run in runs) else None
