"""What surrounds a run is switched on part by part, and called by the progress callback through one seam."""

from __future__ import annotations

import pytest
from omegaconf import DictConfig, OmegaConf

pytestmark = pytest.mark.verl

from verl_visionr1.plugin.config import PREFIX, ConfigError, checked, settings_of  # noqa: E402
from verl_visionr1.plugin.extensions import load_extensions  # noqa: E402

WATCH = {"class": "verl_visionr1.runtime.watchdog.ProcessWatch"}


def composed(*groups: str) -> DictConfig:
    import verl  # noqa: F401 - loads the plug-in, which stores the config groups
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=[f"+visionr1@_global_=[{','.join(groups)}]"])


def parts_of(config: DictConfig) -> list[str]:
    return [type(part).__name__ for part in load_extensions(config, settings_of(config))]


def test_the_rewards_alone_turn_nothing_on_around_them() -> None:
    assert parts_of(composed("progressive")) == []


@pytest.mark.parametrize(
    ("group", "part"), [("watchdog", "ProcessWatch"), ("replace_workers", "ReplaceWorkers"), ("gallery", "PageWriter")]
)
def test_each_group_turns_on_its_own_part(group: str, part: str) -> None:
    config = composed("progressive", group)
    assert parts_of(config) == [part]
    OmegaConf.update(config, f"{PREFIX}.extensions.{group}", None)
    assert parts_of(config) == []


def test_all_groups_together() -> None:
    config = composed("progressive", "checks", "watchdog", "replace_workers", "gallery", "cpu", "cluster")
    assert parts_of(config) == ["ProcessWatch", "ReplaceWorkers", "PageWriter"]


BAD = {
    "no class": ({}, ".class=None"),
    "no such module": ({"class": "no.such.Thing"}, ".class=no.such.Thing"),
    "no such class": ({"class": "verl_visionr1.runtime.watchdog.Nope"}, ".class=verl_visionr1.runtime.watchdog.Nope"),
    "no extension": ({"class": "verl_visionr1.runtime.watchdog.Watchdog"}, ".class=verl_visionr1.runtime.watchdog"),
    "unknown setting": ({**WATCH, "stal_minutes": 1}, ": "),
    "no time": ({**WATCH, "stall_minutes": 0}, ".stall_minutes=0"),
}


@pytest.mark.parametrize(("given", "place"), BAD.values(), ids=BAD)
def test_an_extension_that_cannot_be_built_names_its_key(given: dict, place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_extensions(OmegaConf.create({}), checked({"extensions": {"watchdog": given}}))
    assert str(caught.value).startswith(f"{PREFIX}.extensions.watchdog{place}")
