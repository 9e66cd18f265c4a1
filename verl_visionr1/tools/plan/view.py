"""Print a plan as tables, or as overrides for verl."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from verl_visionr1.tools.plan import memory
from verl_visionr1.tools.plan.choosing import Plan
from verl_visionr1.tools.plan.memory import Part, total

ACTOR, MODEL, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.model", "actor_rollout_ref.rollout"
REF = "actor_rollout_ref.ref"

LARGE_HOST_GB = 128
"""More host memory per node than this is remarked on if the machine's own is not given."""

Override: TypeAlias = tuple[str, object, str]
"""Key of verl, value and reason."""


def overrides_of(plan: Plan) -> list[Override]:
    """The overrides in reading order; without what the plan does not decide (lengths, batch, KL)."""
    return [*_training(plan), *_generation(plan), *_variants(plan)]


def _training(plan: Plan) -> Iterator[Override]:
    settings, machine, fsdp = plan.step.settings, plan.step.machine, f"{ACTOR}.fsdp_config"
    yield "trainer.n_gpus_per_node", machine.gpus, "as given"
    yield "trainer.nnodes", machine.nodes, "as given"
    yield f"{ACTOR}.strategy", "fsdp2", "shards parameter by parameter; offload_policy and a frozen tower need it"
    for key, is_on in (("param_offload", settings.offload_params), ("optimizer_offload", settings.offload_adam)):
        frees = "frees memory for vLLM; loaded again to train" if is_on else "fits beside vLLM"
        yield f"{fsdp}.{key}", is_on, "no effect with offload_policy" if settings.offload_always else frees
    slow = "does not fit otherwise: weights, gradients and Adam in host memory; slow"
    yield f"{fsdp}.offload_policy", settings.offload_always, slow if settings.offload_always else "fits without"
    yield f"{MODEL}.enable_gradient_checkpointing", True, "else every layer's activations are kept"
    if machine.has_flash:  # flash_attention_2 is verl's default
        yield f"{MODEL}.use_remove_padding", True, "micro-batches are packed: no padding; needs flash-attn"
    else:
        yield f"{MODEL}.use_remove_padding", False, "packed micro-batches need flash-attn; these are padded"
        yield f"++{MODEL}.override_config.attn_implementation", "sdpa", "torch's own attention"
    logits = "else several copies of the logits of all tokens" if settings.is_fused else "verl has no fused head for it"
    yield f"{MODEL}.use_fused_kernels", settings.is_fused, logits
    yield f"{ACTOR}.use_dynamic_bsz", True, "micro-batches by tokens, not by answers: images differ in size"
    largest = "the largest tried that fits, within a worker's share of a step"
    yield f"{ACTOR}.ppo_max_token_len_per_gpu", settings.tokens, largest
    yield f"{ROLLOUT}.log_prob_max_token_len_per_gpu", plan.log_prob_tokens, "no gradients, so more fit"


def _generation(plan: Plan) -> Iterator[Override]:
    parallel = plan.step.settings.tensor_parallel
    alone = "an engine on each GPU: no communication" if parallel == 1 else "weights and cache do not fit one GPU"
    yield f"{ROLLOUT}.tensor_model_parallel_size", parallel, alone
    cache = f"the cache holds {plan.sequences} of {plan.wanted} sequences at once"
    yield f"{ROLLOUT}.gpu_memory_utilization", f"{plan.share:g}", cache
    yield f"{ROLLOUT}.free_cache_engine", True, "vLLM frees its memory while the model is trained"
    yield f"{ROLLOUT}.max_model_len", plan.step.run.length, "prompt + answer; else the model's whole context"


def _variants(plan: Plan) -> Iterator[Override]:
    run = plan.step.run
    if run.lora_rank:
        yield f"{MODEL}.lora_rank", run.lora_rank, "as given"
        yield f"{MODEL}.exclude_modules", "'.*visual.*'", "vLLM adapts language layers only"
        yield f"{ROLLOUT}.load_format", "safetensors", "vLLM has the base weights from the start"
        return
    if run.has_kl:
        yield f"{REF}.log_prob_max_token_len_per_gpu", plan.log_prob_tokens, "the same for the reference model"
        yield f"{REF}.fsdp_config.model_dtype", "bf16", "it is computed in bf16 anyway: half the host memory"
    if run.is_vision_frozen:
        library = "verl_visionr1.runtime.frozen_vision"
        yield f"{MODEL}.external_lib", library, "verl 0.9.1 does not read actor.freeze_vision_tower; this freezes it"


def explanation(plan: Plan) -> Iterator[RenderableType]:
    """The memory tables, and the settings with their reasons."""
    shape, machine, run = plan.step.shape, plan.step.machine, plan.step.run
    yield Text(
        f"{shape.params / 1e9:.2f} billion parameters ({shape.name}), {plan.step.trained / 1e9:.2f} trained, on "
        f"{machine.nodes} x {machine.gpus} GPUs of {machine.gpu_gb:g} GB; {run.prompts} prompts x {run.answers} "
        f"answers, up to {run.max_prompt} + {run.max_response} tokens"
    )
    yield _account("training, GB per GPU", plan.step.training(), machine.gpu_gb)
    yield _account("generation, GB per GPU", plan.generation, machine.gpu_gb)
    yield _account("GB of host memory per node", plan.step.host(), machine.host_gb)
    yield Text("settings")
    for key, value, why in overrides_of(plan):
        yield Text(f"{key}={value}\n    {why}")
    yield from map(Text, _remarks(plan))
    yield Text("Estimates from the formulas in verl_visionr1/tools/plan/memory.py; not measured on a GPU.")


def _remarks(plan: Plan) -> Iterator[str]:
    run = plan.step.run
    if not plan.step.machine.has_flash:
        slower = run.length / (run.max_prompt + run.max_response / 2)
        yield (
            "sdpa instead of flash-attn: micro-batches are padded to their longest sequence; memory is planned for up "
            f"to {memory.PADDED:g} x the tokens. Log-probabilities and updates take longest / mean length times as "
            f"long, {slower:.2f} x where answers fill half of {run.max_response} tokens; attention itself is slower, "
            "too. Generation is as fast (vLLM has its own attention)"
        )
    if 2 * plan.sequences < plan.wanted:
        yield f"vLLM's cache holds {plan.sequences} of {plan.wanted} sequences at once: generation runs in rounds"
    host_gb = total(plan.step.host())
    if plan.step.machine.host_gb is None and host_gb > LARGE_HOST_GB:
        yield f"needs {host_gb:.0f} GB of host memory per node, which is not checked; give yours: --host-memory GB"
    if plan.step.settings.offload_always:
        yield "Adam runs on the CPU: more GPUs, or LoRA, would be much faster"


def _account(title: str, parts: Sequence[Part], limit: float | None) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("part")
    table.add_column("GB", justify="right")
    table.add_column("how", overflow="fold")
    for part in parts:
        table.add_row(Text(part.name), f"{part.gb:.1f}", Text(part.why))
    table.add_row(Text("together"), f"{total(parts):.1f}", Text("" if limit is None else f"of {limit:g}"))
    return table
