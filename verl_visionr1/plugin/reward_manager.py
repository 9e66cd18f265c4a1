"""verl's reward manager `visionr1`: the only place that knows DataProto.

It reads one trajectory, hands text, target and context to the pure rewards, and returns what verl wants. It holds no
arithmetic. Images that lie in the batch's messages are never touched. Scoring takes microseconds, less than handing it
to a thread would, so it runs in the worker's event loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import scipy.optimize  # noqa: F401 - loaded with the first assignment otherwise: better before training than in it
from omegaconf import DictConfig, OmegaConf
from verl import DataProto
from verl.experimental.reward_loop.reward_manager import register
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from verl_visionr1.criteria import Thresholds
from verl_visionr1.frames import MODEL_TYPE_FRAMES, Extent, Frame, frame_named
from verl_visionr1.plugin.config import PREFIX, ConfigError, Settings, require_supported_verl, settings_of
from verl_visionr1.plugin.context import WIRE_KEY, Context, Rule, context_at
from verl_visionr1.plugin.image_size import ImageTokens, processed_size
from verl_visionr1.plugin.turns import EXTRA_KEY, MASK_KEY, N_TURNS_KEY, TAIL, turns_of
from verl_visionr1.rewards import Preset, Score, Speech
from verl_visionr1.rewards.judge import case_of, score_of, signs_of
from verl_visionr1.targets import Target, is_validation_split

logger = logging.getLogger(__name__)

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
        self.routes = self.settings.routing
        self.metrics = self.routes.metrics
        model = model_config_of(config, tokenizer)
        self.frame = frame_of(self.settings, model)
        self.image_tokens = ImageTokens.of(model) if self.frame.extent is Extent.PROCESSED else None
        self.total_steps = total_steps_of(config, self.settings)
        self.turns = turns_of(config, self.settings, tokenizer)
        require_callback_for_gate(config, self.settings)
        self.max_tokens = OmegaConf.select(config, "data.max_response_length")
        self.row_keys = _ROW_KEYS | set(self.routes.column[:1])

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """Score the last output of one trajectory.

        Returns:
            `reward_score`: float; `reward_extra_info`: the same keys for every row, all floats.
        """
        row = {key: values[-1] for key, values in data.non_tensor_batch.items() if key in self.row_keys}
        context, source = self.context_of(row), str(row.get("data_source", ""))
        response_ids = self.response_of(data, row.get("response_len"))
        processed_wh = processed_size(data.batch, self.image_tokens) if self.image_tokens else None
        speech = Speech(self.frame, processed_wh, len(response_ids), self.max_tokens)
        preset = self.routes.default
        try:
            completion, is_opened = self.last_turn_of(data, response_ids, row)
            speech = replace(speech, reasoning_opened=is_opened)
            target = read_target(row["reward_model"]["ground_truth"])
            preset = self.routes.preset_for(target, source, row)
            rule = context.rule(preset.schedule, self.settings.validation, source)
            if preset.may_block:  # what may take long must not hold up the worker's other rows
                score, signs = await asyncio.to_thread(_judged, completion, target, preset, rule.thresholds, speech)
            else:
                score, signs = _judged(completion, target, preset, rule.thresholds, speech)
        except Exception as error:  # noqa: BLE001 - a criterion of the user's own may raise anything
            # An exception here would make verl drop the whole prompt group: say it, count it, score the floor.
            logger.error("visionr1: row %s cannot be scored, reward 0: %s", row.get("index"), _reason(error))
            rule = context.rule(preset.schedule, self.settings.validation, source)
            return self.reward_of(_UNSCORED, _NO_SIGNS, context, rule, preset, speech, is_scored=False)
        return self.reward_of(score, signs, context, rule, preset, speech)

    def reward_of(
        self,
        score: Score,
        signs: Mapping[str, float],
        context: Context,
        rule: Rule,
        preset: Preset,
        speech: Speech,
        *,
        is_scored: bool = True,
    ) -> dict[str, Any]:
        """What verl wants of a reward manager: the same keys, all floats, for every row.

        `acc` is what the task is measured by, whatever the stage, so that verl's `val-core` compares across runs. A
        criterion that the row's preset does not have is 0. `route` is the preset's place among those of the run, -1
        for a task's own default. `cut_off`: whether the answer fills the response budget, as verl's own clip ratio
        has it. `processed_w` and `processed_h` let a dump be scored again.
        """
        extra = {name: score.metrics.get(name, 0.0) for name in self.metrics}
        extra["value"] = score.value
        extra["acc"] = score.metrics.get("accuracy", 0.0)
        extra["progress"] = -1.0 if context.progress is None else context.progress
        extra["stage"] = float(rule.stage)
        extra["match_iou"] = rule.thresholds.match_iou
        extra["n_tokens"] = n_tokens = float(speech.n_tokens or 0)
        extra["cut_off"] = 1.0 if self.max_tokens and n_tokens >= self.max_tokens else 0.0
        extra |= signs
        extra["route"] = self.routes.index(preset)
        extra["unscored"] = 0.0 if is_scored else 1.0
        if self.image_tokens:
            width, height = speech.processed_wh or (0, 0)
            extra["processed_w"], extra["processed_h"] = float(width), float(height)
        return {"reward_score": score.value, "reward_extra_info": extra}

    def context_of(self, row: Mapping[str, Any]) -> Context:
        """The stamped context; without the callback, the same from verl's own `global_steps` and the row's split."""
        stamped = row.get(WIRE_KEY)
        if stamped is not None:
            return Context.from_wire(stamped)
        if self.settings.gate is not None:
            raise ConfigError(
                f"{PREFIX}.schedule.kind=gated: needs the progress callback, +visionr1@_global_=progressive"
            )
        extra_info = row.get("extra_info")
        split = extra_info.get("split") if isinstance(extra_info, Mapping) else None
        step = int(row.get("global_steps", 0))
        return context_at(step, self.total_steps, is_validation=is_validation_split(split))

    def response_of(self, data: DataProto, length: int | None) -> list[int]:
        """The tokens of the last output, without padding.

        Of several outputs the mask does not tell it: verl pads prompts with responses as a whole, responses apart.
        """
        response_ids = data.batch["responses"][-1]
        mask = data.batch["attention_mask"][-1][-response_ids.shape[-1] :]
        return response_ids[: int(mask.sum() if length is None else length)].tolist()

    def last_turn_of(self, data: DataProto, response_ids: list[int], row: Mapping[str, Any]) -> tuple[str, bool]:
        """What the model said last, without special tokens, and whether it began inside its reasoning.

        Raises:
            TurnsError: it cannot be told.
        """
        mask = data.batch.get(MASK_KEY, None)
        start, end = self.turns.last_turn(response_ids, row, None if mask is None else mask[-1].tolist())
        prompt_end = int(row.get("prompt_len") or data.batch["input_ids"].shape[-1] - data.batch["responses"].shape[-1])
        before = data.batch["input_ids"][-1][max(prompt_end - TAIL, 0) : prompt_end].tolist()
        is_opened = self.turns.is_reasoning_opened(before + response_ids[:start])
        return self.decode(response_ids[start:end], skip_special_tokens=True), is_opened


_ROW_KEYS = frozenset(
    {
        *("reward_model", "extra_info", "global_steps", "index", "data_source", "prompt_len", "response_len"),
        *(N_TURNS_KEY, EXTRA_KEY, WIRE_KEY),
    }
)
_UNSCORED = Score(0.0, {})
_NO_SIGNS = {"distinct_share": 1.0, "empty": 0.0}


def _judged(
    completion: str, target: Target, preset: Preset, thresholds: Thresholds, speech: Speech
) -> tuple[Score, dict[str, float]]:
    """`rewards.judge`, and the signs of the same reading of the text."""
    case = case_of(completion, target, preset, thresholds, speech)
    return score_of(case, preset), signs_of(case)


def _reason(error: Exception) -> str:
    """Bad data, settings and criteria speak for themselves; for anything else, what it is and where."""
    if isinstance(error, ValueError):
        return str(error)
    return "".join(traceback.format_exception(error, limit=-3))


def require_callback_for_gate(config: DictConfig, settings: Settings) -> None:
    """A gate is moved by the progress callback alone.

    Raises:
        ConfigError: a gated schedule without the callback.
    """
    manager = OmegaConf.select(config, "actor_rollout_ref.rollout.agent.agent_loop_manager_class")
    if settings.gate is not None and not str(manager).startswith("verl_visionr1."):
        raise ConfigError(f"{PREFIX}.schedule.kind=gated: needs the progress callback: +visionr1@_global_=progressive")


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
