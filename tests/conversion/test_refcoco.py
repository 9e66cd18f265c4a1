"""visionr1 convert refcoco: the traps of RefCOCO's distributions, of gRefCOCO and of its parquet files."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from refcoco_set import Dataset, asks
from scene_sets.base import opened, pictures, rows_in, target
from scene_sets.referring import ann_id_of, coco_name, write_jxu124, write_lmms_lab

from verl_visionr1.conversion.datasets import refcoco
from verl_visionr1.files import RowError, RowsError


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path)


def test_one_row_for_each_sentence(data: Dataset) -> None:
    data.ref(texts=("one name", "another name"))
    found, report = data.convert()
    assert [row["prompt"][0]["content"] for row in found] == [asks("one name"), asks("another name")]
    box = data.pictures[0].things[0].box
    assert [target(row).boxes_xyxy for row in found] == [(box,)] * 2
    assert [target(row).labels for row in found] == [("one name",), ("another name",)]
    assert report.rows == {"grounding": 2}
    facts = [json.loads(row["extra_info"]["source_ann"]) for row in found]
    assert facts[1] == {"file": "refs(unc).p", "ref_id": 0, "sent_id": 1, "ann_ids": [str(data.refs[0]["ann_id"])]}


def test_the_file_name_of_a_ref_is_not_that_of_its_image(data: Dataset) -> None:
    entry = data.ref()
    assert entry["file_name"] == f"{coco_name(data.pictures[0])[:-4]}_0.jpg"
    (row,), _ = data.convert()
    assert row["extra_info"]["file_name"] == coco_name(data.pictures[0])
    assert row["images"] == [str(data.images / coco_name(data.pictures[0]))]
    assert row["extra_info"]["image_id"] == str(data.pictures[0].number)


def test_refs_of_an_image_follow_each_other(data: Dataset) -> None:
    """Then it is prepared once."""
    for picture in (0, 1, 0, 2, 1):
        data.ref(picture)
    found, _ = data.convert()
    ids = [int(row["extra_info"]["image_id"]) for row in found]
    first, second, third = (picture.number for picture in data.pictures)
    assert ids == [first, first, second, second, third]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("train", ["train"]),
        ("val", ["val"]),
        ("validation", ["val"]),
        ("test", ["test", "testA", "testAB", "testB"]),
        ("testA", ["testA", "testAB"]),
        ("testB", ["testAB", "testB"]),
        ("testAB", ["testAB"]),
    ],
)
def test_splits_as_refer_reads_them(data: Dataset, asked: str, expected: list[str]) -> None:
    splits = ["train", "val", "testA", "testB", "test", "testAB"]
    for split in splits:
        data.ref(texts=(split,), split=split)
    found, report = data.convert(split=asked)
    assert sorted(target(row).labels[0] for row in found) == expected
    assert {row["extra_info"]["split"] for row in found} == {asked}
    assert sum(report.ledger.left_out.values()) == len(splits) - len(expected)


def test_a_split_that_is_not_there_says_which_are(data: Dataset) -> None:
    data.ref(split="train")
    data.ref(split="val")
    with pytest.raises(RowsError, match=r"1 x .*train.*, 1 x .*val.*--split"):
        data.convert(split="testA")


def test_python2_texts_that_are_no_ascii(data: Dataset) -> None:
    data.ref(texts=("a caf\xe9",))
    assert b"caf\xe9" in data.write()[0].read_bytes()
    (row,), _ = data.convert()
    assert target(row).labels == ("a caf\xe9",)


def test_python3_pickles_are_read_too(data: Dataset) -> None:
    data.ref()
    sources = data.write()
    data.refs[0]["sentences"][0]["sent"] = "a caf\xe9 \u732b"
    sources[0].write_bytes(pickle.dumps(data.refs))
    report = refcoco.convert(sources, data.folder / "out.parquet")
    assert target(rows_in(report)[0]).labels == ("a caf\xe9 \u732b",)


def test_raw_is_asked_for_where_sent_is_missing(data: Dataset) -> None:
    data.ref(sentences=[{"raw": " Left Man ", "sent_id": 3}])
    (row,), _ = data.convert()
    assert target(row).labels == ("Left Man",)


def test_a_crowd_is_a_target_and_noted(data: Dataset) -> None:
    data.instances["annotations"][0]["iscrowd"] = 1
    data.ref(texts=("the people", "the crowd"))
    found, report = data.convert()
    assert [target(row).boxes_xyxy for row in found] == [(data.pictures[0].things[0].box,)] * 2
    assert report.ledger.notes["expression for a crowd annotation: its box is the target"] == 2


def test_ids_as_texts(data: Dataset) -> None:
    entry = data.ref()
    entry["ann_id"], entry["image_id"] = str(entry["ann_id"]), str(entry["image_id"])
    found, _ = data.convert("refs.json")
    assert len(found) == 1


def test_sources_come_in_any_order(data: Dataset) -> None:
    data.ref()
    sources = data.write()
    report = refcoco.convert(sources[::-1], data.folder / "out.parquet")
    assert report.written.rows == 1


def test_pointing_asks_for_a_point_in_the_box(data: Dataset) -> None:
    data.ref(texts=("that thing",))
    (row,), _ = data.convert(task="pointing")
    assert row["ability"] == "pointing"
    assert "point" in row["prompt"][0]["content"]
    assert row["data_source"] == "visionr1/refcoco_pointing"
    assert target(row).boxes_xyxy == (data.pictures[0].things[0].box,)


def test_excluded_images_are_left_out_by_whatever_name(data: Dataset) -> None:
    for picture in (0, 1, 2):
        data.ref(picture)
    numbers = [picture.number for picture in data.pictures]
    (data.folder / "list.txt").write_text(f"coco:{numbers[0]}\n{numbers[1]}  # by its plain id\n")
    found, report = data.convert(exclude_image_ids=data.folder / "list.txt")
    assert [row["extra_info"]["image_id"] for row in found] == [str(numbers[2])]
    assert report.ledger.left_out["row of an image on the exclusion list (--exclude-image-ids)"] == 2


def test_no_target_is_a_row_without_objects(data: Dataset) -> None:
    data.ref(texts=("that",), ann_id=[ann_id_of(data.pictures[0], data.pictures[0].things[0])])
    data.ref(texts=("a purple whale",), ann_id=[-1], category_id=[-1])
    found, report = data.convert("grefs(unc).json")
    assert [row["prompt"][0]["content"] for row in found] == [
        asks("that", allow_none=True),
        asks("a purple whale", allow_none=True),
    ]
    assert target(found[1]).boxes_xyxy == ()
    assert report.negatives == {"grounding": 1}


def test_prompts_of_a_split_without_negatives_are_those_of_the_others(data: Dataset) -> None:
    """Else the wording would tell which split a row is of."""
    data.ref(texts=("that",))
    data.ref(ann_id=[-1], split="val")
    (row,), _ = data.convert("grefs(unc).json")
    assert row["prompt"][0]["content"] == asks("that", allow_none=True)


def test_negatives_can_be_left_out_or_thinned(data: Dataset) -> None:
    for picture in (0, 1, 2):
        data.ref(picture)
        data.ref(picture, ann_id=[-1])
    found, report = data.convert("grefs(unc).json", negatives=0.0)
    assert [row["prompt"][0]["content"] for row in found] == [asks("that")] * 3
    assert report.ledger.left_out["negative over --negatives"] == 3
    found, report = data.convert("grefs(unc).json", negatives=0.25)
    assert report.negatives == {"grounding": 1}


@pytest.mark.parametrize(
    "said",
    [{"ann_id": -1}, {"ann_id": [-1, -1]}, {"ann_id": [], "no_target": True}, {"ann_id": None, "no_target": True}],
)
def test_other_ways_to_say_no_target(data: Dataset, said: dict[str, Any]) -> None:
    data.ref(**said)
    (row,), _ = data.convert("grefs(unc).json")
    assert target(row).boxes_xyxy == ()


def test_a_repeated_annotation_counts_once(data: Dataset) -> None:
    first, second = (ann_id_of(data.pictures[0], thing) for thing in data.pictures[0].things[:2])
    data.ref(texts=("both",), ann_id=[first, second, first])
    (row,), report = data.convert("grefs(unc).json", max_instances=2)
    assert target(row).boxes_xyxy == tuple(sorted(thing.box for thing in data.pictures[0].things[:2]))
    assert report.ledger.notes["annotation that a ref names twice"] == 1


def table(sources: tuple[Any, ...], change: Callable[[dict[str, Any]], Any], keep: int = 3) -> list[Path]:
    """The first rows of a written parquet file, changed."""
    path = sources[0][0]
    rows = pq.read_table(path).to_pylist()[:keep]
    change(rows[0])
    pq.write_table(pa.Table.from_pylist(rows), path)
    return sources[0]


def test_boxes_of_jxu124_are_those_of_raw_anns(tmp_path: Path) -> None:
    """Nothing says in which order `bbox` is."""
    sources = table(write_jxu124(pictures(), tmp_path), lambda row: row.update(bbox=[1.0, 2.0, 3.0, 4.0]), keep=1)
    report = refcoco.convert(sources, tmp_path / "out.parquet")
    boxes = {thing.box for picture in pictures() for thing in picture.things}
    assert {target(row).boxes_xyxy[0] for row in rows_in(report)} <= boxes


def test_jxu124_needs_the_folder_of_images(tmp_path: Path) -> None:
    (path, _) = write_jxu124(pictures(), tmp_path)[0]
    with pytest.raises(RowsError, match=r"train-00000-of-00001\.parquet: .*coco/train2014"):
        refcoco.convert([path], tmp_path / "out.parquet")


@pytest.mark.parametrize("folder", ["coco", "coco/train2014", "."])
def test_folder_of_jxu124_at_any_depth(tmp_path: Path, folder: str) -> None:
    (path, _) = write_jxu124(pictures(), tmp_path)[0]
    report = refcoco.convert([path, tmp_path / folder], tmp_path / "out.parquet")
    assert report.written.rows > 0


def test_splits_of_jxu124(tmp_path: Path) -> None:
    sources = table(write_jxu124(pictures(), tmp_path), lambda row: row.update(split="val"))
    report = refcoco.convert(sources, tmp_path / "out.parquet", refcoco.Options(split="validation"))
    assert report.written.rows == 2
    assert report.ledger.left_out["ref of split train (--split)"] == 2


def test_bad_rows_of_jxu124(tmp_path: Path) -> None:
    sources = table(write_jxu124(pictures(), tmp_path), lambda row: row.update(raw_anns="[1, 2]"))
    with pytest.raises(RowError, match=r"train-00000-of-00001\.parquet: row 0: .*`array`"):
        refcoco.convert(sources, tmp_path / "out.parquet")
    report = refcoco.convert(sources, tmp_path / "out.parquet", refcoco.Options(on_error="skip"))
    assert report.written.rows == 4


def test_lmms_lab_knows_the_image_behind_the_name(tmp_path: Path) -> None:
    (path,) = write_lmms_lab(pictures(), tmp_path / "set")[0]
    (tmp_path / "list.txt").write_text(f"coco:{pictures()[0].number}\n")
    options = refcoco.Options(split="val", exclude_image_ids=tmp_path / "list.txt")
    report = refcoco.convert([path], tmp_path / "out.parquet", options)
    left = {row["extra_info"]["image_id"] for row in rows_in(report)}
    assert left == {str(picture.number) for picture in pictures()[1:]} & left
    assert report.ledger.left_out["row of an image on the exclusion list (--exclude-image-ids)"] > 0
    assert {row["extra_info"]["file_name"] for row in rows_in(report)} <= {coco_name(it) for it in pictures()}


def test_the_split_in_the_name_of_a_file_is_not_overruled(tmp_path: Path) -> None:
    """Test images under the name of train would be the result: lmms-lab's files say their split nowhere else."""
    (path,) = write_lmms_lab(pictures(), tmp_path / "set")[0]
    with pytest.raises(RowsError, match=r"val, .*train.*--split val"):
        refcoco.convert([path], tmp_path / "out.parquet")


def test_images_of_lmms_lab_are_opened(tmp_path: Path) -> None:
    (path,) = write_lmms_lab(pictures(), tmp_path / "set")[0]
    report = refcoco.convert([path], tmp_path / "out.parquet", refcoco.Options(split="val", embed=True))
    assert opened(rows_in(report)[0]).size in {picture.size for picture in pictures()}


def test_a_parquet_of_another_kind(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "label": [1]}), tmp_path / "a.parquet")
    with pytest.raises(RowsError, match=r"a\.parquet: columns label, text: "):
        refcoco.convert([tmp_path / "a.parquet"], tmp_path / "out.parquet")


def test_provenance_and_the_same_bytes(data: Dataset) -> None:
    data.ref(texts=("that", "it"))
    data.convert()
    first = (data.folder / "out.parquet").read_bytes()
    facts = json.loads(pq.read_schema(data.folder / "out.parquet").metadata[b"visionr1"])
    assert facts["source"] == "refs(unc).p, instances.json"
    assert str(data.folder) not in json.dumps(facts)
    data.convert()
    assert (data.folder / "out.parquet").read_bytes() == first
