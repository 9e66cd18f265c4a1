"""CPU time of one completion, text to Score, and of the minimum that every reward needs (the floor), in the same run.

    python benchmarks/reward_speed.py                          # the presets of boxes; about a minute
    python benchmarks/reward_speed.py --presets all            # each preset, on its own task
    python benchmarks/reward_speed.py --boxes 50 --rounds 40

The floor is `json.loads`, IoU in numpy and one assignment in scipy. All subjects take turns within each round, so that
a busy machine slows all of them; the fastest round of each counts. Compare the ratios: microseconds depend on the
machine.

Workload (64 scenes per size): 1000 x 800 image, 8 labels, ground truth jittered by up to 5 pixels, 5 % wrong labels,
10 % misses with as many false positives, shuffled; Qwen2.5-VL's coordinates and fence, VLM-R1's tags for its presets.
Grounding has one phrase, so labels are ignored. VLM-R1's released code for referring expressions supports one object:
its answers have all boxes, its target has one. Counting, pointing and text use the same scenes, with a number, one
point per object and a letter as answers. Ground truth is read once per prompt, as in training.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from verl_visionr1 import PRESETS, Preset, Score, Target, score

SIZE_WH, PROCESSED_WH = (1000, 800), (1008, 812)
LABELS = [f"label{i}" for i in range(8)]
N_BOXES = [1, 10, 50, 200]
N_SCENES = 64
BOX_PRESETS = [name for name, preset in PRESETS.items() if set(preset.tasks) & {"detection", "grounding"}]

Box = tuple[float, float, float, float]
Case = tuple[str, Target]
"""A completion and its target."""


def detection_case(n: int, seed: int, labels: Sequence[str] = LABELS, task: str = "detection") -> Case:
    """Build a completion of `n` boxes and its target of `n` objects."""
    rng = random.Random(seed)

    def box(least: float, most: float) -> Box:
        w, h = rng.uniform(least, most), rng.uniform(least, most)
        x, y = rng.uniform(0, SIZE_WH[0] - w), rng.uniform(0, SIZE_WH[1] - h)
        return x, y, x + w, y + h

    objects = [(box(20, 200), rng.choice(labels)) for _ in range(n)]
    items: list[dict[str, object]] = []
    for (x1, y1, x2, y2), label in objects:
        near = (x1 + rng.uniform(-5, 5), y1 + rng.uniform(-5, 5), x2 + rng.uniform(-5, 5), y2 + rng.uniform(-5, 5))
        predicted = box(20, 200) if n > 1 and rng.random() < 0.1 else near
        items.append(
            {"bbox_2d": _to_processed(predicted), "label": rng.choice(labels) if rng.random() < 0.05 else label}
        )
    rng.shuffle(items)
    boxes_xyxy, names = zip(*objects, strict=True)
    target = Target(task=task, size_wh=SIZE_WH, boxes_xyxy=boxes_xyxy, labels=names, categories=labels)
    return f"```json\n{json.dumps(items)}\n```", target


def _to_processed(box: Box) -> list[int]:
    return [round(v * PROCESSED_WH[i % 2] / SIZE_WH[i % 2]) for i, v in enumerate(box)]


def case_for(preset: Preset, n: int, seed: int) -> Case:
    """Build the scene as a row of a task of the preset, and an answer in its format."""
    task = "grounding" if preset.name.startswith(("vlmr1-rec", "rec-")) else preset.tasks[0]
    if task == "text":
        answer = f"<think>{detection_case(n, seed)[0]}</think><answer>{12 if 'math' in preset.name else 'B'}</answer>"
        return answer, Target(task=task, answer="B")
    text, boxes = detection_case(n, seed, LABELS[:1] if task == "grounding" else LABELS, "detection")
    if task == "counting":
        answer = text if preset.answer_format == "qwen-json" else f"<answer>{n + seed % 3 - 1}</answer>"
        return answer, Target(task=task, size_wh=SIZE_WH, count=n)
    if task == "pointing":
        rng = random.Random(seed)
        points = [(rng.randint(0, PROCESSED_WH[0]), rng.randint(0, PROCESSED_WH[1])) for _ in range(n)]
        answer = str(list(points[0]))
        if preset.answer_format != "point":
            answer = json.dumps([{"point_2d": point, "label": LABELS[0]} for point in points])
        return answer, Target(task=task, size_wh=SIZE_WH, boxes_xyxy=boxes.boxes_xyxy, labels=[LABELS[0]] * n)
    n_objects = 1 if preset.name.startswith("vlmr1-rec-") else n
    target = Target(
        task=task,
        size_wh=SIZE_WH,
        boxes_xyxy=boxes.boxes_xyxy[:n_objects],
        labels=boxes.labels[:n_objects],
        categories=boxes.categories,
    )
    return f"<think>because</think>\n<answer>{text}</answer>" if preset.name.startswith("vlmr1") else text, target


def floor(text: str, target: Target) -> float:
    """Return the total IoU by `json.loads`, numpy and scipy; without labels, thresholds, checks or bad input."""
    p = np.array([item["bbox_2d"] for item in json.loads(text[8:-4])], dtype=np.float64)
    p *= np.array(SIZE_WH * 2) / np.array(PROCESSED_WH * 2)
    t = np.array(target.boxes_xyxy)
    shared = np.maximum(np.minimum(p[:, None, 2:], t[:, 2:]) - np.maximum(p[:, None, :2], t[:, :2]), 0.0).prod(axis=-1)
    area_p, area_t = (p[:, 2:] - p[:, :2]).prod(axis=-1), (t[:, 2:] - t[:, :2]).prod(axis=-1)
    iou_pt = shared / (area_p[:, None] + area_t - shared)
    rows, columns = linear_sum_assignment(iou_pt, maximize=True)
    return float(iou_pt[rows, columns].sum())


def scorer(preset: Preset) -> Callable[[str, Target], Score]:
    """Return `score` with a preset, as training calls it."""

    def call(text: str, target: Target) -> Score:
        return score(text, target, preset=preset, frame="qwen2.5-vl", processed_wh=PROCESSED_WH, progress=0.3)

    return call


def fastest(subjects: Mapping[str, tuple[Callable[..., object], Sequence[Any]]], rounds: int) -> dict[str, float]:
    """Return microseconds of CPU per case for each subject, from its fastest round. A case is a tuple of arguments."""
    best = dict.fromkeys(subjects, float("inf"))
    turns, rng = list(subjects.items()), random.Random(0)
    gc.disable()
    for _ in range(rounds + 1):  # the first one loads scipy
        rng.shuffle(turns)
        for name, (call, cases) in turns:
            start = time.process_time_ns()
            for case in cases:
                call(*case)
            best[name] = min(best[name], (time.process_time_ns() - start) / 1000 / len(cases))
        gc.collect()
    gc.enable()
    return best


def main() -> None:
    """Print a table: microseconds, and their ratio to the floor's, for each number of boxes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", nargs="+", type=int, default=N_BOXES)
    parser.add_argument("--presets", nargs="+", default=BOX_PRESETS, help="names, or 'all'")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    names = list(PRESETS) if options.presets == ["all"] else options.presets
    columns: list[dict[str, float]] = []
    for n in options.boxes:
        subjects = {"floor": (floor, [detection_case(n, seed) for seed in range(N_SCENES)])}
        for name in names:
            cases = [case_for(PRESETS[name], n, seed) for seed in range(N_SCENES)]
            subjects[name] = (scorer(PRESETS[name]), cases)
        columns.append(fastest(subjects, options.rounds))
    lines = [f"{'us of CPU, ratio to the floor':32}" + "".join(f"{f'{n} boxes':>18}" for n in options.boxes)]
    for name in ("floor", *names):
        cells = (f"{column[name]:10.1f} ({column[name] / column['floor']:.2f})" for column in columns)
        lines.append(f"{name:32}" + "".join(f"{cell:>18}" for cell in cells))
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
