"""A training run's folder as a gallery is made of: dumps of rollouts over drawn scenes, their parquet, and metrics."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from verl_visionr1 import Target, score
from verl_visionr1.conversion.scenes import CATEGORIES, Scene, draw_scene, scene_rng
from verl_visionr1.images import prepare_image
from verl_visionr1.row_writer import write_rows
from verl_visionr1.rows import Row
from verl_visionr1.schedule import progress_at

SIZE_WH = (480, 360)
LIST = f"Locate every item from the category list in the image. The category set includes {', '.join(CATEGORIES)}."


class Prompt(NamedTuple):
    question: str
    source: str
    target: Target
    image: Path


class Run(NamedTuple):
    """Where a made run stands."""

    folder: Path
    data: Path
    n_rollouts: int
    n_prompts: int


def make_run(
    folder: Path, n_prompts: int, n_samples: int, n_steps: int, *, embed: bool = False, n_validated: int = 8
) -> Run:
    """Prompts spread evenly over the steps, each with its samples, which get better as training goes on."""
    prompts = make_prompts(folder, n_prompts)
    data = folder / "train.parquet"
    write_data(data, prompts, embed=embed)
    for step in range(1, n_steps + 1):
        rows: list[dict[str, Any]] = []
        for p in range(step - 1, n_prompts, n_steps):
            rng = random.Random(p)
            rows += [
                rollout(prompts[p], answer(prompts[p].target, rng, step / n_steps), step, n_steps, f"p{p}_{s}_0")
                for s in range(n_samples)
            ]
        write_lines(folder / "rollouts" / f"{step}.jsonl", rows)
    validated = range(min(n_validated, n_prompts))
    steps = range(0, n_steps + 1, max(n_steps // 3, 1))
    for step in steps:
        rows = [
            rollout(prompts[p], answer(prompts[p].target, random.Random(p), step / n_steps), step, 0, f"v{p}_0_0")
            for p in validated
        ]
        write_lines(folder / "validation" / f"{step}.jsonl", rows)
    write_metrics(folder, n_steps)
    return Run(folder, data, n_prompts * n_samples + len(validated) * len(steps), n_prompts)


def make_prompts(folder: Path, n: int) -> list[Prompt]:
    """Detection of all shapes of a drawn scene, or grounding of one kind of them, by turns."""
    prompts: list[Prompt] = []
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for i in range(n):
        image, scene = draw_scene(scene_rng(1, "train", i), size_wh=SIZE_WH, objects_max=6)
        path = folder / "images" / f"{i:06d}.jpg"
        image.save(path, quality=92)
        prompts.append(_prompt(i, scene, path))
    return prompts


def _prompt(i: int, scene: Scene, image: Path) -> Prompt:
    if i * 7 // 10 % 5 < 3:
        boxes, labels = zip(*((item.box_xyxy, item.category) for item in scene.objects), strict=True)
        target = Target(
            task="detection", size_wh=SIZE_WH, boxes_xyxy=boxes, labels=labels, categories=tuple(CATEGORIES)
        )
        return Prompt(LIST, "visionr1/scenes_detection", target, image)
    kind = scene.objects[0].category
    boxes = [item.box_xyxy for item in scene.of(kind)]
    target = Target(task="grounding", size_wh=SIZE_WH, boxes_xyxy=boxes, labels=[kind] * len(boxes), categories=[kind])
    question = f"Locate every {kind} in the image and output the coordinates in JSON format."
    return Prompt(question, "visionr1/scenes_grounding", target, image)


def write_data(out: Path, prompts: Sequence[Prompt], *, embed: bool = False) -> None:
    """The prompts as the parquet that was trained on."""
    rows = []
    for i, (question, source, target, path) in enumerate(prompts):
        image = prepare_image(path, embed=embed, copies_dir=out.parent / "copies")
        rows.append(Row(data_source=source, question=question, image=image, target=target, image_id=str(i)))
    write_rows(rows, out, embed=embed)


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """As a step's dump: a JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_metrics(folder: Path, n_steps: int) -> None:
    """As verl's file logger writes a run's numbers."""
    lines = []
    for step in range(1, n_steps + 1):
        stage = float(step > n_steps / 2)
        match = 0.75 if stage else 0.5
        numbers = {"visionr1/stage": stage, "visionr1/threshold/match_iou": match, "visionr1/n_tokens/mean": 80.0}
        lines.append({"step": step, "data": numbers | {"visionr1/value/mean": 0.3 + 0.4 * step / n_steps}})
    write_lines(folder / "metrics" / "20260101-000000.jsonl", lines)


def rollout(prompt: Prompt, text: str, step: int, total_steps: int, uid: str) -> dict[str, Any]:
    """A line of a dump; with a reward as the run gave it: at its step's thresholds, without steps at the last ones."""
    progress = progress_at(step, total_steps) if total_steps else 1.0
    return {
        "input": f"system\nYou are a helpful assistant.\nuser\n{prompt.question}\nassistant\n",
        "output": text,
        "gts": prompt.target.to_json(),
        "score": score(text, prompt.target, progress=progress).value,
        "step": step,
        "data_source": prompt.source,
        "uid": uid,
    }


def answer(target: Target, rng: random.Random, skill: float) -> str:
    """What a model of some skill in [0, 1] says: the truth with the usual faults in it."""
    if rng.random() < 0.06 * (1.2 - skill):
        return "I am sorry, I cannot see any of these objects in the image."
    spread = rng.choice((0.4, 1.0, 1.8)) * (2.0 + 14.0 * (1.0 - skill))
    items: list[dict[str, Any]] = []
    for box, label in zip(target.boxes_xyxy, target.labels, strict=True):
        if rng.random() < 0.2 * (1.1 - skill):
            continue  # missed
        wrong = rng.random() < 0.14 * (1.3 - skill)
        item = {"bbox_2d": [round(value + rng.gauss(0.0, spread)) for value in box]}
        item |= {"label": rng.choice(CATEGORIES) if wrong else label}
        items += [item] * (1 + (rng.random() < 0.10 * (1.3 - skill)))
    for _ in range(rng.choice((0, 0, 0, 1, 2)) if rng.random() > skill * 0.8 else 0):
        x, y = rng.randint(0, 380), rng.randint(0, 260)
        box = [x, y, x + rng.randint(20, 100), y + rng.randint(20, 100)]
        items.append({"bbox_2d": box, "label": rng.choice(CATEGORIES)})
    text, fault = json.dumps(items), rng.random()
    if fault < 0.06:
        text = text[: int(len(text) * 0.7)]  # the token limit
    elif fault < 0.12:
        return f"Sure! Here is what I found in the image:\n{text}\nLet me know if you need more."
    elif fault < 0.3:
        return f"<think>The image shows {len(items)} shapes on grey ground.</think>\n```json\n{text}\n```"
    return f"```json\n{text}\n```"
