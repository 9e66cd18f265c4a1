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


WHERE = "refs(unc).p: entry 0 (ref_id 0)"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (changed("ann_id", 7), f"{WHERE}: ann_id 7 is not in the instances; do the files match?"),
        (changed("image_id", 7), f"{WHERE}: image_id 7 is not in the instances; do the files match?"),
        (
            lambda data: data.ref(ann_id=ann_id_of(data.pictures[1], data.pictures[1].things[0])),
            f"{WHERE}: ann_id 101700 is on image 1017, the ref on image 1000; do the files match?",
        ),
        (changed("ann_id", []), f"{WHERE}: ann_id []: needs one, or -1 for none; correct it"),
        (changed("sentences", [{"sent": " ", "sent_id": 4}]), f"{WHERE}: sent_id 4 has no text; remove it"),
        (annotation(bbox=[1, 2, 3]), f"{WHERE}: box [1, 2, 3]: needs 4 finite numbers; correct or remove the entry"),
        (
            annotation(bbox=[1, 2, "3", 4]),
            f"{WHERE}: box [1, 2, '3', 4]: needs 4 finite numbers; correct or remove the entry",
        ),
        (annotation(bbox=[5, 5, 0, 4]), f"{WHERE}: box = [5, 5, 5, 9]: no extent; correct or remove the annotation"),
        (
            image(width=0),
            f"{WHERE}: image 1000: width and height (0, 120): need positive numbers; correct or remove the entry",
        ),
        (image(file_name=None), f"{WHERE}: image 1000 has file_name None; correct it"),
        (
            image(file_name="../../etc/passwd"),
            f"{WHERE}: file_name '../../etc/passwd' must be inside the images folder, but leads out by '..'; "
            "put the image there, or correct the name",
        ),
        (entry(7), "refs(unc).p: entry 0 = 7: Expected `object`, got `int`; correct it"),
        (
            entry({"image_id": 1}),
            "refs(unc).p: entry 0 = {'image_id': 1}: Object missing required field `sentences`; correct it",
        ),
    ],
)
def test_bad_entries(data: Dataset, spoil: Callable[[Dataset], Any], message: str) -> None:
    spoil(data)
    data.bad(message)


def test_a_target_and_no_target(data: Dataset) -> None:
    number = ann_id_of(data.pictures[0], data.pictures[0].things[0])
    data.ref(ann_id=[number], no_target=True)
    data.bad(
        f"grefs(unc).json: entry 0 (ref_id 0): no_target, but with ann_id [{number}]; correct it", "grefs(unc).json"
    )


def test_a_bad_entry_of_json(data: Dataset) -> None:
    data.refs.append({"image_id": []})
    data.bad(
        'grefs(unc).json: entry 0 = {"image_id": []}: Expected `int | str`, got `array` - at `$.image_id`; correct it',
        "grefs(unc).json",
    )


def test_images_of_another_size_are_refused(data: Dataset) -> None:
    data.ref()
    path = data.images / coco_name(data.pictures[0])
    Image.new("RGB", (50, 50)).save(path, format="PNG")
    with pytest.raises(RowError, match=r"size_wh \(160, 120\), the file has \(50, 50\)"):
        data.convert()


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
    assert str(caught.value).startswith(f"{sources[0]}: refused: it wants to load {os.name}.system")
    assert not trace.exists()


def test_files_that_are_not_what_they_should_be(data: Dataset) -> None:
    data.ref()
    refs, boxes, images = data.write()
    out = data.folder / "out.parquet"

    def said(*sources: Path) -> str:
        with pytest.raises(RowsError) as caught:
            refcoco.convert(sources, out)
        return str(caught.value)

    assert said(refs, images).startswith("refs(unc).p: has no boxes; ")
    assert said(refs, boxes).startswith("refs(unc).p: has no images; ")
    assert said(boxes, images).endswith("needs refs(...).p, grefs(unc).json or .parquet files")
    assert said(refs, boxes, boxes, images).startswith(f"{boxes}: a second file of instances")
    assert said(refs, boxes, images, data.folder).startswith(f"{images} and {data.folder}: two folders of images")
    assert said(data.folder / "none.p", boxes, images) == f"{data.folder}/none.p: no such file; check the path"
    (data.folder / "dict.p").write_bytes(pickle.dumps({"a": 1}))
    assert said(data.folder / "dict.p", boxes, images) == (
        f"{data.folder}/dict.p: needs a list of refs, holds dict; is it the right file?"
    )
    (data.folder / "cut.p").write_bytes(refs.read_bytes()[:-9])
    assert said(data.folder / "cut.p", boxes, images) == (
        f"{data.folder}/cut.p: not a complete pickle (pickle data was truncated); fetch it again"
    )
    (data.folder / "captions.json").write_text('{"captions": []}')
    assert said(refs, data.folder / "captions.json", images).startswith(
        f"{data.folder}/captions.json: not the expected layout"
    )


def test_ids_that_are_there_twice(data: Dataset) -> None:
    data.ref()
    data.instances["annotations"].append(data.instances["annotations"][0])
    with pytest.raises(RowsError, match="instances: an id of an image or annotation appears twice"):
        data.convert()
