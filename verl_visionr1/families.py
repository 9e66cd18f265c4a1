"""Model families: coordinate frame and answer format of each, and whether verl 0.9.1 trains it.

verl builds a processor only for the classes that its `hf_processor` names. Without a processor, rows with images cannot
be tokenized, so the other families are scored offline and not trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from verl_visionr1.frames import MODEL_TYPE_FRAMES


@dataclass(frozen=True, slots=True)
class Family:
    """A model family.

    Attributes:
        name: its published name.
        model_types: `model_type` values of its `config.json`; empty if its checkpoints have none of their own.
        answer_format: key in `answers.FORMATS` of the boxes (Molmo: points) it was trained to write; "" for none.
        is_trained: whether verl 0.9.1 trains it on images.
        source: source of frame and format.
        other_frame: frame of a family without model types.
    """

    name: str
    model_types: tuple[str, ...]
    answer_format: str
    is_trained: bool
    source: str
    other_frame: str = ""

    @property
    def frame(self) -> str:
        """Key in `frames.FRAMES`; "" if it was not trained to write coordinates."""
        known = [MODEL_TYPE_FRAMES[each] for each in self.model_types if each in MODEL_TYPE_FRAMES]
        return known[0] if known else self.other_frame


FAMILIES = (
    Family("Qwen2-VL", ("qwen2_vl",), "qwen2-vl", True, "model card and paper, arXiv 2409.12191"),
    Family("Qwen2.5-VL", ("qwen2_5_vl",), "qwen-json", True, "paper, arXiv 2502.13923; cookbooks"),
    Family("Qwen3-VL", ("qwen3_vl", "qwen3_vl_moe"), "qwen-json", True, "cookbooks of QwenLM/Qwen3-VL"),
    Family("Qwen3.5", ("qwen3_5", "qwen3_5_moe"), "qwen-json", True, "its processor is Qwen3-VL's; a maintainer"),
    Family("GLM-4.1V to GLM-4.6V", ("glm4v", "glm4v_moe", "glm46v"), "glm", True, "model cards"),
    Family("Gemma 4", ("gemma4",), "gemma-json", True, "Google's page on bounding boxes (Gemini's format)"),
    Family("Llama 3.2 Vision", ("mllama",), "", True, "no box format is published"),
    Family("InternVL", ("internvl", "internvl_chat"), "internvl", False, "its data format"),
    Family("PaliGemma", ("paligemma",), "paligemma", False, "model card, big_vision"),
    Family("Molmo", ("molmo",), "molmo-points", False, "paper, arXiv 2409.17146"),
    Family("Griffon-G", (), "griffon", False, "released code", other_frame="unit"),
)
"""All known families; those that verl trains come first."""
FAMILY_OF_TYPE: Mapping[str, Family] = MappingProxyType(
    {model_type: family for family in FAMILIES for model_type in family.model_types}
)
"""`model_type` -> family."""
