"""Draw targets and predictions over an image; colours show how they were counted."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageDraw

from verl_visionr1.files import RowsError
from verl_visionr1.tools.drawing import Colour, Pen, read_picture
from verl_visionr1.tools.explain.explanation import Explanation

COLOURS: dict[str, Colour] = {
    "match": (0, 158, 115),
    "below threshold": (230, 159, 0),
    "wrong label": (204, 121, 167),
    "duplicate": (86, 180, 233),
    "junk": (213, 94, 0),
    "outside": (213, 94, 0),
    "ignored": (150, 150, 150),
}
"""Counted as -> colour of the prediction (Okabe-Ito, safe for colour blindness)."""
TARGET, MISSED_TARGET = (255, 255, 255), (220, 20, 60)
"""Objects: white dashes; those that were missed: red dashes."""
GREY = (90, 90, 90)
SIDE = (320, 1600)
"""Least and greatest length of the picture's longer side."""
MAX_DRAWN = 300
"""Most predictions that are drawn."""


def draw(explanation: Explanation, out: Path, image: Path | bytes | None = None) -> None:
    """Write a PNG: objects dashed, predictions solid, their labels, and a legend below.

    Args:
        image: the original image, or its bytes; without it, the background is grey.

    Raises:
        RowsError: the image cannot be read, the target has none, or `out` does not end in .png, is the image
            itself, or cannot be written.
    """
    if out.suffix.lower() != ".png" or (isinstance(image, Path) and out.resolve() == image.resolve()):
        raise RowsError(f"--draw {out}: needs a name that ends in .png, other than the image's own")
    width, height = explanation.exam.target.size_wh
    if width <= 0 or height <= 0:
        raise RowsError("--draw needs an image, but this row has only text")
    factor = min(max(width, height, SIDE[0]), SIDE[1]) / max(width, height)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    pen = Pen(Image.new("RGB", size, GREY) if image is None else read_picture(image, size), (width, height))
    legend = {it.counted_as: COLOURS[it.counted_as] for it in explanation.predictions}
    for fate in explanation.objects:
        name, colour = ("missed", MISSED_TARGET) if fate.counted_as == "missed" else ("object", TARGET)
        legend[f"{name} (dashed)"] = colour
        pen.mark(fate.place, fate.label, colour, dashed=True)
    for verdict in explanation.predictions[:MAX_DRAWN]:
        pen.mark(verdict.place, f"{verdict.index + 1} {verdict.label}", COLOURS[verdict.counted_as])
    try:
        _add_legend(pen, legend | {f"reward {explanation.value:.3f}": TARGET}).save(out, "PNG")
    except OSError as error:
        raise RowsError(f"{out}: cannot write: {error.strerror or error}") from error


def _add_legend(pen: Pen, entries: dict[str, Colour]) -> Image.Image:
    """The picture with a legend of colours below."""
    picture, line = pen.picture, pen.font_size + 6
    columns = max(1, picture.width // (line * 9))
    whole = Image.new("RGB", (picture.width, picture.height + math.ceil(len(entries) / columns) * line + 6), (40,) * 3)
    whole.paste(picture, (0, 0))
    strip = ImageDraw.Draw(whole)
    for i, (words, colour) in enumerate(entries.items()):
        x, y = (i % columns) * line * 9 + 4, picture.height + (i // columns) * line + 3
        strip.rectangle((x, y + 2, x + line - 8, y + line - 6), fill=colour)
        strip.text((x + line, y), words, fill=(255, 255, 255), font=pen.font)
    return whole
