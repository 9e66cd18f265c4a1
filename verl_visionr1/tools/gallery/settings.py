"""How a gallery is made, and what came of it."""

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
"""Which prompt groups are shown where not all are: spread evenly over the dumps, or those of the last steps."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a gallery is made.

    Attributes:
        data: the parquet that they were made of: it gives images, and data sources.
        title: of the page; "": the names of what it was made from.
        limit: so many rollouts are shown at most, whole prompt groups; curves are over all of them.
        side: longer side of a picture in pixels.
        max_images: so many pictures are in the page at most; further prompts stand on grey.
        has_causes: whether the first line of `visionr1 explain` is found for each shown rollout: 2 to 30 ms each.
        files: task -> YAML file of the preset that judges it, "" -> that of the other tasks: what the commands in the
            page name; presets that have no file are named by their name.
        validation_names: folders of the run's validation dumps.
        is_run: whether all of it is as the run wrote it down, so that the commands in the page need no options.
        on_error: what to do with a row that cannot be read or judged: "fail", or "skip", which counts it.

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

    def told(self, preset: Preset) -> str:
        """What `--preset` of `visionr1 explain` is told of a preset that judges rows here; "" where it knows."""
        if self.is_run:
            return ""
        tasks = [task for task, routed in self.judging.by_task.items() if routed is preset]
        keys = [*([""] if preset is self.judging.preset else []), *tasks]
        return next((self.files[key] for key in keys if key in self.files), preset.name)

    def judging_of(self, dump: Dump) -> Judging:
        """How the rollouts of a dump are judged: where each is judged at its own step, validation as at the end."""
        if dump.is_validation and self.judging.moment.total_steps is not None:
            judging = self.judging
            schedule = follow_model(judging.preset.schedule, judging.frame.name)
            at = schedule.final_progress(last_progress(self.judging.moment.total_steps))
            return replace(judging, moment=Moment(progress=at))
        return self.judging


@dataclass(frozen=True, slots=True)
class Written:
    """What a gallery holds.

    Attributes:
        n_rollouts, n_prompts: shown; a prompt counts once, however many steps it was asked at.
        n_all: rollouts that were judged; curves are over them.
        n_without_image: shown prompts that stand on grey although they have an image.
        notes: what is worth knowing besides, in sentences.
    """

    out: Path
    n_bytes: int
    n_rollouts: int
    n_prompts: int
    n_all: int
    n_images: int
    n_without_image: int
    notes: tuple[str, ...]
