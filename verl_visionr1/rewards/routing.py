"""Chooses the preset of a row: by a column, by its data source, by its task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from verl_visionr1.rewards.base import COMMON_METRICS, Preset, RewardError
from verl_visionr1.rewards.presets import PRESETS, TASK_PRESETS, find_preset
from verl_visionr1.settings import needs_one_of
from verl_visionr1.targets import TASKS, Target

DELEGATED = -2.0
"""`route` of a row that verl's own reward scores."""


def is_delegated(delegate: Sequence[str], data_source: str) -> bool:
    """Whether verl's own reward scores the rows of a data source.

    >>> is_delegated(["openai/*"], "openai/gsm8k"), is_delegated([], "openai/gsm8k")
    (True, False)
    """
    return any(fnmatchcase(data_source, pattern) for pattern in delegate)


class RouteSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`routes`: presets (names, or YAML files) for some rows, tried in the order column, data source, task.

    Attributes:
        task: task -> preset.
        data_source: glob over `data_source`, for example "gui/*" -> preset; the first match wins.
        column: dotted path of a column, for example "extra_info.reward", whose value selects from `values`.
        values: value of the column -> preset.
    """

    task: dict[str, str] = {}
    data_source: dict[str, str] = {}
    column: str | None = None
    values: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Routes:
    """The presets of a run; `presets` has all of them without repeats, the default first.

    Without a matching rule, a row gets `default`, or its task's default preset (`TASK_PRESETS`) if `default` does not
    score that task. A rule that chooses a preset for another task is an error. RewardError: an unknown task, values
    without a column or a column without values.
    """

    default: Preset
    by_task: Mapping[str, Preset] = field(default_factory=dict[str, Preset])
    by_source: Mapping[str, Preset] = field(default_factory=dict[str, Preset])
    by_column: Mapping[str, Preset] = field(default_factory=dict[str, Preset])
    column: tuple[str, ...] = ()
    presets: tuple[Preset, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for task in self.by_task:
            if task not in TASKS:
                raise RewardError(f"routes.task.{task}: {needs_one_of(task, TASKS)}")
        if bool(self.column) != bool(self.by_column):
            raise RewardError("routes.column and routes.values go together: a column, and a preset for each value")
        named = (self.default, *self.by_task.values(), *self.by_source.values(), *self.by_column.values())
        object.__setattr__(self, "presets", tuple({id(preset): preset for preset in named}.values()))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Keys of a run's metrics, the same for every row (0 if the row's preset lacks it): all criteria, then the
        common ones.
        """
        criteria = [name for preset in self.presets for name in preset.weights]
        return (*dict.fromkeys(criteria), *COMMON_METRICS)

    def index(self, preset: Preset) -> float:
        """Index of a preset in `presets`, 0 for the default; -1 for another."""
        return next((float(i) for i, named in enumerate(self.presets) if named is preset), -1.0)

    def preset_for(self, target: Target, data_source: str = "", row: Mapping[str, Any] | None = None) -> Preset:
        """Return the preset that scores a row with this ground truth, data source, and columns (if a rule uses one).

        RewardError: a rule chose a preset for another task, or the column has an unknown value.
        """
        chosen = self._chosen(target, data_source, row)
        if chosen is None:
            own = self.default
            return own if target.task in own.tasks else PRESETS[TASK_PRESETS[target.task]]
        if target.task not in chosen.tasks:
            raise RewardError(
                f"preset {chosen.name} scores {', '.join(chosen.tasks)}, but routes give it a row of task "
                f"{target.task} (data source {data_source!r}); name a preset for that task"
            )
        return chosen

    def _chosen(self, target: Target, data_source: str, row: Mapping[str, Any] | None) -> Preset | None:
        if self.by_column:
            value = value_at(row, self.column)
            if value is not None:
                if str(value) not in self.by_column:
                    known = ", ".join(self.by_column)
                    raise RewardError(f"{'.'.join(self.column)} = {value!r}: routes.values has {known}")
                return self.by_column[str(value)]
        for pattern, preset in self.by_source.items():
            if fnmatchcase(data_source, pattern):
                return preset
        return self.by_task.get(target.task)


def value_at(row: Any, path: Sequence[str]) -> Any:
    """The value under nested names; None if missing."""
    for key in path:
        row = row.get(key) if isinstance(row, Mapping) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    return row  # pyright: ignore[reportUnknownVariableType]


def routes_of(settings: RouteSettings, default: Preset, known: Mapping[str, Preset] = PRESETS) -> Routes:
    """Build the routes from their settings; RewardError: an unknown task or preset, or a column without values."""

    def presets(where: str, rules: Mapping[str, str]) -> dict[str, Preset]:
        return {key: find_preset(spec, known, key=f"routes.{where}.{key}") for key, spec in rules.items()}

    return Routes(
        default,
        by_task=presets("task", settings.task),
        by_source=presets("data_source", settings.data_source),
        by_column=presets("values", settings.values),
        column=tuple(settings.column.split(".")) if settings.column else (),
    )
