"""Models of known shapes, and a run to plan for them."""

from __future__ import annotations

from verl_visionr1.tools.plan.memory import Run
from verl_visionr1.tools.plan.shape import KNOWN, Shape

THREE, SEVEN = KNOWN["Qwen2.5-VL-3B"], KNOWN["Qwen2.5-VL-7B"]
RUN = Run(max_prompt=1024, max_response=512, answers=8, prompts=128)
MODEL_TYPES = {"Qwen2-VL": "qwen2_vl", "Qwen2.5-VL": "qwen2_5_vl", "Qwen3-VL": "qwen3_vl", "Qwen3.5": "qwen3_5"}


def model_type_of(shape: Shape) -> str:
    return MODEL_TYPES[shape.name.rpartition("-")[0]]


def config_of(shape: Shape) -> dict:
    """The config.json of a Qwen-VL of that shape."""
    kind = model_type_of(shape)
    text = {"hidden_size": shape.text.hidden, "num_hidden_layers": shape.text.n, "vocab_size": shape.vocab}
    text |= {"intermediate_size": shape.text.intermediate, "head_dim": shape.head_dim}
    text |= {"num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads}
    vision = {"depth": shape.vision.n, "num_heads": 16, "hidden_size": shape.vision.hidden}
    if kind == "qwen2_vl":
        vision |= {"embed_dim": shape.vision.hidden, "hidden_size": shape.text.hidden, "mlp_ratio": 4}
    else:
        vision |= {"out_hidden_size": shape.text.hidden, "intermediate_size": shape.vision.intermediate}
    if kind == "qwen3_vl":
        vision["deepstack_visual_indexes"] = [0, 1, 2]
    if shape.linear is not None:
        kinds = ["linear_attention"] * shape.linear.n + ["full_attention"] * shape.n_attending
        text["layer_types"] = kinds
    both = {"tie_word_embeddings": shape.is_tied}
    return {"model_type": kind, "text_config": text | both, "vision_config": vision, **both}
