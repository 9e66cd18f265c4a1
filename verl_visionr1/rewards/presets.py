"""All presets by name, and functions that find a preset by name or YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from verl_visionr1.rewards import counting, detection, grounding, pointing, text
from verl_visionr1.rewards.base import Preset, RewardError, require_one_of
from verl_visionr1.rewards.composition import NO_BASE, PresetSettings, read_settings
from verl_visionr1.rewards.released import visionr1, vlmr1_boxes, vlmr1_text

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for module in (detection, grounding, counting, pointing, text, visionr1, vlmr1_boxes, vlmr1_text)
        for preset in module.PRESETS
    }
)
"""Every preset by name."""

TASK_PRESETS: Mapping[str, str] = MappingProxyType(
    {
        "detection": "visionr1",
        "grounding": "visionr1",
        "counting": "counting",
        "pointing": "pointing",
        "text": "text-exact",
    }
)
"""Task -> its default preset."""
MAX_BASES = 8
"""Longest chain of YAML files by `base`."""


def find_preset(spec: str, known: Mapping[str, Preset] = PRESETS) -> Preset:
    """Find a preset by name, or build it from a YAML file with `PresetSettings`.

    Raises:
        RewardError: no such preset or file, or wrong settings.
    """
    return _find(spec, known, MAX_BASES, "preset")


def find_preset_of(key: str, spec: str, known: Mapping[str, Preset] = PRESETS) -> Preset:
    """Find the preset that a key names; errors begin with the key.

    Raises:
        RewardError: see `find_preset`.
    """
    try:
        return _find(spec, known, MAX_BASES, key)
    except RewardError as error:
        raise RewardError(str(error) if str(error).startswith(f"{key} = ") else f"{key}: {error}") from None


def _find(spec: str, known: Mapping[str, Preset], bases_left: int, key: str) -> Preset:
    if not isinstance(spec, str) or not spec.endswith((".yaml", ".yml")):  # pyright: ignore[reportUnnecessaryIsInstance]
        require_one_of(key, spec, known)
        return known[spec]
    if not bases_left:
        raise RewardError(f"base = {spec!r}: a chain of more than {MAX_BASES} files; check for circular bases")
    settings = read_settings(spec)
    base = _find(_base_name(settings), known, bases_left - 1, f"{spec}: base")
    try:
        return _build_over(settings, base)
    except ValueError as error:
        raise RewardError(f"{spec}: {error}") from None


def build_preset(settings: PresetSettings, known: Mapping[str, Preset] = PRESETS) -> Preset:
    """Build the preset of the settings on their base (default: "visionr1")."""
    return _build_over(settings, find_preset_of("base", _base_name(settings), known))


def _base_name(settings: PresetSettings) -> str:
    return "visionr1" if settings.base in (None, NO_BASE) else settings.base


def _build_over(settings: PresetSettings, base: Preset) -> Preset:
    if settings.schedule is not None and settings.schedule.kind == "gated":
        raise RewardError("schedule.kind = 'gated': a gate belongs to the run, not to a preset; set it beside preset")
    return settings.build(base)
