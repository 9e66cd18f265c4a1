"""visionr1 convert records --preset: the rows of each framework, their traps, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from recorded import BOX, NAME, PICTURE, convert, converted
from refused import mentions
from scene_sets.base import prompt, target
from scene_sets.frameworks import VISUAL_RFT
from scene_sets.row_files import write_parquet

from verl_visionr1.answers import FORMATS as ANSWER_FORMATS
from verl_visionr1.answers import instruction
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.rewards import PRESETS


@pytest.fixture(autouse=True)
def images(tmp_path: Path) -> None:
    PICTURE.save(tmp_path)


# ------------------------------------------------------------------------------------------------ ms-swift


def swift(user: str, assistant: str, objects: Any = None, **more: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return {"messages": turns, "images": [NAME], **({"objects": objects} if objects is not None else {}), **more}


OTHER = (1.0, 2.0, 30.0, 40.0)
BOTH = [list(BOX), list(OTHER)]


# As ms-swift documents it for Qwen's JSON (its docs forget the comma), and with the keys in another order.
QWEN_JSON = '[\n\t{"bbox_2d": <bbox>, "label": "<ref-object>"}\n\t{"bbox_2d": <bbox>, "label": "<ref-object>"}\n]'
JSON_LABEL_FIRST = '[{"label": "<ref-object>", "bbox_2d": <bbox>}, {"label": "<ref-object>", "bbox_2d": <bbox>}]'
JSON_MIXED = '[{"bbox_2d": <bbox>, "label": "<ref-object>"}, {"label": "<ref-object>", "bbox_2d": <bbox>}]'


@pytest.mark.parametrize(
    ("user", "assistant", "refs", "labels", "task"),
    [
        ("Find <ref-object>", "<bbox><bbox>", ["cat"], ["cat", "cat"], "grounding"),
        ("Find <ref-object> and <ref-object>", "<bbox><bbox>", ["cat", "dog"], ["cat", "dog"], "detection"),
        ("Describe it", "<ref-object><bbox> and <ref-object><bbox>", ["cat", "dog"], ["cat", "dog"], "detection"),
        ("Describe it", "<ref-object><bbox><bbox>, no <ref-object>", ["cat", "dog"], ["cat", "cat"], "detection"),
        ("Find the <ref-object>", QWEN_JSON, ["cat", "cat", "cat"], ["cat", "cat"], "grounding"),
        ("Find <ref-object>, <ref-object>", QWEN_JSON, ["dog", "cat", "cat", "dog"], ["cat", "dog"], "detection"),
        ("Find everything", JSON_LABEL_FIRST, ["cat", "dog"], ["cat", "dog"], "detection"),
        ("Find everything", JSON_MIXED, ["cat", "dog"], ["cat", "dog"], "detection"),
        ("Describe it", "<bbox> is a <ref-object>, <bbox> a <ref-object>", ["cat", "dog"], ["cat", "dog"], "detection"),
        ("Describe it", "<bbox><bbox> are a <ref-object>", ["cat"], ["cat", "cat"], "grounding"),
    ],
)
def test_ms_swift_pairs(
    user: str, assistant: str, refs: list[str], labels: list[str], task: str, tmp_path: Path
) -> None:
    (found,), _ = convert(tmp_path, swift(user, assistant, {"ref": refs, "bbox": BOTH}), preset="ms-swift")
    truth = target(found)
    assert (truth.task, truth.categories) == (task, tuple(dict.fromkeys(refs)))
    assert sorted(zip(truth.labels, truth.boxes_xyxy, strict=True)) == sorted(zip(labels, (BOX, OTHER), strict=True))


@pytest.mark.parametrize("refs", [{"ref": []}, {}])
def test_ms_swift_labels_that_the_answer_writes_out(refs: dict[str, Any], tmp_path: Path) -> None:
    answer = QWEN_JSON.replace("}\n\t{", "},\n{").replace("<ref-object>", "cat", 1).replace("<ref-object>", "dog", 1)
    (found,), _ = convert(tmp_path, swift("Find all", answer, {**refs, "bbox": BOTH}), preset="ms-swift")
    assert (target(found).labels, target(found).boxes_xyxy) == (("cat", "dog"), (BOX, OTHER))
    with pytest.raises(RowError) as caught:
        convert(tmp_path, swift("Find all", answer, {**refs, "bbox": BOTH[:1]}), preset="ms-swift")
    assert caught.value.kind == "box without a phrase"


def test_ms_swift_questions(tmp_path: Path) -> None:
    rows = (
        swift("<image>Open the browser", "click(<bbox>)", {"ref": [], "bbox": [[15, 26]]}),
        swift("<image>What is it?", "a cat"),
        swift("<image>What is <bbox>?", "a cat", {"ref": [], "bbox": [list(BOX)]}),
        {**swift("", ""), "messages": [{"role": "user", "content": "And?"}] * 2},
        {**swift("", ""), "messages": [{"role": "user", "content": "Red?"}], "solution": "yes"},
    )
    found, report = convert(tmp_path, *rows, preset="ms-swift")
    assert [it["ability"] for it in found] == ["pointing", "text", "text"]
    assert target(found[0]).points_xy == ((15, 26),)
    assert [target(it).answer for it in found[1:]] == ["a cat", "yes"]
    assert report.ledger.left_out == {
        "row that asks about a given box": 1,
        "conversation of several turns, or without an answer": 1,
    }


def box_objects(**changes: Any) -> dict[str, Any]:
    return {"ref": ["a"], "bbox": [list(BOX)], **changes}


def rft(solution: Any, problem: str | None = None) -> dict[str, Any]:
    return {"image": NAME, "problem": problem or VISUAL_RFT.format("hot dog"), "solution": solution}


def test_visual_rft(tmp_path: Path) -> None:
    """0-1000, Python's quotes; its own words on the answer are not asked again."""
    rows = (
        rft("<answer>[{'Position': [250, 0, 1000, 500], 'Confidence': 1}]</answer>"),
        rft("<answer>No Objects</answer>"),
        rft(
            "<answer> 727-200 </answer>", "Which model is it?\nOutput the thinking process in <think> </think> and ..."
        ),
    )
    found, report = convert(tmp_path, *rows, preset="visual-rft")
    assert [target(it).boxes_xyxy for it in found] == [((40, 0, 160, 60),), (), ()]
    assert target(found[0]).categories == ("hot dog",)
    assert prompt(found[0]) == instruction("grounding", ["hot dog"], allow_none=True)
    assert report.negatives == {"grounding": 1, "text": 0}
    assert (target(found[2]).answer, prompt(found[2])) == (
        "727-200",
        "Which model is it? Answer with the final answer alone.",
    )
    kept, _ = convert(tmp_path, *rows, preset="visual-rft", keep_prompts=True)
    assert prompt(kept[0]) == VISUAL_RFT.format("hot dog")


def test_seg_zero_keeps_the_warped_image(tmp_path: Path) -> None:
    """Its image and its boxes are both on 840 x 840: they fit each other, only the aspect is lost."""
    PICTURE.image().resize((840, 840)).save(tmp_path / "warped.png")
    solution = json.dumps([{"bbox_2d": [84, 84, 420, 420], "point_2d": [100, 100]}])
    made = {"id": 3, "image": "warped.png", "problem": "the cat", "solution": solution}
    tagged = {**made, "solution": "<box>(84,84),(420,420)</box><points>(100,100),(110,110)</points>"}
    found, report = convert(tmp_path, {**made, "img_width": 160, "img_height": 120}, tagged, preset="seg-zero")
    assert [target(it).boxes_xyxy for it in found] == [((84, 84, 420, 420),)] * 2
    assert target(found[0]).size_wh == (840, 840)
    assert target(found[0]).categories == ("the cat",)
    assert report.ledger.notes["image warped to 840 x 840 by its authors: used unchanged"] == 2
    assert report.ledger.notes["point beside a box: box used"] == 1
    (found,), _ = convert(tmp_path, {**made, "image": NAME}, preset="seg-zero")  # the original image
    assert target(found).boxes_xyxy == ((16, 12, 80, 60),)


def test_r1_v(tmp_path: Path) -> None:
    rows = (
        {"image": NAME, "problem": "How many items?", "solution": "<answer> 3 </answer>"},
        {"image": NAME, "problem": "What angle?", "solution": "<answer> 145° </answer>"},
    )
    found, _ = convert(tmp_path, *rows, preset="r1-v")
    assert [(target(it).task, target(it).count, target(it).answer) for it in found] == [
        ("counting", 3, None),
        ("text", None, "145°"),
    ]


def easy(**changes: Any) -> dict[str, Any]:
    return {"images": [NAME], "problem": "<image>Find x.", "answer": "4 \\sqrt{2}", **changes}


def test_easyr1(tmp_path: Path) -> None:
    (found,), _ = convert(tmp_path, easy(), preset="easyr1")
    assert (target(found).answer, prompt(found)) == ("4 \\sqrt{2}", "Find x. Answer with the final answer alone.")
    path = write_parquet(tmp_path / "a.parquet", [easy(images=[(tmp_path / NAME).read_bytes()])])
    (found,), _ = converted(path, preset="easyr1", keep_prompts=True)
    assert prompt(found) == "Find x."


def gui(place: Any, **changes: Any) -> dict[str, Any]:
    row = {"image": NAME, "instruction": "open the menu", "gt_action": "click", "gt_bbox": place, "history": "None"}
    return {**row, **changes}


def test_gui_r1(tmp_path: Path) -> None:
    rows = (
        gui([0.25, 0.5]),
        gui([0.25, 0.5, 0.5, 1.0], history="Step 1: scroll."),
        gui([-100, -100], gt_action="scroll"),
        gui([0.1, 0.1], gt_action="type"),
    )
    found, report = convert(tmp_path, *rows, preset="gui-r1")
    assert [(target(it).points_xy, target(it).boxes_xyxy) for it in found] == [
        (((40, 60),), ()),
        ((), ((40, 60, 80, 120),)),
    ]
    assert {it["ability"] for it in found} == {"pointing"}
    then = ANSWER_FORMATS[PRESETS["gui-click"].answer_format].then
    assert prompt(found[0]) == f'Click on the element: "open the menu". {then}'
    assert 'The task on this screen: "open the menu". Done so far: Step 1: scroll.' in prompt(found[1])
    assert sum(report.ledger.left_out.values()) == 2
    found, _ = convert(tmp_path, *rows, preset="gui-r1", answer_format="qwen-points")
    assert ANSWER_FORMATS["qwen-points"].then in prompt(found[0])


def test_rex_thinker_without_an_object(tmp_path: Path) -> None:
    (found,), _ = convert(tmp_path, {"image_name": NAME, "referring": "the cat", "ans": None}, preset="rex-thinker")
    assert target(found).boxes_xyxy == ()


def test_llamafactory(tmp_path: Path) -> None:
    turns = [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "<image>What?"}]
    made = {"conversations": [*turns, {"from": "gpt", "value": "a cat"}], "images": [NAME]}
    openai = {"messages": [{"role": "user", "content": "<image>Why?"}, {"role": "assistant", "content": "so"}]}
    found, report = convert(tmp_path, made, {**openai, "images": [NAME]}, preset="llamafactory")
    assert [target(it).answer for it in found] == ["a cat", "so"]
    assert report.ledger.notes["system prompt dropped"] == 1


REFUSED = {
    "phrases and boxes": ("ms-swift", swift("<ref-object>, <ref-object>", "<bbox>" * 3,
        {"ref": ["a", "b"], "bbox": [*BOTH, [5, 6, 7, 8]]}), ("2 ref", "3 bbox")),
    "too few phrases": ("ms-swift", swift("Find <ref-object>", QWEN_JSON, {"ref": ["a"], "bbox": BOTH}),
        ("3 <ref-object>", "1 ref")),
    "too many boxes": ("ms-swift", swift("Find", QWEN_JSON, {"ref": ["a", "b"], "bbox": [*BOTH, list(BOX)]}),
        ("2 ref", "3 bbox")),
    "unknown unit": ("ms-swift", swift("Find", "<bbox>", box_objects(bbox_type="norm1000")), ("'norm1000'", "norm1")),
    "unit of no text": ("ms-swift", swift("Find", "<bbox>", box_objects(bbox_type=[])), ("ref", "bbox")),
    "list of boxes": ("ms-swift", swift("Find", "<bbox>", [list(BOX)]), ("ref", "bbox")),
    "box and point": ("ms-swift", swift("Find", "<bbox>", box_objects(bbox=[list(BOX), [1, 2]])), ("[1, 2]",)),
    "no turns": ("ms-swift", {"messages": "Find"}, ("messages Find",)),
    "code": ("visual-rft", rft("<answer>[{'Position': __import__('os').system('true')}]</answer>"), ("import",)),
    "product": ("visual-rft", rft("<answer>[{'Position': [1, 2, 3, 4 * 10]}]</answer>"), ("4 * 10",)),
    "brackets": ("visual-rft", rft(f"<answer>[{{'Position': {'(' * 5000}</answer>"), ("Position",)),
    "nested": ("visual-rft", rft(f"<answer>[{{'Position': {'[' * 40_000}{']' * 40_000}}}]</answer>"), ("Position",)),
    "long": ("visual-rft", rft("1" * 100_001), ("100001",)),
    "words": ("seg-zero", {"image": NAME, "problem": "the cat", "solution": "left"}, ("'left'",)),
    "two images": ("easyr1", easy(images=[NAME, NAME]), ("2 images",)),
    "no problem": ("easyr1", easy(problem=None), ("'None'",)),
    "no box format": ("easyr1", easy(answer=json.dumps([{"bbox_2d": list(BOX)}])), ("--box-format",)),
    "three numbers": ("gui-r1", gui([1, 2, 3]), ("[1, 2, 3]",)),
    "pixels": ("gui-r1", gui([40, 60, 80, 110]), ("(160, 120)",)),
    "no image name": ("rex-thinker", {"images": [NAME], "problem": "p", "answer": "[]"}, ("image_name",)),
}  # fmt: skip


@pytest.mark.parametrize(("preset", "bad", "values"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(preset: str, bad: dict[str, Any], values: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(RowsError) as caught:
        convert(tmp_path, bad, preset=preset)
    assert mentions(caught.value, "a.jsonl", *values)
