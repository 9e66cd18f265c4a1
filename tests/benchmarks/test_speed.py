"""CPU time of one completion, text to Score, beside what no reward can do without (the floor).

`pytest tests/benchmarks --benchmark-enable --benchmark-columns=median,mean,min,rounds` prints a table for each number
of boxes, in microseconds a completion, with the ratio to the fastest in brackets. A plain test run executes each once.

Workload (64 scenes a size): 1000 x 800 image, 8 labels, ground truth jittered by up to 5 pixels, 5 % wrong labels,
10 % misses with as many false alarms, shuffled; Qwen2.5-VL's coordinates and fence.
"""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from scipy.optimize import linear_sum_assignment

from verl_visionr1 import PRESETS, Target, score
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
    matching = match_boxes(tuple((x1 * w, y1 * h, x2 * w, y2 * h) for x1, y1, x2, y2 in boxes), (), target)
    assert floor(text, target) == pytest.approx(sum(matching.ious))


def measured(benchmark: BenchmarkFixture, judge: Callable[[str, Target], object], n: int) -> None:
    scenes = itertools.cycle([scene(n, seed) for seed in range(64)])
    judge(*next(scenes))  # the first one loads scipy
    benchmark(lambda: judge(*next(scenes)))


@pytest.mark.parametrize("n", N_BOXES)
@pytest.mark.parametrize("preset", PRESETS)
def test_score(benchmark: BenchmarkFixture, preset: str, n: int) -> None:
    benchmark.group, benchmark._timer = f"{n} boxes", time.process_time

    def judge(text: str, target: Target) -> object:
        result = score(text, target, preset=preset, frame="qwen2.5-vl", processed_wh=PROCESSED_WH, progress=0.3)
        assert result.metrics["format"] == 1.0
        return result

    measured(benchmark, judge, n)


@pytest.mark.parametrize("n", N_BOXES)
def test_floor(benchmark: BenchmarkFixture, n: int) -> None:
    benchmark.group, benchmark._timer = f"{n} boxes", time.process_time
    measured(benchmark, floor, n)


@pytest.mark.benchmark(group="import")
@pytest.mark.parametrize("code", ["pass", "import numpy, msgspec", "import verl_visionr1"])
def test_import(benchmark: BenchmarkFixture, code: str) -> None:
    """Wall time of a fresh interpreter; the first is what Python itself needs."""
    benchmark.pedantic(lambda: subprocess.run([sys.executable, "-c", code], check=True), rounds=5)
