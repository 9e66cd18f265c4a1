"""How the tiny Qwen3-VL is taught: its vision tower what lies where, then the whole model to answer."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from architectures import GRID_THW, IMAGE_TOKENS, MERGE, PATCH, patchify, prompt_text
from lessons import SIDE, Lesson, glances, questions

from verl_visionr1.conversion.scenes import CATEGORIES, Scene, draw_scene, scene_rng

Curve = Callable[[int], None] | None
Annotate = Callable[[np.random.Generator, Lesson], str]


@dataclass(frozen=True, slots=True)
class Settings:
    """How a model is taught: optimizer steps of `scenes` pictures, each with `questions` answers and `glances`."""

    seed: int = 0
    tower_steps: int = 600
    steps: int = 2700
    scenes: int = 16
    questions: int = 4
    glances: int = 0
    learning_rate: float = 2e-3
    warmup: int = 30
    weight_decay: float = 0.05
    dense_weight: float = 0.3
    few_objects: float = 0.05  # share of the steps that show one object, and of those that show up to two
    first: int = 0  # number of the first step in the stream of scenes


def rounds(seed: int) -> tuple[Settings, ...]:
    """The rounds that make the able model: to find what is there, to look whether it is there, and to settle."""
    where = Settings(seed=seed)
    whether = replace(
        where, tower_steps=200, steps=2000, glances=8, learning_rate=1.5e-3, few_objects=0.075, first=10_000
    )
    settle = replace(whether, steps=1000, glances=2, learning_rate=1e-3, few_objects=0.001, first=20_000)
    return where, whether, settle


def teach(
    model: Any, processor: Any, settings: Settings, *, is_new: bool, device: str = "cpu", curve: Curve = None
) -> None:
    """Teach a model in place, printing the losses: its vision tower first, then all of it to answer.

    Both stages: AdamW, warm-up, cosine, scenes drawn afresh. Of a model that is not new, the first stage teaches only
    the head that supervises the tower in the second. `curve(step)` is called after each 300 steps of that.

    Of an answer's forty tokens only the first says whether there is anything to list. Glances teach that one, with a
    loss of their own and at first with one object a scene: without either, the model does not look.
    """
    model.to(device).train()
    visual = model.model.visual
    visual.patch_embed.forward = functools.partial(_embed_patches, visual.patch_embed.proj)
    head = DenseHead(visual.config.out_hidden_size).to(device)
    train_tower(
        visual, head, settings, device, parameters=[*(visual.parameters() if is_new else ()), *head.parameters()]
    )
    parameters = [*model.parameters(), *head.parameters()]
    optimizer, schedule = _optimizer(parameters, settings, settings.steps)
    seen: list[torch.Tensor] = []  # the tower's output of the running forward pass
    hook = visual.merger.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    started, losses = time.perf_counter(), []
    for step in range(settings.steps):
        objects_max = min(3, 1 + int(step / (settings.few_objects * settings.steps)))
        turns, scenes = [], []
        for rng in _rngs(settings, "warm-start", settings.tower_steps + step):
            asked = questions(rng, settings.questions, objects_max=objects_max)
            scenes.append(asked[0].scene)
            turns.append(tokenize(processor, asked, glances(rng, asked[0].pixels, scenes[-1], settings.glances)))
        answers, firsts = answer_losses(model, processor, turns, device)
        dense = head.loss(seen.pop(), scenes)
        (answers + firsts + settings.dense_weight * dense).backward()
        _advance(parameters, optimizer, schedule)
        losses.append((answers.item(), firsts.item(), dense.item()))
        _show("answers", step, losses, started)
        if curve and (step + 1) % 300 == 0:
            curve(step + 1)
            seen.clear()
            model.train()
    hook.remove()
    del visual.patch_embed.forward
    model.eval().cpu()


def teach_answers(model: Any, processor: Any, settings: Settings, *, annotate: Annotate, device: str = "cpu") -> None:
    """Go on teaching a model that answers already, with the answers of `annotate`; in place, printing the losses."""
    model.to(device).train()
    parameters = list(model.parameters())
    optimizer, schedule = _optimizer(parameters, settings, settings.steps)
    started, losses = time.perf_counter(), []
    for step in range(settings.steps):
        turns = []
        for rng in _rngs(settings, "habits", step):
            lessons = questions(rng, settings.questions)
            turns.append(tokenize(processor, [replace(item, answer=annotate(rng, item)) for item in lessons]))
        loss, _ = answer_losses(model, processor, turns, device)
        loss.backward()
        _advance(parameters, optimizer, schedule)
        losses.append((loss.item(),))
        _show("habits", step, losses, started)
    model.eval().cpu()


def train_tower(visual: Any, head: DenseHead, settings: Settings, device: str, *, parameters: list[Any]) -> None:
    """The first stage: dense supervision of the image tokens alone; only `parameters` learn."""
    optimizer, schedule = _optimizer(parameters, settings, settings.tower_steps)
    grid_thw = torch.tensor([GRID_THW] * settings.scenes, device=device)
    started, losses = time.perf_counter(), []
    for step in range(settings.tower_steps):
        images, scenes = zip(
            *(draw_scene(rng, size_wh=(SIDE, SIDE)) for rng in _rngs(settings, "warm-start", step)), strict=True
        )
        pixels = patchify(np.stack([np.asarray(image) for image in images])).to(device)
        loss = head.loss(visual(pixels, grid_thw=grid_thw).pooler_output, scenes)
        loss.backward()
        _advance(parameters, optimizer, schedule)
        losses.append((loss.item(),))
        _show("tower", step, losses, started)


class DenseHead(torch.nn.Linear):
    """Reads from each image token what lies there: a category (or none), and the digits of its box.

    It teaches the vision tower and is thrown away. A model this small takes thousands of steps to learn from answers
    alone where things are: for long, its best guess does not look at the image. Told token by token, it takes hundreds.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features, 1 + len(CATEGORIES) + 4 * (11 + 10))

    def loss(self, image_tokens: torch.Tensor, scenes: Sequence[Scene]) -> torch.Tensor:
        """Mean cross-entropy of categories and digits; image_tokens (len(scenes) * IMAGE_TOKENS, features)."""
        labels = torch.from_numpy(np.concatenate([dense_labels(scene) for scene in scenes])).to(image_tokens.device)
        predicted = self(image_tokens)
        loss = torch.nn.functional.cross_entropy(predicted[:, : 1 + len(CATEGORIES)], labels[:, 0])
        digits = predicted[:, 1 + len(CATEGORIES) :].view(-1, 4, 21)
        for coordinate in range(4):
            for column, logits in ((1, digits[:, coordinate, :11]), (5, digits[:, coordinate, 11:])):
                wanted = labels[:, column + coordinate]
                loss = loss + torch.nn.functional.cross_entropy(logits, wanted, ignore_index=-100) / 4
        return loss


def dense_labels(scene: Scene) -> np.ndarray:
    """(IMAGE_TOKENS, 9): category (0 for none), and hundreds and tens of x1, y1, x2, y2 in thousandths of the image.

    A token sees the object whose box covers most of its cell, if that is 1/16 of the cell or more; the digits of tokens
    that see none are -100.
    """
    cell, blocks = PATCH * MERGE, SIDE // (PATCH * MERGE)
    labels = np.full((IMAGE_TOKENS, 9), -100)
    labels[:, 0] = 0
    most = np.full(IMAGE_TOKENS, cell * cell / 16)
    corner = np.arange(blocks) * cell
    for item in scene.objects:
        left, top, right, bottom = item.box_xyxy
        wide = np.clip(np.minimum(right, corner + cell) - np.maximum(left, corner), 0, None)
        high = np.clip(np.minimum(bottom, corner + cell) - np.maximum(top, corner), 0, None)
        covered = (high[:, None] * wide[None, :]).ravel()
        thousandths = np.array([round(1000 * value / SIDE) for value in item.box_xyxy])
        here = covered >= most
        labels[here] = [1 + CATEGORIES.index(item.category), *(thousandths // 100), *(thousandths // 10 % 10)]
        most[here] = covered[here]
    return labels


@dataclass(frozen=True, slots=True)
class Turn:
    """One image and the questions about it, as token ids."""

    pixels: np.ndarray  # (SIDE, SIDE, 3) uint8
    prefix: list[int]  # up to and with the end of the image
    branches: list[tuple[list[int], list[int]]]  # (rest of the prompt, answer with the end-of-turn token)
    n_answers: int  # of the branches; the others are glances: one token


def tokenize(processor: Any, lessons: Sequence[Lesson], glanced: Sequence[Lesson] = ()) -> Turn:
    """The questions of one scene; all share the tokens up to the end of the image. Of a glance, an answer's first."""
    tokenizer, branches, prefix = processor.tokenizer, [], []
    vision_end = tokenizer.convert_tokens_to_ids("<|vision_end|>")
    for item in (*lessons, *glanced):
        prompt_ids = tokenizer(prompt_text(processor, item.question)).input_ids
        cut = prompt_ids.index(vision_end) + 1
        prefix = prompt_ids[:cut]
        branches.append((prompt_ids[cut:], [*tokenizer(item.answer).input_ids, tokenizer.eos_token_id]))
    for index in range(len(lessons), len(branches)):
        branches[index] = (branches[index][0], branches[index][1][:1])
    return Turn(lessons[0].pixels, prefix, branches, len(lessons))


def answer_losses(model: Any, processor: Any, turns: Sequence[Turn], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy of the answers' tokens, and of the glances' (0 where there are none).

    The questions about a scene stand one after the other behind its image. Each sees the image and itself, at the
    positions that it would have alone, so that the image is computed once. Padding stands on the right, where nothing
    looks, and the image stands at the same place in every row.
    """
    start = len(turns[0].prefix)
    length = start + max(sum(len(q) + len(a) for q, a in turn.branches) for turn in turns)
    input_ids = torch.full((len(turns), length), processor.tokenizer.pad_token_id)
    labels = torch.full((len(turns), length), -100)
    is_glance = torch.zeros((len(turns), length), dtype=torch.bool)
    branch = torch.full((len(turns), length), -1)  # 0: the image; -1: padding
    offsets = torch.zeros((len(turns), length), dtype=torch.long)  # from the end of the image
    for row, turn in enumerate(turns):
        input_ids[row, :start], branch[row, :start] = torch.tensor(turn.prefix), 0
        begin = start
        for index, (question_ids, answer_ids) in enumerate(turn.branches):
            middle, end = begin + len(question_ids), begin + len(question_ids) + len(answer_ids)
            input_ids[row, begin:end] = torch.tensor(question_ids + answer_ids)
            labels[row, middle:end] = torch.tensor(answer_ids)
            is_glance[row, middle:end] = index >= turn.n_answers
            branch[row, begin:end] = index + 1
            offsets[row, begin:end] = torch.arange(end - begin)
            begin = end
    image = (input_ids[:1, :start] == model.config.image_token_id).int()
    grid_thw = torch.tensor([GRID_THW] * len(turns))
    of_prefix, _ = model.model.get_rope_index(input_ids[:1, :start], image, image_grid_thw=grid_thw[:1])
    position_ids = (of_prefix.max() + 1 + offsets).expand(3, -1, -1).clone()
    position_ids[:, :, :start] = of_prefix
    sees = (branch[:, :, None] == branch[:, None, :]) | (branch[:, None, :] == 0)
    logits = model(
        input_ids=input_ids.to(device),
        attention_mask=(sees & torch.ones(length, length, dtype=torch.bool).tril())[:, None].to(device),
        position_ids=position_ids.to(device),
        pixel_values=patchify(np.stack([turn.pixels for turn in turns])).to(device),
        image_grid_thw=grid_thw.to(device),
        use_cache=False,
    ).logits
    has_label, of_glance = labels[:, 1:] != -100, is_glance[:, 1:]
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten().to(device), ignore_index=-100, reduction="none"
    ).view(has_label.shape)
    glanced = losses[of_glance].mean() if of_glance.any() else losses.new_zeros(())
    return losses[has_label & ~of_glance].mean(), glanced


def _embed_patches(convolution: torch.nn.Conv3d, patches: torch.Tensor) -> torch.Tensor:
    """What the tower's patch embedding computes; as a convolution its backward pass takes a sixth of a step."""
    return torch.nn.functional.linear(patches, convolution.weight.flatten(1), convolution.bias)


def _rngs(settings: Settings, stream: str, step: int) -> list[np.random.Generator]:
    first = (settings.first + step) * settings.scenes
    return [scene_rng(settings.seed, stream, first + i) for i in range(settings.scenes)]


def _optimizer(parameters: Sequence[Any], settings: Settings, steps: int) -> tuple[Any, Any]:
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=settings.weight_decay
    )
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, settings.warmup))


def _advance(parameters: Sequence[Any], optimizer: Any, schedule: Any) -> None:
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    schedule.step()


def _rate(step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _show(stage: str, step: int, losses: Sequence[tuple[float, ...]], started: float) -> None:
    if (step + 1) % 25 == 0:
        means = " ".join(f"{value:.4f}" for value in np.mean(losses[-25:], axis=0))
        print(f"{stage} step {step + 1:5d}  loss {means}  {time.perf_counter() - started:6.1f} s", flush=True)
