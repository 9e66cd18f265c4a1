"""How saved rollouts are scored again: preset, stage, frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from verl_visionr1.answers.transcript import Reasoning, is_reasoning_opened
from verl_visionr1.criteria import Thresholds
from verl_visionr1.frames import Extent, Frame
from verl_visionr1.processed import PROCESSORS, processed_size
from verl_visionr1.rewards import (
    PRESETS,
    TASK_PRESETS,
    Preset,
    ResponseContext,
    RewardError,
    Routes,
    Score,
)
from verl_visionr1.rewards.base import CriterionError, CriterionInput
from verl_visionr1.rewards.completion import apply_criteria, read_completion
from verl_visionr1.rewards.context import Rule, ValidationStage, context_at
from verl_visionr1.rollouts.records import Rollout
from verl_visionr1.schedule import Schedule, follow_model, progress_at
from verl_visionr1.targets import NO_IMAGE

EQUAL = 1e-6  # rewards that differ by at most this are equal: verl stores float32
_processed_size = lru_cache(maxsize=8192)(processed_size)


@dataclass(frozen=True, slots=True)
class Training:
    """How a run moved its thresholds; a row with its own stage (as in validation dumps) is scored at that stage.

    Attributes:
        total_steps: steps that count as the whole of training; None: no schedule.
        n_steps: steps that the run took, if known.
        is_gated: whether gates moved the stages: a row without a stage is tried at each, and the first that reproduces
            the saved reward is used.
        is_evaluation: whether the rows are new answers of its model: they are scored as by its last validation.
    """

    total_steps: int | None
    n_steps: int | None = None
    validation: ValidationStage = "final"
    is_gated: bool = False
    is_evaluation: bool = False

    def rule(self, schedule: Schedule, rollout: Rollout) -> Rule:
        """The rule for a rollout: the one that it reports, else that of its step."""
        stage = int(rollout.numbers.get("stage", len(schedule.points)))
        if stage < 0:
            return Rule(schedule.off, -1)
        if stage < len(schedule.points):
            thresholds = schedule.points[stage][1]
            match_iou = rollout.numbers.get("match_iou", thresholds.match_iou)
            progress = rollout.numbers.get("progress", -1.0)
            if abs(match_iou - thresholds.match_iou) > EQUAL and 0.0 <= progress <= 1.0:
                thresholds = schedule(progress)  # between two points of a ramp
            return Rule(thresholds, stage)
        step, is_validation = rollout.step or 0, rollout.is_validation
        if self.is_evaluation:
            step, is_validation = self.n_steps or self.total_steps or 0, True
        gates = {} if self.is_gated and self.validation == "final" else None  # a gate may have reached any stage
        context = context_at(step, self.total_steps, n_steps=self.n_steps, is_validation=is_validation, gates=gates)
        return context.rule(schedule, self.validation, is_gated=is_validation)


@dataclass(frozen=True, slots=True)
class Moment:
    """When in training a rollout is scored; without any of these, there is no schedule.

    Attributes:
        progress: fraction of training, in [0, 1].
        stage: number of a stage of the schedule, from 0.
        total_steps: the whole of training, in steps: each row is scored as at its own step.
        run: each row is scored as in the run.
    """

    progress: float | None = None
    stage: int | None = None
    total_steps: int | None = None
    run: Training | None = None

    def __post_init__(self) -> None:
        given = {"progress": self.progress, "stage": self.stage, "total-steps": self.total_steps}
        named = [f"--{name} {value}" for name, value in given.items() if value is not None]
        if len(named) > 1:
            raise RewardError(f"{' and '.join(named)}: give only one of them")
        if self.progress is not None and not 0.0 <= self.progress <= 1.0:
            raise RewardError(f"--progress {self.progress}: needs a fraction of training in [0, 1], or off")
        if self.total_steps is not None and self.total_steps < 1:
            raise RewardError(f"--total-steps {self.total_steps}: needs at least 1")

    def rule(self, schedule: Schedule, rollout: Rollout) -> Rule:
        """Thresholds and stage at this moment (stage -1 without a schedule)."""
        if self.run is not None:
            return self.run.rule(schedule, rollout)
        if self.stage is not None:
            if not 0 <= self.stage < len(schedule.points):
                known = ", ".join(map(str, range(len(schedule.points))))
                raise RewardError(f"--stage {self.stage}: the schedule has the stages {known}")
            return Rule(schedule.points[self.stage][1], self.stage)
        progress = self.progress
        if self.total_steps is not None:
            if rollout.step is None:
                where = f"{rollout.where} has no step" if rollout.file else "a completion alone has no step"
                raise RewardError(f"--total-steps {self.total_steps}: {where}; give --progress or --stage")
            progress = progress_at(rollout.step, self.total_steps)
        return Rule(schedule(progress), schedule.stage(progress))

    def __str__(self) -> str:
        if self.run is not None:
            return "stages of the run"
        if self.stage is not None:
            return f"stage {self.stage}"
        if self.total_steps is not None:
            return f"each step of {self.total_steps}"
        return "no schedule (base thresholds)" if self.progress is None else f"progress {self.progress:g}"


@dataclass(frozen=True, slots=True)
class Processing:
    """Size of the images as the model saw them, for rows that do not have it.

    Attributes:
        fixed_wh: width and height of every image; None: replayed from its original size and the frame's family.
        min_pixels, max_pixels: the budget of `data.mm_processor_kwargs`; None: the family's own.

    >>> from verl_visionr1.frames import FRAMES
    >>> Processing().size_wh((640, 480), FRAMES["qwen2.5-vl"])
    (644, 476)
    """

    fixed_wh: tuple[int, int] | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None

    def size_wh(self, original_wh: tuple[int, int], frame: Frame) -> tuple[int, int] | None:
        """Processed width and height; None if the frame does not need it, or its family is unknown."""
        if frame.extent is not Extent.PROCESSED or original_wh == NO_IMAGE:
            return None
        if self.fixed_wh is not None or frame.name not in PROCESSORS:
            return self.fixed_wh
        return _processed_size(original_wh, frame.name, min_pixels=self.min_pixels, max_pixels=self.max_pixels)


@dataclass(frozen=True, slots=True)
class Judging:
    """All settings that decide a rollout's score.

    Attributes:
        preset: for rows of its tasks; rows of other tasks use their task's default preset.
        by_task: task -> preset for its rows.
        reasoning: whether the prompt ends inside `<think>`; "auto" reads the row's prompt.
        routes: the presets of a run, in place of `preset` and `by_task`; a row may name its preset.
        earlier: (last step, judging) of earlier starts of a run, in order, for rows up to that step.
    """

    preset: Preset
    frame: Frame
    moment: Moment = field(default_factory=Moment)
    processing: Processing = field(default_factory=Processing)
    max_tokens: int | None = None
    by_task: Mapping[str, Preset] = field(default_factory=dict[str, Preset])
    reasoning: Reasoning = "auto"
    routes: Routes | None = None
    earlier: tuple[tuple[int, Judging], ...] = ()

    def at(self, rollout: Rollout) -> Judging:
        """The judging of the start that a rollout belongs to."""
        step = rollout.step
        return next((other for last, other in self.earlier if step is not None and step <= last), self)

    def preset_for(self, rollout: Rollout) -> Preset:
        """The preset for a rollout, as in `rewards.Routes`."""
        task, routes = rollout.target.task, self.at(rollout).routes
        if routes is None:
            return self.by_task.get(task) or (self.preset if task in self.preset.tasks else PRESETS[TASK_PRESETS[task]])
        route = int(rollout.numbers.get("route", -1.0))
        if 0 <= route < len(routes.presets):
            return routes.presets[route]
        return routes.preset_for(rollout.target, rollout.source, rollout.row)

    def response(self, rollout: Rollout) -> ResponseContext:
        """Response context of a rollout."""
        own, processed_wh = self.at(rollout), rollout.processed_wh
        if processed_wh is None:
            processed_wh = own.processing.size_wh(rollout.target.size_wh, own.frame)
        is_opened = is_reasoning_opened(own.reasoning, rollout.prompt)
        return ResponseContext(own.frame, processed_wh, rollout.n_tokens, own.max_tokens, is_opened)

    def score(self, rollout: Rollout, preset: Preset) -> Score:
        """Score a rollout by a preset from `preset_for`."""
        try:
            return apply_criteria(self.case(rollout, preset), preset)
        except CriterionError as error:
            reason = f"{error}; in training such a row has reward 0; correct the function"
            raise CriterionError(f"{rollout.where}: {reason}") from error

    def case(self, rollout: Rollout, preset: Preset) -> CriterionInput:
        """Input of a preset's criteria; errors as of `score`."""
        thresholds = self.thresholds(rollout, preset)
        return read_completion(rollout.completion, rollout.target, preset, thresholds, self.response(rollout))

    def thresholds(self, rollout: Rollout, preset: Preset) -> Thresholds:
        """Thresholds for a rollout under a preset; see `rule`."""
        return self.rule(rollout, preset).thresholds

    def rule(self, rollout: Rollout, preset: Preset) -> Rule:
        """Rule for a rollout under a preset, by its schedule for models of the frame's family."""
        own = self.at(rollout)
        schedule = follow_model(preset.schedule, own.frame.name)
        run = own.moment.run
        if run is None or not run.is_gated or "stage" in rollout.numbers or rollout.saved is None:
            return own.moment.rule(schedule, rollout)
        rules = [Rule(thresholds, stage) for stage, (_, thresholds) in enumerate(schedule.points)]
        response = own.response(rollout)
        for rule in rules:  # the first stage that reproduces the saved reward
            case = read_completion(rollout.completion, rollout.target, preset, rule.thresholds, response)
            if abs(apply_criteria(case, preset).value - rollout.saved) <= EQUAL:
                return rule
        return rules[0]


def preset_and_moment(spec: str, default: Moment) -> tuple[str, Moment]:
    """Parse "PRESET", "PRESET@1" or "PRESET@off" into the preset's name or file, and the moment.

    >>> preset_and_moment("visionr1@1", Moment())[1].stage
    1
    """
    name, _, stage = spec.rpartition("@")
    if name and stage == "off":
        return name, Moment()
    if name and stage.isdecimal():
        return name, Moment(stage=int(stage))
    return spec, default
