"""The parts of every reward: `CriterionInput`, `Criterion`, `Preset` (the method as data) and `Score`."""

from __future__ import annotations

import importlib.util
import inspect
import math
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from types import MappingProxyType
from typing import Any, TypeAlias

import msgspec

from verl_visionr1.answers import FORMATS, PARSERS, Answer
from verl_visionr1.criteria import OFF, Thresholds
from verl_visionr1.matching import MATCHERS, Matching
from verl_visionr1.schedule import VISIONR1, Schedule
from verl_visionr1.settings import SettingsError, needs_one_of
from verl_visionr1.targets import TASKS, Target

COMMON_METRICS = (
    "iou_mean",
    "f1_50",
    "accuracy",
    "n_predicted",
    "n_target",
    "boxes_per_target",
    "parsed",
)
"""Keys of `Score.metrics` under every preset, after the names of its criteria."""

RENAMED_MATCHINGS: Mapping[str, str] = MappingProxyType({"labelled": "class_aware", "boxes": "class_agnostic"})
"""Old -> new value of `Preset.matching`; the old ones are accepted for one release."""

BOX_TASKS = ("detection", "grounding")
"""Tasks that compare predicted boxes with target boxes."""
CriterionFn: TypeAlias = Callable[..., float]
"""A criterion's function: fields of `CriterionInput` by name -> [0, 1]."""


class RewardError(SettingsError):
    """An unknown or invalid preset, weight or option; the message names the key and the value."""


class CriterionError(RewardError):
    """A user's criterion raised, or returned no finite number; the message names the place in the user's code."""


class Score(msgspec.Struct, frozen=True, gc=False):
    """The score of one completion.

    Attributes:
        value: the reward: weighted mean of the criteria in [0, 1] (`-released` presets: their sum, as released).
        metrics: floats: the criteria of the preset at its stage, and `COMMON_METRICS`, which mean the same under every
            preset: "iou_mean" (matched IoU over n_T), "f1_50" (F1 at IoU .5), "accuracy" (the metric of the task, see
            `Preset.accuracy`), "boxes_per_target" (n_P / n_T; n_P for n_T = 0), "parsed" (1.0 if an answer was read).
    """

    value: float
    metrics: dict[str, float]


class CriterionInput(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The inputs of a criterion, which receives the fields that its parameters name.

    Attributes:
        completion: the model's last turn, without tool calls; it starts with `<think>` if the prompt opens the
            reasoning.
        answer: the parsed answer, in pixels of the original image.
        target: the ground truth.
        matching: pairs of predictions and objects, by the preset's rule.
        class_aware: pairs by the default rule, from which the threshold-free metrics are computed.
        thresholds: the thresholds at this stage of training.
        accuracy: the metric of the task, in [0, 1], independent of the stage.
        n_tokens: length of the completion in tokens (in words without a tokenizer).
        max_tokens: the response budget in tokens; None if unknown.
        grid_wh: width and height, in pixels of the original image, of the smallest step of the model's frame (one
            unit, for frames of whole numbers).
    """

    completion: str
    answer: Answer
    target: Target
    matching: Matching
    class_aware: Matching
    thresholds: Thresholds
    accuracy: float
    n_tokens: int
    max_tokens: int | None
    grid_wh: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Criterion:
    """A named, weighted part of a reward. Weight 0: reported, not rewarded.

    Attributes:
        name: key of its number in `Score.metrics`.
        fn: a plain function. Its positional parameters are fields of `CriterionInput`, its keyword-only ones
            options.
        weight: share in the reward.
        options: values of keyword-only parameters, over their defaults.
        call: `CriterionInput` -> float: the function with its fields (`looks_at`) and options bound.
        may_block: whether it may take longer than microseconds: so may functions from outside the package.

    Raises:
        RewardError: a weight that is not a finite number >= 0, no plain function, a parameter that `CriterionInput`
            does not have, an unknown option, or a missing one.
    """

    name: str
    fn: CriterionFn
    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    call: Callable[[CriterionInput], float] = field(init=False, repr=False, compare=False)
    looks_at: tuple[str, ...] = field(init=False, repr=False, compare=False)
    may_block: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Settings are not type-checked before this.
        is_number = isinstance(self.weight, int | float)  # pyright: ignore[reportUnnecessaryIsInstance]
        is_number = is_number and not isinstance(self.weight, bool)
        if not (is_number and math.isfinite(self.weight) and self.weight >= 0):
            raise RewardError(f"weights.{self.name} = {self.weight!r}: needs a number >= 0")
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))
        looks_at = _looks_at(self.name, self.fn, self.options)
        object.__setattr__(self, "looks_at", looks_at)
        call = _bind_call(self.fn, looks_at, self.options)
        if self.options and not self.is_custom:
            _try_options(self.name, call)
        object.__setattr__(self, "call", _guard(self.name, self.fn, call) if self.is_custom else call)
        object.__setattr__(self, "may_block", self.is_custom or bool(getattr(self.fn, "may_block", False)))

    @property
    def is_custom(self) -> bool:
        """Whether its function is from outside the package."""
        return not self.fn.__module__.startswith("verl_visionr1.")

    def range_problem(self, value: float) -> str:
        """Message about a value outside [0, 1] of a function from outside the package; "" if there is none."""
        if not self.is_custom or -1e-6 <= value <= 1.0 + 1e-6:
            return ""
        return f"criteria.{self.name}: returned {value:g} ({_place(self.fn)}), outside [0, 1]"


def _looks_at(name: str, fn: CriterionFn, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the fields of `CriterionInput` that a criterion's function names."""
    parameters = _parameters(name, fn)
    known = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
    for option in options:
        require_one_of(f"criteria.{name}.options", option, known or {"(it has no options)": None})
    lacking = [option for option, p in known.items() if p.default is p.empty and option not in options]
    if lacking:
        raise RewardError(f"criteria.{name}.options: needs {', '.join(lacking)}, which has no default")
    named = tuple([p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)])
    for parameter in named:
        if parameter not in CriterionInput.__struct_fields__:
            raise RewardError(
                f"criteria.{name}: {_function_name(fn)}({', '.join(named)}): unknown parameter {parameter!r}; use some "
                f"of {', '.join(CriterionInput.__struct_fields__)}, and put options after a *"
            )
    return named


def _parameters(name: str, fn: CriterionFn) -> list[inspect.Parameter]:
    """Return the parameters of a criterion's function, which must be neither a class nor async."""
    if inspect.isclass(fn) or any(map(inspect.iscoroutinefunction, (fn, type(fn).__call__))):
        kind = "a class" if inspect.isclass(fn) else "async"
        raise RewardError(f"criteria.{name}: {_function_name(fn)} is {kind}; a criterion is a plain function (`def`)")
    try:
        return list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        reason = "has no readable parameter names; call it from a function of your own"
        raise RewardError(f"criteria.{name}: {_function_name(fn)} {reason}") from None


def _function_name(fn: CriterionFn) -> str:
    return getattr(fn, "__name__", None) or type(fn).__name__


def _place(fn: CriterionFn) -> str:
    """File and line of a function, as far as they are known."""
    code = getattr(fn, "__code__", None)
    return _function_name(fn) if code is None else f"{code.co_filename}:{code.co_firstlineno}"


def _bind_call(
    fn: CriterionFn, looks_at: tuple[str, ...], options: Mapping[str, Any]
) -> Callable[[CriterionInput], float]:
    """Return `CriterionInput` -> float; the fields are looked up once, here."""
    bound = partial(fn, **options) if options else fn
    if not looks_at:
        return lambda case: bound()
    fields_of = attrgetter(*looks_at)
    if len(looks_at) == 1:
        return lambda case: bound(fields_of(case))
    return lambda case: bound(*fields_of(case))


def _try_options(name: str, call: Callable[[CriterionInput], float]) -> None:
    """Call the criterion once on empty input, so that a wrong option is an error here, not in training."""
    no_pairs = Matching((), (), 0, 0)
    case = CriterionInput(
        completion="",
        answer=Answer(),
        target=Target(task="text", size_wh=(1, 1), answer="x"),
        matching=no_pairs,
        class_aware=no_pairs,
        thresholds=OFF,
        accuracy=0.0,
        n_tokens=0,
        max_tokens=None,
        grid_wh=(1.0, 1.0),
    )
    try:
        call(case)
    except (TypeError, ValueError) as error:
        raise RewardError(f"criteria.{name}.options: {error}") from None


def _guard(name: str, fn: CriterionFn, call: Callable[[CriterionInput], float]) -> Callable[[CriterionInput], float]:
    """Wrap a user's function so that it returns a finite number or raises CriterionError."""
    file = _place(fn).rpartition(":")[0]

    def guarded(case: CriterionInput) -> float:
        try:
            result = call(case)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            at = next((each for each in reversed(frames) if each.filename == file), frames[-1])
            reason = f"{type(error).__name__}: {' '.join(str(error).split())} ({at.filename}:{at.lineno})"
            raise CriterionError(f"criteria.{name}: {reason}") from error
        try:
            number = float(result)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise CriterionError(
                f"criteria.{name}: returned {result!r} ({_place(fn)}); a criterion must return a finite float, ideally "
                "in [0, 1]"
            )
        return number

    return guarded


@dataclass(frozen=True, slots=True)
class Preset:
    """A method as data: change a field with `dataclasses.replace`, a weight with `with_weights`.

    Attributes:
        name: key in `PRESETS`.
        criteria: the criteria with their weights.
        tasks: the tasks of `targets.TASKS` it scores.
        schedule: progress of training -> thresholds.
        answer_format: key in `answers.PARSERS`.
        matching: key in `matching.MATCHERS`.
        is_sum: the value is the weighted sum of the criteria instead of their weighted mean.
        accuracy: name of the criterion that is reported as "accuracy"; None: F1 at IoU .5.
        source: paper and equation, or file of the released code.

    Raises:
        RewardError: unknown task, answer format or matching, no criteria, a name used twice or taken from
            `COMMON_METRICS`, or weights that are all 0.
    """

    name: str
    criteria: tuple[Criterion, ...]
    tasks: tuple[str, ...] = ("detection", "grounding")
    schedule: Schedule = VISIONR1
    answer_format: str = "qwen-json"
    matching: str = "class_aware"
    is_sum: bool = False
    accuracy: str | None = None
    source: str = ""
    measure: Criterion | None = field(init=False, repr=False, compare=False)
    looks_at: frozenset[str] = field(init=False, repr=False, compare=False)
    divisor: float = field(init=False, repr=False, compare=False)
    may_block: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_one_of("answer_format", self.answer_format, PARSERS)
        if self.matching in RENAMED_MATCHINGS:
            new = RENAMED_MATCHINGS[self.matching]
            warnings.warn(f"matching = {self.matching!r} is now {new!r}", FutureWarning, stacklevel=4)
            object.__setattr__(self, "matching", new)
        require_one_of("matching", self.matching, MATCHERS)
        for task in self.tasks or ("",):
            require_one_of("tasks", task, dict.fromkeys(TASKS))
        answered = FORMATS[self.answer_format].tasks
        if answered and not set(answered) & set(self.tasks):
            raise RewardError(
                f"answer_format = {self.answer_format!r}: supports {', '.join(answered)}; "
                f"preset {self.name} scores {', '.join(self.tasks)}"
            )
        for criterion in self.criteria:
            if criterion.name in COMMON_METRICS:
                raise RewardError(
                    f"criteria.{criterion.name}: this name is reserved for a built-in metric; choose another"
                )
        if len(self.weights) != len(self.criteria):
            raise RewardError(f"criteria = {', '.join(c.name for c in self.criteria)}: use each name once")
        if self.accuracy is not None:
            require_one_of("accuracy", self.accuracy, self.weights)
        total = sum(self.weights.values())
        if not total > 0:
            raise RewardError(f"weights = {self.weights}: needs at least one above 0")
        object.__setattr__(self, "measure", next((c for c in self.criteria if c.name == self.accuracy), None))
        object.__setattr__(self, "looks_at", frozenset(name for c in self.criteria for name in c.looks_at))
        object.__setattr__(self, "may_block", any(c.may_block for c in self.criteria))
        object.__setattr__(self, "divisor", 1.0 if self.is_sum else total)

    @property
    def weights(self) -> dict[str, float]:
        """Criterion -> weight."""
        return {criterion.name: criterion.weight for criterion in self.criteria}

    def require_installed(self) -> None:
        """Check that the packages of all criteria are installed; RewardError names what to install."""
        for criterion in self.criteria:
            module = getattr(criterion.fn, "needs", "")
            if module and importlib.util.find_spec(module) is None:
                raise RewardError(f"criteria.{criterion.name}: needs {module}: pip install 'verl-visionr1[text]'")

    def require_task(self, target: Target) -> None:
        """Check that the preset scores the target's task (detection and grounding count as one), else RewardError."""
        if target.task in self.tasks:
            return
        if target.task not in BOX_TASKS or not {*self.tasks} & {*BOX_TASKS}:
            raise RewardError(
                f"preset {self.name}: scores {', '.join(self.tasks)}, but the target's task is {target.task}; omit "
                "preset for the task's default, or name one for that task"
            )

    @property
    def metrics(self) -> tuple[str, ...]:
        """Keys of the metrics of its scores, in order."""
        return (*self.weights, *COMMON_METRICS)

    def with_weights(self, weights: Mapping[str, float]) -> Preset:
        """Return the preset with some weights changed.

        Raises:
            RewardError: a criterion that this preset does not have, or a weight that is not a number >= 0.
        """
        for name in weights:
            require_one_of("weights", name, self.weights)
        changed = [replace(c, weight=weights[c.name]) if c.name in weights else c for c in self.criteria]
        return replace(self, criteria=tuple(changed))


def require_one_of(key: str, value: object, known: Mapping[str, object]) -> None:
    """Raise RewardError unless `value` is a key of `known`."""
    if not isinstance(value, str) or value not in known:
        raise RewardError(f"{key} = {value!r}: {needs_one_of(value, known)}")
