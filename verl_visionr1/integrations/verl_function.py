"""The reward as verl's custom reward function, for every verl from 0.5 on; see `examples/verl`.

`custom_reward_function.path` is `pkg://verl_visionr1.integrations.verl_function`, before verl 0.7.0 this file's path.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from verl_visionr1.integrations.core import (
    BY_VERL,
    NO_DEGENERATION,
    FunctionSettings,
    Moment,
    Scorer,
    make_scorer,
    row_report,
    step_of_weights,
    to_plain,
)
from verl_visionr1.processed import ImageProcessor, processed_size
from verl_visionr1.rewards import ResponseContext, Score
from verl_visionr1.rewards.context import Context
from verl_visionr1.rewards.routing import DELEGATED, is_delegated
from verl_visionr1.targets import is_validation_split

STEP_ADVICE = (
    "set total_steps to the run's number of steps, on verl 0.8.0 or newer (0.7.1: with "
    "trainer.use_legacy_worker_impl=disable) and its naive reward manager; others do not pass the step"
)


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    reward_router_address: str | None = None,
    reward_model_tokenizer: Any = None,
    **settings: Any,
) -> dict[str, float]:
    """Score one response, as verl calls it.

    Args:
        data_source: data source of the row, for `routes` and `delegate`.
        solution_str: the model's text.
        ground_truth: `reward_model.ground_truth`: `Target.to_json()`.
        extra_info: the row's; `split` marks validation. verl's naive manager adds the version of the weights.
        reward_router_address, reward_model_tokenizer: passed by verl's reward loop; not used.
        settings: fields of `integrations.core.FunctionSettings`; `min_pixels` and `max_pixels` are those of
            `data.mm_processor_kwargs`. `delegate`: globs over data sources for verl's own `compute_score`.

    Returns:
        "score" and the metrics of `Scorer.evaluate`: the same keys for every row.

    Raises:
        SettingsError: an invalid setting.
        MissingStepError: the thresholds change, and `total_steps` or the step is unknown.
        TargetError: an invalid ground truth.

    >>> truth = '{"task":"grounding","size_wh":[640,480],"boxes_xyxy":[[64,48,320,240]],"labels":["cat"]}'
    >>> answer = '[{"bbox_2d": [100, 100, 500, 500], "label": "cat"}]'
    >>> compute_score("coco", answer, truth, {"global_steps": 0}, frame="qwen3-vl", total_steps=400)["score"]
    1.0
    """
    extra = extra_info or {}
    delegate, scorer = _scorer_of(msgspec.json.encode(to_plain(settings)))
    if is_delegated(delegate, data_source):
        return _delegated(data_source, solution_str, ground_truth, extra, scorer)
    is_validation = is_validation_split(extra.get("split"))
    moment = Moment(step_of_weights(extra, is_validation=is_validation), None, is_validation)
    row = {"data_source": data_source, "extra_info": extra}
    report = scorer.evaluate(solution_str, ground_truth, moment, data_source=data_source, row=row)
    return {"score": report["value"], **report}


@lru_cache(maxsize=16)
def _scorer_of(key: bytes) -> tuple[tuple[str, ...], Scorer]:
    """The scorer of a run: its settings are the same in every call."""
    given = msgspec.json.decode(key)
    delegate = tuple(given.pop("delegate", None) or ())
    return delegate, make_scorer(given, _resize, STEP_ADVICE, taken=BY_VERL)


def _resize(size_wh: tuple[int, int], processor: ImageProcessor, settings: FunctionSettings) -> tuple[int, int]:
    """verl resizes twice: its loader, then the model's image processor."""
    return processed_size(size_wh, processor, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels)


def _delegated(
    data_source: str, solution_str: str, ground_truth: str, extra: Mapping[str, Any], scorer: Scorer
) -> dict[str, float]:
    """Score a row by verl's own function, reported under the keys of all rows."""
    from verl.utils.reward_score import default_compute_score

    result: Any = default_compute_score(data_source, solution_str, ground_truth, extra)
    value = float(result["score"] if isinstance(result, Mapping) else result)
    accuracy = result.get("acc", value) if isinstance(result, Mapping) else value
    preset, context = scorer.routes.default, Context(None)
    rule = context.rule(preset.schedule, "off")  # verl's function has no thresholds
    score = Score(value, {"accuracy": float(accuracy)})
    response = ResponseContext(scorer.frame)
    report = row_report(score, NO_DEGENERATION, context, rule, response, metrics=scorer.metrics, route=DELEGATED)
    return {"score": value, **report}
