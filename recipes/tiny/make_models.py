"""Make the tiny models of the CPU recipe: real architectures, a few million parameters, no download.

    python recipes/tiny/make_models.py able recipes/tiny/qwen3_vl_scenes_able        # an hour on two busy cores
    python recipes/tiny/make_models.py habits recipes/tiny/qwen3_vl_scenes_able recipes/tiny/qwen3_vl_scenes
    python recipes/tiny/make_models.py evaluate recipes/tiny/qwen3_vl_scenes
    python recipes/tiny/make_models.py random-qwen2-5-vl /some/folder                # a second or two
    python recipes/tiny/make_models.py random-qwen2-vl /some/folder

`able` builds a Qwen3-VL from scratch and teaches it, by supervised steps on freshly drawn scenes, to find objects and
to answer in Qwen JSON. `habits` goes on from there with lazy annotations: the model can still do it all, and seldom
does. `random-qwen2-5-vl` and `random-qwen2-vl` write untrained models of these two architectures: for tests of the
frame of processed pixels, and for trying recipes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from architectures import (
    GRID_THW,
    make_qwen2_5_vl,
    make_qwen2_5_vl_processor,
    make_qwen2_vl,
    make_qwen2_vl_processor,
    make_qwen3_vl,
    make_qwen3_vl_processor,
    make_tokenizer,
    patchify,
    prompt_text,
)
from lessons import Habits, Lesson, held_out
from teaching import Settings, rounds, teach, teach_answers
from transformers import AutoModelForImageTextToText, AutoProcessor

from verl_visionr1 import score

MAX_NEW_TOKENS = 72
"""Room for three labelled boxes and the end-of-turn token."""


@torch.no_grad()
def answer(model: Any, processor: Any, lessons: Sequence[Lesson], *, batch: int = 64) -> list[list[int]]:
    """Greedy answers as token ids, without the end-of-turn token if there is one."""
    tokenizer, answers = processor.tokenizer, []
    for start in range(0, len(lessons), batch):
        part = lessons[start : start + batch]
        inputs = tokenizer(
            [prompt_text(processor, item.question) for item in part],
            return_tensors="pt",
            padding=True,
            padding_side="left",
        )
        out = model.generate(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            mm_token_type_ids=(inputs.input_ids == model.config.image_token_id).int(),
            pixel_values=patchify(np.stack([item.pixels for item in part])).to(model.dtype),
            image_grid_thw=torch.tensor([GRID_THW] * len(part)),
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
        )
        for row in out[:, inputs.input_ids.shape[1] :].tolist():
            end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
            answers.append(row[:end])
    return answers


def report(processor: Any, lessons: Sequence[Lesson], answers: Sequence[Sequence[int]]) -> dict[str, float]:
    """Means over lessons of the package's own metrics, and of the answers' lengths (the end-of-turn token counts).

    `iou_mean`, `f1_50` are over the lessons with something to find; `absent_kept` is the share of the others that were
    answered by a well-formed empty list.
    """
    texts = processor.tokenizer.batch_decode(answers)
    scores = [
        score(text, item.target, preset="visionr1", frame="qwen3-vl") for text, item in zip(texts, lessons, strict=True)
    ]
    pairs = [(s.metrics, item.target) for s, item in zip(scores, lessons, strict=True)]
    absent = [m for m, target in pairs if not target.boxes_xyxy]
    found = [m for m, target in pairs if target.boxes_xyxy]
    listed = [m for m, target in pairs if target.boxes_xyxy and target.task == "detection"]
    lengths = [len(ids) + 1 for ids in answers]
    return {
        "lessons": len(lessons),
        "value": _mean([s.value for s in scores]),
        "format": _mean([s.metrics["format"] for s in scores]),
        "iou_mean": _mean([m["iou_mean"] for m in found]),
        "iou_mean_detection": _mean([m["iou_mean"] for m in listed]),
        "f1_50": _mean([m["f1_50"] for m in found]),
        "f1_50_detection": _mean([m["f1_50"] for m in listed]),
        "boxes_per_target": _mean([m["boxes_per_target"] for m in found]),
        "absent_kept": _mean([float(m["n_predicted"] == 0 and m["format"] == 1) for m in absent]),
        "answer_tokens_p95": float(np.percentile(lengths, 95)),
        "answer_tokens_max": max(lengths),
    }


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4) if values else math.nan


def save(model: Any, processor: Any, directory: Path) -> None:
    """Write model (bfloat16 safetensors) and processor; the model in memory is left as it is."""
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    model.config.dtype = torch.bfloat16
    model.save_pretrained(directory, state_dict=weights)
    processor.save_pretrained(directory)


def load(directory: Path) -> tuple[Any, Any]:
    """The model in float32 and its processor."""
    return AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32), AutoProcessor.from_pretrained(
        directory
    )


app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@app.command()
def able(
    out_dir: Annotated[Path, typer.Argument(help="Folder to write; made if missing.")],
    seed: Annotated[int, typer.Option(help="Of the initial weights and of the scenes.")] = 0,
    after: Annotated[Path | None, typer.Option(help="A round_N folder that an interrupted run wrote: go on.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Supervised steps of each round.")] = None,
    lessons: Annotated[int, typer.Option(min=1, help="Held-out lessons of the evaluation.")] = 1024,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Make and train the Qwen3-VL in rounds, write it, read it back, evaluate it and write card.json.

    Each round goes on from the model that the one before wrote to OUT_DIR/round_N.
    """
    settings = [replace(s, steps=steps or s.steps) for s in rounds(seed)]
    tokenizer = make_tokenizer()
    processor = make_qwen3_vl_processor(tokenizer)
    started, points = time.perf_counter(), []

    def curve(step: int) -> None:
        model.eval()
        asked = held_out(256)
        metrics = report(processor, asked, answer(model, processor, asked))
        points.append({"round": number, "step": step, "seconds": round(time.perf_counter() - started), **metrics})
        typer.echo(json.dumps(points[-1]))

    done = int(after.name.removeprefix("round_")) if after else 0
    model = load(after)[0] if after else make_qwen3_vl(tokenizer, seed)
    for number, of_round in list(enumerate(settings, 1))[done:]:
        teach(model, processor, of_round, is_new=number == 1, device=device, curve=curve)
        save(model, processor, out_dir / f"round_{number}")
        model, _ = load(out_dir / f"round_{number}")
    seconds = time.perf_counter() - started
    save(model, processor, out_dir)
    card = {
        "made_by": f"python recipes/tiny/make_models.py able OUT_DIR --seed {seed}",
        "rounds": [asdict(of_round) for of_round in settings],
        "rounds_of_this_run": [done + 1, len(settings)],
        "parameters": sum(p.numel() for p in model.parameters()),
        "training_seconds": round(seconds),
        "threads": torch.get_num_threads(),
        "held_out_greedy": _evaluate(out_dir, lessons),
        "curve": points,
    }
    _write_card(out_dir, card)


@app.command()
def habits(
    able_dir: Annotated[Path, typer.Argument(help="A folder that `able` wrote.")],
    out_dir: Annotated[Path, typer.Argument(help="Folder to write; made if missing.")],
    seed: Annotated[int, typer.Option(help="Of the scenes.")] = 0,
    steps: Annotated[int, typer.Option(min=0, help="Supervised steps.")] = 150,
    lessons: Annotated[int, typer.Option(min=1, help="Held-out lessons of the evaluation.")] = 1024,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Teach an able model the habits of lazy annotators, write it, evaluate it and write card.json."""
    settings = Settings(seed=seed, tower_steps=0, steps=steps, learning_rate=5e-4, dense_weight=0)
    taught = Habits()
    model, processor = load(able_dir)
    started = time.perf_counter()
    teach_answers(model, processor, settings, annotate=taught.answer, device=device)
    seconds = time.perf_counter() - started
    save(model, processor, out_dir)
    card = {
        "made_by": f"python recipes/tiny/make_models.py habits ABLE_DIR OUT_DIR --seed {seed} --steps {steps}",
        "settings": asdict(settings),
        "habits": asdict(taught),
        "training_seconds": round(seconds),
        "threads": torch.get_num_threads(),
        "held_out_greedy": _evaluate(out_dir, lessons),
        "made_from": json.loads((able_dir / "card.json").read_text()),
    }
    _write_card(out_dir, card)


def _write_card(out_dir: Path, card: dict[str, Any]) -> None:
    text = json.dumps(card, indent=2) + "\n"
    (out_dir / "card.json").write_text(text)
    typer.echo(text)


@app.command()
def evaluate(
    model_dir: Annotated[Path, typer.Argument(help="A folder that warm-start wrote.")],
    lessons: Annotated[int, typer.Option(min=1, help="Held-out lessons.")] = 512,
    show: Annotated[int, typer.Option(min=0, help="Print so many answers.")] = 0,
) -> None:
    """Greedy answers on held-out scenes, scored by the package."""
    typer.echo(json.dumps(_evaluate(model_dir, lessons, show), indent=2))


def _evaluate(model_dir: Path, count: int, show: int = 0) -> dict[str, float]:
    model, processor = load(model_dir)
    lessons = held_out(count)
    started = time.perf_counter()
    answers = answer(model, processor, lessons)
    seconds = time.perf_counter() - started
    for item, ids in list(zip(lessons, answers, strict=True))[:show]:
        typer.echo(f"{item.question}\n  is   {item.answer}\n  said {processor.tokenizer.decode(ids)}")
    return {**report(processor, lessons, answers), "generation_seconds": round(seconds, 1)}


@app.command()
def random_qwen2_5_vl(
    out_dir: Annotated[Path, typer.Argument(help="Folder to write; made if missing.")],
    seed: Annotated[int, typer.Option(help="Of the weights.")] = 0,
) -> None:
    """Write an untrained Qwen2.5-VL with the same tokenizer."""
    tokenizer = make_tokenizer()
    save(make_qwen2_5_vl(tokenizer, seed), make_qwen2_5_vl_processor(tokenizer), out_dir)
    typer.echo(f"{out_dir}: written")


@app.command()
def random_qwen2_vl(
    out_dir: Annotated[Path, typer.Argument(help="Folder to write; made if missing.")],
    seed: Annotated[int, typer.Option(help="Of the weights.")] = 0,
) -> None:
    """Write an untrained Qwen2-VL with the same tokenizer."""
    tokenizer = make_tokenizer()
    save(make_qwen2_vl(tokenizer, seed), make_qwen2_vl_processor(tokenizer), out_dir)
    typer.echo(f"{out_dir}: written")


if __name__ == "__main__":
    app()
