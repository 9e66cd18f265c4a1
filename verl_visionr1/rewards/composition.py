"""Converts presets to and from plain data, as in YAML files, on command lines and in printed output.

    base: visionr1                       # start from this preset ("none": without criteria); every key is optional
    criteria:
      recall: {weight: 0.5}              # change one
      precision: null                    # leave one out
      mine:                              # add one: a name in `criteria.CRITERIA`, or a function of your own
        fn: pkg://my_package.rewards:mine
        weight: 0.2
        options: {limit: 3}
    schedule: {kind: staged, at: 0.3, stages: [[0.5, 0.5, 0.75], [0.75, 0.75, 0.9]]}

Unknown keys are errors that name the nearest known one.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import msgspec

from verl_visionr1.criteria import CRITERIA, Thresholds
from verl_visionr1.functions import PACKAGE_PREFIX, FunctionError, load_function, locate_function
from verl_visionr1.gate import Gate
from verl_visionr1.rewards.base import Criterion, CriterionFn, Preset, RewardError, require_one_of
from verl_visionr1.schedule import Schedule, constant, cosine, linear, piecewise, staged
from verl_visionr1.settings import SettingsError, decoded, refuse_unknown

ScheduleKind = Literal["off", "constant", "staged", "linear", "cosine", "piecewise", "gated"]
Triple = tuple[float, float, float]
Stage = Triple | dict[str, float]
"""Thresholds: (xi0, xi1, xi2), or the fields of `Thresholds` by name."""
NO_BASE = "none"
"""`base` of a preset that inherits no criterion."""


class CriterionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`criteria.<name>`: fields that are None keep the base's value.

    Attributes:
        fn: a name in `criteria.CRITERIA`, `pkg://package.module:function` or `path/to/file.py:function`.
        weight: share in the reward; 0 reports the criterion without rewarding it.
        options: keyword-only parameters of the function.
    """

    fn: str | None = None
    weight: float | None = None
    options: dict[str, Any] | None = None


class ScheduleSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`schedule`: how the thresholds move.

    Attributes:
        kind: None (the preset's own, with `stages` and `at` replaced if set), "off" (no progressive rule), "constant"
            (first of `stages`), "staged" (switch from the first to the second at `at`), "linear", "cosine" (from the
            first to the last between `begin` and `end`), "piecewise" (`stages[i]` from `starts[i]` on), "gated" (from
            one of `stages` to the next when `gate` opens).
        stages: thresholds of each stage; None keeps the preset's.
        at: fraction of training of the switch, for "staged"; None: one half, or the preset's.
        begin, end: fractions of training, for "linear" and "cosine".
        starts: fractions of training, the first 0, for "piecewise".
        off: thresholds when the rule is off; None keeps the preset's.
        gate: for "gated".
    """

    kind: ScheduleKind | None = None
    stages: list[Stage] | None = None
    at: float | None = None
    begin: float = 0.0
    end: float = 1.0
    starts: list[float] = msgspec.field(default_factory=lambda: [0.0, 0.5])
    off: Stage | None = None
    gate: Gate = Gate()

    def build(self, own: Schedule) -> Schedule:
        """Build the schedule from these settings and the preset's own schedule; ValueError names a wrong key."""
        self._refuse_ignored()
        if self.kind is None and self.at is None and self.stages is None:
            return own if self.off is None else dataclasses.replace(own, off=_thresholds(self.off))
        stages = [s for _, s in own.points] if self.stages is None else [_thresholds(s) for s in self.stages]
        off = own.off if self.off is None else _thresholds(self.off)
        if self.kind is None and self.at is None:
            if len(stages) != len(own.points):
                raise ValueError(f"stages has {len(stages)} entries: the preset has {len(own.points)}; set kind too")
            points = tuple((at, stage) for (at, _), stage in zip(own.points, stages, strict=True))
            return dataclasses.replace(own, points=points, off=off, follows_model=False)
        kind = self.kind or "staged"
        n_needed = {"off": 0, "constant": 1, "piecewise": len(self.starts)}.get(kind, 2)
        # Otherwise a stage would be ignored.
        is_exact = kind in ("staged", "piecewise") or (self.stages is not None and kind != "gated")
        if len(stages) < n_needed or (is_exact and len(stages) != n_needed):
            if self.stages is None:
                raise ValueError(f"stages: the preset has {len(stages)}, kind={kind} needs {n_needed}; set stages too")
            raise ValueError(f"stages has {len(stages)} entries: kind={kind} needs {n_needed}")
        return dataclasses.replace(self._build(stages, off), off=off)

    def _refuse_ignored(self) -> None:
        """Raise ValueError for a key that this kind ignores."""
        ramps, default = ("linear", "cosine"), ScheduleSettings()
        kinds_of = {"begin": ramps, "end": ramps, "starts": ("piecewise",), "gate": ("gated",)}
        if self.at is not None and self.kind not in (None, "staged"):
            raise ValueError(f"at = {self.at!r}: only used by kind=staged")
        for key, kinds in kinds_of.items():
            value = getattr(self, key)
            if value and value != getattr(default, key) and self.kind not in kinds:
                shown = msgspec.to_builtins(value)
                raise ValueError(f"{key} = {shown!r}: only used by kind={' and kind='.join(kinds)}; set kind too")

    def _build(self, stages: list[Thresholds], off: Thresholds) -> Schedule:
        if self.kind == "off":
            return constant(off)
        if self.kind == "constant":
            return constant(stages[0])
        if self.kind in ("staged", None):
            return staged(stages[0], stages[1], at=0.5 if self.at is None else self.at)
        if self.kind == "linear":
            return linear(stages[0], stages[-1], begin=self.begin, end=self.end)
        if self.kind == "cosine":
            return cosine(stages[0], stages[-1], begin=self.begin, end=self.end)
        if self.kind == "piecewise":
            return piecewise(list(zip(self.starts, stages, strict=True)))
        # A gate counts stages and ignores progress; without one the stages are of equal length.
        return piecewise([(i / len(stages), stage) for i, stage in enumerate(stages)])

    def build_gate(self) -> Gate | None:
        """Return the gate for "gated"; else None. ValueError: "gated" without a bar."""
        if self.kind == "gated" and self.gate.bar is None:
            raise ValueError("gate.bar: kind=gated needs a value for the metric to reach, for example gate={bar:0.6}")
        return self.gate if self.kind == "gated" else None


class PresetSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A preset, or changes to one: fields that are None or empty keep the base's value. See `rewards.base.Preset`.

    Attributes:
        base: the preset it starts from: a name in `PRESETS`, a YAML file, or "none", which has no criteria.
        value: "mean" (weighted mean of the criteria) or "sum".
        weights: criterion -> weight, short for `criteria.<name>.weight`; null keeps the base's.
    """

    base: str | None = None
    name: str | None = None
    source: str | None = None
    tasks: list[str] | None = None
    answer_format: str | None = None
    matching: str | None = None
    value: Literal["mean", "sum"] | None = None
    accuracy: str | None = None
    criteria: dict[str, CriterionSettings | None] = {}
    weights: dict[str, float | None] = {}
    schedule: ScheduleSettings | None = None

    def build(self, base: Preset) -> Preset:
        """Apply these settings to the base; RewardError names a wrong key and its value."""
        criteria = {} if self.base == NO_BASE else {criterion.name: criterion for criterion in base.criteria}
        for name, change in self.criteria.items():
            if change is None:
                require_one_of("criteria", name, criteria)
                del criteria[name]
            else:
                criteria[name] = _criterion(name, change, criteria.get(name))
        plain: dict[str, Any] = {"name": self.name, "source": self.source, "answer_format": self.answer_format}
        plain |= {"matching": self.matching, "tasks": None if self.tasks is None else tuple(self.tasks)}
        plain["is_sum"] = None if self.value is None else self.value == "sum"
        plain["accuracy"] = base.accuracy if self.accuracy is None and base.accuracy in criteria else self.accuracy
        changes: dict[str, Any] = {key: value for key, value in plain.items() if value is not None}
        changes.setdefault("accuracy", None)
        if self.schedule is not None:
            changes["schedule"] = _in("schedule", self.schedule.build, base.schedule)
        preset = dataclasses.replace(base, criteria=tuple(criteria.values()), **changes)
        weights = {name: weight for name, weight in self.weights.items() if weight is not None}
        return preset.with_weights(weights) if weights else preset


def _criterion(name: str, change: CriterionSettings, base: Criterion | None) -> Criterion:
    """Build a changed criterion, or a new one."""
    if change.fn is None and base is None:
        raise RewardError(f"criteria.{name}: no such criterion in the base; a new one needs fn")
    options = dict(base.options) if base is not None and change.fn is None else {}
    fn = base.fn if change.fn is None and base is not None else load_criterion(name, change.fn or "")
    weight = change.weight if change.weight is not None else (1.0 if base is None else base.weight)
    return Criterion(name, fn, weight, options | (change.options or {}))


def load_criterion(name: str, spec: str) -> CriterionFn:
    """Load a criterion's function by its name in `CRITERIA` or by its place; RewardError if there is none."""
    if ":" not in spec:
        require_one_of(f"criteria.{name}.fn", spec, CRITERIA)
        return CRITERIA[spec]
    try:
        return load_function(spec)
    except FunctionError as error:
        raise RewardError(f"criteria.{name}.fn = {error}") from None


def preset_to_dict(preset: Preset) -> dict[str, Any]:
    """Convert a whole preset to plain data, from which `PresetSettings` builds the same preset."""
    return {
        "base": NO_BASE,
        "name": preset.name,
        "source": preset.source,
        "tasks": list(preset.tasks),
        "answer_format": preset.answer_format,
        "matching": preset.matching,
        "value": "sum" if preset.is_sum else "mean",
        "accuracy": preset.accuracy,
        "criteria": {c.name: _criterion_to_dict(c) for c in preset.criteria},
        "schedule": _schedule_to_dict(preset.schedule),
    }


def _criterion_to_dict(criterion: Criterion) -> dict[str, Any]:
    fn = criterion.fn
    known = next((name for name, own in CRITERIA.items() if own is fn), None)
    plain: dict[str, Any] = {"fn": known or locate_function(fn), "weight": criterion.weight}
    return plain | ({"options": dict(criterion.options)} if criterion.options else {})


def _schedule_to_dict(schedule: Schedule) -> dict[str, Any]:
    points = schedule.points
    plain: dict[str, Any] = {"kind": "piecewise", "starts": [at for at, _ in points]}
    if schedule.interpolation != "step":
        points = points[-2:]  # a third point, at 0, only covers the time until "begin"
        plain = {"kind": schedule.interpolation, "begin": points[0][0], "end": points[1][0]}
    plain["stages"] = [dataclasses.asdict(thresholds) for _, thresholds in points]
    return plain | {"off": dataclasses.asdict(schedule.off)}


def _thresholds(stage: Stage) -> Thresholds:
    if not isinstance(stage, dict):
        return Thresholds.of(*stage)
    names = [field.name for field in dataclasses.fields(Thresholds)]
    refuse_unknown(stage, names, "stages")
    missing = [name for name in names if name not in stage]
    if missing:
        raise ValueError(f"stages: {stage}: missing {', '.join(missing)}")
    return Thresholds(**stage)


def _in(key: str, make: Any, *args: Any) -> Any:
    """Call `make(*args)`; put the key before the message of an error."""
    try:
        return make(*args)
    except ValueError as error:
        raise RewardError(f"{key}.{error}") from None


def read_settings(file: str | Path) -> PresetSettings:
    """Read the preset settings of a YAML file; RewardError names the file, the key and the value."""
    path = Path(file).expanduser()
    try:
        plain = msgspec.yaml.decode(path.read_bytes())
    except OSError as error:
        raise RewardError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except msgspec.DecodeError as error:
        raise RewardError(f"{path}: not YAML: {error}") from None
    try:
        settings = decoded(plain, PresetSettings)
    except SettingsError as error:
        raise RewardError(f"{path}: {error}") from None
    criteria = {name: _beside(change, path.parent) for name, change in settings.criteria.items()}
    base = settings.base
    if base is not None and base.endswith((".yaml", ".yml")):
        base = str(path.parent / Path(base).expanduser())
    return msgspec.structs.replace(settings, criteria=criteria, base=base)


def _beside(change: CriterionSettings | None, folder: Path) -> CriterionSettings | None:
    """Resolve the relative path of a criterion's function against the folder of its YAML file."""
    fn = None if change is None else change.fn
    if change is None or fn is None or fn.startswith(PACKAGE_PREFIX) or ".py:" not in fn:
        return change
    return msgspec.structs.replace(change, fn=str((folder / Path(fn).expanduser()).resolve()))
