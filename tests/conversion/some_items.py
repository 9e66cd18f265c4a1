"""Items about one picture, as any converter hands them over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from scene_sets.base import exif

from verl_visionr1.conversion.flags import DataSource, Flags
from verl_visionr1.conversion.items import Item
from verl_visionr1.images import EmbeddedImage

WH = (200, 100)


@dataclass(frozen=True, kw_only=True)
class Options(Flags):
    data_source: DataSource = "test/{task}"


def picture(path: Path, size: tuple[int, int] = WH, orientation: int = 1) -> Path:
    Image.new("RGB", size, (90, 20, 30)).save(path, exif=exif(orientation))
    return path


def item(image: Path | EmbeddedImage = Path("/a.png"), **changes: Any) -> Item:
    facts: dict[str, Any] = {"where": "a.json: entry 3", "image": image, "task": "grounding", "phrases": ("cat",)}
    if "boxes_xyxy" not in changes and "points_xy" not in changes and changes.get("task") != "counting":
        facts |= {"boxes_xyxy": [(10, 20, 30, 40)], "labels": ["cat"]}
    return Item(**{**facts, **changes})
