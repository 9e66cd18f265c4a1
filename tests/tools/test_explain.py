"""`visionr1 explain`: the page, its JSON, the picture, and what it reads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from verl_visionr1 import FRAMES, PRESETS, Target, score
from verl_visionr1.cli import app
from verl_visionr1.files import RowsError
from verl_visionr1.images import prepare_image
from verl_visionr1.rewards import ResponseContext
from verl_visionr1.rewards.composition import preset_to_dict
from verl_visionr1.rollouts.run import Start, write_run
from verl_visionr1.row_writer import Row, RowWriter
from verl_visionr1.tools.explain.drawing import COLOURS, draw
from verl_visionr1.tools.explain.explanation import Explanation, explain
from verl_visionr1.tools.explain.page import page_of, visible

CAT, DOG = (200, 100, 1000, 400), (1200, 500, 1800, 1100)
NEGATIVE = Target(task="detection", size_wh=(2000, 1200), categories=["cat", "dog"])
TARGET = Target(task="detection", size_wh=(2000, 1200), boxes_xyxy=[CAT, DOG], labels=["cat", "dog"])


def said(*items: tuple[tuple[float, ...], str]) -> str:
    return json.dumps([{"bbox_2d": list(box), "label": label} for box, label in items], ensure_ascii=False)


PERFECT = said((CAT, "cat"), (DOG, "dog"))


def explained(
    text: str, target: Target = TARGET, preset: str = "visionr1", progress: float | None = None, frame: str = "original"
) -> Explanation:
    return explain(text, target, PRESETS[preset], ResponseContext(FRAMES[frame]), progress=progress)


def page(explanation: Explanation, width: int = 160) -> str:
    console = Console(record=True, width=width, file=open("/dev/null", "w"))  # noqa: SIM115
    for part in page_of(explanation):
        console.print(part)
    return console.export_text()


def run(*arguments: object, stdin: str | bytes | None = None) -> Any:
    return CliRunner().invoke(app, ["explain", *map(str, arguments)], input=stdin)


@pytest.mark.parametrize(
    ("text", "preset", "words"), [(PERFECT[:-9], "visionr1", "truncated"), (PERFECT, "vlmr1-ovd-released", "no fence")]
)
def test_the_first_line_names_the_cause(text: str, preset: str, words: str) -> None:
    result = run("--text", text, "--target", TARGET.to_json(), "--preset", preset, "--progress", 0.0)
    assert result.exit_code == 0, result.output
    assert words in result.output.splitlines()[0]


def test_a_perfect_answer_says_so() -> None:
    result = run("--text", PERFECT, "--target", TARGET.to_json())
    assert result.output.splitlines()[0] == "nothing wrong: reward 1.000"


def test_the_page_holds_every_step() -> None:
    text = said(((100, 83, 500, 333), "cat"), ((600, 417, 900, 917), "cow"), ((10, 10, 20, 10), "cat"))
    shown = page(explained(f"Look: {text}", frame="qwen3-vl", progress=0.6))
    for line in (
        "object 3 not read: no height: y1 = y2 = 10",
        "defect bad_box",
        "frame qwen3-vl (0-1000, whatever the image): the image is 1000 x 1000",
        "original image 2000 x 1200 px: x times 2, y times 1.2",
        "first box: 100, 83, 500, 333 -> 200, 99.6, 1000, 399.6 px",
        "1  cat",
        "wrong label",
        "not read: 1, counted as wrong",
        "thresholds (progress 0.6, stage 1): a match from IoU 0.75",
        "f1_50",
    ):
        assert line in shown, line
    assert "reward = (1 x 0.000 + 1 x 0.000 + 1 x 0.333) / 3 = 0.111" in shown


@pytest.mark.parametrize("preset", [name for name, preset in PRESETS.items() if "detection" in preset.tasks])
@pytest.mark.parametrize("text", [PERFECT, f"Look: {PERFECT}", said((CAT, "dog"))], ids=["right", "prose", "wrong"])
def test_value_parts_and_metrics_are_those_of_scoring(preset: str, text: str) -> None:
    explanation = explained(text, preset=preset, progress=0.3)
    scored = score(text, TARGET, preset=preset, progress=0.3)
    assert explanation.value == scored.value
    assert explanation.metrics == scored.metrics
    assert sum(part.share for part in explanation.parts) == pytest.approx(scored.value)


def test_json_holds_all_of_it() -> None:
    huge = said(((-1e308, 0, 1e308, 9), "cat"), (DOG, "dog"))
    result = run("--text", f"Look: {huge}", "--target", TARGET.to_json(), "--frame", "unit", "--json")
    plain = json.loads(result.output, parse_constant=pytest.fail)
    assert {"cause", "findings", "text", "conversion", "predictions", "objects", "parts", "metrics"} <= set(plain)
    assert plain["predictions"][0]["place"][0] is None, "minus infinity is no JSON"
    assert plain["completion"].startswith("Look: ")
    assert plain["text"]["defects"][0][0] == "prose"


def test_pieces_tell_what_was_read() -> None:
    text = f"<think>x</think>{PERFECT[:-1]}, {{'bbox_2d': [5, 5, 1, 9]}}"
    pieces = explained(text).text.pieces
    assert [piece.is_read for piece in pieces] == [True, True, False]
    assert text[pieces[2].start : pieces[2].end].startswith("{'bbox_2d'")
    assert explained(PERFECT[:-20]).text.stopped_at == PERFECT.index("}") + 1


def test_a_page_stays_short_however_much_was_predicted() -> None:
    boxes = [(x, y, x + 90, y + 70) for x in range(0, 2000, 100) for y in range(0, 1200, 80)]
    shown = page(explained(said(*((box, "cat") for box in boxes), (CAT, "cat"), (DOG, "dog"))))
    assert "... and 272 more predictions" in shown
    assert "301  cat" in shown, "what matches is of more interest than junk"
    assert "302  dog" in shown
    assert len(shown.splitlines()) < 85
    shown = page(explained(said(*(((9, 9, 9, 9), "cat"),) * 300)))
    assert "... and 290 more not read" in shown
    many = [(x, 0, x + 5, 5) for x in range(0, 1000, 10)]
    shown = page(explained("[]", Target(task="detection", size_wh=(2000, 9), boxes_xyxy=many, labels=["cat"] * 100)))
    assert "... and 70 more missed objects" in shown


def test_a_count_that_was_not_read_is_not_shown_as_0() -> None:
    target = Target(task="counting", size_wh=(2000, 1200), count=2)
    for text in ("many", PERFECT):
        assert "; count: no count)" in page(explained(text, target, "counting"))
    assert "; count: count 0)" in page(explained("0", target, "counting"))
    assert "; qwen-json: count 2)" in page(explained(PERFECT, target, "counting-list"))


# --- a terminal is not to be steered by a model ----------------------------------------------------------------------

HOSTILE = [
    "[bold red]x[/bold red]",
    "[/]",
    "\x1b[31mred\x1b[0m",
    "a\u202eb",
    "\ud800",
    "\x00\x07\r",
    "[link=file:///x]y",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_a_model_wrote_is_shown_not_obeyed(hostile: str) -> None:
    text = said((CAT, hostile), (DOG, "dog")) + hostile
    shown = page(explained(text))
    assert not set(shown) & {"\x1b", "\u202e", "\ud800", "\x00", "\x07", "\r"}
    assert visible(hostile, one_line=True) in shown
    shown.encode()


@settings(max_examples=60)
@given(st.text(max_size=300), st.sampled_from(["", PERFECT, "<think>", "```json\n["]))
def test_any_text_has_a_page(text: str, before: str) -> None:
    explanation = explained(before + text)
    shown = page(explanation)
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert shown.splitlines()[0]
    json.dumps(explanation.as_dict(), allow_nan=False)


def test_a_long_text_is_shown_in_part() -> None:
    shown = page(explained(f"<think>{'a' * 5000}</think>{'b' * 9000}"))
    assert "characters before) ..." in shown
    assert "more characters)" in shown
    assert len(shown) < 8000


# --- what it reads ---------------------------------------------------------------------------------------------------


def dump_row(output: str, **more: object) -> str:
    return json.dumps({"input": "?", "output": output, "gts": TARGET.to_json(), "score": 0.0, "step": 3, **more})


@pytest.mark.parametrize(("side", "name"), [(1000, "xyxy-norm1000"), (1, "xyxy-norm1")], ids=["0-1000", "fractions"])
def test_ground_truth_in_other_coordinates_is_named(side: int, name: str, tmp_path: Path) -> None:
    """The model is right; every frame is wrong; it is not the model that has to learn something."""
    width, height = TARGET.size_wh
    boxes = [[v * side / whole for v, whole in zip(box, (width, height) * 2, strict=True)] for box in (CAT, DOG)]
    file = tmp_path / "1.jsonl"
    file.write_text(
        json.dumps({"output": PERFECT, "gts": json.dumps({**json.loads(TARGET.to_json()), "boxes_xyxy": boxes})})
    )
    said = run(file, "--row", 1).output
    assert said.startswith("wrong truth: if the ground truth is written as x1 y1 x2 y2 in")
    assert f"--boxes-are {name}" in said


def test_a_line_of_a_dump(tmp_path: Path) -> None:
    file = tmp_path / "3.jsonl"
    file.write_text("\n".join([dump_row("[]"), "{broken", dump_row(PERFECT), dump_row("")]) + "\n")
    assert run(file, "--row", 3).output.startswith("nothing wrong")
    assert run(file, "--row", 1).output.startswith("missed 2 of 2")
    broken = run(file, "--row", 2)
    assert broken.exit_code == 2
    assert "line 2" in broken.output
    assert "row 9 not found (the last is 4" in run(file, "--row", 9).output
    bad = json.loads(TARGET.to_json()) | {"boxes_xyxy": [[500, 500, 999, 999]]}
    file.write_text("".join(f"{json.dumps({'output': '[]', 'gts': json.dumps(bad)})}\n" for _ in range(20)))
    said = run(file, "--row", 17).output
    assert "line 17: ground truth" in said
    assert "visionr1 doctor" in said
    assert "needs --row N" in run(file).output


def test_a_row_of_a_parquet_with_its_image(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    image = tmp_path / "image.png"
    Image.new("RGB", (2000, 1200), (10, 20, 30)).save(image)
    rows = [{"completion": text, "ground_truth": TARGET.to_json(), "images": [str(image)]} for text in (PERFECT, "[]")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    out = tmp_path / "out.png"
    assert run(tmp_path / "rows.parquet", "--row", 1, "--draw", out).output.startswith("missed 2 of 2")
    with Image.open(out) as picture:
        assert picture.getpixel((1500, 50)) == (10, 20, 30)[: len(picture.getbands())]


def test_an_answer_of_ones_own_to_a_row_of_the_data(tmp_path: Path) -> None:
    """The ground truth and the image are the row's: of a converter's parquet, or of a dump whose answer is left."""
    data = tmp_path / "data.parquet"
    image = tmp_path / "image.png"
    Image.new("RGB", (2000, 1200), (10, 20, 30)).save(image)
    with RowWriter(data) as writer:
        for target in (NEGATIVE, TARGET):
            writer.write(
                Row(
                    data_source="d",
                    question="Where?",
                    image=prepare_image(image, embed=False, copies_dir=tmp_path / "copies"),
                    target=target,
                    split="val",
                )
            )
    (tmp_path / "text").write_text(PERFECT)
    for text in (("--text", PERFECT), ("--text-file", tmp_path / "text")):
        assert run(data, "--row", 1, *text).output.startswith("nothing wrong")
        assert run(data, "--row", 0, *text).output.startswith("false alarm")
    out = tmp_path / "out.png"
    assert run(data, "--row", 1, "--text", "[]", "--draw", out).exit_code == 0
    assert out.exists()
    dump = tmp_path / "1.jsonl"
    dump.write_text(dump_row("[]") + "\n" + json.dumps({"output": "[]", "gts": None}) + "\n")
    assert run(dump, "--row", 1, "--text", PERFECT).output.startswith("nothing wrong")
    for arguments, place in (
        ((data, "--row", 7, "--text", "x"), "row 7 not found (the last is 1)"),
        ((dump, "--row", 2, "--text", "x"), "line 2: gts is null"),
        ((dump, "--row", 2), "line 2: gts is null"),
        ((data, "--row", 1, "--text", "x", "--target", TARGET.to_json()), "--target"),
        ((data, "--text", "x"), "--row"),
    ):
        failed = run(*arguments)
        assert failed.exit_code == 2
        assert place in failed.output


# --- a run, a dump without one, and its images -----------------------------------------------------------------------

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
    assert done.stdout.startswith("below the threshold: box 1 reaches IoU 0.625 < 0.75 -> training has a stage")
    assert run(tmp_path, "--row", 1, "--step", 0).exit_code == 0
    missing = run(tmp_path, "--row", 1, "--step", 7)
    assert (missing.exit_code, "validation has steps 0, 24" in missing.output) == (2, True)


def test_an_answer_of_ones_own_to_a_row_of_a_run_is_judged_as_the_run_judges(tmp_path: Path) -> None:
    in_frame = said(((100, 83, 350, 333), "cat"), ((600, 417, 900, 917), "dog"))
    of_run = a_run(tmp_path, frame="qwen3-vl")
    for text in (LOOSE, in_frame):
        found = json.loads(run(of_run, "--row", 1, "--text", text, "--json").stdout)
        wanted = score(text, TARGET, preset="visionr1", frame="qwen3-vl", progress=1.0)
        assert (found["value"], found["saved"]) == (pytest.approx(wanted.value), None)


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


def test_an_iou_reads_the_same_on_every_line() -> None:
    shown = page(explained(said(((200, 100, 999.9, 250.04), "cat"), (DOG, "dog")), progress=0.0))
    assert set(re.findall(r"(?:IoU | )(0\.5\d+)(?: +match|;)", shown.partition("criteria")[0])) == {"0.500"}
    assert "0.49996 < 0.5" in page(explained(said(((200, 100, 1000, 249.988), "cat"), (DOG, "dog")), progress=0.0))


def test_what_is_assumed_of_a_dump_without_a_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "3.jsonl").write_text(dump_row("[]") + "\n")
    told = run(tmp_path / "3.jsonl", "--row", 1).stderr
    assert "assumed frame original (--frame)" in told
    assert "preset visionr1" in told
    fixed = ("--frame", "original", "--progress", "off", "--preset", "visionr1")
    assert run(tmp_path / "3.jsonl", "--row", 1, *fixed).stderr == ""


@pytest.mark.parametrize("embed", [False, True])
def test_a_runs_answer_is_drawn_on_the_image_of_its_row(embed: bool, tmp_path: Path) -> None:
    image, data, out = tmp_path / "image.png", tmp_path / "val.parquet", tmp_path / "out.png"
    Image.new("RGB", (2000, 1200), (10, 20, 30)).save(image)
    with RowWriter(data, embed=embed) as writer:
        prepared = prepare_image(image, embed=embed, copies_dir=tmp_path / "copies")
        writer.write(Row(data_source="d", question="?", image=prepared, target=TARGET, split="val"))
    for arguments in (("--step", 0), ("--step", 0, "--text", "[]")):
        done = run(a_run(tmp_path, val_files=[str(data)]), "--row", 1, "--draw", out, *arguments)
        assert "grey" not in done.stderr
        with Image.open(out) as picture:
            assert picture.convert("RGB").getpixel((1500, 50)) == (10, 20, 30)


@pytest.mark.parametrize("image", [None, 0, 1])
def test_of_several_images_the_one_of_the_ground_truth_is_drawn_on(image: int | None, tmp_path: Path) -> None:
    colours = [(10, 20, 30), (200, 100, 50)]
    files = [tmp_path / f"{i}.png" for i in range(2)]
    for file, colour in zip(files, colours, strict=True):
        Image.new("RGB", (2000, 1200), colour).save(file)
    target = msgspec.structs.replace(TARGET, image=image)
    row = {"completion": "[]", "ground_truth": target.to_json(), "images": [str(file) for file in files]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    run(tmp_path / "rows.jsonl", "--row", 1, "--draw", tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.convert("RGB").getpixel((1500, 50)) == colours[image or 0]


def test_a_row_of_verls_own_reward_is_named(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text(json.dumps({"output": "42", "gts": "#### 42", "route": -2.0}))
    done = run(tmp_path / "1.jsonl", "--row", 1)
    assert done.exit_code == 2
    assert "verl's own reward" in done.output


def test_text_comes_from_files_and_pipes(tmp_path: Path) -> None:
    (tmp_path / "text").write_text(PERFECT)
    (tmp_path / "target.json").write_text(TARGET.to_json())
    for arguments in (("--text-file", tmp_path / "text"), ("-",)):
        result = run(*arguments, "--target", tmp_path / "target.json", stdin=PERFECT)
        assert result.output.startswith("nothing wrong"), result.output
    assert run("-", "--target", TARGET.to_json(), stdin=b"\xff\xfe").output.startswith("no list")


def test_the_preset_is_that_of_the_task_unless_told_otherwise(tmp_path: Path) -> None:
    target = Target(task="counting", size_wh=(9, 9), count=2).to_json()
    assert run("--text", "2", "--target", target).output.startswith("nothing wrong")
    home_made = tmp_path / "mine.yaml"
    home_made.write_text("base: visionr1\nname: mine\nweights: {format: 0.0}\n")
    result = run("--text", f"Look: {PERFECT}", "--target", TARGET.to_json(), "--preset", home_made)
    assert result.output.startswith("nothing wrong")


def test_the_processed_size_is_replayed_where_the_frame_needs_it() -> None:
    result = run("--text", PERFECT, "--target", TARGET.to_json(), "--frame", "qwen2.5-vl")
    assert "pixels of the image as the processor resized it): the image is 1988 x 1204" in result.output
    result = run("--text", PERFECT, "--target", TARGET.to_json(), "--frame", "qwen2.5-vl", "--processed", "1000x600")
    assert "x times 2, y times 2" in result.output


MISTAKES = {
    "no text": (["--target", TARGET.to_json()], "no answer: needs"),
    "two texts": (["-", "--text", "x", "--target", TARGET.to_json()], "- and --text"),
    "no target": (["--text", "x"], "--target: needs the ground truth"),
    "bad target": (["--text", "x", "--target", "{}"], "ground truth '{}'"),
    "list as target": (
        ["--text", "x", "--target", "[[1,2,3,4]]"],
        '--target: ground truth \'[[1,2,3,4]]\': Expected `object`, got `array` (a target looks like {"task":"det',
    ),
    "unknown field": (
        ["--text", "x", "--target", '{"task":"grounding","size_wh":[9,9],"boxes":[[1,2,3,4]]}'],
        '--target: boxes: unknown key; did you mean boxes_xyxy? (a target looks like {"task":"grounding",',
    ),
    "half a target": (
        ["--text", "x", "--target", '{"task":"text"}'],
        'answer = None: a text target needs the right answer (a target looks like {"task":"text","answer":"a dog"})',
    ),
    "no file": (["nowhere.jsonl", "--row", "1"], "nowhere.jsonl: no such file"),
    "unknown frame": (["--text", "x", "--target", TARGET.to_json(), "--frame", "qwen3vl"], "did you mean qwen3-vl?"),
    "unknown preset": (["--text", "x", "--target", TARGET.to_json(), "--preset", "visonr1"], "did you mean visionr1?"),
    "no preset file": (["--text", "x", "--target", TARGET.to_json(), "--preset", "mine.yaml"], "preset file mine"),
    "wrong preset": (
        ["--text", "x", "--target", TARGET.to_json(), "--preset", "counting"],
        "judges counting, the target",
    ),
    "progress": (["--text", "x", "--target", TARGET.to_json(), "--progress", "30"], "--progress 30"),
    "no image": (
        ["--text", "x", "--target", TARGET.to_json(), "--draw", "/tmp/never.png", "--image", "nowhere.png"],
        "nowhere.png: not an image that can be read",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_one_line(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.output.startswith("visionr1 explain: ")
    assert message in result.output
    assert len(result.output.splitlines()) == 1


# --- the picture -----------------------------------------------------------------------------------------------------


def colours_of(path: Path) -> set[tuple[int, int, int]]:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return {pixel for _, pixel in picture.convert("RGB").getcolors(maxcolors=1 << 24)}  # type: ignore[misc]


def test_predictions_are_drawn_in_the_colour_of_what_they_counted_as(tmp_path: Path) -> None:
    text = said(
        (CAT, "cat"), ((210, 100, 1000, 400), "cat"), ((1250, 500, 1800, 1100), "cow"), ((5, 700, 90, 900), "dog")
    )
    draw(explained(text), tmp_path / "all.png")
    for kind in ("match", "duplicate", "wrong label", "junk"):
        assert COLOURS[kind] in colours_of(tmp_path / "all.png"), kind
    draw(explained(PERFECT), tmp_path / "right.png")
    assert COLOURS["junk"] not in colours_of(tmp_path / "right.png")


def test_a_small_image_is_enlarged_and_an_upright_one_turned(tmp_path: Path) -> None:
    target = Target(task="grounding", size_wh=(20, 40), boxes_xyxy=[(1, 1, 10, 10)], labels=["cat"])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20), (9, 9, 9)).save(tmp_path / "turned.jpg", exif=exif)
    draw(explained("[]", target), tmp_path / "out.png", tmp_path / "turned.jpg")
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width == 160
        assert picture.height > 320


@pytest.mark.parametrize(
    "text", [said(((-1e308, -1e308, 1e308, 1e308), "猫\x1b\ud800")), said(((5, 5, 6, 6), "")), "[]"]
)
def test_whatever_was_predicted_can_be_drawn(text: str, tmp_path: Path) -> None:
    draw(explained(text), tmp_path / "out.png")
    assert colours_of(tmp_path / "out.png")


def test_without_an_image_there_is_nothing_to_draw_on(tmp_path: Path) -> None:
    with pytest.raises(RowsError, match="has no image"):
        draw(explained("x", Target(task="text", answer="x"), "text-exact"), tmp_path / "out.png")
    with pytest.raises(RowsError, match="cannot write"):
        draw(explained("[]"), tmp_path / "no" / "out.png")
