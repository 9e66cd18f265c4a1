"""Draw boxes and points on an image, for `explain --draw` and `doctor --html`."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from verl_visionr1.files import RowsError
from verl_visionr1.images import FORMATS

Colour = tuple[int, int, int]
MAX_LABEL = 30
"""Most characters of a drawn label."""
_DASH, _GAP = 7, 5


def read_picture(source: Path | bytes, size_wh: tuple[int, int]) -> Image.Image:
    """Read an image upright and in this size."""
    name = str(source) if isinstance(source, Path) else "the embedded image"
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            return ImageOps.exif_transpose(image).convert("RGB").resize(size_wh)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RowsError(f"{name}: not a readable image ({error})") from None


class Pen:
    """Draws boxes and points in original pixels on a picture of another size."""

    def __init__(self, picture: Image.Image, original_wh: tuple[int, int]) -> None:
        self.picture = picture
        self.font_size = max(12, max(picture.size) // 60)
        self.font = ImageFont.load_default(size=self.font_size)
        self._draw = ImageDraw.Draw(picture)
        self._scale_xy = picture.width / original_wh[0], picture.height / original_wh[1]

    def mark(self, place: Sequence[float], label: str, colour: Colour, *, dashed: bool = False) -> None:
        """Draw a box (4 numbers) or a point (2), with its label above, or below if dashed.

        A place far outside the image is drawn just beyond its edge.
        """
        if not place:
            return
        x1, y1, *corner = (self._on_picture(number, axis % 2) for axis, number in enumerate(place))
        x2, y2 = corner or (x1, y1)
        x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
        if corner and dashed:
            for y in (y1, y2):
                self._dashes((x1, y), (x2, y), colour)
            for x in (x1, x2):
                self._dashes((x, y1), (x, y2), colour)
        elif corner:
            self._draw.rectangle((x1, y1, x2, y2), outline=colour, width=3)
        elif dashed:
            self._draw.line((x1 - 8, y1, x1 + 8, y1), fill=colour, width=2)
            self._draw.line((x1, y1 - 8, x1, y1 + 8), fill=colour, width=2)
        else:
            self._draw.ellipse((x1 - 5, y1 - 5, x1 + 5, y1 + 5), fill=colour, outline=(0, 0, 0))
        self._label((x1, y2 + 2 if dashed else y1 - self.font_size - 4), label, colour)

    def _on_picture(self, number: float, axis: int) -> float:
        moved = number * self._scale_xy[axis]
        return min(max(moved, -4.0), self.picture.size[axis] + 4.0) if math.isfinite(moved) else -4.0

    def _dashes(self, start: tuple[float, float], end: tuple[float, float], colour: Colour) -> None:
        """A dashed line along one axis."""
        for at in range(0, int(max(end[0] - start[0], end[1] - start[1])), _DASH + _GAP):
            first = [min(low + at, high) for low, high in zip(start, end, strict=True)]
            last = [min(low + _DASH, high) for low, high in zip(first, end, strict=True)]
            self._draw.line((*first, *last), fill=colour, width=2)

    def _label(self, corner: tuple[float, float], label: str, colour: Colour) -> None:
        """Draw a label: short, on one line, in characters of Pillow's own font."""
        label = label if len(label) <= MAX_LABEL else label[: MAX_LABEL - 1] + "~"
        text = "".join(char if char.isprintable() else "?" for char in label)
        text = text.encode("latin-1", "replace").decode("latin-1")
        if text.strip():
            corner = (max(corner[0], 0.0), max(corner[1], 0.0))
            self._draw.rectangle(self._draw.textbbox(corner, text, font=self.font), fill=(0, 0, 0))
            self._draw.text(corner, text, fill=colour, font=self.font)
