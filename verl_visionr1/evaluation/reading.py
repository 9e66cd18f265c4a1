"""Read and score predictions as training does: a cut-off answer counts as far as it goes, boxes are not clipped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from verl_visionr1.answers import Answer
from verl_visionr1.evaluation.predictions import Key, Prediction
from verl_visionr1.evaluation.settings import EvaluationError, EvaluationSettings
from verl_visionr1.rewards import Preset, RewardError, Score
from verl_visionr1.rewards.base import CriterionInput
from verl_visionr1.rewards.completion import apply_criteria
from verl_visionr1.rollouts.judging import Judging
from verl_visionr1.rollouts.records import Rollout
from verl_visionr1.targets import Target, read_target


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, read and scored; `case` holds it in pixels of the original image, with target and matching."""

    prediction: Prediction
    rollout: Rollout
    case: CriterionInput
    preset: Preset
    score: Score

    @property
    def answer(self) -> Answer:
        """The parsed answer, in pixels of the original image."""
        return self.case.answer

    @property
    def target(self) -> Target:
        """The ground truth."""
        return self.case.target

    @property
    def image(self) -> str:
        """Name of its image, unique in its data source: `image_id`, else the path, else the row."""
        prediction = self.prediction
        return prediction.image_id or prediction.image or f"{prediction.file}:{prediction.row}"

    @property
    def is_cut(self) -> bool:
        """Whether the token limit cut it off."""
        return self.prediction.finish_reason == "length"


def prediction_of(rollout: Rollout) -> Prediction:
    """A rollout of a run's dump as a prediction."""
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
        finish_reason="length" if rollout.is_clipped else "stop",
    )


def read_all(
    predictions: Iterable[Prediction],
    settings: EvaluationSettings,
    judging: Judging | None = None,
    rollouts: Mapping[Key, Rollout] | None = None,
) -> list[Read]:
    """Read and score all predictions, in the order of files, rows and samples.

    Args:
        judging: how a run scored them; None: by the settings.
        rollouts: rows of a run's dump, by the key of their prediction.

    Raises:
        EvaluationError: no prediction, two of one row and sample, invalid ground truth, or a frame that needs an
            unknown size; names file and row.
        RewardError: no such preset.
    """
    judging, rollouts = judging or settings.judging(), rollouts or {}
    reads: dict[Key, Read] = {}
    for prediction in predictions:
        where = f"{prediction.file}: row {prediction.row}, sample {prediction.sample}"
        if prediction.key in reads:
            raise EvaluationError(f"{where}: two answers; evaluate the predictions of one model")
        try:
            rollout = rollouts.get(prediction.key) or _rollout(prediction)
            preset = judging.preset_for(rollout)
            case = judging.case(rollout, preset)
        except RewardError:
            raise
        except ValueError as error:  # ground truth, or an unknown size
            raise EvaluationError(f"{where}: {error}") from None
        score = apply_criteria(case, preset)
        reads[prediction.key] = Read(prediction=prediction, rollout=rollout, case=case, preset=preset, score=score)
    if not reads:
        raise EvaluationError("no predictions; generate some first")
    return [reads[key] for key in sorted(reads)]


def _rollout(prediction: Prediction) -> Rollout:
    return Rollout(
        file=prediction.file,
        number=prediction.row,
        completion=prediction.output,
        target=read_target(prediction.gts),
        group=(prediction.file, prediction.row),
        session=None,
        source=prediction.data_source,
        step=None,
        saved=None,
        processed_wh=prediction.processed_wh,
        n_tokens=prediction.n_tokens,
        prompt=prediction.input,
    )
