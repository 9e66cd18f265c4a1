"""Completion text -> `Answer`: boxes, points and labels as the model wrote them, with named defects.

Each parser's module also holds the instruction that asks for its format. Bad model output is data, never an exception:
a parser takes any text, reads at most `MAX_CHARS` of the answer in linear time, and keeps at most `MAX_BOXES` boxes or
points. Nothing is evaluated, no pattern backtracks.

A new format is one module with a parser, a `wording.Wording` and an `AnswerFormat`, and one line below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from verl_visionr1.answers import words
from verl_visionr1.answers.base import MAX_BOXES, MAX_CHARS, Answer, AnswerFormat, Defect
from verl_visionr1.answers.gemma import GEMMA_JSON, parse_gemma_json
from verl_visionr1.answers.glm import GLM, parse_glm
from verl_visionr1.answers.plain import LIST, POINT, parse_list, parse_point
from verl_visionr1.answers.points import MOLMO_POINTS, QWEN_POINTS, parse_molmo_points, parse_qwen_points
from verl_visionr1.answers.qwen import QWEN_JSON, VLMR1_JSON, instruction, parse_qwen_json
from verl_visionr1.answers.released import VISIONR1_RELEASED, parse_visionr1_released
from verl_visionr1.answers.tagged import INTERNVL, QWEN2_VL, parse_internvl, parse_qwen2_vl
from verl_visionr1.answers.untrained import GRIFFON, PALIGEMMA, parse_griffon, parse_paligemma

__all__ = [
    "FORMATS",
    "AnswerFormat",
    "MAX_BOXES",
    "MAX_CHARS",
    "PARSERS",
    "Answer",
    "Defect",
    "instruction",
    "parse_gemma_json",
    "parse_glm",
    "parse_griffon",
    "parse_internvl",
    "parse_list",
    "parse_molmo_points",
    "parse_paligemma",
    "parse_point",
    "parse_qwen2_vl",
    "parse_qwen_json",
    "parse_qwen_points",
    "parse_visionr1_released",
]

FORMATS: Mapping[str, AnswerFormat] = MappingProxyType(
    {
        answer_format.name: answer_format
        for answer_format in (
            QWEN_JSON,
            VLMR1_JSON,
            QWEN2_VL,
            INTERNVL,
            GLM,
            GRIFFON,
            PALIGEMMA,
            GEMMA_JSON,
            LIST,
            QWEN_POINTS,
            MOLMO_POINTS,
            POINT,
            VISIONR1_RELEASED,
            *words.FORMATS,
        )
    }
)
"""Every answer format by name."""
PARSERS: Mapping[str, Callable[[str], Answer]] = MappingProxyType({name: f.parse for name, f in FORMATS.items()})
"""Answer format -> its parser."""
