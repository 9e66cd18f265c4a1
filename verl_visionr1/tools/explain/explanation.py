"""Explain the reward of one completion, from text to reward, as a record and as plain data."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import msgspec

from verl_visionr1.answers import Defect
from verl_visionr1.frames import Extent
from verl_visionr1.rewards.base import Criterion, Preset
from verl_visionr1.rewards.completion import BOX_TASKS, ResponseContext, apply_criteria
from verl_visionr1.rewards.context import Rule
from verl_visionr1.schedule import follow_model
from verl_visionr1.targets import NO_IMAGE, Target
from verl_visionr1.tools.explain.diagnosis import Exam, Finding, about, cause_of, findings_of
from verl_visionr1.tools.explain.diagnosis.claims import Claim, answer_start, find_read
from verl_visionr1.tools.explain.diagnosis.verdicts import Fate, Verdict, verdicts_of
from verl_visionr1.tools.explain.diagnosis.writing import answer_claims, describe_defect, named_defects


class Piece(msgspec.Struct, frozen=True):
    """A group of numbers in the text: its place in characters, and why it was not read ("" if it was)."""

    start: int
    end: int
    why_not: str


class ReadText(msgspec.Struct, frozen=True):
    """How far a completion was read.

    Attributes:
        answer_start: where the answer starts, after reasoning; the length of the text if there is none.
        pieces: groups of numbers, in order; empty for answers in words.
        n_read, n_dropped: numbers of usable boxes or points, and of unusable ones.
        stopped_at: last character read of a cut-off answer; None if not cut off.
        defects: (name, description, what to do), each once.
    """

    answer_start: int
    pieces: list[Piece]
    n_read: int
    n_dropped: int
    stopped_at: int | None
    defects: list[tuple[str, str, str]]


class Conversion(msgspec.Struct, frozen=True):
    """Conversion of coordinates from the model's frame to pixels of the original image.

    Attributes:
        frame, meaning: name of the frame, and the meaning of its largest coordinate.
        frame_wh, original_wh: size of the whole image in units of the frame, and in pixels.
        factors_xy: pixels per unit.
        first: the first box (or point) as written, and in pixels; None if there is none.
    """

    frame: str
    meaning: str
    frame_wh: tuple[float, float]
    original_wh: tuple[int, int]
    factors_xy: tuple[float, float]
    first: tuple[tuple[float, ...], tuple[float, ...]] | None


class Part(msgspec.Struct, frozen=True):
    """One criterion's part in the reward: `share` = weight x value / divisor."""

    name: str
    weight: float
    value: float
    share: float
    about: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Explanation of one completion's reward.

    Attributes:
        cause: the costliest finding, with what to do.
        findings: all findings, costliest first.
        exam: the completion and how it was scored.
        progress, stage: when in training; None and -1 without a schedule.
        text, conversion: how it was read (None without an image).
        predictions, objects: how each was counted.
        parts: the criteria; their shares sum to `value`.
        metrics: as in training.
    """

    cause: Finding
    findings: tuple[Finding, ...]
    exam: Exam
    progress: float | None
    stage: int
    value: float
    text: ReadText
    conversion: Conversion | None
    predictions: tuple[Verdict, ...]
    objects: tuple[Fate, ...]
    parts: tuple[Part, ...]
    metrics: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """The explanation as JSON-able data; non-finite numbers become None."""
        exam = self.exam
        judged = {
            "full": exam.full,
            "preset": exam.preset.name,
            "answer_format": exam.preset.answer_format,
            "task": exam.target.task,
            "completion": exam.completion,
            "thresholds": exam.thresholds,
            "divisor": exam.preset.divisor,
        }
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "exam"}
        return _finite(msgspec.to_builtins(own | judged))


def explain(
    completion: str,
    target: Target,
    preset: Preset,
    response: ResponseContext,
    *,
    progress: float | None = None,
    rule: Rule | None = None,
    is_clipped: bool | None = None,
) -> Explanation:
    """Explain one completion. Never raises for any text.

    Args:
        completion: what the model wrote.
        target: the ground truth.
        preset, response: how it is scored.
        progress: fraction of training, in [0, 1]; None: no schedule.
        rule: thresholds, if they are not those of `progress`.
        is_clipped: whether it filled the response budget; None: by `response`, if known.

    Raises:
        FrameError: the frame needs `processed_wh`, which is None.
        ValueError: progress outside [0, 1].

    >>> from verl_visionr1 import FRAMES, PRESETS
    >>> target = Target(task="detection", size_wh=(640, 480), boxes_xyxy=[[100, 100, 200, 200]], labels=["cat"])
    >>> text = 'A cat: [{"bbox_2d": [100, 100, 200, 200], "label": "cat"}]'
    >>> explanation = explain(text, target, PRESETS["visionr1"], ResponseContext(FRAMES["original"]))
    >>> explanation.cause.cause, round(sum(part.share for part in explanation.parts), 3)
    ('prose', 0.667)
    """
    schedule = follow_model(preset.schedule, response.frame.name)
    rule = rule or Rule(schedule(progress), schedule.stage(progress))
    exam = Exam.of(completion, target, preset, rule.thresholds, response, is_clipped)
    score = apply_criteria(exam.case, preset)
    findings = findings_of(exam)
    predictions, objects = verdicts_of(exam)
    return Explanation(
        cause=cause_of(exam, findings),
        findings=tuple(findings),
        exam=exam,
        progress=progress,
        stage=rule.stage,
        value=score.value,
        text=_read_text(exam),
        conversion=_conversion(exam),
        predictions=tuple(predictions),
        objects=tuple(objects),
        parts=tuple(_part(criterion, score.metrics[criterion.name], preset) for criterion in preset.criteria),
        metrics=score.metrics,
    )


def _part(criterion: Criterion, value: float, preset: Preset) -> Part:
    return Part(criterion.name, criterion.weight, value, criterion.weight * value / preset.divisor, about(criterion.fn))


def _read_text(exam: Exam) -> ReadText:
    start, claims = answer_start(exam.completion), answer_claims(exam)
    read = find_read(claims, exam.spoken_places)
    has_places = exam.target.task in (*BOX_TASKS, "pointing", "counting")
    pieces = [_piece(exam, claim, i in read) for i, claim in enumerate(claims)] if has_places else []
    return ReadText(
        answer_start=start,
        pieces=pieces,
        n_read=len(exam.answer.boxes_xyxy) or len(exam.answer.points_xy),
        n_dropped=exam.answer.n_dropped,
        stopped_at=(pieces[-1].end if pieces else start) if Defect.TRUNCATED in exam.answer.defects else None,
        defects=[(defect.value, *describe_defect(defect, exam, claims)[1:]) for defect in named_defects(exam)],
    )


def _piece(exam: Exam, claim: Claim, is_read: bool) -> Piece:
    fault = "" if exam.target.task == "pointing" and len(claim.numbers) == 2 else claim.fault
    why_not = fault or f"answer format {exam.preset.answer_format} does not read it"
    return Piece(claim.start, claim.end, "" if is_read else why_not)


def _conversion(exam: Exam) -> Conversion | None:
    size_wh, frame = exam.target.size_wh, exam.response.frame
    if size_wh == NO_IMAGE:
        return None
    is_fixed = frame.extent is Extent.FIXED and frame.side is not None
    before: tuple[Any, ...] = exam.spoken_places
    after: tuple[Any, ...] = exam.answer.boxes_xyxy or exam.answer.points_xy
    return Conversion(
        frame=frame.name,
        meaning=f"0-{frame.side:g}, for any image" if is_fixed else frame.extent.value,
        frame_wh=frame.size_wh(size_wh, exam.response.processed_wh),
        original_wh=(size_wh[0], size_wh[1]),
        factors_xy=exam.scale_xy,
        first=(before[0], after[0]) if before and after else None,
    )


def _finite(value: Any) -> Any:
    """Plain data with None in place of numbers that JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value
