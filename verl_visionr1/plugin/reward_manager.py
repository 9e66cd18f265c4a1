"""verl's reward manager `visionr1`: the only place that knows DataProto.

It reads one trajectory, hands text, target and context to the pure rewards, and returns what verl wants. It holds no
arithmetic. Images that lie in the batch's messages are never touched. Scoring takes microseconds, less than handing it
to a thread would, so it runs in the worker's event loop.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import scipy.optimize  # noqa: F401 - loaded with the first assignment otherwise: better before training than in it
from omegaconf import DictConfig, OmegaConf
from verl import DataProto
from verl.experimental.reward_loop.reward_manager import register
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from verl_visionr1.frames import MODEL_TYPE_FRAMES, Extent, Frame, frame_named
from verl_visionr1.plugin.config import PREFIX, ConfigError, Settings, require_supported_verl, settings_of
from verl_visionr1.plugin.context import WIRE_KEY, Context, context_at
from verl_visionr1.plugin.image_size import ImageTokens, processed_size
from verl_visionr1.rewards import METRICS, Score
from verl_visionr1.rewards.detection import judge_boxes
from verl_visionr1.targets import Target, TargetError

logger = logging.getLogger(__name__)

VALIDATION_SPLITS = ("val", "valid", "validation", "test")
"""`extra_info.split` of rows that are judged as validation where no context was stamped."""

read_target = lru_cache(maxsize=8192)(Target.from_json)
"""All rollouts of a prompt share their ground truth: it is read once."""


@register("visionr1")
class VisionR1RewardManager(RewardManagerBase):
    """`reward.reward_manager.name=visionr1`; settings under `+reward.reward_kwargs.visionr1.*`.

    Raises (at start-up):
        ConfigError: an unsupported verl, a setting that cannot be, a frame or a total that cannot be found out.
    """

    def __init__(
        self,
        config: DictConfig,
        tokenizer: Any,
        compute_score: Any,
        reward_router_address: str | None = None,
        reward_model_tokenizer: Any = None,
    ) -> None:
        require_supported_verl()
        super().__init__(config, tokenizer, compute_score)
        self.decode = tokenizer.decode
        self.settings = settings_of(config)
        self.preset = self.settings.reward()
        model = model_config_of(config, tokenizer)
        self.frame = frame_of(self.settings, model)
        self.image_tokens = ImageTokens.of(model) if self.frame.extent is Extent.PROCESSED else None
        self.total_steps = total_steps_of(config, self.settings)

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """Score the last output of one trajectory.

        Returns:
            `reward_score`: float; `reward_extra_info`: the same keys for every row, all floats.
        """
        row = {key: values[-1] for key, values in data.non_tensor_batch.items() if key in _ROW_KEYS}
        context = self.context_of(row)
        completion = self.completion_of(data)
        processed_wh = processed_size(data.batch, self.image_tokens) if self.image_tokens else None
        try:
            target = read_target(row["reward_model"]["ground_truth"])
            score = judge_boxes(completion, target, self.preset, context.thresholds, self.frame, processed_wh)
        except (TargetError, ConfigError, TypeError, KeyError, ValueError) as error:
            # An exception here would make verl drop the whole prompt group: say it, count it, score the floor.
            logger.error("visionr1: row %s cannot be scored, reward 0: %s", row.get("index"), error)
            return reward_of(_UNSCORED, context, is_scored=False)
        return reward_of(score, context)

    def context_of(self, row: Mapping[str, Any]) -> Context:
        """The stamped context; without the callback, the same from verl's own `global_steps` and the row's split."""
        stamped = row.get(WIRE_KEY)
        if stamped is not None:
            return Context.from_wire(stamped)
        split = (row.get("extra_info") or {}).get("split")
        return context_at(
            int(row.get("global_steps", 0)),
            self.total_steps,
            self.preset.schedule,
            self.settings.validation,
            is_validation=split in VALIDATION_SPLITS,
        )

    def completion_of(self, data: DataProto) -> str:
        """The text of the last output, without padding and special tokens."""
        response_ids = data.batch["responses"][-1]
        length = int(data.batch["attention_mask"][-1][-response_ids.shape[-1] :].sum())
        return self.decode(response_ids[:length], skip_special_tokens=True)


_ROW_KEYS = frozenset({"reward_model", "extra_info", "global_steps", "index", WIRE_KEY})
_UNSCORED = Score(0.0, dict.fromkeys(METRICS, 0.0))


def reward_of(score: Score, context: Context, *, is_scored: bool = True) -> dict[str, Any]:
    """What verl wants of a reward manager: the same keys, all floats, for every row.

    `acc` is F1 at IoU .5 whatever the stage, so that verl's `val-core` compares across runs.
    """
    extra = dict(score.metrics)
    extra["value"] = score.value
    extra["acc"] = score.metrics["f1_50"]
    extra["progress"] = -1.0 if context.progress is None else context.progress
    extra["stage"] = float(context.stage)
    extra["match_iou"] = context.thresholds.match_iou
    extra["unscored"] = 0.0 if is_scored else 1.0
    return {"reward_score": score.value, "reward_extra_info": extra}


def model_config_of(config: DictConfig, tokenizer: Any) -> dict[str, Any]:
    """The model's `config.json`; empty where there is none (a tokenizer alone)."""
    paths = (OmegaConf.select(config, "actor_rollout_ref.model.path"), getattr(tokenizer, "name_or_path", None))
    for path in filter(None, paths):
        file = Path(path).expanduser() / "config.json"
        if file.is_file():
            return json.loads(file.read_text())
    if not any(paths):
        return {}
    from transformers import AutoConfig

    trust = bool(OmegaConf.select(config, "actor_rollout_ref.model.trust_remote_code"))
    return AutoConfig.from_pretrained(next(filter(None, paths)), trust_remote_code=trust).to_dict()


def frame_of(settings: Settings, model: Mapping[str, Any]) -> Frame:
    """The frame that is set, or the one that models of this type speak in.

    Raises:
        ConfigError: "auto" for a model type whose frame is not known.
    """
    if settings.frame != "auto":
        return frame_named(settings.frame)
    model_type = str(model.get("model_type"))
    if model_type not in MODEL_TYPE_FRAMES:
        raise ConfigError(
            f"{PREFIX}.frame=auto: the frame of model type {model_type!r} is not known (known: "
            f"{', '.join(MODEL_TYPE_FRAMES)}); set {PREFIX}.frame to the coordinates the model speaks in"
        )
    return frame_named(MODEL_TYPE_FRAMES[model_type])


def total_steps_of(config: DictConfig, settings: Settings) -> int | None:
    """Trainer steps that count as the whole of training; None with the progressive rule off.

    Raises:
        ConfigError: neither set nor resolved by verl's trainer.
    """
    if settings.is_off:
        return None
    if settings.total_steps is not None:
        return settings.total_steps
    mode = OmegaConf.select(config, "trainer.v1.trainer_mode")
    updates_per_step = OmegaConf.select(config, f"trainer.v1.{mode}.parameter_sync_step") or 1
    total = (OmegaConf.select(config, "actor_rollout_ref.actor.optim.total_training_steps") or 0) // updates_per_step
    if total <= 0:
        raise ConfigError(
            f"{PREFIX}.total_steps=null: this trainer does not say how many steps it will take; set "
            f"{PREFIX}.total_steps, or {PREFIX}.schedule.kind=off"
        )
    return total
