"""Print a plan as tables, or as overrides for verl."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from verl_visionr1.tools.plan import choosing, memory
from verl_visionr1.tools.plan.choosing import Plan
from verl_visionr1.tools.plan.memory import Part, total, trained_params
from verl_visionr1.tools.plan.shape import PlanError

ACTOR, MODEL, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.model", "actor_rollout_ref.rollout"
REF = "actor_rollout_ref.ref"
SDPA_KEY = f"++{MODEL}.override_config.attn_implementation"


Override: TypeAlias = tuple[str, object, str]
"""Key of verl, value and reason."""


def overrides_of(plan: Plan) -> dict[str, tuple[str, str]]:
    """Key of verl -> (value, why), in reading order; without what the plan does not decide (lengths, batch, KL)."""
    overrides = (*_training(plan), *_generation(plan), *_variants(plan))
    return {key: (str(value), why) for key, value, why in overrides}


def _training(plan: Plan) -> Iterator[Override]:
    settings, fsdp = plan.settings, f"{ACTOR}.fsdp_config"
    yield "trainer.n_gpus_per_node", plan.machine.gpus, "as given"
    yield "trainer.nnodes", plan.machine.nodes, "as given"
    yield f"{ACTOR}.strategy", "fsdp2", "shards parameter by parameter; offload_policy and a frozen tower need it"
    for key, is_on in (("param_offload", settings.offload_params), ("optimizer_offload", settings.offload_adam)):
        frees = "frees memory for vLLM; loaded again to train" if is_on else "fits beside vLLM"
        yield f"{fsdp}.{key}", is_on, "no effect with offload_policy" if settings.offload_always else frees
    only_way = "does not fit otherwise: weights, gradients and Adam in host memory; slow"
    yield (
        f"{fsdp}.offload_policy",
        settings.offload_always,
        only_way if settings.offload_always else "training fits without",
    )
    yield f"{MODEL}.enable_gradient_checkpointing", True, "else every layer's activations are kept"
    yield from _attention(plan)
    logits = f"else several copies of the logits of {settings.tokens} tokens x {plan.shape.vocab} words"
    no_head = "verl has no fused head for this kind of model"
    yield f"{MODEL}.use_fused_kernels", settings.is_fused, logits if settings.is_fused else no_head
    yield f"{ACTOR}.use_dynamic_bsz", True, "micro-batches by tokens, not by answers: images differ in size"
    largest = "the largest tried that fits, within a worker's share of a step"
    yield f"{ACTOR}.ppo_max_token_len_per_gpu", settings.tokens, largest
    yield f"{ROLLOUT}.log_prob_max_token_len_per_gpu", plan.log_prob_tokens, "no gradients, so more fit"
    if plan.run.has_kl and not plan.run.lora_rank:
        yield f"{REF}.log_prob_max_token_len_per_gpu", plan.log_prob_tokens, "the same for the reference model"
        yield f"{REF}.fsdp_config.model_dtype", "bf16", "it is computed in bf16 anyway: half the host memory"


def _attention(plan: Plan) -> Iterator[Override]:
    """Attention settings; flash_attention_2 is verl's default, so only sdpa is named."""
    if plan.machine.has_flash:
        yield f"{MODEL}.use_remove_padding", True, "micro-batches are packed: no padding; needs flash-attn"
    else:
        yield f"{MODEL}.use_remove_padding", False, "packed micro-batches need flash-attn; these are padded"
        yield SDPA_KEY, "sdpa", "torch's own attention"


def _generation(plan: Plan) -> Iterator[Override]:
    parallel = plan.settings.tensor_parallel
    alone = "an engine on each GPU: no communication" if parallel == 1 else "weights and cache do not fit one GPU"
    yield f"{ROLLOUT}.tensor_model_parallel_size", parallel, alone
    cache = f"the cache holds {plan.sequences} of {plan.wanted} sequences at once"
    yield f"{ROLLOUT}.gpu_memory_utilization", f"{plan.share:g}", cache
    yield f"{ROLLOUT}.free_cache_engine", True, "vLLM frees its memory while the model is trained"
    yield f"{ROLLOUT}.max_model_len", plan.run.length, "prompt + answer; else vLLM asks for the model's whole context"


def _variants(plan: Plan) -> Iterator[Override]:
    if plan.run.lora_rank:
        yield f"{MODEL}.lora_rank", plan.run.lora_rank, "as given"
        yield f"{MODEL}.exclude_modules", "'.*visual.*'", "vLLM adapts language layers only"
        yield f"{ROLLOUT}.load_format", "safetensors", "vLLM has the base weights from the start"
    if plan.run.is_vision_frozen and not plan.run.lora_rank:
        library = "verl_visionr1.runtime.frozen_vision"
        yield f"{MODEL}.external_lib", library, "verl 0.9.1 does not read actor.freeze_vision_tower; this freezes it"


def override_lines(plan: Plan) -> list[str]:
    """One override per line, for a shell array."""
    return [f"{key}={value}" for key, (value, _) in overrides_of(plan).items()]


def explanation(plan: Plan) -> Iterator[RenderableType]:
    """The memory tables, and the settings with their reasons."""
    shape, machine, run = plan.shape, plan.machine, plan.run
    trained = trained_params(shape, run)
    yield Text(
        f"{shape.params / 1e9:.2f} billion parameters ({shape.name}), {trained / 1e9:.2f} trained, on "
        f"{machine.nodes} x {machine.gpus} GPUs of {machine.gpu_gb:g} GB; {run.prompts} prompts x {run.answers} "
        f"answers, up to {run.max_prompt} + {run.max_response} tokens"
    )
    yield _account("training, GB per GPU", plan.training, machine.gpu_gb)
    yield _account("generation, GB per GPU", plan.generation, machine.gpu_gb)
    yield _account("GB of host memory per node", plan.host, machine.host_gb)
    yield Text("settings")
    for key, (value, why) in overrides_of(plan).items():
        yield Text(f"{key}={value}\n    {why}")
    yield from _remarks(plan)
    yield Text("Estimates from the formulas in verl_visionr1/tools/plan/memory.py; not measured on a GPU.")


def cost_of_sdpa(plan: Plan) -> str:
    """Estimated cost of training without flash-attn, in one line."""
    budget = plan.settings.tokens
    try:
        packed = choosing.plan(plan.shape, replace(plan.machine, has_flash=True), plan.run).settings.tokens
    except PlanError:
        packed = budget
    if packed > budget:
        rounds = f"{packed / budget:.2g} times as many micro-batches (budget {budget} tokens, {packed} with flash-attn)"
    else:
        rounds = f"the same budget of {budget} tokens"
    run = plan.run
    slower = run.length / (run.max_prompt + run.max_response / 2)
    return (
        f"sdpa instead of flash-attn: {rounds}, each padded to its longest sequence: memory planned for up to "
        f"{memory.PADDED:g} x the tokens. Log-probabilities and updates take longest / mean length times as long, "
        f"{slower:.2f} x where answers fill half of {run.max_response} tokens, and attention itself is slower (not "
        "counted); generation is as fast (vLLM has its own attention)"
    )


def _remarks(plan: Plan) -> Iterator[Text]:
    if not plan.machine.has_flash:
        yield Text(cost_of_sdpa(plan))
    if 2 * plan.sequences < plan.wanted:
        yield Text(f"vLLM's cache holds {plan.sequences} of {plan.wanted} sequences at once: generation runs in rounds")
    if plan.settings.offload_always:
        yield Text("Adam runs on the CPU: more GPUs, or LoRA, would be much faster")
    if plan.shape.is_tied and plan.machine.gpus > 1:
        yield Text("tied embeddings: each worker of a node loads the whole model into host memory at the start")


def _account(title: str, parts: Sequence[Part], limit: float | None) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("part")
    table.add_column("GB", justify="right")
    table.add_column("how", overflow="fold")
    for part in parts:
        table.add_row(Text(part.name), f"{part.gb:.1f}", Text(part.why))
    of = "" if limit is None else f"of {limit:g}"
    table.add_row(Text("together"), f"{total(parts):.1f}", Text(of))
    return table
