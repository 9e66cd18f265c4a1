"""Write answers in each answer format, with the text around them: the counterpart of the parsers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from verl_visionr1.answers.qwen import write_json

Number: TypeAlias = float | str
"""A coordinate; a string is written unchanged, so that a probe may write NaN."""
Item: TypeAlias = tuple[tuple[Number, ...], str]
"""Coordinates (x1, y1, x2, y2 of a box, x, y of a point) in pixels of the scene, and a label."""
SIDE = 1000
"""Width and height of every scene: pixels are then also the 0-1000 units of many models."""


@dataclass(frozen=True, slots=True)
class Writer:
    """How an answer format is written.

    Attributes:
        kind: "boxes", "points", "count" or "words".
        frame: the coordinates it writes, a name in `frames.FRAMES`.
        is_single: whether an answer holds at most one object.
    """

    kind: str
    write: Callable[[Sequence[Item]], str]
    frame: str = "original"
    has_labels: bool = True
    is_single: bool = False


def _number(value: Number, side: float = SIDE, decimals: int | None = None) -> str:
    """A pixel of the scene, written in a frame of that side."""
    if isinstance(value, str):
        return value
    spoken = value * side / SIDE
    return f"{spoken:g}" if decimals is None else f"{spoken:.{decimals}f}"


def _row(coordinates: Sequence[Number], joint: str = ", ") -> str:
    return joint.join(map(_number, coordinates))


def _qwen(items: Sequence[Item], key: str = "") -> str:
    return write_json([[*map(_number, xs)] for xs, _ in items], [label for _, label in items], key)


def _griffon(items: Sequence[Item]) -> str:
    pieces = (f"{label}-[{','.join(_number(x, 1.0, 3) for x in xs)}]" for xs, label in items)
    return "&".join(pieces) or "None"


def _qwen2_vl(items: Sequence[Item]) -> str:
    pieces = (
        f"<|object_ref_start|>{label}<|object_ref_end|><|box_start|>"
        f"({_row(xs[:2], ',')}),({_row(xs[2:], ',')})<|box_end|>"
        for xs, label in items
    )
    return "".join(pieces) or "None"


def _internvl(items: Sequence[Item]) -> str:
    return "".join(f"<ref>{label}</ref><box>[[{_row(xs)}]]</box>" for xs, label in items) or "None"


def _paligemma(items: Sequence[Item]) -> str:
    def bins(xs: Sequence[Number]) -> str:
        x1, y1, x2, y2 = (x if isinstance(x, str) else f"{min(round(x * 1024 / SIDE), 1023):04d}" for x in xs)
        return f"<loc{y1}><loc{x1}><loc{y2}><loc{x2}>"

    return " ; ".join(f"{bins(xs)} {label}" for xs, label in items)


def _gemma(items: Sequence[Item]) -> str:
    return _qwen([((y1, x1, y2, x2), label) for (x1, y1, x2, y2), label in items], "box_2d")


def _lists(items: Sequence[Item]) -> str:
    rows = [f"[{_row(xs)}]" for xs, _ in items]
    return rows[0] if len(rows) == 1 else f"[{', '.join(rows)}]"


def _pairs(items: Sequence[Item]) -> str:
    rows = [f"({_row(xs)})" for xs, _ in items]
    return ", ".join(rows) or "[]"


def _molmo(items: Sequence[Item]) -> str:
    pieces = (
        f'<point x="{_number(x, 100.0, 1)}" y="{_number(y, 100.0, 1)}" alt="{label}">{label}</point>'
        for (x, y), label in items
    )
    return "\n".join(pieces) or "None"


WRITERS: Mapping[str, Writer] = MappingProxyType(
    {
        "qwen-json": Writer("boxes", _qwen),
        "vlmr1-json": Writer("boxes", _qwen),
        "visionr1-released": Writer("boxes", _qwen),
        "griffon": Writer("boxes", _griffon, frame="unit"),
        "qwen2-vl": Writer("boxes", _qwen2_vl),
        "internvl": Writer("boxes", _internvl),
        "glm": Writer("boxes", _qwen),
        "paligemma": Writer("boxes", _paligemma, frame="paligemma"),
        "gemma-json": Writer("boxes", _gemma),
        "list": Writer("boxes", _lists, has_labels=False),
        "qwen-points": Writer("points", _qwen),
        "molmo-points": Writer("points", _molmo, frame="percent"),
        "point": Writer("points", _pairs, has_labels=False, is_single=True),
        "count": Writer("count", lambda items: str(len(items))),
        "text": Writer("words", lambda items: " ".join(label for _, label in items)),
    }
)
"""Answer format -> how it is written."""


@dataclass(frozen=True, slots=True)
class Form:
    """The text around an answer, and whether reasoning comes before it."""

    name: str
    before: str = ""
    after: str = ""
    thinks: bool = False

    def wrap(self, answer: str) -> str:
        """Wrap an answer into a completion."""
        if self.thinks:
            return self.reasoned("I look at the image.", answer)
        return f"{self.before}{answer}{self.after}"

    def reasoned(self, reasoning: str, answer: str) -> str:
        """Wrap reasoning and an answer into a completion."""
        return f"<think>{reasoning}</think>\n{self.before}{answer}{self.after}"


FORMS = (
    Form("plain"),
    Form("fence", "```json\n", "\n```"),
    Form("think-answer", "<answer>", "</answer>", thinks=True),
    Form("think-answer-fence", "<answer>```json\n", "\n```</answer>", thinks=True),
    Form("think-box", "<|begin_of_box|>", "<|end_of_box|>", thinks=True),
    Form("think-boxed", "\\boxed{", "}", thinks=True),
    Form("boxed", "\\boxed{", "}"),
)
"""Forms to try; the battery uses the one in which a perfect answer earns most, the first of equal ones."""


@dataclass(frozen=True, slots=True)
class Language:
    """Writer and form of the battery's answers."""

    writer: Writer
    form: Form

    def answer(self, items: Sequence[Item]) -> str:
        """Write these items as a completion."""
        return self.form.wrap(self.writer.write(items))
