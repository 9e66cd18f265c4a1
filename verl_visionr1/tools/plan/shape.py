"""Sizes of the parts of a vision-language model, from a local model folder or a number of parameters."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

VISION_NAMES = ("visual", "vision_tower", "vision_model")
"""Parts of a weight's name that mark it as part of the vision tower."""


class PlanError(ValueError):
    """No plan for this model, machine or run; one line with the reason and what to do."""


@dataclass(frozen=True, slots=True)
class Layers:
    """A stack of equal transformer layers.

    Attributes:
        hidden: width of the residual stream.
        intermediate: width inside the MLP.
    """

    n: int
    hidden: int
    intermediate: int


@dataclass(frozen=True, slots=True)
class LinearAttention:
    """Layers with a state of fixed size instead of keys and values: Gated DeltaNet of Qwen3.5.

    Attributes:
        n: how many layers of the stack are of this kind.
        keys, values: width of all keys, and of all values.
        heads: heads of values.
    """

    n: int
    keys: int = 2048
    values: int = 4096
    heads: int = 32

    @property
    def outputs(self) -> int:
        """Width of its projections: queries, keys and values; gate; decay and step."""
        return 2 * self.keys + 2 * self.values + 2 * self.heads


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes that memory depends on.

    Attributes:
        name: folder that it was read from, or the model whose shape is assumed.
        params: all parameters, the vision tower's included.
        vision_params: of the vision tower, merger included.
        text, vision: the stacks of layers.
        heads, kv_heads, head_dim: attention of the language model.
        vocab: number of rows of the output head.
        is_tied: whether the head is the embedding.
        has_fused_head: whether verl has a fused output head for this kind (`use_fused_kernels`).
        linear: the layers with linear attention, if there are any; the others then have gated attention.

    Raises:
        PlanError: a vision tower as large as the model.
    """

    name: str
    params: float
    vision_params: float
    text: Layers
    vision: Layers
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    is_tied: bool
    has_fused_head: bool = True
    linear: LinearAttention | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.vision_params < self.params:
            raise PlanError(f"--vision-params {self.vision_params:g}: needs less than all {self.params:g}")

    @property
    def head_params(self) -> int:
        """Parameters of the output head."""
        return self.vocab * self.text.hidden

    @property
    def layer_params(self) -> int:
        """Parameters of the largest layer of the language model, without biases and norms."""
        queries = 3 if self.linear else 2  # a gate has as many as the queries
        attention = (queries * self.heads + 2 * self.kv_heads) * self.head_dim
        if self.linear:
            attention = max(attention, self.linear.outputs + self.linear.values)
        return self.text.hidden * (attention + 3 * self.text.intermediate)

    @property
    def n_attending(self) -> int:
        """Layers that keep keys and values."""
        return self.text.n - (self.linear.n if self.linear else 0)

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values in bf16 of one token: 2 x layers that keep them x KV heads x head size x 2 bytes.

        >>> KNOWN["Qwen2.5-VL-7B"].kv_bytes_per_token, KNOWN["Qwen3.5-9B"].kv_bytes_per_token
        (57344, 32768)
        """
        return 2 * self.n_attending * self.kv_heads * self.head_dim * 2

    def lora_params(self, rank: int) -> int:
        """Parameters of an adapter on all linear layers of the language model: rank x (inputs + outputs) of each.

        >>> KNOWN["Qwen2.5-VL-7B"].lora_params(64), KNOWN["Qwen3.5-9B"].lora_params(64)
        (161480704, 173113344)
        """
        hidden, queries, keys = self.text.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim
        gate = queries if self.linear else 0
        attention = self.n_attending * (2 * (hidden + queries) + gate + 2 * (hidden + keys))
        if self.linear:  # four projections in (decay and step apart), one out
            attention += self.linear.n * (5 * hidden + self.linear.outputs + self.linear.values)
        return rank * (attention + self.text.n * 3 * (hidden + self.text.intermediate))


_QWEN2, _QWEN2_5, _QWEN2_5_LARGE = Layers(32, 1280, 5120), Layers(32, 1280, 3420), Layers(32, 1280, 3456)
_QWEN3_SMALL, _QWEN3 = Layers(24, 1024, 4096), Layers(27, 1152, 4304)
KNOWN: Mapping[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape("Qwen2-VL-2B", 2.209e9, 0.665e9, Layers(28, 1536, 8960), _QWEN2, 12, 2, 128, 151936, True),
        Shape("Qwen3-VL-2B", 2.128e9, 0.407e9, Layers(28, 2048, 6144), _QWEN3_SMALL, 16, 8, 128, 151936, True),
        Shape("Qwen2.5-VL-3B", 3.755e9, 0.669e9, Layers(36, 2048, 11008), _QWEN2_5, 16, 2, 128, 151936, True),
        Shape("Qwen3-VL-4B", 4.438e9, 0.415e9, Layers(36, 2560, 9728), _QWEN3_SMALL, 32, 8, 128, 151936, True),
        Shape("Qwen2.5-VL-7B", 8.292e9, 0.677e9, Layers(28, 3584, 18944), _QWEN2_5, 28, 4, 128, 152064, False),
        Shape("Qwen3-VL-8B", 8.767e9, 0.576e9, Layers(36, 4096, 12288), _QWEN3, 32, 8, 128, 151936, False),
        Shape(
            *("Qwen3.5-9B", 9.410e9, 0.456e9, Layers(32, 4096, 12288), _QWEN3, 16, 4, 256, 248320, False),
            linear=LinearAttention(24),
        ),
        Shape("Qwen2.5-VL-32B", 33.453e9, 0.689e9, Layers(64, 5120, 27648), _QWEN2_5_LARGE, 40, 8, 128, 152064, False),
        Shape("Qwen2.5-VL-72B", 73.411e9, 0.705e9, Layers(80, 8192, 29568), _QWEN2_5_LARGE, 64, 8, 128, 152064, False),
    )
}
"""Shapes of published models (their `config.json`), with the parameters of transformers' modules.

Qwen2-VL-7B differs from Qwen2.5-VL-7B in size by 0.1 %."""


def shape_of_size(params: float, vision_params: float | None = None) -> Shape:
    """Scale the published model nearest in size to this number of parameters.

    >>> shape_of_size(8.29e9).name
    'Qwen2.5-VL-7B'
    """
    if not (math.isfinite(params) and params > 0):
        raise PlanError(f"--params {params:g}: needs a number above 0, for example 8.29e9")
    nearest = min(KNOWN.values(), key=lambda shape: abs(math.log(shape.params / params)))
    vision = nearest.vision_params * min(params / nearest.params, 1.0) if vision_params is None else vision_params
    return replace(nearest, params=params, vision_params=vision)


def shape_of_model(model: str) -> Shape:
    """The shape of a local folder (`shape_of_folder`), or of a published model by its name on the hub.

    >>> shape_of_model("Qwen/Qwen2.5-VL-72B-Instruct").name
    'Qwen2.5-VL-72B'
    """
    folder, name = Path(model).expanduser(), re.sub("-(Instruct|Thinking)$", "", model.rpartition("/")[2])
    if not folder.is_dir() and name in KNOWN:
        return KNOWN[name]
    return shape_of_folder(folder)


def shape_of_folder(folder: Path) -> Shape:
    """The shape of a local Hugging Face model, with the parameters that its safetensors files hold.

    Raises:
        PlanError: no model in the folder, no safetensors files, or a mixture of experts.
    """
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text())
        text = {**config, **(config.get("text_config") or {})}
        vision = dict(config.get("vision_config") or {})
        if text.get("num_experts") or text.get("n_routed_experts"):
            raise PlanError(f"{file}: a mixture of experts; only dense models are planned for")
        heads = int(text["num_attention_heads"])
        text_layers = Layers(int(text["num_hidden_layers"]), int(text["hidden_size"]), int(text["intermediate_size"]))
        shape = Shape(
            name=str(folder),
            params=1.0,
            vision_params=0.0,
            text=text_layers,
            vision=_vision_layers(vision),
            heads=heads,
            kv_heads=int(text.get("num_key_value_heads") or heads),
            head_dim=int(text.get("head_dim") or text_layers.hidden // heads),
            vocab=int(text["vocab_size"]),
            is_tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
            has_fused_head=config.get("model_type") in FUSED_TYPES,
            linear=_linear_attention(text),
        )
    except OSError:
        known = ", ".join(KNOWN)
        raise PlanError(f"{folder}: no config.json; give a local model folder, one of {known}, or --params") from None
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise PlanError(f"{file}: not a language model of a known kind ({error}); give --params") from None
    total, vision_total = _read_counts(folder)
    return replace(shape, params=total, vision_params=vision_total)


def _linear_attention(text: Mapping[str, Any]) -> LinearAttention | None:
    """The layers with linear attention of a Qwen3.5, by the text part of its config."""
    n, every = int(text["num_hidden_layers"]), int(text.get("full_attention_interval") or 0)
    kinds = text.get("layer_types") or ()
    n_linear = list(kinds).count("linear_attention") if kinds else (n - n // every if every else 0)
    if not n_linear:
        return None
    sizes = {"key_head_dim": 128, "num_key_heads": 16, "value_head_dim": 128, "num_value_heads": 32}
    key_dim, key_heads, value_dim, heads = (int(text.get(f"linear_{name}", size)) for name, size in sizes.items())
    return LinearAttention(n_linear, key_dim * key_heads, value_dim * heads, heads)


FUSED_TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v", "qwen3_5")
"""Vision models with a fused head: `patch_forward_with_backends` in verl 0.9.1."""


def _vision_layers(vision: Mapping[str, Any]) -> Layers:
    hidden = int(vision.get("embed_dim") or vision.get("hidden_size") or 0)
    n = int(vision.get("depth") or vision.get("num_hidden_layers") or 0)
    return Layers(n, hidden, int(vision.get("intermediate_size") or hidden * float(vision.get("mlp_ratio") or 4)))


def _read_counts(folder: Path) -> tuple[int, int]:
    """Number of parameters (all, vision tower) from the headers of the safetensors files."""
    total = vision = 0
    for file in folder.glob("*.safetensors"):
        for name, size in _sizes(file):
            total += size
            vision += size if any(part in VISION_NAMES for part in name.split(".")) else 0
    if not total:
        raise PlanError(f"{folder}: no safetensors files to count parameters in; give --params")
    return total, vision


def _sizes(file: Path) -> Iterator[tuple[str, int]]:
    """Name and number of elements of each tensor: the header is JSON behind its length in 8 bytes."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
        for name, tensor in header.items():
            if name != "__metadata__":
                yield name, math.prod(tensor["shape"])
    except (struct.error, ValueError, KeyError, TypeError, MemoryError, OverflowError):
        raise PlanError(f"{file}: not safetensors (cut off, or a git-lfs pointer?); download it again") from None
