"""Settings and result of a gallery."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from verl_visionr1.files import RowsError
from verl_visionr1.rewards import Preset
from verl_visionr1.rollouts.judging import Judging, Moment
from verl_visionr1.rollouts.places import Dump
from verl_visionr1.rollouts.records import Columns, OnError
from verl_visionr1.schedule import follow_model, last_progress

Sampling = Literal["even", "last"]
"""Which prompt groups are shown if not all: spread evenly over the dumps, or those of the last steps."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a gallery.

    Attributes:
        data: parquet files of the training data, for images and data sources.
        title: of the page; "": the names of its inputs.
        limit: most rollouts that are shown, in whole prompt groups; curves use all rollouts.
        side: longer side of a picture in pixels.
        max_images: most pictures in the page; further prompts have a grey background.
        has_causes: whether to compute the first line of `visionr1 explain` for each shown rollout: 2 to 30 ms each.
        files: task -> YAML file of its preset, "" -> that of the other tasks, for the commands in the page; presets
            without a file are named by their name.
        validation_names: folders of the run's validation dumps.
        is_run: whether all settings are those of the run record, so that the commands in the page need no options.
        on_error: what to do with a row that cannot be read or scored: "fail", or "skip", which counts it.

    Raises:
        RowsError: a number out of its range.
    """

    judging: Judging
    data: tuple[Path, ...] = ()
    title: str = ""
    limit: int = 4000
    sample: Sampling = "even"
    side: int = 320
    max_images: int = 2000
    has_causes: bool = True
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    columns: Columns = field(default_factory=Columns)
    on_error: OnError = "skip"
    validation_names: tuple[str, ...] = ()
    is_run: bool = False

    def __post_init__(self) -> None:
        least = {"limit": 1, "side": 32, "max_images": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise RowsError(f"--{name.replace('_', '-')} {getattr(self, name)}: needs at least {low}")
        if self.side > 2048:
            raise RowsError(f"--side {self.side}: needs at most 2048")

    def preset_argument(self, preset: Preset) -> str:
        """Value of `--preset` of `visionr1 explain` for a preset; "" if none is needed."""
        if self.is_run:
            return ""
        tasks = [task for task, routed in self.judging.by_task.items() if routed is preset]
        keys = [*([""] if preset is self.judging.preset else []), *tasks]
        return next((self.files[key] for key in keys if key in self.files), preset.name)

    def judging_of(self, dump: Dump) -> Judging:
        """How the rollouts of a dump are scored: training at each step's thresholds, validation at the final ones."""
        if dump.is_validation and self.judging.moment.total_steps is not None:
            judging = self.judging
            schedule = follow_model(judging.preset.schedule, judging.frame.name)
            at = schedule.final_progress(last_progress(self.judging.moment.total_steps))
            return replace(judging, moment=Moment(progress=at))
        return self.judging


@dataclass(frozen=True, slots=True)
class Written:
    """Contents of a written gallery.

    Attributes:
        n_rollouts, n_prompts: shown; a prompt counts once, even if it occurs at several steps.
        n_all: all scored rollouts; curves use them.
        n_without_image: shown prompts with an image but a grey background.
        notes: further remarks, in sentences.
    """

    out: Path
    n_bytes: int
    n_rollouts: int
    n_prompts: int
    n_all: int
    n_images: int
    n_without_image: int
    notes: tuple[str, ...]
