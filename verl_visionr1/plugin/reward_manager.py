"""verl's reward manager `visionr1`: the only module that uses DataProto.

It reads one trajectory, passes text, target and context to the pure rewards, and returns verl's format, without
arithmetic of its own. Images in the batch's messages are not touched. Scoring takes microseconds, less than passing it
to a thread, so it runs in the worker's event loop.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Mapping
from typing import Any

import scipy.optimize  # noqa: F401 - load it before training, not at the first assignment
from msgspec.structs import replace
from omegaconf import DictConfig, OmegaConf
from verl import DataProto
from verl.experimental.reward_loop.reward_manager import register
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager

from verl_visionr1.criteria import Thresholds
from verl_visionr1.frames import Extent
from verl_visionr1.integrations.core import NO_DEGENERATION, row_report
from verl_visionr1.plugin.config import ConfigError, require_supported_verl, settings_of
from verl_visionr1.plugin.delegation import accuracy_of, reward_model_problem
from verl_visionr1.plugin.image_size import ImageTokens, read_processed_size
from verl_visionr1.plugin.run_facts import (
    frame_of,
    gate_problem,
    has_callback,
    model_config_of,
    resumed_from,
    run_steps_of,
    step_of,
    total_steps_of,
)
from verl_visionr1.plugin.run_record import write_record
from verl_visionr1.plugin.scoring_guard import ScoringGuard
from verl_visionr1.plugin.turns import EXTRA_KEY, MASK_KEY, N_TURNS_KEY, TAIL, plain_decoder, turns_of
from verl_visionr1.rewards import Preset, ResponseContext, Score
from verl_visionr1.rewards.completion import apply_criteria, degeneration_metrics, read_completion
from verl_visionr1.rewards.context import WIRE_KEY, Context, Rule, context_at
from verl_visionr1.rewards.routing import DELEGATED, is_delegated
from verl_visionr1.rollouts.places import step_number
from verl_visionr1.schedule import follow_model
from verl_visionr1.targets import Target, is_validation_split, read_target

logger = logging.getLogger(__name__)


@register("visionr1")
class VisionR1RewardManager(RewardManagerBase):
    """`reward.reward_manager.name=visionr1`; settings under `+reward.reward_kwargs.visionr1.*`.

    Raises (at start-up):
        ConfigError: an unsupported verl, an invalid setting, an unknown frame or total.
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
        self.decode = plain_decoder(tokenizer)
        self.settings = settings_of(config)
        problem = reward_model_problem(config) or gate_problem(config, self.settings)
        if problem:
            raise ConfigError(problem)
        self.routes = self.settings.routing
        self.metrics = self.routes.metrics
        model = model_config_of(config, tokenizer)
        self.frame = frame_of(self.settings, model)
        self.image_tokens = ImageTokens.of(model) if self.frame.extent is Extent.PROCESSED else None
        self.total_steps, self.run_steps = total_steps_of(config, self.settings), run_steps_of(config)
        self.turns = turns_of(config, self.settings, tokenizer)
        self.max_tokens = OmegaConf.select(config, "data.max_response_length")
        self.row_keys = _ROW_KEYS | set(self.routes.column[:1])
        self.guard = ScoringGuard("reward worker")
        make_naive: Any = NaiveRewardManager  # its decorator hides its parameters
        others = (reward_router_address, reward_model_tokenizer)
        self.naive = make_naive(config, tokenizer, compute_score, *others) if self.settings.delegate else None
        if not has_callback(config):  # the callback knows the total of a checkpoint
            write_record(config, self.settings, from_step=step_number(resumed_from(config)) + 1)

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """Score the last output of one trajectory.

        Returns:
            `reward_score`: float; `reward_extra_info`: the same keys for every row, all floats.

        Raises:
            NothingScoredError: none of the first rows could be scored.
        """
        row = {key: values[-1] for key, values in data.non_tensor_batch.items() if key in self.row_keys}
        context, source = self.context_of(row), str(row.get("data_source", ""))
        response_ids = self.response_of(data, row.get("response_len"))
        response = ResponseContext(self.frame, None, len(response_ids), self.max_tokens)
        preset = self.routes.default
        try:
            if is_delegated(self.settings.delegate, source):
                return await self.delegated(data, context, response)
            completion, is_opened = self.last_turn_of(data, response_ids, row)
            response = replace(response, reasoning_opened=is_opened)
            target = read_target(row["reward_model"]["ground_truth"])
            if self.image_tokens:
                end = prompt_end_of(data, row)
                size_wh = read_processed_size(data.batch, self.image_tokens, target.image, end)
                response = replace(response, processed_wh=size_wh)
            preset = self.routes.preset_for(target, source, row)
            rule = self.rule_of(context, preset, source)
            if preset.may_block:  # slow criteria must not block the worker's other rows
                score, signs = await asyncio.to_thread(_judged, completion, target, preset, rule.thresholds, response)
            else:
                score, signs = _judged(completion, target, preset, rule.thresholds, response)
        except Exception as error:  # noqa: BLE001 - a criterion of the user's own may raise anything
            # An exception here would make verl drop the whole prompt group: log it, count it, give the lowest reward.
            reason = _reason(error)
            logger.error("visionr1: row %s cannot be scored, reward 0: %s", row.get("index"), reason)
            self.guard.look(str(row.get("reward_model")), is_scored=False, reason=reason)
            rule = self.rule_of(context, preset, source)
            return self.reward_of(_UNSCORED, NO_DEGENERATION, context, rule, preset, response, is_scored=False)
        self.guard.look("", is_scored=True, reason="")
        return self.reward_of(score, signs, context, rule, preset, response)

    async def delegated(self, data: DataProto, context: Context, response: ResponseContext) -> dict[str, Any]:
        """Score a row by verl's own naive manager, reported under the keys of all rows."""
        assert self.naive is not None
        result = await self.naive.run_single(data)
        rule = self.rule_of(context, self.routes.default, "")
        score = Score(float(result["reward_score"]), {"accuracy": accuracy_of(result)})
        reward = self.reward_of(score, NO_DEGENERATION, context, rule, self.routes.default, response)
        reward["reward_extra_info"]["route"] = DELEGATED
        return reward

    def reward_of(
        self,
        score: Score,
        signs: Mapping[str, float],
        context: Context,
        rule: Rule,
        preset: Preset,
        response: ResponseContext,
        *,
        is_scored: bool = True,
    ) -> dict[str, Any]:
        """verl's result of a reward manager: see `row_report`. The processed size allows scoring a dump again."""
        route = self.routes.index(preset)
        extra = row_report(
            score, signs, context, rule, response, metrics=self.metrics, route=route, is_scored=is_scored
        )
        if self.image_tokens:
            width, height = response.processed_wh or (0, 0)
            extra["processed_w"], extra["processed_h"] = float(width), float(height)
        return {"reward_score": score.value, "reward_extra_info": extra}

    def context_of(self, row: Mapping[str, Any]) -> Context:
        """The context from the callback; without it, from verl's own `global_steps` and the row's split."""
        stamped = row.get(WIRE_KEY)
        if stamped is not None:
            return Context.from_wire(stamped)
        extra_info = row.get("extra_info")
        split = extra_info.get("split") if isinstance(extra_info, Mapping) else None
        is_validation = is_validation_split(split)
        step = 0 if self.total_steps is None else step_of(row, is_validation=is_validation)
        return context_at(step, self.total_steps, n_steps=self.run_steps, is_validation=is_validation)

    def rule_of(self, context: Context, preset: Preset, source: str) -> Rule:
        """Thresholds for a row: gates for the run's default preset, progress for others."""
        is_gated = preset is self.routes.default
        schedule = follow_model(preset.schedule, self.frame.name)
        return context.rule(schedule, self.settings.validation, source, is_gated=is_gated)

    def response_of(self, data: DataProto, length: int | None) -> list[int]:
        """The tokens of the last output, without padding.

        With several outputs the mask does not help: verl pads prompts with responses as a whole, but responses
        separately.
        """
        response_ids = data.batch["responses"][-1]
        mask = data.batch["attention_mask"][-1][-response_ids.shape[-1] :]
        return response_ids[: int(mask.sum() if length is None else length)].tolist()

    def last_turn_of(self, data: DataProto, response_ids: list[int], row: Mapping[str, Any]) -> tuple[str, bool]:
        """The model's last turn without special tokens, and whether it began inside reasoning.

        Raises:
            TurnsError: the last turn is unknown.
        """
        mask = data.batch.get(MASK_KEY, None)
        start, end = self.turns.last_turn(response_ids, row, None if mask is None else mask[-1].tolist())
        prompt_end = prompt_end_of(data, row)
        before = data.batch["input_ids"][-1][max(prompt_end - TAIL, 0) : prompt_end].tolist()
        is_opened = self.turns.is_reasoning_opened(before + response_ids[:start])
        return self.decode(response_ids[start:end]), is_opened


_BY_DATA = ("reward_model", "extra_info", "index", "data_source")
_BY_VERL = ("global_steps", "prompt_len", "response_len")
_ROW_KEYS = frozenset({*_BY_DATA, *_BY_VERL, N_TURNS_KEY, EXTRA_KEY, WIRE_KEY})
_UNSCORED = Score(0.0, {})


def prompt_end_of(data: DataProto, row: Mapping[str, Any]) -> int:
    """Number of tokens of the last row's prompt, padding included."""
    return int(row.get("prompt_len") or data.batch["input_ids"].shape[-1] - data.batch["responses"].shape[-1])


def _judged(
    completion: str, target: Target, preset: Preset, thresholds: Thresholds, response: ResponseContext
) -> tuple[Score, dict[str, float]]:
    """Score by `rewards.completion`, with the degeneration metrics of the same text."""
    case = read_completion(completion, target, preset, thresholds, response)
    return apply_criteria(case, preset), degeneration_metrics(case)


def _reason(error: Exception) -> str:
    """Message of an error; for errors other than bad data, settings and criteria also its type and place."""
    if isinstance(error, ValueError):
        return str(error)
    return "".join(traceback.format_exception(error, limit=-3))
