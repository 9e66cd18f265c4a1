"""visionr1 convert visual_genome: every trap of region descriptions, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from refused import bad_entry, mentions
from scene_sets.base import rows_in, target

from verl_visionr1.conversion.datasets import visual_genome
from verl_visionr1.files import RowError, RowsError

WH = (160, 96)
URL = "https://cs.stanford.edu/people/rak248"
KEYS = ("x", "y", "width", "height")
A, B, C = (8, 16, 40, 24), (64, 8, 16, 72), (96, 40, 56, 32)
A_XYXY, B_XYXY = (8, 16, 48, 40), (64, 8, 80, 80)


class Dataset:
    """Regions and images in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.images_dir = folder, folder / "images"
        self.images_dir.mkdir(parents=True)
        self.regions: list[Any] = []
        self.data: list[dict[str, Any]] = []

    def image(self, *phrases: tuple[str, Any], subfolder: str = "VG_100K", **changes: Any) -> int:
        number = 2407890 + len(self.data)
        path = self.images_dir / subfolder / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", WH, (90, 90, 90)).save(path)
        regions = [
            {"region_id": 1000 + i, "phrase": phrase, **dict(zip(KEYS[: len(box)], box, strict=True))}
            for i, (phrase, box) in enumerate(phrases)
        ]
        self.regions.append({"id": number, "regions": regions})
        entry = {"image_id": number, "url": f"{URL}/{subfolder}/{number}.jpg", "width": WH[0], "height": WH[1]}
        self.data.append({**entry, "coco_id": None, "flickr_id": None, **changes})
        return number

    def write(self) -> tuple[Path, Path]:
        paths = self.folder / "region_descriptions.json", self.folder / "image_data.json"
        for path, content in zip(paths, (self.regions, self.data), strict=True):
            path.write_text(json.dumps(content))
        return paths

    def convert(self, *, with_data: bool = True, **options: Any) -> tuple[list[dict[str, Any]], Any]:
        regions, data = self.write()
        report = visual_genome.convert(
            regions,
            self.images_dir,
            self.folder / "out.parquet",
            visual_genome.Options(image_data=data if with_data else None, **options),
        )
        return rows_in(report), report

    def exclusion(self, *ids: str) -> Path:
        path = self.folder / "exclude.txt"
        path.write_text("\n".join(ids))
        return path


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path / "set")


def phrases(rows: list[dict[str, Any]]) -> list[str]:
    return [target(row).categories[0] for row in rows]


def test_a_phrase_of_several_regions_is_left_out(data: Dataset) -> None:
    data.image(("a window", A), ("A  window.", B), ("a door", C))
    found, report = data.convert()
    assert phrases(found) == ["a door"]
    assert report.ledger.left_out["phrase that several regions of its image have (--repeats)"] == 1


@pytest.mark.parametrize("repeats", ["drop", "merge"])
def test_near_duplicates_of_one_phrase_are_one_object(data: Dataset, repeats: str) -> None:
    x, y, width, height = A
    data.image(("a dog", A), ("a dog", (x + 2, y, width, height)), ("a dog", A), ("the dog", A))
    found, report = data.convert(repeats=repeats)
    assert phrases(found) == ["a dog", "the dog"]  # two workers' words for one thing are two rows
    assert [target(row).boxes_xyxy for row in found] == [(A_XYXY,)] * 2
    assert report.ledger.notes["region of the same phrase and nearly the same box dropped"] == 2


@pytest.mark.parametrize("repeats", ["drop", "merge"])
def test_a_bad_region_does_not_make_its_phrase_unique(data: Dataset, repeats: str) -> None:
    data.image(("a dog", A), ("a dog", (300, 16, 40, 24)), ("a door", B))
    found, _ = data.convert(repeats=repeats, on_error="skip")
    assert phrases(found) == ["a door"]


def test_coco_exclusion_lists_apply(data: Dataset) -> None:
    data.image(("one", A), ("other", B), coco_id=139)
    data.image(("two", A), coco_id=140)
    number = data.image(("three", A))
    found, report = data.convert(exclude_image_ids=data.exclusion("coco:000000000139", f"vg:{number}"))
    assert phrases(found) == ["two"]
    assert report.ledger.left_out["row of an image on the exclusion list (--exclude-image-ids)"] == 3


def test_coco_ids_without_image_data_are_an_error(data: Dataset) -> None:
    number = data.image(("one", A), coco_id=139)
    listed = data.exclusion("coco:139")
    with pytest.raises(RowsError) as caught:
        data.convert(with_data=False, exclude_image_ids=listed)
    assert mentions(caught.value, f"--exclude-image-ids {listed}", "image_data.json", "--image-data")
    data.image(("two", A))
    found, _ = data.convert(with_data=False, exclude_image_ids=data.exclusion(f"vg:{number}"))  # needs no such file
    assert phrases(found) == ["two"]


BAD_REGIONS: dict[str, tuple[Any, str, tuple[object, ...]]] = {
    "zero width": ((5, 5, 0, 10), "box without extent", ("region 1001 'bad'", [5.0, 5.0, 5.0, 15.0])),
    "text": ((5, "5", 10, 10), "malformed entry", ("regions[1]", "`str`", "$.y")),
}


@pytest.mark.parametrize("what", BAD_REGIONS)
def test_bad_regions(data: Dataset, what: str) -> None:
    box, kind, values = BAD_REGIONS[what]
    number = data.image(("good", A), ("bad", box), ("better", B))
    error, found, _ = bad_entry(data.convert)
    assert error.kind == kind
    assert mentions(error, f"entry 0 (image {number})", *values), error
    assert phrases(found) == ["good", "better"]


def spoiled(data: Dataset, what: str) -> None:
    data.image(("bad", A))
    if what == "image file missing":
        (data.images_dir / "VG_100K" / "2407891.jpg").unlink()
    elif what == "unknown image_id":
        data.data.pop()
    elif what == "image without id":
        del data.regions[-1]["id"]
    elif what == "image without size or url":
        data.data[-1]["width"] = None
    elif what == "file_name outside the images folder":
        data.data[-1]["url"] = f"{URL}/../2407890.jpg"
    else:
        assert what == "malformed entry"
        data.regions[-1] = {"id": 7}


@pytest.mark.parametrize(
    "what",
    [
        *["image file missing", "unknown image_id", "image without id", "image without size or url"],
        *["file_name outside the images folder", "malformed entry"],
    ],
)
def test_a_bad_image_costs_only_itself(data: Dataset, what: str) -> None:
    data.image(("good", A))
    spoiled(data, what)
    data.data.append({"image_id": 3})  # an entry that nothing needs
    error, found, _ = bad_entry(data.convert)
    assert error.kind == what
    assert "region_descriptions.json: entry 1" in str(error)
    assert phrases(found) == ["good"]


def test_or_merged_into_one_row(data: Dataset) -> None:
    data.image(("a window", B), ("a door", C), ("A  window.", A))
    found, _ = data.convert(repeats="merge")
    assert phrases(found) == ["a window", "a door"]
    assert target(found[0]).boxes_xyxy == (A_XYXY, B_XYXY)
    assert json.loads(found[0]["extra_info"]["source_ann"]) == {"region_ids": [1000, 1002]}


def test_cocos_copy_of_an_image_is_refused(data: Dataset) -> None:
    """Visual Genome's boxes are in its own resolution."""
    number = data.image(("one", A), coco_id=139, width=800, height=480)
    with pytest.raises(RowError) as caught:
        data.convert()
    place = f"region_descriptions.json: entry 0 (image {number}): region 1000 'one': "
    assert mentions(caught.value, place, (800, 480), (160, 96))
