"""`visionr1 explain` on the answers of a run and of a dump, and the picture that it draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from exams import CAT, DOG, PERFECT, TARGET, said
from explained import dump_row, explained, page, run
from PIL import Image
from scene_sets.base import exif

from verl_visionr1 import FRAMES, PRESETS, Target, score
from verl_visionr1.files import RowsError
from verl_visionr1.images import prepare_image
from verl_visionr1.rewards import ResponseContext
from verl_visionr1.rewards.composition import preset_to_dict
from verl_visionr1.rollouts.run import Start, write_run
from verl_visionr1.row_writer import write_rows
from verl_visionr1.rows import Row
from verl_visionr1.tools.explain.drawing import COLOURS, draw
from verl_visionr1.tools.explain.explanation import explain

LOOSE = said(((200, 100, 700, 400), "cat"), (DOG, "dog"))
"""Box 1 reaches IoU 0.625: enough at the first stage, not at the last."""


def a_run(folder: Path, **changes: Any) -> Path:
    """A run with two validations, whose budget is 100 tokens."""
    for step in (0, 24):
        (folder / "validation").mkdir(exist_ok=True)
        (folder / "validation" / f"{step}.jsonl").write_text(dump_row(LOOSE, step=step, n_tokens=40) + "\n")
    start = Start(presets=[preset_to_dict(PRESETS["visionr1"])], frame="original", total_steps=24, max_tokens=100)
    folders = {"checkpoint_dir": str(folder / "checkpoints"), "validation_dir": str(folder / "validation")}
    write_run(msgspec.structs.replace(start, **folders, **changes))
    return folder


def test_a_run_without_a_step_is_explained_at_its_last(tmp_path: Path) -> None:
    done = run(a_run(tmp_path), "--row", 1)
    assert "24.jsonl: the last step is explained (validation has steps 0, 24)" in done.stderr
    assert done.stdout.startswith("below the threshold: box 1 reaches IoU 0.625 < 0.75 -> ")
    assert "0.jsonl: step 0 is explained" in run(tmp_path, "--row", 1, "--step", 0).stderr
    missing = run(tmp_path, "--row", 1, "--step", 7)
    assert (missing.exit_code, "validation has steps 0, 24" in missing.output) == (2, True)


def test_an_answer_of_ones_own_to_a_row_of_a_run_is_judged_as_the_run_judges(tmp_path: Path) -> None:
    in_frame = said(((100, 83, 350, 333), "cat"), ((600, 417, 900, 917), "dog"))
    of_run = a_run(tmp_path, frame="qwen3-vl")
    for text in (LOOSE, in_frame):
        found = json.loads(run(of_run, "--row", 1, "--text", text, "--json").stdout)
        wanted = score(text, TARGET, preset="visionr1", frame="qwen3-vl", progress=1.0)
        assert (found["value"], found["saved"]) == (pytest.approx(wanted.value), None)


def test_an_answer_to_a_row_without_a_run_is_judged_as_at_the_start_of_training(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text(dump_row("[]") + "\n")
    asked = (tmp_path / "1.jsonl", "--row", 1, "--text", LOOSE, "--json")
    for options, wanted in (((), 0.0), (("--progress", 1), 1.0), (("--progress", "off"), None)):
        done = run(*asked, *options)
        value = score(LOOSE, TARGET, preset="visionr1", progress=wanted).value
        assert json.loads(done.stdout)["value"] == pytest.approx(value)
        assert ("no run: " in done.stderr) is (not options)
    failed = run("--text", "[]", "--target", TARGET.to_json(), "--total-steps", 9)
    assert (failed.exit_code, ":0" in failed.stderr, "--progress" in failed.stderr) == (2, False, True)


def test_an_easier_stage_is_advised_only_where_there_is_none() -> None:
    assert "easier stage" not in str(explained(LOOSE, progress=1.0).cause)
    assert "easier stage" in str(explained(said(((200, 100, 580, 400), "cat"), (DOG, "dog")), progress=0.0).cause)


@pytest.mark.parametrize("text", [PERFECT[:-9], "", "<think>well"])
@pytest.mark.parametrize(("tokens", "is_longer"), [(40, False), (100, True), (None, True)])
def test_a_longer_budget_is_advised_only_where_it_was_filled(text: str, tokens: int | None, is_longer: bool) -> None:
    response = ResponseContext(FRAMES["original"], n_tokens=tokens, max_tokens=100)
    cause = explain(text, TARGET, PRESETS["visionr1"], response).cause
    assert ("max_response_length" in cause.fix) == is_longer
    assert ("if the response filled" in cause.fix) == (tokens is None)
    told = explain(text, TARGET, PRESETS["visionr1"], ResponseContext(FRAMES["original"]), is_clipped=False).cause
    assert "max_response_length" not in told.fix


def test_an_iou_below_a_threshold_never_reads_as_the_threshold() -> None:
    assert "0.499 < 0.5" in page(explained(said(((200, 100, 1000, 249.988), "cat"), (DOG, "dog")), progress=0.0))


def test_what_is_assumed_of_a_dump_without_a_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "3.jsonl").write_text(dump_row("[]") + "\n")
    told = run(tmp_path / "3.jsonl", "--row", 1).stderr
    assert "assumed frame original (--frame)" in told
    assert "preset visionr1" in told
    fixed = ("--frame", "original", "--progress", "off", "--preset", "visionr1")
    assert run(tmp_path / "3.jsonl", "--row", 1, *fixed).stderr == ""


@pytest.mark.parametrize("saved", [0.25, 1.0])
def test_another_reward_of_the_run_is_told_at_once(tmp_path: Path, saved: float) -> None:
    dump = tmp_path / "1.jsonl"
    dump.write_text(dump_row(PERFECT, score=saved))
    line = run(dump, "--row", 1, "--frame", "original").output.splitlines()[1]
    assert f"the run gave {saved:g}" in line
    assert ("recomputed 1:" in line) is (saved != 1.0)


def pixel(path: Path) -> Any:
    """What is drawn where no box is."""
    with Image.open(path) as picture:
        return picture.convert("RGB").getpixel((1500, 50))


@pytest.mark.parametrize("embed", [False, True])
def test_a_runs_answer_is_drawn_on_the_image_of_its_row(embed: bool, tmp_path: Path) -> None:
    image, data, out = tmp_path / "image.png", tmp_path / "val.parquet", tmp_path / "out.png"
    Image.new("RGB", (2000, 1200), (10, 20, 30)).save(image)
    prepared = prepare_image(image, embed=embed, copies_dir=tmp_path / "copies")
    write_rows([Row(data_source="d", question="?", image=prepared, target=TARGET, split="val")], data, embed=embed)
    for arguments in (("--step", 0), ("--step", 0, "--text", "[]")):
        done = run(a_run(tmp_path, val_files=[str(data)]), "--row", 1, "--draw", out, *arguments)
        assert "background" not in done.stderr
        assert pixel(out) == (10, 20, 30)


def test_a_picture_replaces_neither_a_dump_nor_the_image(tmp_path: Path) -> None:
    dump, image = tmp_path / "1.jsonl", tmp_path / "image.png"
    dump.write_text(dump_row(LOOSE) + "\n")
    Image.new("RGB", (2000, 1200)).save(image)
    before = dump.read_bytes(), image.read_bytes()
    for out in (dump, image):
        assert run(dump, "--row", 1, "--image", image, "--draw", out).exit_code == 2
    assert (dump.read_bytes(), image.read_bytes()) == before


def colours_of(path: Path) -> set[tuple[int, int, int]]:
    with Image.open(path) as picture:
        return {pixel for _, pixel in picture.convert("RGB").getcolors(maxcolors=1 << 24)}  # type: ignore[misc]


def test_predictions_are_drawn_in_the_colour_of_what_they_counted_as(tmp_path: Path) -> None:
    boxes = ((CAT, "cat"), ((210, 100, 1000, 400), "cat"), ((1250, 500, 1800, 1100), "cow"), ((5, 700, 90, 900), "dog"))
    draw(explained(said(*boxes)), tmp_path / "all.png")
    for kind in ("match", "duplicate", "wrong label", "junk"):
        assert COLOURS[kind] in colours_of(tmp_path / "all.png"), kind
    draw(explained(PERFECT), tmp_path / "right.png")
    assert COLOURS["junk"] not in colours_of(tmp_path / "right.png")


def test_a_small_image_is_enlarged_and_an_upright_one_turned(tmp_path: Path) -> None:
    target = Target(task="grounding", size_wh=(20, 40), boxes_xyxy=[(1, 1, 10, 10)], labels=["cat"])
    Image.new("RGB", (40, 20), (9, 9, 9)).save(tmp_path / "turned.jpg", exif=exif(6))
    draw(explained("[]", target), tmp_path / "out.png", tmp_path / "turned.jpg")
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width == 160
        assert picture.height > 320


@pytest.mark.parametrize("text", [said(((-1e308, -1e308, 1e308, 1e308), "猫\x1b\ud800")), said((CAT, ""))])
def test_whatever_was_predicted_can_be_drawn(text: str, tmp_path: Path) -> None:
    draw(explained(text), tmp_path / "out.png")
    assert colours_of(tmp_path / "out.png")


def test_without_an_image_there_is_nothing_to_draw_on(tmp_path: Path) -> None:
    with pytest.raises(RowsError, match="image"):
        draw(explained("x", Target(task="text", answer="x"), "text-exact"), tmp_path / "out.png")
    with pytest.raises(RowsError, match="cannot write"):
        draw(explained("[]"), tmp_path / "no" / "out.png")
