"""What converters share: from `Item` to `Row`, the choice of rows, threads, a kill in the middle, token estimates."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scene_sets.base import exif

from verl_visionr1.conversion import scenes
from verl_visionr1.conversion.flags import DataSource, Flags
from verl_visionr1.conversion.identity import Exclusion, identity_of_name, read_exclusion
from verl_visionr1.conversion.image_files import embedded_image, find_image, inside
from verl_visionr1.conversion.items import Item, clean_box, question_of, row_of
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.selection import selected
from verl_visionr1.conversion.sources import read_json, read_pickle, read_records, read_xml, sha256_of
from verl_visionr1.conversion.tokens import boxes_answer_tokens, load_answer_counter, text_tokens, write_answer
from verl_visionr1.conversion.writing import Report, write_items
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.frames import FRAMES, MODEL_TYPE_FRAMES
from verl_visionr1.images import EmbeddedImage, RowImage, prepare_image
from verl_visionr1.masks import Mask
from verl_visionr1.rows import read_rows
from verl_visionr1.targets import Target

ROOT = Path(__file__).resolve().parents[2]
WH = (200, 100)


@dataclass(frozen=True, kw_only=True)
class Options(Flags):
    data_source: DataSource = "test/{task}"


def picture(path: Path, size: tuple[int, int] = WH, orientation: int = 1) -> Path:
    Image.new("RGB", size, (90, 20, 30)).save(path, exif=exif(orientation))
    return path


def item(image: Path | EmbeddedImage = Path("/a.png"), **changes: Any) -> Item:
    facts: dict[str, Any] = {"where": "a.json: entry 3", "image": image, "task": "grounding", "phrases": ("cat",)}
    if "boxes_xyxy" not in changes and "points_xy" not in changes and changes.get("task") != "counting":
        facts |= {"boxes_xyxy": [(10, 20, 30, 40)], "labels": ["cat"]}
    return Item(**{**facts, **changes})


def made(changes: dict[str, Any], size: tuple[int, int] = WH, orientation: int = 1) -> Any:
    """The target of an item, on an image that was stored with an orientation."""
    stored = size if orientation < 5 else size[::-1]
    ledger = Ledger()
    row = row_of(item(**changes), RowImage("/a.png", None, size, stored, orientation), Options(), ledger)
    return row.target, ledger


# ---------------------------------------------------------------------------------------------- Item -> Row


@pytest.mark.parametrize(
    ("whole_wh", "box"),
    [
        (None, (50, 25, 100, 50)),
        ((1, 1), (0.25, 0.25, 0.5, 0.5)),
        ((100, 100), (25, 25, 50, 50)),
        ((1000, 1000), (250, 250, 500, 500)),
        ((840, 840), (210, 210, 420, 420)),
    ],
)
def test_units_become_pixels(whole_wh: tuple[float, float] | None, box: tuple[float, ...]) -> None:
    target, _ = made({"boxes_xyxy": [box], "labels": ["cat"], "whole_wh": whole_wh})
    assert target.boxes_xyxy == ((50, 25, 100, 50),)


def test_boxes_and_points_turn_with_their_image() -> None:
    """Drawn on the stored pixels (100 x 200) of an image that is shown turned by 90 degrees."""
    changes = {"boxes_xyxy": [(10, 20, 30, 60)], "points_xy": [(20, 40)], "labels": ["cat"], "annotated_wh": (100, 200)}
    target, _ = made({**changes, "task": "pointing"}, orientation=6)
    assert target.boxes_xyxy == ((140, 10, 180, 30),)
    assert target.points_xy == ((160, 20),)


def test_frame_of_a_turned_image_without_a_size_is_unknown() -> None:
    with pytest.raises(RowError, match=r"a.json: entry 3: the annotations give no size.*orientation 6: .* is unknown"):
        made({}, orientation=6)
    target, _ = made({"task": "counting", "count": 2}, orientation=6)  # without geometry nothing can be wrong
    assert target.count == 2


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
    with pytest.raises(RowError, match="masks on an image of EXIF orientation 3"):
        made({**changes, "annotated_wh": WH}, orientation=3)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"boxes_xyxy": [(1, 2, 3)]}, "box malformed", r"a.json: entry 3: box 0 = \[1, 2, 3\]: needs four finite"),
        ({"boxes_xyxy": [(1, 2, 3, float("nan"))]}, "box malformed", "needs four finite numbers"),
        ({"boxes_xyxy": [(1, 2, "3", 4)]}, "box malformed", "needs four finite numbers"),
        ({"boxes_xyxy": [(9, 2, 3, 4)]}, "box without extent", r"box = \[9.*no extent"),
        ({"boxes_xyxy": [(1, 2, 1.004, 4)]}, "box without extent", "no extent"),
        ({"boxes_xyxy": [(300, 2, 310, 4)]}, "box outside its image", r"outside the image of \(200, 100\)"),
        (
            {"points_xy": [(300, 2)], "task": "pointing"},
            "point outside its image",
            r"point = \[300.*outside \(200, 100\)",
        ),
        ({"boxes_xyxy": [(1, 2, 3, 4)], "labels": ["a", "b"]}, "lists differ in length", "2, 1, 0, 0 entries"),
        ({"boxes_xyxy": [(1, 2, 3, 4)], "labels": [" "]}, "no usable ground truth", r"labels\[0\] = ' '"),
        ({"annotated_wh": (100, 100)}, "annotated size differs", r"annotations say size_wh \(100, 100\)"),
        ({"phrases": ("<image>",)}, "placeholder in the question", "holds <image>"),
        ({"task": "counting", "count": -1}, "no usable ground truth", "count = -1"),
    ],
)
def test_bad_items_say_where_and_what(changes: dict[str, Any], kind: str, message: str) -> None:
    with pytest.raises(RowError, match=message) as caught:
        made({"labels": ["cat"], **changes})
    assert caught.value.kind == kind
    assert str(caught.value).startswith("a.json: entry 3: ")


def test_questions() -> None:
    ask = lambda flags, **changes: question_of(item(**changes), flags)  # noqa: E731
    assert ask(Options()) == "Locate every cat in the image and output the coordinates in JSON format."
    assert ask(Options(prompt_template="Find {phrases}!")) == "Find cat!"
    assert ask(Options(), task="counting", question="How many?", count=1) == "How many? Answer with the number alone."
    assert ask(Options(prompt_template="{phrases} Say it."), question="How many?") == "How many? Say it."
    assert ask(Options(), prompt="To the letter.") == "To the letter."
    assert ask(Options(), task="text", question="Why?", answer="so") == "Why? Answer with the final answer alone."
    with pytest.raises(RowsError, match=r"--answer-format internvl: not asked for after a question.*qwen-json"):
        ask(Options(answer_format="internvl"), question="Where is it?")
    with pytest.raises(RowsError, match="--answer-format count: cannot answer grounding"):
        ask(Options(answer_format="count"))


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


# ---------------------------------------------------------------------------------------------- embedded images


@pytest.mark.parametrize("embed", [False, True])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_images_inside_a_source_keep_their_bytes(embed: bool, suffix: str, tmp_path: Path) -> None:
    data = picture(tmp_path / f"a{suffix}").read_bytes()
    image = prepare_image(EmbeddedImage("row 1", data), embed=embed, copies_dir=tmp_path / "out")
    assert image.size_wh == WH
    stored = image.data if embed else Path(image.path).read_bytes()
    assert stored == data
    assert embed or Path(image.path).suffix == suffix


def test_turned_image_inside_a_source(tmp_path: Path) -> None:
    data = picture(tmp_path / "a.jpg", orientation=6).read_bytes()
    image = prepare_image(EmbeddedImage("row 1", data), embed=False, copies_dir=tmp_path / "out")
    assert (image.size_wh, Image.open(image.path).size) == (WH[::-1], WH[::-1])
    with pytest.raises(RowError, match="row 1: not an image of a known format"):
        prepare_image(EmbeddedImage("row 1", b"GIF?"), embed=False, copies_dir=tmp_path / "out")


def test_images_of_records(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    path = picture(tmp_path / "b" / "a.png")
    assert embedded_image({"bytes": b"x", "path": "a.png"}, "row 1") == EmbeddedImage("row 1", b"x")
    assert embedded_image({"bytes": None, "path": str(path)}, "row 1") == path
    assert embedded_image("data/b/a.png", "row 1", tmp_path) == path
    assert embedded_image(f"file://{path}", "row 1", tmp_path) == path
    for value, message in ((None, "needs a path or bytes"), ("a.png", "give the folder"), (7, "needs a path or bytes")):
        with pytest.raises(RowError, match=message):
            embedded_image(value, "row 1")
    with pytest.raises(RowError, match="must lie inside the images folder"):
        embedded_image("../secret.png", "row 1", tmp_path)


# ---------------------------------------------------------------------------------------------- choice of rows


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
    for seed in range(300):
        drawn = ids(selected(items_of(40), Options(limit=10, seed=seed), Ledger()))
        assert len(drawn) == 10
        assert drawn == sorted(drawn) == ids(selected(items_of(40), Options(limit=10, seed=seed), Ledger()))
        seen.update(drawn)
    assert min(seen.values()) > 40
    assert max(seen.values()) < 115  # 75 are expected
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


@pytest.mark.parametrize("options", [{"limit": 5}, {"negatives": 0.1}, {"limit": 5, "negatives": 0.2}])
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
    for it in chosen:
        assert isinstance(it.image, EmbeddedImage)
        assert it.image.data.decode() == it.image_id
    assert ids(chosen) == sorted(ids(chosen))


def test_large_answers_are_left_out() -> None:
    many = [item(boxes_xyxy=[(i, 1, i + 5, 9) for i in range(5)], labels=["cat"] * 5), item(task="counting", count=7)]
    ledger = Ledger()
    assert list(selected(many, Options(max_instances=4), ledger)) == []
    assert ledger.left_out == {"grounding row with more than 4 objects": 1, "counting row with more than 4 objects": 1}


@pytest.mark.parametrize(
    ("name", "identity"),
    [
        ("COCO_train2014_000000581857.jpg", "coco:581857"),
        ("train2014/COCO_train2014_000000581857_16.jpg", "coco:581857"),
        ("http://images.cocodataset.org/train2017/000000000139.jpg", "coco:139"),
        ("000000000139.jpg", "coco:139"),
        ("VG_100K/107.jpg", "vg:107"),
        ("107.jpg", None),
        ("IMG_139.jpg", None),
        ("2007_000027.jpg", None),
    ],
)
def test_identities(name: str, identity: str | None) -> None:
    assert identity_of_name(name) == identity


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


# ---------------------------------------------------------------------------------------------- writing


def converted(folder: Path, out: Path, **options: Any) -> Report:
    """Thirty images, two rows each; some of them broken."""
    folder.mkdir(exist_ok=True)
    rows = []
    for i in range(30):
        path = folder / f"{i}.png"
        if not path.exists():
            picture(path, (40 + i, 50))
        if i % 10 == 7:
            path.write_bytes(b"broken")
        rows += [item(path, where=f"entry {i}", task=task, count=2) for task in ("grounding", "counting")]
    flags = Options(on_error="skip", **options)
    ledger = Ledger(fail=False)
    return write_items(rows, out, flags, ledger, made_by="a test", source={})


@pytest.mark.parametrize("embed", [False, True])
def test_threads_change_no_byte(embed: bool, tmp_path: Path) -> None:
    digests = set()
    for workers in (1, 2, 7):
        report = converted(tmp_path / "images", tmp_path / f"{workers}.parquet", embed=embed, workers=workers)
        digests.add(hashlib.sha256(report.written.files[0].read_bytes()).digest())
        assert report.ledger.skipped == {"image unreadable": 3}
        assert report.ledger.notes["row of a skipped image"] == 6
    assert len(digests) == 1
    assert len(report.tokens.answers) == report.written.rows == 54


WORDS = {"[UNK]": 0, "bbox": 1, "2d": 2, "label": 3, "red": 4, "circle": 5}


def make_model(folder: Path, model_type: str = "qwen3_vl") -> Path:
    """A model's folder with a tokenizer for which each piece of letters, digits or signs is a token."""
    folder.mkdir()
    model = {"type": "WordLevel", "vocab": WORDS, "unk_token": "[UNK]"}
    tokenizer = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


def test_right_answers_are_counted_by_the_tokenizer_of_a_model_and_change_no_byte(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    model = make_model(tmp_path / "tiny")
    plain = converted(tmp_path / "images", tmp_path / "a.parquet")
    counted = converted(tmp_path / "images", tmp_path / "b.parquet", model=model)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert (plain.tokens.model, counted.tokens.model) == ("", "tiny")
    assert set(counted.tokens.answers) != set(plain.tokens.answers)
    assert min(counted.tokens.answers) == 2, "the count, and the end"
    with pytest.raises(RowsError, match=r"--model .*images: no tokenizer.json"):
        load_answer_counter(tmp_path / "images")


@pytest.mark.parametrize(
    ("model_type", "text"),
    [("qwen3_vl", "[0, 250, 500, 1000]"), ("qwen2_5_vl", "[0, 32, 64, 128]"), ("new", "[0, 32, 64, 128]")],
)
def test_right_answers_are_written_in_the_coordinates_of_the_model(model_type: str, text: str) -> None:
    target = Target(task="grounding", size_wh=(128, 128), boxes_xyxy=[(0, 32, 64, 128)], labels=["red circle"])
    frame = FRAMES[MODEL_TYPE_FRAMES[model_type]] if model_type in MODEL_TYPE_FRAMES else None
    assert write_answer(target, frame) == f'[{{"bbox_2d": {text}, "label": "red circle"}}]'


def test_failure_in_a_thread_stops_the_conversion_and_names_the_entry(tmp_path: Path) -> None:
    converted(tmp_path / "images", tmp_path / "b.parquet")
    rows = [item(tmp_path / "images" / f"{i}.png", where=f"entry {i}") for i in range(30)]
    with pytest.raises(RowError, match=r"entry 7: .*7.png: not an image"):
        write_items(rows, tmp_path / "a.parquet", Options(workers=3), Ledger(), made_by="a test", source={})
    assert not (tmp_path / "a.parquet").exists()


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(RowsError, match=r"a.parquet: no row is left: 1 x grounding row with more than 0 objects"):
        write_items([item()], tmp_path / "a.parquet", Options(max_instances=0), Ledger(), made_by="t", source={})


def test_a_killed_conversion_leaves_nothing_that_looks_whole_and_a_rerun_completes(tmp_path: Path) -> None:
    """The real command, killed while it writes; then run again, to the bytes of a run that was never killed."""
    annotations = scenes.write_split(tmp_path / "set", "train", count=400, seed=2, size_wh=(320, 240))
    script = ROOT / "data_preprocess" / "coco.py"
    out = tmp_path / "out.parquet"
    command = [sys.executable, str(script), str(annotations), str(tmp_path / "set" / "train")]
    flags = ["--embed", "--task", "detection", "--verify-decode"]
    partial = out.with_name(".out-00000.parquet.partial")
    process = subprocess.Popen([*command, str(out), *flags], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 600  # a busy machine takes minutes
    while not (partial.exists() and partial.stat().st_size > 1_000_000):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == [partial.name, "set"]
    whole = tmp_path / "whole.parquet"
    for name in (out, whole):
        subprocess.run([*command, str(name), *flags], check=True, stdout=subprocess.DEVNULL)
    assert out.read_bytes() == whole.read_bytes()
    assert not partial.exists()
    assert len(list(read_rows(out))) == 400


# ---------------------------------------------------------------------------------------------- sources


def test_records_of_every_kind(tmp_path: Path) -> None:
    records = [{"a": "1", "b": "x"}, {"a": "2", "b": "y"}]
    (tmp_path / "a.json").write_text(json.dumps(records))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n\n")
    (tmp_path / "a.csv").write_text("a,b\n1,x\n2,y\n")
    (tmp_path / "a.tsv").write_bytes("\ufeffa\tb\n1\tx\n2\ty\n".encode())
    for name in ("a.json", "a.jsonl", "a.csv", "a.tsv"):
        assert [record for _, record in read_records(tmp_path / name)] == records
    assert [where for where, _ in read_records(tmp_path / "a.csv")] == ["a.csv: line 2", "a.csv: line 3"]


def test_lines_are_counted_with_the_blank_ones(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n \n{"a": 2}\n{"a"\n')
    assert [where for where, _ in read_records(tmp_path / "a.jsonl")] == [f"a.jsonl: line {i}" for i in (1, 4, 5)]
    assert "a.jsonl: line 5: " in str(list(read_records(tmp_path / "a.jsonl"))[-1][1])


def test_lines_with_more_fields_than_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,x\n2,y,z\n3,w,\n")
    (_, good), (where, bad), (_, harmless) = read_records(tmp_path / "a.csv")
    assert (good, harmless) == ({"a": "1", "b": "x"}, {"a": "3", "b": "w"})
    assert (where, type(bad)) == ("a.csv: line 3", RowError)
    reason = "fields 'z' are more than there are columns; quote what holds a comma, or correct it"
    assert str(bad) == f"a.csv: line 3: {reason}"


def test_sources_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text('[{"a": 1')
    (tmp_path / "object.json").write_text("{}")
    (tmp_path / "empty.json").touch()
    (tmp_path / "a.xyz").touch()
    for name, message in (
        ("cut.json", "not whole JSON"),
        ("object.json", "needs a list, holds dict"),
        ("empty.json", "it is empty"),
        ("none.json", "no such file"),
        ("a.xyz", "unknown kind of file"),
    ):
        with pytest.raises(RowsError, match=message):
            list(read_records(tmp_path / name))
    with pytest.raises(RowsError, match="not of the expected layout"):
        read_json(tmp_path / "object.json", list[int])
    (tmp_path / "bad.jsonl").write_text('{"a": 1}\n{"a"\n')
    (_, good), (where, bad) = read_records(tmp_path / "bad.jsonl")
    assert good == {"a": 1}
    assert isinstance(bad, RowError)
    assert where == "bad.jsonl: line 2"


class _Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    (tmp_path / "a.p").write_bytes(pickle.dumps([_Hostile(tmp_path / "made")]))
    with pytest.raises(RowsError, match=r"a\.p: refused: it wants to load (posix|os)\.mkdir: a pickle of annotations"):
        read_pickle(tmp_path / "a.p")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;&x;&x;&x;">]><a>&y;</a>',
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
    ],
    ids=["bomb", "external"],
)
def test_xml_with_entities_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(RowError, match=r"a.xml: .*entities and DTDs are refused"):
        read_xml(tmp_path / "a.xml")


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/a.jpg", "a/../../b.jpg", "..\\a.jpg", "C:\\a.jpg", "a\0.jpg"])
def test_names_that_lead_outside(name: str) -> None:
    with pytest.raises(RowError, match=r"entry 1: file_name .* must lie inside the images folder"):
        inside(name, "entry 1")


def test_images_are_found_by_the_end_of_their_name(tmp_path: Path) -> None:
    (tmp_path / "patch8").mkdir()
    path = picture(tmp_path / "patch8" / "a.png")
    assert find_image(tmp_path, "images/v1/patch8/a.png", "") == path
    assert find_image(tmp_path / "patch8", "images/v1/patch8/a.png", "") == path
    assert find_image(tmp_path, "b.png", "") == tmp_path / "b.png"


def _named(path: Path, *names: str, **options: Any) -> Report:
    items = [
        Item(where=f"entry {i}", image=path, task="counting", phrases=("cat",), count=1 + i, file_name=name)
        for i, name in enumerate(names)
    ]
    flags = Options(**options)
    ledger = Ledger(fail=flags.on_error == "fail")
    return write_items(items, path.parent / "out.parquet", flags, ledger, made_by="test", source={})


def test_one_file_is_not_two_images(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    with pytest.raises(RowError) as caught:
        _named(path, "v1/a.png", "v2/a.png")
    reason = f"its image 'v2/a.png' was found only by the end of this name, as {path}, which is 'v1/a.png' of entry 0"
    assert str(caught.value) == f"entry 1: {reason}, too; fetch it"
    report = _named(path, "v1/a.png", "v2/a.png", "v1/a.png", on_error="skip")
    assert report.written.rows == 2
    assert report.ledger.listed == [str(caught.value)]


@pytest.mark.parametrize(
    "names",
    [
        ("v1/a.png", "images/v1/a.png", "a.png"),
        ("/data/v1/a.png", "v1\\a.png", "file:///data/v1/a.png"),
        ("https://x.org/a/1.jpg", "https://x.org/b/1.jpg"),
    ],
)
def test_one_image_may_go_by_several_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert _named(picture(tmp_path / "a.png"), *names).written.rows == len(names)


def test_coco_names_of_one_image(tmp_path: Path) -> None:
    path = picture(tmp_path / "COCO_train2014_000000000139.png")
    assert _named(path, f"coco/{path.name}", f"train2014/{path.name}").written.rows == 2


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    odd = picture(tmp_path / os.fsdecode(b"\xff.png"))
    with pytest.raises(
        RowError, match=r"entry 0: file name .*udcff.png.* is not UTF-8, as rows must be; rename the fil"
    ):
        _named(odd, odd.name)
    good = Item(where="b", image=picture(tmp_path / "b.png"), task="counting", phrases=("cat",), count=1)
    bad = dataclasses.replace(good, where=odd.name, image=odd)
    flags, out = Options(on_error="skip"), tmp_path / "out.parquet"
    report = write_items([bad, good], out, flags, Ledger(fail=False), made_by="test", source={})
    assert report.written.rows == 1
    assert "not UTF-8" in (tmp_path / "out.skipped.txt").read_text()
    assert sha256_of([odd, good.image]) if isinstance(good.image, Path) else False


# ---------------------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Locate every the lady with the blue shirt in the image and output the coordinates in JSON format.", 20),
        ("Count every sea shells in the image and answer with the number alone.", 14),
        ("How many headlights does the black bus have? Answer with the number alone.", 15),
    ],
)
def test_text_tokens_are_near_those_of_qwens_tokenizer(text: str, tokens: int) -> None:
    """Right sides: counted once with Qwen's own vocabulary."""
    assert text_tokens(text) == pytest.approx(tokens, rel=0.1, abs=1)


@pytest.mark.parametrize(("n", "tokens"), [(1, 35), (3, 100), (10, 322), (30, 957)])
def test_answer_tokens_are_near_those_of_qwens_tokenizer(n: int, tokens: int) -> None:
    """Right sides: `json.dumps` of n boxes with three-digit corners, counted once with Qwen's own vocabulary."""
    rng = np.random.default_rng(0)
    boxes = rng.integers(100, 1000, (n, 4)).tolist()
    labels = [["person", "traffic light", "hot dog"][i % 3] for i in range(n)]
    assert boxes_answer_tokens(boxes, labels) == pytest.approx(tokens, rel=0.12)
