"""Model families, their coordinate frames, and the conversion to pixels of the original image.

Ground truth is always in pixels of the original image; only predictions are converted, and only here. Scoring a perfect
Qwen2.5-VL answer without conversion costs 0.15 IoU on average at COCO sizes, and nearly all of it if the processor
shrinks the image. So the frame is never guessed: the caller names it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from verl_visionr1.boxes import Boxes, Points
from verl_visionr1.settings import needs_one_of

OUTSIDE_TOLERANCE = 0.01
"""A coordinate may exceed the frame by this fraction of its side before it counts as outside."""


class Extent(enum.Enum):
    """Meaning of the largest coordinate of a frame."""

    ORIGINAL = "pixels of the original image"
    PROCESSED = "pixels of the image as the processor resized it"
    FIXED = "a fixed number, whatever the image"


class FrameError(ValueError):
    """An unknown frame, or a frame that lacks the size it needs."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Coordinates of a model family.

    Attributes:
        name: key in `FRAMES`.
        extent: meaning of the right and bottom edge of the image.
        side: coordinate of that edge for `Extent.FIXED` (1000.0, 1.0), else None.
        step: the smallest difference of two coordinates: 1.0 for whole numbers.

    >>> FRAMES["qwen3-vl"].size_wh((640, 480))
    (1000.0, 1000.0)
    >>> FRAMES["qwen2.5-vl"].size_wh((640, 480), processed_wh=(644, 476))
    (644.0, 476.0)
    """

    name: str
    extent: Extent
    side: float | None = None
    step: float = 1.0

    def size_wh(self, original_wh: tuple[int, int], processed_wh: tuple[int, int] | None = None) -> tuple[float, float]:
        """Width and height of the whole image in this frame's units.

        Raises:
            FrameError: the frame is in processed pixels and `processed_wh` is missing or not positive.
        """
        if self.extent is Extent.FIXED:
            assert self.side is not None
            return self.side, self.side
        if self.extent is Extent.ORIGINAL:
            return float(original_wh[0]), float(original_wh[1])
        if processed_wh is None or not (processed_wh[0] > 0 and processed_wh[1] > 0):
            raise FrameError(
                f"frame {self.name!r} uses pixels of the processed image: processed_wh = {processed_wh!r}; "
                "pass its (width, height)"
            )
        return float(processed_wh[0]), float(processed_wh[1])


FRAMES: Mapping[str, Frame] = MappingProxyType(
    {
        frame.name: frame
        for frame in (
            Frame("original", Extent.ORIGINAL),
            Frame("unit", Extent.FIXED, 1.0, step=0.001),
            Frame("qwen2-vl", Extent.FIXED, 1000.0),
            Frame("qwen2.5-vl", Extent.PROCESSED),
            Frame("qwen3-vl", Extent.FIXED, 1000.0),
            Frame("internvl", Extent.FIXED, 1000.0),
            Frame("glm", Extent.FIXED, 1000.0),
            Frame("paligemma", Extent.FIXED, 1024.0),
            Frame("gemma", Extent.FIXED, 1000.0),
            Frame("percent", Extent.FIXED, 100.0, step=0.1),
        )
    }
)
"""Every frame by name.

Griffon-G uses "unit" with three decimals. GLM-4.1V to GLM-4.6V divide by width and height and multiply by 1000 (their
model card; not 999), and so does InternVL (its data format). PaliGemma has 1024 bins; Molmo uses "percent" with one
decimal (Molmo 2 does not). Gemma 4 writes y before x, which its answer format handles.
"""


@dataclass(frozen=True, slots=True)
class Family:
    """A model family.

    verl builds a processor only for the classes that its `hf_processor` names. Without a processor, rows with images
    cannot be tokenized, so the other families are scored offline and not trained.

    Attributes:
        name: its published name.
        model_types: `model_type` values of its `config.json`; empty if its checkpoints have none of their own.
        frame: key in `FRAMES`; "" if it was not trained to write coordinates.
        answer_format: key in `answers.FORMATS` of the boxes (Molmo: points) it was trained to write; "" for none.
        is_trained: whether verl 0.9.1 trains it on images.
        source: source of frame and format.
    """

    name: str
    model_types: tuple[str, ...]
    frame: str
    answer_format: str
    is_trained: bool
    source: str


FAMILIES = (
    Family("Qwen2-VL", ("qwen2_vl",), "qwen2-vl", "qwen2-vl", True, "model card and paper, arXiv 2409.12191"),
    Family("Qwen2.5-VL", ("qwen2_5_vl",), "qwen2.5-vl", "qwen-json", True, "paper, arXiv 2502.13923; cookbooks"),
    Family("Qwen3-VL", ("qwen3_vl", "qwen3_vl_moe"), "qwen3-vl", "qwen-json", True, "cookbooks of QwenLM/Qwen3-VL"),
    Family(
        "Qwen3.5", ("qwen3_5", "qwen3_5_moe"), "qwen3-vl", "qwen-json", True, "has Qwen3-VL's processor; a maintainer"
    ),
    Family("GLM-4.1V to GLM-4.6V", ("glm4v", "glm4v_moe", "glm46v"), "glm", "glm", True, "model cards"),
    Family("Gemma 4", ("gemma4",), "gemma", "gemma-json", True, "Google's page on bounding boxes (Gemini's format)"),
    Family("Llama 3.2 Vision", ("mllama",), "", "", True, "no box format is published"),
    Family("InternVL", ("internvl", "internvl_chat"), "internvl", "internvl", False, "its data format"),
    Family("PaliGemma", ("paligemma",), "paligemma", "paligemma", False, "model card, big_vision"),
    Family("Molmo", ("molmo",), "percent", "molmo-points", False, "paper, arXiv 2409.17146"),
    Family("Griffon-G", (), "unit", "griffon", False, "released code"),
)
"""All known families; those that verl trains come first."""
FAMILY_OF_TYPE: Mapping[str, Family] = MappingProxyType({each: f for f in FAMILIES for each in f.model_types})
"""`model_type` of a Hugging Face config -> family."""
MODEL_TYPE_FRAMES: Mapping[str, str] = MappingProxyType(
    {each: f.frame for each, f in FAMILY_OF_TYPE.items() if f.frame}
)
"""`model_type` of a Hugging Face config -> name of the frame that its models were trained on."""


def frame_named(name: str) -> Frame:
    """Return the frame of that name; FrameError lists the known ones."""
    try:
        return FRAMES[name]
    except KeyError:
        raise FrameError(f"frame = {name!r}: {needs_one_of(name, FRAMES)}") from None


def to_original(boxes_xyxy: Boxes, frame_wh: tuple[float, float], original_wh: tuple[int, int]) -> Boxes:
    """Convert boxes from a frame of size `frame_wh` to pixels of the original image, without rounding or clipping.

    >>> to_original(((0.0, 0.0, 500.0, 1000.0),), (1000.0, 1000.0), (640, 480))
    ((0.0, 0.0, 320.0, 480.0),)
    """
    sx, sy = original_wh[0] / frame_wh[0], original_wh[1] / frame_wh[1]
    if sx == 1.0 and sy == 1.0:
        return boxes_xyxy
    return tuple([(x1 * sx, y1 * sy, x2 * sx, y2 * sy) for x1, y1, x2, y2 in boxes_xyxy])


def points_to_original(points_xy: Points, frame_wh: tuple[float, float], original_wh: tuple[int, int]) -> Points:
    """`to_original` for points."""
    sx, sy = original_wh[0] / frame_wh[0], original_wh[1] / frame_wh[1]
    return tuple([(x * sx, y * sy) for x, y in points_xy])


def all_inside(boxes_xyxy: Boxes, frame_wh: tuple[float, float], tolerance: float = OUTSIDE_TOLERANCE) -> bool:
    """Whether every box is inside the frame, up to `tolerance` times the frame's side on each edge."""
    if not boxes_xyxy:
        return True
    slack_x, slack_y = frame_wh[0] * tolerance, frame_wh[1] * tolerance
    if len(boxes_xyxy) == 1:  # the same without lists, twice as fast
        x1, y1, x2, y2 = boxes_xyxy[0]
        return not (x1 < -slack_x or y1 < -slack_y or x2 > frame_wh[0] + slack_x or y2 > frame_wh[1] + slack_y)
    x1, y1, x2, y2 = zip(*boxes_xyxy, strict=True)  # all left edges, all top edges, ...
    return not (
        min(x1) < -slack_x or min(y1) < -slack_y or max(x2) > frame_wh[0] + slack_x or max(y2) > frame_wh[1] + slack_y
    )


def points_inside(points_xy: Points, frame_wh: tuple[float, float], tolerance: float = OUTSIDE_TOLERANCE) -> bool:
    """`all_inside` for points."""
    slack_x, slack_y = frame_wh[0] * tolerance, frame_wh[1] * tolerance
    return all(-slack_x <= x <= frame_wh[0] + slack_x and -slack_y <= y <= frame_wh[1] + slack_y for x, y in points_xy)
