"""Answers about a cat and a dog in a large image, and what is found wrong with them."""

from __future__ import annotations

import json

from verl_visionr1 import FRAMES, PRESETS, Target
from verl_visionr1.rewards import Criterion, Preset, ResponseContext
from verl_visionr1.tools.explain.diagnosis import Exam, cause_of, findings_of

SIZE_WH = (2000, 1200)
CAT, DOG = (200, 100, 1000, 400), (1200, 500, 1800, 1100)
TARGET = Target(task="detection", size_wh=SIZE_WH, boxes_xyxy=[CAT, DOG], labels=["cat", "dog"])
NEGATIVE = Target(task="detection", size_wh=SIZE_WH, categories=["cat", "dog"])


def said(*items: tuple[tuple[float, ...], str]) -> str:
    return json.dumps([{"bbox_2d": list(box), "label": label} for box, label in items], ensure_ascii=False)


def scaled(box: tuple[float, ...], width: float, height: float) -> tuple[float, ...]:
    """A box in pixels, as a model writes it whose image is `width` by `height`."""
    factors = (width / SIZE_WH[0], height / SIZE_WH[1])
    return tuple(round(number * factors[i % 2], 3) for i, number in enumerate(box))


def exam_of(
    text: str,
    target: Target = TARGET,
    preset: str | Preset = "visionr1",
    *,
    frame: str = "original",
    **response: object,
) -> Exam:
    chosen = PRESETS[preset] if isinstance(preset, str) else preset
    return Exam.of(text, target, chosen, chosen.schedule(0.0), ResponseContext(FRAMES[frame], **response))  # type: ignore[arg-type]


def cause(text: str, target: Target = TARGET, preset: str | Preset = "visionr1", **options: object) -> str:
    exam = exam_of(text, target, preset, **options)  # type: ignore[arg-type]
    return str(cause_of(exam, findings_of(exam)))


PERFECT = said((CAT, "cat"), (DOG, "dog"))
INVERTED = (1000, 100, 200, 400)
WHOLE = (0, 0, *SIZE_WH)
GRID = [((x, y, x + 90, y + 70), "cat") for x in range(0, 2000, 100) for y in range(0, 1200, 80)]


def of(answer: int | str) -> Target:
    """A count, or words."""
    if isinstance(answer, int):
        return Target(task="counting", size_wh=(9, 9), count=answer)
    return Target(task="text", answer=answer)


def hits(answer, target) -> float:
    boxes = target.boxes_xyxy
    found = {t for x, y in answer.points_xy for t, b in enumerate(boxes) if b[0] <= x <= b[2] and b[1] <= y <= b[3]}
    return len(found) / max(len(boxes), len(answer.points_xy), 1)


def sound(answer) -> float:
    return 0.0 if answer.defects else 1.0


POINTING = Preset(
    "points", (Criterion("hits", hits), Criterion("format", sound)), tasks=("pointing",), answer_format="qwen-points",
    matching="none",
)  # fmt: skip
POINTED = Target(task="pointing", size_wh=SIZE_WH, boxes_xyxy=[CAT, DOG], labels=["cat", "dog"])


def pointed(*items: tuple[tuple[float, float], str]) -> str:
    return json.dumps([{"point_2d": list(point), "label": label} for point, label in items])
