"""`visionr1 explain`: the page, its JSON, and what it reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from exams import CAT, DOG, NEGATIVE, PERFECT, TARGET, said
from explained import TO_TARGET, dump_row, explained, page, run
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_visionr1 import PRESETS, Target, score
from verl_visionr1.rollouts.dumps import visible


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
        "reward = (1 x 0.000 + 1 x 0.000 + 1 x 0.333) / 3 = 0.111",
    ):
        assert line in shown, line


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
    result = run("--text", f"Look: {huge}", *TO_TARGET, "--frame", "unit", "--json")
    plain = json.loads(result.output, parse_constant=pytest.fail)
    assert {"cause", "findings", "text", "conversion", "predictions", "objects", "parts", "metrics"} <= set(plain)
    assert plain["predictions"][0]["place"][0] is None, "minus infinity is no JSON"
    assert plain["completion"].startswith("Look: ")
    assert plain["text"]["defects"][0][0] == "prose"


def test_pieces_tell_what_was_read() -> None:
    text = f"<think>x</think>{PERFECT[:-1]}, {{'bbox_2d': [5, 5, 1, 9]}}"
    pieces = explained(text).text.pieces
    assert [piece.why_not for piece in pieces] == ["", "", "inverted: x1 = 5 > x2 = 1"]
    assert text[pieces[2].start : pieces[2].end].startswith("{'bbox_2d'")
    assert explained(PERFECT[:-20]).text.stopped_at == PERFECT.index("}") + 1


def test_a_page_stays_short_however_much_was_predicted() -> None:
    boxes = [(x, y, x + 90, y + 70) for x in range(0, 2000, 100) for y in range(0, 1200, 80)]
    shown = page(explained(said(*((box, "cat") for box in boxes), (CAT, "cat"), (DOG, "dog"))))
    for line in ("... and 272 more predictions", "301  cat", "302  dog"):
        assert line in shown, "what matches is of more interest than junk"
    assert len(shown.splitlines()) < 85
    shown = page(explained(said(*(((9, 9, 9, 9), "cat"),) * 300)))
    assert "... and 290 more not read" in shown
    many = [(x, 0, x + 5, 5) for x in range(0, 1000, 10)]
    shown = page(explained("[]", Target(task="detection", size_wh=(2000, 9), boxes_xyxy=many, labels=["cat"] * 100)))
    assert "... and 70 more missed objects" in shown
    shown = page(explained(f"<think>{'a' * 5000}</think>{'b' * 9000}"))
    assert "characters before) ..." in shown
    assert "more characters)" in shown
    assert len(shown) < 8000


def test_a_count_that_was_not_read_is_not_shown_as_0() -> None:
    target = Target(task="counting", size_wh=(2000, 1200), count=2)
    assert "; count: no count)" in page(explained("many", target, "counting"))
    assert "; count: count 0)" in page(explained("0", target, "counting"))
    assert "; qwen-json: count 2)" in page(explained(PERFECT, target, "counting-list"))


HOSTILE = (
    "[bold red]x[/bold red]",
    "[/]",
    "[link=file:///x]y",
    "\x1b[31mred\x1b[0m",
    "a\u202eb",
    "\ud800",
    "\x00\x07\r",
)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_a_model_wrote_is_shown_not_obeyed(hostile: str) -> None:
    shown = page(explained(said((CAT, hostile), (DOG, "dog")) + hostile))
    assert not set(shown) & {"\x1b", "\u202e", "\ud800", "\x00", "\x07", "\r"}
    assert visible(hostile, newline=r"\n") in shown


@settings(max_examples=20)
@given(st.text(max_size=300), st.sampled_from(["", PERFECT, "<think>", "```json\n["]))
def test_any_text_has_a_page(text: str, before: str) -> None:
    explanation = explained(before + text)
    shown = page(explanation)
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert shown.splitlines()[0]
    json.dumps(explanation.as_dict(), allow_nan=False)


def test_a_line_of_a_dump(tmp_path: Path) -> None:
    file = tmp_path / "3.jsonl"
    bad = json.loads(TARGET.to_json()) | {"boxes_xyxy": [[500, 500, 999, 999]]}
    rows = [dump_row("[]"), "{broken", dump_row(PERFECT), json.dumps({"output": "[]", "gts": json.dumps(bad)})]
    rows += [json.dumps({"output": "42", "gts": "#### 42", "route": -2.0}), "", json.dumps({"output": "", "gts": None})]
    file.write_text("\n".join([*rows, dump_row("")]) + "\n")
    assert run(file, "--row", 3).output.startswith("nothing wrong")
    assert run(file, "--row", 1).output.startswith("missed 2 of 2")
    assert run(file, "--row", 1, "--text", PERFECT).output.startswith("nothing wrong")
    for row, words in (
        (0, "row 0 not found (the first is 1;"),
        (-1, "row -1 not found (the first is 1;"),
        (2, "line 2"),
        (4, "line 4: ground truth"),
        (4, "visionr1 doctor"),
        (5, "verl's own reward"),
        (7, "line 7: gts is null"),
        (6, "row 6 not found (it has no answer;"),
        (9, "row 9 not found (the last is 8;"),
    ):
        failed = run(file, "--row", row)
        assert (failed.exit_code, words in failed.output) == (2, True), failed.output
    assert "line 7: gts is null" in run(file, "--row", 7, "--text", "x").output


def test_an_answer_of_ones_own_to_a_row_of_the_data(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = tmp_path / "data.parquet"
    truths = [{"style": "rule", "ground_truth": it.to_json()} for it in (NEGATIVE, TARGET)]
    rows = [{"data_source": "d", "prompt": [{"role": "user", "content": "?"}], "reward_model": it} for it in truths]
    pq.write_table(pa.Table.from_pylist(rows), data)
    (tmp_path / "text").write_text(PERFECT)
    for text in (("--text", PERFECT), ("--text-file", tmp_path / "text")):
        assert run(data, "--row", 1, *text).output.startswith("nothing wrong")
        assert run(data, "--row", 0, *text).output.startswith("false alarm")
    for arguments, place in (
        (("--row", 7, "--text", "x"), "row 7 not found (the last is 1)"),
        (("--row", -1, "--text", "x"), "row -1 not found (the first is 0;"),
        (("--row", 1, "--text", "x", *TO_TARGET), "--target"),
        (("--text", "x"), "needs --row N"),
        (("--row", 1), "--text ANSWER"),
    ):
        failed = run(data, *arguments)
        assert (failed.exit_code, place in failed.output) == (2, True), failed.output


def test_text_and_target_come_from_files(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"\xff\xfe")
    (tmp_path / "target.json").write_text(TARGET.to_json())
    result = run("--text-file", tmp_path / "text", "--target", tmp_path / "target.json")
    assert result.output.startswith("no list"), result.output


def test_the_preset_is_that_of_the_task() -> None:
    target = Target(task="counting", size_wh=(9, 9), count=2).to_json()
    assert run("--text", "2", "--target", target).output.startswith("nothing wrong")


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("return 2.0", ("criterion out of range: ", "returned 2 ", "own.py:1)")),
        ("return {}['a']", ("visionr1 explain: ", "KeyError: 'a'", "own.py:2)")),
    ],
)
def test_a_criterion_that_fails_is_the_cause(body: str, parts: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(f"def own(answer):\n    {body}\n")
    preset = tmp_path / "mine.yaml"
    preset.write_text("base: visionr1\nname: mine\ncriteria: {own: {fn: own.py:own}}\n")
    first = run("--text", PERFECT, *TO_TARGET, "--preset", preset).output.splitlines()[0]
    assert first.startswith(parts[0])
    assert all(part in first for part in ("criteria.own", *parts))


def test_the_processed_size_is_replayed_where_the_frame_needs_it() -> None:
    result = run("--text", PERFECT, *TO_TARGET, "--frame", "qwen2.5-vl")
    assert "pixels of the image as the processor resized it): the image is 1988 x 1204" in result.output
    result = run("--text", PERFECT, *TO_TARGET, "--frame", "qwen2.5-vl", "--processed", "1000x600")
    assert "x times 2, y times 2" in result.output


OF_X = ("--text", "x", *TO_TARGET)
MISTAKES = {
    "no text": ([*TO_TARGET], "no answer: needs"),
    "no target": (["--text", "x"], "--target: needs the ground truth"),
    "bad target": (["--text", "x", "--target", "{}"], "ground truth '{}'"),
    "list as target": (["--text", "x", "--target", "[[1,2]]"], '(a target looks like {"task":"detection",'),
    "half a target": (["--text", "x", "--target", '{"task":"text"}'], '(a target looks like {"task":"text",'),
    "no file": (["nowhere.jsonl", "--row", "1"], "nowhere.jsonl: no such file"),
    "unknown frame": ([*OF_X, "--frame", "qwen3vl"], "did you mean qwen3-vl?"),
    "wrong preset": ([*OF_X, "--preset", "counting"], "preset counting: scores counting"),
    "progress": ([*OF_X, "--progress", "30"], "--progress 30"),
    "no picture": ([*OF_X, "--draw", "22.jsonl"], "--draw 22.jsonl: "),
    "no image": ([*OF_X, "--draw", "never.png", "--image", "nowhere.png"], "nowhere.png: not a readable image"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_one_line(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.output.startswith("visionr1 explain: ")
    assert message in result.output
    assert len(result.output.splitlines()) == 1
