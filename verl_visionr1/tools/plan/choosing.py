"""Choose the fastest settings that fit; candidates are tried in the order of their cost."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace

from verl_visionr1.tools.plan import memory
from verl_visionr1.tools.plan.memory import ENGINE_GB, Machine, Part, Run, Settings, total
from verl_visionr1.tools.plan.shape import PlanError, Shape

MARGIN = 0.95
"""Share of a GPU's memory that is planned with; the rest is left for fragmentation."""
BUDGETS = (32768, 24576, 16384, 12288, 8192, 6144, 4096, 3072, 2048, 1536, 1024, 512)
"""Token budgets to try, largest first."""
MAX_SEQUENCES = 256
"""`rollout.max_num_seqs` of verl: sequences that an engine works on at once."""
FEW_SEQUENCES = 16
"""Fewest sequences at once with which generation on a GPU is worthwhile."""
LEAST_SHARE, MAX_SHARE, SPARE_SHARE = 0.4, 0.9, 0.1
"""Added to `gpu_memory_utilization` where memory allows: vLLM's workspace is a rough figure, and the rest would be idle
during generation."""
LORA_HINT = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings that fit, with the memory tables.

    Attributes:
        shape, machine, run: the input of the plan.
        log_prob_tokens: budget of passes without gradients.
        share: `rollout.gpu_memory_utilization`.
        sequences: number of the longest sequences that an engine's cache holds at once.
        wanted: sequences of a step that an engine gets, at most `MAX_SEQUENCES`.
        training, generation, host: memory tables, GB of one GPU and of one node.
    """

    shape: Shape
    machine: Machine
    run: Run
    settings: Settings
    log_prob_tokens: int
    share: float
    sequences: int
    wanted: int
    training: tuple[Part, ...]
    generation: tuple[Part, ...]
    host: tuple[Part, ...]


class NothingFitsError(PlanError):
    """No settings make the run fit the machine."""


def plan(shape: Shape, machine: Machine, run: Run) -> Plan:
    """Choose the first candidate that fits and holds at least half of a step's sequences at once, else any that fits.

    Raises:
        NothingFitsError: nothing fits; the message names changes that would help.
    """
    found = _fitting(shape, machine, run)
    if found is not None:
        return found
    raise NothingFitsError(_refusal(shape, machine, run))


def _fitting(shape: Shape, machine: Machine, run: Run) -> Plan | None:
    candidates = [settings for settings in _candidates(shape, machine) if _fits_host(shape, machine, run, settings)]
    plans = [one for settings in candidates if (one := _plan(shape, machine, run, settings)) is not None]
    fast = [one for one in plans if not one.settings.offload_always]
    for group in (fast, plans):
        roomy = next((one for one in group if 2 * one.sequences >= one.wanted), None)
        if roomy is not None or group:
            return roomy or max(group, key=lambda one: one.sequences * one.machine.n / one.settings.tensor_parallel)
    return None


def _candidates(shape: Shape, machine: Machine) -> Iterator[Settings]:
    """Candidates, fastest first: moving memory between phases costs seconds per step, Adam on the CPU most."""
    sizes = [n for n in (1, 2, 4, 8) if machine.gpus % n == 0 and shape.heads % n == 0]
    moved = Settings(offload_adam=True), Settings(offload_adam=True, offload_params=True)
    for size in sizes:
        for level in (Settings(), *moved, Settings(offload_always=True)):
            yield replace(level, is_fused=shape.has_fused_head, tensor_parallel=size)


def _fits_host(shape: Shape, machine: Machine, run: Run, settings: Settings) -> bool:
    return machine.host_gb is None or total(memory.host(shape, machine, run, settings)) <= machine.host_gb


def _plan(shape: Shape, machine: Machine, run: Run, settings: Settings) -> Plan | None:
    budget = machine.gpu_gb * MARGIN
    chosen = _with_tokens(shape, machine, run, settings)
    if chosen is None or memory.loading_gb(shape, machine, run) > budget:
        return None
    if total(memory.hand_over(shape, machine, run, chosen)) > budget:
        return None
    wanted = _wanted(machine, run, chosen)
    waits = memory.waiting(shape, machine, run, chosen)
    weights = memory.engine_weights_gb(shape, chosen)
    share = min(MAX_SHARE, math.floor((budget - total(waits)) / machine.gpu_gb * 20) / 20)
    cache_budget = share * machine.gpu_gb - weights - ENGINE_GB
    sequences = _sequences(shape, run, chosen, cache_budget, wanted)
    if sequences < min(FEW_SEQUENCES, wanted):
        return None
    needed = weights + ENGINE_GB + memory.cache_gb(shape, run, chosen, sequences)
    share = min(share, max(math.ceil((needed / machine.gpu_gb + SPARE_SHARE) * 20) / 20, LEAST_SHARE))
    cache = share * machine.gpu_gb - weights - ENGINE_GB
    held = f"{sequences} of {wanted} sequences at once, {shape.kv_bytes_per_token} bytes per token"
    generation = (
        *waits,
        Part("vLLM's weights", weights, f"bf16: 2 bytes x P / tensor parallel {chosen.tensor_parallel}"),
        Part("vLLM's workspace", ENGINE_GB, "CUDA graphs, its largest batch: rough"),
        Part("vLLM's cache", cache, held),
    )
    return Plan(
        shape,
        machine,
        run,
        chosen,
        min(2 * chosen.tokens, BUDGETS[0]) if chosen.is_fused else chosen.tokens,
        share,
        sequences,
        wanted,
        tuple(memory.training(shape, machine, run, chosen)),
        generation,
        tuple(memory.host(shape, machine, run, chosen)),
    )


def _with_tokens(shape: Shape, machine: Machine, run: Run, settings: Settings) -> Settings | None:
    """The largest token budget that fits a GPU, at most a worker's share of a step."""
    share = math.ceil(run.prompts * run.answers / machine.n) * run.length
    shortest = math.ceil(run.length / 256) * 256
    for tokens in [budget for budget in BUDGETS if budget > shortest] + [shortest]:
        if tokens > max(share, shortest) and tokens != shortest:
            continue
        tried = replace(settings, tokens=tokens)
        if total(memory.training(shape, machine, run, tried)) <= machine.gpu_gb * MARGIN:
            return tried
    return None


def _wanted(machine: Machine, run: Run, settings: Settings) -> int:
    """Sequences of a step that one engine gets."""
    return min(math.ceil(run.prompts * run.answers * settings.tensor_parallel / machine.n), MAX_SEQUENCES)


def _sequences(shape: Shape, run: Run, settings: Settings, budget_gb: float, wanted: int) -> int:
    """Number of the longest sequences that the cache holds at once, at most `wanted`."""
    return bisect_right(range(1, wanted + 1), budget_gb, key=lambda n: memory.cache_gb(shape, run, settings, n))


def _refusal(shape: Shape, machine: Machine, run: Run) -> str:
    what = f"{machine.n} x {machine.gpu_gb:g} GB are not enough: {_why_not(shape, machine, run)}"
    ways = [*_ways(shape, machine, run)]
    return f"{what}; would fit: {', or '.join(ways)}" if ways else f"{what}; shorten --max-prompt and --max-response"


def _why_not(shape: Shape, machine: Machine, run: Run) -> str:
    """The first reason why it does not fit."""
    least = Settings(is_fused=shape.has_fused_head, tokens=math.ceil(run.length / 256) * 256)
    offloaded = total(memory.training(shape, machine, run, replace(least, offload_always=True)))
    loading = memory.loading_gb(shape, machine, run)
    if offloaded > machine.gpu_gb * MARGIN:
        return f"one sequence of {run.length} tokens takes {offloaded:.0f} GB per GPU even with everything offloaded"
    if loading > machine.gpu_gb * MARGIN:
        return f"loading takes {loading:.0f} GB per GPU"
    if not _fits_host(shape, machine, run, replace(least, offload_always=True)):
        return f"training takes {total(memory.training(shape, machine, run, least)):.0f} GB per GPU without offload"
    return f"vLLM's cache cannot hold {FEW_SEQUENCES} sequences of {run.length} tokens"


def _ways(shape: Shape, machine: Machine, run: Run) -> Iterator[str]:
    """Single changes that would make it fit."""
    if machine.host_gb is not None:
        unbound = _fitting(shape, replace(machine, host_gb=None), run)
        if unbound is not None:
            yield f"offload with {math.ceil(total(unbound.host))} GB of host memory (--host-memory)"
    if not run.lora_rank and _fitting(shape, machine, replace(run, lora_rank=LORA_HINT)) is not None:
        yield f"LoRA (--lora {LORA_HINT})"
    for gpus in (2, 4, 8):
        if gpus > machine.gpus and _fitting(shape, replace(machine, gpus=gpus), run) is not None:
            yield f"--gpus {gpus}"
            return
    for nodes in (2, 4, 8, 16):
        larger = replace(machine, gpus=max(machine.gpus, 8), nodes=machine.nodes * nodes)
        if _fitting(shape, larger, run) is not None:
            yield f"--gpus {larger.gpus} --nodes {larger.nodes}"
            return
