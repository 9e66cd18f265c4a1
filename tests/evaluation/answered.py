"""Answers of a model that finds most boxes, the less exactly the more noise; and the evaluation of answers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from verl_visionr1 import Target
from verl_visionr1.cli.judging import Options, default_judging, override
from verl_visionr1.evaluation.evaluating import evaluate
from verl_visionr1.evaluation.predictions import Prediction
from verl_visionr1.evaluation.reading import Read, read_all
from verl_visionr1.evaluation.records import Evaluation, Section
from verl_visionr1.evaluation.settings import EvaluationSettings
from verl_visionr1.rollouts.judging import Judging

WH = (640, 480)


def answers(seed: int, noise: float, *, n: int = 40, source: str = "coco", **fields: Any) -> list[Prediction]:
    """A model that finds most of the boxes of the same `n` images, the less exactly the more noise."""
    truth_rng, rng = np.random.default_rng(7), np.random.default_rng(seed)
    rows: list[Prediction] = []
    for i in range(n):
        corner, size = truth_rng.uniform(0, 300, (3, 2)), truth_rng.uniform(20, 150, (3, 2))
        boxes = np.round(np.hstack([corner, corner + size]))
        labels = truth_rng.choice(["cat", "dog"], 3).tolist()
        target = Target(
            task="detection", size_wh=WH, boxes_xyxy=boxes.tolist(), labels=labels, categories=["cat", "dog", "cow"]
        )
        moved = boxes + rng.normal(0, noise, (3, 4)) * np.tile(size, 2)
        found = zip(moved.tolist(), labels, rng.random(3) < 0.8, strict=True)
        text = json.dumps([{"bbox_2d": box, "label": label} for box, label, is_said in found if is_said])
        own = {"file": "val.parquet", "image_id": f"{i}", "uid": f"{i}", "data_source": source} | fields
        rows.append(Prediction(input="", output=text, gts=target.to_json(), row=i, **own))
    return rows


FEW = EvaluationSettings(resamples=40)
NONE = EvaluationSettings(resamples=0)


def judged(**options: Any) -> Judging:
    """How `visionr1 eval` scores answers by its options."""
    return override(default_judging(), Options(**({"stage": "final"} | options)))


def evaluated(
    predictions: Iterable[Prediction], settings: EvaluationSettings = NONE, *, model: str = "", **options: Any
) -> Evaluation:
    return evaluate((each.rollout() for each in predictions), judged(**options), settings, model=model)


def read(predictions: Iterable[Prediction], **options: Any) -> list[Read]:
    return read_all((each.rollout() for each in predictions), judged(**options))


def table_of(section: Section, name: str) -> dict[Any, list[Any]]:
    """The rows of a table by their first cell."""
    return {row[0]: row for table in section.tables if table.name == name for row in table.rows}
