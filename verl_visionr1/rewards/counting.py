"""Presets of counting."""

from __future__ import annotations

from verl_visionr1.rewards.base import Preset

PRESETS: tuple[Preset, ...] = ()
