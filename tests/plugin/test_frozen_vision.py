"""Freezing the vision tower; a training run with it is in test_end_to_end.py."""

from __future__ import annotations

import ast
import importlib.util
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from verl_visionr1.runtime.frozen_vision import NoVisionTowerError, freeze_in_engine, freeze_vision, refuse_in_megatron

pytestmark = pytest.mark.verl


def small_model() -> Any:
    model = torch.nn.Module()
    model.model = torch.nn.Module()
    model.model.visual = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 5))
    model.model.language_model = torch.nn.Linear(5, 2)
    return model


def trained(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_only_the_tower_is_frozen() -> None:
    model = small_model()
    assert freeze_vision(model) == 3 * 4 + 4 + 4 * 5 + 5
    assert trained(model) == {"model.language_model.weight", "model.language_model.bias"}


def test_a_tower_within_a_tower_counts_once() -> None:
    model = small_model()
    model.model.visual.vision_model = torch.nn.Linear(1, 1)
    assert freeze_vision(model) == 3 * 4 + 4 + 4 * 5 + 5 + 2


def test_a_model_that_does_not_see_is_refused() -> None:
    with pytest.raises(NoVisionTowerError, match=r"^Linear: no vision tower to freeze, looked for visual, "):
        freeze_vision(torch.nn.Linear(1, 1))


def test_every_model_the_engine_builds_is_frozen_once(capsys: pytest.CaptureFixture[str]) -> None:
    class Engine:
        def _build_module(self) -> Any:
            return small_model()

    module = types.ModuleType("engine")
    module.FSDPEngine = Engine  # type: ignore[attr-defined]
    freeze_in_engine(module)
    freeze_in_engine(module)
    assert trained(Engine()._build_module()) == {"model.language_model.weight", "model.language_model.bias"}
    assert capsys.readouterr().out == "visionr1: vision tower frozen, 41 of 53 parameters\n"


def test_megatron_stops_instead_of_training_the_tower() -> None:
    class Engine:
        def _build_megatron_module(self) -> Any:
            return small_model()

    module = types.ModuleType("engine")
    module.MegatronEngine = Engine  # type: ignore[attr-defined]
    refuse_in_megatron(module)
    with pytest.raises(NoVisionTowerError, match=r"external_lib=verl_visionr1\.runtime\.frozen_vision.*Megatron"):
        Engine()._build_megatron_module()


def test_megatron_builds_models_where_we_look() -> None:
    """Read from the source: importing it needs Megatron itself."""
    spec = importlib.util.find_spec("verl")
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent / "workers/engine/megatron/transformer_impl.py").read_text()
    engines = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    defining = [
        name
        for name, node in engines.items()
        if any(isinstance(part, ast.FunctionDef) and part.name == "_build_megatron_module" for part in node.body)
    ]
    assert defining == ["MegatronEngine"]


def test_verl_builds_models_where_we_look() -> None:
    """Every model of the FSDP engine comes from `FSDPEngine._build_module`; its subclasses have none of their own."""
    import verl.workers.engine.fsdp.transformer_impl as engine

    engines = (engine.FSDPEngineWithLMHead, engine.FSDPEngineWithValueHead)
    assert all("_build_module" not in vars(kind) for kind in engines)
    assert "_build_module" in vars(engine.FSDPEngine)
