"""Check that numbers of verl's config agree, before its V1 trainer fails minutes after the start of Ray.

Each check names the place in verl 0.9.1 that would raise, or the silent loss. All are arithmetic on the config, without
GPU, Ray or model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

ROLLOUT, ACTOR, REF = "actor_rollout_ref.rollout", "actor_rollout_ref.actor", "actor_rollout_ref.ref"
_NUMBERS = (
    *("data.train_batch_size", "data.max_prompt_length", "data.max_response_length"),
    *("trainer.n_gpus_per_node", "trainer.nnodes", f"{ROLLOUT}.n", f"{ACTOR}.ppo_mini_batch_size"),
    *("trainer.total_epochs", "reward.num_workers", f"{ROLLOUT}.agent.num_workers"),
    *(f"{ROLLOUT}.tensor_model_parallel_size", f"{ROLLOUT}.gpu_memory_utilization"),
)
_MAY_BE_NULL = (
    *(f"{ACTOR}.ppo_micro_batch_size_per_gpu", f"{ACTOR}.ppo_max_token_len_per_gpu", f"{ROLLOUT}.max_model_len"),
    *(f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu", f"{ROLLOUT}.log_prob_max_token_len_per_gpu"),
    *(f"{REF}.log_prob_micro_batch_size_per_gpu", f"{REF}.log_prob_max_token_len_per_gpu"),
    *("trainer.total_training_steps", "data.gen_batch_size"),
    *(f"trainer.v1.{mode}.parameter_sync_step" for mode in ("sync", "colocate_async", "separate_async")),
)


def number_problems(config: DictConfig) -> list[str]:
    """Keys that must be numbers and are not."""
    return [
        f"{key}={OmegaConf.select(config, key)}: needs a number above 0"
        for key in (*_NUMBERS, *_MAY_BE_NULL)
        if not _is_number(config, key)
    ]


def _is_number(config: DictConfig, key: str) -> bool:
    value = OmegaConf.select(config, key)
    if value is None:
        return key in _MAY_BE_NULL
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def agreement_problems(config: DictConfig) -> list[str]:
    """Disagreements that stop a run, or spoil it silently; call only without `number_problems`.

    Batches are checked for FSDP only: other engines divide a model among workers in ways of their own.
    """
    checks = [_lengths, _rollout, _trainer]
    if not any(_get(config, f"{ACTOR}.{section}") for section in ("megatron", "veomni", "torchtitan")):
        checks = [_engine, _batches, _micro_batches, _token_budgets, *checks]
    return [problem for check in checks for problem in check(config)]


def _get(config: DictConfig, key: str, default: Any = None) -> Any:
    value = OmegaConf.select(config, key)
    return default if value is None else value


def workers_of(config: DictConfig) -> int:
    """Training workers: GPUs, or processes on a CPU."""
    return int(config.trainer.n_gpus_per_node) * int(config.trainer.nnodes)


def _sequence_parallel(config: DictConfig, role: str = ACTOR) -> int:
    """Workers that share one sequence: the deprecated key wins if set (`FSDPActorConfig.__post_init__`)."""
    sizes = [_get(config, f"{role}.{key}", 1) for key in (_ULYSSES, f"fsdp_config.{_ULYSSES}")]
    return max(next((int(size) for size in sizes if size > 1), 1), 1)


_ULYSSES = "ulysses_sequence_parallel_size"


def _data_parallel(config: DictConfig, role: str = ACTOR) -> int:
    """Parts of a batch that are processed at once (`FSDPEngine.get_data_parallel_size`)."""
    return max(workers_of(config) // _sequence_parallel(config, role), 1)


def _engine(config: DictConfig) -> Iterator[str]:
    """`EngineRegistry`, `FSDPEngine`, `create_device_mesh`."""
    engine, workers = str(_get(config, f"{ACTOR}.strategy")), workers_of(config)
    if engine not in ("fsdp", "fsdp2", "fsdp_turbo"):
        yield f"{ACTOR}.strategy={engine}: needs fsdp or fsdp2; for another engine set model_engine, such as megatron"
    for role in (ACTOR, REF) if _has_reference(config) else (ACTOR,):
        size = _sequence_parallel(config, role)
        if workers % size:
            yield f"{role}.fsdp_config.{_ULYSSES}={size}: {workers} {_GPUS}: need a multiple of it"
    size = _sequence_parallel(config)
    if size > 1 and not _get(config, "actor_rollout_ref.model.use_remove_padding", False):
        yield f"{ACTOR}.fsdp_config.{_ULYSSES}={size}: needs actor_rollout_ref.model.use_remove_padding=true"
    shards = int(_get(config, f"{ACTOR}.fsdp_config.fsdp_size", -1))
    if 0 < shards < workers and workers % shards:
        yield f"{ACTOR}.fsdp_config.fsdp_size={shards}: {workers} {_GPUS}: need a multiple of it; -1 uses all"


_GPUS = "GPUs (trainer.n_gpus_per_node x nnodes)"


def _batches(config: DictConfig) -> Iterator[str]:
    """`ActorConfig.validate` (called only without dynamic batches), `TrainingWorker.train_mini_batch`."""
    batch, n, parallel = config.data.train_batch_size, config.actor_rollout_ref.rollout.n, _data_parallel(config)
    mini = config.actor_rollout_ref.actor.ppo_mini_batch_size
    if mini > batch and _get(config, f"{ACTOR}.use_dynamic_bsz", False):  # else verl reports it
        yield (
            f"{ACTOR}.ppo_mini_batch_size={mini}: a step has only data.train_batch_size={batch} prompts; "
            f"set it to {batch}, or a divisor"
        )
    if mini * n % parallel:
        step = parallel // math.gcd(n, parallel)
        yield (
            f"{ACTOR}.ppo_mini_batch_size={mini} x {ROLLOUT}.n={n} = {mini * n} answers: need a multiple of "
            f"{parallel}, the training workers; set it and data.train_batch_size to multiples of {step}"
        )


def _micro_batches(config: DictConfig) -> Iterator[str]:
    """`prepare_micro_batches` in `verl/workers/engine/utils.py`, `ActorRolloutRefWorker.init_model`."""
    is_dynamic = bool(_get(config, f"{ACTOR}.use_dynamic_bsz", False))
    if is_dynamic != bool(_get(config, f"{ROLLOUT}.log_prob_use_dynamic_bsz", is_dynamic)):
        yield (
            f"{ROLLOUT}.log_prob_use_dynamic_bsz={not is_dynamic}: must equal {ACTOR}.use_dynamic_bsz={is_dynamic}; "
            "leave it out to follow"
        )
    if is_dynamic:
        return
    mini = config.actor_rollout_ref.actor.ppo_mini_batch_size * config.actor_rollout_ref.rollout.n
    batch, parallel = config.data.train_batch_size * config.actor_rollout_ref.rollout.n, _data_parallel(config)
    padded = -(-batch // math.lcm(parallel, mini)) * math.lcm(parallel, mini)  # `_balance_batch` fills up
    shares = {f"{ACTOR}.ppo_micro_batch_size_per_gpu": mini / parallel}
    shares[f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu"] = padded / parallel
    if _has_reference(config):
        shares[f"{REF}.log_prob_micro_batch_size_per_gpu"] = padded / _data_parallel(config, REF)
    for key, share in shares.items():
        micro = _get(config, key)
        if micro is None:
            yield f"{key}=null: needs a number, or {ACTOR}.use_dynamic_bsz=true with token budgets instead"
        elif share % micro:
            yield f"{key}={micro}: a worker's {share:g} answers need to be a multiple of it"


def _token_budgets(config: DictConfig) -> Iterator[str]:
    """`rearrange_micro_batches`: no sequence may be longer than the budget."""
    if not _get(config, f"{ACTOR}.use_dynamic_bsz", False):
        return
    length = _sequence_length(config)
    keys = {f"{ACTOR}.ppo_max_token_len_per_gpu": ACTOR, f"{ROLLOUT}.log_prob_max_token_len_per_gpu": ACTOR}
    if _has_reference(config):
        keys[f"{REF}.log_prob_max_token_len_per_gpu"] = REF
    for key, role in keys.items():
        size = _sequence_parallel(config, role)
        if _get(config, key, 0) * size < length:
            yield (
                f"{key}={_get(config, key)}: a sequence may have {length} tokens (data.max_prompt_length + "
                f"data.max_response_length); needs at least {-(-length // size)}"
            )


def _lengths(config: DictConfig) -> Iterator[str]:
    """`vLLMHttpServer.generate` truncates answers silently, and rejects prompts that fill the model's length."""
    longest, length = _get(config, f"{ROLLOUT}.max_model_len"), _sequence_length(config)
    if longest is not None and longest < length:
        yield (
            f"{ROLLOUT}.max_model_len={longest}: below data.max_prompt_length + data.max_response_length = {length}; "
            "answers to long prompts would be truncated; raise it"
        )
    for key, meant in (("prompt_length", "max_prompt_length"), ("response_length", "max_response_length")):
        own = _get(config, f"{ROLLOUT}.{key}")
        if own != _get(config, f"data.{meant}"):
            yield f"{ROLLOUT}.{key}={own}: must equal data.{meant}; leave it out to follow"


def _rollout(config: DictConfig) -> Iterator[str]:
    """`ActorRolloutRefWorker.init_model`: whole replicas of the engine."""
    sizes = {
        f"{name}_parallel_size": _get(config, f"{ROLLOUT}.{name}_parallel_size", 1)
        for name in ("tensor_model", "data", "pipeline_model")
    }
    gpus = workers_of(config)
    if _get(config, "trainer.v1.trainer_mode") != "separate_async" and gpus % max(math.prod(sizes.values()), 1):
        product = " x ".join(f"{name}={size}" for name, size in sizes.items() if size != 1)
        yield f"{ROLLOUT}: {product}: {gpus} {_GPUS}: need a multiple of it"
    share = _get(config, f"{ROLLOUT}.gpu_memory_utilization")
    if share > 1.0:
        yield f"{ROLLOUT}.gpu_memory_utilization={share}: needs a fraction in (0, 1]"


def _trainer(config: DictConfig) -> Iterator[str]:
    """`PPOTrainer.step`, `fit`, `_load_checkpoint`, `_resolve_filter_groups_metric`."""
    mode = _get(config, "trainer.v1.trainer_mode", "sync")
    updates = _get(config, f"trainer.v1.{mode}.parameter_sync_step", 1)
    if config.data.train_batch_size % updates:
        yield (
            f"data.train_batch_size={config.data.train_batch_size}: needs a multiple of "
            f"trainer.v1.{mode}.parameter_sync_step={updates}"
        )
    resume = _get(config, "trainer.resume_mode", "auto")
    if resume not in ("auto", "disable", "resume_path"):
        yield f"trainer.resume_mode={resume}: needs one of auto, disable, resume_path"
    elif resume == "resume_path" and not re.search(r"global_step_\d+$", str(_get(config, "trainer.resume_from_path"))):
        yield (
            "trainer.resume_mode=resume_path: trainer.resume_from_path needs a folder .../global_step_N, without a "
            f"slash at its end; it is {_get(config, 'trainer.resume_from_path')}"
        )
    if _get(config, "trainer.val_only", False) and not _get(config, "trainer.val_before_train", True):
        key = "trainer.val_before_train"
        yield f"trainer.val_only=true: {key}=false, so verl trains; set {key}=true, or leave trainer.val_only out"
    if _get(config, "algorithm.filter_groups.enable", False) and not _get(config, "algorithm.filter_groups.metric"):
        yield "algorithm.filter_groups.enable=true: needs algorithm.filter_groups.metric, for example reward"


def notes_of(config: DictConfig) -> Iterator[str]:
    """Remarks on valid settings."""
    batch, mini = config.data.train_batch_size, config.actor_rollout_ref.actor.ppo_mini_batch_size
    if mini <= batch and batch % mini:
        yield f"data.train_batch_size={batch}: not a multiple of ppo_mini_batch_size={mini}; verl adds padding"
    estimator = str(config.algorithm.adv_estimator)
    if estimator in _GROUPS and config.actor_rollout_ref.rollout.n < 2:
        yield f"{ROLLOUT}.n=1: {estimator} compares the answers of a prompt; needs at least 2"
    if config.trainer.save_freq <= 0:
        yield f"trainer.save_freq={config.trainer.save_freq}: nothing is saved"
    if not config.trainer.use_v1:
        yield "trainer.use_v1=false: the progress callback and the metrics of training need verl's V1 trainer"


_GROUPS = (
    *("grpo", "grpo_vectorized", "grpo_passk", "gdpo", "gpg", "rloo", "rloo_vectorized", "opo"),
    "reinforce_plus_plus_baseline",
)
"""Estimators of advantages that compare the answers of a prompt."""


def _sequence_length(config: DictConfig) -> int:
    return int(config.data.max_prompt_length) + int(config.data.max_response_length)


def _has_reference(config: DictConfig) -> bool:
    """`need_reference_policy`, without importing the trainer; with LoRA it is the actor without its adapter."""
    wanted = _get(config, "algorithm.use_kl_in_reward", False) or _get(config, f"{ACTOR}.use_kl_loss", False)
    return bool(wanted) and not has_adapter(config)


def has_adapter(config: DictConfig) -> bool:
    """Whether a LoRA adapter is trained, by the rule of `PPOTrainer._setup`."""
    model = "actor_rollout_ref.model"
    rank = _get(config, f"{model}.lora.rank", 0) or _get(config, f"{model}.lora_rank", 0)
    return rank > 0 or _get(config, f"{model}.lora_adapter_path") is not None
