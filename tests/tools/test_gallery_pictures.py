"""`visionr1 gallery`: the picture of each prompt, and the command."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gallery_pages import STEPS, dump, made
from gallery_runs import Run, make_prompts, make_run, write_data
from PIL import Image
from typer.testing import CliRunner

from verl_visionr1 import Target
from verl_visionr1.cli import app


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run"), n_prompts=12, n_samples=4, n_steps=STEPS, n_validated=3)


def decoded(url: str) -> Image.Image:
    kind, _, data = url.partition(";base64,")
    assert kind in ("data:image/webp", "data:image/jpeg")
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


@pytest.mark.parametrize("embed", [False, True], ids=["paths", "embedded"])
def test_each_prompt_has_its_own_image(embed: bool, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", n_prompts=6, n_samples=2, n_steps=2, embed=embed, n_validated=1)
    other = tmp_path / "other.parquet"  # of other columns, and none of its rows was trained on
    write_data(other, make_prompts(tmp_path / "other", 8)[6:], embed=not embed)
    data = (other, run.data)
    written, payload, pictures = made([run.folder], tmp_path / "g.html", data=data, side=240, has_causes=False)
    assert (written.n_images, written.n_without_image) == (6, 0)
    for prompt in payload["prompts"]:
        row = next(p for p in range(6) if truth_of(run, p) == [place for _, place in prompt["objects"]])
        shown = decoded(pictures[prompt["picture"]])
        assert shown.size == (240, 180)
        with Image.open(run.folder / "images" / f"{row:06d}.jpg") as image:
            expected = np.asarray(image.convert("RGB").resize(shown.size), dtype=float)
        assert np.abs(np.asarray(shown, dtype=float) - expected).mean() < 6.0


def test_of_two_images_none_is_guessed(run: Run, tmp_path: Path) -> None:
    twin = tmp_path / "twin.parquet"  # the first prompt's question and truth, with an image of its own
    write_data(twin, make_prompts(tmp_path / "twin", 1))
    written, payload, _ = made([run.folder], tmp_path / "g.html", data=(run.data, twin), has_causes=False)
    assert (written.n_images, written.n_without_image) == (11, 1)
    assert payload["prompts"][0]["picture"] == -1
    assert any("no single row of --data" in note for note in written.notes)


def truth_of(run: Run, row: int) -> list[list[float]]:
    import pyarrow.parquet as pq

    truth = pq.read_table(run.data, columns=["reward_model"])["reward_model"][row].as_py()["ground_truth"]
    return [list(box) for box in Target.from_json(truth).boxes_xyxy]


def test_what_is_not_known_stands_on_grey(run: Run, tmp_path: Path) -> None:
    written, payload, pictures = made([run.folder / "rollouts"], tmp_path / "g.html", has_causes=False)
    assert (pictures, written.n_without_image) == ([], 12)
    assert {prompt["picture"] for prompt in payload["prompts"]} == {-1}
    assert any("--data PARQUET" in note for note in written.notes)
    written, _, pictures = made([run.folder / "rollouts"], tmp_path / "g.html", data=(run.data,), max_images=5)
    assert (len(pictures), written.n_without_image) == (5, 7)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    path = dump(tmp_path / "d" / "1.jsonl", {"image": str(tmp_path / "broken.jpg")}, {"image": "gone.jpg", "uid": "b"})
    written, payload, pictures = made([path], tmp_path / "g.html")
    assert (pictures, written.n_images, written.n_without_image) == ([""], 0, 2)
    assert any("broken.jpg: " in note for note in written.notes)


def test_the_image_that_a_row_names(run: Run, tmp_path: Path) -> None:
    path = dump(tmp_path / "d" / "predictions.jsonl", {"image": str(run.folder / "images" / "000001.jpg")})
    written, payload, pictures = made([path], tmp_path / "g.html")
    assert (written.n_images, payload["prompts"][0]["picture"], payload["dumps"]) == (1, 0, ["predictions"])
    assert decoded(pictures[0]).size == (320, 240)


def two_images(folder: Path, image: int | None) -> tuple[dict[str, Any], list[Path]]:
    """A row about one of two images, of which the first is red and the second blue."""
    files = [folder / "0.png", folder / "1.png"]
    for file, colour in zip(files, ("red", "blue"), strict=True):
        Image.new("RGB", (320, 240), colour).save(file)
    box = [[10, 10, 50, 50]]
    target = Target(task="detection", size_wh=(320, 240), boxes_xyxy=box, labels=["cat"], image=image)
    row = {
        "data_source": "pairs",
        "prompt": [{"role": "user", "content": "<image><image>Where is the cat?"}],
        "reward_model": {"style": "rule", "ground_truth": target.to_json()},
        "extra_info": {"index": 0},
    }
    return row, files


@pytest.mark.parametrize("image", [None, 0, 1])
@pytest.mark.parametrize("embed", [False, True], ids=["paths", "embedded"])
def test_of_several_images_the_one_of_the_ground_truth_is_shown(tmp_path: Path, image: int | None, embed: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row, files = two_images(tmp_path, image)
    images = [{"bytes": file.read_bytes(), "path": None} if embed else str(file) for file in files]
    pq.write_table(pa.Table.from_pylist([row | {"images": images}]), tmp_path / "data.parquet")
    truth = row["reward_model"]["ground_truth"]
    asked = "user\nWhere is the cat?\nassistant\n"
    path = dump(tmp_path / "d" / "1.jsonl", {"gts": truth, "input": asked})
    _, payload, pictures = made([path], tmp_path / "g.html", data=(tmp_path / "data.parquet",))
    red, _, blue = decoded(pictures[payload["prompts"][0]["picture"]]).getpixel((160, 200))
    assert (red > blue) == (image != 1)
    if not embed:
        path = dump(tmp_path / "e" / "1.jsonl", {"gts": truth, "image": [str(file) for file in files]})
        _, payload, pictures = made([path], tmp_path / "g.html")
        red, _, blue = decoded(pictures[payload["prompts"][0]["picture"]]).getpixel((160, 200))
        assert (red > blue) == (image != 1)


def run_command(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["gallery", *map(str, arguments)])


def test_the_command_says_what_it_wrote(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    result = run_command(run.folder, "--data", run.data, "--out", out, "--title", "A <b>run</b>", "--no-causes")
    assert result.exit_code == 0, result.output
    assert f"{out}: {run.n_rollouts} rollouts of {run.n_prompts} prompts" in result.output
    assert f"12 images, {out.stat().st_size / 1e6:.1f} MB" in result.output
    assert "<title>A &lt;b&gt;run&lt;/b&gt;" in out.read_text()
    first = out.read_bytes()
    run_command(run.folder, "--data", run.data, "--out", out, "--title", "A <b>run</b>", "--no-causes")
    assert out.read_bytes() == first


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "page.txt"], "--out page.txt: needs a name that ends in .html"),
        (["--limit", "0"], "--limit 0: needs at least 1"),
        (["--side", "5000"], "--side 5000: needs at most 2048"),
        (["--progress", "half"], "--progress half: needs a fraction"),
        (["--preset", "visionr2"], "visionr2"),
        (["--column", "image"], "--column image: needs WHAT=NAME"),
    ],
)
def test_what_cannot_be_is_one_line(options: list[str], words: str, run: Run) -> None:
    result = run_command(run.folder, *options)
    assert result.exit_code == 2
    assert words in result.output
    assert result.output.count("\n") == 1


def test_a_dump_without_rows_is_an_error_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text('{"step": 1}\n')
    result = run_command(tmp_path / "1.jsonl", "--out", tmp_path / "g.html")
    assert result.exit_code == 2
    assert "1 row could not be read" in result.output
