"""visionr1 convert records --preset: the rows of each framework, their traps, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from recorded import BOX, NAME, PICTURE, convert, converted
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
        ("Find <ref-object>", "<ref-object><bbox><bbox>", ["cat", "cat"], ["cat", "cat"], "grounding"),
        ("Find the <ref-object>", QWEN_JSON, ["cat", "cat", "cat"], ["cat", "cat"], "grounding"),
        ("Find everything", QWEN_JSON, ["cat", "dog"], ["cat", "dog"], "detection"),
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
    truth = target(found)
    assert (truth.labels, truth.boxes_xyxy) == (("cat", "dog"), (BOX, OTHER))
    with pytest.raises(RowError, match=r"2 labels .*1 bbox"):
        convert(tmp_path, swift("Find all", answer, {**refs, "bbox": BOTH[:1]}), preset="ms-swift")


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


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (swift("<ref-object>, <ref-object>", "<bbox>" * 3, {"ref": ["a", "b"], "bbox": [*BOTH, [5, 6, 7, 8]]}),
         "objects have 2 ref and 3 bbox"),
        (swift("Find <ref-object>", QWEN_JSON, {"ref": ["a"], "bbox": BOTH}),
         "3 <ref-object> in the messages, and 1 ref in objects"),
        (swift("Find", QWEN_JSON, {"ref": ["a", "b"], "bbox": [*BOTH, list(BOX)]}), "2 ref and 3 bbox"),
        (swift("Find", "<bbox>", {"ref": ["a"], "bbox": [list(BOX)], "bbox_type": "norm1000"}),
         "'norm1000'.*bbox_type real or norm1"),
        (swift("Find", "<bbox>", [list(BOX)]), "needs lists ref and bbox"),
        (swift("Find", "<bbox>", {"ref": ["a"], "bbox": [list(BOX)], "bbox_type": []}), "needs lists ref and bbox"),
        (swift("Find", "<bbox>", {"ref": ["a"], "bbox": [list(BOX), [1, 2]]}), "needs all boxes, or all points"),
        ({"messages": "Find"}, "messages Find"),
    ],
)  # fmt: skip
def test_ms_swift_errors(made: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(RowError, match=message):
        convert(tmp_path, made, preset="ms-swift")


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


@pytest.mark.parametrize(
    "solution",
    [
        "[{'Position': __import__('os').system('true')}]",
        "[{'Position': [1, 2, 3, 4 * 10]}]",
        "[{'Position': " + "(" * 5000,
        "[{'Position': " + "[" * 40_000 + "]" * 40_000 + "}]",
    ],
)
def test_literals_are_never_run(solution: str, tmp_path: Path) -> None:
    with pytest.raises(RowError, match="has coordinates"):
        convert(tmp_path, rft(f"<answer>{solution}</answer>"), preset="visual-rft")


def test_long_literals_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RowError, match="100001"):
        convert(tmp_path, rft("1" * 100_001), preset="visual-rft")


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
    with pytest.raises(RowError, match="solution 'left' "):
        convert(tmp_path, {**made, "solution": "left"}, preset="seg-zero")


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
    with pytest.raises(RowError, match="2 images"):
        convert(tmp_path, easy(images=[NAME, NAME]), preset="easyr1")
    with pytest.raises(RowError, match="problem is 'None'"):
        convert(tmp_path, easy(problem=None), preset="easyr1")
    with pytest.raises(RowsError, match="--box-format"):
        convert(tmp_path, easy(answer=json.dumps([{"bbox_2d": list(BOX)}])), preset="easyr1")


def test_easyr1_reads_images_below_a_given_folder(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "elsewhere" / "sub", "c.png")
    (found,), _ = convert(tmp_path, easy(images=["sub/c.png"]), preset="easyr1", images_dir=tmp_path / "elsewhere")
    assert found["images"] == [str(tmp_path / "elsewhere" / "sub" / "c.png")]
    with pytest.raises(RowsError, match=r"none: .*--images-dir"):
        convert(tmp_path, easy(), preset="easyr1", images_dir=tmp_path / "none")


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
    with pytest.raises(RowError, match=r"gt_bbox \[1, 2, 3\]"):
        convert(tmp_path, gui([1, 2, 3]), preset="gui-r1")
    with pytest.raises(RowsError, match="outside the image"):
        convert(tmp_path, gui([40, 60, 80, 110]), preset="gui-r1")


def test_rex_thinker(tmp_path: Path) -> None:
    made = {"image_name": NAME, "referring": "the cat", "ans": [list(BOX)], "category": "cat", "candidate_boxes": []}
    found, _ = convert(tmp_path, made, {**made, "ans": []}, preset="rex-thinker")
    assert [target(it).boxes_xyxy for it in found] == [(BOX,), ()]
    path = write_parquet(tmp_path / "a.parquet", [{"images": [b"1"], "problem": "p", "answer": "[]"}])
    with pytest.raises(RowError, match="no image_name: "):
        converted(path, preset="rex-thinker")


def test_llamafactory(tmp_path: Path) -> None:
    turns = [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "<image>What?"}]
    made = {"conversations": [*turns, {"from": "gpt", "value": "a cat"}], "images": [NAME]}
    openai = {"messages": [{"role": "user", "content": "<image>Why?"}, {"role": "assistant", "content": "so"}]}
    found, report = convert(tmp_path, made, {**openai, "images": [NAME]}, preset="llamafactory")
    assert [target(it).answer for it in found] == ["a cat", "so"]
    assert report.ledger.notes["system prompt dropped"] == 1
