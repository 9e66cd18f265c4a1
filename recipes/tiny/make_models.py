"""Make the tiny models of the CPU recipe: real architectures, a few million parameters, no download.

    python recipes/tiny/make_models.py warm-start recipes/tiny/qwen3_vl_scenes     # minutes on two cores
    python recipes/tiny/make_models.py evaluate recipes/tiny/qwen3_vl_scenes
    python recipes/tiny/make_models.py random-qwen2-5-vl /some/folder              # a second or two
    python recipes/tiny/make_models.py random-qwen2-vl /some/folder

`warm-start` builds a Qwen3-VL from scratch and teaches it, by supervised steps on freshly drawn scenes, to answer in
Qwen JSON and to localise roughly: a model that reward can improve. `random-qwen2-5-vl` and `random-qwen2-vl` write
untrained models of these two architectures: for tests of the frame of processed pixels, and for trying recipes.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from verl_visionr1 import Target, score
from verl_visionr1.answers import instruction

sys.path.insert(0, str(Path(__file__).parents[2] / "data_preprocess"))  # the converters are scripts, not a package

from scenes import CATEGORIES, COLOURS, SHAPES, Scene, SceneObject, draw_scene, scene_rng

SIDE = 128
"""Side of the square training images in pixels."""
PATCH = 16
MERGE = 2
IMAGE_TOKENS = (SIDE // (PATCH * MERGE)) ** 2
GRID_THW = (1, SIDE // PATCH, SIDE // PATCH)
MAX_NEW_TOKENS = 72
"""Room for three labelled boxes and the end-of-turn token."""

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""The tokens that Qwen's chat template and vision models name, in Qwen's order."""

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\n' }}
{%- if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' or 'image' in part or 'image_url' in part -%}
{{ '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif part.type == 'video' or 'video' in part -%}
{{ '<|vision_start|><|video_pad|><|vision_end|>' }}
{%- elif 'text' in part -%}
{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\n' }}
{%- endif -%}
"""
"""Qwen's ChatML with vision parts, without a default system turn and without tools."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """One supervised item: the picture, the question and the answer in Qwen3-VL's words, and the ground truth."""

    pixels: np.ndarray  # (SIDE, SIDE, 3) uint8
    question: str
    answer: str
    target: Target
    scene: Scene


def lesson(rng: np.random.Generator, *, objects_max: int = 3) -> Lesson:
    """Draw a scene and ask about it: 13 of 20 for what is there, 4 for what is absent, 3 for a list of categories."""
    image, scene = draw_scene(rng, size_wh=(SIDE, SIDE), objects_max=objects_max)
    present = [item.category for item in scene.objects]
    kind = rng.random()
    if kind < 0.15:
        task, phrases = "detection", _category_list(rng, present)
    elif kind < 0.35:
        absent = [category for category in CATEGORIES if category not in present]
        task, phrases = "grounding", [absent[int(rng.integers(len(absent)))]]
    else:
        task, phrases = "grounding", [present[int(rng.integers(len(present)))]]
    found = sorted((item for item in scene.objects if item.category in phrases), key=_reading_order)
    return Lesson(
        pixels=np.asarray(image),
        question=instruction(task, phrases, allow_none=True),
        answer=answer_text(scene, found),
        target=Target(
            task=task,
            size_wh=scene.size_wh,
            boxes_xyxy=[item.box_xyxy for item in found],
            labels=[item.category for item in found],
            categories=phrases,
        ),
        scene=scene,
    )


def _category_list(rng: np.random.Generator, present: Sequence[str]) -> list[str]:
    """All categories, or those present among a few others; in the order of the ids, as the converter lists them."""
    if rng.random() < 0.5:
        return list(CATEGORIES)
    others = rng.choice(len(CATEGORIES), size=int(rng.integers(1, 5)), replace=False)
    return [name for index, name in enumerate(CATEGORIES) if name in present or index in others]


def _reading_order(item: SceneObject) -> tuple[int, int]:
    return item.box_xyxy[1], item.box_xyxy[0]


def answer_text(scene: Scene, objects: Sequence[SceneObject]) -> str:
    """Qwen JSON with coordinates 0-1000 relative to the image, as Qwen3-VL answers; `[]` for no objects.

    >>> answer_text(Scene((128, 128), ()), [SceneObject("red circle", (0, 32, 64, 128), 1)])
    '[{"bbox_2d": [0, 250, 500, 1000], "label": "red circle"}]'
    """
    width, height = scene.size_wh
    items = []
    for item in objects:
        scaled = [round(1000 * v / side) for v, side in zip(item.box_xyxy, (width, height) * 2, strict=True)]
        items.append({"bbox_2d": scaled, "label": item.category})
    return json.dumps(items)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer whose merges were learnt from the scenes' prompts and answers.

    Any text can be written (there is a token for each byte), and a scene's question and answer are short: digits, line
    breaks, colours and shapes are words of their own, and the text between them is one token.
    """
    words = "|".join((*COLOURS, *SHAPES))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(rf"\n|\p{{N}}| ?(?:{words})(?![a-z])"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        min_frequency=1,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_tokenizer_texts(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[t for t in SPECIAL_TOKENS if t not in ("<|im_end|>", "<|endoftext|>")],
        model_max_length=4096,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
    )


def _tokenizer_texts() -> list[str]:
    """Every piece of text that prompts and answers are made of."""
    scene = Scene((128, 128), ())
    objects = [SceneObject(category, (1, 20, 45, 128), 1) for category in CATEGORIES]
    questions = [
        instruction(task, phrases, allow_none=allow_none)
        for task, phrases in (("detection", CATEGORIES), *(("grounding", [name]) for name in CATEGORIES))
        for allow_none in (False, True)
    ]
    answers = [answer_text(scene, objects), answer_text(scene, objects[:1]), answer_text(scene, [])]
    return [*questions, *answers, "user\n", "assistant\n", "system\n", "0123456789"]


def make_qwen3_vl(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3VLForConditionalGeneration:
    """An untrained Qwen3-VL of under four million parameters (float32).

    Only the table of vision positions is not left to chance: it starts as sines and cosines of row and column. From
    random positions, a tower of this size needs many more steps before it can tell places apart.
    """
    torch.manual_seed(seed)
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": _padded_vocabulary(tokenizer),
            "hidden_size": 192,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "head_dim": 64,
            "max_position_embeddings": 4096,
            "initializer_range": 0.04,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [12, 10, 10],
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": False,
            **_token_ids(tokenizer),
        },
        vision_config={
            "depth": 3,
            "hidden_size": 192,
            "intermediate_size": 384,
            "num_heads": 3,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "out_hidden_size": 192,
            "num_position_embeddings": (SIDE // PATCH) ** 2,
            "deepstack_visual_indexes": [1],
            "initializer_range": 0.04,
        },
        tie_word_embeddings=False,
        **_vision_token_ids(tokenizer),
        **_token_ids(tokenizer),
    )
    model = Qwen3VLForConditionalGeneration(config).float()
    with torch.no_grad():
        model.model.visual.pos_embed.weight.copy_(_sine_positions(SIDE // PATCH, 192))
    return _with_generation_ids(model, tokenizer)


def _sine_positions(side: int, dim: int) -> torch.Tensor:
    """(side * side, dim): sines and cosines of the row in the first half, of the column in the second."""
    frequencies = math.pi / side * 2.0 ** torch.linspace(-1, math.log2(side), dim // 4)
    angles = torch.arange(side)[:, None] * frequencies[None, :]
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    return 0.5 * torch.cat([axis.repeat_interleave(side, 0), axis.repeat(side, 1)], dim=1)


def make_qwen2_5_vl(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """An untrained Qwen2.5-VL of about a million parameters (float32): patches of 14, windows of 56 pixels."""
    torch.manual_seed(seed)
    config = Qwen2_5_VLConfig(
        text_config=_small_text_config(tokenizer),
        vision_config={
            "depth": 2,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_heads": 2,
            "patch_size": 14,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "window_size": 56,
            "fullatt_block_indexes": [1],
            "out_hidden_size": 128,
        },
        tie_word_embeddings=False,
        **_vision_token_ids(tokenizer),
        **_token_ids(tokenizer),
    )
    return _with_generation_ids(Qwen2_5_VLForConditionalGeneration(config).float(), tokenizer)


def make_qwen2_vl(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen2VLForConditionalGeneration:
    """An untrained Qwen2-VL of about a million parameters (float32): patches of 14."""
    torch.manual_seed(seed)
    config = Qwen2VLConfig(
        text_config=_small_text_config(tokenizer),
        vision_config={
            "depth": 2,
            "embed_dim": 128,
            "hidden_size": 128,  # of the language model
            "mlp_ratio": 2,
            "num_heads": 2,
            "patch_size": 14,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
        },
        tie_word_embeddings=False,
        **_vision_token_ids(tokenizer),
        **_token_ids(tokenizer),
    )
    return _with_generation_ids(Qwen2VLForConditionalGeneration(config).float(), tokenizer)


def _small_text_config(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": _padded_vocabulary(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]},
        "tie_word_embeddings": False,
        **_token_ids(tokenizer),
    }


def _padded_vocabulary(tokenizer: PreTrainedTokenizerFast) -> int:
    return math.ceil(len(tokenizer) / 64) * 64


def _token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _vision_token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    names = ("image_pad", "video_pad", "vision_start", "vision_end")
    keys = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return {key: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for key, name in zip(keys, names, strict=True)}


def _with_generation_ids(model: Any, tokenizer: PreTrainedTokenizerFast) -> Any:
    for key, value in _token_ids(tokenizer).items():
        setattr(model.generation_config, key, value)
    return model


def make_qwen3_vl_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLProcessor:
    """Leaves images of 64x64 to 256x256 pixels (sides divisible by 32) as they are."""
    pixels = {"shortest_edge": 64 * 64, "longest_edge": 256 * 256}
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=pixels, patch_size=PATCH, merge_size=MERGE, **half),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(size={"shortest_edge": 64 * 64, "longest_edge": 4 * 128 * 128}),
        chat_template=CHAT_TEMPLATE,
    )


def make_qwen2_5_vl_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLProcessor:
    """Resizes to sides divisible by 28, between 56x56 and 280x280 pixels."""
    return Qwen2_5_VLProcessor(**_parts_of_qwen2(tokenizer))


def make_qwen2_vl_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLProcessor:
    """Resizes as `make_qwen2_5_vl_processor`."""
    return Qwen2VLProcessor(**_parts_of_qwen2(tokenizer))


def _parts_of_qwen2(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    pixels = {"shortest_edge": 56 * 56, "longest_edge": 280 * 280}
    return {
        "image_processor": Qwen2VLImageProcessor(size=dict(pixels), patch_size=14, merge_size=MERGE),
        "tokenizer": tokenizer,
        "video_processor": Qwen2VLVideoProcessor(size=dict(pixels)),
        "chat_template": CHAT_TEMPLATE,
    }


def patchify(pixels: np.ndarray) -> torch.Tensor:
    """What the image processor makes of a batch of SIDE x SIDE images, a few hundred times faster.

    Args:
        pixels: (batch, SIDE, SIDE, 3) uint8.

    Returns:
        (batch * patches, 3 * 2 * PATCH * PATCH) float32 in [-1, 1], patches in the order of merged 2x2 blocks.
    """
    blocks = SIDE // (PATCH * MERGE)
    tiles = torch.from_numpy(pixels).view(-1, blocks, MERGE, PATCH, blocks, MERGE, PATCH, 3)
    tiles = tiles.permute(0, 1, 4, 2, 5, 7, 3, 6).float().div_(127.5).sub_(1.0)
    return tiles.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, 2, -1, -1).reshape(-1, 3 * 2 * PATCH * PATCH)


def prompt_text(processor: Any, question: str) -> str:
    """The chat turn with one image before the question, its placeholder already as long as the image is."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return text.replace("<|image_pad|>", "<|image_pad|>" * IMAGE_TOKENS)


@dataclass(frozen=True, slots=True)
class Settings:
    """How the warm start trains."""

    seed: int = 0
    tower_steps: int = 500
    steps: int = 700
    batch: int = 32
    learning_rate: float = 2e-3
    warmup: int = 30
    weight_decay: float = 0.05
    dense_weight: float = 0.3


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


def train(model: Any, processor: Any, settings: Settings, *, device: str = "cpu") -> None:
    """Teach the vision tower what lies where, then the whole model to answer; in place, printing the losses.

    Both stages: AdamW, warm-up, cosine, scenes drawn afresh. In the second, the first tenth of the steps shows one
    object a scene, the next tenth up to two, the rest up to three.
    """
    model.to(device).train()
    visual = model.model.visual
    head = DenseHead(visual.config.out_hidden_size).to(device)
    train_tower(visual, head, settings, device)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer, schedule = _optimizer(parameters, settings, settings.steps)
    seen: list[torch.Tensor] = []  # the tower's output of the running forward pass
    hook = visual.merger.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    started, losses = time.perf_counter(), []
    for step in range(settings.steps):
        objects_max = min(3, 1 + 10 * step // settings.steps)
        rngs = _rngs(settings, settings.tower_steps + step)
        lessons = [lesson(rng, objects_max=objects_max) for rng in rngs]
        tokens = [_tokens(processor, item) for item in lessons]
        loss = _loss(model, tokens, processor.tokenizer.pad_token_id, device) / sum(len(t[1]) for t in tokens)
        dense = head.loss(seen.pop(), [item.scene for item in lessons])
        (loss + settings.dense_weight * dense).backward()
        _advance(parameters, optimizer, schedule)
        losses.append((loss.item(), dense.item()))
        _show("answers", step, losses, started)
    hook.remove()
    model.eval().cpu()


def train_tower(visual: Any, head: DenseHead, settings: Settings, device: str) -> None:
    """The first stage: dense supervision of the image tokens alone."""
    parameters = [*visual.parameters(), *head.parameters()]
    optimizer, schedule = _optimizer(parameters, settings, settings.tower_steps)
    grid_thw = torch.tensor([GRID_THW] * settings.batch, device=device)
    started, losses = time.perf_counter(), []
    for step in range(settings.tower_steps):
        images, scenes = zip(*(draw_scene(rng, size_wh=(SIDE, SIDE)) for rng in _rngs(settings, step)), strict=True)
        pixels = patchify(np.stack([np.asarray(image) for image in images])).to(device)
        loss = head.loss(visual(pixels, grid_thw=grid_thw).pooler_output, scenes)
        loss.backward()
        _advance(parameters, optimizer, schedule)
        losses.append((loss.item(),))
        _show("tower", step, losses, started)


def _rngs(settings: Settings, step: int) -> list[np.random.Generator]:
    first = step * settings.batch
    return [scene_rng(settings.seed, "warm-start", first + i) for i in range(settings.batch)]


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


def _show(stage: str, step: int, losses: Sequence[tuple[float, ...]], started: float) -> None:
    if (step + 1) % 25 == 0:
        means = " ".join(f"{value:.4f}" for value in np.mean(losses[-25:], axis=0))
        print(f"{stage} step {step + 1:5d}  loss {means}  {time.perf_counter() - started:6.1f} s", flush=True)


def _rate(step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _tokens(processor: Any, item: Lesson) -> tuple[list[int], list[int], np.ndarray]:
    """Prompt ids, answer ids with the end-of-turn token, and the picture."""
    tokenizer = processor.tokenizer
    prompt_ids = tokenizer(prompt_text(processor, item.question)).input_ids
    return prompt_ids, [*tokenizer(item.answer).input_ids, tokenizer.eos_token_id], item.pixels


def _loss(model: Any, pairs: Sequence[tuple[list[int], list[int], np.ndarray]], pad_id: int, device: str) -> Any:
    """Summed cross-entropy of the answers' tokens.

    Padding stands on the right, where a causal model does not look, and the image stands at the same place in every
    prompt: so there is no mask, and the positions of the longest sequence are those of all.
    """
    length = max(len(prompt_ids) + len(answer_ids) for prompt_ids, answer_ids, _ in pairs)
    input_ids = torch.full((len(pairs), length), pad_id)
    labels = torch.full((len(pairs), length), -100)
    for row, (prompt_ids, answer_ids, _) in enumerate(pairs):
        end = len(prompt_ids) + len(answer_ids)
        input_ids[row, :end] = torch.tensor(prompt_ids + answer_ids)
        labels[row, len(prompt_ids) : end] = torch.tensor(answer_ids)
    image = (input_ids == model.config.image_token_id).int()
    grid_thw = torch.tensor([GRID_THW] * len(pairs))
    position_ids, _ = model.model.get_rope_index(input_ids[:1], image[:1], image_grid_thw=grid_thw[:1])
    logits = model(
        input_ids=input_ids.to(device),
        position_ids=position_ids.expand(-1, len(pairs), -1).to(device),
        pixel_values=patchify(np.stack([pixels for _, _, pixels in pairs])).to(device),
        image_grid_thw=grid_thw.to(device),
        use_cache=False,
    ).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten().to(device), ignore_index=-100, reduction="sum"
    )


def held_out(count: int, seed: int = 0) -> list[Lesson]:
    """The first lessons of a stream that no training step draws from."""
    return [lesson(scene_rng(seed, "held-out", index)) for index in range(count)]


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
    found = [s.metrics for s, item in zip(scores, lessons, strict=True) if item.target.boxes_xyxy]
    absent = [s.metrics for s, item in zip(scores, lessons, strict=True) if not item.target.boxes_xyxy]
    grounded = [
        s.metrics
        for s, item in zip(scores, lessons, strict=True)
        if item.target.boxes_xyxy and item.target.task == "grounding"
    ]
    lengths = [len(ids) + 1 for ids in answers]
    return {
        "lessons": len(lessons),
        "value": _mean([s.value for s in scores]),
        "format": _mean([s.metrics["format"] for s in scores]),
        "iou_mean": _mean([m["iou_mean"] for m in found]),
        "iou_mean_grounding": _mean([m["iou_mean"] for m in grounded]),
        "f1_50": _mean([m["f1_50"] for m in found]),
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
def warm_start(
    out_dir: Annotated[Path, typer.Argument(help="Folder to write; made if missing.")],
    seed: Annotated[int, typer.Option(help="Of the initial weights and of the scenes.")] = 0,
    steps: Annotated[
        int, typer.Option(min=0, help="Supervised steps; 0 writes the untrained model.")
    ] = Settings().steps,
    lessons: Annotated[int, typer.Option(min=1, help="Held-out lessons of the evaluation.")] = 512,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Make and train the Qwen3-VL, write it, read it back, evaluate it and write card.json."""
    settings = Settings(seed=seed, steps=steps)
    tokenizer = make_tokenizer()
    model, processor = make_qwen3_vl(tokenizer, seed), make_qwen3_vl_processor(tokenizer)
    started = time.perf_counter()
    train(model, processor, settings, device=device)
    seconds = time.perf_counter() - started
    save(model, processor, out_dir)
    card = {
        "made_by": f"python recipes/tiny/make_models.py warm-start OUT_DIR --seed {seed} --steps {steps}",
        "settings": asdict(settings),
        "parameters": sum(p.numel() for p in model.parameters()),
        "training_seconds": round(seconds),
        "threads": torch.get_num_threads(),
        "held_out_greedy": _evaluate(out_dir, lessons),
    }
    (out_dir / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    typer.echo(json.dumps(card, indent=2))


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
