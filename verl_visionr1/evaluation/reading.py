"""Read and score predictions in the same way as the reward in training (`rewards.completion`).

So the complete objects of a cut-off answer count, boxes are in pixels of the original image and are not clipped, and no
text of a model raises.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from verl_visionr1.answers import Answer
from verl_visionr1.evaluation.predictions import Prediction
from verl_visionr1.evaluation.settings import EvaluationError, EvaluationSettings
from verl_visionr1.files import RowsError
from verl_visionr1.frames import FrameError
from verl_visionr1.processed import SizeError
from verl_visionr1.rewards import Preset, Score
from verl_visionr1.rewards.base import CriterionInput
from verl_visionr1.rewards.completion import apply_criteria, read_completion
from verl_visionr1.rollouts.judging import Judging
from verl_visionr1.rollouts.records import Rollout
from verl_visionr1.schedule import follow_model
from verl_visionr1.targets import Target, TargetError, read_target


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, read and scored.

    Attributes:
        case: input of the criteria: answer in original pixels, target, matching.
        image: name of its image, unique in its data source: `image_id`, else the path, else the row.
    """

    prediction: Prediction
    case: CriterionInput
    preset: Preset
    score: Score
    image: str

    @property
    def answer(self) -> Answer:
        """The parsed answer, in pixels of the original image."""
        return self.case.answer

    @property
    def target(self) -> Target:
        """The ground truth."""
        return self.case.target

    @property
    def is_cut(self) -> bool:
        """Whether the token limit cut it off."""
        return self.prediction.finish_reason == "length"


@dataclass(frozen=True, slots=True)
class RunRows:
    """Rows of a run's dump, and how the run scored them."""

    judging: Judging
    rollouts: Mapping[tuple[str, int, int], Rollout]

    @classmethod
    def of(cls, judging: Judging, rollouts: Iterable[Rollout]) -> RunRows:
        """Index rollouts by the key of their prediction."""
        return cls(judging, {_prediction_of(rollout).key: rollout for rollout in rollouts})

    @property
    def predictions(self) -> list[Prediction]:
        """The rollouts as predictions.

        A dump does not name the image: without an image column, each row counts as a separate image.
        """
        return [_prediction_of(rollout) for rollout in self.rollouts.values()]


def _prediction_of(rollout: Rollout) -> Prediction:
    return Prediction(
        input=rollout.prompt or "",
        output=rollout.completion,
        gts=rollout.target.to_json(),
        data_source=rollout.source,
        file=Path(rollout.file).name,
        row=rollout.number,
        uid=f"{rollout.file}:{rollout.number}",
        index=rollout.index,
        image=rollout.image,
        processed_wh=rollout.processed_wh,
        n_tokens=rollout.n_tokens,
        finish_reason="length" if rollout.numbers.get("clipped", rollout.numbers.get("cut_off")) else "stop",
    )


def read_all(predictions: Iterable[Prediction], settings: EvaluationSettings, run: RunRows | None = None) -> list[Read]:
    """Read and score all predictions, in the order of files, rows and samples.

    Raises:
        EvaluationError: no prediction, two of one row and sample, invalid ground truth, or a frame that needs an
            unknown size; names file and row.
        RewardError: no such preset.
    """
    judging = settings.judging() if run is None else run.judging
    reads: dict[tuple[str, int, int], Read] = {}
    for prediction in predictions:
        if prediction.key in reads:
            raise EvaluationError(f"{_where(prediction)}: two answers; evaluate the predictions of one model")
        reads[prediction.key] = _read(prediction, judging, settings, run)
    if not reads:
        raise EvaluationError("no predictions; generate some first")
    return [reads[key] for key in sorted(reads)]


def _read(prediction: Prediction, judging: Judging, settings: EvaluationSettings, run: RunRows | None) -> Read:
    try:
        target = read_target(prediction.gts)
    except TargetError as error:
        raise EvaluationError(f"{_where(prediction)}: {error}") from None
    rollout = _rollout(prediction, target) if run is None else run.rollouts[prediction.key]
    preset = judging.preset_for(rollout)
    schedule = follow_model(preset.schedule, judging.frame.name)
    thresholds = schedule.final if settings.stage == "final" else schedule.off
    try:
        if run is not None:
            thresholds = judging.thresholds(rollout, preset)
        case = read_completion(prediction.output, target, preset, thresholds, judging.response(rollout))
    except (FrameError, SizeError, RowsError) as error:
        raise EvaluationError(f"{_where(prediction)}: {error}") from None
    return Read(
        prediction=prediction,
        case=case,
        preset=preset,
        score=apply_criteria(case, preset),
        image=prediction.image_id or prediction.image or f"{prediction.file}:{prediction.row}",
    )


def _rollout(prediction: Prediction, target: Target) -> Rollout:
    return Rollout(
        file=prediction.file,
        number=prediction.row,
        completion=prediction.output,
        target=target,
        group=(prediction.file, prediction.row),
        session=None,
        source=prediction.data_source,
        step=None,
        saved=None,
        processed_wh=prediction.processed_wh,
        n_tokens=prediction.n_tokens,
        prompt=prediction.input,
    )


def _where(prediction: Prediction) -> str:
    return f"{prediction.file}: row {prediction.row}, sample {prediction.sample}"
