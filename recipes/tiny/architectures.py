"""Real architectures of a few million parameters, with a tokenizer of their own: Qwen3-VL, Qwen2.5-VL and Qwen2-VL."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from lessons import SIDE, answer_text
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
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

from verl_visionr1.answers import instruction
from verl_visionr1.conversion.scenes import CATEGORIES, COLOURS, SHAPES, Scene, SceneObject

PATCH = 16

MERGE = 2

IMAGE_TOKENS = (SIDE // (PATCH * MERGE)) ** 2

GRID_THW = (1, SIDE // PATCH, SIDE // PATCH)

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
