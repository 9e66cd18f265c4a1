"""`visionr1 gallery`: the picture of each prompt, and the command."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gallery_pages import dump, made
from gallery_runs import Run, make_prompts, make_run, write_data
from PIL import Image
from typer.testing import CliRunner

from verl_visionr1 import Target
from verl_visionr1.cli import app


def decoded(url: str) -> Image.Image:
    kind, _, data = url.partition(";base64,")
    assert kind == "data:image/webp"
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


@pytest.mark.parametrize("embed", [False, True], ids=["paths", "embedded"])
def test_each_prompt_has_its_own_image(embed: bool, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", n_prompts=6, n_samples=2, n_steps=2, embed=embed, n_validated=1)
    other = tmp_path / "other.parquet"  # of other columns, and none of its rows was trained on
    write_data(other, make_prompts(tmp_path / "other", 8)[6:], embed=not embed)
    data = (other, run.data)
    written, payload, pictures = made([run.folder], tmp_path / "g.html", data=data, side=240, has_causes=False)
    assert written.n_images == 6
    rows = pq.read_table(run.data, columns=["reward_model"])["reward_model"].to_pylist()
    truths = [[list(box) for box in Target.from_json(row["ground_truth"]).boxes_xyxy] for row in rows]
    for prompt in payload["prompts"]:
        row = truths.index([place for _, place in prompt["objects"]])
        shown = decoded(pictures[prompt["picture"]])
        assert shown.size == (240, 180)
        with Image.open(run.folder / "images" / f"{row:06d}.jpg") as image:
            expected = np.asarray(image.convert("RGB").resize(shown.size), dtype=float)
        assert np.abs(np.asarray(shown, dtype=float) - expected).mean() < 6.0


def test_of_two_images_none_is_guessed(run: Run, tmp_path: Path) -> None:
    twin = tmp_path / "twin.parquet"  # the first prompt's question and truth, with an image of its own
    write_data(twin, make_prompts(tmp_path / "twin", 1))
    written, payload, _ = made([run.folder], tmp_path / "g.html", data=(run.data, twin), has_causes=False)
    assert (written.n_images, payload["prompts"][0]["picture"]) == (11, -1)
    assert any("no single row of --data" in note for note in written.notes)


def test_what_is_not_known_stands_on_grey(run: Run, tmp_path: Path) -> None:
    written, payload, pictures = made([run.folder / "rollouts"], tmp_path / "g.html", has_causes=False)
    assert (pictures, {prompt["picture"] for prompt in payload["prompts"]}) == ([], {-1})
    assert any("12 prompts: " in note and "--data PARQUET" in note for note in written.notes)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    path = dump(tmp_path / "d" / "1.jsonl", {"image": str(tmp_path / "broken.jpg")}, {"image": "gone.jpg", "uid": "b"})
    written, payload, pictures = made([path], tmp_path / "g.html")
    assert (pictures, written.n_images) == ([""], 0)
    assert any("broken.jpg: " in note for note in written.notes)


def test_the_image_that_a_row_names(run: Run, tmp_path: Path) -> None:
    path = dump(tmp_path / "d" / "predictions.jsonl", {"image": str(run.folder / "images" / "000001.jpg")})
    written, payload, pictures = made([path], tmp_path / "g.html")
    assert (written.n_images, payload["prompts"][0]["picture"], payload["dumps"]) == (1, 0, ["predictions"])
    assert decoded(pictures[0]).size == (320, 240)


@pytest.mark.parametrize("image", [None, 1])
@pytest.mark.parametrize("embed", [False, True], ids=["paths", "embedded"])
def test_of_several_images_the_one_of_the_ground_truth_is_shown(tmp_path: Path, image: int | None, embed: bool) -> None:
    files = [tmp_path / "0.png", tmp_path / "1.png"]
    for file, colour in zip(files, ("red", "blue"), strict=True):
        Image.new("RGB", (32, 24), colour).save(file)
    target = Target(task="detection", size_wh=(32, 24), boxes_xyxy=[[1, 1, 5, 5]], labels=["cat"], image=image)
    row = {
        "data_source": "pairs",
        "prompt": [{"role": "user", "content": "<image><image>Where is the cat?"}],
        "reward_model": {"style": "rule", "ground_truth": target.to_json()},
        "extra_info": {"index": 0},
        "images": [{"bytes": file.read_bytes(), "path": None} if embed else str(file) for file in files],
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "data.parquet")
    rows: list[dict[str, Any]] = [{"input": "user\nWhere is the cat?\nassistant\n"}]
    rows += [] if embed else [{"image": [str(file) for file in files]}]
    for i, own in enumerate(rows):
        path = dump(tmp_path / str(i) / "1.jsonl", {"gts": target.to_json()} | own)
        _, payload, pictures = made([path], tmp_path / "g.html", data=(tmp_path / "data.parquet",)[i:])
        red, _, blue = decoded(pictures[payload["prompts"][0]["picture"]]).getpixel((16, 20))  # type: ignore[misc]
        assert (red > blue) == (image != 1)


def run_command(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["gallery", *map(str, arguments)])


def test_the_command_says_what_it_wrote(run: Run, tmp_path: Path) -> None:
    pages: list[bytes] = []
    for _ in range(2):
        out = tmp_path / "page.html"
        options = ("--title", "A <b>run</b>", "--no-causes", "--preset", "visionr1", "--route", "counting=counting-mra")
        result = run_command(run.folder, "--data", run.data, "--out", out, *options)
        assert result.exit_code == 0, result.output
        assert f"{out}: {run.n_rollouts} rollouts of {run.n_prompts} prompts" in result.output
        assert f"12 images, {out.stat().st_size / 1e6:.1f} MB" in result.output
        pages.append(out.read_bytes())
    assert b"<title>A &lt;b&gt;run&lt;/b&gt;" in pages[0]
    assert b'"options":"--preset visionr1 --route counting=counting-mra"' in pages[0]
    assert pages[0] == pages[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "page.txt"], "--out page.txt: needs a file name that ends in .html"),
        (["--limit", "0"], "--limit 0: needs at least 1"),
        (["--side", "5000"], "--side 5000: needs 32 to 2048"),
        (["--progress", "half"], "--progress half: needs a fraction"),
        (["--preset", "visionr2"], "visionr2"),
        (["--column", "image"], "--column image: needs WHAT=NAME"),
    ],
)
def test_what_cannot_be_is_one_line(options: list[str], words: str, tmp_path: Path) -> None:
    result = run_command(dump(tmp_path / "1.jsonl", {}), *options)
    assert (result.exit_code, words in result.output, result.output.count("\n")) == (2, True, 1), result.output


def test_a_dump_without_rows_is_an_error_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text('{"step": 1}\n')
    result = run_command(tmp_path / "1.jsonl", "--out", tmp_path / "g.html")
    assert result.exit_code == 2
    assert "1 row could not be read" in result.output
