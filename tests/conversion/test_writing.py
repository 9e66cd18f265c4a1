"""What converters share: threads that change no byte, counts of tokens, names of images."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refused import mentions
from some_items import Options, item, picture

from verl_visionr1.conversion.items import Item
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.sources import sha256_of
from verl_visionr1.conversion.tokens import answer_tokens, load_answer_counter, text_tokens, write_answer
from verl_visionr1.conversion.writing import Report, write_items
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.frames import FRAMES, MODEL_TYPE_FRAMES
from verl_visionr1.targets import Target


def write(items: list[Item], out: Path, **options: Any) -> Report:
    flags = Options(**options)
    return write_items(items, out, flags, Ledger(fail=flags.on_error == "fail"), made_by="a test", source={})


def items_in(folder: Path) -> list[Item]:
    """Two rows each of twelve images, some of which are broken."""
    folder.mkdir(exist_ok=True)
    rows = []
    for i in range(12):
        path = picture(folder / f"{i}.png", (40 + i, 50))
        if i % 5 == 4:
            path.write_bytes(b"broken")
        rows += [item(path, where=f"entry {i}", task=task, count=2) for task in ("grounding", "counting")]
    return rows


@pytest.mark.parametrize("embed", [False, True])
def test_threads_change_no_byte(embed: bool, tmp_path: Path) -> None:
    items, digests = items_in(tmp_path / "images"), set()
    for workers in (1, 2, 7):
        report = write(items, tmp_path / f"{workers}.parquet", embed=embed, workers=workers, on_error="skip")
        digests.add(hashlib.sha256(report.written.file.read_bytes()).digest())
        assert report.ledger.skipped == {"image unreadable": 2}
        assert report.ledger.notes["row of a skipped image"] == 4
        assert len(report.tokens.answers) == report.written.rows == 20
    assert len(digests) == 1
    with pytest.raises(RowError) as caught:
        write(items, tmp_path / "a.parquet", workers=3)
    assert mentions(caught.value, "entry 4: ", "4.png: ")
    assert not (tmp_path / "a.parquet").exists()


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
    items = items_in(tmp_path / "images")[:4]
    plain = write(items, tmp_path / "a.parquet")
    counted = write(items, tmp_path / "b.parquet", model=model)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert (plain.tokens.model, counted.tokens.model) == ("", "tiny")
    assert set(counted.tokens.answers) != set(plain.tokens.answers)
    assert min(counted.tokens.answers) == 2, "the count, and the end"
    (model / "tokenizer.json").write_text("{")
    for folder in (tmp_path / "images", model):
        with pytest.raises(RowsError) as caught:
            load_answer_counter(folder)
        assert mentions(caught.value, f"--model {folder}", "tokenizer.json")


@pytest.mark.parametrize(
    ("model_type", "text"),
    [("qwen3_vl", "[0, 250, 500, 1000]"), ("qwen2_5_vl", "[0, 32, 64, 128]"), ("new", "[0, 32, 64, 128]")],
)
def test_right_answers_are_written_in_the_coordinates_of_the_model(model_type: str, text: str) -> None:
    target = Target(task="grounding", size_wh=(128, 128), boxes_xyxy=[(0, 32, 64, 128)], labels=["red circle"])
    frame = FRAMES[MODEL_TYPE_FRAMES[model_type]] if model_type in MODEL_TYPE_FRAMES else None
    assert write_answer(target, frame) == f'[{{"bbox_2d": {text}, "label": "red circle"}}]'


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(RowsError) as caught:
        write([item()], tmp_path / "a.parquet", max_instances=0)
    assert mentions(caught.value, "a.parquet: ", "1 x ", "--max-instances")


def named(path: Path, *names: str, **options: Any) -> Report:
    counted: dict[str, Any] = {"task": "counting", "image": path}
    items = [item(where=f"entry {i}", count=1 + i, file_name=name, **counted) for i, name in enumerate(names)]
    return write(items, path.parent / "out.parquet", **options)


def test_one_file_is_not_two_images(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    with pytest.raises(RowError) as caught:
        named(path, "v1/a.png", "v2/a.png")
    assert mentions(caught.value, "entry 1: ", "'v2/a.png'", path, "'v1/a.png' of entry 0")
    report = named(path, "v1/a.png", "v2/a.png", "v1/a.png", on_error="skip")
    assert report.written.rows == 2
    assert report.ledger.listed == [str(caught.value)]


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("a.png", ("v1/a.png", "images/v1/a.png", "a.png")),
        ("a.png", ("/data/v1/a.png", "v1\\a.png", "file:///data/v1/a.png")),
        ("a.png", ("https://x.org/a/1.jpg", "https://x.org/b/1.jpg")),
        ("COCO_train2014_000000000139.png", tuple(f"{it}/COCO_train2014_000000000139.png" for it in ("a", "b"))),
    ],
)
def test_one_image_may_go_by_several_names(name: str, names: tuple[str, ...], tmp_path: Path) -> None:
    assert named(picture(tmp_path / name), *names).written.rows == len(names)


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    odd, good = picture(tmp_path / os.fsdecode(b"\xff.png")), picture(tmp_path / "b.png")
    with pytest.raises(RowError) as caught:
        named(odd, odd.name)
    assert mentions(caught.value, "entry 0: ", "udcff.png", "UTF-8")
    items = [item(odd, where=odd.name), item(good)]
    assert write(items, tmp_path / "out.parquet", on_error="skip").written.rows == 1
    assert "not UTF-8" in (tmp_path / "out.skipped.txt").read_text()
    assert sha256_of([odd, good])


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
    boxes = [[*map(min, box[:2], box[2:]), *map(max, box[:2], box[2:])] for box in boxes]
    target = Target(task="detection", size_wh=(1000, 1000), boxes_xyxy=boxes, labels=labels)
    assert answer_tokens(target) == pytest.approx(tokens, rel=0.12)


@pytest.mark.parametrize("n", [0, 1, 10])
def test_answers_of_points_are_counted(n: int) -> None:
    """About 16 tokens for each object with its label, and the digits."""
    points = [(100.0 + i, 200.0) for i in range(n)]
    target = Target(task="pointing", size_wh=(1000, 1000), points_xy=points, labels=["cat"] * n, categories=["cat"])
    assert answer_tokens(target) == pytest.approx(2 + (16 + 6) * n, rel=0.2)
    assert write_answer(target).count("point_2d") == n
