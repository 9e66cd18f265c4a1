"""`visionr1 eval` as a user runs it; with vLLM where a training run has left a checkpoint (test_end_to_end.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from eval_command import RIGHT, WRONG, answered, refused, said, visionr1
from model_folders import checkpoint, hugging_face
from scripted import TRUTH, made, row_of

from verl_visionr1.evaluation.generation.records import data_fingerprints, open_predictions

# ---------------------------------------------------------------------------------------- metrics of kept answers


def test_metrics_are_computed_again_without_a_model(tmp_path: Path) -> None:
    folder = answered(tmp_path / "a", [RIGHT, WRONG, RIGHT, "no idea"])
    code, text, err = visionr1("eval", "--out", folder, "--recompute", "--resamples", 50)
    assert code == 0, err
    report = json.loads((folder / "report.json").read_text())
    assert report["settings"]["frame"] == "qwen3-vl", "by the model's type"
    assert report["settings"]["max_tokens"] == 1024
    assert report["training"]["toy"]["accuracy"] == pytest.approx(0.5)
    assert (folder / "report.md").read_text() == text
    assert "toy" in text
    assert len((folder / "report.rows.jsonl").read_text().splitlines()) == 4
    before = (folder / "report.json").read_bytes()
    assert visionr1("eval", "--out", folder, "--recompute", "--resamples", 50)[0] == 0
    assert (folder / "report.json").read_bytes() == before


def test_frames_are_named_or_known(tmp_path: Path) -> None:
    folder = answered(tmp_path / "a", [RIGHT], model_type="mystery")
    assert "model_type 'mystery'" in refused("--out", folder, "--recompute")
    assert visionr1("eval", "--out", folder, "--recompute", "--frame", "unit")[0] == 0
    assert json.loads((folder / "report.json").read_text())["training"]["toy"]["accuracy"] == 0.0
    assert visionr1("eval", "--out", folder, "--recompute", "--frame", "qwen3-vl")[0] == 0
    assert json.loads((folder / "report.json").read_text())["training"]["toy"]["accuracy"] == 1.0


def test_a_wrong_frame_is_named(tmp_path: Path) -> None:
    """All parsed and nothing right: which frame the numbers fit."""
    folder = answered(tmp_path / "a", [RIGHT] * 6)
    code, text, err = visionr1("eval", "--out", folder, "--recompute", "--frame", "original", "--resamples", 0)
    assert code == 0, err
    (note,) = json.loads((folder / "report.json").read_text())["sections"][0]["notes"]
    assert "--frame qwen3-vl" in note
    assert note in text
    for outputs, frame in (([RIGHT] * 6, "qwen3-vl"), ([WRONG] * 6, "qwen3-vl"), (["no idea"] * 6, "original")):
        folder = answered(tmp_path / f"{outputs[0][:3]}{frame}{len(outputs[0])}", outputs)
        assert visionr1("eval", "--out", folder, "--recompute", "--frame", frame, "--resamples", 0)[0] == 0
        notes = json.loads((folder / "report.json").read_text())["sections"][0]["notes"]
        assert not any("--frame" in note for note in notes)


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """Three rows of a converter's parquet."""
    path = tmp_path / "val.parquet"
    rows = [row_of(100 + i, images=["cat.png"]) for i in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def accuracy_of(out: Path) -> list[float]:
    rows = map(json.loads, (out / "report.rows.jsonl").read_text().splitlines())
    return [row["judged"]["accuracy"] for row in sorted(rows, key=lambda row: (row["row"], row["sample"]))]


FROM_ELSEWHERE = {
    "in the order of the rows": [{"output": RIGHT}, {"response": WRONG}, {"text": RIGHT}],
    "by row": [{"row": 2, "output": RIGHT}, {"row": 0, "output": RIGHT}, {"row": 1, "output": WRONG}],
    "by file and row": [{"file": "x/val.parquet", "row": i, "output": (RIGHT, WRONG, RIGHT)[i]} for i in range(3)],
    "by index": [{"index": 102, "output": RIGHT}, {"index": 101, "output": WRONG}, {"index": 100, "output": RIGHT}],
    "two answers to a row": [{"row": 1, "output": it} for it in (RIGHT, WRONG)] + [{"row": 2, "output": RIGHT}],
    "by uid": [{"uid": f"val.parquet:{i}_0_0", "output": (RIGHT, WRONG, RIGHT)[i]} for i in range(3)],
}


@pytest.mark.parametrize("lines", FROM_ELSEWHERE.values(), ids=FROM_ELSEWHERE)
def test_answers_of_another_program(lines: list[dict[str, Any]], asked: Path, tmp_path: Path) -> None:
    answers, out = tmp_path / "answers.jsonl", tmp_path / "out"
    answers.write_text("".join(json.dumps(line) + "\n" for line in lines))
    frame = ("--frame", "qwen3-vl", "--resamples", 0)
    code, text, err = visionr1("eval", answers, asked, "--out", out, "--recompute", *frame)
    assert code == 0, err
    assert accuracy_of(out) == [1.0, 0.0, 1.0]
    assert "3 rows, " in text


def test_answers_with_their_ground_truth_need_no_data(tmp_path: Path) -> None:
    answers, out = tmp_path / "1.jsonl", tmp_path / "out"
    answers.write_text("".join(json.dumps({"output": it, "gts": TRUTH}) + "\n" for it in (RIGHT, WRONG)))
    assert visionr1("eval", answers, "--out", out, "--recompute", "--frame", "qwen3-vl", "--resamples", 0)[0] == 0
    assert accuracy_of(out) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("lines", "place"),
    [
        ([{"output": RIGHT}], "1 answers for 3 rows"),
        ([{"row": 3, "output": RIGHT}], "line 1: row 3 "),
        ([{"index": 7, "output": RIGHT}], "line 1: index 7 "),
        ([{"row": 0, "output": RIGHT}, {"row": 1, "says": RIGHT}], "line 2: no column output or completion"),
        ([{"row": 0, "output": None}], "line 1: output is null"),
        ([{"row": 0, "output": [RIGHT]}], "line 1: the answer"),
        (["what", {"output": RIGHT}, {"output": RIGHT}], "line 1: b'what"),
    ],
)
def test_answers_that_cannot_be_placed(lines: list[Any], place: str, asked: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join((json.dumps(it) if isinstance(it, dict) else it) + "\n" for it in lines))
    said = refused(answers, asked, "--out", tmp_path / "out", "--recompute")
    assert f"{answers}: {place}" in said


def test_two_evaluations_side_by_side(tmp_path: Path) -> None:
    worse = answered(tmp_path / "worse", [RIGHT, WRONG, WRONG])
    better = answered(tmp_path / "better", [RIGHT, RIGHT, WRONG])
    assert visionr1("eval", "--out", worse, "--recompute")[0] == 0
    for other in (worse, worse / "report.json"):
        code, text, err = visionr1("eval", "--out", better, "--recompute", "--vs", other)
        assert code == 0, err
        assert "Against the other evaluation" in text
        assert "+.333" in text or "+0.333" in text, text
    assert "gone: no such file" in refused("--out", better, "--recompute", "--vs", tmp_path / "gone")


def test_only_the_rows_asked_for_are_measured(tmp_path: Path) -> None:
    folder = answered(tmp_path / "a", [RIGHT, WRONG, WRONG])
    assert visionr1("eval", "--out", folder, "--recompute", "--limit", 1)[0] == 0
    assert json.loads((folder / "report.json").read_text())["training"]["toy"]["accuracy"] == 1.0


def test_confidence_by_probability(tmp_path: Path) -> None:
    without = answered(tmp_path / "a", [RIGHT])
    assert "no log-probabilities" in refused(
        "--out", without, "--recompute", "--confidence", "logprob", "--metrics", "ap"
    )
    folder = tmp_path / "b"
    with open_predictions(folder, made(logprobs=True)) as file:
        file.append([said(0, RIGHT, starts=tuple(range(len(RIGHT))), logprobs=(-0.1,) * len(RIGHT))])
    assert visionr1("eval", "--out", folder, "--recompute", "--confidence", "logprob")[0] == 0


# ------------------------------------------------------------------------------------------------ one line each


def test_what_cannot_be_is_said_before_a_model_is_loaded(tmp_path: Path) -> None:
    data = tmp_path / "val.parquet"
    pq.write_table(pa.Table.from_pylist([row_of(0)]), data)
    model = hugging_face(tmp_path / "model")
    out = ("--out", tmp_path / "out")
    assert "no model" in refused(*out)
    assert "no data" in refused(model, *out)
    assert "eval.json: no such file" in refused(*out, "--recompute")
    assert "gone.parquet" in refused(model, tmp_path / "gone.parquet", *out)
    assert "no such folder" in refused(tmp_path / "gone", data, *out)
    assert "preset = 'nix'" in refused(model, data, *out, "--preset", "nix")
    assert "frame = 'moon'" in refused(model, data, *out, "--frame", "moon")
    assert "at temperature 0" in refused(model, data, *out, "--n", 4)
    assert "--min-pixels and --max-pixels" in refused(model, data, *out, "--min-pixels", 3136)
    assert "report.json" in refused(model, data, *out, "--vs", tmp_path)
    (checkpoint(tmp_path / "run") / "fsdp_config.json").unlink()
    assert "fsdp_config.json" in refused(tmp_path / "run", data, *out)
    assert not (tmp_path / "out" / "predictions.jsonl").exists()


def test_a_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "val.parquet"
    pq.write_table(pa.Table.from_pylist([row_of(0)]), data)
    folder = answered(tmp_path / "a", [RIGHT], data=data_fingerprints([data]))
    assert "weights = " in refused(hugging_face(tmp_path / "model"), data, "--out", folder)


@pytest.mark.slow
def test_metrics_load_no_model_library(tmp_path: Path) -> None:
    folder = answered(tmp_path / "a", [RIGHT])
    program = (
        "import sys; from verl_visionr1.cli import app; "
        f"app(['eval', '--out', {str(folder)!r}, '--recompute'], standalone_mode=False); "
        "print(*sorted({'torch', 'vllm', 'transformers', 'verl', 'ray'} & set(sys.modules)), sep=',')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
