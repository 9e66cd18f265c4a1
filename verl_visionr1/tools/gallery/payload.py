"""What the page is made of, as it stands in the page: lists are rows, numbers in them are places in other lists."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from verl_visionr1.tools.gallery.curves import Drift, Panel


class JudgedBy(msgspec.Struct, frozen=True, kw_only=True):
    """A preset: its criteria with weights, what their weighted sum is divided by, and the metrics of its scores.

    `told`: what the tools are told to judge by it: its name, or its file.
    """

    name: str
    told: str
    criteria: list[str]
    weights: list[float]
    about: list[str]
    divisor: float
    metrics: list[str]
    has_thresholds: bool


class Kind(msgspec.Struct, frozen=True):
    """What a prediction or an object can be counted as, and its colour (#rrggbb)."""

    name: str
    colour: str


class Place(msgspec.Struct, frozen=True, array_like=True):
    """An object of the ground truth: a box x1, y1, x2, y2 or a point x, y in pixels of the original image."""

    label: str
    place: list[float]


class Prediction(msgspec.Struct, frozen=True, array_like=True):
    """A prediction: what it was counted as (in `kinds`), and where in the text it is (UTF-16 units; -1: unknown)."""

    kind: int
    label: str
    place: list[float]
    target: int
    overlap: float | None
    repeats: int
    start: int
    end: int


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked, of what image, and what is right; `picture` -1: none."""

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
        file, line: where it stands.
        text, cut: what was written; of a long text, `cut[1]` characters are left out at `cut[0]` (UTF-16 units).
        chars, tokens: its whole length; 0 tokens: not known.
        reward: that which advantages are of; saved: the run's; value: the recomputed one.
        metrics: in the order of the preset's.
        objects: what became of each object (in `kinds`).
        said: the answer, where it is not boxes.
        cause, why: kind (in `causes`; -1: not asked) and words of the first line of `visionr1 explain`.
        quality: F1 at IoU .5 of boxes, else the task's accuracy.
        misled: rewarded above another of its group that is better.
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
    said: str
    cause: int
    why: str
    quality: float
    misled: bool
    differs: bool


class GroupRow(msgspec.Struct, frozen=True, kw_only=True):
    """The rollouts of a prompt at a step: `n` samples from `first` on; `n_all` were there."""

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
    """What counted."""

    match_iou: float
    recall: tuple[float, float]
    iou: tuple[float, float]


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """All of the page but its pictures; `response`: what `visionr1 explain` is told of how the model spoke."""

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
    r"""JSON that may stand in a `<script>` element, whatever a model wrote: no `<`, and ASCII only.

    >>> script_json(["</script>", "\u2028\ud800"])
    '["\\u003c/script>","\\u2028\\ud800"]'
    """
    plain = msgspec.to_builtins(value)
    return json.dumps(plain, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def finite(value: float, digits: int = 5) -> float:
    """A number that JSON takes, rounded.

    >>> finite(0.12345678), finite(float("nan")), finite(float("-inf"))
    (0.12346, 0.0, -1000000000.0)
    """
    if math.isnan(value):
        return 0.0
    return round(min(max(value, -1e9), 1e9), digits)
