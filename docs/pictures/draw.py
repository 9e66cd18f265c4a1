"""Every drawing of the documentation, light and dark, from the code and from the saved run in `docs/example`.

    python docs/pictures/draw.py             # all
    python docs/pictures/draw.py frames      # one

The gallery's screenshot needs Chromium: `python docs/pictures/gallery.py`.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import tomllib
from matplotlib.patches import FancyBboxPatch, Rectangle
from PIL import Image, ImageFilter

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "example"))

import restore

from verl_visionr1 import FRAMES, PRESETS, Target
from verl_visionr1.criteria import ADVANCED, BEGINNER
from verl_visionr1.criteria.dense import reachable_iou
from verl_visionr1.rewards import ResponseContext
from verl_visionr1.schedule import Schedule, cosine, linear, staged
from verl_visionr1.tools.explain.explanation import explain

THEMES: Mapping[str, Mapping[str, str]] = {
    "light": {"ink": "#1f2328", "faint": "#8b949e", "line": "#d0d7de", "box": "#f6f8fa", "ground": "#ffffff"},
    "dark": {"ink": "#e6edf3", "faint": "#8b949e", "line": "#484f58", "box": "#21262d", "ground": "#131416"},
}
BLUE, ORANGE, GREEN, PINK, SKY, RED = "#3b82d6", "#e08a1e", "#12a47c", "#cc79a7", "#56b4e9", "#e5484d"
"""Told apart by colour-blind people, and visible on white and on black."""


@contextmanager
def themed(theme: str) -> Iterator[Mapping[str, str]]:
    """Matplotlib in the colours of a theme, on a transparent ground."""
    colours = THEMES[theme]
    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "verl-visionr1",
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": colours["faint"],
        "grid.color": colours["line"],
        "legend.frameon": False,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), colours["ink"]),
        **dict.fromkeys(("xtick.color", "ytick.color"), colours["ink"]),
    }
    with mpl.rc_context(settings):
        yield colours


def save(figure: Any, name: str, theme: str) -> None:
    """Write `NAME-THEME.svg`, the same bytes each time."""
    figure.savefig(HERE / f"{name}-{theme}.svg", transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)


def save_photo(figure: Any, name: str, theme: str) -> None:
    """Write `NAME-THEME.png` in few colours: pictures of scenes are large as SVG."""
    file = HERE / f"{name}-{theme}.png"
    figure.savefig(file, dpi=95, facecolor=THEMES[theme]["ground"])
    plt.close(figure)
    Image.open(file).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)


# --- thresholds ------------------------------------------------------------------------------------------------------


def thresholds(theme: str) -> None:
    """The match threshold of each kind of schedule over training."""
    kinds: dict[str, tuple[Schedule, str, str]] = {
        "staged (default)": (staged(BEGINNER, ADVANCED, at=0.5), BLUE, "-"),
        "linear": (linear(BEGINNER, ADVANCED), ORANGE, "--"),
        "cosine": (cosine(BEGINNER, ADVANCED), GREEN, "-."),
        "v-triune (piecewise)": (PRESETS["v-triune"].schedule, PINK, ":"),
    }
    xs = [i / 400 for i in range(401)]
    with themed(theme):
        figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
        for label, (schedule, colour, style) in kinds.items():
            axes.plot(xs, [schedule(x).match_iou for x in xs], style, color=colour, label=label, linewidth=2)
        axes.set(xlabel="fraction of training", ylabel="IoU of a match (ξ0)", ylim=(0.4, 1.02), xlim=(0, 1))
        axes.grid(alpha=0.5)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        save(figure, "thresholds", theme)


def credit(theme: str) -> None:
    """Credit f(IoU) of a matched box at each stage, and with the rule off."""
    from verl_visionr1.criteria import OFF, differentiate

    xs = [i / 500 for i in range(501)]
    stages = {"stage 1": (BEGINNER, BLUE, "-"), "stage 2": (ADVANCED, ORANGE, "-"), "no schedule": (OFF, GREEN, ":")}
    with themed(theme):
        figure, axes = plt.subplots(figsize=(5.4, 2.8), layout="constrained")
        for label, (at, colour, style) in stages.items():
            ys = [differentiate(x, at.iou_floor, at.iou_full) for x in xs]
            axes.plot(xs, ys, style, color=colour, label=label, linewidth=2)
        axes.set(xlabel="IoU of a box with its object", ylabel="credit", xlim=(0, 1), ylim=(-0.03, 1.05))
        axes.grid(alpha=0.5)
        axes.legend(loc="upper left")
        save(figure, "credit", theme)


def size_aware(theme: str) -> None:
    """The IoU that an exact answer keeps when its corners are rounded to whole numbers, by size of the object."""
    sides = [1.5 + 0.5 * i for i in range(160)]
    with themed(theme) as colours:
        figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
        for width, colour in ((640, BLUE), (1920, ORANGE)):
            grid = width / 1000
            reached = [reachable_iou((0, 0, side, side), (grid, grid)) for side in sides]
            axes.plot(sides, reached, color=colour, linewidth=2, label=f"image {width} px wide, 0-1000 grid")
        for name, value in (("stage 2: match", ADVANCED.match_iou), ("stage 2: full credit", ADVANCED.iou_full)):
            axes.axhline(value, color=colours["faint"], linestyle="--", linewidth=1)
            axes.text(80.5, value, f"{name} {value}", va="center", fontsize=9)
        axes.set(
            xlabel="side of a square object in pixels", ylabel="IoU that rounding leaves", xlim=(0, 80), ylim=(0, 1)
        )
        axes.grid(alpha=0.5)
        axes.legend(loc="lower right")
        save(figure, "size-aware", theme)


# --- pictures of a scene ---------------------------------------------------------------------------------------------


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


# --- the saved run ---------------------------------------------------------------------------------------------------


def report(theme: str) -> None:
    """Training and validation of the saved run: four numbers, with 95 % intervals."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        restore.unpack(run)
        steps, intervals = _steps(run), _intervals(run)
    panels = {"reward": "value", "F1@.5": "f1_50", "mean IoU": "iou_mean", "boxes/object": "boxes_per_target"}
    with themed(theme) as colours:
        figure, grid = plt.subplots(1, 4, figsize=(10, 2.5), layout="constrained")
        for axes, (title, key) in zip(grid, panels.items(), strict=True):
            trained = [
                (step, numbers[f"visionr1/{key}/mean"]) for step, numbers in steps if f"visionr1/{key}/mean" in numbers
            ]
            axes.plot(*zip(*trained, strict=True), ".", color=colours["faint"], label="training batch")
            points = intervals[title]
            means = [mean for _, mean, _, _ in points]
            errors = [[m - low for _, m, low, _ in points], [high - m for _, m, _, high in points]]
            xs = [step for step, *_ in points]
            axes.errorbar(xs, means, yerr=errors, marker="o", capsize=4, color=BLUE, label="held-out, 95 % interval")
            axes.axvline(11.5, color=colours["faint"], linestyle=":", linewidth=1)
            axes.set_title(title, loc="left", fontsize=10)
            axes.set_ylim(0.25, 1.2)
            axes.grid(alpha=0.5)
            axes.set_xlabel("step")
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        save(figure, "report", theme)


def _steps(run: Path) -> list[tuple[int, Mapping[str, float]]]:
    lines = (run / "metrics" / "run.jsonl").read_text().splitlines()
    return [(record["step"], record["data"]) for record in map(json.loads, lines)]


def _intervals(run: Path) -> dict[str, list[tuple[int, float, float, float]]]:
    """Metric -> (step, mean, low, high) of each validation."""
    from verl_visionr1.tools.runs.metrics import ORDERED
    from verl_visionr1.tools.runs.validations import find_dumps, measure, read_validation

    titles = {metric.name for metric in ORDERED}
    found: dict[str, list[tuple[int, float, float, float]]] = {title: [] for title in titles}
    for step, dump in find_dumps(run).items():
        for numbers in measure(read_validation(dump, step)).values():
            for title, interval in numbers.items():
                found.setdefault(title, []).append((step, interval.value, interval.low, interval.high))
    return found


GAMED = ("recall-alone", "ap-released")
"""Arms of `benchmarks/claims` whose reward is gamed; the first that was run is drawn."""


def gamed(theme: str) -> None:
    """Reward, F1 and boxes per object while a reward is gamed, and the steps with an alarm; mean over the seeds."""
    results = ROOT / "benchmarks" / "claims" / "results"
    arm = next((arm for arm in GAMED if list(results.glob(f"{arm}_[0-9]*.json"))), None)
    if arm is None:
        print(f"gamed: none of {', '.join(GAMED)} was run yet; nothing drawn")
        return
    files = sorted(results.glob(f"{arm}_[0-9]*.json"))
    runs = [[step for step in json.loads(file.read_text())["curve"] if "visionr1/value/mean" in step] for file in files]
    steps = [step["step"] for step in runs[0]]
    with themed(theme):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
        for axes, key, label, colour in (
            (left, "value", f"reward: {arm}", ORANGE),
            (left, "f1_50", "F1 at IoU .5", BLUE),
            (right, "boxes_per_target", "boxes per object", GREEN),
        ):
            axes.plot(steps, _mean_curve(runs, f"visionr1/{key}/mean"), color=colour, linewidth=2, label=label)
        for axes in (left, right):
            for step in _steps_with_alarm(runs):
                axes.axvspan(step - 0.5, step + 0.5, color=RED, alpha=0.15, linewidth=0)
            axes.set_xlabel("step (red: an alarm is on)")
            axes.grid(alpha=0.5)
            axes.legend(loc="best")
        save(figure, "gamed", theme)


def _mean_curve(runs: list[list[dict[str, float]]], key: str) -> list[float]:
    return [sum(step[key] for step in same) / len(runs) for same in zip(*runs, strict=False)]


def _steps_with_alarm(runs: list[list[dict[str, float]]]) -> list[int]:
    alarm = "visionr1/alarm/"
    return [
        int(same[0]["step"])
        for same in zip(*runs, strict=False)
        if any(value for step in same for key, value in step.items() if key.startswith(alarm))
    ]


# --- architecture ----------------------------------------------------------------------------------------------------


def architecture(theme: str) -> None:
    """The way of one completion, and the layers that import-linter checks."""
    steps = ["completion", "answer", "original\npixels", "matching", "criteria", "score"]
    below = ["verl, or a file", "answers/", "frames.py", "matching.py", "criteria/", "rewards/"]
    with themed(theme) as colours:
        figure, axes = plt.subplots(figsize=(9, 4.6))
        axes.set(xlim=(0, 9), ylim=(0, 4.6))
        axes.set_axis_off()
        for i, (text, module) in enumerate(zip(steps, below, strict=True)):
            _block(axes, 0.1 + 1.5 * i, 3.55, 1.15, 0.75, text, colours, BLUE)
            axes.text(0.675 + 1.5 * i, 3.36, module, ha="center", va="top", fontsize=8.5, family="monospace")
            if i:
                axes.annotate(
                    "",
                    (0.08 + 1.5 * i, 3.92),
                    (-0.23 + 1.5 * i, 3.92),
                    arrowprops={"arrowstyle": "->", "color": colours["ink"]},
                )
        axes.text(0.1, 2.72, "A module imports only from lines below it (checked by import-linter)", fontsize=9.5)
        layers = _layers()
        height = 2.4 / len(layers)
        for i, layer in enumerate(layers):
            y = 2.5 - (i + 1) * height
            _block(axes, 0.1, y, 8.8, height * 0.82, layer, colours, colours["line"], size=8.5)
        figure.subplots_adjust(0, 0, 1, 1)
        save(figure, "architecture", theme)


def _layers() -> list[str]:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    return [re.sub(r" \| ", "  ·  ", layer) for layer in contract["layers"]]


def _block(
    axes: Any,
    x: float,
    y: float,
    w: float,
    h: float,
    text: str,
    colours: Mapping[str, str],
    edge: str,
    size: float = 10,
) -> None:
    style = "round,pad=0.0,rounding_size=0.06"
    axes.add_patch(
        FancyBboxPatch((x, y), w, h, boxstyle=style, facecolor=colours["box"], edgecolor=edge, linewidth=1.2)
    )
    axes.text(x + w / 2, y + h / 2, text, ha="center", va="center", fontsize=size)


PICTURES: Mapping[str, Callable[[str], None]] = {
    each.__name__: each for each in (thresholds, credit, size_aware, frames, matching, report, gamed, architecture)
}

if __name__ == "__main__":
    for name in sys.argv[1:] or PICTURES:
        for theme in THEMES:
            PICTURES[name](theme)
