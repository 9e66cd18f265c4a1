"""Why a reward is what it is: each typical failure is named first, whatever else is wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from exams import CAT, DOG, GRID, INVERTED, NEGATIVE, PERFECT, SIZE_WH, TARGET, WHOLE, cause, exam_of, of, said, scaled

from verl_visionr1 import PRESETS, Target
from verl_visionr1.tools.explain.diagnosis import findings_of


def both(width: float, height: float) -> str:
    return said((scaled(CAT, width, height), "cat"), (scaled(DOG, width, height), "dog"))


SWAPPED = [(tuple(box[i] for i in (1, 0, 3, 2)), label) for box, label in ((CAT, "cat"), (DOG, "dog"))]
ITEMS = json.loads(PERFECT)
FAILURES = {  # the answer -> how the cause begins
    "perfect": (PERFECT, "nothing wrong: reward 1.000"),
    "fenced": (f"```json\n{PERFECT}\n```", "nothing wrong"),
    "wrong frame": (
        both(1000, 1000),
        "wrong frame: read as qwen3-vl (0-1000) the boxes reach IoU 0.999 instead of 0.1",
    ),
    "processed": (both(1260, 756), "wrong frame: read as qwen2.5-vl (pixels of the image processed to 1260x756)"),
    "percent": (both(100, 100), "wrong frame: read as percent"),
    "numbers 0-1": (both(1, 1), "numbers 0-1: "),
    "numbers 0-1, all wrong": (said(((0.01, 0.9, 0.02, 0.92), "cat")), "numbers 0-1: "),
    "swapped axes": (said(*SWAPPED), "swapped axes: read as y1, x1, y2, x2"),
    "width and height": (
        said(((200, 100, 800, 300), "cat"), ((1200, 500, 600, 600), "dog")),
        "width and height: read as x, y, width, height the boxes reach IoU 1.000 instead of 0.250 -> ask for x1",
    ),
    "truncated": (PERFECT[:-20], "truncated: after 1 box "),
    "truncated, nothing read": ('[{"bbox_2d": [200, 1', "truncated: after 0 boxes"),
    "prose": (f"Here you are: {PERFECT}", "prose around the list: 'Here you are:' "),
    "wrong label": (said((CAT, "kitty"), (DOG, "dog")), "wrong label: 'kitty' is not among cat, dog"),
    "labels exchanged": (said((CAT, "dog"), (DOG, "cat")), "wrong label: box 1 has label 'dog'"),
    "duplicate": (said((CAT, "cat"), (CAT, "cat"), (DOG, "dog")), "duplicate: box 2 repeats box 1 "),
    "inverted": (said((INVERTED, "cat"), (DOG, "dog")), "inverted box: object 1 in the text not read (x1 = 1000 > x2"),
    "points": (json.dumps([{"point_2d": [600, 250], "label": "cat"}]), "points instead of boxes"),
    "points of another model": ('<point x="30.0" y="20.8" alt="cat">cat</point>', "points instead of boxes"),
    "griffon": ("cat-[0.100,0.083,0.500,0.333]&dog-[0.600,0.417,0.900,0.917]", "other format: this is griffon"),
    "wrong key": (PERFECT.replace("bbox_2d", "box"), "wrong key: the boxes have the key 'box' instead of 'bbox_2d'"),
    "empty": ("", "empty"),
    "prose only": ("I see a cat and a dog.", "no list: the answer is prose or a single value: 'I see a cat"),
    "nothing found": ("[]", "missed 2 of 2 objects: 'cat', 'dog'"),
    "missed": (said((CAT, "cat")), "missed 1 of 2 objects: 'dog'"),
    "junk": (said((CAT, "cat"), (DOG, "dog"), ((0, 600, 300, 900), "cat")), "junk: box 3 "),
    "only reasoned": (f"<think>{PERFECT}</think>", "only in the reasoning: 2 boxes"),
    "unclosed": (f"<think>{PERFECT}", "only in the reasoning: 2 boxes in the reasoning, which was never closed"),
    "unclosed, no boxes": ("<think>Well, let me see", "unclosed reasoning"),
    "below": (said(((200, 100, 580, 400), "cat"), (DOG, "dog")), "below the threshold: box 1 reaches IoU 0.475 < 0.5 "),
    "half the threshold": (said(((200, 100, 410, 400), "cat"), (DOG, "dog")), "below the threshold: box 1 "),
    "less than half": (said(((200, 100, 390, 400), "cat"), (DOG, "dog")), "off target: box 1 reaches IoU 0.237 ->"),
    "loose": (said(((200, 100, 700, 400), "cat"), (DOG, "dog")), "loose box: box 1 reaches IoU 0.625; "),
    "no label": (json.dumps([{"bbox_2d": CAT}, {"bbox_2d": DOG, "label": "dog"}]), "no label: each"),
    "not finite": (PERFECT.replace("[200", "[1e999"), "bad box: object 1 in the text not read (not bare, finite"),
    "quoted": (PERFECT.replace("[200, ", '["200", '), "bad box: object 1 in the text not read (not bare, finite"),
    "one text": ('[{"bbox_2d": "200, 100, 1000, 400", "label": "cat"}]', "bad box: object 1 in the text not read (not"),
    "nested": ('[{"bbox_2d": [[200, 100], [1000, 400]], "label": "cat"}]', "bad box: object 1 in the text not read"),
    "python": (str(ITEMS), "malformed: Python, not JSON"),
    "python, other literals": (
        str([{**it, "bbox_2d": (*it["bbox_2d"],), "x": None} for it in ITEMS]),
        "malformed: Pyt",
    ),
    "comma too many": (PERFECT.replace("}]", "},]"), "malformed: Python, not JSON"),
    "typographic quotes": (PERFECT.replace('"', "\u201d"), "malformed: typographic quotes"),
    "bare keys": (PERFECT.replace('"bbox_2d"', "bbox_2d").replace('"label"', "label"), "malformed: '[{bbox_2d: "),
    "over the edge": (
        said((CAT, "cat"), ((1200, 500, 1800, 1260), "dog")),
        "outside: object 2 (1200, 500, 1800, 1260)",
    ),
    "bare": (
        "[200, 100, 1000, 400]",
        "other format: this is list, like '[[10, 20, 30, 40], [50, 60, 70, 80]]'; preset",
    ),
    "bare, in GLM's tokens": ("<|begin_of_box|>[[200,100,1000,400]]<|end_of_box|>", "other format: this is glm"),
    "whole image": (
        said((WHOLE, "cat"), (WHOLE, "dog")),
        "off target: box 2 reaches IoU 0.150, the best of 2 such boxes; as large as the image: boxes 1, 2 ",
    ),
    "far too many": (said(*GRID), "too many boxes: 300 for 2 objects"),
    "far too many, and the right ones": (said((CAT, "cat"), (DOG, "dog"), *GRID), "too many boxes: 302 for 2 objects"),
    "the whole image, many times": (
        said(*[(WHOLE, "cat"), (WHOLE, "dog")] * 50),
        "too many boxes: 100 for 2 objects (98 repeat another",
    ),
}


@pytest.mark.parametrize(("text", "expected"), FAILURES.values(), ids=FAILURES)
def test_the_cause_comes_first(text: str, expected: str) -> None:
    assert cause(text).startswith(expected)


@pytest.mark.parametrize("preset", ["visionr1", "vlmr1-ovd", "v-triune", "big-vision", "rec-giou"])
@pytest.mark.parametrize("failure", ["wrong frame", "truncated", "duplicate", "inverted", "wrong label", "prose"])
def test_the_cause_is_the_same_under_any_preset(preset: str, failure: str) -> None:
    text, expected = FAILURES[failure]
    assert cause(text, preset=preset).startswith(expected[:12])


ONE, TWO = said((CAT, "cat")), said((DOG, "dog"))
EXAMPLE = '[{"bbox_2d": [x1, y1, x2, y2], "label": "..."}]'
SEVERAL = {
    "an object a block": f"```json\n{ONE}\n```\n```json\n{TWO}\n```",
    "corrected": f"```json\n[]\n```\nOr rather:\n```json\n{PERFECT}\n```",
    "an example before": f"As asked:\n```json\n{EXAMPLE}\n```\n```json\n{PERFECT}\n```",
    "an example in the tags": f"<answer>```json\n{EXAMPLE}\n``` ```json\n{PERFECT}\n```</answer>",
    "code before": f"```python\nboxes = 2\n```\n```json\n{PERFECT}\n```",
    "a list, then a block": f"{ONE}\n```json\n{TWO}\n```",
    "a list an object": f"{ONE}\n{TWO}",
}


@pytest.mark.parametrize("text", SEVERAL.values(), ids=SEVERAL)
def test_several_lists_and_blocks_are_named(text: str) -> None:
    exam = exam_of(text)
    first = findings_of(exam)[0]
    assert (first.cause, exam.value + first.gain) == ("several lists", pytest.approx(1.0))


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
    (found,) = [it for it in findings_of(exam_of(both(1024, 1024))) if it.cause == "wrong frame"]
    assert "frame=qwen3-vl" in found.fix
    assert "paligemma" not in str(found)


@pytest.mark.parametrize("preset", ["visionr1", "vlmr1-ovd", "v-triune", "big-vision", "visionr1-paper"])
def test_far_too_many_boxes_are_priced_together(preset: str) -> None:
    assert cause(said(*GRID), preset=preset).startswith("too many boxes: 300 for 2 objects")
    exam = exam_of(said((CAT, "cat"), (DOG, "dog"), *GRID), preset=preset)
    (found,) = [finding for finding in findings_of(exam) if finding.cause == "too many boxes"]
    assert found.gain == pytest.approx(exam.to_full, abs=1e-6), "without them, nothing is wrong"
    assert found.gain > 0.1


def test_a_few_boxes_too_many_are_junk_and_duplicates() -> None:
    exam = exam_of(said((CAT, "cat"), (DOG, "dog"), (CAT, "cat"), *GRID[:3]))
    assert [finding.cause for finding in findings_of(exam)] == ["junk", "duplicate"]


CAT_ONLY = Target(task="grounding", size_wh=SIZE_WH, boxes_xyxy=[CAT], labels=["cat"])
SMALL = Target(task="grounding", size_wh=SIZE_WH, boxes_xyxy=[(200, 100, 500, 400)], labels=["cat"])
NO_LABELS = replace(PRESETS["visionr1"], answer_format="list")
WRAPPED = "<think>x</think>\n<answer>\n```json\n{}\n```\n</answer>"
OTHERS = {
    "false alarm": (said((CAT, "cat")), NEGATIVE, "visionr1", "false alarm: 1 box on an image without any cat, dog"),
    "right refusal": ("[]", NEGATIVE, "visionr1", "nothing wrong"),
    "bare, in another frame": (str([100, 83, 500, 333]), CAT_ONLY, "visionr1", "other format: this is list"),
    "a format without labels": (json.dumps([CAT, DOG]), TARGET, NO_LABELS, "no label: boxes 1, 2 "),
    "off target, without thresholds": (said((WHOLE, "cat")), SMALL, "rec-giou", "off target: box 1 reaches IoU 0.037;"),
    "no fence": (PERFECT, TARGET, "vlmr1-ovd-released", "no fence: preset vlmr1-ovd-released "),
    "released": (WRAPPED.replace("{}", PERFECT), TARGET, "vlmr1-ovd-released", "nothing wrong"),
    "released, twice": (
        WRAPPED.replace("{}", said((CAT, "cat"), (CAT, "cat"))),
        TARGET,
        "vlmr1-ovd-released",
        "missed",
    ),
    "prose, released": (f"Sure: {PERFECT}", TARGET, "visionr1-released", "prose around the list: 'Sure:'"),
    "labels do not matter": (said((CAT, "x"), (DOG, "y")), TARGET, "visionr1-paper", "nothing wrong"),
    "count off": ("7", of(5), "counting", "count off by 2: answer 7, expected 5"),
    "count of a list": (
        PERFECT,
        of(3),
        "counting-list",
        "count off by 1: answer 2 (the length of its list), expected 3",
    ),
    "count reasoned": ("<think>There are 5</think>", of(5), "counting", "only in the reasoning"),
    "count in prose": ("There are 5 cats.", of(5), "counting", "prose around"),
    "count, with boxes": (PERFECT, of(2), "counting", "boxes instead of a number"),
    "count, with a bare box": ("[1, 2, 3, 4]", of(1), "counting", "boxes instead of a number"),
    "two counts": ("3 or 4", of(3), "counting", "no count: the answer has no number, several different ones"),
    "count, with points": ('[{"point_2d": [1, 2]}]', of(1), "counting", "points instead of a number"),
    "decimal comma": ("12,5", of("12.5"), "number", "answer differs: answer '12,5', expected '12.5'"),
    "list, with a number": ("2", of(2), "counting-list", "no list: the answer is prose or a single value: '2'"),
    "list, with points": ('[{"point_2d": [1, 2]}]', of(2), "counting-list", "points instead of boxes: "),
    "list cut off": (PERFECT[:-20], of(2), "counting-list", "truncated: after 1 box the list is cut off"),
    "thousands": ("1,234", of("1234"), "number", "nothing wrong"),
    "text cut off": ("\\boxed{12", of("125"), "number", "truncated: the answer is cut off"),
    "text differs": ("Rome", of("Paris"), "text-exact", "answer differs: answer 'Rome', expected 'Paris'"),
    "text among words": ("It is Paris.", of("Paris"), "text-exact", "answer among other words: answer 'It is Paris.'"),
    "text reasoned": ("<think>Paris</think>", of("Paris"), "text-exact", "only in the reasoning"),
    "text right": ("paris", of("Paris"), "text-exact", "nothing wrong"),
}


@pytest.mark.parametrize(("text", "target", "preset", "expected"), OTHERS.values(), ids=OTHERS)
def test_other_tasks_and_presets(text: str, target: Target, preset: str, expected: str) -> None:
    assert cause(text, target, preset).startswith(expected)
