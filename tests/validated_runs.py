"""A run's folder with validations as verl dumps and logs them: new uids each time, sorted by uid, no data source."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gallery_runs import SIZE_WH, answer, write_lines

from verl_visionr1 import Target, score

SOURCE = "visionr1/scenes_grounding"
KINDS = ("red circle", "blue square", "green star")
STAGES = ((0.3, 0.3, 0.6), (0.5, 0.5, 0.75))


def make_targets(n: int, seed: int = 0) -> list[Target]:
    """Boxes of one kind each; one in ten has none."""
    rng = random.Random(seed)
    targets: list[Target] = []
    for i in range(n):
        kind = rng.choice(KINDS)
        boxes = [_box(rng) for _ in range(0 if i % 10 == 9 else rng.randint(1, 3))]
        targets.append(
            Target(task="grounding", size_wh=SIZE_WH, boxes_xyxy=boxes, labels=[kind] * len(boxes), categories=[kind])
        )
    return targets


def _box(rng: random.Random) -> list[int]:
    x, y = rng.randint(0, 350), rng.randint(0, 250)
    return [x, y, x + rng.randint(40, 120), y + rng.randint(40, 100)]


def make_dump(targets: Sequence[Target], skill: float, step: int) -> list[dict[str, Any]]:
    """The lines of a validation of greedy answers of some skill in [0, 1], judged at the last stage."""
    rows = [_row(target, answer(target, random.Random(f"{step} {i}"), skill), step) for i, target in enumerate(targets)]
    return sorted(rows, key=lambda row: row["uid"])


def _row(target: Target, text: str, step: int) -> dict[str, Any]:
    scored = score(text, target, progress=1.0)
    return {
        "input": f"user\nLocate every {target.categories[0]} in the image.\nassistant\n",
        "output": text,
        "gts": target.to_json(),
        "score": scored.value,
        "step": step,
        "reward": scored.value,
        **scored.metrics,
        **{"value": scored.value, "acc": scored.metrics["accuracy"], "progress": 1.0, "stage": 1.0},
        **{"match_iou": STAGES[1][0], "n_tokens": float(len(text) // 3), "route": 0.0, "unscored": 0.0},
        "uid": f"{uuid.uuid4()}_0_0",
    }


def logged_means(rows: Sequence[Mapping[str, Any]], source: str = SOURCE) -> dict[str, float]:
    """The same validation as verl logs it."""
    names = [name for name, value in rows[0].items() if isinstance(value, float) and name != "score"]
    return {f"val-aux/{source}/{name}/mean@1": sum(row[name] for row in rows) / len(rows) for name in names}


def make_validated_run(folder: Path, skills: Mapping[int, float], n_prompts: int = 60) -> Path:
    """A run with a validation at each step of `skills` and a training batch at each step, stage 1 from half way on."""
    targets, train = make_targets(n_prompts), make_targets(16, seed=1)
    n_steps = max(skills)
    lines: list[dict[str, Any]] = []
    for step in range(n_steps + 1):
        numbers: dict[str, float] = {}
        if step in skills:
            rows = make_dump(targets, skills[step], step)
            write_lines(folder / "validation" / f"{step}.jsonl", rows)
            numbers |= logged_means(rows)
        if step:
            stage = int(step > n_steps / 2)
            skill = _between(skills, step)
            batch = make_dump(train, skill, 1000 + step)
            shown = ("value", "format", "recall", "precision", "iou_mean", "f1_50", "accuracy", "boxes_per_target")
            numbers |= {f"visionr1/{name}/mean": sum(row[name] for row in batch) / len(batch) for name in shown}
            names = ("match_iou", "iou_floor", "iou_full")
            numbers |= {f"visionr1/threshold/{name}": xi for name, xi in zip(names, STAGES[stage], strict=True)}
            numbers |= {"visionr1/stage": float(stage), "timing_s/step": 15.0}
        lines.append({"step": step, "data": numbers})
    (folder / "metrics").mkdir(parents=True)
    (folder / "metrics" / "000.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def _between(skills: Mapping[int, float], step: int) -> float:
    earlier, later = max(s for s in skills if s <= step), min(s for s in skills if s >= step)
    if earlier == later:
        return skills[step]
    return skills[earlier] + (skills[later] - skills[earlier]) * (step - earlier) / (later - earlier)
