"""Rewards of other people, good and bad, as the audit meets them."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

print("a module that prints while it is imported")  # noqa: T201

_BOX = re.compile(r'"bbox_2d": \[([^\]]*)\], "label": "([^"]*)"')


def _iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0.0) * max(height, 0.0)
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap or 1.0)


def counts_objects(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> dict[str, Any]:
    """verl's signature; pays for as many JSON objects as there are targets, whatever is in them."""
    print("and while it runs")  # noqa: T201
    n_target = max(len(json.loads(ground_truth)["boxes_xyxy"]), 1)
    return {"score": min(solution_str.count('"bbox_2d"') / n_target, 1.0), "data_source": data_source}


def substring_labels(completions: list[str], ground_truth: list[str], **columns: Any) -> list[float]:
    """TRL's signature; each target takes its best box, so duplicates and junk are free; labels by substring."""
    values: list[float] = []
    for text, truth in zip(completions, ground_truth, strict=True):
        targets = json.loads(truth)
        found = [([float(x) for x in box.split(",")], label) for box, label in _BOX.findall(text) if "NaN" not in box]
        best = [
            max((_iou(box, t["bbox_2d"]) for box, label in found if t["label"] in label), default=0.0) for t in targets
        ]
        values.append(sum(best) / len(best) if best else float(not found))
    return values


def evaluates(text: str, ground_truth: str) -> float:
    """Runs the completion as Python, raises on what is none, and hangs on NaN."""
    while "NaN" in text:
        pass
    boxes = eval(text)
    return float(len(boxes) == len(json.loads(ground_truth)))


def dies(completion: str, target: Any) -> float:
    """Ends its process."""
    import os

    os._exit(3)


def drifts(completion: str, target: Any, _state: list[int] = [0]) -> float:  # noqa: B006
    """Not the same twice, and out of its range."""
    _state[0] += 1
    return float(_state[0])


def honest(completion: str, target: Any) -> float:
    """This package's own."""
    from verl_visionr1 import score

    return score(completion, target).value


async def honest_and_async(data_source: str, solution_str: str, ground_truth: str, extra_info: Any) -> float:
    """verl awaits such a one."""
    from verl_visionr1 import Target, score

    await asyncio.sleep(0)
    return score(solution_str, Target.from_json(ground_truth)).value


def honest_chat(completions: list[list[dict[str, str]]], ground_truth: list[str], **columns: Any) -> list[float]:
    """TRL hands it messages."""
    from verl_visionr1 import Target, score

    pairs = zip(completions, ground_truth, strict=True)
    return [score(messages[-1]["content"], Target.from_json(truth)).value for messages, truth in pairs]


def lenient_to_small(matching: Any, target: Any, grid_wh: tuple[float, float]) -> float:
    """A criterion whose threshold falls to 0 for a box that is one step of the model's grid wide."""
    if not matching.n_predicted or not matching.n_target:
        return float(matching.n_predicted == matching.n_target)
    found = 0
    for (_, t), overlap in zip(matching.pairs, matching.ious, strict=True):
        x1, y1, x2, y2 = target.boxes_xyxy[t]
        limit = max(1 - grid_wh[0] / (x2 - x1), 0) * max(1 - grid_wh[1] / (y2 - y1), 0)
        found += overlap >= min(0.5, limit)
    return found / max(matching.n_predicted, matching.n_target)


def counts_anywhere(completion: str, target: Any) -> float:
    """R1-V's: the number is credited wherever it stands."""
    return float(str(target.count) in re.findall(r"\d+", completion))


def strict_tags(completion: str, target: Any) -> float:
    """CrowdVLM-R1's template: `<answer>9</answer>` without blanks, and 0 is never right."""
    found = re.search(r"<answer>(\d+)</answer>", completion)
    return float(found is not None and bool(target.count) and int(found.group(1)) == target.count)


def dozes(completion: str, target: Any, _loaded: list[bool] = []) -> float:  # noqa: B006
    """Busy with zebras, and with loading a library at its first call."""
    time.sleep(0.2 if not _loaded else 0.1 * ("zebra" in completion))
    _loaded.append(True)
    return honest(completion, target)


def wants_a_moon(text: str, moon: str, sun: str) -> float:
    """A signature that nobody knows."""
    return 0.0


def wants_a_column(data_source: str, solution_str: str, ground_truth: str, moon: str) -> float:
    """verl's, and a parameter that nobody gives."""
    return 0.0
