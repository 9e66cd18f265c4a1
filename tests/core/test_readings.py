"""What odd ways of writing are worth: each a form that models write, beside the reward of the usual one."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from verl_visionr1 import PRESETS, Target, score
from verl_visionr1.answers import PARSERS, Answer
from verl_visionr1.answers.transcript import answer_text
from verl_visionr1.criteria import text
from verl_visionr1.rewards.composition import PresetSettings
from verl_visionr1.rewards.presets import build_preset

SIGN = Target(task="grounding", size_wh=(1000, 1000), boxes_xyxy=[(100, 100, 200, 200)], labels=["sign"])
RIGHT = '[{"box_2d": [100, 100, 200, 200], "label": "sign"}]'
JUNK = '[{"box_2d": [1, 1, 20, 20], "label": "sign"}]'
GEMMA = replace(PRESETS["visionr1"], answer_format="gemma-json")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (f"<|channel>thought\n<channel|>{RIGHT}", 1.0),
        (f"<|channel>thought\nMaybe {JUNK}, no<channel|>{RIGHT}", 1.0),
        (f"<|channel>thought\nMaybe {RIGHT} or so, let me check", 0.0),
        (f"<|channel>thought\n<channel|>{JUNK}", 1 / 3),
    ],
)
def test_reasoning_in_a_channel_is_no_answer(written: str, value: float) -> None:
    assert score(written, SIGN, preset=GEMMA, frame="gemma").value == pytest.approx(value)


@pytest.mark.parametrize(
    ("written", "label"),
    [
        ('{"bbox_2d": [100, 100, 200, 200], "label": "a "STOP" sign"}', 'a "STOP" sign'),
        ('{"bbox_2d": [100, 100, 200, 200], "label": "says "STOP""}', 'says "STOP"'),
        ('{"label": "the "STOP", left", "bbox_2d": [100, 100, 200, 200]}', 'the "STOP", left'),
        ("{'bbox_2d': [100, 100, 200, 200], 'label': \"man's hat\"}", "man's hat"),
        ('{"bbox_2d": [100, 100, 200, 200], "label": "two\nlines"}', "two lines"),
        ('{"bbox_2d": [100, 100, 200, 200], "label": "{sign}"},', "{sign}"),
        ('{"bbox_2d": [100, 100, 200, 200]; "label"}', ""),
    ],
)
def test_a_label_that_breaks_the_json_costs_the_format_alone(written: str, label: str) -> None:
    other = '{"bbox_2d": [300, 300, 400, 400], "label": "sign"}'
    answer = PARSERS["qwen-json"](f"[{written}]")
    assert (answer.boxes_xyxy, answer.labels, bool(answer.defects)) == (((100, 100, 200, 200),), (label,), True)
    assert score(f"[{written}]", SIGN, frame="qwen3-vl").value == pytest.approx(2 / 3)
    both = PARSERS["qwen-json"](f"[{other}, {written}, {other}]")
    assert both.boxes_xyxy == ((300, 300, 400, 400), (100, 100, 200, 200), (300, 300, 400, 400))


@pytest.mark.parametrize(
    ("said", "gold", "value"),
    [("5", ".5", 0), ("3", "3!", 0), ("25", "$.25", 0), ("3!", "3!", 1), ("a dog.", "A dog", 1), ("**$x$**.", "x", 1)],
)
def test_exact_texts_keep_what_changes_their_meaning(said: str, gold: str, value: float) -> None:
    assert text.exact(Answer((), (), 0, (), text=said), Target(task="text", answer=gold)) == value


@pytest.mark.parametrize(("said", "gold", "value"), [(".5", "B", 1), (".5", "A", 0), ("5", "A", 1), ("B", ".5", 1)])
def test_options_that_differ_by_a_sign_are_two(said: str, gold: str, value: float) -> None:
    target = Target(task="text", answer=gold, choices=["5", ".5"])
    assert text.choice(Answer((), (), 0, (), text=said), target) == value


@pytest.mark.parametrize(
    ("said", "gold", "value"),
    [
        ("2", "2^10", 0), ("2^10", "2", 0), ("3", "3!", 0), ("There are 3!", "3", 1), (r"\frac{3}{4}", "3/4", 1),
        (r"$\dfrac{3}{4}$", "0.75", 1), (r"-\frac{1}{2}", "-0.5", 1), (r"\frac{3}{0}", "3", 0),
    ],
)  # fmt: skip
def test_numbers_with_powers_and_fractions(said: str, gold: str, value: float) -> None:
    assert text.number(Answer((), (), 0, (), text=said), Target(task="text", answer=gold)) == value


@pytest.mark.parametrize("n", [257, 400, 512])
def test_every_object_pointed_at_is_worth_everything(n: int) -> None:
    points = [(float(i % 20 * 50), float(i // 20 * 35)) for i in range(n)]
    random.Random(n).shuffle(points)
    target = Target(task="pointing", size_wh=(1000, 1000), points_xy=points, labels=["dot"] * n)
    written = json.dumps([{"point_2d": point, "label": "dot"} for point in sorted(points)])
    assert score(written, target, frame="original").value == 1.0


@pytest.mark.parametrize("language", ["", "json", "xml", "XML"])
def test_a_fence_may_name_its_language(language: str) -> None:
    written = f'```{language}\n<points x1="64" y1="48" alt="cat">cat</points>\n```'
    assert PARSERS["molmo-points"](written).defects == ()


@pytest.mark.parametrize("written", ["None", "none", "None.", "NONE"])
def test_none_says_that_nothing_is_there(written: str) -> None:
    nothing = Target(task="detection", size_wh=(10, 10), categories=["cat", "dog"])
    assert score(written, nothing, frame="original").value == 1.0


def test_equal_boxes_of_other_labels_in_any_order() -> None:
    preset = build_preset(PresetSettings(base="vlmr1-ovd", name="by-boxes", matching="class_agnostic"))
    boxes = [(20, 0, 30, 20), (0, 0, 30, 20)]
    target = Target(task="detection", size_wh=(100, 100), boxes_xyxy=boxes, labels=["cat", "dog"])
    items = [{"bbox_2d": boxes[0], "label": label} for label in ("dog", "bird", "cat")]
    values = {score(json.dumps(some), target, preset=preset).value for some in (items, items[::-1])}
    assert len(values) == 1


def test_reasoning_in_a_field_of_its_own_is_over() -> None:
    message = {"role": "assistant", "reasoning_content": "left of", "content": RIGHT}
    for is_opened in (True, False):
        found = score(answer_text([message]), SIGN, preset=GEMMA, frame="gemma", reasoning_opened=is_opened)
        assert found.value == 1.0


def test_a_count_in_a_channel_is_none() -> None:
    target = Target(task="counting", size_wh=(10, 10), count=7)
    assert score("<|channel>thought\nthree and 4<channel|>7", target).value == 1.0
    assert score("<|channel>thought\n3 left and 4 right, so 7. Wait", target).value == 0.0
