"""Settings of an evaluation: plain data, written into every report."""

from __future__ import annotations

from typing import Literal, get_args, get_origin, get_type_hints

import msgspec

from verl_visionr1.answers.transcript import Reasoning
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
    """How answers are measured, and a description of how they were scored. Defaults are the field's conventions.

    Attributes:
        frame, preset, routes, processing, max_tokens, reasoning: names and numbers of the `Judging`.
        answer_format: in place of the format of `preset`; routed presets keep theirs.
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
        for family in self.metrics:
            if family not in get_args(Family):
                raise EvaluationError(f"metrics = {family!r}: {needs_one_of(family, get_args(Family))}")

    def describing(self, judging: Judging) -> EvaluationSettings:
        """These settings, with a description of how the answers were scored."""
        moment = judging.moment
        is_off = moment == Moment() if moment.run is None else moment.run.validation == "off"
        return msgspec.structs.replace(
            self,
            frame=judging.frame.name,
            preset=judging.preset.name,
            routes={task: preset.name for task, preset in judging.by_task.items()},
            processing=judging.processing,
            max_tokens=judging.max_tokens,
            reasoning=judging.reasoning,
            stage="off" if is_off else "final",
        )
