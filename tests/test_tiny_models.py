"""The tiny models: real architectures that stock libraries load, and a warm start that localises roughly."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "recipes" / "tiny" / "qwen3_vl_scenes"
sys.path.insert(0, str(ROOT / "recipes" / "tiny"))

import make_models as mm  # noqa: E402

from verl_visionr1 import score  # noqa: E402


@pytest.fixture(scope="module")
def shipped() -> tuple[Any, Any]:
    return mm.load(SHIPPED)


@pytest.fixture(scope="module")
def qwen2_5_vl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("qwen2_5_vl")
    mm.random_qwen2_5_vl(directory, seed=0)
    return directory


def test_patchify_is_what_the_processor_does(shipped: tuple[Any, Any]) -> None:
    lessons = mm.held_out(5)
    theirs = shipped[1].image_processor([Image.fromarray(item.pixels) for item in lessons], return_tensors="pt")
    assert theirs["image_grid_thw"].tolist() == [list(mm.GRID_THW)] * 5
    ours = mm.patchify(np.stack([item.pixels for item in lessons]))
    torch.testing.assert_close(ours, theirs["pixel_values"], atol=1e-6, rtol=0)


def test_the_prompt_is_what_the_processor_makes(shipped: tuple[Any, Any]) -> None:
    processor = shipped[1]
    for item in mm.held_out(4):
        content = [{"type": "image"}, {"type": "text", "text": item.question}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        theirs = processor(text=[text], images=[Image.fromarray(item.pixels)])
        assert processor.tokenizer(mm.prompt_text(processor, item.question)).input_ids == theirs["input_ids"][0]


def test_positions_are_those_the_model_computes_itself(shipped: tuple[Any, Any]) -> None:
    """Training lays padded rows side by side with the positions of one: the logits must not notice."""
    model, processor = shipped
    tokenizer, lessons = processor.tokenizer, mm.held_out(6)
    pairs = [
        (
            tokenizer(mm.prompt_text(processor, item.question)).input_ids,
            [*tokenizer(item.answer).input_ids, tokenizer.eos_token_id],
            item.pixels,
        )
        for item in lessons
    ]
    assert len({len(prompt) + len(answer) for prompt, answer, _ in pairs}) > 1
    expected = 0.0
    with torch.no_grad():
        together = mm._loss(model, pairs, tokenizer.pad_token_id, "cpu")
        for prompt, answer, pixels in pairs:
            input_ids = torch.tensor([prompt + answer])
            logits = model(
                input_ids=input_ids,
                attention_mask=torch.ones_like(input_ids),
                mm_token_type_ids=(input_ids == model.config.image_token_id).int(),
                pixel_values=mm.patchify(np.stack([pixels])),
                image_grid_thw=torch.tensor([mm.GRID_THW]),
            ).logits[0, len(prompt) - 1 : -1]
            expected += torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum")
    torch.testing.assert_close(together, expected, atol=1e-3, rtol=1e-4)


def test_the_tokenizer_writes_digits_one_by_one_and_any_text() -> None:
    tokenizer = mm.make_tokenizer()
    assert [len(tokenizer(digit).input_ids) for digit in "0123456789"] == [1] * 10
    assert len(tokenizer("1000").input_ids) == 4
    for text in ("Où est le chat? 猫 🙂\n\tline", '[{"bbox_2d": [1, 2, 3, 4], "label": "red circle"}]', ""):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    for token in mm.SPECIAL_TOKENS:
        assert len(tokenizer(token).input_ids) == 1
    assert tokenizer.eos_token == "<|im_end|>"


def test_the_shipped_tokenizer_is_the_one_that_the_script_makes(shipped: tuple[Any, Any]) -> None:
    """An instruction that was reworded after the warm start would be a text the model has never seen."""
    assert shipped[1].tokenizer.get_vocab() == mm.make_tokenizer().get_vocab()


def test_prompts_and_answers_are_short(shipped: tuple[Any, Any]) -> None:
    processor, lessons = shipped[1], mm.held_out(200)
    prompts = [len(processor.tokenizer(mm.prompt_text(processor, item.question)).input_ids) for item in lessons]
    answers = [len(processor.tokenizer(item.answer).input_ids) + 1 for item in lessons]
    assert max(prompts) <= 80
    assert np.percentile(answers, 95) <= 64
    assert max(answers) <= mm.MAX_NEW_TOKENS


def test_lessons_hold_the_truth_that_the_package_scores() -> None:
    lessons = mm.held_out(200)
    for item in lessons:
        assert (
            score(item.answer, item.target, preset="visionr1", frame="qwen3-vl").value > 0.98
        )  # 1, but for whole thousandths
    absent = [item for item in lessons if not item.target.boxes_xyxy]
    assert 0.1 < len(absent) / len(lessons) < 0.4
    assert {item.target.task for item in lessons} == {"grounding", "detection"}


def test_held_out_scenes_are_none_of_the_training_scenes() -> None:
    train = {mm.lesson(mm.scene_rng(0, "warm-start", index)).pixels.tobytes() for index in range(100)}
    assert not train & {item.pixels.tobytes() for item in mm.held_out(100)}


def test_the_shipped_folder_is_small_and_complete() -> None:
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8_000_000
    assert {path.suffix for path in files} <= {".json", ".jinja", ".safetensors"}
    card = json.loads((SHIPPED / "card.json").read_text())
    assert card["held_out_greedy"]["format"] >= 0.98


def test_the_shipped_model_localises_roughly(shipped: tuple[Any, Any]) -> None:
    model, processor = shipped
    lessons = mm.held_out(32)
    metrics = mm.report(processor, lessons, mm.answer(model, processor, lessons))
    assert metrics["format"] >= 0.95
    assert metrics["iou_mean"] > 0.25
    unseen = [*lessons[1:], lessons[0]]  # the answers to other pictures: what guessing reaches
    blind = [
        mm.Lesson(other.pixels, item.question, item.answer, item.target, other.scene)
        for item, other in zip(lessons, unseen, strict=True)
    ]
    assert metrics["iou_mean"] > 2 * mm.report(processor, blind, mm.answer(model, processor, blind))["iou_mean"]


@pytest.mark.parametrize(("make", "name"), [(mm.random_qwen2_5_vl, "Qwen2_5_VL"), (mm.random_qwen2_vl, "Qwen2VL")])
def test_an_untrained_model_builds_loads_and_answers(make: Any, name: str, tmp_path: Path) -> None:
    make(tmp_path, seed=0)
    processor = AutoProcessor.from_pretrained(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32)
    assert type(processor).__name__ == f"{name}Processor"
    assert type(model).__name__ == f"{name}ForConditionalGeneration"
    text_config = model.config.text_config
    head_dim = text_config.hidden_size // text_config.num_attention_heads
    assert head_dim == 64
    assert sum(text_config.rope_parameters["mrope_section"]) == head_dim // 2
    item = mm.held_out(1)[0]
    content = [{"type": "image"}, {"type": "text", "text": item.question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[text], images=[Image.fromarray(item.pixels)], return_tensors="pt")
    assert inputs["image_grid_thw"].tolist() == [[1, 10, 10]]  # 128 -> 140 = 10 patches of 14
    out = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert out.shape[1] == inputs["input_ids"].shape[1] + 4


def test_the_same_seed_makes_the_same_model() -> None:
    tokenizer = mm.make_tokenizer()
    first, same, other = (mm.make_qwen2_5_vl(tokenizer, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.verl
def test_verl_takes_both_processors(qwen2_5_vl: Path) -> None:
    from verl.utils.tokenizer import hf_processor, hf_tokenizer

    for directory, name in ((SHIPPED, "Qwen3VLProcessor"), (qwen2_5_vl, "Qwen2_5_VLProcessor")):
        processor = hf_processor(str(directory))
        assert type(processor).__name__ == name
        assert callable(processor.get_rope_index)
        assert hf_tokenizer(str(directory)).pad_token == "<|endoftext|>"


def test_dense_labels_name_the_object_in_each_cell() -> None:
    circle = mm.SceneObject("red circle", (0, 32, 64, 96), 1)  # covers two by two cells of 32 pixels
    sliver = mm.SceneObject("blue square", (94, 0, 128, 34), 1)  # one cell, and just 1/16 of two of its neighbours
    labels = mm.dense_labels(mm.Scene((128, 128), (circle, sliver)))
    red, blue = 1 + mm.CATEGORIES.index("red circle"), 1 + mm.CATEGORIES.index("blue square")
    assert labels[:, 0].reshape(4, 4).tolist() == [
        [0, 0, blue, blue],
        [red, red, 0, blue],
        [red, red, 0, 0],
        [0, 0, 0, 0],
    ]
    assert labels[4].tolist() == [red, 0, 2, 5, 7, 0, 5, 0, 5]  # 0, 250, 500, 750 thousandths
    assert labels[15].tolist() == [0] + [-100] * 8
