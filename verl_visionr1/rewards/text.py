"""Presets of answers in words. The format (closed tags, or no tags) is easy and counts a tenth.

Add `think_answer` or `think_answer_glm` of `criteria.structure` to require a template for the reasoning.
"""

from __future__ import annotations

from verl_visionr1.criteria.detection import well_formed
from verl_visionr1.criteria.text import choice, edit_similarity, exact, math, number, yes_no
from verl_visionr1.rewards.base import Criterion, CriterionFn, Preset


def _text(name: str, fn: CriterionFn, source: str) -> Preset:
    return Preset(
        name,
        criteria=(Criterion("format", well_formed, 0.1), Criterion("correct", fn, 0.9)),
        tasks=("text",),
        answer_format="text",
        matching="none",
        accuracy="correct",
        source=source,
    )


PRESETS: tuple[Preset, ...] = (
    _text("text-exact", exact, "own: equality of normal forms"),
    _text("multiple-choice", choice, "own: the option that is named"),
    _text("yes-no", yes_no, "own: the word"),
    _text("number", number, "own: relative tolerance, as ChartQA"),
    _text("edit-similarity", edit_similarity, "1 - edit distance, as Perception-R1 (OCR)"),
    _text("math", math, "math-verify, bounded in time"),
)
