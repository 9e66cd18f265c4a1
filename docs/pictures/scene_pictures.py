"""Drawings on the picture of a scene: a box in each frame, and an answer that is matched."""

from __future__ import annotations

import json
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle
from PIL import ImageFilter
from style import BLUE, GREEN, ORANGE, PINK, RED, SKY, save_photo, themed

from verl_visionr1 import FRAMES, PRESETS, Target
from verl_visionr1.rewards import ResponseContext
from verl_visionr1.tools.explain.explanation import explain

SCENE_WH = (640, 480)


def _scene() -> tuple[Any, Any]:
    from verl_visionr1.conversion.scenes import draw_scene, scene_rng

    for number in range(1, 99):
        image, scene = draw_scene(scene_rng(3, "val", number), size_wh=SCENE_WH, objects_max=4)
        if len(scene.objects) == 4:
            return image.filter(ImageFilter.MedianFilter(9)), scene  # its noise makes PNG files large
    raise LookupError("no scene of four objects")


def frames(theme: str) -> None:
    """One box, as four model families write it."""
    image, scene = _scene()
    box = scene.objects[0].box_xyxy
    processed_wh = (644, 476)
    families = {
        "original": "original pixels",
        "qwen2.5-vl": "Qwen2.5-VL: pixels after resizing",
        "qwen3-vl": "Qwen3-VL: 0 to 1000",
        "unit": "Griffon-G: 0 to 1",
    }
    with themed(theme):
        figure, panels = plt.subplots(2, 2, figsize=(7.6, 6.2), layout="constrained")
        for axes, (name, title) in zip(panels.flat, families.items(), strict=True):
            width, height = FRAMES[name].size_wh(SCENE_WH, processed_wh)
            digits = 3 if name == "unit" else 0
            numbers = [round(v * s / o, digits) for v, s, o in zip(box, (width, height) * 2, SCENE_WH * 2, strict=True)]
            axes.imshow(image.resize((320, 240)), extent=(0, width, height, 0), aspect="auto")
            axes.add_patch(_rectangle(numbers, BLUE))
            written = ", ".join(f"{number:g}" for number in numbers)
            axes.set_title(f"{title}\n[{written}]", fontsize=10, loc="left")
            axes.set_xticks([0, width / 2, width], [f"{tick:g}" for tick in (0, width / 2, width)])
            axes.set_yticks([0, height / 2, height], [f"{tick:g}" for tick in (0, height / 2, height)])
        save_photo(figure, "frames", theme)


def _rectangle(box: Any, colour: str, style: str = "-", width: float = 2.5) -> Rectangle:
    x1, y1, x2, y2 = box
    return Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=width, linestyle=style)


def matching(theme: str) -> None:
    """One answer with every kind of prediction, judged by the package."""
    image, scene = _scene()
    found, repeated, renamed, _ = scene.objects
    target = Target(
        task="detection",
        size_wh=SCENE_WH,
        boxes_xyxy=[each.box_xyxy for each in scene.objects],
        labels=[each.category for each in scene.objects],
    )
    wrong = next(each.category for each in scene.objects if each.category != renamed.category)
    empty = _empty_place(scene)
    said = [
        (_moved(found.box_xyxy, 4), found.category),
        (repeated.box_xyxy, repeated.category),
        (_moved(repeated.box_xyxy, 9), repeated.category),
        (renamed.box_xyxy, wrong),
        (empty, found.category),
    ]
    answer = json.dumps([{"bbox_2d": list(box), "label": label} for box, label in said])
    judged = explain(answer, target, PRESETS["visionr1"], ResponseContext(FRAMES["original"]))
    colours = {"match": GREEN, "wrong label": PINK, "duplicate": SKY, "junk": ORANGE}
    with themed(theme) as ink:
        figure, axes = plt.subplots(figsize=(6.4, 4.8), layout="constrained")
        axes.imshow(image, extent=(0, SCENE_WH[0], SCENE_WH[1], 0))
        for fate in judged.objects:
            is_missed = fate.counted_as == "missed"
            axes.add_patch(_rectangle(fate.place, RED if is_missed else "white", "--", 2))
        for verdict in judged.predictions:
            colour = colours.get(verdict.counted_as, ORANGE)
            axes.add_patch(_rectangle(verdict.place, colour))
            is_below = verdict.counted_as == "duplicate"
            _tag(
                axes,
                verdict.place[0],
                verdict.place[3] + 20 if is_below else verdict.place[1],
                verdict.counted_as,
                colour,
            )
        for fate in judged.objects:
            if fate.counted_as == "missed":
                _tag(axes, fate.place[0], fate.place[3] + 20, "missed", RED)
        metrics = judged.metrics
        title = f"recall {metrics['recall']:.2f}, precision {metrics['precision']:.2f}, reward {judged.value:.2f}"
        axes.set_title(title, loc="left", color=ink["ink"])
        axes.set_axis_off()
        save_photo(figure, "matching", theme)


def _tag(axes: Any, x: float, y: float, text: str, colour: str) -> None:
    axes.text(x, y - 4, text, fontsize=9, color="black", va="bottom", bbox={"facecolor": colour, "pad": 1.5, "lw": 0})


def _moved(box: Any, by: int) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = box
    return x1 + by, y1 + by, x2 + by, y2 + by


def _empty_place(scene: Any, side: int = 70) -> tuple[int, int, int, int]:
    """A square that no object touches."""
    width, height = SCENE_WH
    for y in range(20, height - side, 10):
        for x in range(20, width - side, 10):
            place = (x, y, x + side, y + side)
            if all(_is_apart(place, each.box_xyxy) for each in scene.objects):
                return place
    raise LookupError("the scene is full")


def _is_apart(a: Any, b: Any, gap: int = 25) -> bool:
    return a[2] + gap < b[0] or b[2] + gap < a[0] or a[3] + gap < b[1] or b[3] + gap < a[1]
