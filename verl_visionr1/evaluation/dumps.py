"""Dumps as predictions: a run's validation measured as `visionr1 eval` measures what it has generated itself."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from verl_visionr1.evaluation.predictions import Prediction
from verl_visionr1.rollouts.records import Rollout


def predictions_from(rollouts: Iterable[Rollout]) -> tuple[list[Prediction], dict[tuple[str, int, int], Rollout]]:
    """Rollouts as predictions, and the rollout of each key of a prediction.

    A dump does not tell which rows show one image: without an image in the row, each is an image of its own.
    """
    predictions: list[Prediction] = []
    by_key: dict[tuple[str, int, int], Rollout] = {}
    for rollout in rollouts:
        prediction = Prediction(
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
        predictions.append(prediction)
        by_key[prediction.key] = rollout
    return predictions, by_key
