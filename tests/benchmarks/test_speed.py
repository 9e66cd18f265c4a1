"""CPU time of one completion, text to Score, beside what no reward can do without (the floor).

`pytest tests/benchmarks --benchmark-enable --benchmark-columns=median,mean,min,rounds` prints a table for each number
of boxes, in microseconds a completion, with the ratio to the fastest in brackets. A plain test run executes each once.

Workload (64 scenes a size): 1000 x 800 image, 8 labels, ground truth jittered by up to 5 pixels, 5 % wrong labels,
10 % misses with as many false alarms, shuffled; Qwen2.5-VL's coordinates and fence, VLM-R1's tags where its released
code asks for them. Counting, pointing and text are asked for the same scenes: a number, a point an object, a letter.
"""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from scipy.optimize import linear_sum_assignment

from verl_visionr1 import PRESETS, Preset, Target, score
from verl_visionr1.answers import Answer
from verl_visionr1.matching import match_boxes

SIZE_WH, PROCESSED_WH = (1000, 800), (1008, 812)
LABELS = [f"label{i}" for i in range(8)]
N_BOXES = [1, 10, 50, 200]

Box = tuple[float, float, float, float]


def scene(n: int, seed: int) -> tuple[str, Target]:
    """A completion of `n` boxes and its target, also of `n`."""
    rng = random.Random(seed)

    def box(least: float, most: float) -> Box:
        w, h = rng.uniform(least, most), rng.uniform(least, most)
        x, y = rng.uniform(0, SIZE_WH[0] - w), rng.uniform(0, SIZE_WH[1] - h)
        return x, y, x + w, y + h

    def spoken(box: Box) -> list[int]:
        return [round(v * PROCESSED_WH[i % 2] / SIZE_WH[i % 2]) for i, v in enumerate(box)]

    truth = [(box(20, 200), rng.choice(LABELS)) for _ in range(n)]
    items: list[dict[str, object]] = []
    for (x1, y1, x2, y2), label in truth:
        near = (x1 + rng.uniform(-5, 5), y1 + rng.uniform(-5, 5), x2 + rng.uniform(-5, 5), y2 + rng.uniform(-5, 5))
        said = box(20, 200) if n > 1 and rng.random() < 0.1 else near
        items.append({"bbox_2d": spoken(said), "label": rng.choice(LABELS) if rng.random() < 0.05 else label})
    rng.shuffle(items)
    boxes_xyxy, labels = zip(*truth, strict=True)
    target = Target(task="detection", size_wh=SIZE_WH, boxes_xyxy=boxes_xyxy, labels=labels, categories=LABELS)
    return f"```json\n{json.dumps(items)}\n```", target


def floor(text: str, target: Target) -> float:
    """`json.loads`, IoU in numpy, assignment in scipy; no labels, thresholds, checks or bad input. Total IoU."""
    p = np.array([item["bbox_2d"] for item in json.loads(text[8:-4])], dtype=np.float64)
    p *= np.array(SIZE_WH * 2) / np.array(PROCESSED_WH * 2)
    t = np.array(target.boxes_xyxy)
    shared = np.maximum(np.minimum(p[:, None, 2:], t[:, 2:]) - np.maximum(p[:, None, :2], t[:, :2]), 0.0).prod(axis=-1)
    area_p, area_t = (p[:, 2:] - p[:, :2]).prod(axis=-1), (t[:, 2:] - t[:, :2]).prod(axis=-1)
    iou_pt = shared / (area_p[:, None] + area_t - shared)
    rows, columns = linear_sum_assignment(iou_pt, maximize=True)
    return float(iou_pt[rows, columns].sum())


def test_the_floor_computes_what_we_compute() -> None:
    text, target = scene(50, 0)
    boxes = [item["bbox_2d"] for item in json.loads(text[8:-4])]
    w, h = SIZE_WH[0] / PROCESSED_WH[0], SIZE_WH[1] / PROCESSED_WH[1]
    matching = match_boxes(Answer(tuple((x1 * w, y1 * h, x2 * w, y2 * h) for x1, y1, x2, y2 in boxes)), target)
    assert floor(text, target) == pytest.approx(sum(matching.ious))


def measured(
    benchmark: BenchmarkFixture, judge: Callable[[str, Target], object], cases: Sequence[tuple[str, Target]]
) -> None:
    scenes = itertools.cycle(cases)
    judge(*next(scenes))  # the first one loads scipy
    benchmark(lambda: judge(*next(scenes)))


def case_for(preset: Preset, n: int, seed: int) -> tuple[str, Target]:
    """The scene as a row of a task that the preset judges, and an answer in its format."""
    text, boxes = scene(n, seed)
    task = preset.tasks[0]
    if task == "counting":
        said = text if preset.answer_format == "qwen-json" else f"<answer>{n + seed % 3 - 1}</answer>"
        return said, Target(task=task, size_wh=SIZE_WH, count=n)
    if task == "pointing":
        rng = random.Random(seed)
        points = [(rng.randint(0, PROCESSED_WH[0]), rng.randint(0, PROCESSED_WH[1])) for _ in range(n)]
        said = str(list(points[0]))
        if preset.answer_format != "point":
            said = json.dumps([{"point_2d": point, "label": LABELS[0]} for point in points])
        return said, Target(task=task, size_wh=SIZE_WH, boxes_xyxy=boxes.boxes_xyxy, labels=[LABELS[0]] * n)
    if task == "text":
        return f"<think>{text}</think><answer>{12 if 'math' in preset.name else 'B'}</answer>", Target(
            task=task, answer="B"
        )
    return f"<think>because</think>\n<answer>{text}</answer>" if preset.name.startswith("vlmr1") else text, boxes


@pytest.mark.parametrize("n", N_BOXES)
@pytest.mark.parametrize("name", PRESETS)
def test_score(benchmark: BenchmarkFixture, name: str, n: int) -> None:
    benchmark.group, benchmark._timer = f"{n} boxes", time.process_time
    preset = PRESETS[name]

    def judge(text: str, target: Target) -> object:
        return score(text, target, preset=preset, frame="qwen2.5-vl", processed_wh=PROCESSED_WH, progress=0.3)

    measured(benchmark, judge, [case_for(preset, n, seed) for seed in range(64)])


@pytest.mark.parametrize("n", N_BOXES)
def test_target_there_and_back(benchmark: BenchmarkFixture, n: int) -> None:
    """Reading ground truth is not in the numbers above: a run reads it once a prompt."""
    benchmark.group, benchmark._timer = f"{n} boxes", time.process_time
    measured(benchmark, lambda text, target: Target.from_json(target.to_json()), [scene(n, seed) for seed in range(64)])


@pytest.mark.parametrize("n", N_BOXES)
def test_floor(benchmark: BenchmarkFixture, n: int) -> None:
    benchmark.group, benchmark._timer = f"{n} boxes", time.process_time
    measured(benchmark, floor, [scene(n, seed) for seed in range(64)])


@pytest.mark.benchmark(group="import")
@pytest.mark.parametrize("code", ["pass", "import numpy, msgspec", "import verl_visionr1"])
def test_import(benchmark: BenchmarkFixture, code: str) -> None:
    """Wall time of a fresh interpreter; the first is what Python itself needs."""
    benchmark.pedantic(lambda: subprocess.run([sys.executable, "-c", code], check=True), rounds=5)
