"""Compose verl's config from a command line as `main_ppo` does, with errors in one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from verl_visionr1.plugin.config import PREFIX, Settings
from verl_visionr1.plugin.data_files import DATA_KEYS

CONFIG_MODULE, CONFIG_NAME = "verl.trainer.config", "ppo_trainer"
"""Config path and name of `verl.trainer.main_ppo`."""
FRACTIONS, WORDS = ("trainer.v1.",), ("algorithm.rollout_correction.",)
"""Keys with an integer default that accept a fraction; keys with a number default that accept text ("0.5_2.0", a
band)."""
STEPS = "trainer.total_training_steps"
_UNKNOWN_KEY = re.compile(r"Could not (?:override|delete from config|append to config).*?'?([\w.@/-]+)'")

_APPENDING = re.compile(r" To append to your config use .*")
"""Hydra's advice for every unknown key, which is misleading beside a suggested key."""


class CompositionError(ValueError):
    """Overrides that do not compose; one line that names the key and what to do."""


def composed(overrides: Sequence[str]) -> DictConfig:
    """Compose verl's whole config with some overrides, resolved; `hydra.*` is accepted and ignored.

    Raises:
        CompositionError: an unknown key or config group, invalid syntax, an unresolved reference.
    """
    import verl  # noqa: F401 - loads the plug-in, which stores the config groups

    try:
        config = _compose(overrides)
        OmegaConf.resolve(config)
    except (HydraException, OmegaConfBaseException, OSError, ValueError) as error:
        raise CompositionError(_line(error, overrides)) from None
    return config


def error_message(make: Callable[[], object]) -> str | None:
    """The error of `make()` in one line: its innermost cause; None without an error."""
    try:
        make()
    except Exception as error:  # noqa: BLE001 - verl may raise anything; all errors are findings
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        return " ".join(str(cause).split()) or type(cause).__name__
    return None


_NO_FIELD = re.compile(r"\w+\.__init__\(\) got an unexpected keyword argument '(\w+)'")


def name_keys(config: DictConfig, message: str) -> str:
    """Replace the error of verl's records for an unknown key by the key itself, with the one that was meant."""
    found = _NO_FIELD.search(message)
    if found is None:
        return message
    known = _defaults()
    keys = [key for key, _ in leaves(config) if found[1] in key.split(".") and key not in known]
    return unknown_key(keys[0]) if keys else message


def unknown_key(key: str) -> str:
    """Message about a key that verl does not have."""
    return f"{key}: verl has no such key{_nearest(key, list(_defaults()))}"


def type_problems(config: DictConfig) -> list[str]:
    """Text instead of a number or boolean, and fractions instead of integers, by verl's defaults.

    verl's config has no types: such a value composes, and fails in some worker. Types are those of verl's defaults; a
    key with default null may have any value, except the number of steps.
    """
    problems: list[str] = []
    defaults = _defaults()
    for key, value in leaves(config):
        default = defaults.get(key)
        wanted = _wanted(key, default, value)
        if wanted:
            problems.append(f"{key}={_written(value)}: needs {wanted} (verl's default: {_written(default)})")
    problems += [
        f"{key}={_written(_selected(config, key))}: needs keys below it; "
        + (f"set {key}.name" if f"{key}.name" in defaults else "leave it out to keep verl's")
        for key in _sections()
        if not isinstance(_selected(config, key), DictConfig) and isinstance(_selected(config, _above(key)), DictConfig)
    ]
    return problems + [
        f"{key}={OmegaConf.select(config, key)}: needs a file, or a list of files"
        for key in DATA_KEYS
        if not isinstance(OmegaConf.select(config, key), str | ListConfig | None)
    ]


def _selected(config: DictConfig, key: str) -> object:
    return OmegaConf.select(config, key) if key else config


def _above(key: str) -> str:
    return key.rpartition(".")[0]


def _written(value: object) -> str:
    return "null" if value is None else str(value)


def _wanted(key: str, default: object, value: object) -> str | None:
    if key == STEPS and value is not None and type(value) is not int:
        return "a whole number, or null"
    if value is None and key.startswith(("data.", "trainer.")) and isinstance(default, int | float):
        return "true or false" if isinstance(default, bool) else "a number"
    if default is None or value is None or value == default or key.startswith(WORDS):
        return None
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, int | float) and (isinstance(value, bool) or not isinstance(value, int | float)):
        return "a number"
    is_count = isinstance(default, int) and key.startswith(("data.", "trainer.")) and not key.startswith(FRACTIONS)
    if is_count and isinstance(value, float) and not value.is_integer():
        return "a whole number"
    return None


@lru_cache(maxsize=1)
def _defaults() -> dict[str, Any]:
    import verl  # noqa: F401 - see `composed`

    config = _compose(())
    OmegaConf.resolve(config)
    return dict(leaves(config))


@lru_cache(maxsize=1)
def _sections() -> tuple[str, ...]:
    """Mappings of verl's config whose keys the checks read."""
    names = {key.rpartition(".")[0] for key in _defaults() if key.startswith(("data.", "trainer.", "reward."))}
    return tuple(sorted(names))


def _compose(overrides: Sequence[str]) -> DictConfig:
    before = GlobalHydra.instance().hydra  # a caller's, which is restored
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module(CONFIG_MODULE, version_base=None):
            return compose(CONFIG_NAME, overrides=list(overrides))
    finally:
        GlobalHydra.instance().hydra = before


def leaves(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of everything that is not a mapping; missing values (`???`) are left out."""
    for name in node:
        if OmegaConf.is_missing(node, name):
            continue
        value = node[name]
        if isinstance(value, DictConfig):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _line(error: Exception, overrides: Sequence[str]) -> str:
    text = " ".join(line.strip() for line in str(error).splitlines() if "hydra.cc/docs" not in line)
    text = text.partition(" Config search path:")[0].strip()
    key = _UNKNOWN_KEY.search(text)
    if key is None:
        return text
    missing = next((override for override in overrides if _lacks_pluses(override, key.group(1))), None)
    if missing is not None:
        return f"{_APPENDING.sub('', text).removesuffix('.')}; write ++{missing}"
    groups = [override for override in overrides if "@" in override.partition("=")[0]]
    try:
        known = [name for name, _ in leaves(_compose(groups))]
    except (HydraException, OmegaConfBaseException):
        return text
    near = "" if key.group(1) in known else _nearest(key.group(1), known)
    return f"{_APPENDING.sub('', text).removesuffix('.') if near else text}{near}"


def _lacks_pluses(override: str, key: str) -> bool:
    """Whether an override adds names of the user's below a known setting of the plug-in, which needs ++."""
    section = key.removeprefix(f"{PREFIX}.").partition(".")[0]
    is_known = key.startswith(f"{PREFIX}.") and section in Settings.__struct_fields__
    return is_known and override.startswith(f"{key}=") and (override.startswith(f"{key}={{") or section in _OPEN)


_OPEN = ("criteria", "presets", "extensions")
"""Settings whose keys are names that the user chooses."""


def _nearest(key: str, known: Sequence[str]) -> str:
    """Suggest the likeliest key: similar in the same section, equal name in another section, similar anywhere.

    Never a key of another worker: the actor's learning rate is no suggestion for the critic's.
    """
    folder, _, name = key.rpartition(".")
    known = [other for other in known if _worker(other) in ("", _worker(key)) and not _is_hydras(other)]
    beside = {other.removeprefix(f"{folder}.").partition(".")[0] for other in known if other.startswith(f"{folder}.")}
    alike = difflib.get_close_matches(name, sorted(beside), n=1) or sorted(o for o in beside if o.startswith(name))
    near = [f"{folder}.{one}" for one in alike]
    near = near or difflib.get_close_matches(key, [other for other in known if other.endswith(f".{name}")], 1, 0.0)
    near = near or difflib.get_close_matches(key, known, 1, 0.8)
    return f"; did you mean {near[0]}?" if near else ""


def _is_hydras(key: str) -> bool:
    """Whether a key is Hydra's own, such as `_target_`, which users do not set."""
    name = key.rpartition(".")[2]
    return name.startswith("_") and name.endswith("_")


def _worker(key: str) -> str:
    """The worker whose settings a key belongs to; empty for those of the whole run.

    >>> _worker("actor_rollout_ref.actor.optim.lr"), _worker("critic.optim.lr"), _worker("algorithm.gamma")
    ('actor_rollout_ref.actor', 'critic', '')
    """
    return next((worker for worker in _WORKERS if key.startswith(f"{worker}.")), "")


_WORKERS = (
    *(f"actor_rollout_ref.{part}" for part in ("actor", "rollout", "ref", "model")),
    *("critic", "reward.reward_model", "distillation"),
    *("reward_model", "custom_reward_function", "sandbox_fusion"),  # of earlier verl: no longer read
)
"""Sections of verl's config that one kind of worker reads."""
