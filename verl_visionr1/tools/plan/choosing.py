"""Choose the fastest settings that fit; candidates are tried in the order of their cost."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace

from verl_visionr1.tools.plan.memory import ENGINE_GB, Machine, Part, Run, Settings, Step, total
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


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings that fit, with the memory tables.

    Attributes:
        step: model, machine, run and settings.
        log_prob_tokens: budget of passes without gradients.
        share: `rollout.gpu_memory_utilization`.
        sequences: number of the longest sequences that an engine's cache holds at once.
        wanted: sequences of a step that an engine gets, at most `MAX_SEQUENCES`.
        generation: memory of a GPU while vLLM generates.
    """

    step: Step
    log_prob_tokens: int
    share: float
    sequences: int
    wanted: int
    generation: tuple[Part, ...]


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
    what = f"{machine.n} x {machine.gpu_gb:g} GB are not enough for sequences of {run.length} tokens"
    ways = ", or ".join(_ways(shape, machine, run))
    raise NothingFitsError(f"{what}; {f'would fit: {ways}' if ways else 'shorten --max-prompt and --max-response'}")


def _fitting(shape: Shape, machine: Machine, run: Run) -> Plan | None:
    steps = (Step(shape, machine, run, settings) for settings in _candidates(shape, machine))
    plans = [found for step in steps if (found := _plan(step)) is not None]
    fast = [one for one in plans if not one.step.settings.offload_always]
    for group in (fast, plans):
        roomy = next((one for one in group if 2 * one.sequences >= one.wanted), None)
        if roomy is not None or group:
            return roomy or max(group, key=lambda one: one.sequences / one.step.settings.tensor_parallel)
    return None


def _candidates(shape: Shape, machine: Machine) -> Iterator[Settings]:
    """Candidates, fastest first: moving memory between phases costs seconds per step, Adam on the CPU most."""
    moved = Settings(offload_adam=True), Settings(offload_adam=True, offload_params=True)
    for size in (1, 2, 4, 8):
        if machine.gpus % size == 0 and shape.heads % size == 0:
            for level in (Settings(), *moved, Settings(offload_always=True)):
                yield replace(level, is_fused=shape.has_fused_head, tensor_parallel=size)


def _plan(step: Step) -> Plan | None:
    """The plan with these settings and the largest token budget, if it fits."""
    machine, run = step.machine, step.run
    budget = machine.gpu_gb * MARGIN
    tokens = _largest_tokens(step)
    fits_host = machine.host_gb is None or total(step.host()) <= machine.host_gb
    if not tokens or not fits_host or step.loading_gb() > budget or total(step.hand_over()) > budget:
        return None
    step = replace(step, settings=replace(step.settings, tokens=tokens))
    parallel, waits, weights = step.settings.tensor_parallel, step.waiting(), step.engine_weights()
    wanted = min(math.ceil(run.prompts * run.answers * parallel / machine.n), MAX_SEQUENCES)
    share = min(MAX_SHARE, math.floor((budget - total(waits)) / machine.gpu_gb * 20) / 20)
    cache = share * machine.gpu_gb - weights.gb - ENGINE_GB
    sequences = bisect_right(range(1, wanted + 1), cache, key=step.cache_gb)
    if sequences < min(FEW_SEQUENCES, wanted):
        return None
    needed = weights.gb + ENGINE_GB + step.cache_gb(sequences)
    share = min(share, max(math.ceil((needed / machine.gpu_gb + SPARE_SHARE) * 20) / 20, LEAST_SHARE))
    held = f"{sequences} of {wanted} sequences at once, {step.shape.kv_bytes_per_token} bytes per token"
    generation = (
        *waits,
        weights,
        Part("vLLM's workspace", ENGINE_GB, "CUDA graphs, its largest batch: rough"),
        Part("vLLM's cache", share * machine.gpu_gb - weights.gb - ENGINE_GB, held),
    )
    log_prob_tokens = min(2 * tokens, BUDGETS[0]) if step.settings.is_fused else tokens
    return Plan(step, log_prob_tokens, share, sequences, wanted, generation)


def _largest_tokens(step: Step) -> int:
    """The largest token budget that fits a GPU, at most a worker's share of a step; 0 if none fits."""
    least, run = step.run.least_tokens, step.run
    share = math.ceil(run.prompts * run.answers / step.machine.n) * run.length
    for tokens in (*(budget for budget in BUDGETS if least < budget <= share), least):
        tried = replace(step, settings=replace(step.settings, tokens=tokens))
        if total(tried.training()) <= step.machine.gpu_gb * MARGIN:
            return tokens
    return 0


def _ways(shape: Shape, machine: Machine, run: Run) -> Iterator[str]:
    """Single changes that would make it fit."""
    if machine.host_gb is not None and (found := _fitting(shape, replace(machine, host_gb=None), run)) is not None:
        yield f"offload with {math.ceil(total(found.step.host()))} GB of host memory (--host-memory)"
    if not run.lora_rank and _fitting(shape, machine, replace(run, lora_rank=64)) is not None:
        yield "LoRA (--lora 64)"
    larger = [(gpus, machine.nodes) for gpus in (2, 4, 8) if gpus > machine.gpus]
    larger += [(max(machine.gpus, 8), machine.nodes * nodes) for nodes in (2, 4, 8, 16)]
    for gpus, nodes in larger:
        if _fitting(shape, replace(machine, gpus=gpus, nodes=nodes), run) is not None:
            yield f"--gpus {gpus}" + (f" --nodes {nodes}" if nodes != machine.nodes else "")
            return
