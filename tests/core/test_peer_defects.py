"""Defects that were found by running other projects' rewards: none of our default presets has one of them.

Each test names the project. What test_box_presets.py asks of every preset of boxes is not repeated here: perfect boxes
in another order (V-Triune, ROLL), silence or a box where nothing is there (V-Triune, Vero, Vision-R1), and the model's
frame (VLM-R1).
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from cpu_time import grows_too_fast
from reward_cases import CAT, DOG, NEGATIVE, TARGET, Labelled, said

from verl_visionr1 import PRESETS, Target, score
from verl_visionr1.criteria import CRITERIA
from verl_visionr1.rewards import Criterion, Preset
from verl_visionr1.schedule import staged

DEFAULT = {name: preset for name, preset in PRESETS.items() if not name.endswith(("-released", "-paper"))}
BOXES = [name for name, preset in DEFAULT.items() if "detection" in preset.tasks]
GRADED = [name for name in BOXES if name != "rec-hit"]
"""All but the one whose definition is a hit or a miss."""
COUNTING = [name for name, preset in DEFAULT.items() if preset.answer_format == "count"]
TEXT = [name for name, preset in DEFAULT.items() if "text" in preset.tasks]
JUNK: list[Labelled] = [((10.0 + 30 * i, 400, 30.0 + 30 * i, 420), "cat") for i in range(20)]
ONE = Target(task="grounding", size_wh=(640, 480), boxes_xyxy=[CAT[0]], labels=["the cat"])


def value(text: str, target: Target, preset: str) -> float:
    return score(text, target, preset=preset).value


def counting(n: int) -> Target:
    return Target(task="counting", size_wh=(640, 480), count=n)


def words(answer: str, *choices: str) -> Target:
    return Target(task="text", answer=answer, choices=choices)


# --- detection and grounding -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", BOXES)
def test_v_triune_depended_on_the_order_of_the_targets(preset: str) -> None:
    near = [((100, 100, 200, 190), "cat"), ((104, 100, 204, 200), "cat")]
    boxes = [CAT[0], (110, 100, 210, 200), DOG[0]]
    one, other = (
        Target(task="detection", size_wh=(640, 480), boxes_xyxy=order, labels=["cat"] * 3)
        for order in (boxes, boxes[::-1])
    )
    for progress in (None, 0.0, 1.0):
        assert (
            score(said(*near), one, preset=preset, progress=progress).value
            == score(said(*near), other, preset=preset, progress=progress).value
        )


@pytest.mark.parametrize("preset", BOXES)
def test_vision_r1_gave_full_reward_to_junk_and_to_wrong_labels(preset: str) -> None:
    perfect = value(said(CAT, DOG), TARGET, preset)
    for text in (
        said(CAT, DOG, *JUNK),
        said((CAT[0], "dog"), (DOG[0], "cat")),
        said((CAT[0], "zebra"), (DOG[0], "zebra")),
    ):
        assert value(text, TARGET, preset) < perfect - 0.1


@pytest.mark.parametrize("preset", BOXES)
@pytest.mark.parametrize("number", ["1e39", "1e309", "9" * 400, "NaN", "-1e308"])
def test_vision_r1_died_of_huge_coordinates(preset: str, number: str) -> None:
    text = said(CAT)[:-1] + f', {{"bbox_2d": [0, 0, {number}, 5], "label": "dog"}}]'
    assert 0.0 <= value(text, TARGET, preset) < 1.0


@pytest.mark.parametrize("preset", BOXES)
def test_vlm_r1_junk_before_and_after_was_not_the_same(preset: str) -> None:
    assert value(said(*JUNK, CAT, DOG), TARGET, preset) == pytest.approx(value(said(CAT, DOG, *JUNK), TARGET, preset))


@pytest.mark.parametrize("preset", BOXES)
def test_vlm_r1_150_perfect_boxes_earned_two_thirds(preset: str) -> None:
    boxes = [(40.0 * (i % 15), 40.0 * (i // 15), 40.0 * (i % 15) + 30, 40.0 * (i // 15) + 30) for i in range(150)]
    crowd = Target(task="detection", size_wh=(640, 480), boxes_xyxy=boxes, labels=["cat", "dog"] * 75)
    text = said(*zip(boxes, ["cat", "dog"] * 75, strict=True))
    assert value(text, crowd, preset) == pytest.approx(1.0)


@pytest.mark.parametrize("preset", BOXES)
def test_visual_rft_paid_for_a_garbage_box_with_confidence_0(preset: str) -> None:
    assert value(said(JUNK[0], confidence=0.0), ONE, preset) == value(said(JUNK[0]), ONE, preset) < 0.6


@pytest.mark.parametrize("preset", BOXES)
def test_visual_rft_and_nemo_rl_paid_in_full_for_an_inverted_box(preset: str) -> None:
    x1, y1, x2, y2 = CAT[0]
    for box in ((x2, y2, x1, y1), (x2, y1, x1, y2), (x1, y2, x2, y1)):
        result = score(said((box, "cat")), ONE, preset=preset)
        assert result.value <= value(said(JUNK[0]), ONE, preset)
        assert result.metrics["accuracy"] == 0.0


@pytest.mark.parametrize("preset", BOXES)
def test_vision_reasoner_and_one_thinker_paid_for_garbage_in_the_right_format(preset: str) -> None:
    """What the format criterion is worth, and nothing more; giou alone has a slope down there."""
    weights = PRESETS[preset].weights
    share = weights["format"] / sum(weights.values())
    slope = 0.25 if preset == "rec-giou" else 0.0
    assert value(said(JUNK[0]), ONE, preset) <= share + slope + 1e-9


@pytest.mark.parametrize("preset", BOXES)
def test_rex_omni_every_box_ten_times_was_free(preset: str) -> None:
    assert value(said(*[CAT] * 10, *[DOG] * 10), TARGET, preset) < 0.9


@pytest.mark.parametrize("preset", GRADED)
def test_vero_a_box_at_iou_6_earned_everything(preset: str) -> None:
    assert value(said(((100, 100, 200, 160), "cat")), ONE, preset) < 0.95


@pytest.mark.parametrize("preset", BOXES)
def test_perception_r1_paid_for_a_lone_tag(preset: str) -> None:
    """Its pattern had an unescaped bar."""
    assert value("<banana", ONE, preset) == 0.0


@pytest.mark.parametrize("preset", DEFAULT)
def test_gui_r1_and_perception_r1_ran_the_answer_as_code(preset: str) -> None:
    code = "__import__('os').environ.__setitem__('PEER_DEFECT', 'yes')"
    target = {"counting": counting(7), "pointing": replace_task(ONE, "pointing"), "text": words("42")}.get(
        PRESETS[preset].tasks[0], ONE
    )
    for text in (code, f"[{code}]", f"<answer>{code}</answer>", f'[{{"bbox_2d": [{code}, 1, 2, 3], "label": "cat"}}]'):
        value(text, target, preset)
    assert "PEER_DEFECT" not in os.environ


def replace_task(target: Target, task: str) -> Target:
    return Target(task=task, size_wh=target.size_wh, boxes_xyxy=target.boxes_xyxy, labels=target.labels)


# --- counting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", COUNTING)
@pytest.mark.parametrize("text", ["9", "<answer> 9 </answer>", "<think>I count.</think><answer>9</answer>"])
def test_crowdvlm_r1_read_no_number_between_blanks(preset: str, text: str) -> None:
    assert value(text, counting(9), preset) == pytest.approx(1.0)


@pytest.mark.parametrize("preset", COUNTING)
def test_crowdvlm_r1_paid_nothing_for_a_right_0(preset: str) -> None:
    assert value("0", counting(0), preset) == pytest.approx(1.0)
    assert value("1", counting(0), preset) < 0.6


@pytest.mark.parametrize("preset", COUNTING)
def test_r1_v_credited_a_number_in_the_reasoning(preset: str) -> None:
    result = score("<think>There are 7 of them.</think><answer>I do not know.</answer>", counting(7), preset=preset)
    assert result.metrics["accuracy"] == 0.0
    assert result.value < 0.2


@pytest.mark.parametrize("preset", COUNTING)
def test_glmv_reward_7_for_7_earned_nothing_through_its_own_system(preset: str) -> None:
    assert score("<answer>7</answer>", counting(7), preset=preset).metrics["accuracy"] == 1.0


# --- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", TEXT)
@pytest.mark.parametrize("text", ["", " ", "<answer></answer>", "<think>hm</think>"])
def test_visual_rft_an_empty_answer_was_right(preset: str, text: str) -> None:
    for target in (words("B", "a cat", "a dog"), words("no"), words("42")):
        assert score(text, target, preset=preset).metrics["accuracy"] == 0.0


@pytest.mark.parametrize("preset", TEXT)
def test_curr_reft_17_was_42(preset: str) -> None:
    assert score("17", words("42"), preset=preset).metrics["accuracy"] == 0.0


@pytest.mark.parametrize("text", ["I know nothing", "Not yet", "nothing", "another", "yesterday"])
def test_vlm_r1_found_no_in_nothing(text: str) -> None:
    for truth in ("no", "yes"):
        assert score(text, words(truth), preset="yes-no").metrics["accuracy"] == 0.0


@pytest.mark.parametrize("text", ["A", "a", "(A)", "A)", "A.", "<answer>\nA\n</answer>", "A) a cat", "a cat"])
def test_vlm_r1_did_not_know_a_letter_in_brackets(text: str) -> None:
    assert score(text, words("A", "a cat", "a dog"), preset="multiple-choice").metrics["accuracy"] == 1.0


def test_vlm_r1_tags_around_several_lines_were_never_taken_off() -> None:
    text = "<answer>\none\ntwo\n</answer>"
    assert score(text, words("one two"), preset="text-exact").metrics["accuracy"] == 1.0


def test_vlm_r1_cosine_paid_right_and_wrong_alike() -> None:
    preset = replace(
        PRESETS["multiple-choice"],
        criteria=(*PRESETS["multiple-choice"].criteria, Criterion("length", CRITERIA["cosine_length"])),
    )
    target = words("A", "a cat", "a dog")
    for n_tokens in (10, 500, 1024, 5000):
        lengths = [
            score(text, target, preset=preset, n_tokens=n_tokens, max_tokens=1024).metrics["length"] for text in "AB"
        ]
        assert lengths[0] > lengths[1], "right earns more than wrong"
        assert all(0.0 <= length <= 1.0 for length in lengths), "and it does not come round again after the end"


# --- Vision-R1 and VLM-R1, as the facts list them --------------------------------------------------------------------


def test_vision_r1_took_giou_for_iou() -> None:
    """IoU .571 became .544."""
    text = said(((100, 100, 180, 180), "cat"))
    target = Target(task="grounding", size_wh=(640, 480), boxes_xyxy=[(100, 100, 180, 240)], labels=["cat"])
    assert score(text, target).metrics["precision"] == pytest.approx(80 / 140)
    assert score(text, target, preset="visionr1-released").metrics["precision"] == pytest.approx(80 / 140)
    apart = said(((100, 100, 180, 180), "cat"), ((400, 300, 480, 380), "cat"))
    assert score(apart, target).metrics["iou_mean"] == pytest.approx(80 / 140)


def test_vision_r1_neither_took_nor_refused_a_value_on_the_threshold() -> None:
    half = said(((100, 100, 200, 150), "cat"))
    assert score(half, ONE, progress=0.0).metrics["recall"] == 1.0


def test_vision_r1_did_not_tighten_recall_in_the_second_stage() -> None:
    three = Target(task="detection", size_wh=(640, 480), boxes_xyxy=[j[0] for j in JUNK[:3]], labels=["cat"] * 3)
    two = said(*JUNK[:2])
    assert score(two, three, progress=0.0).metrics["recall"] == pytest.approx(2 / 3)
    assert score(two, three, progress=1.0).metrics["recall"] == 0.0


def test_vision_r1_had_a_hard_coded_step() -> None:
    late = replace(PRESETS["visionr1"], schedule=staged(*(t for _, t in PRESETS["visionr1"].schedule.points), at=0.9))
    half = said(((100, 100, 200, 150), "cat"))
    assert score(half, ONE, preset=late, progress=0.8).metrics["recall"] == 1.0
    assert score(half, ONE, progress=0.8).metrics["recall"] == 0.0


@pytest.mark.parametrize("text", ["{}", "3", "null", '"cat"', '[{"bbox_2d": ["a", 1, 2, 3], "label": 1}]', "[1, 2]"])
def test_vision_r1_took_any_json_for_well_formed(text: str) -> None:
    assert score(text, ONE).metrics["format"] == 0.0


def test_vision_r1_paid_for_broken_json_on_negative_images() -> None:
    for text in ("nothing here", "[", ""):
        assert score(text, NEGATIVE).metrics["format"] == 0.0
        assert value(text, NEGATIVE, "visionr1") < value("[]", NEGATIVE, "visionr1")


def test_vision_r1_cut_coordinates_to_whole_numbers_and_stopped_at_1000() -> None:
    small = Target(task="grounding", size_wh=(3000, 3000), boxes_xyxy=[(2000.5, 2000.5, 2001.5, 2001.5)], labels=["x"])
    assert value(said(((2000.5, 2000.5, 2001.5, 2001.5), "x")), small, "visionr1") == 1.0
    cut = "So: " + said(((2000.5, 2000.5, 2001.5, 2001.5), "x"))
    assert score(cut, small).metrics["recall"] == 1.0


def test_vlm_r1_crashed_on_a_matched_box_without_a_label() -> None:
    text = '[{"bbox_2d": [100, 100, 200, 200]}, {"bbox_2d": [300, 100, 400, 300], "label": 7}]'
    for preset in BOXES:
        assert value(text, TARGET, preset) < 0.5


@pytest.mark.parametrize("preset", BOXES)
def test_vlm_r1_first_answer_here_and_last_answer_there(preset: str) -> None:
    """A second answer is never free, wherever it stands."""
    right, wrong = f"<answer>{said(CAT)}</answer>", f"<answer>{said(JUNK[0])}</answer>"
    for text in (right + wrong, wrong + right):
        assert value(text, ONE, preset) < value(right, ONE, preset) - 0.05


@pytest.mark.parametrize("preset", BOXES)
def test_vlm_r1_paid_any_prose_on_a_negative_image(preset: str) -> None:
    assert value("Three cats sit on a wall.", NEGATIVE, preset) < value("[]", NEGATIVE, preset)


@pytest.mark.parametrize("preset", BOXES)
def test_vlm_r1_a_cut_off_list_made_the_pattern_backtrack(preset: str) -> None:
    text = "<think>hm</think>\n<answer>```json\n" + said(*JUNK * 50)
    assert not grows_too_fast(lambda n: value(text[:n], ONE, preset), len(text) - 10)


def test_vlm_r1_lower_cased_latex() -> None:
    assert score("\\Pi", words("\\Pi"), preset="math").metrics["accuracy"] == 1.0
    assert score("\\Pi^2", words("$\\Pi\\Pi$"), preset="math").metrics["accuracy"] == 1.0


def test_the_lists_above_are_not_empty() -> None:
    assert len(BOXES) >= 8
    assert len(COUNTING) >= 3
    assert len(TEXT) >= 6
    assert isinstance(PRESETS["visionr1"], Preset)
