"""Writes Qwen2.5-VL models of the published sizes with random weights: the cost of a step does not depend on them.

    python benchmarks/gpu/models.py 7b OUT_DIR                  # 16.6 GB, drawn on the GPU where there is one
    python benchmarks/gpu/models.py 3b OUT_DIR --scale tiny     # the same architecture with a million parameters

The tokenizer is the tiny recipe's, with fillers up to the model's vocabulary size. Nearly all tokens of a random model
are fillers: one of 24 decodes to a box, the others to white space. So an answer of 240 tokens decodes to ten boxes in
pixels of the processed image, and the reward has as much work as with real answers. The list is never closed, so the
slower, tolerant parser reads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors.torch import save_file
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,  # type: ignore[attr-defined]  # there, by a lazy import that pyright does not see
)

HERE = Path(__file__).parent
TOKENIZER_DIR = HERE.parents[1] / "recipes" / "tiny" / "qwen3_vl_scenes"
BOX_EVERY = 24
"""Tokens per box: as many as `{"bbox_2d": [312, 45, 480, 201], "label": "red circle"}` has with a token per digit."""
SHARD_BYTES = 2 << 30
STD = 0.02
EMBEDDING_STD = 0.002
"""Standard deviation of the embedding and the head: small, so that all tokens are about equally likely. With 0.02, a
model whose head is its embedding repeats the last token forever."""
TINY = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_window_layers": 2,
    "vocab_size": 4096,
    "rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]},
}
TINY_VISION = {
    "depth": 2,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_heads": 2,
    "out_hidden_size": 128,
    "fullatt_block_indexes": [1],
}
SPECIAL_TOKENS = {
    "bos_token_id": "<|endoftext|>",
    "eos_token_id": "<|im_end|>",
    "pad_token_id": "<|endoftext|>",
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}


def read_config(size: str, scale: str = "full") -> dict[str, Any]:
    """Read the `config.json` of "3b" or "7b", without token ids.

    Args:
        size: "3b" or "7b": `configs/qwen2_5_vl_{size}.json`, the published shapes.
        scale: "full", or "tiny" for the same architecture in a size that a CPU can train in seconds.

    Raises:
        ValueError: an unknown size or scale.
    """
    file = HERE / "configs" / f"qwen2_5_vl_{size}.json"
    if not file.is_file() or scale not in ("full", "tiny"):
        raise ValueError(f"size={size}, scale={scale}: sizes are 3b and 7b, scales full and tiny")
    config = json.loads(file.read_text())
    return (
        config if scale == "full" else {**config, **TINY, "vision_config": {**config["vision_config"], **TINY_VISION}}
    )


def filler(index: int) -> str:
    """Return the text of a token beyond the tiny recipe's vocabulary; all are different.

    >>> filler(24), filler(25)
    ('{"bbox_2d": [24, 12, 81, 60], "label": "red circle"}, ', '\\t\\t\\t\\t\\t\\t\\n \\n')
    """
    if index % BOX_EVERY:
        return "".join("\t\n \r"[index >> 2 * place & 3] for place in reversed(range(9)))
    number = index // BOX_EVERY
    left, top = number * 24 % 560, number // 24 * 16 % 400 + 12
    return f'{{"bbox_2d": [{left}, {top}, {left + 57}, {top + 48}], "label": "red circle"}}, ' + " " * (number // 600)


def fill_tokenizer(words: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """Fill the vocabulary of a `tokenizer.json` up to `vocab_size`; the tokens of a text do not change.

    Raises:
        ValueError: the vocabulary is larger than `vocab_size`.
    """
    vocab = dict(words["model"]["vocab"])
    if len(vocab) > vocab_size:
        raise ValueError(f"vocab_size={vocab_size}: the tokenizer has {len(vocab)} words")
    letters = byte_letters()
    for index in range(len(vocab), vocab_size):  # without merges, text is never tokenized into fillers
        vocab["".join(letters[byte] for byte in filler(index).encode())] = index
    return {**words, "model": {**words["model"], "vocab": vocab}}


def byte_letters() -> dict[int, str]:
    """Return the letter of each byte in byte-level BPE: printable bytes keep theirs, others get letters after 255.

    >>> byte_letters()[ord("a")], byte_letters()[ord(" ")]
    ('a', 'Ġ')
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def write_processor(folder: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    """Write tokenizer and image processor, with the published pixel limits of Qwen2.5-VL."""
    words = json.loads((TOKENIZER_DIR / "tokenizer.json").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(fill_tokenizer(words, vocab_size), ensure_ascii=False))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[word["content"] for word in words["added_tokens"]],
        model_max_length=32768,
        padding_side="left",
    )
    pixels = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}
    template = (TOKENIZER_DIR / "chat_template.jinja").read_text()
    Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=dict(pixels), patch_size=14, merge_size=2),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=dict(pixels)),
        chat_template=template,
    ).save_pretrained(folder)
    return tokenizer


def random_weights(config: Qwen2_5_VLConfig, device: str, seed: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each weight of the model in bfloat16, one at a time: norms 1, biases 0, the others random.

    Tied weights are yielded once.
    """
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    generator = torch.Generator(device).manual_seed(seed)
    for name, shape in ((name, weight.shape) for name, weight in model.named_parameters()):
        weight = torch.empty(shape, dtype=torch.bfloat16, device=device)
        if name.endswith("bias"):
            weight.zero_()
        elif weight.ndim == 1:
            weight.fill_(1)
        else:
            is_vocabulary = "embed_tokens" in name or "lm_head" in name
            weight.normal_(0, EMBEDDING_STD if is_vocabulary else STD, generator=generator)
        yield name, weight.cpu()


def write_weights(folder: Path, weights: Iterator[tuple[str, torch.Tensor]], shard_bytes: int = SHARD_BYTES) -> int:
    """Write safetensors in shards with their index, one shard in memory at a time; return the number of parameters."""
    shards: list[list[str]] = []
    held: dict[str, torch.Tensor] = {}
    parameters = size = 0

    def write() -> None:
        save_file(held, folder / f"part-{len(shards):05}.safetensors", metadata={"format": "pt"})
        shards.append(list(held))
        held.clear()

    for name, weight in weights:
        if held and sum(other.nbytes for other in held.values()) + weight.nbytes > shard_bytes:
            write()
        held[name] = weight.contiguous()
        parameters += weight.numel()
        size += weight.nbytes
    write()
    files = [f"model-{number + 1:05}-of-{len(shards):05}.safetensors" for number in range(len(shards))]
    for number, file in enumerate(files):
        (folder / f"part-{number:05}.safetensors").rename(folder / file)
    index = {name: file for file, names in zip(files, shards, strict=True) for name in names}
    text = json.dumps({"metadata": {"total_size": size}, "weight_map": index}, indent=1)
    (folder / "model.safetensors.index.json").write_text(text)
    return parameters


def write_model(
    size: str, folder: Path, *, scale: str = "full", device: str = "cpu", seed: int = 0, weights: bool = True
) -> int:
    """Write a whole model folder; `config.json` comes last, so a folder with it is complete.

    Returns:
        The number of parameters; 0 without weights.
    """
    numbers = read_config(size, scale)
    tokenizer = write_processor(folder, numbers["vocab_size"])
    ids: dict[str, Any] = {key: tokenizer.convert_tokens_to_ids(word) for key, word in SPECIAL_TOKENS.items()}
    config = Qwen2_5_VLConfig(**{**numbers, **ids})
    parameters = write_weights(folder, random_weights(config, device, seed)) if weights else 0
    generation = {key: ids[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    (folder / "config.json").write_text(json.dumps({**numbers, **ids}, indent=2) + "\n")
    return parameters


def main(
    size: Annotated[str, typer.Argument(help="3b or 7b.")],
    out_dir: Annotated[Path, typer.Argument(help="Folder to write; made if missing.")],
    scale: Annotated[str, typer.Option(help="full, or tiny for a CPU.")] = "full",
    device: Annotated[
        str, typer.Option(help="Device that draws the weights: cuda, cpu; auto: the GPU if there is one.")
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the weights.")] = 0,
    weights: Annotated[
        bool, typer.Option(help="Write weights; without them the folder suffices for a dry run.")
    ] = True,
) -> None:
    """Write an untrained Qwen2.5-VL of a published size."""
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    parameters = write_model(size, out_dir, scale=scale, device=where, seed=seed, weights=weights)
    gigabytes = sum(file.stat().st_size for file in out_dir.glob("*.safetensors")) / 1e9
    typer.echo(f"{out_dir}: {parameters:,} parameters, {gigabytes:.2f} GB")


if __name__ == "__main__":
    typer.run(main)
