"""Settings of an evaluation: plain data, written into every report."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args, get_origin, get_type_hints

import msgspec

from verl_visionr1.answers import FORMATS
from verl_visionr1.answers.transcript import Reasoning
from verl_visionr1.frames import frame_named
from verl_visionr1.rewards import Preset, RewardError, find_preset
from verl_visionr1.rollouts.judging import Judging, Moment, Processing
from verl_visionr1.settings import SettingsError, needs_one_of

Confidence = Literal["constant", "order", "logprob"]
StrayLabels = Literal["drop", "own", "every"]
WhichBox = Literal["first", "last", "only"]
UnreadableCount = Literal["exclude", "zero"]
Stage = Literal["final", "off"]
Family = Literal["ap", "nms_ap", "rec", "grec", "negatives", "counting", "pointing", "text"]


class EvaluationError(SettingsError):
    """Invalid predictions or settings; one line with the reason and what to do."""


class EvaluationSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How predictions are read and measured. Defaults follow the conventions of the field.

    Attributes:
        frame: name in `frames.FRAMES`: the coordinates of the model's answers.
        preset: name or YAML file of the reward that is correlated with the metrics, and whose answer format is used;
            rows of other tasks use their task's default preset.
        routes: task -> preset, for rows of that task.
        answer_format: in place of the format of `preset`; routed presets keep theirs.
        processing: size of the images as the model saw them, for rows that do not give it.
        max_tokens: response budget, for criteria of length.
        reasoning: whether prompts end inside `<think>`; "auto" reads each prompt.
        stage: thresholds of the reward: "final" (the default of validation in training) or "off".
        metrics: families of metrics; empty: those of each row's task and data source.
        confidence: of a box, see `detections.confidences`.
        stray_labels: boxes whose label the row did not ask for: "drop" leaves them out (as in released evaluators, and
            in COCO if all categories are asked for), "own" counts one as a false alarm of its own category if the
            data source has it, "every" counts the others too: in each category that was asked for.
        which_box: the box that counts for a referring expression; "only": several boxes are wrong.
        strict_iou: a box must exceed the IoU threshold (VLM-R1's script); by default reaching it is enough.
        unreadable_count: an answer without a count is left out of MAE and RMSE or counts as 0; in accuracy it is
            always wrong.
        resamples: bootstrap resamples of images; 0 gives no intervals.

    Raises:
        EvaluationError: a word that is none of the choices, or a negative number.
    """

    frame: str = "original"
    preset: str = "visionr1"
    routes: dict[str, str] = {}
    answer_format: str | None = None
    processing: Processing = Processing()
    max_tokens: int | None = None
    reasoning: Reasoning = "auto"
    stage: Stage = "final"
    metrics: tuple[Family, ...] = ()
    confidence: Confidence = "constant"
    stray_labels: StrayLabels = "drop"
    which_box: WhichBox = "first"
    strict_iou: bool = False
    unreadable_count: UnreadableCount = "exclude"
    resamples: int = 1000

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(EvaluationSettings).items():
            value = getattr(self, name)
            if get_origin(hint) is Literal and value not in get_args(hint):
                raise EvaluationError(f"{name} = {value!r}: {needs_one_of(value, get_args(hint))}")
        if self.resamples < 0:
            raise EvaluationError(f"resamples = {self.resamples}: needs at least 0")

    def judging(self) -> Judging:
        """How answers are scored: as in training.

        Raises:
            SettingsError: no such frame, format or family of metrics.
            RewardError: no such preset, one that is not for its route, an unsupported format, or a missing package.
        """
        for family in self.metrics:
            if family not in get_args(Family):
                raise EvaluationError(f"metrics = {family!r}: {needs_one_of(family, get_args(Family))}")
        answer_format = self.answer_format
        if answer_format not in (None, *FORMATS):
            raise EvaluationError(f"answer_format = {answer_format!r}: {needs_one_of(answer_format, FORMATS)}")
        by_task = {task: self._preset(name) for task, name in self.routes.items()}
        for task, routed in by_task.items():
            if task not in routed.tasks:
                raise RewardError(f"routes.{task}: {routed.name} is for {', '.join(routed.tasks)}")
        preset = self._preset(self.preset)
        if answer_format is not None:
            preset = replace(preset, answer_format=answer_format)
        return Judging(
            preset,
            frame_named(self.frame),
            Moment(1.0 if self.stage == "final" else None),
            self.processing,
            self.max_tokens,
            by_task,
            self.reasoning,
        )

    def _preset(self, name: str) -> Preset:
        preset = find_preset(name)
        preset.require_installed()
        return preset
