"""Do the answers fit another frame of coordinates than the one they are read in? Asked of some answers together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from verl_visionr1.answers import FORMATS, Answer
from verl_visionr1.evaluation.reading import Read
from verl_visionr1.evaluation.settings import EvaluationSettings
from verl_visionr1.frames import FRAMES, Extent, Frame, FrameError
from verl_visionr1.matching import match_class_agnostic
from verl_visionr1.processed import SizeError
from verl_visionr1.rewards.completion import in_original_pixels
from verl_visionr1.targets import NO_IMAGE

MAX_READS = 100
"""Answers of a data source that are read in every frame, spread evenly."""
FEWEST = 4
"""Answers with boxes or points below which nothing is said."""
NEAR = 0.05
"""Of frames that fit as well but for this, the likelier is named."""
FIT = 0.5
"""What another frame must reach; it must also halve what is missing to 1."""


def frame_note(reads: Sequence[Read], settings: EvaluationSettings) -> str | None:
    """That the answers fit another frame far better, and which; None where they do not.

    Args:
        reads: of one data source and task.
    """
    placed = [read for read in reads if _has_places(read) and read.target.size_wh != NO_IMAGE]
    placed = placed[:: max(1, len(placed) // MAX_READS)][:MAX_READS]
    if len(placed) < FEWEST:
        return None
    now = FRAMES[settings.frame]
    fits = {frame.name: _fit(placed, frame, settings) for frame in _likely_first(placed, now)}
    best = next(name for name, fit in fits.items() if fit >= max(fits.values()) - NEAR)
    before = fits[now.name]
    if fits[best] < FIT or fits[best] - before < 0.5 * (1.0 - before):
        return None
    measure = "mean IoU" if placed[0].answer.boxes_xyxy else "share of points on an object"
    numbers = f"{measure} {fits[best]:.2f} as {best}, {before:.2f} as {now.name} ({len(placed)} answers)"
    return f"wrong frame? Read in another frame, the answers fit: {numbers}; measure again with --frame {best}"


def _has_places(read: Read) -> bool:
    return bool(read.target.boxes_xyxy and (read.answer.boxes_xyxy or read.answer.points_xy))


def _likely_first(reads: Sequence[Read], now: Frame) -> Iterator[Frame]:
    """The frame that was given, those that models write the answers' format in, and the others."""
    usual = FORMATS[reads[0].preset.answer_format].frames or FORMATS["qwen-json"].frames
    names = dict.fromkeys([now.name, *(name for name in usual if name in FRAMES), *FRAMES])
    return (FRAMES[name] for name in names)


def _fit(reads: Sequence[Read], frame: Frame, settings: EvaluationSettings) -> float:
    """Mean over the answers of how well they fit in a frame, 0 to 1; 0 where the frame cannot be used."""
    try:
        return float(np.mean([_fit_of_one(read, frame, settings) for read in reads]))
    except (FrameError, SizeError):
        return 0.0


def _fit_of_one(read: Read, frame: Frame, settings: EvaluationSettings) -> float:
    target, processed_wh = read.target, None
    if frame.extent is Extent.PROCESSED:
        processed_wh = read.prediction.processed_wh or settings.processing.size_wh(target.size_wh, frame)
    spoken = FORMATS[read.preset.answer_format].parse(read.prediction.output)
    answer = in_original_pixels(spoken, frame.size_wh(target.size_wh, processed_wh), target.size_wh)
    if answer.points_xy:
        return _share_on_objects(answer, target.boxes_xyxy)
    ious = match_class_agnostic(answer, target).ious
    return sum(ious) / max(1, min(len(answer.boxes_xyxy), len(target.boxes_xyxy)))


def _share_on_objects(answer: Answer, boxes_xyxy: Sequence[Sequence[float]]) -> float:
    hits = [any(x1 <= x <= x2 and y1 <= y <= y2 for x1, y1, x2, y2 in boxes_xyxy) for x, y in answer.points_xy]
    return sum(hits) / len(hits)
