"""The table of model families: what it says of frames and formats, and that verl trains what it says."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from verl_visionr1.answers import FORMATS
from verl_visionr1.frames import FAMILIES, FAMILY_OF_TYPE, FRAMES, MODEL_TYPE_FRAMES, Family
from verl_visionr1.rewards import PRESETS, score
from verl_visionr1.targets import Target

ROOT = Path(__file__).parents[2]
TINY = ROOT / "recipes" / "tiny" / "qwen3_vl_scenes"
by_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)

# family -> a perfect answer about CAT, as the family writes it (Qwen2.5-VL: in a processed image of 644 x 476)
CAT = Target(task="grounding", size_wh=(640, 480), boxes_xyxy=[[64, 48, 320, 240]], labels=["cat"])
PERFECT = {
    "Qwen2-VL": "cat(100,100),(500,500)",
    "Qwen2.5-VL": '[{"bbox_2d": [64.4, 47.6, 322, 238], "label": "cat"}]',
    "Qwen3-VL": '[{"bbox_2d": [100, 100, 500, 500], "label": "cat"}]',
    "Qwen3.5": '[{"bbox_2d": [100, 100, 500, 500], "label": "cat"}]',
    "GLM-4.1V to GLM-4.6V": "<|begin_of_box|>[[100,100,500,500]]<|end_of_box|>",
    "Gemma 4": '```json\n[{"box_2d": [100, 100, 500, 500], "label": "cat"}]\n```',
    "InternVL": "<ref>cat</ref><box>[[100, 100, 500, 500]]</box>",
    "PaliGemma": "<loc0102><loc0102><loc0512><loc0512> cat",
    "Griffon-G": "cat-[0.100,0.100,0.500,0.500]",
}


@pytest.mark.parametrize("name", PERFECT)
def test_a_perfect_answer_earns_all(name: str) -> None:
    family = next(family for family in FAMILIES if family.name == name)
    own = replace(PRESETS["visionr1"], answer_format=family.answer_format)
    result = score(PERFECT[name], CAT, preset=own, frame=family.frame, processed_wh=(644, 476))
    assert result.metrics["iou_mean"] > 0.98
    assert result.metrics["format"] == 1.0 or not FORMATS[family.answer_format].parse(PERFECT[name]).labels[0]


def test_gemma_writes_y_before_x() -> None:
    wide = Target(task="grounding", size_wh=(1000, 500), boxes_xyxy=[[0, 0, 1000, 50]], labels=["sky"])
    own = replace(PRESETS["visionr1"], answer_format="gemma-json")
    right, swapped = (
        '[{"box_2d": [0, 0, 100, 1000], "label": "sky"}]',
        '[{"box_2d": [0, 0, 1000, 100], "label": "sky"}]',
    )
    assert score(right, wide, preset=own, frame="gemma").metrics["iou_mean"] == pytest.approx(1.0)
    assert score(swapped, wide, preset=own, frame="gemma").metrics["iou_mean"] < 0.2


@by_family
def test_frame_and_format_exist(family: Family) -> None:
    assert {MODEL_TYPE_FRAMES[each] for each in family.model_types if each in MODEL_TYPE_FRAMES} <= {family.frame}
    assert not family.frame or family.frame in FRAMES
    assert not family.answer_format or family.frame in FORMATS[family.answer_format].frames


def test_every_type_with_a_frame_belongs_to_a_family() -> None:
    assert set(MODEL_TYPE_FRAMES) <= set(FAMILY_OF_TYPE)


# verl and transformers, as installed


@pytest.mark.verl
def test_verl_trains_the_families_that_the_table_names() -> None:
    """verl's `hf_processor` names the classes that it takes; transformers says which class a model type has."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
    from verl.utils.tokenizer.tokenizer import hf_processor

    taken = set(re.findall(r'case "(\w+)"', inspect.getsource(hf_processor)))
    assert taken
    of_type = {each: PROCESSOR_MAPPING_NAMES.get(each) in taken for each in FAMILY_OF_TYPE}
    assert of_type == {each: family.is_trained for each, family in FAMILY_OF_TYPE.items()}
    trainable = {each for each, name in PROCESSOR_MAPPING_NAMES.items() if name in taken}
    assert trainable - set(FAMILY_OF_TYPE) == {"glm_image"}, "it makes images, and describes none"


def make_qwen3_5(folder: Path, patch_size: object = 16) -> Path:
    """A model folder of type qwen3_5 without weights: the shipped processor beside a small config."""
    folder.mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json", "processor_config.json", "chat_template.jinja"):
        (folder / file).write_bytes((TINY / file).read_bytes())
    shipped = json.loads((TINY / "config.json").read_text())
    tokens = {key: value for key, value in shipped.items() if key.endswith("_token_id")}
    vision = {"patch_size": patch_size, "spatial_merge_size": 2, "depth": 1, "hidden_size": 64, "num_heads": 2}
    text = {"hidden_size": 64, "num_hidden_layers": 4, "vocab_size": shipped["text_config"]["vocab_size"]}
    config = {"model_type": "qwen3_5", "text_config": text, "vision_config": vision, **tokens}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.verl
def test_qwen3_5_sizes_are_those_of_the_processor_and_of_the_positions(tmp_path: Path) -> None:
    """verl's processor of a Qwen3.5: the size it resizes to, our computation, and our reading of its positions."""
    import torch
    from PIL import Image
    from qwen_vl_utils import fetch_image
    from verl.utils.tokenizer import hf_processor

    from verl_visionr1.plugin.image_size import ImageTokens
    from verl_visionr1.plugin.image_size import read_processed_size as read_size
    from verl_visionr1.processed import ImageProcessor, processed_size

    folder = make_qwen3_5(tmp_path / "model")
    processor = hf_processor(str(folder))
    assert type(processor).__name__ == "Qwen3VLProcessor"
    config = json.loads((folder / "processor_config.json").read_text())
    ours = ImageProcessor.from_config(config["image_processor"])
    for given in (16, [16, 16]):
        tokens = ImageTokens.of(
            {
                **json.loads((folder / "config.json").read_text()),
                "vision_config": {"patch_size": given, "spatial_merge_size": 2},
            }
        )
        for w, h in ((64, 64), (128, 96), (300, 200), (77, 250), (640, 480)):
            expected = processed_size((w, h), ours)
            text = processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}],
                add_generation_prompt=True,
            )
            loaded = fetch_image({"image": Image.new("RGB", (w, h))}, image_patch_size=16)
            made = processor(text=[text], images=[loaded], return_tensors="pt")
            _, rows, columns = made["image_grid_thw"][0].tolist()
            assert (columns * 16, rows * 16) == expected
            more = {"mm_token_type_ids": made["mm_token_type_ids"]} if "mm_token_type_ids" in made else {}
            positions, _ = processor.get_rope_index(
                input_ids=made["input_ids"],
                image_grid_thw=made["image_grid_thw"],
                attention_mask=made["attention_mask"],
                **more,
            )
            four = torch.cat([positions[:1] * 0, positions]).transpose(0, 1)
            assert read_size({"input_ids": made["input_ids"], "position_ids": four}, tokens) == expected


@pytest.mark.verl
def test_a_patch_that_is_no_square_is_refused() -> None:
    from verl_visionr1.plugin.config import ConfigError
    from verl_visionr1.plugin.image_size import ImageTokens

    with pytest.raises(ConfigError, match=r"patch_size = \[16, 14\]"):
        ImageTokens.of({"image_token_id": 1, "vision_config": {"patch_size": [16, 14], "spatial_merge_size": 2}})


@pytest.mark.verl
@pytest.mark.parametrize(
    ("model_type", "frame"), [("qwen3_5", "qwen3-vl"), ("qwen3_5_moe", "qwen3-vl"), ("gemma4", "gemma")]
)
def test_auto_takes_the_frame_of_the_family(model_type: str, frame: str) -> None:
    from verl_visionr1.plugin.config import Settings
    from verl_visionr1.plugin.run_facts import frame_of

    assert frame_of(Settings(), {"model_type": model_type}).name == frame


@pytest.mark.verl
@pytest.mark.parametrize("model_type", ["qwen3_5", "qwen3_5_moe"])
def test_qwen3_5_has_the_image_processor_of_qwen3_vl(model_type: str) -> None:
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    for names in (IMAGE_PROCESSOR_MAPPING_NAMES, PROCESSOR_MAPPING_NAMES):
        assert names[model_type] == names["qwen3_vl"]
