"""What converters share: from `Item` to `Row`, and the choice of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refused import mentions
from some_items import WH, Options, item

from verl_visionr1.conversion.identity import Exclusion, identity_of_name, read_exclusion
from verl_visionr1.conversion.items import Item, clean_box, question_of, row_of
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.selection import selected
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.images import EmbeddedImage, RowImage
from verl_visionr1.masks import Mask


def made(changes: dict[str, Any], size: tuple[int, int] = WH, orientation: int = 1) -> Any:
    """The target of an item, on an image that was stored with an orientation."""
    stored = size if orientation < 5 else size[::-1]
    ledger = Ledger()
    row = row_of(item(**changes), RowImage("/a.png", None, size, stored, orientation), Options(), ledger)
    return row.target, ledger


@pytest.mark.parametrize("whole_wh", [(200, 100), (1, 1), (100, 100), (840, 840)])
def test_units_become_pixels(whole_wh: tuple[float, float]) -> None:
    w, h = whole_wh
    target, _ = made({"boxes_xyxy": [(w / 4, h / 4, w / 2, h / 2)], "labels": ["cat"], "whole_wh": whole_wh})
    assert target.boxes_xyxy == ((50, 25, 100, 50),)


def test_boxes_and_points_turn_with_their_image() -> None:
    """Drawn on the stored pixels (100 x 200) of an image that is shown turned by 90 degrees."""
    changes = {"boxes_xyxy": [(10, 20, 30, 60)], "points_xy": [(20, 40)], "labels": ["cat"], "annotated_wh": (100, 200)}
    target, _ = made({**changes, "task": "pointing"}, orientation=6)
    assert target.boxes_xyxy == ((140, 10, 180, 30),)
    assert target.points_xy == ((160, 20),)


def test_a_turned_image_without_geometry_needs_no_size() -> None:
    assert made({"task": "counting", "count": 2}, orientation=6)[0].count == 2


def test_boxes_are_clipped_rounded_sorted_and_named_once() -> None:
    boxes = [(150.004, 1, 260, 50), (10, 20, 30.0049, 40), (10, 20, 30, 40)]
    target, ledger = made({"boxes_xyxy": boxes, "labels": ["cat"] * 3})
    assert target.boxes_xyxy == ((10, 20, 30, 40), (150, 1, 200, 50))
    assert ledger.notes["box clipped to its image"] == 1
    assert ledger.notes["repeated object (same label and place) dropped"] == 1


def test_objects_stand_in_the_order_of_the_prompt() -> None:
    boxes, labels = [(5, 5, 9, 9), (1, 1, 4, 4), (50, 1, 60, 9)], ["dog", "ant", "cat"]
    changes = {"task": "detection", "phrases": ("cat", "dog"), "boxes_xyxy": boxes, "labels": labels}
    assert made(changes)[0].labels == ("cat", "dog", "ant")


def test_masks_stay_with_their_boxes() -> None:
    masks = [Mask(polygons=[(x, 10, x + 20, 10, x, 30)]) for x in (50, 10)]
    boxes = [(50, 10, 70, 30), (10, 10, 30, 30)]
    changes = {"task": "pointing", "boxes_xyxy": boxes, "labels": ["cat"] * 2, "masks": masks}
    target, _ = made(changes)
    assert [mask.polygons[0][0] for mask in target.masks] == [box[0] for box in target.boxes_xyxy] == [10, 50]
    with pytest.raises(RowError) as caught:
        made({**changes, "annotated_wh": WH}, orientation=3)
    assert (caught.value.kind, mentions(caught.value, "orientation 3")) == ("turned masks", True)


@pytest.mark.parametrize(
    ("changes", "kind", "values"),
    [
        ({"boxes_xyxy": [(1, 2, 3)]}, "box malformed", ("box 0 = [1, 2, 3]",)),
        ({"boxes_xyxy": [(1, 2, 3, float("nan"))]}, "box malformed", ("nan",)),
        ({"boxes_xyxy": [(1, 2, 3, 10**400)]}, "box malformed", ("[1, 2, 3, 1000",)),
        ({"boxes_xyxy": [(1, 2, "3", 4)]}, "box malformed", ("'3'",)),
        ({"boxes_xyxy": [(9, 2, 3, 4)]}, "box without extent", ("box = [9",)),
        ({"boxes_xyxy": [(1, 2, 1.004, 4)]}, "box without extent", ("1.004",)),
        ({"boxes_xyxy": [(300, 2, 310, 4)]}, "box outside its image", ((200, 100),)),
        ({"points_xy": [(300, 2)], "task": "pointing"}, "point outside its image", ("point = [300", (200, 100))),
        ({"boxes_xyxy": [(1, 2, 3, 4)], "labels": ["a", "b"]}, "lists differ in length", ("2, 1, 0, 0",)),
        ({"boxes_xyxy": [(1, 2, 3, 4)], "labels": [" "]}, "no usable ground truth", ("labels[0] = ' '",)),
        ({"annotated_wh": (100, 100)}, "annotated size differs", ((100, 100),)),
        ({"phrases": ("<image>",)}, "placeholder in the question", ("<image>",)),
        ({"task": "counting", "count": -1}, "no usable ground truth", ("count = -1",)),
        ({"orientation": 6}, "frame unknown", ("EXIF orientation 6",)),
    ],
)
def test_bad_items_say_where_and_what(changes: dict[str, Any], kind: str, values: tuple[object, ...]) -> None:
    changes = {"labels": ["cat"], **changes}
    orientation = changes.pop("orientation", 1)
    with pytest.raises(RowError) as caught:
        made(changes, orientation=orientation)
    assert caught.value.kind == kind
    assert mentions(caught.value, "a.json: entry 3: ", *values)


def test_questions() -> None:
    ask = lambda flags, **changes: question_of(item(**changes), flags)  # noqa: E731
    assert ask(Options()) == "Locate every cat in the image and output the coordinates in JSON format."
    assert ask(Options(prompt_template="Find {phrases}!")) == "Find cat!"
    assert ask(Options(), task="counting", question="How many?", count=1) == "How many? Answer with the number alone."
    assert ask(Options(prompt_template="{phrases} Say it."), question="How many?") == "How many? Say it."
    assert ask(Options(), prompt="To the letter.") == "To the letter."
    assert ask(Options(), task="text", question="Why?", answer="so") == "Why? Answer with the final answer alone."
    for options, changes, values in (
        ({"answer_format": "internvl"}, {"question": "Where is it?"}, ("--answer-format internvl: ", "qwen-json")),
        ({"answer_format": "count"}, {}, ("--answer-format count: ", "grounding")),
    ):
        with pytest.raises(RowsError) as caught:
            ask(Options(**options), **changes)
        assert mentions(caught.value, *values)


@given(st.lists(st.floats(-50, 250), min_size=4, max_size=4))
def test_a_clean_box_is_inside_and_stays_so(numbers: list[float]) -> None:
    try:
        box = clean_box(numbers, WH)
    except RowError:
        return
    assert 0 <= box[0] < box[2] <= WH[0]
    assert 0 <= box[1] < box[3] <= WH[1]
    assert clean_box(box, WH) == box
    assert all(abs(a - b) <= 0.005 or b in (0, *WH) for a, b in zip(numbers, box, strict=True))


def items_of(n: int) -> list[Item]:
    """Every fourth asks for what is not there."""
    boxes = [(10, 20, 30, 40)]
    return [
        item(Path(f"/{i}.png"), image_id=str(i), boxes_xyxy=boxes * (i % 4 > 0), labels=["cat"] * (i % 4 > 0))
        for i in range(n)
    ]


def ids(chosen: Iterable[Item]) -> list[int]:
    return [int(it.image_id) for it in chosen]


def test_limit_draws_evenly_by_seed_and_keeps_the_order() -> None:
    seen: Counter[int] = Counter()
    for seed in range(200):
        drawn = ids(selected(items_of(40), Options(limit=10, seed=seed), Ledger()))
        assert len(drawn) == 10
        assert drawn == sorted(drawn) == ids(selected(items_of(40), Options(limit=10, seed=seed), Ledger()))
        seen.update(drawn)
    assert 25 < min(seen.values()) <= max(seen.values()) < 80  # 50 are expected
    ledger = Ledger()
    assert len(ids(selected(items_of(40), Options(limit=10), ledger))) == 10
    assert ledger.left_out == {"row over --limit": 30}


def test_share_of_negatives() -> None:
    ledger = Ledger()
    assert len(ids(selected(items_of(40), Options(), ledger))) == 40  # all of the data set's own
    assert ids(selected(items_of(40), Options(negatives=0.0), ledger)) == [i for i in range(40) if i % 4]
    some = ids(selected(items_of(40), Options(negatives=0.1), ledger))
    assert len(some) == 33
    assert ids(selected(items_of(40), Options(negatives=0.5), ledger)) == list(range(40))
    assert ledger.notes["negatives missing: the data set has no more"] == 20


@pytest.mark.parametrize("options", [{"limit": 5}, {"limit": 5, "negatives": 0.2}])
def test_draws_hold_no_image_bytes(options: dict[str, Any]) -> None:
    """What is drawn comes back with its image, and rows of one image stay together."""
    alive: set[int] = set()
    most = 0

    class Bytes(bytes):
        def __del__(self) -> None:
            alive.discard(id(self))

    def embedded() -> Iterator[Item]:
        nonlocal most
        for i in range(40):
            data = Bytes(b"%d" % i)
            alive.add(id(data))
            most = max(most, len(alive))
            image = EmbeddedImage(f"row {i}", data)
            yield item(image, image_id=str(i), where="first")
            yield item(image, image_id=str(i), where="second", boxes_xyxy=[], labels=[])
            del data, image

    chosen = list(selected(embedded(), Options(**options), Ledger()))
    assert most <= 3
    assert [it.image.data.decode() for it in chosen if isinstance(it.image, EmbeddedImage)] == list(
        map(str, ids(chosen))
    )
    assert ids(chosen) == sorted(ids(chosen))


def test_large_answers_are_left_out() -> None:
    many = [item(boxes_xyxy=[(i, 1, i + 5, 9) for i in range(5)], labels=["cat"] * 5), item(task="counting", count=7)]
    ledger = Ledger()
    assert list(selected(many, Options(max_instances=4), ledger)) == []
    too_many = "{} row with more than 4 objects (--max-instances)"
    assert ledger.left_out == {too_many.format("grounding"): 1, too_many.format("counting"): 1}


def test_identities() -> None:
    names = {
        "COCO_train2014_000000581857.jpg": "coco:581857",
        "train2014/COCO_train2014_000000581857_16.jpg": "coco:581857",
        "http://images.cocodataset.org/train2017/000000000139.jpg": "coco:139",
        "000000000139.jpg": "coco:139",
        "VG_100K/107.jpg": "vg:107",
    }
    others = ("107.jpg", "train2017/000001.jpg", "val2014/139.jpg", "IMG_139.jpg", "2007_000027.jpg")
    assert {name: identity_of_name(name) for name in (*names, *others)} == {**names, **dict.fromkeys(others)}


def test_exclusion_by_identity_reaches_every_collection(tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("# test images\ncoco:139\n\n0042 # plain\n")
    excluded = read_exclusion(listed)
    assert excluded.holds("9", "train2017/000000000139.jpg")
    assert excluded.holds("2410408", "VG_100K_2/2410408.jpg", ["coco:139"])
    assert not excluded.holds("139", "VG_100K/139.jpg")
    assert excluded.holds("000042", "x.jpg")
    assert not Exclusion().holds("1", "a.jpg")
    options = Options(exclude_image_ids=listed)
    chosen = selected([item(file_name="val2017/000000000139.jpg"), item(file_name="b.jpg")], options, Ledger())
    assert [it.file_name for it in chosen] == ["b.jpg"]
