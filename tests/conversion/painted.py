"""A picture with a red box on blue, and rows about it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from verl_visionr1.row_writer import write_rows
from verl_visionr1.rows import Row, RowImage
from verl_visionr1.targets import Target

RED, BLUE, GREY = (255, 0, 0), (0, 0, 255), (128, 128, 128)
BOX = (16, 24, 80, 56)  # in the stored frame, on the 8-pixel grid of JPEG
STORED_WH = (160, 96)


def painted(size_wh: tuple[int, int] = STORED_WH, box: tuple[int, ...] = BOX) -> Image.Image:
    image = Image.new("RGB", size_wh, BLUE)
    x1, y1, x2, y2 = box
    ImageDraw.Draw(image).rectangle((x1, y1, x2 - 1, y2 - 1), fill=RED)
    return image


def measured(file: Any) -> tuple[int, int, int, int]:
    """Bounds of what is red, as verl opens the file: without looking at EXIF."""
    pixels = np.asarray(Image.open(file).convert("RGB"), dtype=int)
    ys, xs = np.nonzero((pixels[..., 0] > 128) & (pixels[..., 2] < 128))
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def a_row(path: str = "/images/a.png", *, boxes: Any = (BOX,), data: bytes | None = None, **changes: Any) -> Row:
    image = RowImage(path, data, STORED_WH, STORED_WH)
    target = Target(task="grounding", size_wh=STORED_WH, boxes_xyxy=boxes, labels=["red box"] * len(boxes))
    return Row(**{"data_source": "test", "question": "Where is it?", "image": image, "target": target, **changes})


def write(path: Path, made: list[Row], **options: Any) -> Path:
    written = write_rows(made, path, **options)
    assert (written.rows, written.size_bytes) == (len(made), written.file.stat().st_size)
    return written.file


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
