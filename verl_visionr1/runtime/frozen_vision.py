"""Freeze the vision tower in training: `actor_rollout_ref.model.external_lib=verl_visionr1.runtime.frozen_vision`.

verl 0.9.1 declares `actor_rollout_ref.actor.freeze_vision_tower`, but its FSDP engine ignores it. verl imports
`model.external_lib` before it builds a model: this module then freezes the tower of every model that the FSDP engine
builds in that process, before it is sharded; in Megatron's engine it raises instead.
"""

from __future__ import annotations

import functools
import types
from typing import Any

from verl_visionr1.plugin.import_hooks import when_imported

TOWERS = ("visual", "vision_tower", "vision_model")
"""Names of the vision module: Qwen2-VL to Qwen3-VL and GLM-V; InternVL, Gemma 3 and LLaVA; others."""


class NoVisionTowerError(ValueError):
    """The model has no module named in `TOWERS`."""


def freeze_vision(model: Any) -> int:
    """Freeze the vision tower of a torch module, including a projector inside it, and return its number of parameters.

    Raises:
        NoVisionTowerError: no module has a name in `TOWERS`.
    """
    towers = [module for name, module in model.named_modules() if name.rpartition(".")[2] in TOWERS]
    if not towers:
        raise NoVisionTowerError(
            f"{type(model).__name__}: no vision tower to freeze, looked for {', '.join(TOWERS)}; leave external_lib out"
        )
    parameters = {id(parameter): parameter for tower in towers for parameter in tower.parameters()}
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    return sum(parameter.numel() for parameter in parameters.values())


def freeze_in_engine(transformer_impl: types.ModuleType) -> None:
    """FSDP workers, `verl.workers.engine.fsdp.transformer_impl`: freeze the tower of each built model."""
    engine: Any = transformer_impl.FSDPEngine
    original = engine._build_module
    if getattr(original, "__module__", None) == __name__:
        return

    # Not with `wraps`: verl's module name on it would hide from a second call that it is wrapped.
    @functools.wraps(original, assigned=("__doc__", "__qualname__"), updated=())
    def _build_module(self: Any) -> Any:
        model = original(self)
        frozen = freeze_vision(model)
        total = sum(parameter.numel() for parameter in model.parameters())
        print(f"visionr1: vision tower frozen, {frozen:,} of {total:,} parameters", flush=True)  # noqa: T201
        return model

    engine._build_module = _build_module


def refuse_in_megatron(transformer_impl: types.ModuleType) -> None:
    """Megatron workers, `verl.workers.engine.megatron.transformer_impl`: raise, since nothing would be frozen."""

    def _build_megatron_module(self: Any) -> Any:
        raise NoVisionTowerError(
            "external_lib=verl_visionr1.runtime.frozen_vision freezes only FSDP models, not Megatron's: the "
            "vision tower would be trained; leave external_lib out, or set actor_rollout_ref.actor.strategy=fsdp2"
        )

    engine: Any = transformer_impl.MegatronEngine
    engine._build_megatron_module = _build_megatron_module


when_imported("verl.workers.engine.fsdp.transformer_impl", freeze_in_engine)
when_imported("verl.workers.engine.megatron.transformer_impl", refuse_in_megatron)
