"""Presets of detection and grounding: every object of a category list, or of one phrase.

One method for both, as in arXiv 2503.18013: a phrase is a category list of one, and a target with one label ignores
labels.
"""

from __future__ import annotations

from verl_visionr1.criteria import precision, recall, well_formed
from verl_visionr1.rewards.base import Criterion, Preset

VISIONR1 = (
    Criterion("format", well_formed),
    Criterion("recall", recall),
    Criterion("precision", precision),
)
"""The three criteria of Vision-R1: Eq. 4, 5 and 6, each differentiated by Eq. 8."""

PRESETS = (
    Preset("visionr1", VISIONR1, source="arXiv 2503.18013, repaired"),
    Preset("visionr1-paper", VISIONR1, matching="boxes", source="arXiv 2503.18013, Eq. 4-8"),
)
