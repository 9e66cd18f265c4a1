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


def agreement_problems(config: DictConfig) -> list[str]:
    """Disagreements that stop a run, or spoil it silently; call only without `number_problems`."""
    checks = (_engine, _batches, _micro_batches, _token_budgets, _lengths, _rollout, _trainer, _separate_async)
    return [problem for check in checks for problem in check(config)]


def number_problems(config: DictConfig) -> list[str]:
    """Keys that must be numbers and are not."""
    return [
        f"{key}={OmegaConf.select(config, key)}: needs a number above 0"
        for key in (*_NUMBERS, *_MAY_BE_NULL)
        if not _is_number(config, key)
    ]


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


def _is_number(config: DictConfig, key: str) -> bool:
    value = OmegaConf.select(config, key)
    if value is None:
        return key in _MAY_BE_NULL
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def workers_of(config: DictConfig) -> int:
    """Training workers: GPUs, or processes on a CPU."""
    return int(config.trainer.n_gpus_per_node) * int(config.trainer.nnodes)


def _get(config: DictConfig, key: str, default: Any = None) -> Any:
    value = OmegaConf.select(config, key)
    return default if value is None else value


def _model_parallel(config: DictConfig, role: str = ACTOR) -> dict[str, int]:
    """Parallel size -> workers that share one copy of a model, by its engine."""
    engine = _get(config, f"{ACTOR}.strategy")
    if engine == "megatron":
        return {name: _size(config, f"{role}.megatron.{name}") for name in _MEGATRON}
    if engine == "veomni":
        return {_VEOMNI: _size(config, f"{role}.veomni.{_VEOMNI}")}
    return {_SEQUENCE: _ulysses(config, role)}


def _ulysses(config: DictConfig, role: str) -> int:
    """Sequence-parallel size of FSDP: the deprecated key wins if set (`FSDPActorConfig.__post_init__`)."""
    size = _size(config, f"{role}.{_SEQUENCE}")
    return size if size > 1 else _size(config, f"{role}.fsdp_config.{_SEQUENCE}")


def _size(config: DictConfig, key: str) -> int:
    return max(int(_get(config, key, 1)), 1)


_SEQUENCE, _VEOMNI = "ulysses_sequence_parallel_size", "ulysses_parallel_size"
_MEGATRON = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size")
_SHARING = (_SEQUENCE, _VEOMNI, "context_parallel_size")
"""Parallel sizes that share the tokens of one sequence among workers."""


def _data_parallel(config: DictConfig, role: str = ACTOR) -> tuple[int, int]:
    """(sequence-parallel, data-parallel) size of a model (`get_data_parallel_size` of FSDP's and Megatron's engine)."""
    sizes = _model_parallel(config, role)
    sequence_parallel = math.prod(size for name, size in sizes.items() if name in _SHARING)
    if _get(config, f"{role}.megatron.dynamic_context_parallel", False) and "context_parallel_size" in sizes:
        return sequence_parallel, 1
    return sequence_parallel, max(workers_of(config) // math.prod(sizes.values()), 1)


def _engine(config: DictConfig) -> Iterator[str]:
    """`EngineRegistry`, `FSDPEngine`, `create_device_mesh`, Megatron's `initialize_model_parallel`."""
    engine = str(_get(config, f"{ACTOR}.strategy"))
    section = next((name for name in ("megatron", "veomni", "torchtitan") if _get(config, f"{ACTOR}.{name}")), None)
    allowed = (section,) if section is not None else _FSDP
    if engine not in allowed:
        is_other = engine in ("megatron", "veomni", "torchtitan")
        advice = f"set model_engine={engine}" if is_other else f"leave {ACTOR}.strategy out, or set it to {allowed[0]}"
        yield f"{ACTOR}.strategy={engine}: this configuration is for {' or '.join(allowed)}; {advice}"
        return
    workers = workers_of(config)
    for role in (ACTOR, REF) if _has_reference(config) else (ACTOR,):
        sizes = _model_parallel(config, role)
        if workers % math.prod(sizes.values()):
            yield f"{role}: {_products(sizes)}: {workers} {_GPUS}: need a multiple of it"
        if engine == "megatron":
            experts = _expert_parallel(config, role)
            if workers % math.prod(experts.values()):
                yield f"{role}.megatron: {_products(experts)}: {workers} {_GPUS}: need a multiple of it"
    if section is not None:
        return
    if _ulysses(config, ACTOR) > 1 and not _get(config, "actor_rollout_ref.model.use_remove_padding", False):
        yield (
            f"{ACTOR}.fsdp_config.{_SEQUENCE}={_ulysses(config, ACTOR)}: needs "
            "actor_rollout_ref.model.use_remove_padding=true"
        )
    shards = int(_get(config, f"{ACTOR}.fsdp_config.fsdp_size", -1))
    if 0 < shards < workers and workers % shards:
        yield f"{ACTOR}.fsdp_config.fsdp_size={shards}: {workers} {_GPUS}: need a multiple of it; -1 uses all"


_GPUS = "GPUs (trainer.n_gpus_per_node x nnodes)"
_FSDP = ("fsdp", "fsdp2", "fsdp_turbo")


def _expert_parallel(config: DictConfig, role: str) -> dict[str, int]:
    """Megatron's sizes for the experts of a mixture; none for a dense model."""
    names = ("expert_model_parallel_size", "expert_tensor_parallel_size", "pipeline_model_parallel_size")
    tensor = _size(config, f"{role}.megatron.tensor_model_parallel_size")
    sizes = {name: _size(config, f"{role}.megatron.{name}") for name in names}
    if _get(config, f"{role}.megatron.{names[1]}") is None:
        sizes[names[1]] = tensor
    return sizes if sizes[names[0]] > 1 else {}


def _products(sizes: dict[str, int]) -> str:
    return " x ".join(f"{name}={size}" for name, size in sizes.items() if size != 1)


def _batches(config: DictConfig) -> Iterator[str]:
    """`ActorConfig.validate` (called only without dynamic batches), `TrainingWorker.train_mini_batch`."""
    batch, n = config.data.train_batch_size, config.actor_rollout_ref.rollout.n
    mini = config.actor_rollout_ref.actor.ppo_mini_batch_size
    _, parallel = _data_parallel(config)
    if mini > batch and _get(config, f"{ACTOR}.use_dynamic_bsz", False):  # else verl reports it
        yield (
            f"{ACTOR}.ppo_mini_batch_size={mini}: a step has only data.train_batch_size={batch} prompts; "
            f"set it to {batch}, or a divisor"
        )
    if mini * n % parallel:
        yield (
            f"{ACTOR}.ppo_mini_batch_size={mini} x {ROLLOUT}.n={n} = {mini * n} answers: need a multiple of "
            f"{parallel}, the training workers, for example {_nearest_batches(config, parallel)}"
        )


def _nearest_batches(config: DictConfig, parallel: int) -> str:
    """The nearest mini-batch that the workers share, and the nearest batch where it needs another one, too."""
    batch, n = config.data.train_batch_size, config.actor_rollout_ref.rollout.n
    mini = _nearest(config.actor_rollout_ref.actor.ppo_mini_batch_size, parallel // math.gcd(n, parallel))
    workers = workers_of(config)
    fitting = _nearest(batch, math.lcm(mini, workers // math.gcd(n, workers)))
    beside = "" if batch * n % workers == 0 and batch >= mini else f" and data.train_batch_size={fitting}"
    return f"ppo_mini_batch_size={mini}{beside}"


def _nearest(number: int, step: int) -> int:
    return max(round(number / step), 1) * step


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
    batch, n = config.data.train_batch_size, config.actor_rollout_ref.rollout.n
    mini = config.actor_rollout_ref.actor.ppo_mini_batch_size
    _, parallel = _data_parallel(config)
    padded = -(-batch * n // math.lcm(parallel, mini * n)) * math.lcm(parallel, mini * n)  # `_balance_batch` fills up
    shares = {f"{ACTOR}.ppo_micro_batch_size_per_gpu": mini * n / parallel}
    shares[f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu"] = padded / parallel
    if _has_reference(config):
        shares[f"{REF}.log_prob_micro_batch_size_per_gpu"] = padded / _data_parallel(config, REF)[1]
    for key, share in shares.items():
        micro = _get(config, key)
        if micro is None:
            yield f"{key}=null: needs a number, or {ACTOR}.use_dynamic_bsz=true with token budgets instead"
        elif micro <= 0 or share % micro:
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
        sequence_parallel, _ = _data_parallel(config, role)
        budget = _get(config, key, 0) * sequence_parallel
        if budget < length:
            yield (
                f"{key}={_get(config, key)}: a sequence may have {length} tokens (data.max_prompt_length + "
                f"data.max_response_length); needs at least {-(-length // sequence_parallel)}"
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
        if _get(config, f"{ROLLOUT}.{key}") != _get(config, f"data.{meant}"):
            own = _get(config, f"{ROLLOUT}.{key}")
            yield f"{ROLLOUT}.{key}={own}: must equal data.{meant}; leave it out to follow"


def _rollout(config: DictConfig) -> Iterator[str]:
    """`ActorRolloutRefWorker.init_model`: whole replicas of the engine."""
    parts = {f"{name}_parallel_size": _get(config, f"{ROLLOUT}.{name}_parallel_size", 1) for name in _PARALLEL}
    size = math.prod(parts.values())
    for where, gpus in _rollout_gpus(config).items():
        if size < 1 or gpus % size:
            named = f"GPUs ({where}.n_gpus_per_node x nnodes)"
            yield f"{ROLLOUT}: {_products(parts)}: {gpus} {named} need to be a multiple of it"
    share = _get(config, f"{ROLLOUT}.gpu_memory_utilization", 0.5)
    if not 0.0 < share <= 1.0:
        yield f"{ROLLOUT}.gpu_memory_utilization={share}: needs a fraction in (0, 1]"


def _rollout_gpus(config: DictConfig) -> dict[str, int]:
    """GPUs that generate, by where they are set: the trainer's own; with separate_async others, in addition or
    instead."""
    own = {"trainer": workers_of(config)}
    if not _is_separate(config):
        return own
    apart = int(_get(config, f"{ROLLOUT}.n_gpus_per_node", 0)) * int(_get(config, f"{ROLLOUT}.nnodes", 0))
    return {**(own if _get(config, "actor_rollout_ref.hybrid_engine", True) else {}), ROLLOUT: apart}


def _is_separate(config: DictConfig) -> bool:
    return bool(_get(config, "trainer.use_v1", True)) and _get(config, "trainer.v1.trainer_mode") == "separate_async"


def _separate_async(config: DictConfig) -> Iterator[str]:
    """Assertions of `PPOTrainerSeparateAsync.__init__`."""
    if not _is_separate(config):
        return
    batch, mini = config.data.train_batch_size, config.actor_rollout_ref.actor.ppo_mini_batch_size
    key = "trainer.v1.separate_async.parameter_sync_step"
    parts = _get(config, key, 1)
    if batch != parts * mini:
        yield (
            f"data.train_batch_size={batch}: separate_async needs {key}={parts} x {ACTOR}.ppo_mini_batch_size={mini}; "
            f"set it to {parts * mini}"
        )
    for name in ("nnodes", "n_gpus_per_node"):
        value = _get(config, f"{ROLLOUT}.{name}", 0)
        if value <= 0:
            yield f"{ROLLOUT}.{name}={value}: separate_async needs separate GPUs for generation; set their number"
    switch = "trainer.v1.separate_async.hybrid_rollout.enable_switch"
    hybrid = _get(config, "actor_rollout_ref.hybrid_engine", True) and _get(config, switch, False)
    if hybrid and _get(config, f"{ROLLOUT}.disaggregation.enabled", False):
        yield f"{switch}=true: not with {ROLLOUT}.disaggregation.enabled=true; leave one of them out"
    backend = _get(config, f"{ROLLOUT}.checkpoint_engine.backend")
    if backend == "naive":
        yield f"{ROLLOUT}.checkpoint_engine.backend=naive: separate_async needs one that sends weights, such as nccl"


_PARALLEL = ("tensor_model", "data", "pipeline_model")


def _trainer(config: DictConfig) -> Iterator[str]:
    """`PPOTrainer.step`, `_load_checkpoint`, `_resolve_filter_groups_metric`, `Tracking`."""
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
    filters = "algorithm.filter_groups"
    if _get(config, f"{filters}.enable", False) and _get(config, f"{filters}.max_num_gen_batches", 0) > 0:
        yield "algorithm.filter_groups.max_num_gen_batches: verl's V1 trainer ignores it; see max_inflight_gen_batches"
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
