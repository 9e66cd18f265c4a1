"""Records of the page: lists are rows, numbers in them are indices of other lists."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from verl_visionr1.tools.gallery.curves import Drift, Panel


class JudgedBy(msgspec.Struct, frozen=True, kw_only=True):
    """A preset: its criteria with weights, what their weighted sum is divided by, and the metrics of its scores.

    `preset_argument`: value of `--preset` for the commands in the page: its name or its file.
    """

    name: str
    preset_argument: str
    criteria: list[str]
    weights: list[float]
    about: list[str]
    divisor: float
    metrics: list[str]
    has_thresholds: bool


class Kind(msgspec.Struct, frozen=True):
    """A way to count a prediction or an object, and its colour (#rrggbb)."""

    name: str
    colour: str


class Place(msgspec.Struct, frozen=True, array_like=True):
    """An object of the ground truth: a box x1, y1, x2, y2 or a point x, y in pixels of the original image."""

    label: str
    place: list[float]


class Prediction(msgspec.Struct, frozen=True, array_like=True):
    """A prediction: how it was counted (in `kinds`), and its place in the text (UTF-16 units; -1: unknown)."""

    kind: int
    label: str
    place: list[float]
    target: int
    overlap: float | None
    repeats: int
    start: int
    end: int


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """Question, image and right answer; `picture` -1: none."""

    question: str
    text: str
    task: str
    source: int
    preset: int
    size_wh: tuple[int, int]
    objects: list[Place]
    ignored: list[list[float]]
    truth: str
    picture: int


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout.

    Attributes:
        file, line: its place.
        text, cut: the completion; in a long text, `cut[1]` characters are left out at `cut[0]` (UTF-16 units).
        chars, tokens: its whole length; 0 tokens: unknown.
        reward: the one used for advantages; saved: the run's; value: the recomputed one.
        metrics: in the order of the preset's.
        objects: how each object was counted (in `kinds`).
        answer: the answer, unless it is boxes.
        cause, why: kind (in `causes`; -1: not computed) and text of the first line of `visionr1 explain`.
        quality: F1 at IoU .5 of boxes, else the task's accuracy.
        misled: whether a better one of its group has a lower reward.
    """

    file: int
    line: int
    text: str
    cut: tuple[int, int] | None
    chars: int
    tokens: int
    reward: float
    saved: float | None
    value: float
    advantage: float | None
    metrics: list[float]
    predictions: list[Prediction]
    objects: list[int]
    answer: str
    cause: int
    why: str
    quality: float
    misled: bool
    differs: bool


class GroupRow(msgspec.Struct, frozen=True, kw_only=True):
    """The rollouts of a prompt at a step: `n` shown samples from `first` on, of `n_all`."""

    prompt: int
    dump: int
    step: int | None
    first: int
    n: int
    n_all: int
    mean: float
    std: float
    is_flat: bool
    is_saved: bool
    against: float
    thresholds: int
    progress: float | None


class ThresholdsRow(msgspec.Struct, frozen=True, kw_only=True):
    """Thresholds of a group."""

    match_iou: float
    recall: tuple[float, float]
    iou: tuple[float, float]


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """Everything in the page except its pictures; `response`: options of `visionr1 explain` for the response
    context."""

    title: str
    preset: str
    frame: str
    moment: str
    response: str
    dumps: list[str]
    files: list[str]
    sources: list[str]
    kinds: list[Kind]
    causes: list[str]
    presets: list[JudgedBy]
    thresholds: list[ThresholdsRow]
    prompts: list[Prompt]
    groups: list[GroupRow]
    samples: list[Sample]
    panels: list[Panel]
    drifts: list[Drift]
    notes: list[str]
    n_all: int


def script_json(value: Any) -> str:
    r"""JSON that is safe in a `<script>` element for any text of a model: no `<`, ASCII only.

    >>> script_json(["</script>", "\u2028\ud800"])
    '["\\u003c/script>","\\u2028\\ud800"]'
    """
    plain = msgspec.to_builtins(value)
    return json.dumps(plain, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def finite(value: float, digits: int = 5) -> float:
    """A rounded, JSON-able number.

    >>> finite(0.12345678), finite(float("nan")), finite(float("-inf"))
    (0.12346, 0.0, -1000000000.0)
    """
    if math.isnan(value):
        return 0.0
    return round(min(max(value, -1e9), 1e9), digits)
