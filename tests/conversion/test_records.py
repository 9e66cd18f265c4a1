"""visionr1 convert records: columns, box formats that are checked, and what is wrong in a record."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from recorded import BOX, COLUMNS, HEIGHT, NAME, PICTURE, WIDTH, convert, converted, row
from refused import bad_entry
from scene_sets.base import exif, prompt, target
from scene_sets.row_files import write_parquet

from verl_visionr1.answers import FORMATS as ANSWER_FORMATS
from verl_visionr1.answers import instruction
from verl_visionr1.conversion.conventions import NAMED
from verl_visionr1.conversion.datasets import records
from verl_visionr1.files import RowError, RowsError

THEN = ANSWER_FORMATS["qwen-json"].then


@pytest.fixture(autouse=True)
def images(tmp_path: Path) -> None:
    PICTURE.save(tmp_path)
    PICTURE.save(tmp_path, "b.png")


def written(name: str) -> list[float]:
    """`BOX` in a format."""
    x1, y1, x2, y2 = BOX
    order, unit = name.split("-")
    full = {"abs": (WIDTH, HEIGHT), "norm1": (1, 1), "norm100": (100, 100), "norm1000": (1000, 1000)}[unit]
    sx, sy = full[0] / WIDTH, full[1] / HEIGHT
    numbers = {
        "xyxy": (x1, y1, x2, y2),
        "xywh": (x1, y1, x2 - x1, y2 - y1),
        "cxcywh": ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1),
    }[order]
    return [value * (sx, sy)[i % 2] for i, value in enumerate(numbers)]


@pytest.mark.parametrize("name", NAMED)
def test_every_format_means_the_same_box(name: str, tmp_path: Path) -> None:
    (found,), _ = convert(tmp_path, row([written(name)]), column=COLUMNS, box_format=name)
    assert target(found).boxes_xyxy == (BOX,)
    assert prompt(found) == instruction("grounding", ["the cat"])


@pytest.mark.parametrize("boxes", [list(BOX), [list(BOX)], json.dumps(BOX), json.dumps([BOX]), [[str(v) for v in BOX]]])
def test_boxes_may_be_wrapped(boxes: Any, tmp_path: Path) -> None:
    (found,), _ = convert(tmp_path, row(boxes), column=COLUMNS, box_format="xyxy-abs")
    assert target(found).boxes_xyxy == (BOX,)


def test_an_impossible_format_is_refused_with_the_evidence(tmp_path: Path) -> None:
    rows = [row([[8, 16, 40, 60]]), row([[512.0 / 8, 20, 120, 90]])]
    with pytest.raises(RowsError) as caught:
        convert(tmp_path, *rows, column=COLUMNS, box_format="xyxy-norm1", on_error="skip")
    assert all(named in str(caught.value) for named in ("a.jsonl", "--box-format xyxy-norm1", "--box-format xyxy-abs"))
    assert not isinstance(caught.value, RowError)
    boxes = [[100 + i, 80, 20, 30] for i in range(9)]
    with pytest.raises(RowsError, match=r"--box-format xyxy-abs, but .*--box-format xywh-abs"):
        convert(tmp_path, row(boxes), column=COLUMNS, box_format="xyxy-abs")


def test_another_format_that_fits_better_is_refused(tmp_path: Path) -> None:
    """Most boxes pass as corners: only the few that do not tell."""
    boxes = [[2 * i, i, 50 + 2 * i, 40 + i] for i in range(18)] + [[120, 90, 30, 20], [130, 60, 20, 50]]
    with pytest.raises(RowsError, match="--box-format xywh-abs"):
        convert(tmp_path, row(boxes), row(), column=COLUMNS, box_format="xyxy-abs", on_error="skip")
    _, report = convert(tmp_path, row(boxes[:18]), column=COLUMNS, box_format="xyxy-abs")
    assert not [note for note in report.ledger.notes if note.startswith("box format in doubt")]


def test_a_single_odd_box_is_a_bad_row(tmp_path: Path) -> None:
    rows = [row([[0.1 * i, 0.1, 0.1 * i + 0.1, 0.5]]) for i in range(9)] + [row([[512, 10, 600, 40]])]
    error, found, _ = bad_entry(convert, tmp_path, *rows, column=COLUMNS, box_format="xyxy-norm1")
    assert str(error).startswith("a.jsonl: line 10: ")
    assert (len(found), error.kind) == (9, "box outside its image")


def test_the_format_must_be_said(tmp_path: Path) -> None:
    with pytest.raises(RowsError, match=r"a\.jsonl: line 1: .* --box-format xyxy-"):
        convert(tmp_path, row(), column=COLUMNS, on_error="skip")


def test_turned_images_need_a_size(tmp_path: Path) -> None:
    PICTURE.image().save(tmp_path / NAME, exif=exif(6))
    with pytest.raises(RowError, match=r"EXIF orientation 6"):
        convert(tmp_path, row(), column=COLUMNS, box_format="xyxy-abs")
    columns = (*COLUMNS, "width=w", "height=h")
    (found,), _ = convert(tmp_path, row(w=WIDTH, h=HEIGHT), column=columns, box_format="xyxy-abs")
    assert target(found).size_wh == (HEIGHT, WIDTH)
    assert target(found).boxes_xyxy == ((HEIGHT - 60, 8, HEIGHT - 16, 40),)
    labelled = ("image=image", "label=text", "boxes=boxes")
    with pytest.raises(RowError, match=r"width .*height .*EXIF orientation 6"):
        convert(tmp_path, row(), column=labelled, box_format="xyxy-abs")


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


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([[10, 20], [30, 40]], ((10, 20), (30, 40))),
        ([10, 20], ((10, 20),)),
        ([{"x": 10, "y": 20}], ((10, 20),)),
        ({"x": [10, 30], "y": [20, 40]}, ((10, 20), (30, 40))),
        ({"x": 10, "y": 20}, ((10, 20),)),
        ([], ()),
    ],
)
def test_points(points: Any, expected: tuple[Any, ...], tmp_path: Path) -> None:
    columns = ("image=image", "phrase=text", "points=points")
    (found,), _ = convert(tmp_path, row(points=points), column=columns, box_format="xyxy-abs")
    assert (target(found).task, target(found).points_xy) == ("pointing", expected)


def test_counting_and_text(tmp_path: Path) -> None:
    rows = ({"image": NAME, "q": "How many cats?", "n": "3"}, {"image": NAME, "q": "How many dogs?", "n": 0})
    found, report = convert(tmp_path, *rows, column=("image=image", "question=q", "count=n"))
    assert [target(it).count for it in found] == [3, 0]
    assert prompt(found[0]) == f"How many cats? {ANSWER_FORMATS['count'].then}"
    assert report.negatives == {"counting": 1}
    rows = ({"image": NAME, "q": "Which?", "a": "B", "opts": ["a cat", "a dog"]},)
    (found,), _ = convert(tmp_path, *rows, column=("image=image", "question=q", "answer=a", "choices=opts"))
    assert (target(found).answer, target(found).choices) == ("B", ("a cat", "a dog"))


def test_a_solution_is_read(tmp_path: Path) -> None:
    rows = (
        {"image": NAME, "q": "Where are they?", "s": json.dumps([{"bbox_2d": list(BOX), "label": "cat"}])},
        {"image": NAME, "q": "What is it?", "s": "<answer>a cat</answer>"},
    )
    columns = ("image=image", "question=q", "solution=s")
    found, _ = convert(tmp_path, *rows, column=columns, box_format="xyxy-abs")
    assert [it["ability"] for it in found] == ["grounding", "text"]
    assert target(found[0]).labels == ("cat",)
    assert prompt(found[0]) == f"Where are they? {THEN}"
    assert target(found[1]).answer == "a cat"


def test_what_is_not_there(tmp_path: Path) -> None:
    """An empty list says so; then all prompts say how to answer it, unless such rows are left out."""
    found, report = convert(tmp_path, row(), row([]), column=COLUMNS, box_format="xyxy-abs")
    assert report.negatives == {"grounding": 1}
    assert all("If there is none" in prompt(it) for it in found)
    (found,), report = convert(tmp_path, row(), row([]), column=COLUMNS, box_format="xyxy-abs", negatives=0.0)
    assert "none" not in prompt(found)
    assert report.ledger.left_out == {"negative over --negatives": 1}


def test_splits(tmp_path: Path) -> None:
    rows = (row(s="train"), row(s="val"), row(s=None))
    found, report = convert(tmp_path, *rows, column=(*COLUMNS, "split=s"), box_format="xyxy-abs")
    assert len(found) == 2
    assert report.ledger.left_out == {"row of split val (--split)": 1}


def test_images_of_every_kind(tmp_path: Path) -> None:
    data = (tmp_path / NAME).read_bytes()
    for images in ([{"bytes": data, "path": None}], {"bytes": data, "path": "x.png"}, data):
        path = write_parquet(tmp_path / "a.parquet", [row(image=images, boxes=[list(BOX)])])
        (found,), _ = converted(path, column=COLUMNS, box_format="xyxy-abs")
        assert Image.open(found["images"][0]).size == PICTURE.size
    (found,), _ = convert(tmp_path, row(image=[NAME]), column=COLUMNS, box_format="xyxy-abs")
    (found,), _ = convert(tmp_path, row(image=str(tmp_path / NAME)), column=COLUMNS, box_format="xyxy-abs")
    assert found["images"] == [str(tmp_path / NAME)]


def test_absolute_names_are_looked_for_in_a_given_folder(tmp_path: Path) -> None:
    """Tables move to other machines; the folder that the user names is the one that counts."""
    PICTURE.save(tmp_path / "imgs", "c.png")
    made = row(image="/data/somewhere/imgs/c.png")
    options = {"column": COLUMNS, "box_format": "xyxy-abs"}
    (found,), _ = convert(tmp_path, made, images_dir=tmp_path, **options)
    assert found["images"] == [str(tmp_path / "imgs" / "c.png")]
    with pytest.raises(RowError, match=r"/data/somewhere/imgs/c\.png: "):
        convert(tmp_path, made, **options)


BAD = {
    "three numbers": (row([[1, 2, 3]]), "box malformed", r"box \[1, 2, 3\]"),
    "text as box": (row("left"), "box malformed", r"box \['left'\]"),
    "truth values": (row([[True, 2, 3, 4]]), "box malformed", "box "),
    "huge numbers": (row([[1, 2, 3, 10**400]]), "box malformed", "box "),
    "huge number as text": (row([["1", "2", "3", "9" * 400]]), "box malformed", "box "),
    "inverted": (row([[40, 2, 3, 9]]), "box without extent", r"\[40\.0, 2\.0, 3\.0, 9\.0\]"),
    "no boxes at all": (row(None), "no ground truth", r"neither boxes, points, count nor answer.*write \[\]"),
    "no phrase": (row(text=""), "nothing asked", "neither phrase nor question"),
    "phrase is a number": (row(text=7), "phrase is no text", "phrase '7'"),
    "no image": (row(image=None), "no image", "image is 'None'"),
    "two images": (row(image=["a.png", "b.png"]), "several images", "2 images: a row has one"),
    "missing image": (row(image="none.png"), "image file missing", "none.png"),
    "traversal": (row(image="../a.png"), "file_name outside the images folder", r"\.\."),
    "half a size": (row(w=3), "image without size", r"width and height \(3, None\)"),
    "other size": (row(w=640, h=480), "annotated size differs", r"size_wh \(640, 480\).*\(160, 120\)"),
    "no object": ([1, 2], "malformed entry", "needs an object"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_records(what: str, tmp_path: Path) -> None:
    bad, kind, message = BAD[what]
    options = {"column": (*COLUMNS, "width=w", "height=h"), "box_format": "xyxy-abs"}
    error, found, _ = bad_entry(convert, tmp_path, row(w=WIDTH, h=HEIGHT), bad, **options)
    assert error.kind == kind
    assert str(error).startswith("a.jsonl: line 2")
    assert re.search(message, str(error))
    assert len(found) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--column image=NAME is missing: "),
        ({"preset": "coco"}, "--preset coco: needs one of easyr1, ms-swift"),
        ({"column": ["image=a", "picture=b"]}, "--column picture=b: needs WHAT=NAME, WHAT one of image, id, split"),
        ({"column": ["image"]}, "--column image: needs WHAT=NAME"),
        ({"column": ["image=a", "image=b"]}, "--column image=b: image is given twice"),
        ({"column": ["image=a", "boxes=a,b"]}, "--column boxes=a,b: 2 columns; boxes is one column, or 4"),
        ({"column": ["image=a"], "box_format": "yxyx"}, "--box-format yxyx: needs one of xyxy-abs, xyxy-norm1"),
        ({"column": COLUMNS, "task": "counting"}, "--task: "),
        ({"column": COLUMNS, "class_names": "a,b"}, "--class-names: "),
        ({"preset": "tf-csv", "keep_prompts": True}, "--keep-prompts: boxes with labels have no prompts"),
    ],
)
def test_flags_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RowsError, match=message):
        records.Options(**options).layout  # noqa: B018 - the format is looked up when it is needed


def test_a_column_that_is_nowhere(tmp_path: Path) -> None:
    with pytest.raises(RowsError, match=r"a\.jsonl: .*'bbox'; .*boxes, image, text"):
        convert(tmp_path, row(), column=("image=image", "phrase=text", "boxes=bbox"), box_format="xyxy-abs")


@pytest.mark.parametrize(
    ("question", "noted"),
    [
        ("Where is the cat? Give its box, normalized to 0-1000.", 1),
        ("Where is the cat (coordinates from 0 to 1000)?", 1),
        ("Where is the cat? Numbers are in [0, 1].", 1),
        ("Give the box of the cat in pixels.", 1),
        ("Give the pixel coordinates of the cat.", 1),
        ("Where is the cat?", 0),
        ("Where is the number 0 to 9?", 0),
        ("Where is the pixel phone with 100 percent charge?", 0),
    ],
)
def test_a_question_that_states_a_frame_is_noted(question: str, noted: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"column": ("image=image", "question=text", "boxes=boxes"), "box_format": "xyxy-abs"}

    def notes(**more: Any) -> list[int]:
        _, report = convert(tmp_path, row(text=question), row(text=f"{question} "), row(text="b"), **options, **more)
        return [count for note, count in report.ledger.notes.items() if "a.jsonl: line 1" in note and count]

    assert notes() == notes(keep_prompts=True) == [2] * noted


def test_keep_prompts(tmp_path: Path) -> None:
    columns = ("image=image", "question=text", "boxes=boxes")
    made = row(text="<image>Where is it?")
    options = {"column": columns, "box_format": "xyxy-abs"}
    (found,), _ = convert(tmp_path, row(text="Where is it?"), **options, keep_prompts=True)
    assert prompt(found) == "Where is it?"
    with pytest.raises(RowError, match="holds <image>"):
        convert(tmp_path, made, **options)
    with pytest.raises(RowError, match="--keep-prompts"):
        convert(tmp_path, row(), column=COLUMNS, box_format="xyxy-abs", keep_prompts=True)
