"""visionr1 convert d3: sentences of groups, boxes of several sentences, targets of none; numpy in pickles."""

from __future__ import annotations

import json
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

    def write_json(self) -> Path:
        made: dict[str, Any] = {
            "images": [
                {key: entry[key] for key in ("id", "file_name", "height", "width")}
                for entry in self.parts["images"].values()
            ],
            "categories": [{"id": i, "name": text} for i, text in SENTENCES.items()],
            "annotations": [
                {"id": i, "image_id": it["image_id"], "category_id": sentence, "bbox": list(it["bbox"]), "iscrowd": 0}
                for i, (it, sentence) in enumerate(
                    (it, sentence) for it in self.parts["annotations"].values() for sentence in it["sent_id"]
                )
            ],
        }
        path = self.folder / "d3_full_annotations.json"
        path.write_text(json.dumps(made))
        return path

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


def test_share_of_negatives(data: Dataset) -> None:
    for _ in range(4):
        data.image(1, ([1], BOX))
    assert asked(data.convert(task="grounding", negatives=0)[0]) == [((DOG,), 1)] * 4
    rows, report = data.convert(task="grounding", negatives=0.2)
    assert report.negatives == {"grounding": 1}
    assert len(rows) == 5


def test_boxes_of_other_groups_sentences(data: Dataset) -> None:
    """They are annotated too; the default asks only within the group."""
    data.image(1, ([1, 3], BOX))
    assert asked(data.convert(task="detection")[0]) == [((DOG, LOOSE), 1)]
    rows, _ = data.convert(task="detection", ask="inter")
    assert asked(rows) == [((DOG, LOOSE, HAT, BARE), 2)]
    rows, _ = data.convert(task="grounding", ask="inter")
    assert asked(rows) == [((DOG,), 1), ((HAT,), 1)]
    rows, _ = data.convert(task="grounding", ask="inter", negatives=0.5)
    assert [number for _, number in asked(rows)].count(0) == 2


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


def test_two_sentences_of_one_text(data: Dataset) -> None:
    data.parts["sentences"][3]["raw_sent"] = DOG
    data.image(1, ([1, 3], BOX))
    rows, report = data.convert(task="grounding")
    assert asked(rows) == [((DOG,), 1), ((LOOSE,), 0)]
    assert report.ledger.notes["repeated box (same image, category and numbers) dropped"] == 1


# ------------------------------------------------------------------------------------------------ json


def test_json_with_groups_gives_the_same_rows(data: Dataset) -> None:
    data.image(1, ([1, 2], BOX), ([1], [50, 20, 30, 40]))
    data.image(2, ([4], BOX))
    expected = asked(data.convert()[0])
    path = data.write_json()
    rows, _ = data.convert(path, groups=data.folder / "d3_pkl")
    assert asked(rows) == expected
    assert asked(data.convert(path, ask="inter", task="detection")[0]) == [
        (tuple(SENTENCES.values()), n) for n in (3, 1)
    ]


def test_json_does_not_know_groups(data: Dataset) -> None:
    data.image(1, ([1], BOX))
    path = data.write_json()
    with pytest.raises(RowsError, match=r"d3_full_annotations\.json: .*--groups d3_pkl.*--ask"):
        data.convert(path)
    with pytest.raises(RowsError, match=r"--descriptions abs: .*d3_abs_annotations.json"):
        data.convert(path, descriptions="abs", groups=data.write())
    with pytest.raises(RowsError, match=r"--groups .*d3_pkl"):
        data.convert(groups=data.write())


def test_json_of_absence_descriptions_asks_for_those_it_lists(data: Dataset) -> None:
    data.image(1, ([2], BOX))
    data.write()
    path = data.write_json()
    made = json.loads(path.read_text())
    made["categories"] = [it for it in made["categories"] if it["id"] in ABSENCE]
    path.write_text(json.dumps(made))
    assert asked(data.convert(path, groups=data.folder / "d3_pkl", task="detection")[0]) == [((LOOSE,), 1)]


def test_no_path_in_provenance(data: Dataset) -> None:
    import pyarrow.parquet as pq

    data.image(1, ([1], BOX))
    data.write()
    data.convert(data.write_json(), groups=data.folder / "d3_pkl")
    assert str(data.folder).encode() not in pq.read_schema(data.folder / "out.parquet").metadata[b"visionr1"]


# ------------------------------------------------------------------------------------------------ bad entries


def spoil(data: Dataset, what: str) -> None:
    """A set with one good image and one thing wrong."""
    data.image(1, ([1], BOX))
    parts = data.parts
    if what.startswith("box"):
        data.annotate(
            0, [2], {"box of three": [1, 2, 3], "box of text": ["1", 2, 3, 4], "box flat": [1, 2, 0, 4]}[what]
        )
    elif what == "unknown image":
        data.annotate(77, [1], BOX)
    elif what == "unknown sentence":
        data.annotate(0, [77], BOX)
    elif what == "annotation of another shape":
        parts["annotations"][9] = {"id": 9, "bbox": BOX}
    elif what == "image without a name":
        data.image(1, ([1], BOX))
        del parts["images"][1]["file_name"]
    elif what == "traversal":
        data.image(1, ([1], BOX), file_name="../d3_pkl/images.pkl")
    elif what == "unknown group":
        data.image(77, ([1], BOX))
    elif what == "sentence without text":
        parts["sentences"][9] = {"id": 9}
    else:
        assert what == "no image file"
        data.image(1, ([1], BOX), file_name="gone.jpg")


@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        ("box of three", "box malformed", r"d3_pkl: annotation id '1' \(image id 0\): bbox \[1, 2, 3\]"),
        ("box of text", "box malformed", r"annotation id '1' .*bbox \['1', 2, 3, 4\]"),
        ("box flat", "box without extent", r"annotation id '1' .*bbox \[1, 2, 0, 4\]"),
        (
            "unknown image",
            "unknown image_id",
            r"annotations.pkl: entry 1: image_id 77 .*images.pkl",
        ),
        (
            "unknown sentence",
            "unknown sent_id",
            r"annotations.pkl: entry 1: sent_id 77 .*sentences.pkl",
        ),
        ("annotation of another shape", "malformed entry", r"annotations.pkl: entry 9 = .*`image_id`"),
        ("image without a name", "malformed entry", r"images.pkl: entry 1 = .*`file_name`"),
        (
            "traversal",
            "file_name outside the images folder",
            r"images.pkl: entry 1: file_name '\.\./d3_pkl/images.pkl'",
        ),
        (
            "unknown group",
            "unknown group_id",
            r"image id 1: group_id 77 .*images.pkl.*groups.pkl",
        ),
        ("sentence without text", "malformed entry", r"sentences.pkl: entry 9 = .*`raw_sent`"),
        ("no image file", "image file missing", r"image id 1: .*gone.jpg"),
    ],
)
def test_bad_entries(data: Dataset, what: str, kind: str, message: str) -> None:
    spoil(data, what)
    error, rows, _ = bad_entry(data.convert, task="detection")
    assert error.kind == kind
    assert re.search(message, str(error))
    is_box = what.startswith("box")  # of a sentence with a bad box nobody can say that it fits nothing
    assert asked(rows) == [((DOG,) if is_box else (DOG, LOOSE), 1)]


def test_sentence_with_only_a_bad_box_is_not_called_absent(data: Dataset) -> None:
    spoil(data, "box flat")
    rows, _ = data.convert(task="grounding", on_error="skip")
    assert asked(rows) == [((DOG,), 1)]


def test_missing_and_wrong_files(data: Dataset) -> None:
    data.image(1, ([1], BOX))
    folder = data.write()
    (folder / "groups.pkl").unlink()
    with pytest.raises(RowsError, match=r"groups\.pkl: "):
        data.convert(folder)
    data.parts["groups"] = [1, 2]
    with pytest.raises(RowsError, match=r"groups\.pkl: .*dictionary"):
        data.convert()
    with pytest.raises(RowsError, match=r"none: .*IMAGES_DIR"):
        d3.convert(folder, data.folder / "none", data.folder / "out.parquet")


# ------------------------------------------------------------------------------------------------ pickles of numpy


class Hostile:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('run')",)


def test_code_in_a_pickle_is_refused(data: Dataset) -> None:
    data.image(1, ([1], BOX))
    data.parts["sentences"][1]["raw_sent"] = Hostile()
    with pytest.raises(RowsError, match=r"sentences\.pkl: .*builtins\.exec"):
        data.convert()


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
