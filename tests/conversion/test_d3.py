"""visionr1 convert d3: sentences of groups, boxes of several sentences, targets of none; numpy in pickles."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from refused import bad_entry
from scene_sets.base import target

from verl_visionr1.conversion.datasets import d3
from verl_visionr1.conversion.sources import read_pickle
from verl_visionr1.files import RowsError
from verl_visionr1.rows import read_rows
from verl_visionr1.tools.doctor import check_parquet

DOG, LOOSE, HAT, BARE = "a dog", "a dog not on a leash", "a hat", "a person without a hat"
SENTENCES = {1: DOG, 2: LOOSE, 3: HAT, 4: BARE}
ABSENCE = (2, 4)
WH = (100, 80)


class Dataset:
    """d3_pkl and d3_images: group 1 has the sentences of dogs, group 2 those of hats."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts: dict[str, Any] = {
            "sentences": {
                i: {"id": i, "anno_id": [], "group_id": [], "is_negative": i in ABSENCE, "raw_sent": text}
                for i, text in SENTENCES.items()
            },
            "annotations": {},
            "images": {},
            "groups": {1: {"id": 1, "inner_sent_id": [1, 2]}, 2: {"id": 2, "inner_sent_id": [3, 4]}},
        }

    def image(self, group: Any, *boxes: tuple[list[int], Any], **changes: Any) -> None:
        number = len(self.parts["images"])
        path = self.folder / "d3_images" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", WH).save(path)
        entry = {"id": number, "file_name": path.name, "height": WH[1], "width": WH[0], "group_id": group}
        self.parts["images"][number] = {**entry, **changes}
        for sentences, box in boxes:
            self.annotate(number, sentences, box)

    def annotate(self, image: Any, sentences: list[int], box: Any) -> None:
        made = {"id": len(self.parts["annotations"]), "sent_id": sentences, "image_id": image, "bbox": box}
        self.parts["annotations"][made["id"]] = {**made, "iscrowd": 0, "group_id": 1, "segmentation": [{"counts": b""}]}

    def write(self) -> Path:
        folder = self.folder / "d3_pkl"
        folder.mkdir(exist_ok=True)
        for name, part in self.parts.items():
            (folder / f"{name}.pkl").write_bytes(pickle.dumps(part, protocol=4))
        return folder

    def convert(self, source: Path | None = None, **options: Any) -> tuple[list[dict[str, Any]], Any]:
        out = self.folder / "out.parquet"
        report = d3.convert(source or self.write(), self.folder / "d3_images", out, d3.Options(**options))
        assert check_parquet(out) == []
        return list(read_rows(out)), report


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path)


def asked(rows: list[dict[str, Any]]) -> list[tuple[tuple[str, ...], int]]:
    """What each row asks for, and how many objects it finds."""
    return [(tuple(target(row).categories), len(target(row).boxes_xyxy)) for row in rows]


BOX = [10, 20, 30, 40]


def test_sentences_of_the_group_and_empty_targets(data: Dataset) -> None:
    data.image(1, ([1], BOX))
    data.image(2)
    rows, report = data.convert()
    assert asked(rows) == [((DOG, LOOSE), 1), ((DOG,), 1), ((LOOSE,), 0), ((HAT, BARE), 0), ((HAT,), 0), ((BARE,), 0)]
    assert report.negatives == {"detection": 1, "grounding": 3}
    assert all("If there is none" in row["prompt"][0]["content"] for row in rows)
    assert rows[0]["data_source"] == "visionr1/d3_detection"


def test_one_box_fits_several_sentences(data: Dataset) -> None:
    data.image(1, ([1, 2], BOX), ([1], [50, 20, 30, 40]))
    rows, _ = data.convert(task="detection")
    truth = target(rows[0])
    assert truth.labels == (DOG, DOG, LOOSE)
    assert truth.boxes_xyxy == ((10, 20, 40, 60), (50, 20, 80, 60), (10, 20, 40, 60))


@pytest.mark.parametrize(("which", "expected"), [("pres", [(DOG,)]), ("abs", [(LOOSE,)]), ("full", [(DOG, LOOSE)])])
def test_descriptions(data: Dataset, which: str, expected: list[tuple[str, ...]]) -> None:
    data.image(1, ([1, 2], BOX))
    rows, _ = data.convert(task="detection", descriptions=which)
    assert [categories for categories, _ in asked(rows)] == expected


@pytest.mark.parametrize("box", [BOX, [BOX], np.array([BOX]), np.array([BOX], dtype=np.float32), np.array(BOX)])
def test_boxes_are_lists_or_arrays(data: Dataset, box: Any) -> None:
    data.image(1, ([1], box))
    rows, _ = data.convert(task="detection")
    assert target(rows[0]).boxes_xyxy == ((10, 20, 40, 60),)


def spoil(data: Dataset, what: str) -> None:
    """A set with one good image and one thing wrong."""
    data.image(1, ([1], BOX))
    parts = data.parts
    if what == "box of three":
        data.annotate(0, [2], [1, 2, 3])
    elif what == "unknown image":
        data.annotate(77, [1], BOX)
    elif what == "unknown sentence":
        data.annotate(0, [77], BOX)
    elif what == "annotation of another shape":
        parts["annotations"][9] = {"id": 9, "bbox": BOX}
    elif what == "image without a name":
        data.image(1, ([1], BOX))
        del parts["images"][1]["file_name"]
    elif what == "unknown group":
        data.image(77, ([1], BOX))
    else:
        assert what == "sentence without text"
        parts["sentences"][9] = {"id": 9}


@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        ("box of three", "box malformed", r"d3_pkl: annotation id '1' \(image id 0\): bbox \[1, 2, 3\]"),
        ("unknown image", "unknown image_id", r"annotations.pkl: entry 1: image_id 77 .*images.pkl"),
        ("unknown sentence", "unknown sent_id", r"annotations.pkl: entry 1: sent_id 77 .*sentences.pkl"),
        ("annotation of another shape", "malformed entry", r"annotations.pkl: entry 9 = .*`image_id`"),
        ("image without a name", "malformed entry", r"images.pkl: entry 1 = .*`file_name`"),
        ("unknown group", "unknown group_id", r"image id 1: group_id 77 .*images.pkl.*groups.pkl"),
        ("sentence without text", "malformed entry", r"sentences.pkl: entry 9 = .*`raw_sent`"),
    ],
)
def test_bad_entries(data: Dataset, what: str, kind: str, message: str) -> None:
    spoil(data, what)
    error, rows, _ = bad_entry(data.convert, task="detection")
    assert error.kind == kind
    assert re.search(message, str(error))
    is_box = what.startswith("box")  # of a sentence with a bad box nobody can say that it fits nothing
    assert asked(rows) == [((DOG,) if is_box else (DOG, LOOSE), 1)]


VALUES = {
    "box": np.array([[1, 2, 3, 4]]),
    "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "gaps": np.arange(8).reshape(2, 4)[:, ::2],
    "big": np.array([1, 258], dtype=">i4"),
    "none": np.zeros((0, 4)),
    "single": np.array(3),
    "true": np.array([True]),
    "scalars": [np.float32(2.5), np.int64(7), np.bool_(True)],
    "bytes": [b"ab\xff", b""],
}
EXPECTED = {
    "box": [[1, 2, 3, 4]],
    "turned": [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]],
    "gaps": [[0, 2], [4, 6]],
    "big": [1, 258],
    "none": [],
    "single": [3],
    "true": [True],
    "scalars": [2.5, 7, True],
    "bytes": [b"ab\xff", b""],
}


@pytest.mark.parametrize(
    ("protocol", "module"), [*((i, b"numpy._core") for i in range(6)), (0, b"numpy.core"), (2, b"numpy.core")]
)
def test_numpy_in_pickles(tmp_path: Path, protocol: int, module: bytes) -> None:
    """As every protocol writes it; numpy 1 called its module otherwise."""
    text = pickle.dumps(VALUES, protocol)
    if module == b"numpy.core":
        text = text.replace(b"numpy._core", module)
    (tmp_path / "a.pkl").write_bytes(text)
    assert read_pickle(tmp_path / "a.pkl") == EXPECTED


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([object()]), "dtype 'O8'"),
        (np.array(["a"]), "dtype 'U1'"),
        (np.zeros(1, dtype=[("a", "i4")]), "dtype 'V4'"),
        (np.datetime64("2020-01-01"), "dtype 'M8'"),
        (np.random.default_rng(0), r"numpy\.random"),
        (np.ma.masked_array([1]), r"numpy\.ma"),
    ],
)
def test_other_things_of_numpy_are_refused(tmp_path: Path, value: Any, message: str) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value))
    with pytest.raises(RowsError, match=message):
        read_pickle(tmp_path / "a.pkl")


def test_forged_arrays_are_garbled_pickles(tmp_path: Path) -> None:
    """Shape, bytes and dtype that do not agree; numpy's own reader is never asked."""

    class Forged:
        def __init__(self, *state: Any) -> None:
            self.state = state

        def __reduce__(self) -> Any:
            return np.array([1]).__reduce__()[0], (np.ndarray, (0,), b"b"), self.state

    whole = np.dtype("i8")
    for state in ((1, (10**12,), whole, False, b"12345678"), (1, (1,), whole, False, b"123"), (1, (1,)), ("a",)):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(Forged(*state)))
        with pytest.raises(RowsError, match=r"a\.pkl: "):
            read_pickle(tmp_path / "a.pkl")
