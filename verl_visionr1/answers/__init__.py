"""Completion text -> `Answer`: boxes, points and labels as the model wrote them, with named defects.

Bad model output is data, never an exception: a parser takes any text, reads at most `MAX_CHARS` of the answer in linear
time, and keeps at most `MAX_BOXES` boxes or points. Nothing is evaluated, no pattern backtracks. A new format is one
module with a parser and an `AnswerFormat`, and one line below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from verl_visionr1.answers.base import MAX_BOXES, MAX_CHARS, Answer, AnswerFormat, Defect
from verl_visionr1.answers.glm import GLM, parse_glm
from verl_visionr1.answers.molmo import MOLMO_POINTS
from verl_visionr1.answers.plain import LIST, POINT
from verl_visionr1.answers.qwen import GEMMA_JSON, QWEN_JSON, QWEN_POINTS, VLMR1_JSON
from verl_visionr1.answers.released import VISIONR1_RELEASED
from verl_visionr1.answers.tagged import INTERNVL, QWEN2_VL, parse_internvl, parse_qwen2_vl
from verl_visionr1.answers.untrained import GRIFFON, PALIGEMMA, parse_griffon
from verl_visionr1.answers.words import COUNT, TEXT

__all__ = [
    "FORMATS",
    "MAX_BOXES",
    "MAX_CHARS",
    "PARSERS",
    "Answer",
    "AnswerFormat",
    "Defect",
    "instruction",
    "parse_glm",
    "parse_griffon",
    "parse_internvl",
    "parse_qwen2_vl",
]

_FORMATS = (
    *(QWEN_JSON, VLMR1_JSON, QWEN2_VL, INTERNVL, GLM, GRIFFON, PALIGEMMA, GEMMA_JSON, LIST),
    *(QWEN_POINTS, MOLMO_POINTS, POINT, VISIONR1_RELEASED, COUNT, TEXT),
)
FORMATS: Mapping[str, AnswerFormat] = MappingProxyType({each.name: each for each in _FORMATS})
"""Every answer format by name."""
PARSERS: Mapping[str, Callable[[str], Answer]] = MappingProxyType({name: f.parse for name, f in FORMATS.items()})
"""Answer format -> its parser."""
instruction = QWEN_JSON.instruct
