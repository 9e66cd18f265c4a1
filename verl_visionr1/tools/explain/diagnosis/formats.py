"""Would another answer format read the text without defects?"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from verl_visionr1.answers import FORMATS, Answer, AnswerFormat
from verl_visionr1.frames import FRAMES, Extent, Frame
from verl_visionr1.matching import match_class_agnostic
from verl_visionr1.rewards.completion import BOX_TASKS, in_original_pixels
from verl_visionr1.targets import NO_IMAGE
from verl_visionr1.tools.explain.diagnosis.base import Exam, Finding, quoted
from verl_visionr1.tools.explain.diagnosis.repairs import repair_answer

_PROVIDES = {"detection": "boxes_xyxy", "grounding": "boxes_xyxy", "pointing": "points_xy"}


def plain_first(own: str) -> list[AnswerFormat]:
    """The other formats that can be asked for; brackets alone before those of one family of models that take them too.

    >>> [answer_format.name for answer_format in plain_first("qwen-json")][:2]
    ['list', 'point']
    """
    others = [f for name, f in FORMATS.items() if name != own and not name.endswith("-released")]
    return sorted(others, key=lambda answer_format: answer_format.name not in ("list", "point"))


def other_format(exam: Exam) -> tuple[Exam, list[Finding]]:
    """If another answer format reads the text without defects while the preset's does not, say which.

    The examination is then that of the other format, so that further findings speak of what it reads.
    """
    field = _PROVIDES.get(exam.target.task)
    own = exam.preset.answer_format
    if field is None or exam.target.size_wh == NO_IMAGE or not FORMATS[own].parse(exam.completion).defects:
        return exam, []  # a box that reaches over the edge is a defect of no format
    found: list[tuple[float, Exam, AnswerFormat]] = []
    for candidate in plain_first(exam.preset.answer_format):
        answer = candidate.parse(exam.completion)
        if answer.defects or not getattr(answer, field):
            continue
        reread = max((_as_format(exam, answer, frame) for frame in _candidate_frames(exam, candidate)), key=_fit)
        found.append((reread.value, reread, candidate))
    if not found:
        return exam, []
    value, reread, candidate = max(found, key=lambda entry: entry[0])
    what = f"other format: this is {candidate.name}, like {quoted(candidate.example, 60)}; preset {exam.preset.name}"
    fix = f"set answer_format={candidate.name}"
    if reread.response.frame != exam.response.frame:
        fix += f" and frame={reread.response.frame.name}"
    finding = Finding("other format", f"{what} reads {own}", f"{fix}, or ask for {own}", max(0.0, value - exam.value))
    return reread, [finding]


def _fit(exam: Exam) -> tuple[float, float]:
    """The reward, and the overlap whatever the labels: of readings that earn nothing, one may still fit."""
    return exam.value, sum(
        match_class_agnostic(exam.answer, exam.target).ious
    ) if exam.target.task in BOX_TASKS else 0.0


def _candidate_frames(exam: Exam, candidate: AnswerFormat) -> list[Frame]:
    usual = candidate.frames or FORMATS["qwen-json"].frames
    frames = [exam.response.frame, *(FRAMES[name] for name in usual if name in FRAMES)]
    return [f for f in frames if f.extent is not Extent.PROCESSED or exam.response.processed_wh is not None]


def _as_format(exam: Exam, answer: Answer, frame: Frame) -> Exam:
    frame_wh = frame.size_wh(exam.target.size_wh, exam.response.processed_wh)
    reread = repair_answer(exam, in_original_pixels(answer, frame_wh, exam.target.size_wh))
    return replace(reread, response=msgspec.structs.replace(exam.response, frame=frame))
