"""visionr1 convert flickr30k: every trap of Flickr30k Entities, and the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from refused import bad_entry, mentions
from scene_sets.base import rows_in, target

from verl_visionr1.conversion.datasets import flickr30k
from verl_visionr1.files import RowError, RowsError

WH = (160, 96)
ID = "36979"


def thing(*names: int, box: tuple[Any, ...] | None = None, scene: int = 0) -> str:
    named = "".join(f"<name>{name}</name>" for name in names)
    if box is None:
        return f"<object>{named}<scene>{scene}</scene><nobndbox>1</nobndbox></object>"
    corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    return f"<object>{named}<bndbox>{''.join(f'<{tag}>{v}</{tag}>' for tag, v in corners)}</bndbox></object>"


class Dataset:
    """An entities folder and images."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.entities, self.images_dir = folder, folder / "entities", folder / "images"
        for path in (self.entities / "Annotations", self.entities / "Sentences", self.images_dir):
            path.mkdir(parents=True)

    def image(self, captions: list[str], objects: list[str], image_id: str = ID, split: str = "train") -> None:
        Image.new("RGB", WH, (90, 90, 90)).save(self.images_dir / f"{image_id}.jpg")
        (self.entities / "Sentences" / f"{image_id}.txt").write_text("\n".join(captions) + "\n")
        size = f"<size><width>{WH[0]}</width><height>{WH[1]}</height><depth>3</depth></size>"
        self.xml(image_id).write_text(f"<annotation>{size}{''.join(objects)}</annotation>")
        with open(self.entities / f"{split}.txt", "a") as file:
            file.write(f"{image_id}\n")

    def xml(self, image_id: str = ID) -> Path:
        return self.entities / "Annotations" / f"{image_id}.xml"

    def convert(self, **options: Any) -> tuple[dict[str, Any], Any]:
        """(phrase -> its row, report)."""
        out = self.folder / "out.parquet"
        report = flickr30k.convert(self.entities, self.images_dir, out, flickr30k.Options(**options))
        found = rows_in(report)
        by_phrase = {target(row).categories[0]: row for row in found}
        assert len(by_phrase) == len(found)
        return by_phrase, report


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path)


def test_boxes_are_one_based_with_both_corners_inside(data: Dataset) -> None:
    data.image(["[/EN#1/other All] ."], [thing(1, box=(1, 1, *WH))])
    found, report = data.convert()
    assert target(found["All"]).boxes_xyxy == ((0, 0, *WH),)
    assert not report.ledger.notes["box clipped to its image"]


@pytest.mark.parametrize(
    ("boxes", "expected"), [("many", ((0, 0, 10, 10), (20, 5, 30, 30))), ("union", ((0, 0, 30, 30),)), ("single", None)]
)
def test_a_phrase_of_many_boxes(data: Dataset, boxes: str, expected: Any) -> None:
    objects = [thing(1, box=(1, 1, 10, 10)), thing(1, box=(21, 6, 30, 30)), thing(2, box=(5, 5, 9, 9))]
    data.image(["[/EN#1/people Men] in [/EN#2/clothing a hat] ."], objects)
    found, report = data.convert(boxes=boxes)
    assert target(found["a hat"]).boxes_xyxy == ((4, 4, 9, 9),)
    assert (target(found["Men"]).boxes_xyxy if "Men" in found else None) == expected
    assert report.ledger.left_out["phrase of many boxes (--boxes)"] == (boxes == "single")


def test_phrases_without_a_place_are_counted(data: Dataset) -> None:
    captions = [
        "[/EN#0/notvisual It] is [/EN#5/scene a park] with [/EN#1/people A man] .",
        "[/EN#0/notvisual the day] of [/EN#6/other an idea] , [/EN#7/other a thing] .",
    ]
    data.image(captions, [thing(5, scene=1), thing(6), thing(1, box=(1, 1, 9, 9))])
    found, report = data.convert()
    assert list(found) == ["A man"]
    assert +report.ledger.left_out == {
        "phrase of chain 0 (not visual)": 2,
        "phrase of a whole scene": 1,
        "phrase without a box (nobndbox)": 1,
        "phrase of a chain that the xml does not have": 1,
    }


def test_words_for_several_chains_are_left_out(data: Dataset) -> None:
    objects = [thing(1, box=(1, 1, 9, 9)), thing(2, box=(31, 1, 39, 9))]
    data.image(["[/EN#1/people A man] sees [/EN#2/people a man] in [/EN#2/clothing red] ."], objects)
    found, report = data.convert()
    assert list(found) == ["red"]
    assert report.ledger.left_out["phrase of several chains of its image"] == 2


def test_unrelated_captions_are_left_out(data: Dataset) -> None:
    data.image(["[/EN#1/people A man] .", "[/EN#1/people A dog] ."], [thing(1, box=(1, 1, 9, 9))])
    listed = data.entities / "UNRELATED_CAPTIONS"
    listed.write_text(f"# format: <imageID> <sentence number>\n{ID} 2\n1 1")
    found, report = data.convert()
    assert list(found) == ["A man"]
    assert report.ledger.left_out["phrase of a caption that UNRELATED_CAPTIONS lists"] == 1
    listed.write_text(f"{ID} two\n")
    with pytest.raises(RowsError, match="UNRELATED_CAPTIONS: '36979 two': "):
        data.convert()


def test_splits_are_lists(data: Dataset) -> None:
    data.image(["[/EN#1/people A man] ."], [thing(1, box=(1, 1, 9, 9))])
    data.image(["[/EN#1/people A dog] ."], [thing(1, box=(1, 1, 9, 9))], "7", "val")
    found, _ = data.convert(split="val")
    assert found["A dog"]["extra_info"]["split"] == "val"
    with pytest.raises(RowsError) as caught:
        data.convert(split="test")
    assert mentions(caught.value, f"{data.entities}/test.txt: ", "--split", "train, val")
    with pytest.raises(RowError, match=r"\.\."):
        data.convert(split="../x")


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>'
GOOD_SIZE = "<size><width>160</width><height>96</height></size>"
BAD_XML = {
    "no size": ("<annotation/>", "malformed XML", "<size/width> is None"),
    "no name": (f"<annotation>{GOOD_SIZE}{thing()}</annotation>", "object without name", "<name>"),
    "corner missing": (
        f"<annotation>{GOOD_SIZE}{thing(1, box=(1, 1, 9, '')).replace('<ymax></ymax>', '')}</annotation>",
        "malformed XML",
        "<ymax> is None",
    ),
    "bomb": (BOMB, "hostile XML", "DTD"),
}


@pytest.mark.parametrize("what", BAD_XML)
def test_bad_xml_costs_only_its_image(data: Dataset, what: str) -> None:
    text, kind, message = BAD_XML[what]
    data.image(["[/EN#1/people A man] ."], [])
    data.image(["[/EN#1/people A dog] ."], [thing(1, box=(1, 1, 9, 9))], "7")
    data.xml().write_text(text)
    error, found, _ = bad_entry(data.convert)
    assert error.kind == kind
    assert message in str(error)
    assert "36979." in str(error)
    assert list(found) == ["A dog"]


@pytest.mark.parametrize("caption", ["[/EN#1/people A man .", "[/EN#x/people A man] .", "[/EN#1/people [A] man]", "a]"])
def test_malformed_captions(data: Dataset, caption: str) -> None:
    data.image(["Nothing .", caption], [thing(1, box=(1, 1, 9, 9))])
    with pytest.raises(RowError) as caught:
        data.convert()
    reason = f"36979.txt: caption 2: {caption!r}: a phrase is not of the form [/EN#1/people A man]; correct it"
    assert str(caught.value) == reason


def test_a_blank_caption_counts(data: Dataset) -> None:
    """UNRELATED_CAPTIONS numbers the lines."""
    captions = ["[/EN#1/people A man] .", "", "[/EN#1/people A wrong man] ."]
    data.image(captions, [thing(1, box=(9, 17, 48, 40))])
    (data.entities / "UNRELATED_CAPTIONS").write_text(f"{ID} 3\n")
    found, _ = data.convert()
    assert list(found) == ["A man"]


@pytest.mark.parametrize("image_id", ["../../etc/passwd", "a" * 300])
def test_ids_are_names_in_the_folder(data: Dataset, image_id: str) -> None:
    (data.entities / "train.txt").write_text(f"{image_id}\n")
    with pytest.raises(RowError) as caught:
        data.convert()
    assert mentions(caught.value, image_id)


@pytest.mark.parametrize("which", ["Sentences/36979.txt", "Annotations/36979.xml"])
def test_a_missing_file_costs_only_its_image(data: Dataset, which: str) -> None:
    data.image(["[/EN#1/people A man] ."], [thing(1, box=(1, 1, 9, 9))])
    data.image(["[/EN#1/people A dog] ."], [thing(1, box=(1, 1, 9, 9))], "7")
    (data.entities / which).unlink()
    error, found, _ = bad_entry(data.convert)
    assert str(error).startswith(f"{data.entities}/{which}: ")
    assert error.kind == "annotation file unreadable"
    assert list(found) == ["A dog"]
