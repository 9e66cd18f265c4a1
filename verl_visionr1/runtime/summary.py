"""Summarize a config in ten lines: data, model, reward, memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_visionr1.plugin.config import Settings, valid_settings
from verl_visionr1.plugin.data_files import listed_files
from verl_visionr1.plugin.delegation import OWN_MANAGERS
from verl_visionr1.plugin.stages import short_thresholds, switch_words
from verl_visionr1.rewards import Preset
from verl_visionr1.runtime.parts import loggers_of
from verl_visionr1.runtime.run_length import length_of
from verl_visionr1.runtime.run_rows import facts_of, guess_family
from verl_visionr1.schedule import Schedule, first_step, follow_model

_MEMORY = (
    ("strategy", "actor_rollout_ref.actor.strategy"),
    ("param_offload", "actor_rollout_ref.actor.fsdp_config.param_offload"),
    ("optimizer_offload", "actor_rollout_ref.actor.fsdp_config.optimizer_offload"),
    ("offload_policy", "actor_rollout_ref.actor.fsdp_config.offload_policy"),
    ("gradient checkpointing", "actor_rollout_ref.model.enable_gradient_checkpointing"),
    ("remove_padding", "actor_rollout_ref.model.use_remove_padding"),
    ("fused_kernels", "actor_rollout_ref.model.use_fused_kernels"),
    ("lora_rank", "actor_rollout_ref.model.lora_rank"),
)
_ENGINE = (
    ("engine", "actor_rollout_ref.rollout.name"),
    ("tensor parallel", "actor_rollout_ref.rollout.tensor_model_parallel_size"),
    ("share of GPU memory", "actor_rollout_ref.rollout.gpu_memory_utilization"),
    ("max_model_len", "actor_rollout_ref.rollout.max_model_len"),
    ("freed while training", "actor_rollout_ref.rollout.free_cache_engine"),
)


def summary_of(config: DictConfig) -> Iterator[tuple[str, str]]:
    """(label, text) of what a config would train, in reading order."""
    rollout, actor, data = config.actor_rollout_ref.rollout, config.actor_rollout_ref.actor, config.data
    yield "model", str(config.actor_rollout_ref.model.path)
    yield "train data", _files(config, "data.train_files")
    yield "val data", _files(config, "data.val_files")
    yield "steps", _steps(config)
    yield (
        "a step",
        f"{data.train_batch_size} prompts x {rollout.n} answers = {_product(data.train_batch_size, rollout.n)}; "
        f"update on {actor.ppo_mini_batch_size} prompts at once; lr {actor.optim.lr}",
    )
    yield (
        "lengths",
        f"prompt {data.max_prompt_length}, answer {data.max_response_length} tokens; temperature {rollout.temperature}",
    )
    yield (
        "workers",
        f"{config.trainer.nnodes} x {config.trainer.n_gpus_per_node} {config.trainer.device}; "
        f"{rollout.agent.num_workers} agent loops, {config.reward.num_workers} for rewards",
    )
    yield from _reward(config)
    yield "algorithm", _algorithm(config)
    yield "training", _named(config, _MEMORY) + f"; {_micro(config)}"
    yield "generation", _named(config, _ENGINE)
    yield "written to", _written(config)


def plan_of(config: DictConfig) -> Iterator[tuple[str, str]]:
    """(label, text) printed at the start of a run: rows, epochs, steps, and when thresholds change."""
    yield "steps", _steps(config)
    yield from ((label or "reason", text) for label, text in _reward(config) if label in ("thresholds", ""))


def steps_of(config: DictConfig) -> int | None:
    """Trainer steps, as `PPOTrainer._init_dataloader` counts them; None if the data is not here to count."""
    return length_of(config).total_steps


def _product(prompts: Any, answers: Any) -> Any:
    return prompts * answers if isinstance(prompts, int) and isinstance(answers, int) else "?"


def _files(config: DictConfig, key: str) -> str:
    facts = facts_of(config, key)
    return ", ".join(listed_files(config, key)) + ("" if facts is None else f" ({facts.n_rows} rows)")


def _steps(config: DictConfig) -> str:
    trainer = config.trainer
    often = [
        f"{word} every {every}"
        for word, every in (("validate", trainer.test_freq), ("save", trainer.save_freq))
        if every > 0
    ]
    return "; ".join([length_of(config).describe(), *often, f"resume: {trainer.resume_mode}"])


def _reward(config: DictConfig) -> Iterator[tuple[str, str]]:
    if config.reward.reward_manager.name not in OWN_MANAGERS:
        yield "reward", f"{config.reward.reward_manager.name} (verl's own)"
        return
    settings = valid_settings(config)
    if settings is None:
        yield "reward", "invalid; see the problems"
        return
    for preset in settings.routing.presets:
        yield "reward", f"{preset.name}: {_criteria(preset)}{_judges(settings, preset)}"
    yield "thresholds", _schedule(config, settings)
    family = guess_family(config, settings)
    if settings.reward.schedule.follows_model and not settings.is_off:
        yield "", switch_words(family) if family is not None else "the model's family is read when the run starts"
    frame = settings.frame if settings.frame != "auto" else _auto_frame(family)
    yield "frame", f"{frame}; answers as {settings.reward.answer_format}"


def _auto_frame(family: str | None) -> str:
    """Describe frame=auto for a family; None: not known yet, "": without a known frame."""
    if family is None:
        return "auto (read from the model's config.json when the run starts)"
    return f"{family} (auto, by the model)" if family else "auto (not known for this model; see the problems)"


def _criteria(preset: Preset) -> str:
    return ", ".join(f"{name} x{weight:g}" for name, weight in preset.weights.items())


def _judges(settings: Settings, preset: Preset) -> str:
    routes = settings.routing
    rules = [
        f"{kind} {name}"
        for kind, rule in (("task", routes.by_task), ("source", routes.by_source), ("value", routes.by_column))
        for name, chosen in rule.items()
        if chosen is preset
    ]
    return f" (for {', '.join(rules)})" if rules else ""


def _schedule(config: DictConfig, settings: Settings) -> str:
    schedule = follow_model(settings.reward.schedule, guess_family(config, settings) or "")
    if settings.is_off:
        return f"no schedule: {_short(schedule, -1)}"
    stages = [_short(schedule, i) for i in range(len(schedule.points))]
    if settings.gate is not None:
        gate = settings.gate
        return f"gated on {gate.metric}: {' then '.join(stages)} (match IoU / floor / full)"
    length = length_of(config)
    total = settings.total_steps or length.total_steps
    starts = [_start(at, total, length.last_step) for at, _ in schedule.points]
    parts = [f"{stage} {start}" for stage, start in zip(stages, starts, strict=True)]
    moving = "" if schedule.interpolation == "step" else f", {schedule.interpolation} between"
    return f"{', '.join(parts)}{moving} (match IoU / floor / full)"


def _short(schedule: Schedule, stage: int) -> str:
    return short_thresholds(schedule.off if stage < 0 else schedule.points[stage][1])


def _start(progress: float, total: int | None, last_step: int | None = None) -> str:
    """Describe the first step at this progress.

    >>> _start(0.5, 40), _start(1.0, 40), _start(0.9, 5), _start(0.5, 40, 20), _start(0.5, None)
    ('from step 21', 'never (it starts at the end)', 'not reached in this run', 'not reached in this run', 'from 50 %')
    """
    if progress == 1.0:
        return "never (it starts at the end)"
    if total is None:
        return f"from {progress:.0%}".replace("%", " %")
    first = first_step(progress, total) if total > 0 else None
    is_reached = first is not None and (last_step is None or first <= last_step)
    return f"from step {first}" if is_reached else "not reached in this run"


def _algorithm(config: DictConfig) -> str:
    actor, algorithm = config.actor_rollout_ref.actor, config.algorithm
    kl = "no KL"
    if actor.use_kl_loss:
        kl = f"KL {actor.kl_loss_coef} ({actor.kl_loss_type}) in the loss"
    if algorithm.use_kl_in_reward:
        kl += f", KL {algorithm.kl_ctrl.kl_coef} in the reward"
    parts = [
        str(algorithm.adv_estimator),
        kl,
        f"loss {actor.loss_agg_mode}",
        f"clip {actor.clip_ratio_low}/{actor.clip_ratio_high}",
    ]
    if OmegaConf.select(config, "algorithm.filter_groups.enable"):
        parts.append(f"groups with equal {algorithm.filter_groups.metric} are sampled again")
    return "; ".join(parts)


def _micro(config: DictConfig) -> str:
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    if actor.use_dynamic_bsz:
        tokens = actor.ppo_max_token_len_per_gpu, rollout.log_prob_max_token_len_per_gpu
        return f"up to {tokens[0]} tokens at once (log-probs: {tokens[1]})"
    answers = actor.ppo_micro_batch_size_per_gpu, rollout.log_prob_micro_batch_size_per_gpu
    return f"{answers[0]} answers at once (log-probs: {answers[1]})"


def _named(config: DictConfig, keys: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(f"{label} {OmegaConf.select(config, key)}" for label, key in keys)


def _written(config: DictConfig) -> str:
    trainer = config.trainer
    parts = [f"checkpoints in {trainer.default_local_dir}", f"logged to {', '.join(map(str, loggers_of(config)))}"]
    parts += [
        f"{label} in {where}"
        for label, where in (("rollouts", trainer.rollout_data_dir), ("validation", trainer.validation_data_dir))
        if where
    ]
    return "; ".join(parts)
