"""`visionr1 doctor` on rows made by hand: what it finds, what it counts, and what it prints of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from doctor_rows import ASKED, CAT, LONG, a_row, a_text_row, doctor, embedded, kinds_in, write_rows
from PIL import Image

from verl_visionr1.row_layouts import EMBED_SCHEMA, PATH_SCHEMA
from verl_visionr1.rows import read_rows, target_of
from verl_visionr1.targets import Target
from verl_visionr1.tools.doctor.examination import examine
from verl_visionr1.tools.doctor.fixing import fix_file


def test_overlap_counts_images(tmp_path: Path) -> None:
    """Four validation rows about one image are one image in both."""
    info = a_row(tmp_path)["extra_info"]
    write_rows(tmp_path / "a.parquet", [a_row(tmp_path)])
    asked = [[{"role": "user", "content": f"<image>Locate the cat, or say none ({i})"}] for i in range(4)]
    rows = [a_row(tmp_path, i, prompt=asked[i], extra_info=info | {"split": "val", "index": i}) for i in range(4)]
    write_rows(tmp_path / "b.parquet", rows)
    (group,) = examine([tmp_path / "a.parquet", tmp_path / "b.parquet"]).found
    assert (group.kind, group.examples[0].reason[:7]) == ("train/validation overlap", "1 image")


@pytest.mark.parametrize(
    ("train", "val", "overlaps"),
    [
        ("train2017/000000000139.jpg", "val2017/000000000139.jpg", 0),  # other sets count their images so, too
        ("COCO_train2014_000000000139.jpg", "val2017/COCO_val2014_000000000139.jpg", 1),
        ("COCO_train2014_000000000139.jpg", "val2017/000000000139.jpg", 1),
        ("train2017/000000000139.jpg", "COCO_val2014_000000000139.jpg", 1),
    ],
)
def test_overlap_by_name(tmp_path: Path, train: str, val: str, overlaps: int) -> None:
    Image.new("RGB", (100, 80), "blue").save(tmp_path / "b.png")
    info = a_row(tmp_path)["extra_info"]
    paths = []
    for split, name, image in (("train", train, "a.png"), ("val", val, "b.png")):
        row = a_row(tmp_path, images=[str(tmp_path / image)], extra_info=info | {"split": split, "file_name": name})
        paths.append(write_rows(tmp_path / f"{split}.parquet", [row]))
    assert kinds_in(*paths).count("train/validation overlap") == overlaps


@pytest.mark.parametrize("of_counts", [True, False])
def test_advice_for_labels_is_not_that_for_counts(tmp_path: Path, of_counts: bool) -> None:
    rows = []
    for i in range(60):
        label, count = ("cat", 1) if i % 10 else ("dog", 2)
        boxes = {"boxes_xyxy": [[1, 1, 9, 9]], "labels": [label]}
        target = Target(
            size_wh=(100, 80), **({"task": "counting", "count": count} if of_counts else {"task": "grounding", **boxes})
        )
        rows.append(a_row(tmp_path, i, target.to_json()))
    (group,) = [g for g in examine([write_rows(tmp_path / "a.parquet", rows)]).found if g.kind == "unbalanced"]
    assert ("counts" in group.examples[0].reason) == of_counts


@pytest.mark.parametrize("dropped", [("reward_model",), ("prompt",), ("reward_model", "data_source", "prompt")])
def test_a_parquet_without_what_verl_reads_is_not_silent(tmp_path: Path, dropped: tuple[str, ...]) -> None:
    row = {key: value for key, value in a_row(tmp_path).items() if key not in dropped}
    done = doctor(write_rows(tmp_path / "a.parquet", [row]))
    assert done.exit_code == (2 if len(dropped) == 1 else 1)


TYPED = [{"role": "user", "content": [{"type": "text", "text": "cat"}]}]


@pytest.mark.parametrize(
    ("changes", "schema", "expected"),
    [
        ({}, PATH_SCHEMA, []),
        ({"images": [None]}, PATH_SCHEMA, ["no image"]),
        ({"images": [{"bytes": None}]}, EMBED_SCHEMA, ["no image"]),
        ({"images": [{"bytes": b""}]}, EMBED_SCHEMA, ["no image"]),
        ({"images": ["/a\0.png"]}, PATH_SCHEMA, ["no such image"]),
        ({"images": ["/" + "a" * 5000]}, PATH_SCHEMA, ["no such image"]),
        ({"prompt": ["<image>cat"]}, None, ["column of another type", "malformed prompt"]),
        ({"prompt": TYPED}, None, ["column of another type", "malformed prompt"]),
        ({"images": "/a.png"}, None, ["column of another type", "placeholders"]),
        ({"prompt": [None]}, PATH_SCHEMA, ["malformed prompt"]),
        ({"images": [{"bytes": None, "path": __file__}]}, None, ["column of another type", "no image"]),
        ({"images": [b"raw"]}, None, ["column of another type", "no image"]),
        ({"extra_info": "{}"}, None, ["column of another type", "malformed extra_info"]),
        ({"truth": CAT.to_json().replace("50.0", LONG)}, PATH_SCHEMA, ["box malformed", "unreadable truth"]),
        ({"truth": CAT.to_json().replace("[100,", f"[{LONG},")}, PATH_SCHEMA, ["another size"]),
    ],
)
def test_what_stops_verl_is_found_and_not_raised(
    tmp_path: Path, changes: dict[str, Any], schema: pa.Schema | None, expected: list[str]
) -> None:
    path = write_rows(tmp_path / "a.parquet", [a_row(tmp_path, **changes)], schema)
    done = doctor(path, "--html", tmp_path / "a.html")
    assert done.exit_code == (2 if expected else 0), done.output
    assert set(kinds_in(path)) == set(expected)


def test_images_of_embedded_rows_are_counted(tmp_path: Path) -> None:
    image = embedded(tmp_path)
    twice = write_rows(tmp_path / "twice.parquet", [a_row(tmp_path, images=[image] * 2)], EMBED_SCHEMA)
    assert kinds_in(twice) == ["placeholders"]
    rows = [a_row(tmp_path, images=[image]), a_text_row(tmp_path, 1)]
    assert kinds_in(write_rows(tmp_path / "text.parquet", rows, EMBED_SCHEMA)) == []


def test_a_file_without_images_may_hold_text_only(tmp_path: Path) -> None:
    rows = [{key: value for key, value in a_text_row(tmp_path).items() if key != "images"}]
    assert kinds_in(write_rows(tmp_path / "text.parquet", rows)) == []
    rows[0]["prompt"] = ASKED
    assert kinds_in(write_rows(tmp_path / "asked.parquet", rows)) == ["column missing"]


def test_page_starts_no_other_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *given, **_: started.append(given))
    a_row(tmp_path)
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n showpage\n"
    (tmp_path / "a.png").write_bytes(text)
    path = write_rows(tmp_path / "a.parquet", [a_row(tmp_path)], PATH_SCHEMA)
    assert "image unreadable" in doctor(path, "--html", tmp_path / "a.html").output
    assert "(no image)" in (tmp_path / "a.html").read_text()
    assert not started


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--html", "/proc/no/page.html"], "/proc/no/page.html"),
        (["--html", "/proc/no/rows.parquet"], "--html /proc/no/rows.parquet: "),
    ],
)
def test_options_that_cannot_be_are_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    done = doctor(write_rows(tmp_path / "a.parquet", [a_row(tmp_path)], PATH_SCHEMA), *options)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("options", [("--max-response", "0"), ("--max-prompt", "-1"), ("--family", "nosuch")])
def test_options_out_of_range_are_refused(tmp_path: Path, options: tuple[str, str]) -> None:
    done = doctor(write_rows(tmp_path / "a.parquet", [a_row(tmp_path)], PATH_SCHEMA), *options)
    assert (done.exit_code, options[0] in done.stderr) == (2, True)


def test_markup_in_labels_and_names_is_text(tmp_path: Path) -> None:
    target = Target(task="grounding", size_wh=(100, 80), boxes_xyxy=[[1, 1, 9, 9]], labels=["[/b]cat"])
    (tmp_path / "[/x]").mkdir(parents=True)
    done = doctor(write_rows(tmp_path / "[/x]" / "[b].parquet", [a_row(tmp_path, truth=target.to_json())], PATH_SCHEMA))
    assert done.exit_code == 1
    assert "'[/b]cat'" in done.output
    assert "[/x]/[b].parquet" in done.output


def test_overlap_inside_a_file(tmp_path: Path) -> None:
    other = a_row(tmp_path, 1, prompt=[{"role": "user", "content": "<image>Where is the cat, or none?"}])
    other["extra_info"]["split"] = "val"
    path = write_rows(tmp_path / "a.parquet", [a_row(tmp_path), other], PATH_SCHEMA)
    assert kinds_in(path) == ["train/validation overlap"]
    assert [group.kind for group in examine([], [path]).found] == []


OTHER = Target(task="grounding", size_wh=(100, 80), boxes_xyxy=[[50, 40, 70, 60]], labels=["cat"])
COUNTS = [Target(task="counting", size_wh=(100, 80), count=count).to_json() for count in (1, 2)]


def repeats_in(*paths: Path) -> dict[str, list[tuple[str, int | None]]]:
    kinds = ("repeated row", "other ground truth")
    found = [group for group in examine(paths).found if group.kind in kinds]
    return {group.kind: [(Path(it.file).name, it.row) for it in group.examples] for group in found}


def rows_of(path: Path, *truths: str) -> Path:
    return write_rows(path, [a_row(path.parent, i, truth) for i, truth in enumerate(truths)], PATH_SCHEMA)


@pytest.mark.parametrize("truths", [(CAT.to_json(), OTHER.to_json()), COUNTS], ids=["boxes", "counts"])
def test_another_ground_truth_is_no_repeat(truths: tuple[str, str], tmp_path: Path) -> None:
    one, two = truths
    path = rows_of(tmp_path / "a.parquet", one, two, one)
    assert repeats_in(path) == {"repeated row": [("a.parquet", 2)], "other ground truth": [("a.parquet", 1)]}
    (group,) = [it for it in examine([path]).found if it.kind == "other ground truth"]
    assert ("objects" in group.examples[0].reason) is (truths != COUNTS), "only objects are to be put together"
    fix_file([path], tmp_path / "fixed.parquet")
    kept = [target_of(row).to_json() for row in read_rows(tmp_path / "fixed.parquet")]
    assert kept == [one, two]


@pytest.mark.parametrize(("truth", "kind"), [(CAT, "repeated row"), (OTHER, "other ground truth")])
def test_repeats_between_training_files(truth: Target, kind: str, tmp_path: Path) -> None:
    files = [rows_of(tmp_path / "a.parquet", CAT.to_json()), rows_of(tmp_path / "b.parquet", truth.to_json())]
    assert repeats_in(*files) == {kind: [("b.parquet", 0)]}
    assert str(files[0]) in examine(files).found[0].examples[0].reason


def test_repeats_of_a_foreign_file(tmp_path: Path) -> None:
    a_row(tmp_path)
    boxes = ([1, 2, 30, 40], [50, 40, 70, 60], [1, 2, 30, 40])
    lines = [{"image": "a.png", "caption": "cat", "question": "Where is the cat?", "box": box} for box in boxes]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert repeats_in(tmp_path / "a.jsonl") == {
        "repeated row": [("a.jsonl", 3)],
        "other ground truth": [("a.jsonl", 2)],
    }
