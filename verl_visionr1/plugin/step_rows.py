"""The rows of a training step, put together from its mini-batches.

With `parameter_sync_step` above 1 verl samples a step in parts, and combines what each part reports by words in the
metrics' names: "sum" adds, "max" takes the largest, others average. Reported once a step, over all its rows, a number
keeps its meaning whatever it is called, and windows of alarms and gates count steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf


@dataclass(frozen=True, slots=True)
class StepRows:
    """What some trajectories scored.

    Attributes:
        keys: verl's trajectory keys, `{uid}_{session}_{index}`.
        sources: data source of each.
        infos: `reward_extra_info` of each.
    """

    keys: Sequence[str]
    sources: Sequence[str]
    infos: Sequence[Mapping[str, float]]

    def __add__(self, other: StepRows) -> StepRows:
        return StepRows([*self.keys, *other.keys], [*self.sources, *other.sources], [*self.infos, *other.infos])


class StepCollector:
    """Gathers the parts of a step.

    >>> part = StepRows(["a_0_0"], ["coco"], [{"value": 1.0}])
    >>> collector = StepCollector(2)
    >>> collector.add(1, part) is None, len(collector.add(1, part).keys)
    (True, 2)
    """

    def __init__(self, n_parts: int) -> None:
        self.n_parts = n_parts
        self.step: int | None = None
        self.parts: list[StepRows] = []

    def add(self, step: int, part: StepRows) -> StepRows | None:
        """The whole step once its last part is there, else None. Parts of a step that was broken off are dropped."""
        if step != self.step:
            self.step, self.parts = step, []
        self.parts.append(part)
        if len(self.parts) < self.n_parts:
            return None
        whole, *others = self.parts
        for other in others:
            whole = whole + other
        self.step, self.parts = None, []
        return whole


def parts_a_step(config: DictConfig) -> int:
    """How many times verl's V1 trainer samples in one step."""
    mode: Any = OmegaConf.select(config, "trainer.v1.trainer_mode")
    return int(OmegaConf.select(config, f"trainer.v1.{mode}.parameter_sync_step") or 1)
