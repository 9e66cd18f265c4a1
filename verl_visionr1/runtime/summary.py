"""Summarize a config in ten lines: data, model, reward, memory."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from verl_visionr1.plugin.config import Settings, valid_settings
from verl_visionr1.plugin.data_files import listed_files
from verl_visionr1.plugin.delegation import OWN_MANAGERS
from verl_visionr1.plugin.stages import short_thresholds, switch_words
from verl_visionr1.rewards import Preset
from verl_visionr1.runtime.parts import filter_metric, loggers_of
from verl_visionr1.runtime.run_length import length_of
from verl_visionr1.runtime.run_rows import NO_FRAME, facts_of, guess_frame
from verl_visionr1.schedule import first_step, follow_model

_LINES = {
    "a step": (
        "{data.train_batch_size} prompts x {actor_rollout_ref.rollout.n} answers; update on "
        "{actor_rollout_ref.actor.ppo_mini_batch_size} prompts at once; lr {actor_rollout_ref.actor.optim.lr}"
    ),
    "lengths": (
        "prompt {data.max_prompt_length}, answer {data.max_response_length} tokens; temperature "
        "{actor_rollout_ref.rollout.temperature}"
    ),
    "workers": (
        "{trainer.nnodes} x {trainer.n_gpus_per_node} {trainer.device}; {actor_rollout_ref.rollout.agent.num_workers} "
        "agent loops, {reward.num_workers} for rewards"
    ),
    "training": (
        "strategy {actor_rollout_ref.actor.strategy}, "
        "param_offload {actor_rollout_ref.actor.fsdp_config.param_offload}, "
        "optimizer_offload {actor_rollout_ref.actor.fsdp_config.optimizer_offload}, "
        "gradient checkpointing {actor_rollout_ref.model.enable_gradient_checkpointing}, "
        "remove_padding {actor_rollout_ref.model.use_remove_padding}, lora_rank {actor_rollout_ref.model.lora_rank}"
    ),
    "generation": (
        "engine {actor_rollout_ref.rollout.name}, "
        "tensor parallel {actor_rollout_ref.rollout.tensor_model_parallel_size}, "
        "share of GPU memory {actor_rollout_ref.rollout.gpu_memory_utilization}, "
        "max_model_len {actor_rollout_ref.rollout.max_model_len}, "
        "freed while training {actor_rollout_ref.rollout.free_cache_engine}"
    ),
    "written to": (
        "checkpoints in {trainer.default_local_dir}; rollouts in {trainer.rollout_data_dir}; validation in "
        "{trainer.validation_data_dir}"
    ),
}
"""Label -> text, with keys of verl's config in braces."""


def summary_of(config: DictConfig) -> Iterator[tuple[str, str]]:
    """(label, text) of what a config would train, in reading order."""
    lines = {label: _filled(config, text) for label, text in _LINES.items()}
    yield "model", str(config.actor_rollout_ref.model.path)
    for label, key in (("train data", "data.train_files"), ("val data", "data.val_files")):
        facts = facts_of(config, key)
        yield label, ", ".join(listed_files(config, key)) + ("" if facts is None else f" ({facts.n_rows} rows)")
    yield "steps", _steps(config)
    yield from ((label, lines[label]) for label in ("a step", "lengths", "workers"))
    yield from _reward(config)
    yield "algorithm", _algorithm(config)
    yield "training", f"{lines['training']}; {_micro(config)}"
    yield "generation", lines["generation"]
    yield "written to", f"{lines['written to']}; logged to {', '.join(map(str, loggers_of(config)))}"


def _filled(config: DictConfig, text: str) -> str:
    """A text with the values of its keys."""
    pieces = text.split("{")
    keyed = (piece.partition("}") for piece in pieces[1:])
    return pieces[0] + "".join(f"{OmegaConf.select(config, key)}{rest}" for key, _, rest in keyed)


def plan_of(config: DictConfig) -> Iterator[tuple[str, str]]:
    """(label, text) printed at the start of a run: rows, epochs, steps, and when thresholds change."""
    yield "steps", _steps(config)
    yield from ((label or "reason", text) for label, text in _reward(config) if label in ("thresholds", ""))


def steps_of(config: DictConfig) -> int | None:
    """Trainer steps, as `PPOTrainer._init_dataloader` counts them; None if the data is not here to count."""
    return length_of(config).total_steps


def _steps(config: DictConfig) -> str:
    trainer = config.trainer
    often = {"validate": trainer.test_freq, "save": trainer.save_freq}
    every = [f"{word} every {steps}" for word, steps in often.items() if steps > 0]
    return "; ".join([length_of(config).describe(), *every, f"resume: {trainer.resume_mode}"])


def _reward(config: DictConfig) -> Iterator[tuple[str, str]]:
    settings = valid_settings(config)
    if config.reward.reward_manager.name not in OWN_MANAGERS:
        yield "reward", f"{config.reward.reward_manager.name} (verl's own)"
        return
    if settings is None:
        yield "reward", "invalid; see the problems"
        return
    for preset in settings.routing.presets:
        criteria = ", ".join(f"{name} x{weight:g}" for name, weight in preset.weights.items())
        yield "reward", f"{preset.name}: {criteria}{_scored_rows(settings, preset)}"
    yield "thresholds", _schedule(config, settings)
    guessed = guess_frame(config, settings)
    if settings.reward.schedule.follows_model and not settings.is_off:
        yield "", switch_words(guessed) if guessed is not None else "the model's family is read when the run starts"
    frame = settings.frame
    if frame == "auto":
        unknown = (
            "not known for this model" if guessed == NO_FRAME else "read from the model's config.json at the start"
        )
        frame = f"{guessed} (auto, by the model)" if guessed else f"auto ({unknown})"
    yield "frame", f"{frame}; answers as {settings.reward.answer_format}"


def _scored_rows(settings: Settings, preset: Preset) -> str:
    """The rows that routes choose for a preset."""
    routes = settings.routing
    by = {"task": routes.by_task, "source": routes.by_source, "value": routes.by_column}
    rules = [f"{kind} {name}" for kind, rule in by.items() for name, chosen in rule.items() if chosen is preset]
    return f" (for {', '.join(rules)})" if rules else ""


def _schedule(config: DictConfig, settings: Settings) -> str:
    schedule = follow_model(settings.reward.schedule, guess_frame(config, settings) or NO_FRAME)
    if settings.is_off:
        return f"no schedule: {short_thresholds(schedule.off)}"
    stages = [short_thresholds(thresholds) for _, thresholds in schedule.points]
    if settings.gate is not None:
        return f"gated on {settings.gate.metric}: {' then '.join(stages)} (match IoU / floor / full)"
    length = length_of(config)
    total = settings.total_steps or length.total_steps
    starts = [_start(at, total, length.last_step) for at, _ in schedule.points]
    parts = [f"{stage} {start}" for stage, start in zip(stages, starts, strict=True)]
    moving = "" if schedule.interpolation == "step" else f", {schedule.interpolation} between"
    return f"{', '.join(parts)}{moving} (match IoU / floor / full)"


def _start(progress: float, total: int | None, last_step: int | None = None) -> str:
    """Describe the first step at this progress.

    >>> _start(0.5, 40), _start(1.0, 40), _start(0.9, 5), _start(0.5, 40, 20), _start(0.5, None)
    ('from step 21', 'not reached in this run', 'not reached in this run', 'not reached in this run', 'from 50 %')
    """
    if progress == 1.0:
        return "not reached in this run"
    if total is None:
        return f"from {100 * progress:.0f} %"
    first = first_step(progress, total) if total > 0 else None
    is_reached = first is not None and (last_step is None or first <= last_step)
    return f"from step {first}" if is_reached else "not reached in this run"


def _algorithm(config: DictConfig) -> str:
    actor, algorithm = config.actor_rollout_ref.actor, config.algorithm
    kl = f"KL {actor.kl_loss_coef} ({actor.kl_loss_type}) in the loss" if actor.use_kl_loss else "no KL"
    if algorithm.use_kl_in_reward:
        kl += f", KL {algorithm.kl_ctrl.kl_coef} in the reward"
    clip = f"clip {actor.clip_ratio_low}/{actor.clip_ratio_high}"
    parts = [str(algorithm.adv_estimator), kl, f"loss {actor.loss_agg_mode}", clip]
    if filter_metric(config):
        parts.append(f"groups with equal {filter_metric(config)} are sampled again")
    return "; ".join(parts)


def _micro(config: DictConfig) -> str:
    if config.actor_rollout_ref.actor.use_dynamic_bsz:
        text = (
            "up to {actor_rollout_ref.actor.ppo_max_token_len_per_gpu} tokens at once (log-probs: "
            "{actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu})"
        )
    else:
        text = (
            "{actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu} answers at once (log-probs: "
            "{actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu})"
        )
    return _filled(config, text)
