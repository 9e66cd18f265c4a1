"""What converters share: threads that change no byte, counts of tokens, a kill in the middle, names of images."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from some_items import Options, item, picture

from verl_visionr1.conversion import scenes
from verl_visionr1.conversion.items import Item
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.sources import sha256_of
from verl_visionr1.conversion.tokens import boxes_answer_tokens, load_answer_counter, text_tokens, write_answer
from verl_visionr1.conversion.writing import Report, write_items
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.frames import FRAMES, MODEL_TYPE_FRAMES
from verl_visionr1.rows import read_rows
from verl_visionr1.targets import Target

ROOT = Path(__file__).resolve().parents[2]


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
    with pytest.raises(RowsError, match=r"--model .*tokenizer\.json"):
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
    with pytest.raises(RowError, match=r"entry 7: .*7\.png: "):
        write_items(rows, tmp_path / "a.parquet", Options(workers=3), Ledger(), made_by="a test", source={})
    assert not (tmp_path / "a.parquet").exists()


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(RowsError, match=r"a\.parquet: .*1 x .*--max-instances"):
        write_items([item()], tmp_path / "a.parquet", Options(max_instances=0), Ledger(), made_by="t", source={})


@pytest.mark.slow
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


def named(path: Path, *names: str, **options: Any) -> Report:
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
        named(path, "v1/a.png", "v2/a.png")
    assert str(caught.value).startswith("entry 1: its image 'v2/a.png' ")
    assert all(value in str(caught.value) for value in (str(path), "'v1/a.png' of entry 0"))
    report = named(path, "v1/a.png", "v2/a.png", "v1/a.png", on_error="skip")
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
    assert named(picture(tmp_path / "a.png"), *names).written.rows == len(names)


def test_coco_names_of_one_image(tmp_path: Path) -> None:
    path = picture(tmp_path / "COCO_train2014_000000000139.png")
    assert named(path, f"coco/{path.name}", f"train2014/{path.name}").written.rows == 2


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    odd = picture(tmp_path / os.fsdecode(b"\xff.png"))
    with pytest.raises(RowError, match=r"entry 0: .*udcff\.png.*UTF-8"):
        named(odd, odd.name)
    good = Item(where="b", image=picture(tmp_path / "b.png"), task="counting", phrases=("cat",), count=1)
    bad = dataclasses.replace(good, where=odd.name, image=odd)
    flags, out = Options(on_error="skip"), tmp_path / "out.parquet"
    report = write_items([bad, good], out, flags, Ledger(fail=False), made_by="test", source={})
    assert report.written.rows == 1
    assert "not UTF-8" in (tmp_path / "out.skipped.txt").read_text()
    assert sha256_of([odd, good.image]) if isinstance(good.image, Path) else False


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
