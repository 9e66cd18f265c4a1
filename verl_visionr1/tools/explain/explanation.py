"""Explain the reward of one completion, from text to reward, as a record and as plain data."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from verl_visionr1.answers import FORMATS, Defect
from verl_visionr1.frames import Extent
from verl_visionr1.rewards.base import Criterion, Preset
from verl_visionr1.rewards.completion import BOX_TASKS, ResponseContext, apply_criteria
from verl_visionr1.rewards.context import Rule
from verl_visionr1.schedule import follow_model
from verl_visionr1.targets import NO_IMAGE, Target
from verl_visionr1.tools.explain.diagnosis import Exam, Finding, about, cause_of, findings_of
from verl_visionr1.tools.explain.diagnosis.claims import answer_start, claims_in
from verl_visionr1.tools.explain.diagnosis.defects import FoundClaims, describe_defect, named_defects
from verl_visionr1.tools.explain.diagnosis.verdicts import Fate, Verdict, verdicts_of


@dataclass(frozen=True, slots=True)
class Piece:
    """A group of numbers in the text.

    Attributes:
        start, end: its place, in characters of the completion.
        is_read: whether the answer format read it.
        why_not: why it was not read; "" if it was.
    """

    start: int
    end: int
    is_read: bool
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class ReadText:
    """How far a completion was read.

    Attributes:
        answer_start: where the answer starts, after reasoning; the length of the text if there is none.
        pieces: groups of numbers, in order; empty for answers in words.
        n_read, n_dropped: numbers of usable boxes or points, and of unusable ones.
        stopped_at: last character read of a cut-off answer; None if not cut off.
        defects: (name, description, what to do), each once.
    """

    answer_start: int
    pieces: tuple[Piece, ...]
    n_read: int
    n_dropped: int
    stopped_at: int | None
    defects: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Conversion:
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


@dataclass(frozen=True, slots=True)
class Part:
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
        records = ("text", "conversion", "predictions", "objects", "parts", "metrics")
        return {
            "cause": _plain(self.cause),
            "value": _plain(self.value),
            "full": exam.full,
            "preset": exam.preset.name,
            "answer_format": exam.preset.answer_format,
            "task": exam.target.task,
            "completion": exam.completion,
            "findings": _plain(self.findings),
            "progress": self.progress,
            "stage": self.stage,
            "thresholds": dataclasses.asdict(exam.thresholds),
            "divisor": exam.preset.divisor,
            **{name: _plain(getattr(self, name)) for name in records},
        }


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
    start = answer_start(exam.completion)
    pieces = _pieces(exam, start) if exam.target.task in (*BOX_TASKS, "pointing", "counting") else ()
    cut_off, found = Defect.TRUNCATED in exam.answer.defects, FoundClaims.of(exam)
    return ReadText(
        answer_start=start,
        pieces=pieces,
        n_read=len(exam.answer.boxes_xyxy) or len(exam.answer.points_xy),
        n_dropped=exam.answer.n_dropped,
        stopped_at=(pieces[-1].end if pieces else start) if cut_off else None,
        defects=tuple((defect.value, *describe_defect(defect, exam, found)[1:]) for defect in named_defects(exam)),
    )


def _pieces(exam: Exam, start: int) -> tuple[Piece, ...]:
    """Each claim of the answer, with whether its numbers were read."""
    spoken = FORMATS[exam.preset.answer_format].parse(exam.completion)
    unclaimed: Counter[tuple[float, ...]] = Counter(spoken.boxes_xyxy or spoken.points_xy)
    whole: Counter[tuple[float, ...]] = Counter(tuple(float(int(n)) for n in place) for place in unclaimed.elements())
    asks_points = exam.target.task == "pointing"
    pieces: list[Piece] = []
    for claim in claims_in(exam.completion, start):
        cut = tuple(float(int(number)) for number in claim.numbers)  # released parsers cut decimals off
        is_read = unclaimed[claim.numbers] > 0 or (not claim.fault and whole[cut] > 0)
        unclaimed[claim.numbers] -= 1
        whole[cut] -= 1
        fault = "" if asks_points and len(claim.numbers) == 2 else claim.fault
        why_not = "" if is_read else fault or f"answer format {exam.preset.answer_format} does not read it"
        pieces.append(Piece(claim.start, claim.end, is_read, why_not))
    return tuple(pieces)


def _conversion(exam: Exam) -> Conversion | None:
    size_wh, response = exam.target.size_wh, exam.response
    if size_wh == NO_IMAGE:
        return None
    extent, side = response.frame.extent, response.frame.side
    spoken = FORMATS[exam.preset.answer_format].parse(exam.completion)
    before: tuple[Any, ...] = spoken.boxes_xyxy or spoken.points_xy
    after: tuple[Any, ...] = exam.answer.boxes_xyxy or exam.answer.points_xy
    return Conversion(
        frame=response.frame.name,
        meaning=f"0-{side:g}, for any image" if extent is Extent.FIXED and side is not None else extent.value,
        frame_wh=response.frame.size_wh(size_wh, response.processed_wh),
        original_wh=(size_wh[0], size_wh[1]),
        factors_xy=exam.scale_xy,
        first=(before[0], after[0]) if before and after else None,
    )


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
