"""Extensions around a run: `reward.reward_kwargs.visionr1.extensions` names classes, which the callback calls.

    extensions:
      watchdog: {class: verl_visionr1.runtime.watchdog.ProcessWatch, stall_minutes: 60}

All are called in the trainer's process, in the order of the config.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig

from verl_visionr1.plugin.config import PREFIX, ConfigError, Settings


class Extension:
    """Base class; subclasses override what they need. Construction has no effect outside the object.

    Raises:
        ConfigError: in a subclass, for a setting that is out of range.
    """

    def __init__(self, config: DictConfig) -> None:
        self.config = config

    def reward_workers(self, workers: list[Any] | None) -> list[Any] | None:
        """Replacement of verl's handles of reward workers for the agent-loop workers."""
        return workers

    def before_wait(self, trainer: Any) -> None:
        """Called before the trainer waits for rollouts; all processes exist by then."""

    def while_waiting(self, n_failed: int, state: str) -> None:
        """Called each time the trainer polls for rollouts.

        Args:
            n_failed: prompts whose rollouts have failed.
            state: description of what it waits for; changes with each prompt and rollout.
        """

    @contextmanager
    def around_wait(self) -> Iterator[None]:
        """Context around sampling; may raise a better error than verl's."""
        yield

    def after_sample(self, step: int) -> None:
        """Called after a training batch is sampled."""


def load_extensions(config: DictConfig, settings: Settings) -> list[Extension]:
    """Load the extensions of a run's settings, in their order.

    Raises:
        ConfigError: a class that cannot be loaded, or invalid settings of it.
    """
    return [_load(config, name, given) for name, given in settings.extensions.items() if given is not None]


def _load(config: DictConfig, name: str, given: dict[str, Any]) -> Extension:
    key, path = f"{PREFIX}.extensions.{name}", str(given.get("class"))
    module, _, class_name = path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), class_name)
        if not issubclass(cls, Extension):
            raise TypeError(f"not a subclass of {Extension.__module__}.Extension")
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        reason = f"{error}; needs the full name of an extension, package.module.Class"
        raise ConfigError(f"{key}.class={path}: {reason}") from None
    try:
        return cls(config, **{setting: value for setting, value in given.items() if setting != "class"})
    except TypeError as error:
        raise ConfigError(f"{key}: {error}") from None
