"""What an explanation finds: of points, what each repair would bring, claims in the text, and that no text harms it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cpu_time import grows_too_fast
from exams import (
    CAT,
    DOG,
    INVERTED,
    NEGATIVE,
    PERFECT,
    POINTED,
    POINTING,
    SIZE_WH,
    TARGET,
    cause,
    exam_of,
    of,
    pointed,
    said,
    scaled,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_visionr1 import FRAMES, PRESETS, Target
from verl_visionr1.answers import FORMATS, Answer, Defect
from verl_visionr1.masks import Mask
from verl_visionr1.rewards import Criterion
from verl_visionr1.targets import TASKS
from verl_visionr1.tools.explain.diagnosis import cause_of, findings_of
from verl_visionr1.tools.explain.diagnosis.claims import answer_start, claims_in
from verl_visionr1.tools.explain.diagnosis.verdicts import verdicts_of
from verl_visionr1.tools.explain.diagnosis.writing import WORDS

POINT_CASES = {
    "right": (pointed(((600, 250), "cat"), ((1500, 800), "dog")), "nothing wrong"),
    "beside": (pointed(((600, 250), "cat"), ((1500, 470), "dog")), "outside: point 2 is 30 px outside the object"),
    "twice": (pointed(((600, 250), "cat"), ((1500, 800), "dog"), ((610, 250), "cat")), "duplicate: point 3"),
    "missed": (pointed(((600, 250), "cat")), "missed 1 of 2 objects"),
    "boxes": (PERFECT, "boxes instead of points"),
    "wrong frame": (pointed(((300, 208), "cat"), ((750, 667), "dog")), "wrong frame: read as qwen3-vl (0-1000) 100%"),
    "truncated": (
        pointed(((600, 250), "cat"), ((1500, 800), "dog"))[:-20],
        "truncated: after 1 point the list is cut off",
    ),
    "no label": ('[{"point_2d": [600, 250]}, {"point_2d": [1500, 800]}]', "no label: each"),
    "quoted": ('[{"point_2d": ["600", "250"], "label": "cat"}]', "bad box: object 1 "),
    "three numbers": (
        '[{"point_2d": [6, 2, 5], "label": "cat"}]',
        "bad box: object 1 in the text not read (3 numbers in",
    ),
    "duplicates": (pointed(*[((600, 250), "cat")] * 3, ((1500, 800), "dog")), "duplicate: point 2 repeats point 1"),
    "far too many": (
        pointed(*[((x, y), "cat") for x in range(0, 2000, 100) for y in range(0, 1200, 80)]),
        "too many points: 300 for 2 objects",
    ),
}


@pytest.mark.parametrize(("text", "expected"), POINT_CASES.values(), ids=POINT_CASES)
def test_points(text: str, expected: str) -> None:
    assert cause(text, POINTED, POINTING).startswith(expected)


def test_one_point_tells_the_frame_only_where_chance_would_hardly_hit() -> None:
    large = Target(task="pointing", size_wh=SIZE_WH, boxes_xyxy=[CAT], labels=["cat"])
    small = Target(task="pointing", size_wh=SIZE_WH, boxes_xyxy=[(580, 220, 640, 260)], labels=["cat"])
    text = pointed(((300, 200), "cat"))
    assert cause(text, small, POINTING).startswith("wrong frame")
    assert "wrong frame" not in cause(pointed(((100, 150), "cat")), large, POINTING)


def test_a_point_in_the_bounds_of_a_mask_but_not_on_it_lies_outside() -> None:
    corner = Mask(polygons=((0.0, 0.0, 100.0, 0.0, 0.0, 100.0),))
    target = Target(task="pointing", size_wh=(200, 200), masks=[corner], labels=["cat"])
    exam = exam_of(pointed(((90, 90), "cat")), target, POINTING)
    assert [verdict.counted_as for verdict in verdicts_of(exam)[0]] == ["outside"]
    exam = exam_of(pointed(((20, 20), "cat")), target, POINTING)
    assert [verdict.counted_as for verdict in verdicts_of(exam)[0]] == ["match"]


def test_the_frame_is_not_blamed_where_the_boxes_are_merely_wrong() -> None:
    wrong = said(((10, 900, 60, 1100), "cat"), ((1700, 20, 1990, 80), "dog"))
    found = findings_of(exam_of(wrong))
    assert {finding.cause for finding in found} == {"junk", "missed"}


def test_a_known_processed_size_is_taken() -> None:
    text = said((scaled(CAT, 700, 420), "cat"), (scaled(DOG, 700, 420), "dog"))
    assert cause(text, processed_wh=(700, 420)).startswith("wrong frame: read as qwen2.5-vl (pixels of the image proc")


def test_several_faults_are_all_named_the_costliest_first() -> None:
    text = said((CAT, "kitty"), (DOG, "dog"), (DOG, "dog"))
    exam = exam_of(text)
    findings = findings_of(exam)
    assert [finding.cause for finding in findings[:2]] == ["wrong label", "duplicate"]
    assert findings[0].gain > findings[1].gain > 0.0


def test_a_gain_is_what_the_repair_would_bring() -> None:
    exam = exam_of(said((CAT, "cat"), (CAT, "cat"), (DOG, "dog")))
    (finding,) = findings_of(exam)
    assert finding.gain == pytest.approx(1.0 - exam.value)
    assert exam.value + finding.gain == pytest.approx(exam_of(PERFECT).value)


def test_what_costs_nothing_is_no_cause() -> None:
    exam = exam_of(said(((200, 100, 900, 400), "cat"), (DOG, "dog")))
    assert findings_of(exam) == []
    assert cause_of(exam, []).cause == "nothing wrong"


NEAR = (200, 100, 998, 400)  # 2 of 800 pixels off: costs .0006 to .001


@pytest.mark.parametrize(
    ("boxes", "causes"),
    [
        ([(NEAR, "cat"), (DOG, "dog")], ["loose box"]),  # all that is missing
        ([(NEAR, "cat"), (DOG, "dog"), (DOG, "dog")], ["duplicate"]),
        ([((200, 100, 900, 400), "cat"), (DOG, "dog"), (DOG, "dog")], ["duplicate", "loose box"]),
    ],
)
def test_a_nearly_exact_box_is_a_finding_only_where_nothing_else_costs(
    boxes: list[tuple[tuple[float, ...], str]], causes: list[str]
) -> None:
    exam = exam_of(said(*boxes), preset="vlmr1-rec")
    assert [finding.cause for finding in findings_of(exam)] == causes
    assert cause_of(exam, findings_of(exam)).cause == causes[0]


def test_a_remark_asks_for_nothing() -> None:
    exam = exam_of(said((NEAR, "cat"), (DOG, "dog")), preset="vlmr1-rec")
    assert cause_of(exam, findings_of(exam)).fix == ""


def test_a_criterion_of_form_is_named_where_no_content_could_satisfy_it() -> None:
    def rhymes(completion: str) -> float:
        """1.0 iff the answer rhymes."""
        return 0.0

    preset = replace(PRESETS["visionr1"], criteria=(*PRESETS["visionr1"].criteria, Criterion("rhymes", rhymes)))
    found = cause_of(exam_of(PERFECT, preset=preset), findings_of(exam_of(PERFECT, preset=preset)))
    assert (found.cause, found.gain) == ("criterion", pytest.approx(0.25))
    assert "rhymes gives 0.00" in found.what
    assert "1.0 iff the answer rhymes." in found.what


def test_a_criterion_that_depends_on_the_content_is_not_said_to_ignore_it() -> None:
    def few(answer: Answer) -> float:
        """1 / the number of predicted objects."""
        return 1.0 / max(1, len(answer.boxes_xyxy))

    preset = replace(PRESETS["visionr1"], criteria=(*PRESETS["visionr1"].criteria, Criterion("few", few)))
    (found,) = findings_of(exam_of(PERFECT, preset=preset))
    assert (found.cause, found.gain) == ("criterion", pytest.approx(0.125))
    assert "0.50" in found.what
    assert "perfect answer" in found.what


def test_ignored_boxes_are_not_blamed() -> None:
    target = Target(
        task="detection", size_wh=SIZE_WH, boxes_xyxy=[CAT], labels=["cat"], ignore_xyxy=[(1100, 400, 1900, 1190)]
    )
    exam = exam_of(PERFECT, target)
    assert [verdict.counted_as for verdict in verdicts_of(exam)[0]] == ["match", "ignored"]
    assert cause(PERFECT, target).startswith("nothing wrong")


def test_every_defect_has_words() -> None:
    assert set(WORDS) == set(Defect)


CLAIMS = {
    "single quotes": ("[{'bbox_2d': [1, 2, 3, 4], 'label': 'cat'}]", (1.0, 2.0, 3.0, 4.0), "cat", ""),
    "no width": ('{"bbox_2d": [1, 2, 1, 4]}', (1.0, 2.0, 1.0, 4.0), "", "no width: x1 = x2 = 1"),
    "three": ('{"bbox_2d": [1, 2, 3]}', (1.0, 2.0, 3.0), "", "3 numbers instead of 4"),
    "texts": ('{"bbox_2d": ["1", 2, 3, 4]}', (), "", "not bare, finite numbers"),
    "one text": ('{"bbox_2d": "1, 2, 3, 4"}', (), "", "not bare, finite numbers"),
    "corners": ('{"bbox_2d": [[1, 2], [3, 4]]}', (), "", "not bare, finite numbers"),
    "null": ('{"bbox_2d": [null, 2, 3, 4]}', (), "", "not bare, finite numbers"),
    "trailing comma": ('{"bbox_2d": [1, 2, 3, 4], "label": "cat",}', (1.0, 2.0, 3.0, 4.0), "", ""),
}


@pytest.mark.parametrize(("text", "numbers", "label", "fault"), CLAIMS.values(), ids=CLAIMS)
def test_claims(text: str, numbers: tuple[float, ...], label: str, fault: str) -> None:
    (claim,) = claims_in(text)
    assert (claim.numbers, claim.label, claim.fault) == (numbers, label, fault)
    assert "{" in text[claim.start : claim.end]


def test_claims_of_the_reasoning_and_of_the_answer_are_told_apart() -> None:
    text = f"<think>{said((CAT, 'cat'))}</think>{said((DOG, 'dog'))}"
    start = answer_start(text)
    assert [claim.label for claim in claims_in(text, start)] == ["dog"]
    assert [claim.label for claim in claims_in(text, 0, start)] == ["cat"]


TARGETS = {
    "detection": [TARGET, NEGATIVE],
    "grounding": [Target(task="grounding", size_wh=(64, 48), boxes_xyxy=[(1, 1, 20, 20)], labels=["cat"])],
    "counting": [of(3), of(0)],
    "pointing": [POINTED, Target(task="pointing", size_wh=(64, 48), points_xy=[(3, 3)])],
    "text": [Target(task="text", answer="B", choices=["a", "b"]), Target(task="text", answer="3.5")],
}
SLOW = {"math", "vlmr1-math-released"}  # a child process judges each new text
QUICK = [preset for name, preset in PRESETS.items() if name not in SLOW] + [POINTING]
PIECES = [
    *(answer_format.example for answer_format in FORMATS.values()),
    *[PERFECT, PERFECT[:60], "<think>", "</think>", "<answer>", "</answer>", "```json\n", "```"],
    *["[", "]", "{", "}", ",", '"'],
    *["1e308", "-1", "NaN", "9" * 400, "0.5", "\ud800", "\x1b[31m", "\u202e", "None", "[]", " ", "\n", "5", "B"],
    *[said(((-1e308, -1e308, 1e308, 1e308), "cat")), said(((5, 5, 5, 5), "")), said((INVERTED, "猫"))],
]
texts = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(PIECES), max_size=6).map("".join))


@settings(max_examples=250)
@given(text=texts, data=st.data())
def test_no_text_makes_it_raise(text: str, data: st.DataObject) -> None:
    target = data.draw(st.sampled_from([target for task in TASKS for target in TARGETS[task]]))
    able = [preset for preset in QUICK if target.task in preset.tasks]
    preset = data.draw(st.sampled_from(able))
    frame = data.draw(st.sampled_from([name for name in FRAMES if name != "qwen2.5-vl"]))
    exam = exam_of(text, target, preset, frame=frame)
    findings = findings_of(exam)
    assert str(cause_of(exam, findings)).isprintable()
    assert all(finding.gain >= 0.0 for finding in findings)
    if exam.to_full <= 1e-6:
        assert cause_of(exam, findings).cause == "nothing wrong"


def test_time_grows_with_the_length_of_the_text() -> None:
    answers = said((CAT, "cat"))[:-1] * 10_000
    for text in ("[" * 1_000_000, answers, "<think>" + "x" * 1_000_000, "[1,2,3,4]," * 100_000):
        assert not grows_too_fast(lambda n, text=text: cause(text[:n]), len(text)), text[:20]
