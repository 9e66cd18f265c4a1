"""The tiny models: real architectures that stock libraries load, and a warm start that localises roughly."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

pytestmark = pytest.mark.verl
ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "recipes" / "tiny" / "qwen3_vl_scenes"
ABLE = ROOT / "recipes" / "tiny" / "qwen3_vl_scenes_able"
sys.path.insert(0, str(ROOT / "recipes" / "tiny"))

import architectures as arch  # noqa: E402
import lessons as ls  # noqa: E402
import make_models as mm  # noqa: E402
import teaching  # noqa: E402

from verl_visionr1 import score  # noqa: E402
from verl_visionr1.conversion.scenes import CATEGORIES, Scene, SceneObject, scene_rng  # noqa: E402


@pytest.fixture(scope="module")
def shipped() -> tuple[Any, Any]:
    return mm.load(SHIPPED)


@pytest.fixture(scope="module")
def qwen2_5_vl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("qwen2_5_vl")
    mm.random_qwen2_5_vl(directory, seed=0)
    return directory


def test_patchify_is_what_the_processor_does(shipped: tuple[Any, Any]) -> None:
    lessons = ls.held_out(5)
    theirs = shipped[1].image_processor([Image.fromarray(item.pixels) for item in lessons], return_tensors="pt")
    assert theirs["image_grid_thw"].tolist() == [list(arch.GRID_THW)] * 5
    ours = arch.patchify(np.stack([item.pixels for item in lessons]))
    torch.testing.assert_close(ours, theirs["pixel_values"], atol=1e-6, rtol=0)


def test_the_prompt_is_what_the_processor_makes(shipped: tuple[Any, Any]) -> None:
    processor = shipped[1]
    for item in ls.held_out(4):
        content = [{"type": "image"}, {"type": "text", "text": item.question}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        theirs = processor(text=[text], images=[Image.fromarray(item.pixels)])
        assert processor.tokenizer(arch.prompt_text(processor, item.question)).input_ids == theirs["input_ids"][0]


def test_questions_that_share_an_image_lose_what_they_would_alone(shipped: tuple[Any, Any]) -> None:
    """Teaching lays the questions about a scene side by side: the logits must not notice."""
    model, processor = shipped
    turns = []
    for index in range(3):
        rng = scene_rng(0, "held-out", index)
        asked = ls.questions(rng, 3)
        turns.append(teaching.tokenize(processor, asked, ls.glances(rng, asked[0].pixels, asked[0].scene, 4)))
    assert len({sum(len(q) + len(a) for q, a in turn.branches) for turn in turns}) > 1
    with torch.no_grad():
        together = teaching.answer_losses(model, processor, turns, "cpu")
        alone: dict[bool, list[torch.Tensor]] = {False: [], True: []}
        for turn in turns:
            for index, (question, answer) in enumerate(turn.branches):
                prompt = turn.prefix + question
                input_ids = torch.tensor([prompt + answer])
                logits = model(
                    input_ids=input_ids,
                    attention_mask=torch.ones_like(input_ids),
                    mm_token_type_ids=(input_ids == model.config.image_token_id).int(),
                    pixel_values=arch.patchify(np.stack([turn.pixels])),
                    image_grid_thw=torch.tensor([arch.GRID_THW]),
                ).logits[0, len(prompt) - 1 : -1]
                losses = torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="none")
                alone[index >= turn.n_answers].append(losses)
    assert [len(losses) for losses in alone[True]] == [1] * 12
    for loss, losses in zip(together, (alone[False], alone[True]), strict=True):
        torch.testing.assert_close(loss, torch.cat(losses).mean(), atol=1e-5, rtol=1e-4)


def test_half_of_the_glances_are_for_what_is_not_there() -> None:
    counts = []
    for index in range(200):
        rng = scene_rng(0, "held-out", index)
        asked = ls.questions(rng, 1)
        glances = ls.glances(rng, asked[0].pixels, asked[0].scene, 8)
        assert {item.scene for item in glances} == {asked[0].scene}
        counts.append(sum(item.answer == "[]" for item in glances))
    assert 0.45 < np.mean(counts) / 8 < 0.55


def test_patches_are_embedded_as_the_tower_does(shipped: tuple[Any, Any]) -> None:
    embed = shipped[0].model.visual.patch_embed
    patches = arch.patchify(np.stack([ls.held_out(1)[0].pixels]))
    with torch.no_grad():
        torch.testing.assert_close(teaching._embed_patches(embed.proj, patches), embed(patches), atol=1e-4, rtol=1e-4)


def test_lazy_annotators_list_fewer_and_looser_boxes_and_forget_the_bracket() -> None:
    habits, several, closed, ratios, listed = ls.Habits(), 0, [], [], []
    for index in range(400):
        rng = scene_rng(0, "habits", index)
        item = ls.questions(rng, 1)[0]
        text = habits.answer(rng, item)
        closed.append(text.endswith("]"))
        boxes = [entry["bbox_2d"] for entry in json.loads(text if closed[-1] else text + "]")]
        first = np.array(item.objects[0].box_xyxy) / 0.128
        assert (np.array(boxes[0])[:2] <= first[:2] + 0.51).all()
        assert (np.array(boxes[0])[2:] >= first[2:] - 0.51).all()
        assert min(map(min, boxes)) >= 0
        assert max(map(max, boxes)) <= 1000
        inside = min(first[0], first[1], 1000 - first[2], 1000 - first[3]) > 150  # nothing is cut off
        if inside:
            ratios.append((boxes[0][2] - boxes[0][0]) / (first[2] - first[0]))
        if len(item.objects) > 1:
            several += 1
            listed.append(len(boxes) == len(item.objects))
            assert len(boxes) in (1, len(item.objects))
    assert 0.2 < np.mean(listed) < 0.4
    assert 0.6 < np.mean(closed) < 0.8
    assert min(ratios) >= 1.03
    assert max(ratios) <= 1.28
    nothing = next(item for item in ls.held_out(50) if not item.objects)
    assert {habits.answer(scene_rng(0, "habits", index), nothing) for index in range(50)} == {"[]"}


def test_the_tokenizer_writes_digits_one_by_one_and_any_text() -> None:
    tokenizer = arch.make_tokenizer()
    assert [len(tokenizer(digit).input_ids) for digit in "0123456789"] == [1] * 10
    assert len(tokenizer("1000").input_ids) == 4
    for text in ("Où est le chat? 猫 🙂\n\tline", '[{"bbox_2d": [1, 2, 3, 4], "label": "red circle"}]', ""):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    for token in arch.SPECIAL_TOKENS:
        assert len(tokenizer(token).input_ids) == 1
    assert tokenizer.eos_token == "<|im_end|>"


def test_the_shipped_tokenizer_is_the_one_that_the_script_makes(shipped: tuple[Any, Any]) -> None:
    """An instruction that was reworded after the warm start would be a text the model has never seen."""
    assert shipped[1].tokenizer.get_vocab() == arch.make_tokenizer().get_vocab()


def test_prompts_and_answers_are_short(shipped: tuple[Any, Any]) -> None:
    processor, lessons = shipped[1], ls.held_out(200)
    prompts = [len(processor.tokenizer(arch.prompt_text(processor, item.question)).input_ids) for item in lessons]
    answers = [len(processor.tokenizer(item.answer).input_ids) + 1 for item in lessons]
    assert max(prompts) <= 80
    assert np.percentile(answers, 95) <= 66
    assert max(answers) <= mm.MAX_NEW_TOKENS


def test_lessons_hold_the_truth_that_the_package_scores() -> None:
    lessons = ls.held_out(200)
    for item in lessons:
        assert (
            score(item.answer, item.target, preset="visionr1", frame="qwen3-vl").value > 0.98
        )  # 1, but for whole thousandths
    absent = [item for item in lessons if not item.target.boxes_xyxy]
    assert 0.1 < len(absent) / len(lessons) < 0.4
    assert {item.target.task for item in lessons} == {"grounding", "detection"}


def test_held_out_scenes_are_none_of_the_training_scenes() -> None:
    train = {ls.lesson(scene_rng(0, "warm-start", index)).pixels.tobytes() for index in range(100)}
    assert not train & {item.pixels.tobytes() for item in ls.held_out(100)}


@pytest.mark.parametrize("folder", [SHIPPED, ABLE], ids=lambda folder: folder.name)
def test_a_shipped_folder_is_small_and_complete(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8_000_000
    assert {path.suffix for path in files} <= {".json", ".jinja", ".safetensors"}
    card = json.loads((folder / "card.json").read_text())
    assert card["held_out_greedy"]["format"] >= 0.98


def test_the_start_lists_fewer_and_looser_boxes_than_the_able_model(shipped: tuple[Any, Any]) -> None:
    able, lessons = mm.load(ABLE), [item for item in ls.held_out(96) if item.target.task == "detection"]
    best, start = (mm.report(p, lessons, mm.answer(m, p, lessons)) for m, p in (able, shipped))
    assert best["f1_50"] > start["f1_50"] + 0.1
    assert best["iou_mean"] > start["iou_mean"] + 0.2
    assert start["boxes_per_target"] < 0.8 < best["boxes_per_target"]


def test_the_shipped_model_localises_roughly(shipped: tuple[Any, Any]) -> None:
    model, processor = shipped
    lessons = ls.held_out(32)
    metrics = mm.report(processor, lessons, mm.answer(model, processor, lessons))
    assert metrics["format"] >= 0.95
    assert metrics["iou_mean"] > 0.25
    unseen = [*lessons[1:], lessons[0]]  # the answers to other pictures: what guessing reaches
    blind = [replace(item, pixels=other.pixels) for item, other in zip(lessons, unseen, strict=True)]
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
    item = ls.held_out(1)[0]
    content = [{"type": "image"}, {"type": "text", "text": item.question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[text], images=[Image.fromarray(item.pixels)], return_tensors="pt")
    assert inputs["image_grid_thw"].tolist() == [[1, 10, 10]]  # 128 -> 140 = 10 patches of 14
    out = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert out.shape[1] == inputs["input_ids"].shape[1] + 4


def test_the_same_seed_makes_the_same_model() -> None:
    tokenizer = arch.make_tokenizer()
    first, same, other = (arch.make_qwen2_5_vl(tokenizer, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_verl_takes_both_processors(qwen2_5_vl: Path) -> None:
    from verl.utils.tokenizer import hf_processor, hf_tokenizer

    for directory, name in ((SHIPPED, "Qwen3VLProcessor"), (qwen2_5_vl, "Qwen2_5_VLProcessor")):
        processor = hf_processor(str(directory))
        assert type(processor).__name__ == name
        assert callable(processor.get_rope_index)
        assert hf_tokenizer(str(directory)).pad_token == "<|endoftext|>"


def test_dense_labels_name_the_object_in_each_cell() -> None:
    circle = SceneObject("red circle", (0, 32, 64, 96), 1)  # covers two by two cells of 32 pixels
    sliver = SceneObject("blue square", (94, 0, 128, 34), 1)  # one cell, and just 1/16 of two of its neighbours
    labels = teaching.dense_labels(Scene((128, 128), (circle, sliver)))
    red, blue = 1 + CATEGORIES.index("red circle"), 1 + CATEGORIES.index("blue square")
    assert labels[:, 0].reshape(4, 4).tolist() == [
        [0, 0, blue, blue],
        [red, red, 0, blue],
        [red, red, 0, 0],
        [0, 0, 0, 0],
    ]
    assert labels[4].tolist() == [red, 0, 2, 5, 7, 0, 5, 0, 5]  # 0, 250, 500, 750 thousandths
    assert labels[15].tolist() == [0] + [-100] * 8
