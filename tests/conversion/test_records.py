"""visionr1 convert records: columns, box formats that are checked, and what is wrong in a record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from recorded import BOX, COLUMNS, HEIGHT, NAME, PICTURE, WIDTH, convert, converted, row
from refused import bad_entry, mentions
from scene_sets.base import exif, prompt, target
from scene_sets.row_files import write_parquet

from verl_visionr1.answers import FORMATS as ANSWER_FORMATS
from verl_visionr1.answers import instruction
from verl_visionr1.conversion.conventions import NAMED
from verl_visionr1.conversion.datasets import records
from verl_visionr1.files import RowError, RowsError

BOXES: dict[str, Any] = {"column": COLUMNS, "box_format": "xyxy-abs"}
QUESTIONS: dict[str, Any] = {"column": ("image=image", "question=text", "boxes=boxes"), "box_format": "xyxy-abs"}


@pytest.fixture(autouse=True)
def images(tmp_path: Path) -> None:
    PICTURE.save(tmp_path)
    PICTURE.save(tmp_path, "b.png")


def test_every_format_means_the_same_box(tmp_path: Path) -> None:
    for name, convention in NAMED.items():
        whole_w, whole_h = convention.fixed_wh or PICTURE.size
        sides = [whole_w / WIDTH, whole_h / HEIGHT] * 2
        written = convention.as_written([value * side for value, side in zip(BOX, sides, strict=True)])
        (found,), _ = convert(tmp_path, row([written]), column=COLUMNS, box_format=name)
        assert target(found).boxes_xyxy == (BOX,)
        assert prompt(found) == instruction("grounding", ["the cat"])


@pytest.mark.parametrize("boxes", [list(BOX), json.dumps(BOX), json.dumps([BOX]), [[str(v) for v in BOX]]])
def test_boxes_may_be_wrapped(boxes: Any, tmp_path: Path) -> None:
    (found,), _ = convert(tmp_path, row(boxes), **BOXES)
    assert target(found).boxes_xyxy == (BOX,)


CORNERS = [[2 * i, i, 50 + 2 * i, 40 + i] for i in range(18)]  # also fit as x, y, width, height


@pytest.mark.parametrize(
    ("boxes", "given", "better"),
    [
        ([[8, 16, 40, 60], [512.0 / 8, 20, 120, 90]], "xyxy-norm1", "xyxy-abs"),
        ([[100 + i, 80, 20, 30] for i in range(9)], "xyxy-abs", "xywh-abs"),
        ([*CORNERS, [120, 90, 30, 20], [130, 60, 20, 50]], "xyxy-abs", "xywh-abs"),
    ],
    ids=["impossible", "all inverted", "few inverted"],
)
def test_a_wrong_format_is_refused(boxes: list[list[float]], given: str, better: str, tmp_path: Path) -> None:
    with pytest.raises(RowsError) as caught:
        convert(tmp_path, row(boxes), row(), column=COLUMNS, box_format=given, on_error="skip")
    assert mentions(caught.value, "a.jsonl", f"--box-format {given}", f"--box-format {better}")
    assert not isinstance(caught.value, RowError)


def test_a_single_odd_box_is_a_bad_row(tmp_path: Path) -> None:
    _, report = convert(tmp_path, row(CORNERS), **BOXES)
    assert not [note for note in report.ledger.notes if note.startswith("box format in doubt")]
    rows = [row([[0.1 * i, 0.1, 0.1 * i + 0.1, 0.5]]) for i in range(9)] + [row([[512, 10, 600, 40]])]
    error, found, _ = bad_entry(convert, tmp_path, *rows, column=COLUMNS, box_format="xyxy-norm1")
    assert mentions(error, "a.jsonl: line 10: ")
    assert (len(found), error.kind) == (9, "box outside its image")


def test_turned_images_need_a_size(tmp_path: Path) -> None:
    PICTURE.image().save(tmp_path / NAME, exif=exif(6))
    for column in (COLUMNS, ("image=image", "label=text", "boxes=boxes")):
        with pytest.raises(RowError) as caught:
            convert(tmp_path, row(), column=column, box_format="xyxy-abs")
        assert (caught.value.kind, mentions(caught.value, "line 1", "EXIF orientation 6")) == ("frame unknown", True)
    columns = (*COLUMNS, "width=w", "height=h")
    (found,), _ = convert(tmp_path, row(w=WIDTH, h=HEIGHT), column=columns, box_format="xyxy-abs")
    assert target(found).size_wh == (HEIGHT, WIDTH)
    assert target(found).boxes_xyxy == ((HEIGHT - 60, 8, HEIGHT - 16, 40),)


def test_nested_columns(tmp_path: Path) -> None:
    """A list of objects, an object of lists, and a name that holds a dot itself."""
    rows = (
        {"img.file": NAME, "objects": [{"bbox": list(BOX), "kind": "cat"}, {"bbox": [1, 2, 30, 40], "kind": "dog"}]},
        {"img.file": "b.png", "objects": {"bbox": [list(BOX), [1, 2, 30, 40]], "kind": ["cat", "dog"]}},
    )
    columns = ("image=img.file", "boxes=objects.bbox", "label=objects.kind")
    found, _ = convert(tmp_path, *rows, column=columns, box_format="xyxy-abs", task="detection")
    assert [target(it).labels for it in found] == [("cat", "dog")] * 2
    assert target(found[0]).boxes_xyxy == target(found[1]).boxes_xyxy == (BOX, (1, 2, 30, 40))


def test_points(tmp_path: Path) -> None:
    for points, expected in (
        ([[10, 20], [30, 40]], ((10, 20), (30, 40))),
        ([10, 20], ((10, 20),)),
        ([{"x": 10, "y": 20}], ((10, 20),)),
        ({"x": [10, 30], "y": [20, 40]}, ((10, 20), (30, 40))),
        ({"x": 10, "y": 20}, ((10, 20),)),
        ([], ()),
    ):
        columns = ("image=image", "phrase=text", "points=points")
        (found,), _ = convert(tmp_path, row(points=points), column=columns, box_format="xyxy-abs")
        assert (target(found).task, target(found).points_xy) == ("pointing", expected)


def test_questions_with_a_solution(tmp_path: Path) -> None:
    rows = (
        {"image": NAME, "q": "Where are they?", "s": json.dumps([{"bbox_2d": list(BOX), "label": "cat"}])},
        {"image": NAME, "q": "What is it?", "s": "<answer>a cat</answer>"},
        {"image": NAME, "q": "Which?", "s": "B", "opts": ["a cat", "a dog"]},
    )
    columns = ("image=image", "question=q", "solution=s", "choices=opts")
    found, _ = convert(tmp_path, *rows, column=columns, box_format="xyxy-abs")
    truths = [target(it) for it in found]
    assert [(it.task, it.labels, it.answer) for it in truths[:2]] == [
        ("grounding", ("cat",), None),
        ("text", (), "a cat"),
    ]
    assert (truths[2].answer, truths[2].choices) == ("B", ("a cat", "a dog"))
    assert prompt(found[0]) == f"Where are they? {ANSWER_FORMATS['qwen-json'].then}"


def test_absent_objects_and_splits(tmp_path: Path) -> None:
    """An empty list says so; then all prompts say how to answer it, unless such rows are left out."""
    found, report = convert(tmp_path, row(), row([]), **BOXES)
    assert report.negatives == {"grounding": 1}
    assert all("If there is none" in prompt(it) for it in found)
    (found,), report = convert(tmp_path, row(), row([]), **BOXES, negatives=0.0)
    assert "none" not in prompt(found)
    assert report.ledger.left_out == {"negative over --negatives": 1}
    rows = (row(s="train"), row(s="val"), row(s=None))
    found, report = convert(tmp_path, *rows, column=(*COLUMNS, "split=s"), box_format="xyxy-abs")
    assert (len(found), report.ledger.left_out) == (2, {"row of split val (--split)": 1})


def test_images_of_every_kind(tmp_path: Path) -> None:
    data = (tmp_path / NAME).read_bytes()
    for images in ([{"bytes": data, "path": None}], {"bytes": data, "path": "x.png"}, data):
        path = write_parquet(tmp_path / "a.parquet", [row(image=images, boxes=[list(BOX)])])
        (found,), _ = converted(path, **BOXES)
        assert Image.open(found["images"][0]).size == PICTURE.size
    for image in ([NAME], str(tmp_path / NAME)):
        (found,), _ = convert(tmp_path, row(image=image), **BOXES)
        assert found["images"] == [str(tmp_path / NAME)]


def test_names_are_looked_for_in_a_given_folder(tmp_path: Path) -> None:
    """Also absolute ones: tables move to other machines."""
    PICTURE.save(tmp_path / "imgs", "c.png")
    made = row(image="/data/somewhere/imgs/c.png")
    (found,), _ = convert(tmp_path, made, images_dir=tmp_path, **BOXES)
    assert found["images"] == [str(tmp_path / "imgs" / "c.png")]
    for images_dir, values in (
        (None, ("/data/somewhere/imgs/c.png: ",)),
        (tmp_path / "none", ("none: ", "--images-dir")),
    ):
        with pytest.raises(RowsError) as caught:
            convert(tmp_path, made, images_dir=images_dir, **BOXES)
        assert mentions(caught.value, *values)


BAD = {
    "three numbers": (row([[1, 2, 3]]), "box malformed", ("box [1, 2, 3]",)),
    "text as box": (row("left"), "box malformed", ("box ['left']",)),
    "truth values": (row([[True, 2, 3, 4]]), "box malformed", ("True",)),
    "huge numbers": (row([[1, 2, 3, 10**400]]), "box malformed", ()),
    "huge number as text": (row([["1", "2", "3", "9" * 400]]), "box malformed", ()),
    "inverted": (row([[40, 2, 3, 9]]), "box without extent", ("[40.0, 2.0, 3.0, 9.0]",)),
    "no boxes at all": (row(None), "no ground truth", ("[]",)),
    "no phrase": (row(text=""), "nothing asked", ()),
    "words for a phrase": (row(None, answer="yes"), "nothing asked", ("question",)),
    "phrase is a number": (row(text=7), "phrase is no text", ("'7'",)),
    "no image": (row(image=None), "no image", ("'None'",)),
    "two images": (row(image=["a.png", "b.png"]), "several images", ("2 images",)),
    "missing image": (row(image="none.png"), "image file missing", ("none.png",)),
    "traversal": (row(image="../a.png"), "file_name outside the images folder", ("..",)),
    "half a size": (row(w=3), "image without size", ((3, None),)),
    "other size": (row(w=640, h=480), "annotated size differs", ((640, 480), (160, 120))),
    "no object": ([1, 2], "malformed entry", ("[1, 2]",)),
}


@pytest.mark.parametrize(("bad", "kind", "values"), BAD.values(), ids=BAD)
def test_bad_records(bad: Any, kind: str, values: tuple[object, ...], tmp_path: Path) -> None:
    options = {"column": (*COLUMNS, "width=w", "height=h", "answer=answer"), "box_format": "xyxy-abs"}
    error, found, _ = bad_entry(convert, tmp_path, row(w=WIDTH, h=HEIGHT, answer=None), bad, **options)
    assert (error.kind, len(found)) == (kind, 1)
    assert mentions(error, "a.jsonl: line 2", *values)


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ({}, ("--column image=NAME",)),
        ({"preset": "coco"}, ("--preset coco: ", "easyr1, ms-swift")),
        ({"column": ["image=a", "picture=b"]}, ("--column picture=b: ", "WHAT=NAME", "image, id, split")),
        ({"column": ["image"]}, ("--column image: ", "WHAT=NAME")),
        ({"column": ["image=a", "image=b"]}, ("--column image=b: image",)),
        ({"column": ["image=a", "boxes=a,b"]}, ("--column boxes=a,b: 2 columns", "4")),
        ({"column": ["image=a"], "box_format": "yxyx"}, ("--box-format yxyx: ", "xyxy-abs, xyxy-norm1")),
        ({"column": COLUMNS, "task": "counting"}, ("--task: ",)),
        ({"column": COLUMNS, "class_names": "a,b"}, ("--class-names: ",)),
        ({"preset": "tf-csv", "keep_prompts": True}, ("--keep-prompts: ",)),
    ],
)
def test_flags_are_checked(options: dict[str, Any], values: tuple[str, ...]) -> None:
    with pytest.raises(RowsError) as caught:
        records.Options(**options).layout  # noqa: B018 - the format is looked up when it is needed
    assert mentions(caught.value, *values)


@pytest.mark.parametrize(
    ("column", "box_format", "values"),
    [
        (COLUMNS, None, ("a.jsonl: line 1: ", "--box-format xyxy-")),
        (("image=image", "phrase=text", "boxes=bbox"), "xyxy-abs", ("a.jsonl: ", "'bbox'", "boxes, image, text")),
    ],
    ids=["no box format", "no such column"],
)
def test_options_that_do_not_fit(column: Any, box_format: str | None, values: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(RowsError) as caught:
        convert(tmp_path, row(), column=column, box_format=box_format, on_error="skip")
    assert mentions(caught.value, *values)


@pytest.mark.parametrize(
    ("question", "noted"),
    [
        ("Where is the cat? Give its box, normalized to 0-1000.", 1),
        ("Where is the cat (coordinates from 0 to 1000)?", 1),
        ("Where is the cat? Numbers are in [0, 1].", 1),
        ("Give the pixel coordinates of the cat.", 1),
        ("Where is the number 0 to 9?", 0),
        ("Where is the pixel phone with 100 percent charge?", 0),
    ],
)
def test_a_question_that_states_a_frame_is_noted(question: str, noted: int, tmp_path: Path) -> None:
    _, report = convert(tmp_path, row(text=question), row(text=f"{question} "), row(text="b"), **QUESTIONS)
    assert [n for note, n in report.ledger.notes.items() if "a.jsonl: line 1" in note and n] == [2] * noted


def test_keep_prompts(tmp_path: Path) -> None:
    (found,), _ = convert(tmp_path, row(text="Where is it?"), **QUESTIONS, keep_prompts=True)
    assert prompt(found) == "Where is it?"
    with pytest.raises(RowError) as caught:
        convert(tmp_path, row(text="<image>Where is it?"), **QUESTIONS)
    assert mentions(caught.value, "line 1", "<image>")
    with pytest.raises(RowError) as caught:
        convert(tmp_path, row(), **BOXES, keep_prompts=True)
    assert mentions(caught.value, "line 1", "--keep-prompts")
