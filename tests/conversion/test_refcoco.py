"""visionr1 convert refcoco: distributions of RefCOCO and gRefCOCO, bad entries and files, hostile pickles."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import Hostile
from PIL import Image
from refused import bad_entry, mentions
from scene_sets.base import pictures, rows_in, target
from scene_sets.referring import (
    ann_id_of,
    coco_name,
    instances,
    python2_pickle,
    ref,
    save_train2014,
    write_jxu124,
    write_lmms_lab,
)

from verl_visionr1.answers import FORMATS
from verl_visionr1.conversion.datasets import refcoco
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.tools.doctor import check_parquet


class Dataset:
    """RefCOCO in a folder; `refs` and `instances` are what its files will hold."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pictures = folder, pictures()[:3]
        self.images = save_train2014(self.pictures, folder)
        self.instances = instances(self.pictures)
        self.refs: list[Any] = []

    def ref(self, picture: int = 0, thing: int = 0, texts: tuple[str, ...] = ("that",), **changes: Any) -> Any:
        shown = self.pictures[picture]
        entry = ref(len(self.refs), shown, ann_id_of(shown, shown.things[thing]), texts)
        self.refs.append({**entry, **changes})
        return self.refs[-1]

    def write(self, name: str = "refs(unc).p") -> list[Path]:
        path = self.folder / name
        path.write_bytes(json.dumps(self.refs).encode() if name.endswith(".json") else python2_pickle(self.refs))
        (self.folder / "instances.json").write_text(json.dumps(self.instances))
        return [path, self.folder / "instances.json", self.images]

    def convert(self, name: str = "refs(unc).p", **options: Any) -> tuple[list[dict[str, Any]], Any]:
        report = refcoco.convert(self.write(name), self.folder / "out.parquet", refcoco.Options(**options))
        assert check_parquet(self.folder / "out.parquet") == []
        return rows_in(report), report

    def bad(self, kind: str, *values: object, name: str = "refs(unc).p", **options: Any) -> None:
        """It fails, and names these values; with --on-error skip, the good ref beside it is left."""
        self.ref(1, texts=("the good one",))
        error, found, _ = bad_entry(self.convert, name, **options)
        assert error.kind == kind, error.kind
        assert str(error).startswith(f"{name}: ")
        assert mentions(error, *values), error
        assert [row["prompt"][0]["content"] for row in found] == [asks("the good one")]


def asks(text: str, *, allow_none: bool = False) -> str:
    instruct = FORMATS["qwen-json"].instruct
    assert instruct is not None
    return "<image>" + instruct("grounding", [text], allow_none=allow_none)


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


def test_refs_of_an_image_follow_each_other(data: Dataset) -> None:
    """Then it is prepared once."""
    for picture in (0, 1, 0, 2, 1):
        data.ref(picture)
    found, _ = data.convert()
    ids = [int(row["extra_info"]["image_id"]) for row in found]
    first, second, third = (picture.number for picture in data.pictures)
    assert ids == [first, first, second, second, third]


def test_files_of_one_name(data: Dataset) -> None:
    data.ref()
    refs, *others = data.write()
    plus = data.folder / "refcoco+" / refs.name
    plus.parent.mkdir()
    plus.write_bytes(refs.read_bytes())
    assert refcoco.convert([refs, plus, *others], data.folder / "out.parquet").rows == {"grounding": 2}


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


def test_a_crowd_is_a_target_and_noted(data: Dataset) -> None:
    data.instances["annotations"][0]["iscrowd"] = 1
    data.ref(texts=("the people", "the crowd"))
    found, report = data.convert()
    assert [target(row).boxes_xyxy for row in found] == [(data.pictures[0].things[0].box,)] * 2
    assert report.ledger.notes["expression for a crowd annotation: its box is the target"] == 2


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


def table(sources: tuple[Any, ...], change: Callable[[dict[str, Any]], Any], keep: int = 3) -> list[Path]:
    """The first rows of a written parquet file, changed."""
    path = sources[0][0]
    rows = pq.read_table(path).to_pylist()[:keep]
    change(rows[0])
    pq.write_table(pa.Table.from_pylist(rows), path)
    return sources[0]


def test_jxu124_needs_the_folder_of_images(tmp_path: Path) -> None:
    (path, _) = write_jxu124(pictures(), tmp_path)[0]
    with pytest.raises(RowsError, match=r"train-00000-of-00001\.parquet: .*coco/train2014"):
        refcoco.convert([path], tmp_path / "out.parquet")


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


def test_the_split_in_the_name_of_a_file_is_not_overruled(tmp_path: Path) -> None:
    """Test images under the name of train would be the result: lmms-lab's files say their split nowhere else."""
    (path,) = write_lmms_lab(pictures(), tmp_path / "set")[0]
    with pytest.raises(RowsError, match=r"val, .*train.*--split val"):
        refcoco.convert([path], tmp_path / "out.parquet")


def test_a_parquet_of_another_kind(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "label": [1]}), tmp_path / "a.parquet")
    with pytest.raises(RowsError, match=r"a\.parquet: columns label, text: "):
        refcoco.convert([tmp_path / "a.parquet"], tmp_path / "out.parquet")


def test_raw_is_asked_for_where_sent_is_missing(data: Dataset) -> None:
    data.ref(sentences=[{"raw": " Left Man ", "sent_id": 3}])
    (row,), _ = data.convert()
    assert target(row).labels == ("Left Man",)


def test_boxes_of_jxu124_are_those_of_raw_anns(tmp_path: Path) -> None:
    """Nothing says in which order `bbox` is."""
    sources = table(write_jxu124(pictures(), tmp_path), lambda row: row.update(bbox=[1.0, 2.0, 3.0, 4.0]), keep=1)
    report = refcoco.convert(sources, tmp_path / "out.parquet")
    boxes = {thing.box for picture in pictures() for thing in picture.things}
    assert {target(row).boxes_xyxy[0] for row in rows_in(report)} <= boxes


def changed(field: str, value: Any) -> Callable[[Dataset], Any]:
    def change(data: Dataset) -> None:
        data.ref()[field] = value

    return change


def annotation(**changes: Any) -> Callable[[Dataset], Any]:
    def change(data: Dataset) -> None:
        data.instances["annotations"][0].update(changes)
        data.ref()

    return change


def image(**changes: Any) -> Callable[[Dataset], Any]:
    def change(data: Dataset) -> None:
        data.instances["images"][0].update(changes)
        data.ref()

    return change


def entry(value: Any) -> Callable[[Dataset], Any]:
    return lambda data: data.refs.append(value)


WHERE = "entry 0 (ref_id 0)"


@pytest.mark.parametrize(
    ("spoil", "kind", "values"),
    [
        (changed("ann_id", 7), "unknown ann_id", (WHERE, "ann_id 7")),
        (changed("image_id", 7), "unknown image_id", (WHERE, "image_id 7")),
        (
            lambda data: data.ref(ann_id=ann_id_of(data.pictures[1], data.pictures[1].things[0])),
            "annotation of another image",
            (WHERE, "ann_id 101700", "1017", "1000"),
        ),
        (changed("ann_id", []), "ref without annotation", (WHERE, "ann_id []")),
        (changed("sentences", [{"sent": " ", "sent_id": 4}]), "empty expression", (WHERE, "sent_id 4")),
        (annotation(bbox=[1, 2, 3]), "box malformed", (WHERE, [1, 2, 3])),
        (image(width=0), "image without size", (WHERE, "image 1000", (0, 120))),
        (image(file_name=None), "image without file_name", (WHERE, "image 1000", None)),
        (entry(7), "malformed entry", ("entry 0 = 7",)),
        (entry({"image_id": 1}), "malformed entry", ("entry 0 = {'image_id': 1}", "`sentences`")),
    ],
)
def test_bad_entries(data: Dataset, spoil: Callable[[Dataset], Any], kind: str, values: tuple[object, ...]) -> None:
    spoil(data)
    data.bad(kind, *values)


def test_a_target_and_no_target(data: Dataset) -> None:
    number = ann_id_of(data.pictures[0], data.pictures[0].things[0])
    data.ref(ann_id=[number], no_target=True)
    data.bad("ref without and with target", WHERE, "no_target", [number], name="grefs(unc).json")


@pytest.mark.parametrize("place", ["alone", "within"])
def test_a_hostile_pickle_is_refused_and_not_run(data: Dataset, place: str) -> None:
    trace = data.folder / "was_run"
    data.ref()
    sources = data.write()
    hostile: Any = Hostile(trace)
    sources[0].write_bytes(pickle.dumps(hostile if place == "alone" else [*data.refs, {"sentences": [hostile]}]))
    pickle.loads(sources[0].read_bytes())
    assert trace.exists(), "the pickle of this test is harmless"
    trace.unlink()
    with pytest.raises(RowsError) as caught:
        refcoco.convert(sources, data.folder / "out.parquet")
    assert mentions(caught.value, f"{sources[0]}: ", f"{os.name}.system")
    assert not trace.exists()


def test_files_that_are_not_what_they_should_be(data: Dataset) -> None:
    data.ref()
    refs, boxes, images = data.write()
    out = data.folder / "out.parquet"

    def refuses(*sources: Path, values: tuple[object, ...]) -> bool:
        with pytest.raises(RowsError) as caught:
            refcoco.convert(sources, out)
        return mentions(caught.value, *values)

    assert refuses(refs, images, values=("refs(unc).p: ", "instances.json"))
    assert refuses(refs, boxes, values=("refs(unc).p: ", "train2014"))
    assert refuses(boxes, images, values=("refs(...).p", "grefs(unc).json", ".parquet"))
    assert refuses(refs, boxes, boxes, images, values=(f"{boxes}: ", "second"))
    assert refuses(refs, boxes, images, data.folder, values=(images, data.folder))
    assert refuses(data.folder / "none.p", boxes, images, values=(f"{data.folder}/none.p: ",))
    (data.folder / "dict.p").write_bytes(pickle.dumps({"a": 1}))
    assert refuses(data.folder / "dict.p", boxes, images, values=(f"{data.folder}/dict.p: ", "dict"))
    (data.folder / "cut.p").write_bytes(refs.read_bytes()[:-9])
    assert refuses(data.folder / "cut.p", boxes, images, values=(f"{data.folder}/cut.p: ", "truncated"))
    (data.folder / "captions.json").write_text('{"captions": []}')
    assert refuses(refs, data.folder / "captions.json", images, values=(f"{data.folder}/captions.json: ", "`images`"))


def test_images_of_another_size_are_refused(data: Dataset) -> None:
    data.ref()
    path = data.images / coco_name(data.pictures[0])
    Image.new("RGB", (50, 50)).save(path, format="PNG")
    with pytest.raises(RowError) as caught:
        data.convert()
    assert mentions(caught.value, (160, 120), (50, 50))


def test_ids_that_are_there_twice(data: Dataset) -> None:
    data.ref()
    data.instances["annotations"].append(data.instances["annotations"][0])
    with pytest.raises(RowsError, match=r"instances: .*twice"):
        data.convert()
