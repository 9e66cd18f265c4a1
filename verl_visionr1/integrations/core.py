"""Shared by all integrations: settings, response, ground truth and progress -> reward and metrics.

A framework's own file knows how that framework calls a reward function and resizes images; nothing here imports one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from verl_visionr1.frames import MODEL_TYPE_FRAMES, Extent, Frame, frame_named
from verl_visionr1.processed import PROCESSORS, ImageProcessor, image_processor_of
from verl_visionr1.rewards import Preset, ResponseContext, Score
from verl_visionr1.rewards.completion import (
    DEGENERATION_METRICS,
    apply_criteria,
    degeneration_metrics,
    read_completion,
)
from verl_visionr1.rewards.context import Context, Rule, context_at
from verl_visionr1.rewards.routing import Routes
from verl_visionr1.rewards.run_settings import RewardSettings
from verl_visionr1.schedule import follow_model
from verl_visionr1.settings import SettingsError, decoded
from verl_visionr1.targets import NO_IMAGE, TargetError, is_validation_split, read_target

_FACTS = ("value", "acc", "progress", "stage", "match_iou", "n_tokens", "clipped")
REPORTED = (*_FACTS, *DEGENERATION_METRICS, "route", "unscored")
"""Numbers of every row besides its criteria and `COMMON_METRICS`."""
UNKNOWN_PROGRESS = -1.0  # `progress` of a row with unknown training step, under fixed thresholds
BY_VERL = ("reward", "score", "input", "output", "gts", "step", "uid")  # other keys of a row or of verl's dumps
NO_DEGENERATION: Mapping[str, float] = {"distinct_share": 1.0, "empty": 0.0}


class MissingStepError(ValueError):
    """The thresholds change during training, but the framework does not pass the training step."""


class FunctionSettings(RewardSettings, frozen=True, forbid_unknown_fields=True, kw_only=True, dict=True):
    """Settings of a reward function: `RewardSettings`, and facts unknown to a function.

    Attributes:
        frame: coordinates of the model's answers, a name in `verl_visionr1.FRAMES`; None: by `model`.
        model: folder of the model: its `config.json` has the frame, its image processor's file the pixel budget.
            None: `frame` must be set, and the budget is the family's default.
        min_pixels, max_pixels: bounds of the image's area in pixels, as in the framework.
        max_tokens: the response budget, for criteria of length.
        reasoning: "opened" if the chat template ends the prompt with `<think>` (Qwen3-VL-Thinking, Qwen3.5).
    """

    frame: str | None = None
    model: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    max_tokens: Annotated[int, msgspec.Meta(gt=0)] | None = None
    reasoning: Literal["opened", "closed"] = "closed"


Resize = Callable[[tuple[int, int], ImageProcessor, FunctionSettings], tuple[int, int]]
"""(original width and height, the model's image processor, settings) -> width and height in the model's input."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When in training a response was sampled, if the framework passes it.

    Attributes:
        step: trainer step, from 1; 0 is before training; None: unknown.
        total_steps: steps of the run; None: unknown. `FunctionSettings.total_steps` takes precedence.
    """

    step: int | None = None
    total_steps: int | None = None
    is_validation: bool = False


@dataclass(frozen=True, slots=True)
class Scorer:
    """A reward function with its settings applied.

    Attributes:
        processor: how the model resizes images; None if the frame does not need it.
        resize: combined resizing of framework and processor.
        metrics: criteria of all presets and `COMMON_METRICS`: the same keys for every row.
    """

    settings: FunctionSettings
    frame: Frame
    processor: ImageProcessor | None
    resize: Resize
    step_advice: str
    routes: Routes
    metrics: tuple[str, ...]

    def evaluate(
        self,
        response: str,
        ground_truth: str,
        moment: Moment,
        *,
        data_source: str = "",
        row: Mapping[str, Any] | None = None,
        n_tokens: int | None = None,
    ) -> dict[str, float]:
        """Score one response; "value" is the reward, all keys are those of `row_report`.

        Args:
            ground_truth: `Target.to_json()`.
            data_source, row: for `routes`.

        Raises:
            TargetError: an invalid ground truth.
            MissingStepError: the thresholds change, and the step is unknown.
            RewardError: a route to a preset that does not support the row's task; a user's criterion failed.
        """
        settings = self.settings
        try:
            target = read_target(ground_truth)
        except TypeError:
            raise TargetError(f"ground truth {ground_truth!r}: needs the text of Target.to_json()") from None
        preset = self.routes.preset_for(target, data_source, row)
        context, rule = self.rule_for(preset, moment)
        processed_wh = None
        if self.processor is not None and target.size_wh != NO_IMAGE:
            processed_wh = self.resize(target.size_wh, self.processor, settings)
        is_opened = settings.reasoning == "opened"
        spoken = ResponseContext(self.frame, processed_wh, n_tokens, settings.max_tokens, is_opened)
        case = read_completion(response, target, preset, rule.thresholds, spoken)
        return row_report(
            apply_criteria(case, preset),
            degeneration_metrics(case),
            context,
            rule,
            spoken,
            metrics=self.metrics,
            route=self.routes.index(preset),
        )

    def evaluate_batch(
        self,
        texts: Sequence[str],
        ground_truths: Sequence[str | None],
        trainer_state: Any,
        columns: Mapping[str, Any],
        lengths: Sequence[int] | None = None,
    ) -> list[dict[str, float] | None]:
        """Score a batch as TRL and ms-swift pass it; None for rows without a ground truth.

        Args:
            texts, ground_truths: n responses, and n of `Target.to_json()` (None for a row of another reward).
            trainer_state: Hugging Face's `TrainerState`, or None.
            columns: the other arguments: of those with n values, `data_source`, `split` or `extra_info.split` (for
                validation), and columns of `routes` are used.
            lengths: n lengths of the responses in tokens.
        """
        by_row = {name: values for name, values in columns.items() if _is_column(values, len(texts))}
        reports: list[dict[str, float] | None] = [None] * len(texts)
        for i, (text, ground_truth) in enumerate(zip(texts, ground_truths, strict=True)):
            if ground_truth is not None:
                row = {name: values[i] for name, values in by_row.items()}
                extra = row.get("extra_info")
                split = row.get("split") or (extra.get("split") if isinstance(extra, Mapping) else None)
                moment = Moment(*step_of_state(trainer_state), is_validation_split(split))
                source, n_tokens = str(row.get("data_source") or ""), None if lengths is None else lengths[i]
                reports[i] = self.evaluate(text, ground_truth, moment, data_source=source, row=row, n_tokens=n_tokens)
        return reports

    def rule_for(self, preset: Preset, moment: Moment) -> tuple[Context, Rule]:
        """Progress and thresholds for a row; the progress is None if unknown.

        Raises:
            MissingStepError: the preset's thresholds change, and step or total are unknown.
        """
        schedule = follow_model(preset.schedule, self.frame.name)
        validation, is_validation = self.settings.validation, moment.is_validation
        total = self.settings.total_steps or moment.total_steps
        unknown = Context(None, is_validation)
        if self.settings.is_off:
            return unknown, unknown.rule(schedule, validation)
        if total is not None and moment.step is not None:
            context = context_at(moment.step, total, n_steps=moment.total_steps, is_validation=is_validation)
            return context, context.rule(schedule, validation)
        if not schedule.is_moving:
            return unknown, Context(0.0, is_validation).rule(schedule, validation)
        if "thresholds" not in preset.looks_at:
            return unknown, unknown.rule(schedule, validation)
        if total is not None and is_validation and validation != "current":
            context = context_at(0, total, n_steps=moment.total_steps, is_validation=True)
            return unknown, context.rule(schedule, validation)
        what = "total_steps = None" if total is None else "the training step is unknown"
        fixed = "set schedule={kind: off} for fixed thresholds"
        if preset is not self.routes.default:  # `schedule` is of the default preset
            fixed = f"route its rows to a YAML file with `base: {preset.name}` and `schedule: {{kind: off}}`"
        raise MissingStepError(
            f"{what}: preset {preset.name} tightens its thresholds during training; {self.step_advice}, or {fixed}"
        )


def require_truths(truths: Sequence[str | None] | None, column: str, layout: str) -> Sequence[str | None]:
    """The column of ground truths of a batch; `TargetError` for None: the data has no such column."""
    if truths is None:
        raise TargetError(
            f"the data has no column {column}; make the rows with visionr1 convert ... --to {layout}, or rename the "
            "column that holds Target.to_json()"
        )
    return truths


def _is_column(values: object, n_rows: int) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str | bytes) and len(values) == n_rows


def step_of_weights(fields: Mapping[str, Any], *, is_validation: bool) -> int | None:
    """The trainer step of a row, from the version of the weights that wrote its response; None if missing.

    In training that is the version of the step before; validation after step N uses the weights of step N.

    Args:
        fields: `tool_extra_fields` of verl 0.7.1 and newer, which its naive manager merges into `extra_info`.

    >>> step_of_weights({"max_global_steps": 4, "global_steps": 3}, is_validation=False)
    5
    """
    for key in ("max_global_steps", "global_steps"):
        if fields.get(key) is not None:
            return int(fields[key]) + (0 if is_validation else 1)
    return None


def step_of_state(trainer_state: Any) -> tuple[int | None, int | None]:
    """Trainer step from 1, and the run's steps, from Hugging Face's `TrainerState`; None if unknown.

    Its `global_step` counts finished optimizer steps, so a response sampled now belongs to the next step.
    """
    if trainer_state is None:
        return None, None
    total = int(trainer_state.max_steps)
    return int(trainer_state.global_step) + 1, total if total > 0 else None


def row_report(
    score: Score,
    degeneration: Mapping[str, float],
    context: Context,
    rule: Rule,
    response: ResponseContext,
    *,
    metrics: Sequence[str],
    route: float,
    is_scored: bool = True,
) -> dict[str, float]:
    """Numbers of a row: the same keys, all floats, for every row of a run.

    `acc` is the task's metric, independent of the stage, so that validations of different runs are comparable. A
    criterion that the row's preset lacks is 0. `n_tokens` and `clipped` are left out if length or budget are unknown.

    Args:
        metrics: criteria of all presets of the run, and `COMMON_METRICS`.
        route: `Routes.index` of the row's preset.
    """
    report = {name: score.metrics.get(name, 0.0) for name in metrics}
    report |= {"value": score.value, "acc": score.metrics.get("accuracy", 0.0)}
    report["progress"] = UNKNOWN_PROGRESS if context.progress is None else context.progress
    report |= {"stage": float(rule.stage), "match_iou": rule.thresholds.match_iou}
    if response.n_tokens is not None:
        report["n_tokens"] = float(response.n_tokens)
        if response.max_tokens is not None:
            report["clipped"] = 1.0 if response.n_tokens >= response.max_tokens else 0.0
    return {**report, **degeneration, "route": route, "unscored": 0.0 if is_scored else 1.0}


def make_scorer(
    given: Mapping[str, Any],
    resize: Resize,
    step_advice: str,
    *,
    taken: Sequence[str] = (),
    tells_step: bool = True,
) -> Scorer:
    """Make a scorer from a user's settings, with checks.

    Args:
        given: fields of `FunctionSettings`, as plain values or OmegaConf's.
        taken: further reserved names of criteria.
        tells_step: whether the framework passes the training step.

    Raises:
        SettingsError: an unknown key, an invalid value, or neither `frame` nor `model`.
        MissingStepError: the thresholds change, and the framework does not pass the step.
    """
    settings = decoded(to_plain(given), FunctionSettings)
    if settings.schedule is not None and settings.schedule.kind == "gated":
        raise SettingsError(
            "schedule.kind = 'gated': a gate needs verl's V1 trainer and the plug-in's progress callback"
        )
    if settings.total_steps is not None and settings.total_steps <= 0:
        raise SettingsError(f"total_steps = {settings.total_steps}: needs a number of steps above 0")
    settings.require_names(frozenset((*REPORTED, *taken)))
    frame, routes = _frame_of(settings), settings.routing
    processor = _processor_of(settings, frame) if frame.extent is Extent.PROCESSED else None
    scorer = Scorer(settings, frame, processor, resize, step_advice, routes, routes.metrics)
    if not tells_step:
        for preset in routes.presets:
            scorer.rule_for(preset, Moment())
    if processor is not None:
        resize((640, 480), processor, settings)  # raises for an invalid budget
    return scorer


def _frame_of(settings: FunctionSettings) -> Frame:
    if settings.frame is not None:
        return frame_named(settings.frame)
    if settings.model is None:
        raise SettingsError(
            "frame = None: set frame to the coordinates of the model's answers (one of qwen2-vl, qwen2.5-vl, qwen3-vl, "
            "internvl, glm, original, ...), or model to the model's folder"
        )
    file = Path(settings.model).expanduser() / "config.json"
    if not file.is_file():
        raise SettingsError(f"model = {settings.model!r}: has no config.json; give the model's folder, or set frame")
    try:
        model_type = str(msgspec.json.decode(file.read_bytes(), type=dict[str, Any]).get("model_type"))
    except msgspec.DecodeError as error:
        raise SettingsError(f"{file}: {error}; download the model again, or set frame") from None
    if model_type not in MODEL_TYPE_FRAMES:
        raise SettingsError(f"{file}: the frame of model_type {model_type!r} is unknown; set frame")
    return frame_named(MODEL_TYPE_FRAMES[model_type])


def _processor_of(settings: FunctionSettings, frame: Frame) -> ImageProcessor:
    processor = PROCESSORS.get(frame.name)
    if settings.model is not None:
        processor = image_processor_of(Path(settings.model).expanduser())
    if processor is None:
        raise SettingsError(
            f"model = {settings.model!r}: has no preprocessor_config.json of a Qwen-VL or GLM-V model; frame "
            f"{frame.name} needs one"
        )
    return processor


def to_plain(value: Any) -> Any:
    """Mappings and lists of any kind (OmegaConf's too) as dicts and lists.

    >>> to_plain({"weights": {"recall": 1}, "delegate": ("a", "b")})
    {'weights': {'recall': 1}, 'delegate': ['a', 'b']}
    """
    if isinstance(value, Mapping):
        return {str(key): to_plain(below) for key, below in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [to_plain(below) for below in value]
    return value
