"""Why a reward is what it is: each typical failure is named first, whatever else is wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from cpu_time import grows_too_fast
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_visionr1 import FRAMES, PRESETS, Target
from verl_visionr1.answers import FORMATS, Defect
from verl_visionr1.masks import Mask
from verl_visionr1.rewards import Criterion, Preset, ResponseContext
from verl_visionr1.targets import TASKS
from verl_visionr1.tools.explain.diagnosis import Exam, cause_of, findings_of
from verl_visionr1.tools.explain.diagnosis.claims import answer_start, claims_in
from verl_visionr1.tools.explain.diagnosis.defects import WORDS
from verl_visionr1.tools.explain.diagnosis.verdicts import verdicts_of

SIZE_WH = (2000, 1200)
CAT, DOG = (200, 100, 1000, 400), (1200, 500, 1800, 1100)
TARGET = Target(task="detection", size_wh=SIZE_WH, boxes_xyxy=[CAT, DOG], labels=["cat", "dog"])
NEGATIVE = Target(task="detection", size_wh=SIZE_WH, categories=["cat", "dog"])


def said(*items: tuple[tuple[float, ...], str]) -> str:
    return json.dumps([{"bbox_2d": list(box), "label": label} for box, label in items], ensure_ascii=False)


def scaled(box: tuple[float, ...], width: float, height: float) -> tuple[float, ...]:
    """A box in pixels, as a model writes it whose image is `width` by `height`."""
    factors = (width / SIZE_WH[0], height / SIZE_WH[1])
    return tuple(round(number * factors[i % 2], 3) for i, number in enumerate(box))


def exam_of(
    text: str,
    target: Target = TARGET,
    preset: str | Preset = "visionr1",
    *,
    frame: str = "original",
    **response: object,
) -> Exam:
    chosen = PRESETS[preset] if isinstance(preset, str) else preset
    return Exam.of(text, target, chosen, chosen.schedule(0.0), ResponseContext(FRAMES[frame], **response))  # type: ignore[arg-type]


def cause(text: str, target: Target = TARGET, preset: str | Preset = "visionr1", **options: object) -> str:
    exam = exam_of(text, target, preset, **options)  # type: ignore[arg-type]
    return str(cause_of(exam, findings_of(exam)))


PERFECT = said((CAT, "cat"), (DOG, "dog"))
INVERTED = (1000, 100, 200, 400)
SWAPPED = [(tuple(box[i] for i in (1, 0, 3, 2)), label) for box, label in ((CAT, "cat"), (DOG, "dog"))]
QUOTED = PERFECT.replace("[200, 100, 1000, 400]", '["200", "100", "1000", "400"]').replace("[1200", '["1200"')
WHOLE = (0, 0, *SIZE_WH)
GRID = [((x, y, x + 90, y + 70), "cat") for x in range(0, 2000, 100) for y in range(0, 1200, 80)]
BOX_FAILURES = {
    "perfect": (PERFECT, "nothing wrong: reward 1.000"),
    "fenced": (f"```json\n{PERFECT}\n```", "nothing wrong"),
    "wrong frame": (
        said((scaled(CAT, 1000, 1000), "cat"), (scaled(DOG, 1000, 1000), "dog")),
        "wrong frame: read as qwen3-vl (0-1000) the boxes reach IoU 1.000 instead of 0.1",
    ),
    "processed": (
        said((scaled(CAT, 1260, 756), "cat"), (scaled(DOG, 1260, 756), "dog")),
        "wrong frame: read as qwen2.5-vl (pixels of the image processed to 1260x756)",
    ),
    "percent": (said((scaled(CAT, 100, 100), "cat"), (scaled(DOG, 100, 100), "dog")), "wrong frame: read as percent"),
    "numbers 0-1": (
        said((scaled(CAT, 1, 1), "cat"), (scaled(DOG, 1, 1), "dog")),
        "numbers 0-1: the model speaks in unit coordinates",
    ),
    "numbers 0-1, all wrong": (said(((0.01, 0.9, 0.02, 0.92), "cat")), "numbers 0-1: the model speaks in unit"),
    "swapped axes": (said(*SWAPPED), "swapped axes: read as y1, x1, y2, x2"),
    "width and height": (
        said(((200, 100, 800, 300), "cat"), ((1200, 500, 600, 600), "dog")),
        "width and height: read as x, y, width, height the boxes reach IoU 1.000 instead of 0.250 -> "
        "ask for x1, y1, x2, y2 (the corners: x2 = x + width, y2 = y + height) in the prompt",
    ),
    "truncated": (PERFECT[:-20], "truncated: after 1 box the list is cut off"),
    "truncated, nothing read": ('[{"bbox_2d": [200, 1', "truncated: after 0 boxes"),
    "prose": (f"Here you are: {PERFECT}", "prose around the list: 'Here you are:' is not part of it"),
    "wrong label": (said((CAT, "kitty"), (DOG, "dog")), "wrong label: 'kitty' is not among cat, dog"),
    "labels exchanged": (said((CAT, "dog"), (DOG, "cat")), "wrong label: box 1 says 'dog', the object there is 'cat'"),
    "wrong language": (said((CAT, "猫"), (DOG, "狗")), "wrong language: '猫' is not among cat, dog"),
    "duplicate": (said((CAT, "cat"), (CAT, "cat"), (DOG, "dog")), "duplicate: box 2 repeats box 1 and costs precision"),
    "inverted": (
        said((INVERTED, "cat"), (DOG, "dog")),
        "inverted box: object 1 in the text is not read (x1 = 1000 > x2",
    ),
    "points": (
        json.dumps([{"point_2d": [600, 250], "label": "cat"}, {"point_2d": [1500, 800], "label": "dog"}]),
        "points instead of boxes",
    ),
    "points of another model": ('<point x="30.0" y="20.8" alt="cat">cat</point>', "points instead of boxes"),
    "griffon": ("cat-[0.100,0.083,0.500,0.333]&dog-[0.600,0.417,0.900,0.917]", "other format: this is griffon"),
    "wrong key": (PERFECT.replace("bbox_2d", "box"), "wrong key: the boxes have the key 'box' instead of 'bbox_2d'"),
    "empty": ("", "empty"),
    "prose only": ("I see a cat and a dog.", "no list: the answer is prose or a single value: 'I see a cat"),
    "nothing found": ("[]", "missed 2 of 2 objects: 'cat', 'dog'"),
    "missed": (said((CAT, "cat")), "missed 1 of 2 objects: 'dog'"),
    "junk": (said((CAT, "cat"), (DOG, "dog"), ((0, 600, 300, 900), "cat")), "junk: box 3 matches no object"),
    "only reasoned": (
        f"<think>{PERFECT}</think>",
        "only in the reasoning: 2 boxes in the reasoning, none that can be read",
    ),
    "unclosed": (f"<think>{PERFECT}", "only in the reasoning: 2 boxes in the reasoning, which was never closed"),
    "unclosed, no boxes": ("<think>Well, let me see", "unclosed reasoning"),
    "below": (said(((200, 100, 580, 400), "cat"), (DOG, "dog")), "below the threshold: box 1 reaches IoU 0.475 < 0.5 "),
    "loose": (
        said(((200, 100, 700, 400), "cat"), (DOG, "dog")),
        "loose box: box 1 reaches IoU 0.625; full credit from",
    ),
    "no label": (json.dumps([{"bbox_2d": CAT}, {"bbox_2d": DOG, "label": "dog"}]), "no label: box 1 has no label"),
    "no labels": (json.dumps([{"bbox_2d": CAT}, {"bbox_2d": DOG}]), "no label: boxes 1 and 2 have no label -> ask for"),
    "not finite": (
        PERFECT.replace("[200", "[1e999"),
        "bad box: object 1 in the text is not read (not finite numbers) ->",
    ),
    "quoted": (
        QUOTED,
        "bad box: objects 1 and 2 in the text are not read (numbers in quotes) -> ask for bare numbers",
    ),
    "one text": (
        '[{"bbox_2d": "200, 100, 1000, 400", "label": "cat"}]',
        "bad box: object 1 in the text is not read (numb",
    ),
    "nested": (
        '[{"bbox_2d": [[200, 100], [1000, 400]], "label": "cat"}]',
        "bad box: object 1 in the text is not read (numbers in nested lists) -> ask for one flat list of numbers",
    ),
    "list of one list": (
        '[{"bbox_2d": [[200, 100, 1000, 400]], "label": "cat"}]',
        "bad box: object 1 in the text is not read (numbers in nested lists) -> ask for one flat list of numbers",
    ),
    "python": (str(json.loads(PERFECT)), "malformed: single quotes, as Python prints a list; JSON has double ones"),
    "python, other literals": (
        str([{**item, "score": None, "bbox_2d": tuple(item["bbox_2d"])} for item in json.loads(PERFECT)]),
        "malformed: written as Python prints a list",
    ),
    "typographic quotes": (PERFECT.replace('"', "\u201d"), "malformed: typographic quotes"),
    "bare keys": (
        PERFECT.replace('"bbox_2d"', "bbox_2d").replace('"label"', "label"),
        "malformed: keys without quotes",
    ),
    "over the edge": (
        said((CAT, "cat"), ((1200, 500, 1800, 1260), "dog")),
        "outside: object 2 (1200, 500, 1800, 1260)",
    ),
    "comma too many": (PERFECT.replace("}]", "},]"), "malformed: a comma before a closing bracket"),
    "bare": (
        "[200, 100, 1000, 400]",
        "other format: this is list, like '[[10, 20, 30, 40], [50, 60, 70, 80]]'; preset",
    ),
    "bare, in GLM's tokens": ("<|begin_of_box|>[[200,100,1000,400]]<|end_of_box|>", "other format: this is glm"),
    "whole image": (
        said((WHOLE, "cat"), (WHOLE, "dog")),
        "off target: box 2 reaches IoU 0.150, the best of 2 such boxes; boxes 1 and 2 are as large as the image -> no",
    ),
    "half the threshold": (
        said(((200, 100, 410, 400), "cat"), (DOG, "dog")),
        "below the threshold: box 1 reaches IoU 0.263 < 0.5 ",
    ),
    "less than half": (said(((200, 100, 390, 400), "cat"), (DOG, "dog")), "off target: box 1 reaches IoU 0.237 ->"),
    "far too many": (said(*GRID), "too many boxes: 300 for 2 objects (29"),
    "far too many, and the right ones": (
        said((CAT, "cat"), (DOG, "dog"), *GRID),
        "too many boxes: 302 for 2 objects (300",
    ),
    "the whole image, many times": (
        said(*[(WHOLE, "cat"), (WHOLE, "dog")] * 50),
        "too many boxes: 100 for 2 objects (98 repeat another); each costs precision -> ask for each object once",
    ),
}


@pytest.mark.parametrize(("text", "expected"), BOX_FAILURES.values(), ids=BOX_FAILURES)
def test_the_cause_comes_first(text: str, expected: str) -> None:
    assert cause(text).startswith(expected)


@pytest.mark.parametrize("preset", ["visionr1", "vlmr1-ovd", "v-triune", "big-vision", "rec-giou"])
@pytest.mark.parametrize("failure", ["wrong frame", "truncated", "duplicate", "inverted", "wrong language", "prose"])
def test_the_cause_is_the_same_under_any_preset(preset: str, failure: str) -> None:
    text, expected = BOX_FAILURES[failure]
    assert cause(text, preset=preset).startswith(expected[:12])


ONE, TWO = said((CAT, "cat")), said((DOG, "dog"))
EXAMPLE = '[{"bbox_2d": [x1, y1, x2, y2], "label": "..."}]'
SEVERAL = {  # the answer -> what it would earn as one list
    "an object a block": (f"```json\n{ONE}\n```\n```json\n{TWO}\n```", 1.0),
    "corrected": (f"```json\n[]\n```\nOr rather:\n```json\n{PERFECT}\n```", 1.0),
    "said twice": (f"```json\n{PERFECT}\n```\nSo:\n```json\n{PERFECT}\n```", 1.0),
    "an example before": (f"As asked:\n```json\n{EXAMPLE}\n```\n```json\n{PERFECT}\n```", 2 / 3),
    "an example in the tags": (f"<answer>```json\n{EXAMPLE}\n``` ```json\n{PERFECT}\n```</answer>", 1.0),
    "numbers as an example": (f"```json\n{said(((1, 2, 3, 4), 'x'))}\n```\n```json\n{PERFECT}\n```", 1.0),
    "code before": (f"```python\nboxes = 2\n```\n```json\n{PERFECT}\n```", 1.0),
    "a list, then a block": (f"{ONE}\n```json\n{TWO}\n```", 1.0),
    "a list an object": (f"{ONE}\n{TWO}", 1.0),
}


@pytest.mark.parametrize(("text", "value"), SEVERAL.values(), ids=SEVERAL)
def test_several_lists_and_blocks_are_named(text: str, value: float) -> None:
    exam = exam_of(text)
    first = findings_of(exam)[0]
    assert first.cause == "several lists"
    assert exam.value + first.gain == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    "written",
    [
        "[{'bbox_2d': [200, 100, 1000, 400], 'label': \"driver's seat\"}]",
        "[{'bbox_2d': [200, 100, 1000, 400], 'label': 'driver's seat'}]",
        "[{'bbox_2d': [200, 100, 1000, 400], 'label': 'driver\\'s seat'}]",
        "```json\n[{'bbox_2d': [200, 100, 1000, 400], 'label': \"driver's seat\"}]\n```",
    ],
)
def test_an_apostrophe_between_pythons_quotes(written: str) -> None:
    target = Target(task="grounding", size_wh=SIZE_WH, boxes_xyxy=[CAT], labels=["driver's seat"])
    exam = exam_of(written, target)
    assert findings_of(exam)[0].cause == "malformed"
    assert "quotes" in findings_of(exam)[0].what


@pytest.mark.parametrize("preset", ["visionr1", "vlmr1-ovd"])
@pytest.mark.parametrize("frame", ["original", "qwen3-vl"])
def test_a_box_over_the_edge_is_no_other_format(preset: str, frame: str) -> None:
    side = {"original": SIZE_WH, "qwen3-vl": (1000, 1000)}[frame]
    text = said((scaled((-60, 100, 1000, 400), *side), "cat"), (scaled(DOG, *side), "dog"))
    causes = [finding.cause for finding in findings_of(exam_of(text, preset=preset, frame=frame))]
    assert "outside" in causes
    assert "other format" not in causes


def test_noise_does_not_decide_between_0_1000_and_0_1024() -> None:
    """No model writes PaliGemma's 0-1024 in JSON, though boxes that are a little too large fit it better."""
    boxes = [scaled(box, 1024, 1024) for box in (CAT, DOG)]
    exam = exam_of(said((boxes[0], "cat"), (boxes[1], "dog")))
    (found,) = [finding for finding in findings_of(exam) if finding.cause == "wrong frame"]
    assert "frame=qwen3-vl" in found.fix
    assert "paligemma" not in f"{found.what} {found.fix}"


@pytest.mark.parametrize("preset", ["visionr1", "vlmr1-ovd", "v-triune", "big-vision", "visionr1-paper"])
def test_far_too_many_boxes_are_priced_together(preset: str) -> None:
    assert cause(said(*GRID), preset=preset).startswith("too many boxes: 300 for 2 objects")
    exam = exam_of(said((CAT, "cat"), (DOG, "dog"), *GRID), preset=preset)
    (found,) = [finding for finding in findings_of(exam) if finding.cause == "too many boxes"]
    assert found.gain == pytest.approx(exam.to_full, abs=1e-6), "without them, nothing is wrong"
    assert found.gain > 0.1


@pytest.mark.parametrize("preset", ["rec-giou", "vlmr1-rec"])
def test_a_box_far_off_is_off_target_without_thresholds_too(preset: str) -> None:
    target = Target(task="grounding", size_wh=SIZE_WH, boxes_xyxy=[(200, 100, 500, 400)], labels=["cat"])
    assert cause(said((WHOLE, "cat")), target, preset).startswith(
        "off target: box 1 reaches IoU 0.037; box 1 is as large"
    )


def test_a_few_boxes_too_many_are_junk_and_duplicates() -> None:
    exam = exam_of(said((CAT, "cat"), (DOG, "dog"), (CAT, "cat"), *GRID[:3]))
    assert [finding.cause for finding in findings_of(exam)] == ["junk", "duplicate"]


def test_bare_boxes_in_another_frame_are_a_list_in_that_frame() -> None:
    target = Target(task="grounding", size_wh=SIZE_WH, boxes_xyxy=[CAT], labels=["cat"])
    numbers = [round(number) for number in scaled(CAT, 1000, 1000)]
    assert "set answer_format=list and frame=qwen3-vl" in cause(str(numbers), target)


def test_a_format_without_labels_is_told_from_a_label_left_out() -> None:
    preset = replace(PRESETS["visionr1"], answer_format="list")
    text = json.dumps([CAT, DOG])
    assert cause(text, preset=preset).startswith(
        "no label: boxes 1 and 2 have no label, and several are asked for; list"
    )


OTHER_CASES = {
    "false alarm": (said((CAT, "cat")), NEGATIVE, "visionr1", "false alarm: 1 box on an image without any cat, dog"),
    "right refusal": ("[]", NEGATIVE, "visionr1", "nothing wrong"),
    "no fence": (PERFECT, TARGET, "vlmr1-ovd-released", "no fence: preset vlmr1-ovd-released wants"),
    "prose, released": (f"Sure: {PERFECT}", TARGET, "visionr1-released", "prose around the list: 'Sure:'"),
    "labels do not matter": (said((CAT, "x"), (DOG, "y")), TARGET, "visionr1-paper", "nothing wrong"),
    "count off": (
        "7",
        Target(task="counting", size_wh=(9, 9), count=5),
        "counting",
        "count off by 2: says 7, there are",
    ),
    "count of a list": (
        PERFECT,
        Target(task="counting", size_wh=(9, 9), count=3),
        "counting-list",
        "count off by 1: says 2 (the length of its list), there are 3",
    ),
    "count reasoned": (
        "<think>There are 5</think>",
        Target(task="counting", size_wh=(9, 9), count=5),
        "counting",
        "only in the reasoning",
    ),
    "count in prose": (
        "There are 5 cats.",
        Target(task="counting", size_wh=(9, 9), count=5),
        "counting",
        "prose around",
    ),
    "count, with boxes": (
        PERFECT,
        Target(task="counting", size_wh=(9, 9), count=2),
        "counting",
        "boxes instead of a number: the answer lists 2 boxes, preset counting reads one number -> preset counting-",
    ),
    "count, with boxes after reasoning": (
        f"<think>There are 2.</think>{PERFECT}",
        Target(task="counting", size_wh=(9, 9), count=2),
        "counting",
        "boxes instead of a number",
    ),
    "count, with a bare box": (
        "[1, 2, 3, 4]",
        Target(task="counting", size_wh=(9, 9), count=1),
        "counting",
        "boxes instead of a number: the answer lists 1 box, preset counting reads one number -> preset counting-",
    ),
    "count, with points": (
        '[{"point_2d": [1, 2], "label": "cat"}]',
        Target(task="counting", size_wh=(9, 9), count=1),
        "counting",
        "points instead of a number: the answer lists 1 point",
    ),
    "count, with boxes cut off": (
        PERFECT[:-20],
        Target(task="counting", size_wh=(9, 9), count=2),
        "counting",
        "boxes instead of a number",
    ),
    "list, with a number": (
        "2",
        Target(task="counting", size_wh=(9, 9), count=2),
        "counting-list",
        "a number instead of a list: the answer is 2",
    ),
    "list cut off": (
        PERFECT[:-20],
        Target(task="counting", size_wh=(9, 9), count=2),
        "counting-list",
        "truncated: after 1 box the list is cut off",
    ),
    "decimal comma": (
        "12,5",
        Target(task="text", answer="12.5"),
        "number",
        "decimal comma: says '12,5', expected '12.5'; a comma is read as a separator -> ask for a decimal point",
    ),
    "thousands": ("1,234", Target(task="text", answer="1234"), "number", "nothing wrong"),
    "two numbers": ("12, 5", Target(task="text", answer="12.5"), "number", "answer among other words"),
    "text cut off": ("\\boxed{12", Target(task="text", answer="125"), "number", "truncated: the answer is cut off"),
    "text differs": (
        "Rome",
        Target(task="text", answer="Paris"),
        "text-exact",
        "answer differs: says 'Rome', expected",
    ),
    "text among words": (
        "It is Paris.",
        Target(task="text", answer="Paris"),
        "text-exact",
        "answer among other words: says 'It is Paris.'",
    ),
    "text reasoned": (
        "<think>Paris</think>",
        Target(task="text", answer="Paris"),
        "text-exact",
        "only in the reasoning",
    ),
    "text right": ("paris", Target(task="text", answer="Paris"), "text-exact", "nothing wrong"),
}


@pytest.mark.parametrize(("text", "target", "preset", "expected"), OTHER_CASES.values(), ids=OTHER_CASES)
def test_other_tasks_and_presets(text: str, target: Target, preset: str, expected: str) -> None:
    assert cause(text, target, preset).startswith(expected)


def test_a_twin_that_reads_the_text_itself_is_explained_too() -> None:
    wrapped = "<think>x</think>\n<answer>\n```json\n{}\n```\n</answer>"
    twin = "vlmr1-ovd-released"
    assert cause(wrapped.replace("{}", PERFECT), preset=twin).startswith("nothing wrong")
    duplicated = wrapped.replace("{}", said((CAT, "cat"), (CAT, "cat"), (DOG, "dog")))
    assert cause(duplicated, preset=twin).startswith("duplicate: box 2")


# --- points ----------------------------------------------------------------------------------------------------------


def hits(answer, target) -> float:
    boxes = target.boxes_xyxy
    found = {t for x, y in answer.points_xy for t, b in enumerate(boxes) if b[0] <= x <= b[2] and b[1] <= y <= b[3]}
    return len(found) / max(len(boxes), len(answer.points_xy), 1)


def sound(answer) -> float:
    return 0.0 if answer.defects else 1.0


POINTING = Preset(
    "points", (Criterion("hits", hits), Criterion("format", sound)), tasks=("pointing",), answer_format="qwen-points",
    matching="none",
)  # fmt: skip
POINTED = Target(task="pointing", size_wh=SIZE_WH, boxes_xyxy=[CAT, DOG], labels=["cat", "dog"])


def pointed(*items: tuple[tuple[float, float], str]) -> str:
    return json.dumps([{"point_2d": list(point), "label": label} for point, label in items])


POINT_CASES = {
    "right": (pointed(((600, 250), "cat"), ((1500, 800), "dog")), "nothing wrong"),
    "beside": (pointed(((600, 250), "cat"), ((1500, 470), "dog")), "outside: point 2 lies 30 px outside the object"),
    "twice": (pointed(((600, 250), "cat"), ((1500, 800), "dog"), ((610, 250), "cat")), "duplicate: point 3"),
    "missed": (pointed(((600, 250), "cat")), "missed 1 of 2 objects"),
    "boxes": (PERFECT, "boxes instead of points"),
    "wrong frame": (pointed(((300, 208), "cat"), ((750, 667), "dog")), "wrong frame: read as qwen3-vl (0-1000) 100%"),
    "truncated": (
        pointed(((600, 250), "cat"), ((1500, 800), "dog"))[:-20],
        "truncated: after 1 point the list is cut off",
    ),
    "no label": ('[{"point_2d": [600, 250]}, {"point_2d": [1500, 800]}]', "no label: points 1 and 2 have no label"),
    "quoted": (
        '[{"point_2d": ["600", "250"], "label": "cat"}]',
        "bad box: object 1 in the text is not read (numbers in qu",
    ),
    "three numbers": (
        '[{"point_2d": [6, 2, 5], "label": "cat"}]',
        "bad box: object 1 in the text is not read (3 numbers in",
    ),
    "duplicates": (
        pointed(*[((600, 250), "cat")] * 3, ((1500, 800), "dog")),
        "duplicate: point 2 repeats point 1",
    ),
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


def test_a_click_that_hits_in_another_frame_only_is_a_hint() -> None:
    large = Target(task="pointing", size_wh=SIZE_WH, boxes_xyxy=[(420, 330, 820, 530)], labels=["ok"])
    said_of = cause("(234,312)", large, "gui-click")
    assert said_of.startswith(
        "outside: point 1 lies 187 px outside the object; read as qwen3-vl it lies on it, which may"
    )
    assert "-> a guess: frame=qwen3-vl, if other completions fit it too" in said_of
    small = Target(task="pointing", size_wh=SIZE_WH, boxes_xyxy=[(450, 360, 490, 390)], labels=["ok"])
    assert cause("(234,312)", small, "gui-click").startswith("wrong frame: read as qwen3-vl")
    assert "guess" not in cause("(1900,1100)", large, "gui-click")
    assert cause("(500,400)", large, "gui-click").startswith("nothing wrong")


def test_a_point_in_the_bounds_of_a_mask_but_not_on_it_lies_outside() -> None:
    corner = Mask(polygons=((0.0, 0.0, 100.0, 0.0, 0.0, 100.0),))
    target = Target(task="pointing", size_wh=(200, 200), masks=[corner], labels=["cat"])
    exam = exam_of(pointed(((90, 90), "cat")), target, POINTING)
    assert [verdict.counted_as for verdict in verdicts_of(exam)[0]] == ["outside"]
    exam = exam_of(pointed(((20, 20), "cat")), target, POINTING)
    assert [verdict.counted_as for verdict in verdicts_of(exam)[0]] == ["match"]


# --- what findings are -----------------------------------------------------------------------------------------------


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
    assert [finding.cause for finding in findings_of(exam)] == ["loose box"]
    assert str(cause_of(exam, findings_of(exam))) == "nothing wrong: reward 1.000"


def test_a_criterion_of_form_is_named_where_no_content_could_satisfy_it() -> None:
    def rhymes(completion: str) -> float:
        """1.0 iff the answer rhymes."""
        return 0.0

    preset = replace(PRESETS["visionr1"], criteria=(*PRESETS["visionr1"].criteria, Criterion("rhymes", rhymes)))
    assert cause(PERFECT, preset=preset).startswith("criterion rhymes gives 0.00 whatever the content: 1.0 iff the ans")


def test_ignored_boxes_are_not_blamed() -> None:
    target = Target(
        task="detection", size_wh=SIZE_WH, boxes_xyxy=[CAT], labels=["cat"], ignore_xyxy=[(1100, 400, 1900, 1190)]
    )
    exam = exam_of(PERFECT, target)
    assert [verdict.counted_as for verdict in verdicts_of(exam)[0]] == ["match", "ignored"]
    assert cause(PERFECT, target).startswith("nothing wrong")


def test_every_defect_has_words() -> None:
    assert set(WORDS) == set(Defect)


# --- claims ----------------------------------------------------------------------------------------------------------

CLAIMS = {
    "single quotes": ("[{'bbox_2d': [1, 2, 3, 4], 'label': 'cat'}]", (1.0, 2.0, 3.0, 4.0), "cat", ""),
    "nested": ('{"boxes": [[1, 2, 3, 4]]}', (1.0, 2.0, 3.0, 4.0), "", ""),
    "no width": ('{"bbox_2d": [1, 2, 1, 4]}', (1.0, 2.0, 1.0, 4.0), "", "no width: x1 = x2 = 1"),
    "three": ('{"bbox_2d": [1, 2, 3]}', (1.0, 2.0, 3.0), "", "3 numbers instead of 4"),
    "texts": ('{"bbox_2d": ["1", 2, 3, 4]}', (), "", "numbers in quotes"),
    "one text": ('{"bbox_2d": "1, 2, 3, 4"}', (), "", "numbers in quotes"),
    "corners": ('{"bbox_2d": [[1, 2], [3, 4]]}', (), "", "numbers in nested lists"),
    "null": ('{"bbox_2d": [null, 2, 3, 4]}', (), "", "not finite numbers"),
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


# --- never raises ----------------------------------------------------------------------------------------------------

TARGETS = {
    "detection": [TARGET, NEGATIVE],
    "grounding": [Target(task="grounding", size_wh=(64, 48), boxes_xyxy=[(1, 1, 20, 20)], labels=["cat"])],
    "counting": [
        Target(task="counting", size_wh=(64, 48), count=3),
        Target(task="counting", size_wh=(64, 48), count=0),
    ],
    "pointing": [POINTED, Target(task="pointing", size_wh=(64, 48), points_xy=[(3, 3)])],
    "text": [Target(task="text", answer="B", choices=["a", "b"]), Target(task="text", answer="3.5")],
}
SLOW = {"math", "vlmr1-math-released"}  # a child process judges each new text
QUICK = [preset for name, preset in PRESETS.items() if name not in SLOW] + [POINTING]
PIECES = [
    *(answer_format.example for answer_format in FORMATS.values()),
    *[
        PERFECT,
        PERFECT[:60],
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "```json\n",
        "```",
        "[",
        "]",
        "{",
        "}",
        ",",
        '"',
    ],
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
    for text in (
        "[" * 1_000_000,
        said((CAT, "cat"))[:-1] * 10_000,
        "<think>" + "x" * 1_000_000,
        "[1,2,3,4]," * 100_000,
    ):
        assert not grows_too_fast(lambda n, text=text: cause(text[:n]), len(text)), text[:20]
