"""Presets of counting: a stated number, or a list whose length is the count.

`counting`, the default, rewards the exact count and nearness to it equally. Exactness alone gives a group of wrong
guesses no gradient; nearness alone lets training settle beside the true count. The format is easy and counts half.
"""

from __future__ import annotations

from verl_visionr1.criteria.counting import count_exact, count_fuzzy, count_mra
from verl_visionr1.criteria.detection import well_formed
from verl_visionr1.rewards.base import Criterion, Preset

_FORMAT = Criterion("format", well_formed, 0.5)
_EXACT = Criterion("exact", count_exact)
_REPORTED = Criterion("exact", count_exact, 0.0)


def _counting(name: str, *criteria: Criterion, answer_format: str = "count", source: str) -> Preset:
    return Preset(
        name,
        criteria=criteria,
        tasks=("counting",),
        answer_format=answer_format,
        matching="none",
        accuracy="exact",
        source=source,
    )


PRESETS: tuple[Preset, ...] = (
    _counting("counting", _FORMAT, _EXACT, Criterion("near", count_fuzzy), source="own: exact, and near to it"),
    _counting(
        "counting-fuzzy", _FORMAT, Criterion("fuzzy", count_fuzzy), _REPORTED, source="CrowdVLM-R1's, made continuous"
    ),
    _counting("counting-mra", _FORMAT, Criterion("mra", count_mra), _REPORTED, source="OneThinker: MRA"),
    _counting(
        "counting-list",
        _FORMAT,
        _EXACT,
        Criterion("near", count_fuzzy),
        answer_format="qwen-json",
        source="own: the length of a list of boxes",
    ),
)
