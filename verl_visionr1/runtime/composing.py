"""Compose verl's config from a command line as `main_ppo` does, with errors in one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, OmegaConfBaseException

from verl_visionr1.plugin.config import PREFIX, Settings
from verl_visionr1.plugin.data_files import BUDGET_KEY, DATA_KEYS

CONFIG_MODULE, CONFIG_NAME = "verl.trainer.config", "ppo_trainer"
"""Config path and name of `verl.trainer.main_ppo`."""
FRACTIONS, WORDS = ("trainer.v1.",), ("algorithm.rollout_correction.",)
"""Keys with an integer default that accept a fraction; keys with a number default that accept text ("0.5_2.0", a
band)."""
STEPS = "trainer.total_training_steps"
_UNKNOWN_KEY = re.compile(r"Could not (?:override|delete from config|append to config).*?'?([\w.@/-]+)'")
_APPENDING = re.compile(r"\.? To append to your config use .*")
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
        raise CompositionError(_explain(error, overrides)) from None
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


def missing_key(error: ConfigAttributeError) -> str:
    """Message about a key of verl's that the config lacks, such as after `~data.train_batch_size`."""
    return f"{error.full_key}: not in the config, and verl reads it; do not delete it"


def type_problems(config: DictConfig) -> list[str]:
    """Text instead of a number or boolean, fractions instead of integers, values instead of sections.

    verl's config has no types: such a value composes, and fails in some worker. Types are those of verl's defaults; a
    key with default null may have any value, except the number of steps.
    """
    given, problems = dict(leaves(config)), list[str]()
    for key, default in _defaults().items():
        value = given[key] if key in given else OmegaConf.select(config, key)  # keys below it, or None: deleted
        wanted = _wanted(key, default, value) if key in given or value is not None else None
        if wanted:
            problems.append(f"{key}={_written(value)}: needs {wanted} (verl's default: {_written(default)})")
    sections = {key.rpartition(".")[0] for key in _defaults()} | {BUDGET_KEY}
    for key in sorted(sections & given.keys()):
        if given[key] is None and (key == BUDGET_KEY or not f"{key}.".startswith(("data.", "trainer.", "reward."))):
            continue  # verl may take it for none
        advice = f"set {key}.name" if f"{key}.name" in _defaults() else "leave it out to keep verl's"
        problems.append(f"{key}={_written(given[key])}: needs keys below it; {advice}")
    return problems + [
        f"{key}={OmegaConf.select(config, key)}: needs a file, or a list of files"
        for key in DATA_KEYS
        if not isinstance(OmegaConf.select(config, key), str | ListConfig | None)
    ]


def _written(value: object) -> str:
    return "null" if value is None else str(value)


def _wanted(key: str, default: object, value: object) -> str | None:
    """What a key needs in place of the value; None if the value may be right."""
    is_required = key.startswith(("data.", "trainer."))
    if key == STEPS:
        return None if value is None or type(value) is int else "a whole number, or null"
    if value == default or key.startswith(WORDS) or (value is None and not is_required):
        return None
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, ListConfig):
        return None if isinstance(value, str | ListConfig | None) else "a list"
    if not isinstance(default, int | float):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "a number"
    is_count = isinstance(default, int) and is_required and not key.startswith(FRACTIONS)
    return "a whole number" if is_count and not float(value).is_integer() else None


@lru_cache(maxsize=8)
def _defaults(*groups: str) -> dict[str, Any]:
    """Key -> value of verl's own config, with some config groups."""
    import verl  # noqa: F401 - see `composed`

    config = _compose(groups)
    OmegaConf.resolve(config)
    return dict(leaves(config))


def _compose(overrides: Sequence[str]) -> DictConfig:
    before = GlobalHydra.instance().hydra  # a caller's, which is restored
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module(CONFIG_MODULE, version_base=None):
            return compose(CONFIG_NAME, overrides=list(overrides))
    finally:
        GlobalHydra.instance().hydra = before


def leaves(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of everything that is not a mapping, without missing values (`???`) and `hydra`."""
    for name in node:
        if OmegaConf.is_missing(node, name) or (not prefix and name == "hydra"):
            continue
        value = node[name]
        if isinstance(value, DictConfig):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's message in one line; for an unknown key with the key that was meant."""
    text = " ".join(line.strip() for line in str(error).splitlines() if "hydra.cc/docs" not in line)
    text = text.partition(" Config search path:")[0].strip()
    found = _UNKNOWN_KEY.search(text)
    if found is None:
        return text
    key = found.group(1)
    missing = next((override for override in overrides if _lacks_pluses(override, key)), None)
    if missing is not None:
        return f"{_APPENDING.sub('', text)}; write ++{missing}"
    try:
        known = _defaults(*[override for override in overrides if "@" in override.partition("=")[0]])
    except (HydraException, OmegaConfBaseException):
        return text
    meant = None if key in known else nearest_key(key, known)
    return text if meant is None else f"{_APPENDING.sub('', text)}; did you mean {meant}?"


def _lacks_pluses(override: str, key: str) -> bool:
    """Whether an override adds names of the user's below a known setting of the plug-in, which needs ++."""
    section = key.removeprefix(f"{PREFIX}.").partition(".")[0]
    has_names = f"{key}={{" in override or section in ("criteria", "presets", "extensions")
    is_setting = key.startswith(f"{PREFIX}.") and section in Settings.__struct_fields__
    return is_setting and has_names and override.startswith(f"{key}=")


def nearest_key(key: str, known: Collection[str]) -> str | None:
    """The likeliest known key: a similar name in the same section, the same name elsewhere; None if there is none."""
    known = [other for other in known if not other.rpartition(".")[2].startswith("_")]  # `_target_` is Hydra's own
    folder, _, name = key.rpartition(".")
    beside = {other.removeprefix(f"{folder}.").partition(".")[0] for other in known if other.startswith(f"{folder}.")}
    alike = difflib.get_close_matches(name, sorted(beside), 1) or sorted(other for other in beside if name in other)
    if alike:
        return f"{folder}.{alike[0]}"
    top = key.partition(".")[0]
    same_name = [other for other in known if other.endswith(f".{name}") and other.startswith(f"{top}.")]
    return next(iter(difflib.get_close_matches(key, same_name, 1, 0.0)), None)
