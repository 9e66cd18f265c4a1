"""The reward as EasyR1's reward function, for EasyR1 0.3.0 to 0.3.3 and its forks; see `examples/easyr1`.

EasyR1 passes neither the training step nor the split, so thresholds are fixed. Its own resize of images is replayed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from verl_visionr1.integrations.core import FunctionSettings, Moment, Scorer, make_scorer, to_plain
from verl_visionr1.processed import ImageProcessor, size_by_processor
from verl_visionr1.settings import SettingsError

REWARD_NAME = "visionr1"
REWARD_TYPE = "batch"
STEP_ADVICE = (
    "EasyR1 does not pass the step to a reward function: set schedule = {kind: constant, stages: [[0.5, 0.5, 0.75]]}"
)


def compute_score(
    reward_inputs: Sequence[Mapping[str, Any]] | Mapping[str, Any] | str,
    ground_truth: str | None = None,
    **settings: Any,
) -> Any:
    """Score a batch of responses, as EasyR1 calls it.

    Args:
        reward_inputs: `{"response", "response_length", "ground_truth"}` of each row; of one row if called row by row
            (`REWARD_TYPE = "sequential"`); the response text in EasyR1 0.3.0, with its `ground_truth`.
        settings: fields of `integrations.core.FunctionSettings`. `min_pixels` and `max_pixels` are `data.min_pixels`
            and `data.max_pixels`, needed for models that answer in processed pixels.

    Returns:
        For each row "overall" (the reward), "format", "accuracy" and the other metrics of `Scorer.evaluate`: a list
        for a list, else one.

    Raises:
        SettingsError: an invalid setting.
        MissingStepError: the thresholds of the preset change.
        TargetError: a ground truth (EasyR1's column `answer`) that is not `Target.to_json()`.

    >>> truth = '{"task":"grounding","size_wh":[500,375],"boxes_xyxy":[[50,50,250,200]],"labels":["cat"]}'
    >>> answer = '[{"bbox_2d": [59, 60, 294, 239], "label": "cat"}]'  # in the 588 x 448 pixels that the model sees
    >>> row = {"response": answer, "response_length": 20, "ground_truth": truth}
    >>> budget = {"min_pixels": 262144, "max_pixels": 4194304}
    >>> [scores] = compute_score([row], frame="qwen2.5-vl", **budget)
    >>> scores["overall"], scores["format"], scores["accuracy"]
    (1.0, 1.0, 1.0)
    """
    scorer = _scorer_of(msgspec.json.encode(to_plain(settings)))
    if isinstance(reward_inputs, str):
        reward_inputs = {"response": reward_inputs, "ground_truth": ground_truth}
    if isinstance(reward_inputs, Mapping):
        return _evaluate(reward_inputs, scorer)
    return [_evaluate(row, scorer) for row in reward_inputs]


def _evaluate(row: Mapping[str, Any], scorer: Scorer) -> dict[str, float]:
    length = row.get("response_length")
    n_tokens = None if length is None else int(length)
    report = scorer.evaluate(str(row["response"]), row["ground_truth"], Moment(), n_tokens=n_tokens)
    return {"overall": report["value"], **report}


@lru_cache(maxsize=16)
def _scorer_of(key: bytes) -> Scorer:
    return make_scorer(msgspec.json.decode(key), _resize, STEP_ADVICE, taken=("overall",), tells_step=False)


def _resize(size_wh: tuple[int, int], processor: ImageProcessor, settings: FunctionSettings) -> tuple[int, int]:
    fewest, most = settings.min_pixels, settings.max_pixels
    if fewest is None or most is None or not 0 < fewest <= most:
        raise SettingsError(
            f"min_pixels = {fewest}, max_pixels = {most}: set both, as data.min_pixels and data.max_pixels (EasyR1's "
            "defaults: 262144 and 4194304)"
        )
    return size_by_processor(easyr1_size(size_wh, fewest, most), processor)


def easyr1_size(size_wh: tuple[int, int], min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Width and height after EasyR1's own resize (`process_image`), which comes before the model's image processor.

    Source: EasyR1 0.3.3, verl/utils/dataset.py.

    >>> easyr1_size((500, 375), 262144, 4194304), easyr1_size((4032, 3024), 262144, 4194304)
    ((591, 443), (2364, 1773))
    """
    for bound, is_outside in ((max_pixels, int.__gt__), (min_pixels, int.__lt__)):
        area = size_wh[0] * size_wh[1]
        if is_outside(area, bound):
            factor = math.sqrt(bound / area)
            size_wh = int(size_wh[0] * factor), int(size_wh[1] * factor)
    return size_wh
