"""The reward as ms-swift's `ORM`, for its GRPO trainer; see `examples/ms_swift`.

The data's column `solution` holds the ground truth; `data_source` and `extra_info.split` are used if present.
Thresholds follow `trainer_state`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from verl_visionr1.integrations.core import FunctionSettings, Scorer, make_scorer, require_truths
from verl_visionr1.processed import ImageProcessor, size_by_loader
from verl_visionr1.settings import SettingsError

STEP_ADVICE = "ms-swift passes it in trainer_state: set max_steps or num_train_epochs, or total_steps here"


class VisionReward:
    """A reward for ms-swift: called with `(completions, **columns)`, returns a list of numbers.

    Args:
        settings: fields of `integrations.core.FunctionSettings`; `max_pixels` is `--max_pixels` of ms-swift. Its
            environment variables (MIN_PIXELS, MAX_PIXELS, IMAGE_MIN_TOKEN_NUM, IMAGE_MAX_TOKEN_NUM) are read.
        metric: the number that is returned: "value" is the reward.

    Raises:
        SettingsError: an invalid setting, or an unknown metric.

    >>> from types import SimpleNamespace
    >>> truth = '{"task":"grounding","size_wh":[640,480],"boxes_xyxy":[[64,48,320,240]],"labels":["cat"]}'
    >>> answer = '[{"bbox_2d": [100, 100, 500, 500], "label": "cat"}]'
    >>> state = SimpleNamespace(global_step=0, max_steps=40)
    >>> VisionReward({"frame": "qwen3-vl"})([answer], solution=[truth], trainer_state=state)
    [1.0]
    """

    def __init__(self, settings: dict[str, Any], metric: str = "value") -> None:
        self.scorer: Scorer = make_scorer(settings, _resize, STEP_ADVICE)
        self.metric = metric
        if metric != "value" and metric not in self.scorer.metrics:
            raise SettingsError(f"metric = {metric!r}: needs value, or one of {', '.join(self.scorer.metrics)}")

    def __call__(
        self,
        completions: Sequence[str],
        solution: Sequence[str | None] | None = None,
        trainer_state: Any = None,
        response_token_ids: Sequence[Sequence[Sequence[int]]] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Score a batch of completions; None for a row without a ground truth."""
        lengths = None if response_token_ids is None else [sum(map(len, turns)) for turns in response_token_ids]
        truths = require_truths(solution, "solution", "ms-swift")
        reports = self.scorer.evaluate_batch(completions, truths, trainer_state, columns, lengths)
        return [None if report is None else report[self.metric] for report in reports]


def make_orm(metric: str = "value", **settings: Any) -> type:
    """A subclass of ms-swift's `ORM`, for `orms[name] = ...`; arguments and errors of `VisionReward`."""
    from swift.rewards import ORM  # pyright: ignore[reportMissingImports]

    reward = VisionReward(settings, metric)

    class VisionR1(ORM):
        __doc__ = VisionReward.__doc__

        def __call__(self, completions: Sequence[str], **columns: Any) -> list[float | None]:
            return reward(completions, **columns)

    if metric != "value":
        VisionR1.__name__ = f"VisionR1_{metric}"  # its name in ms-swift's logs
    return VisionR1


def _resize(size_wh: tuple[int, int], processor: ImageProcessor, settings: FunctionSettings) -> tuple[int, int]:
    """ms-swift rescales to `--max_pixels`, then resizes with qwen_vl_utils; the processor does not change the size."""
    if settings.min_pixels is not None:
        raise SettingsError(f"min_pixels = {settings.min_pixels}: ms-swift reads it only from the variable MIN_PIXELS")
    return size_by_loader(rescaled_size(size_wh, settings.max_pixels), processor, loader_budget(processor, os.environ))


def rescaled_size(size_wh: tuple[int, int], max_pixels: int | None) -> tuple[int, int]:
    """Width and height after `rescale_image` of ms-swift 4.6.0 (swift/template/vision_utils.py), for `--max_pixels`.

    >>> rescaled_size((4032, 3024), 1003520)
    (1156, 867)
    """
    width, height = size_wh
    if max_pixels is None or width * height <= max_pixels:
        return size_wh
    ratio = width / height
    height_scaled = math.sqrt(max_pixels / ratio)
    return int(height_scaled * ratio), int(height_scaled)


def loader_budget(processor: ImageProcessor, environment: Mapping[str, str]) -> dict[str, int]:
    """The pixel budget of qwen_vl_utils under ms-swift's environment variables (4.6.0, swift/model/models/qwen.py)."""
    area = processor.factor**2
    budget: dict[str, int] = {}
    for bound in ("min", "max"):
        tokens, pixels = f"IMAGE_{bound.upper()}_TOKEN_NUM", f"{bound.upper()}_PIXELS"
        name = tokens if environment.get(tokens) else pixels
        if environment.get(name):
            try:
                number = int(environment[name])
            except ValueError:
                raise SettingsError(f"{name} = {environment[name]!r}: needs a whole number") from None
            budget[f"{bound}_pixels"] = (number if name == tokens else number // area) * area
    return budget
