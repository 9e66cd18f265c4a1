"""Old names in users' settings and functions: accepted for one more release, with a warning."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from types import MappingProxyType

MATCHINGS: Mapping[str, str] = MappingProxyType({"labelled": "class_aware", "boxes": "class_agnostic"})
"""Old -> new, of a preset's `matching`."""
CRITERIA: Mapping[str, str] = MappingProxyType({"iou_over_max": "soft_iou", "giou_over_max": "soft_giou"})
"""Old -> new, of a criterion's `fn`."""
ALARMS: Mapping[str, str] = MappingProxyType({"dead_groups": "frac_reward_zero_std"})
"""Old -> new, of `alarms`."""
PARAMETERS: Mapping[str, str] = MappingProxyType({"labelled": "class_aware"})
"""Old -> new, of a criterion's parameters."""


def current_name(key: str, name: str, renamed: Mapping[str, str]) -> str:
    """Return the current name; an old one warns (FutureWarning).

    >>> current_name("matching", "giou", MATCHINGS)
    'giou'
    """
    if name not in renamed:
        return name
    warn_renamed(f"{key} = {name!r}", repr(renamed[name]))
    return renamed[name]


def warn_renamed(old: str, new: str) -> None:
    """Warn once per place that a name has changed."""
    warnings.warn(f"{old} is now {new}; the next release removes the old name", FutureWarning, stacklevel=3)
