"""Defects that were found by running other projects' rewards: none of our default presets has one of them.

A row of the table names the project. What test_box_presets.py asks of every preset of boxes, and the tests of counts
and words of theirs, is not repeated here.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from reward_cases import CAT, DOG, NEGATIVE, TARGET, Labelled, said

from verl_visionr1 import PRESETS, Target, score
from verl_visionr1.criteria import CRITERIA
from verl_visionr1.rewards import Criterion
from verl_visionr1.schedule import staged

DEFAULT = [name for name in PRESETS if not name.endswith(("-released", "-paper"))]
BOXES = [name for name in DEFAULT if "detection" in PRESETS[name].tasks]
TEXT = [name for name in DEFAULT if "text" in PRESETS[name].tasks]
JUNK: list[Labelled] = [((10.0 + 30 * i, 400, 30.0 + 30 * i, 420), "cat") for i in range(20)]
ONE = Target(task="grounding", size_wh=(640, 480), boxes_xyxy=[CAT[0]], labels=["the cat"])
CORNERS = [(40.0 * (i % 15), 40.0 * (i // 15)) for i in range(150)]
MANY: list[Labelled] = [((x, y, x + 30, y + 30), ("cat", "dog")[int(x) % 80 > 0]) for x, y in CORNERS]
CROWD = Target(task="detection", size_wh=(640, 480), boxes_xyxy=[b for b, _ in MANY], labels=[name for _, name in MANY])
RIGHT, WRONG = f"<answer>{said(CAT)}</answer>", f"<answer>{said(JUNK[0])}</answer>"
X1, Y1, X2, Y2 = CAT[0]


def value(text: str, target: Target, preset: str) -> float:
    return score(text, target, preset=preset).value


def words(answer: str, *choices: str) -> Target:
    return Target(task="text", answer=answer, choices=choices)


# completion, target, bounds of the value
OF_BOXES: dict[str, tuple[str, Target, float, float]] = {
    "Vision-R1: full reward with junk": (said(CAT, DOG, *JUNK), TARGET, 0.0, 0.9),
    "Vision-R1: full reward with labels that nobody asked for": (
        said((CAT[0], "zebra"), (DOG[0], "zebra")),
        TARGET,
        0.0,
        0.9,
    ),
    "Vision-R1: paid for broken JSON on negative images": ("nothing here", NEGATIVE, 0.0, 0.0),
    "VLM-R1: 150 perfect boxes earned two thirds": (said(*MANY), CROWD, 1.0 - 1e-9, 1.0),
    "VLM-R1: crashed on a box without a label": ('[{"bbox_2d": [100, 100, 200, 200]}]', TARGET, 0.0, 0.5),
    "VLM-R1: the first answer counted": (RIGHT + WRONG, ONE, 0.0, 0.95),
    "VLM-R1: the last answer counted": (WRONG + RIGHT, ONE, 0.0, 0.95),
    "VLM-R1: paid any prose on a negative image": ("Three cats sit on a wall.", NEGATIVE, 0.0, 0.0),
    "Visual-RFT: paid for a garbage box with confidence 0": (said(JUNK[0], confidence=0.0), ONE, 0.0, 0.6),
    "NeMo-RL: an inverted box": (said(((X2, Y2, X1, Y1), "cat")), ONE, 0.0, 0.0),
    "Rex-Omni: every box ten times": (said(*[CAT] * 10, *[DOG] * 10), TARGET, 0.0, 0.9),
    "Perception-R1: paid for a lone tag": ("<banana", ONE, 0.0, 0.0),
}


@pytest.mark.parametrize("preset", BOXES)
def test_boxes(preset: str) -> None:
    for why, (text, target, low, high) in OF_BOXES.items():
        assert low <= value(text, target, preset) <= high, why
    weights = PRESETS[preset].weights
    slope = 0.25 if preset == "rec-giou" else 0.0  # GIoU alone tells near from far
    garbage = weights["format"] / sum(weights.values()) + slope
    assert value(said(JUNK[0]), ONE, preset) <= garbage + 1e-9, "VisionReasoner, OneThinker: garbage in the right form"
    if preset != "rec-hit":  # a hit or a miss, by definition
        assert value(said(((100, 100, 200, 160), "cat")), ONE, preset) < 0.95, "Vero: IoU .6 earned everything"


@pytest.mark.parametrize("preset", DEFAULT)
def test_gui_r1_and_perception_r1_ran_the_answer_as_code(preset: str) -> None:
    code = "__import__('os').environ.__setitem__('PEER_DEFECT', 'yes')"
    targets = {
        "counting": Target(task="counting", size_wh=(640, 480), count=7),
        "pointing": Target(task="pointing", size_wh=(640, 480), boxes_xyxy=[CAT[0]]),
        "text": words("42"),
    }
    target = targets.get(PRESETS[preset].tasks[0], ONE)
    for text in (code, f"[{code}]", f"<answer>{code}</answer>", f'[{{"bbox_2d": [{code}, 1, 2, 3], "label": "cat"}}]'):
        value(text, target, preset)
    assert "PEER_DEFECT" not in os.environ


# completion, target, preset -> accuracy
OF_WORDS: dict[str, tuple[str, Target, str, float]] = {
    **{
        f"Visual-RFT: {text!r} was right, {preset}": (text, words("42"), preset, 0.0)
        for text in ("", " ", "<answer></answer>", "<think>hm</think>")
        for preset in TEXT
    },
    **{f"Curr-ReFT: 17 was 42, {preset}": ("17", words("42"), preset, 0.0) for preset in TEXT},
    **{
        f"VLM-R1: found no in {text!r}": (text, words("no"), "yes-no", 0.0)
        for text in ("I know nothing", "Not yet", "nothing", "another", "yesterday")
    },
    "VLM-R1: a letter in brackets": ("(A)", words("A", "a cat", "a dog"), "multiple-choice", 1.0),
    "VLM-R1: tags around several lines stayed": ("<answer>\none\ntwo\n</answer>", words("one two"), "text-exact", 1.0),
    "VLM-R1: lower-cased LaTeX": ("\\Pi^2", words("$\\Pi\\Pi$"), "math", 1.0),
}


@pytest.mark.parametrize(("text", "target", "preset", "accuracy"), OF_WORDS.values(), ids=OF_WORDS)
def test_words(text: str, target: Target, preset: str, accuracy: float) -> None:
    assert score(text, target, preset=preset).metrics["accuracy"] == accuracy


def test_vlm_r1_cosine_paid_right_and_wrong_alike() -> None:
    choice = PRESETS["multiple-choice"]
    preset = replace(choice, criteria=(*choice.criteria, Criterion("length", CRITERIA["cosine_length"])))
    for n_tokens in (10, 500, 1024, 5000):
        right, wrong = (
            score(text, words("A", "a cat", "a dog"), preset=preset, n_tokens=n_tokens, max_tokens=1024).metrics[
                "length"
            ]
            for text in "AB"
        )
        assert 0.0 <= wrong < right <= 1.0, "and it does not come round again after the end"


def test_vision_r1_took_giou_for_iou() -> None:
    """IoU .571 became .544."""
    text = said(((100, 100, 180, 180), "cat"), ((400, 300, 480, 380), "cat"))
    target = Target(task="grounding", size_wh=(640, 480), boxes_xyxy=[(100, 100, 180, 240)], labels=["cat"])
    assert score(text, target).metrics["iou_mean"] == pytest.approx(80 / 140)


def test_vision_r1_did_not_tighten_recall_and_had_a_hard_coded_step() -> None:
    three = Target(task="detection", size_wh=(640, 480), boxes_xyxy=[j[0] for j in JUNK[:3]], labels=["cat"] * 3)
    late = replace(PRESETS["visionr1"], schedule=staged(*(t for _, t in PRESETS["visionr1"].schedule.points), at=0.9))
    two = said(*JUNK[:2])
    assert score(two, three, progress=0.0).metrics["recall"] == pytest.approx(2 / 3)
    assert score(two, three, progress=0.8).metrics["recall"] == 0.0
    assert score(two, three, preset=late, progress=0.8).metrics["recall"] == pytest.approx(2 / 3)


def test_vision_r1_cut_coordinates_to_whole_numbers_and_stopped_at_1000() -> None:
    box = (2000.5, 2000.5, 2001.5, 2001.5)
    small = Target(task="grounding", size_wh=(3000, 3000), boxes_xyxy=[box], labels=["x"])
    assert value(said((box, "x")), small, "visionr1") == 1.0
    assert score("So: " + said((box, "x")), small).metrics["recall"] == 1.0
