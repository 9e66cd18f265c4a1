"""Rewards: presets by name, and `score`, which turns a completion into a reward.

`visionr1` is the default: the paper's method, repaired. `visionr1-paper` is Eq. 4-8 of arXiv 2503.18013.
`visionr1-released` computes what the released code does, without its crashes.
docs/reference/presets.md lists every difference.
"""

from __future__ import annotations

from verl_visionr1.frames import Frame, frame_named
from verl_visionr1.rewards.base import (
    COMMON_METRICS,
    Criterion,
    CriterionInput,
    Preset,
    RewardError,
    Score,
)
from verl_visionr1.rewards.completion import ResponseContext, evaluate_completion
from verl_visionr1.rewards.presets import PRESETS, TASK_PRESETS, find_preset
from verl_visionr1.rewards.routing import Routes
from verl_visionr1.schedule import follow_model
from verl_visionr1.targets import Target

__all__ = [
    "COMMON_METRICS",
    "PRESETS",
    "CriterionInput",
    "Criterion",
    "Preset",
    "Routes",
    "TASK_PRESETS",
    "find_preset",
    "RewardError",
    "Score",
    "ResponseContext",
    "evaluate_completion",
    "score",
]


def score(
    completion: str,
    target: Target,
    *,
    preset: str | Preset | None = None,
    frame: str | Frame = "original",
    processed_wh: tuple[int, int] | None = None,
    progress: float | None = None,
    n_tokens: int | None = None,
    max_tokens: int | None = None,
    reasoning_opened: bool = False,
) -> Score:
    """Score one completion. No text makes it raise or hang.

    Args:
        completion: the model's text.
        target: the ground truth.
        preset: a name in `PRESETS`, a YAML file, or a `Preset`; None: the default of the target's task
            (`TASK_PRESETS`).
        frame: the model's coordinate frame: a name in `frames.FRAMES`, or a `Frame`.
        processed_wh: width and height of the image after the processor's resize; only some frames need it.
        progress: fraction of training in [0, 1], which sets the thresholds as in training with a model of the frame's
            family (`schedule.follow_model`); None: the progressive rule is off.
        n_tokens, max_tokens: length of the completion and the response budget, for criteria of length.
        reasoning_opened: whether the prompt ends with `<think>` (chat templates of Qwen3-VL-Thinking, Qwen3.5).

    Raises:
        RewardError, FrameError, ValueError: an unknown preset or frame, a preset for another task, a missing
            `processed_wh`, a progress outside [0, 1]: the caller's mistakes, never the model's.

    >>> target = Target(task="detection", size_wh=(640, 480), boxes_xyxy=[[100, 100, 200, 200]], labels=["cat"])
    >>> text = '[{"bbox_2d": [100, 100, 200, 160], "label": "cat"}]'
    >>> [round(score(text, target, progress=p).value, 3) for p in (None, 0.0, 0.5)]
    [0.867, 0.867, 0.333]
    >>> score("I see a cat.", target).metrics["format"]
    0.0
    >>> score("3", Target(task="counting", size_wh=(640, 480), count=3)).value
    1.0
    """
    if preset is None:
        preset = PRESETS[TASK_PRESETS[target.task]]
    elif isinstance(preset, str):
        preset = find_preset(preset)
    preset.require_task(target)
    if isinstance(frame, str):
        frame = frame_named(frame)
    thresholds = follow_model(preset.schedule, frame.name)(progress)
    response = ResponseContext(frame, processed_wh, n_tokens, max_tokens, reasoning_opened)
    return evaluate_completion(completion, target, preset, thresholds, response)
