"""Predictions for rows that ask for cats and dogs, and the numbers of their evaluation."""

from __future__ import annotations

import json
from typing import Any

from answered import evaluated

from verl_visionr1.evaluation.predictions import Prediction
from verl_visionr1.evaluation.settings import EvaluationSettings
from verl_visionr1.targets import Target

WH = (640, 480)
STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def said(*items: tuple[list[float], str]) -> str:
    return json.dumps([{"bbox_2d": box, "label": label} for box, label in items])


def asked(output: str, row: int = 0, *, truth: tuple[tuple[list[float], str], ...] = (), **fields: Any) -> Prediction:
    """A prediction for a detection row that asked for `categories`."""
    target = Target(
        task=fields.pop("task", "detection"),
        size_wh=WH,
        boxes_xyxy=[box for box, _ in truth],
        labels=[label for _, label in truth],
        categories=fields.pop("categories", ["cat", "dog"]),
        ignore_xyxy=fields.pop("ignore", []),
    )
    fields = {"data_source": "coco", "file": "val.parquet", "uid": f"{row}_0_0", "image_id": str(row)} | fields
    return Prediction(input="", output=output, gts=target.to_json(), row=row, **fields)


CAT, DOG, ELSEWHERE = [10.0, 10.0, 110.0, 110.0], [200.0, 200.0, 300.0, 400.0], [400.0, 10.0, 500.0, 60.0]


def numbers_of(*predictions: Prediction, **options: Any) -> dict[str, float | None]:
    options = {"resamples": 0, "metrics": ("ap",)} | options
    (section,) = evaluated(predictions, EvaluationSettings(**options)).sections
    return {name: estimate.value for name, estimate in section.estimates.items()}
