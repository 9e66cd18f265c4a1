"""Read and score answers as training does: a cut-off answer counts as far as it goes, boxes are not clipped."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from verl_visionr1.answers import Answer
from verl_visionr1.evaluation.records import Key
from verl_visionr1.evaluation.settings import EvaluationError
from verl_visionr1.rewards import Preset, RewardError, Score
from verl_visionr1.rewards.base import CriterionInput
from verl_visionr1.rewards.completion import apply_criteria
from verl_visionr1.rollouts.judging import Judging
from verl_visionr1.rollouts.records import Rollout
from verl_visionr1.targets import Target


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, read and scored; `case` holds it in pixels of the original image, with target and matching."""

    rollout: Rollout
    case: CriterionInput
    preset: Preset
    score: Score

    @property
    def key(self) -> Key:
        """Name of its file without the folder, row and sample; unique."""
        return Path(self.rollout.file).name, self.rollout.number, self.rollout.sample

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
        file, row, _ = self.key
        return self.rollout.image_id or self.rollout.image or f"{file}:{row}"

    @property
    def finish_reason(self) -> str:
        """Why the answer ended: "stop", or "length" if the token limit cut it off."""
        return self.rollout.finish_reason or ("length" if self.rollout.is_clipped else "stop")


def read_all(rollouts: Iterable[Rollout], judging: Judging) -> list[Read]:
    """Read and score all answers, in the order of files, rows and samples.

    Raises:
        EvaluationError: no answer, two of one row and sample, or a frame that needs an unknown size; names file and
            row.
        RewardError: no such preset.
    """
    reads: dict[Key, Read] = {}
    for rollout in rollouts:
        where = f"{Path(rollout.file).name}: row {rollout.number}, sample {rollout.sample}"
        try:
            preset = judging.preset_for(rollout)
            case = judging.case(rollout, preset)
        except RewardError:
            raise
        except ValueError as error:  # an unknown size
            raise EvaluationError(f"{where}: {error}") from None
        read = Read(rollout=rollout, case=case, preset=preset, score=apply_criteria(case, preset))
        if read.key in reads:
            raise EvaluationError(f"{where}: two answers; evaluate the predictions of one model")
        reads[read.key] = read
    if not reads:
        raise EvaluationError("no predictions; generate some first")
    return [reads[key] for key in sorted(reads)]
