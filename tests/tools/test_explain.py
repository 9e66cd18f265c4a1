"""`visionr1 explain`: the page, its JSON, and what it reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from exams import CAT, DOG, NEGATIVE, PERFECT, TARGET, said
from explained import dump_row, explained, page, run
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from verl_visionr1 import PRESETS, Target, score
from verl_visionr1.images import prepare_image
from verl_visionr1.row_writer import Row, RowWriter
from verl_visionr1.tools.explain.page import visible


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
        "frame qwen3-vl (0-1000, for any image): the image is 1000 x 1000",
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


HOSTILE = [
    *["[bold red]x[/bold red]", "[/]", "[link=file:///x]y"],
    *["\x1b[31mred\x1b[0m", "a\u202eb", "\ud800", "\x00\x07\r"],
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
            prepared = prepare_image(image, embed=False, copies_dir=tmp_path / "copies")
            writer.write(Row(data_source="d", question="Where?", image=prepared, target=target, split="val"))
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
    sparse = tmp_path / "sparse.jsonl"
    sparse.write_text(dump_row("[]") + "\n\n" + dump_row("[]") + "\n")
    for arguments, place in (
        ((data, "--row", 7, "--text", "x"), "row 7 not found (the last is 1)"),
        ((data, "--row", -1, "--text", "x"), "row -1 not found (the first is 0;"),
        ((dump, "--row", 0, "--text", "x"), "row 0 not found (the first is 1;"),
        ((dump, "--row", 0), "row 0 not found (the first is 1;"),
        ((dump, "--row", -1), "row -1 not found (the first is 1;"),
        ((dump, "--row", 3), "row 3 not found (the last is 1;"),
        ((sparse, "--row", 2), "row 2 not found (it has no answer;"),
        ((dump, "--row", 2, "--text", "x"), "line 2: gts is null"),
        ((dump, "--row", 2), "line 2: gts is null"),
        ((data, "--row", 1, "--text", "x", "--target", TARGET.to_json()), "--target"),
        ((data, "--text", "x"), "--row"),
        ((data, "--row", 1), "--text ANSWER"),
    ):
        failed = run(*arguments)
        assert failed.exit_code == 2
        assert place in failed.output


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


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("return 2.0", ("criterion out of range: ", "returned 2 ", "own.py:1)")),
        ("return -0.5", ("criterion out of range: ", "returned -0.5 ", "own.py:1)")),
        ("return float('inf')", ("visionr1 explain: ", "returned inf ", "own.py:1)")),
        ("return {}['a']", ("visionr1 explain: ", "KeyError: 'a'", "own.py:2)")),
    ],
)
def test_a_criterion_that_fails_is_the_cause(body: str, parts: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(f"def own(answer):\n    {body}\n")
    preset = tmp_path / "mine.yaml"
    preset.write_text("base: visionr1\nname: mine\ncriteria: {own: {fn: own.py:own}}\n")
    for text in (PERFECT, "none"):
        first = run("--text", text, "--target", TARGET.to_json(), "--preset", preset).output.splitlines()[0]
        assert first.startswith(parts[0])
        assert all(part in first for part in ("criteria.own", *parts))


def test_the_processed_size_is_replayed_where_the_frame_needs_it() -> None:
    result = run("--text", PERFECT, "--target", TARGET.to_json(), "--frame", "qwen2.5-vl")
    assert "pixels of the image as the processor resized it): the image is 1988 x 1204" in result.output
    result = run("--text", PERFECT, "--target", TARGET.to_json(), "--frame", "qwen2.5-vl", "--processed", "1000x600")
    assert "x times 2, y times 2" in result.output


TO_TARGET = ("--target", TARGET.to_json())
OF_X = ("--text", "x", *TO_TARGET)
MISTAKES = {
    "no text": ([*TO_TARGET], "no answer: needs"),
    "two texts": (["-", "--text", "x", *TO_TARGET], "- and --text"),
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
    "unknown frame": ([*OF_X, "--frame", "qwen3vl"], "did you mean qwen3-vl?"),
    "unknown preset": ([*OF_X, "--preset", "visonr1"], "did you mean visionr1?"),
    "no preset file": ([*OF_X, "--preset", "mine.yaml"], "preset file mine"),
    "wrong preset": ([*OF_X, "--preset", "counting"], "preset counting: scores counting"),
    "progress": ([*OF_X, "--progress", "30"], "--progress 30"),
    "no picture": ([*OF_X, "--draw", "22.jsonl"], "--draw 22.jsonl: "),
    "no image": (
        [*OF_X, "--draw", "/tmp/never.png", "--image", "nowhere.png"],
        "nowhere.png: not a readable image",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_one_line(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.output.startswith("visionr1 explain: ")
    assert message in result.output
    assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize(("saved", "at"), [(0.25, 1), (1.0, -2)])
def test_another_reward_of_the_run_is_told_at_once(tmp_path: Path, saved: float, at: int) -> None:
    dump = tmp_path / "1.jsonl"
    dump.write_text(json.dumps({"input": "?", "output": PERFECT, "gts": TARGET.to_json(), "score": saved, "step": 1}))
    lines = run(str(dump), "--row", 1, "--frame", "original").output.splitlines()
    assert f"the run gave {saved:g}" in lines[at], lines
    assert ("recomputed 1:" in lines[at]) is (saved != 1.0)
