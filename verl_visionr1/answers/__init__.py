"""Completion text -> `Answer`: boxes and labels as the model spoke them, and by name what is wrong with the text.

Beside each parser stands the instruction that asks for its format. Bad model output is data, never an exception: a
parser takes any text, reads at most `MAX_CHARS` of the answer in linear time, and keeps at most `MAX_BOXES` boxes.
Nothing is evaluated, no pattern backtracks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from verl_visionr1.answers import words
from verl_visionr1.answers.base import MAX_BOXES, MAX_CHARS, Answer, AnswerFormat, Defect
from verl_visionr1.answers.griffon import parse_griffon
from verl_visionr1.answers.qwen import instruction, parse_qwen_json
from verl_visionr1.answers.released import parse_visionr1_released

__all__ = [
    "FORMATS",
    "AnswerFormat",
    "MAX_BOXES",
    "MAX_CHARS",
    "PARSERS",
    "Answer",
    "Defect",
    "instruction",
    "parse_griffon",
    "parse_qwen_json",
    "parse_visionr1_released",
]

FORMATS: Mapping[str, AnswerFormat] = MappingProxyType(
    {
        answer_format.name: answer_format
        for answer_format in (
            AnswerFormat("qwen-json", parse_qwen_json, instruction, '[{"bbox_2d": [10, 20, 30, 40], "label": "cat"}]'),
            AnswerFormat("griffon", parse_griffon, None, "cat-[0.100,0.200,0.300,0.400]", ("unit",)),
            AnswerFormat("visionr1-released", parse_visionr1_released, None, "[]"),
            *words.FORMATS,
        )
    }
)
"""Every answer format by name."""
PARSERS: Mapping[str, Callable[[str], Answer]] = MappingProxyType({name: f.parse for name, f in FORMATS.items()})
"""Answer format -> its parser."""
