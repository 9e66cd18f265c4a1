"""visionr1 convert refcoco: bad entries, files that are not what they should be, and hostile pickles."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile import Hostile
from PIL import Image
from refcoco_set import Dataset
from refused import mentions
from scene_sets.referring import ann_id_of, coco_name

from verl_visionr1.conversion.datasets import refcoco
from verl_visionr1.files import RowError, RowsError


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path)


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
        (annotation(bbox=[1, 2, "3", 4]), "box malformed", (WHERE, [1, 2, "3", 4])),
        (annotation(bbox=[5, 5, 0, 4]), "box without extent", (WHERE, [5, 5, 5, 9])),
        (image(width=0), "image without size", (WHERE, "image 1000", (0, 120))),
        (image(file_name=None), "image without file_name", (WHERE, "image 1000", None)),
        (image(file_name="../../etc/passwd"), "file_name outside the images folder", (WHERE, "'../../etc/passwd'")),
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


def test_a_bad_entry_of_json(data: Dataset) -> None:
    data.refs.append({"image_id": []})
    data.bad("malformed entry", 'entry 0 = {"image_id": []}', "$.image_id", name="grefs(unc).json")


def test_images_of_another_size_are_refused(data: Dataset) -> None:
    data.ref()
    path = data.images / coco_name(data.pictures[0])
    Image.new("RGB", (50, 50)).save(path, format="PNG")
    with pytest.raises(RowError) as caught:
        data.convert()
    assert mentions(caught.value, (160, 120), (50, 50))


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


def test_ids_that_are_there_twice(data: Dataset) -> None:
    data.ref()
    data.instances["annotations"].append(data.instances["annotations"][0])
    with pytest.raises(RowsError, match=r"instances: .*twice"):
        data.convert()
