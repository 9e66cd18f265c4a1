"""The reward as a reward function of TRL's `GRPOTrainer` and RLOO trainer; see `examples/trl`.

TRL passes dataset columns as keyword arguments: `ground_truth` is required; `data_source` and `extra_info.split` are
used if present. Thresholds follow `trainer_state`. Each criterion is logged as `visionr1/<name>`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from verl_visionr1.answers.transcript import answer_text
from verl_visionr1.integrations.core import FunctionSettings, make_scorer, require_truths
from verl_visionr1.processed import ImageProcessor, size_by_processor, with_budget

STEP_ADVICE = "TRL passes it in trainer_state: set max_steps or num_train_epochs, or total_steps here"
METRIC_PREFIX = "visionr1/"


def make_reward(**settings: Any) -> Callable[..., list[float | None]]:
    """Make a reward function for `reward_funcs`.

    Args:
        settings: fields of `integrations.core.FunctionSettings`; `min_pixels` and `max_pixels` are those of the
            trainer's processor, if they differ from the model's own.

    Raises:
        SettingsError: an invalid setting.

    >>> from types import SimpleNamespace
    >>> reward = make_reward(frame="qwen3-vl")
    >>> truth = '{"task":"grounding","size_wh":[640,480],"boxes_xyxy":[[64,48,320,240]],"labels":["cat"]}'
    >>> answer = [{"role": "assistant", "content": '[{"bbox_2d": [100, 100, 500, 500], "label": "cat"}]'}]
    >>> state = SimpleNamespace(global_step=0, max_steps=40)
    >>> reward(prompts=[[]], completions=[answer], ground_truth=[truth], trainer_state=state)
    [1.0]
    """
    scorer = make_scorer(settings, _resize, STEP_ADVICE)

    def visionr1(
        *,
        completions: Sequence[Any],
        ground_truth: Sequence[str | None] | None = None,
        completion_ids: Sequence[Sequence[int]] | None = None,
        trainer_state: Any = None,
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Score a batch of completions; None for a row without a ground truth."""
        truths = require_truths(ground_truth, "ground_truth", "trl")
        texts = [answer_text(completion) for completion in completions]
        lengths = None if completion_ids is None else [len(ids) for ids in completion_ids]
        reports = scorer.evaluate_batch(texts, truths, trainer_state, columns, lengths)
        if log_metric is not None:
            for name, value in _means([report for report in reports if report is not None]).items():
                log_metric(f"{METRIC_PREFIX}{name}", value)
        if log_extra is not None:  # so that the tools can read TRL's table of completions
            log_extra("ground_truth", list(truths))
        return [None if report is None else report["value"] for report in reports]

    return visionr1


def _means(reports: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each metric over the rows."""
    return {name: sum(report[name] for report in reports) / len(reports) for name in (reports[0] if reports else ())}


def _resize(size_wh: tuple[int, int], processor: ImageProcessor, settings: FunctionSettings) -> tuple[int, int]:
    """TRL passes the original image to the model's processor, which resizes it once."""
    return size_by_processor(size_wh, with_budget(processor, settings.min_pixels, settings.max_pixels))
