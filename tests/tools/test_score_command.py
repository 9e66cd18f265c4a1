"""`visionr1 score`: the command, and rows as a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from scored import CAT, FAIR, PERFECT, PROSE, VALUES, judging, rollout, said
from typer.testing import CliRunner

from verl_visionr1 import PRESETS, Target
from verl_visionr1.cli import app
from verl_visionr1.files import RowsError
from verl_visionr1.rewards.composition import preset_to_dict
from verl_visionr1.rollouts.judging import Moment
from verl_visionr1.rollouts.records import read_rollouts
from verl_visionr1.rollouts.run import Start, write_run
from verl_visionr1.tools.score.rescore import Report, rescore, scored_rows


def test_rows_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    out.write_text("older")
    with pytest.raises(RowsError, match="empty"), scored_rows(out) as on_row:
        rescore([], judging(), on_row=on_row)
    assert out.read_text() == "older"
    with scored_rows(out) as on_row:
        rows = [rollout(PERFECT, saved=0.5), rollout(FAIR, number=2, step=None)]
        rescore(rows, judging(), other=judging(moment=Moment(stage=1)), on_row=on_row)
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]
    first, second = map(json.loads, out.read_text().splitlines())
    known = {"file": "1.jsonl", "number": 1, "step": 1, "saved": 0.5, "value": 1.0, "recall": 1.0}
    assert known.items() <= first.items()
    assert (first["preset"], first["task"]) == ("visionr1", "detection")
    assert (second["number"], second["step"], second["saved"]) == (2, None, None)
    assert (second["value"], second["other"]) == (pytest.approx(2.6 / 3), pytest.approx(1 / 3))


def write_dump(path: Path, texts: Sequence[str], **changes: Any) -> Path:
    """A dump as verl writes it, two rollouts a prompt."""
    rows = [
        {"input": "cat?", "output": text, "gts": CAT.to_json(), "score": VALUES.get(text, 0.0), "step": 3}
        | {"uid": f"{i // 2:032x}_{i % 2}_0"}
        | changes
        for i, text in enumerate(texts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*args: object) -> Any:
    return CliRunner().invoke(app, ["score", *map(str, args)], env={"COLUMNS": "160"})


def test_a_criterion_that_raises_is_named_with_the_row(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def own(answer):\n    return 1 / answer.n_predicted\n")
    (tmp_path / "mine.yaml").write_text("base: visionr1\nname: mine\ncriteria: {own: {fn: own.py:own}}\n")
    file = write_dump(tmp_path / "3.jsonl", [PERFECT, PROSE])
    result = run(file, "--preset", tmp_path / "mine.yaml", "--frame", "original", "--stage", 0)
    assert (result.exit_code, result.stdout) == (2, "")
    for part in (f"{file}:2: ", "criteria.own: ZeroDivisionError", f"{tmp_path}/own.py:2)", "correct the function"):
        assert part in result.stderr


@pytest.mark.parametrize("command", ["score", "explain", "schedule"])
@pytest.mark.parametrize(
    ("more", "gives"),
    [({}, "0.80 instead of 0.00"), ({"iou_mean": 0.8}, "mean IoU of 100%")],
    ids=["by the ground truth", "by the dump's numbers"],
)
def test_a_frame_that_does_not_fit_is_named(command: str, more: dict[str, float], gives: str, tmp_path: Path) -> None:
    by = 1000 / 480  # an image of 480 x 480 in the frame 0-1000
    target = Target(task="detection", size_wh=(480, 480), boxes_xyxy=[[100, 100, 200, 200]], labels=["cat"])
    file = tmp_path / "3.jsonl"
    row = {"input": "?", "output": said(80, by=by), "gts": target.to_json(), **more}
    file.write_text(f"{json.dumps(row)}\n" * 2)
    words = {"explain": [str(file), "--row", "1"], "schedule": ["--rollouts", str(file)]}.get(command, [str(file)])

    def notes(frame: str) -> str:
        done = CliRunner().invoke(app, [command, *words, "--frame", frame])
        assert done.exit_code == 0, done.stderr
        return "".join(line for line in done.stderr.splitlines() if line.startswith(f"frame {frame} "))

    for part in ("2 of 2", "--frame qwen3-vl", gives):
        assert part in notes("percent")
    assert notes("qwen3-vl") == ""


def test_boxes_outside_every_frame_are_named(tmp_path: Path) -> None:
    file = write_dump(tmp_path / "3.jsonl", [said(by=50.0)] * 3)
    (note,) = [line for line in run(file, "--frame", "original").stderr.splitlines() if line.startswith("frame ")]
    assert "3 of 3" in note
    assert "--frame" not in note


def test_the_command_says_what_the_function_says(tmp_path: Path) -> None:
    file = write_dump(tmp_path / "3.jsonl", [PERFECT, PROSE, FAIR, FAIR])
    result = run(file, "--json")
    assert result.exit_code == 0, result.output
    report = msgspec.convert(json.loads(result.stdout), Report)
    assert report == rescore(read_rollouts([file]), judging())
    assert (report.overall.group_std, report.overall.frac_reward_zero_std) == pytest.approx((0.5**0.5 / 2, 0.5))
    assert report.saved is not None
    assert report.saved.equal == 1.0


def test_the_table(tmp_path: Path) -> None:
    write_dump(tmp_path / "2.jsonl", [PERFECT, PROSE], data_source="coco/[bold]val")
    write_dump(tmp_path / "10.jsonl", [FAIR, "\x1b[2J[red]\r\x07 \ud800 cat" * 9], data_source="own", step=10)
    result = run(tmp_path, "--vs", "visionr1@1", "--total-steps", "20", "--show", "3")
    assert result.exit_code == 0, result.output
    assert not {char for char in result.stdout if not char.isprintable() and char != "\n"}
    for text in ("coco/[bold]val", "own", "each step of 20", "frac_reward_zero_std"):
        assert text in result.stdout
    for text in ("Spearman", "10.jsonl:1", "stage 1"):
        assert text in result.stdout


def test_options_reach_the_judging(tmp_path: Path) -> None:
    file = write_dump(tmp_path / "3.jsonl", [said(by=2.0)])
    options = ["--frame", "qwen2.5-vl", "--processed", "1280x960", "--progress", "0.9", "--json"]
    report = json.loads(run(file, *options, "--preset", "visionr1-paper").stdout)
    assert (report["preset"], report["frame"], report["moment"]) == ("visionr1-paper", "qwen2.5-vl", "progress 0.9")
    assert report["overall"]["metrics"]["iou_mean"] == pytest.approx(1.0)


def test_skipped_rows_are_told(tmp_path: Path) -> None:
    file = write_dump(tmp_path / "3.jsonl", [PERFECT, PROSE])
    file.write_text(file.read_text() + '{"cut off')
    failed = run(file)
    assert (failed.exit_code, failed.stdout) == (2, "")
    assert failed.stderr.startswith(f"visionr1 score: {file}: line 3: ")
    assert len(failed.stderr.splitlines()) == 1
    result = run(file, "--on-error", "skip", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["n_skipped"] == 1
    assert f"left out: {file}: line 3" in result.stderr


def test_rows_of_verls_own_reward_are_told_and_left_out(tmp_path: Path) -> None:
    """`route` -2: the run left their data source to verl, whose ground truth is no target."""
    file = write_dump(tmp_path / "3.jsonl", [PERFECT, PROSE])
    row = {"input": "6 x 7?", "output": "42", "gts": "#### 42", "score": 1.0, "step": 3, "uid": "f_0_0", "route": -2.0}
    file.write_text(file.read_text() + json.dumps(row) + "\n")
    plain = json.loads(run(file, "--json").stdout)
    assert (plain["n_rows"], plain["n_delegated"], plain["n_skipped"]) == (2, 1, 0)
    assert "1 rows left out: verl's own reward" in run(file).stdout
    file.write_text(json.dumps(row) + "\n")
    alone = run(file)
    assert alone.exit_code == 2
    assert "1 rows left out: verl's own reward" in alone.stderr


MISTAKES = {
    "no such file": (["nothing.jsonl"], "no such file or folder"),
    "progress in words": (["{file}", "--progress", "half"], "--progress half: needs a fraction"),
    "no such stage": (["{file}", "--stage", "7"], "--stage 7: the schedule has the stages 0, 1"),
    "half a size": (["{file}", "--processed", "644"], "--processed 644: needs WIDTHxHEIGHT"),
    "half a budget": (["{file}", "--frame", "qwen2.5-vl", "--max-pixels", "99999"], "needs both or none"),
    "no such column": (["{file}", "--column", "completion=said"], "no column said"),
    "empty": (["{empty}"], "dumps are empty"),
    "out over in": (["{file}", "--out", "{file}"], "--out {file}: "),
    "out over a dump of the run": (["{above}", "--out", "{file}"], "--out {file}: "),
    "out over in by another name": (["{folder}", "--out", "{above}/../{above.name}/run/3.jsonl"], "--out {above}/"),
    "out among in": (["{folder}", "--out", "{folder}/rows.jsonl"], "--out {folder}/rows.jsonl: "),
    "out among dumps of the run": (["{above}", "--out", "{folder}/rows.jsonl"], "--out {folder}/rows.jsonl: "),
    "out beside a step": (["{file}", "--out", "{folder}/rows.jsonl"], "--out {folder}/rows.jsonl: "),
    "out of no kind": (["{file}", "--out", "rows.csv"], "ends in .jsonl"),
    "no data": (["{file}", "--data", "nothing.parquet"], "nothing.parquet: no such file"),
}


@pytest.mark.parametrize(("args", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(args: list[str], message: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    file = write_dump(folder / "3.jsonl", [PERFECT])
    before = file.read_bytes()
    (tmp_path / "empty.jsonl").write_text("\n")
    names = {"file": file, "empty": tmp_path / "empty.jsonl", "folder": folder, "above": tmp_path}
    result = run(*(arg.format_map(names) for arg in args))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("visionr1 score: ")
    assert message.format_map(names) in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert file.read_bytes() == before


def test_out_of_a_run_may_lie_beside_its_dumps(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    write_dump(tmp_path / "run" / "3.jsonl", [PERFECT, PROSE])
    for out in ("scores.jsonl", "run/../scores.jsonl", "scores/all.jsonl"):  # what was written is no dump of the run
        assert run(tmp_path, "--out", tmp_path / out).exit_code == 0
        assert [json.loads(line)["value"] for line in (tmp_path / out).read_text().splitlines()] == [1.0, 0.0]


def test_out_may_lie_beside_a_file_that_is_no_step(tmp_path: Path) -> None:
    assert run(write_dump(tmp_path / "mine.jsonl", [PERFECT]), "--out", tmp_path / "rows.jsonl").exit_code == 0


def test_the_heading_names_what_overrides_the_run(tmp_path: Path) -> None:
    file = write_dump(tmp_path / "3.jsonl", [PERFECT, PROSE])
    write_run(Start(presets=[preset_to_dict(PRESETS["visionr1"])], frame="original", checkpoint_dir=str(tmp_path)))
    assert "not as in the run" not in run(file).stdout
    assert "not as in the run: --frame unit" in " ".join(run(file, "--frame", "unit").stdout.split())
