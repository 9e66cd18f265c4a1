"""Extensions around a run: `reward.reward_kwargs.visionr1.extensions` names classes, which the callback calls.

    extensions:
      watchdog: {class: verl_visionr1.runtime.watchdog.ProcessWatch, stall_minutes: 60}

All are called in the trainer's process, in the order of the config.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
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


class Extensions:
    """All extensions of a run, called one after the other."""

    def __init__(self, parts: Sequence[Extension]) -> None:
        self.parts = tuple(parts)

    def reward_workers(self, workers: list[Any] | None) -> list[Any] | None:
        """See `Extension`; each gets the result of the one before it."""
        for part in self.parts:
            workers = part.reward_workers(workers)
        return workers

    def before_wait(self, trainer: Any) -> None:
        """See `Extension`."""
        for part in self.parts:
            part.before_wait(trainer)

    def while_waiting(self, n_failed: int, state: str) -> None:
        """See `Extension`."""
        for part in self.parts:
            part.while_waiting(n_failed, state)

    @contextmanager
    def around_wait(self) -> Iterator[None]:
        """See `Extension`."""
        with ExitStack() as stack:
            for part in self.parts:
                stack.enter_context(part.around_wait())
            yield

    def after_sample(self, step: int) -> None:
        """See `Extension`."""
        for part in self.parts:
            part.after_sample(step)


def load_extensions(config: DictConfig, settings: Settings) -> Extensions:
    """Load the extensions of a run's settings.

    Raises:
        ConfigError: a class that cannot be loaded, or invalid settings of it.
    """
    named = settings.extensions.items()
    return Extensions([_load(config, name, given) for name, given in named if given is not None])


def _load(config: DictConfig, name: str, given: dict[str, Any]) -> Extension:
    key, path = f"{PREFIX}.extensions.{name}", str(given.get("class"))
    module, _, class_name = path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{key}.class={path}: {error}; needs the full name of a class, package.module.Class"
        ) from None
    if not (isinstance(cls, type) and issubclass(cls, Extension)):
        raise ConfigError(f"{key}.class={path}: needs a subclass of {Extension.__module__}.Extension")
    try:
        return cls(config, **{setting: value for setting, value in given.items() if setting != "class"})
    except TypeError as error:
        raise ConfigError(f"{key}: {error}") from None
