"""Try other readings of a text: other frames, orders of numbers and answer formats."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType

import msgspec

from verl_visionr1.answers import FORMATS, MAX_BOXES, Answer, AnswerFormat
from verl_visionr1.boxes import Box, area
from verl_visionr1.frames import FRAMES, Extent, Frame, points_to_original, to_original
from verl_visionr1.matching import match_class_agnostic
from verl_visionr1.processed import PROCESSORS, SizeError, processed_size
from verl_visionr1.rewards.completion import BOX_TASKS, in_original_pixels
from verl_visionr1.targets import NO_IMAGE, Target, object_boxes
from verl_visionr1.tools.explain.diagnosis.base import Exam, Finding, iou_text, quoted
from verl_visionr1.tools.explain.diagnosis.claims import answer_start, claims_in
from verl_visionr1.tools.explain.diagnosis.repairs import repair_answer, wrap_best

MAX_COMPARED = 200
"""Most boxes that are read in every frame; more add no information."""
CLEAR_OVERLAP, CLEAR_OVERLAP_OF_ONE, CLEAR_RISE = 0.5, 0.65, 0.05
"""Another reading explains the boxes if it reaches this overlap (more for a single box, which may fit by chance), gains
at least this much, and halves the gap to 1."""
CLEAR_POINTS, SMALL_SHARE = 0.5, 0.01
"""The same for points: this share is on objects, twice as many as before. A single point counts only if the objects
cover less than this share of the image."""
NEAR = 0.05
"""Frames of fixed size that differ by less than this share cannot be distinguished by their boxes."""
ORDERS: Mapping[str, Callable[[Box], Box]] = MappingProxyType(
    {
        "x1, y1, x2, y2": lambda box: box,
        "y1, x1, y2, x2": lambda box: (box[1], box[0], box[3], box[2]),
        "x, y, width, height": lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3]),
    }
)
"""Orders of the four numbers of a box; the first is the usual one."""
AS_ASKED = next(iter(ORDERS))
USUAL_BUDGETS: Sequence[tuple[int | None, int | None]] = ((None, None), (3136, 1003520))
"""(min_pixels, max_pixels) to try for an unknown processed size: the model's own, those of transformers' class."""
Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read the boxes (or points) of a text.

    Attributes:
        frames, processed_wh: the frames with this reading, and the processed size that the first needs.
        order: key in `ORDERS`.
        fit, n: mean IoU of the matched boxes, ignoring labels (points: the share on an object), and how many.
        is_telling: whether it is unlikely to fit by chance; one point on a large object may.
    """

    frames: tuple[Frame, ...]
    processed_wh: Size | None
    order: str
    answer: Answer
    fit: float
    n: int
    is_telling: bool = True

    def explains(self, other: Reading) -> bool:
        """Whether this fits better than chance explains."""
        rise = self.fit - other.fit
        if self.answer.points_xy:
            return self.is_telling and self.fit >= CLEAR_POINTS and self.fit >= 2.0 * other.fit
        needed = CLEAR_OVERLAP if self.n > 1 else CLEAR_OVERLAP_OF_ONE
        return self.fit >= needed and rise >= CLEAR_RISE and rise >= 0.5 * (1.0 - other.fit)


def find_misreading(exam: Exam) -> tuple[Exam, list[Finding]]:
    """Find the reading that explains the boxes best; returns its examination and findings about the frame.

    Without such a reading, or without an image or boxes: the unchanged examination and no finding.
    """
    target = exam.target
    if target.size_wh == NO_IMAGE or target.task not in (*BOX_TASKS, "pointing") or not target.n_objects:
        return exam, []
    written = _as_written(exam)
    readings = list(_readings(exam, written))
    if not readings:
        return exam, []
    current = readings[0]
    best = max(readings, key=lambda reading: (reading.fit, reading.order == AS_ASKED))
    plain = max((reading for reading in readings if reading.order == AS_ASKED), key=lambda reading: reading.fit)
    best = best if best.explains(plain) else plain
    if best.explains(current):
        is_order = best.order != AS_ASKED
        return _other_order(exam, current, best) if is_order else _other_frame(exam, written, current, best)
    if _is_unit(exam, written):
        best = next((reading for reading in readings if reading.frames[0].side == 1.0), current)
        return _other_frame(exam, written, current, best)
    return exam, []


def _other_frame(exam: Exam, written: Answer, current: Reading, best: Reading) -> tuple[Exam, list[Finding]]:
    names = [frame.name for frame in best.frames]
    processed_wh = best.processed_wh or exam.response.processed_wh
    response = msgspec.structs.replace(exam.response, frame=best.frames[0], processed_wh=processed_wh)
    reread = exam.with_text(exam.completion, response)
    gain = max(0.0, wrap_best(reread).value - wrap_best(exam).value)
    what = f"read as {names[0]} ({_extent(best)}) {_compared(best, current)}"
    fix = f"set frame={names[0]}" + (f" (or {', '.join(names[1:])}: the same numbers)" if names[1:] else "")
    if _is_unit(exam, written):
        what = f"numbers 0-1: the model uses unit coordinates; {what}"
        return reread, [Finding("unit coordinates", what, fix, max(gain, exam.to_full))]
    return reread, [Finding("wrong frame", f"wrong frame: {what}", fix, gain)]


def _other_order(exam: Exam, current: Reading, best: Reading) -> tuple[Exam, list[Finding]]:
    reread = repair_answer(exam, best.answer)
    frame = "" if exam.response.frame in best.frames else f" in frame {best.frames[0].name}"
    cause = "swapped axes" if best.order.startswith("y") else "width and height"
    fix = f"ask for {AS_ASKED} (the corners) in the prompt; no answer format reads these numbers as {best.order}"
    what = f"{cause}: read as {best.order}{frame} {_compared(best, current)}"
    return reread, [Finding(cause, what, fix, max(0.0, reread.value - exam.value))]


def _compared(best: Reading, current: Reading) -> str:
    if best.answer.points_xy:
        return f"{best.fit:.0%} of the points are on an object instead of {current.fit:.0%}"
    return f"the boxes reach IoU {iou_text(best.fit)} instead of {iou_text(current.fit)}"


def _extent(reading: Reading) -> str:
    frame = reading.frames[0]
    if frame.extent is Extent.PROCESSED and reading.processed_wh is not None:
        return f"pixels of the image processed to {reading.processed_wh[0]}x{reading.processed_wh[1]}"
    return f"0-{frame.side:g}" if frame.side is not None else frame.extent.value


def _is_unit(exam: Exam, written: Answer) -> bool:
    """Whether all numbers are at most 1 although the frame is much larger."""
    if min(exam.response.frame.size_wh(exam.target.size_wh, exam.response.processed_wh)) < 8.0:
        return False
    numbers = [number for place in (*written.boxes_xyxy, *written.points_xy) for number in place]
    return bool(numbers) and all(0.0 <= number <= 1.0 for number in numbers) and any(0 < n < 1 for n in numbers)


def _readings(exam: Exam, written: Answer) -> Iterator[Reading]:
    """All readings, the current one first."""
    target, size_wh = exam.target, exam.target.size_wh
    boxes, points_xy = written.boxes_xyxy[:MAX_COMPARED], written.points_xy[:MAX_COMPARED]
    labels = written.labels[:MAX_COMPARED]
    if not boxes and not points_xy:
        return
    for frame_wh, (frames, processed_wh) in _frames(exam).items():
        if target.task == "pointing" and points_xy:
            answer = Answer((), labels, points_xy=points_to_original(points_xy, frame_wh, size_wh))
            is_telling = (
                len(points_xy) > 1 or sum(map(area, object_boxes(target))) < SMALL_SHARE * size_wh[0] * size_wh[1]
            )
            yield Reading(frames, processed_wh, AS_ASKED, answer, *_fit(answer, target, len(points_xy)), is_telling)
            continue
        for order, box_of in ORDERS.items():
            read = [(box_of(box), label) for box, label in zip(boxes, labels, strict=True)]
            usable = [(box, label) for box, label in read if box[0] < box[2] and box[1] < box[3]]
            boxes_xyxy = to_original(tuple(box for box, _ in usable), frame_wh, size_wh)
            answer = Answer(boxes_xyxy, tuple(label for _, label in usable), len(read) - len(usable))
            yield Reading(frames, processed_wh, order, answer, *_fit(answer, target, len(boxes)))


def _fit(answer: Answer, target: Target, n: int) -> tuple[float, int]:
    """Fit of boxes or points to the target, and how many of the `n` were compared."""
    if answer.points_xy:
        boxes = object_boxes(target)
        on_object = [any(b[0] <= x <= b[2] and b[1] <= y <= b[3] for b in boxes) for x, y in answer.points_xy]
        return sum(on_object) / n, n
    n_possible = max(1, min(n, target.n_objects))
    return sum(match_class_agnostic(answer, target).ious) / n_possible, n_possible


def _frames(exam: Exam) -> dict[tuple[float, float], tuple[tuple[Frame, ...], Size | None]]:
    """Frames by size: the current one first, then those of models that write this format."""
    size_wh = exam.target.size_wh
    likely = _likely_frames(exam, FORMATS[exam.preset.answer_format])
    by_size: dict[tuple[float, float], tuple[tuple[Frame, ...], Size | None]] = {}
    for frame in (*likely, *FRAMES.values()):
        for processed_wh in _processed_sizes(frame, size_wh, exam.response.processed_wh):
            frame_wh = frame.size_wh(size_wh, processed_wh)
            same, first_wh = by_size.get(frame_wh, ((), processed_wh))
            if frame not in same and (same or not _is_near(frame, likely)):
                by_size[frame_wh] = ((*same, frame), first_wh)
    return by_size


def _is_near(frame: Frame, likely: Sequence[Frame]) -> bool:
    """Whether a frame (0-1024) is too close to a likelier one (0-1000) to be distinguished."""
    sides = [it.side for it in likely if it.side is not None and frame not in likely]
    return frame.side is not None and any(abs(frame.side / other - 1.0) < NEAR for other in sides)


def _processed_sizes(frame: Frame, size_wh: Size, known_wh: Size | None) -> list[Size | None]:
    """Processed sizes to try: the known one, else those of the usual pixel budgets; [None] if none is needed."""
    if frame.extent is not Extent.PROCESSED:
        return [None]
    if known_wh is not None:
        return [known_wh]
    sizes: list[Size | None] = []
    for fewest, most in USUAL_BUDGETS if frame.name in PROCESSORS else ():
        with suppress(SizeError):
            sizes.append(processed_size(size_wh, frame.name, min_pixels=fewest, max_pixels=most))
    return sizes


def _as_written(exam: Exam) -> Answer:
    """The parsed answer in the model's units, including boxes dropped as inverted."""
    read = exam.spoken
    claims = claims_in(exam.completion, answer_start(exam.completion))
    claimed = [(claim.box, claim.label) for claim in claims if claim.box is not None]
    if len(claimed) <= len(read.boxes_xyxy):
        claimed = list(zip(read.boxes_xyxy, read.labels, strict=False))[:MAX_BOXES]
    labels = read.labels if read.points_xy else tuple(label for _, label in claimed)
    return msgspec.structs.replace(read, boxes_xyxy=tuple(box for box, _ in claimed), labels=labels)


def other_format(exam: Exam) -> tuple[Exam, list[Finding]]:
    """Find another answer format that reads the text without defects, if the preset's does not.

    Returns the examination in that format, so that further findings are about what it reads.
    """
    own, task = exam.preset.answer_format, exam.target.task
    if task not in (*BOX_TASKS, "pointing") or exam.target.size_wh == NO_IMAGE or not exam.spoken.defects:
        return exam, []  # a box beyond the edge is not a defect of the format
    others = [it for name, it in FORMATS.items() if name != own and not name.endswith("-released")]
    # Plain brackets come before formats of one model family that accept them too.
    others.sort(key=lambda answer_format: answer_format.name not in ("list", "point"))
    found: list[tuple[Exam, AnswerFormat]] = []
    for candidate in others:
        answer = candidate.parse(exam.completion)
        if not answer.defects and (answer.boxes_xyxy if task in BOX_TASKS else answer.points_xy):
            frames = _likely_frames(exam, candidate)
            readable = [f for f in frames if f.extent is not Extent.PROCESSED or exam.response.processed_wh]
            found.append((max((_as_format(exam, answer, f) for f in readable), key=_reward_and_fit), candidate))
    if not found:
        return exam, []
    reread, candidate = max(found, key=lambda entry: entry[0].value)
    what = f"other format: this is {candidate.name}, like {quoted(candidate.example, 60)}; preset {exam.preset.name}"
    fix = f"set answer_format={candidate.name}"
    if reread.response.frame != exam.response.frame:
        fix += f" and frame={reread.response.frame.name}"
    gain = max(0.0, reread.value - exam.value)
    return reread, [Finding("other format", f"{what} reads {own}", f"{fix}, or ask for {own}", gain)]


def _reward_and_fit(exam: Exam) -> tuple[float, float]:
    """Reward, and overlap ignoring labels, which ranks readings that earn nothing."""
    has_boxes = exam.target.task in BOX_TASKS
    return exam.value, sum(match_class_agnostic(exam.answer, exam.target).ious) if has_boxes else 0.0


def _likely_frames(exam: Exam, answer_format: AnswerFormat) -> list[Frame]:
    """The current frame, then those of models that write a format."""
    usual = answer_format.frames or FORMATS["qwen-json"].frames
    return [exam.response.frame, *(FRAMES[name] for name in usual if name in FRAMES)]


def _as_format(exam: Exam, answer: Answer, frame: Frame) -> Exam:
    frame_wh = frame.size_wh(exam.target.size_wh, exam.response.processed_wh)
    reread = repair_answer(exam, in_original_pixels(answer, frame_wh, exam.target.size_wh))
    return replace(reread, response=msgspec.structs.replace(exam.response, frame=frame))
