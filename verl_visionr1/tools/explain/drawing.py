"""Targets and predictions drawn over an image, coloured by what they were counted as."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from verl_visionr1.files import RowsError
from verl_visionr1.tools.explain.diagnosis.verdicts import (
    BELOW,
    DUPLICATE,
    IGNORED,
    JUNK,
    MATCH,
    MISSED,
    OUTSIDE,
    WRONG_LABEL,
)
from verl_visionr1.tools.explain.explanation import Explanation
from verl_visionr1.tools.explain.page import visible

COLOURS = {
    MATCH: (0, 158, 115),
    BELOW: (230, 159, 0),
    WRONG_LABEL: (204, 121, 167),
    DUPLICATE: (86, 180, 233),
    JUNK: (213, 94, 0),
    OUTSIDE: (213, 94, 0),
    IGNORED: (150, 150, 150),
}
"""Counted as -> colour of the prediction (Okabe-Ito: told apart by colour-blind people too)."""
TARGET, MISSED_TARGET = (255, 255, 255), (220, 20, 60)
"""Objects: white dashes; those that were missed: red dashes."""
SIDE = (320, 1600)
"""The longer side of the picture, at least and at most; the image is scaled into it."""
MAX_DRAWN = 300
"""So many predictions are drawn."""


def draw(explanation: Explanation, out: Path, image: Path | None = None) -> None:
    """Write a PNG: objects dashed, predictions solid, their labels, and a legend below.

    Args:
        explanation: what to draw.
        out: the file to write.
        image: the original image; without it, the boxes stand on grey.

    Raises:
        RowsError: the image cannot be read, the target has none, or the file cannot be written.
    """
    picture, scale_xy = _background(explanation, image)
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(12, max(picture.size) // 60))
    missed = {fate.index for fate in explanation.objects if fate.counted_as == MISSED}
    for fate in explanation.objects:
        if fate.place:
            colour = MISSED_TARGET if fate.index in missed else TARGET
            place = _on_picture(fate.place, scale_xy, picture.size)
            _dashed(pen, place, colour)
            _label(pen, font, (place[0], place[-1] + 2), fate.label, colour)
    for verdict in explanation.predictions[:MAX_DRAWN]:
        colour = COLOURS.get(verdict.counted_as, COLOURS[JUNK])
        place = _on_picture(verdict.place, scale_xy, picture.size)
        _solid(pen, place, colour)
        _label(pen, font, (place[0], place[1] - 18), f"{verdict.index + 1} {verdict.label}", colour)
    try:
        _with_legend(picture, explanation, font).save(out, "PNG")
    except OSError as error:
        raise RowsError(f"{out}: cannot write: {error.strerror or error}") from error


def _background(explanation: Explanation, image: Path | None) -> tuple[Image.Image, tuple[float, float]]:
    """The picture to draw on, and its pixels in one pixel of the original image."""
    width, height = explanation.exam.target.size_wh
    if width <= 0 or height <= 0:
        raise RowsError("--draw: the target has no image (size_wh)")
    longest = max(width, height)
    factor = min(max(longest, SIDE[0]), SIDE[1]) / longest
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    if image is None:
        return Image.new("RGB", size, (90, 90, 90)), (size[0] / width, size[1] / height)
    try:
        with Image.open(image) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB").resize(size)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise RowsError(f"{image}: no image that can be read ({error})") from None
    return picture, (size[0] / width, size[1] / height)


def _on_picture(place: Sequence[float], scale_xy: tuple[float, float], size: tuple[int, int]) -> list[float]:
    """Picture pixels; what lies far outside is brought to just beyond the edge."""
    spoken: list[float] = []
    for i, number in enumerate(place):
        edge = size[i % 2]
        moved = number * scale_xy[i % 2]
        spoken.append(min(max(moved, -4.0), edge + 4.0) if math.isfinite(moved) else -4.0)
    return spoken


def _solid(pen: ImageDraw.ImageDraw, place: list[float], colour: tuple[int, int, int]) -> None:
    if len(place) == 4:
        pen.rectangle(place, outline=colour, width=3)
    else:
        x, y = place
        pen.ellipse((x - 5, y - 5, x + 5, y + 5), fill=colour, outline=(0, 0, 0))


def _dashed(pen: ImageDraw.ImageDraw, place: list[float], colour: tuple[int, int, int]) -> None:
    if len(place) != 4:
        x, y = place
        pen.line((x - 8, y, x + 8, y), fill=colour, width=2)
        pen.line((x, y - 8, x, y + 8), fill=colour, width=2)
        return
    x1, y1, x2, y2 = place
    for x in range(int(x1), int(x2), 12):
        for y in (y1, y2):
            pen.line((x, y, min(x + 7, x2), y), fill=colour, width=2)
    for y in range(int(y1), int(y2), 12):
        for x in (x1, x2):
            pen.line((x, y, x, min(y + 7, y2)), fill=colour, width=2)


def _label(
    pen: ImageDraw.ImageDraw, font: Any, corner: tuple[float, float], label: str, colour: tuple[int, int, int]
) -> None:
    text = _drawable(label)
    if text.strip():
        corner = (max(corner[0], 0.0), max(corner[1], 0.0))
        pen.rectangle(pen.textbbox(corner, text, font=font), fill=(0, 0, 0))
        pen.text(corner, text, fill=colour, font=font)


def _drawable(label: str) -> str:
    """Short, on one line, in characters that Pillow's own font has."""
    shown = visible(label, one_line=True)
    return (shown if len(shown) <= 30 else shown[:29] + "~").encode("latin-1", "replace").decode("latin-1")


def _with_legend(picture: Image.Image, explanation: Explanation, font: Any) -> Image.Image:
    """The picture with a strip below that says what the colours mean."""
    kinds = dict.fromkeys(verdict.counted_as for verdict in explanation.predictions)
    entries = [(kind, COLOURS.get(kind, COLOURS[JUNK])) for kind in kinds]
    entries += [("object (dashed)", TARGET)] * bool(explanation.objects)
    if any(fate.counted_as == MISSED for fate in explanation.objects):
        entries.append(("missed (dashed)", MISSED_TARGET))
    entries.append((f"reward {explanation.value:.3f}", TARGET))
    line = int(font.size) + 6
    columns = max(1, picture.width // (line * 9))
    rows = math.ceil(len(entries) / columns)
    whole = Image.new("RGB", (picture.width, picture.height + rows * line + 6), (40, 40, 40))
    whole.paste(picture, (0, 0))
    pen = ImageDraw.Draw(whole)
    for i, (words, colour) in enumerate(entries):
        x, y = (i % columns) * line * 9 + 4, picture.height + (i // columns) * line + 3
        pen.rectangle((x, y + 2, x + line - 8, y + line - 6), fill=colour)
        pen.text((x + line, y), words, fill=(255, 255, 255), font=font)
    return whole
