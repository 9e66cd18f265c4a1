"""Answers that are no boxes: a count as a number or in words, and plain text."""

from __future__ import annotations

from verl_visionr1.answers.base import AnswerFormat

FORMATS: tuple[AnswerFormat, ...] = ()
