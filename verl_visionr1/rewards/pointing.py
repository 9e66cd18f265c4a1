"""Presets of pointing: one point per object, and a single click on a screen.

A point's place counts four fifths and the format one fifth, as in GUI-R1 and Vero, so well-formed junk earns
little. None uses thresholds, so there is no schedule.
"""

from __future__ import annotations

from verl_visionr1.criteria import OFF
from verl_visionr1.criteria.detection import well_formed
from verl_visionr1.criteria.pointing import click, point_distance, point_in_box, point_in_mask
from verl_visionr1.rewards.base import Criterion, Preset
from verl_visionr1.schedule import constant

_FORMAT = Criterion("format", well_formed, 0.2)


def _pointing(
    name: str, *criteria: Criterion, accuracy: str, answer_format: str = "qwen-points", source: str
) -> Preset:
    return Preset(
        name,
        criteria=(_FORMAT, *criteria),
        tasks=("pointing",),
        schedule=constant(OFF),
        answer_format=answer_format,
        matching="none",
        accuracy=accuracy,
        source=source,
    )


PRESETS: tuple[Preset, ...] = (
    _pointing(
        "pointing",
        Criterion("in_box", point_in_box, 0.8),
        accuracy="in_box",
        source="Rex-Omni (arXiv 2510.12798): point in box, made one to one",
    ),
    _pointing(
        "point-in-mask",
        Criterion("in_mask", point_in_mask, 0.8),
        accuracy="in_mask",
        source="Rex-Omni (arXiv 2510.12798): point in mask, made one to one",
    ),
    _pointing(
        "point-distance",
        Criterion("distance", point_distance, 0.8),
        Criterion("in_mask", point_in_mask, 0.0),
        accuracy="in_mask",
        source="GUI-G2 (arXiv 2507.15846): Gaussian point reward, for several objects",
    ),
    _pointing(
        "gui-click",
        Criterion("click", click, 0.8),
        accuracy="click",
        answer_format="point",
        source="ScreenSpot's rule, weights as GUI-R1",
    ),
)
