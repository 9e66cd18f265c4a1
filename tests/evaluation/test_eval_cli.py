"""`visionr1 eval` as a user runs it; with vLLM where a training run has left a checkpoint (test_end_to_end.py)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from model_folders import checkpoint, hugging_face
from scripted import TRUTH, made, prediction, row_of
from typer.testing import CliRunner

from verl_visionr1 import PRESETS
from verl_visionr1.cli import app
from verl_visionr1.cli.judging import Options, evaluation_of, judging_for
from verl_visionr1.evaluation.generation.records import Made, PredictionFile, Sampling, data_fingerprints
from verl_visionr1.evaluation.predictions import Prediction, read_predictions
from verl_visionr1.rewards.composition import preset_to_dict
from verl_visionr1.rollouts.judging import Processing
from verl_visionr1.rollouts.run import Start, write_run

ROOT = Path(__file__).parents[2]
RIGHT = '[{"bbox_2d": [62, 83, 312, 417], "label": "cat"}]'  # of 64 x 48 in 0-1000
WRONG = '[{"bbox_2d": [500, 500, 900, 900], "label": "cat"}]'


def visionr1(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})
    return done.exit_code, done.stdout, done.stderr


def refused(*words: object) -> str:
    code, out, err = visionr1("eval", *words)
    assert code == 2, out + err
    assert err.count("\n") == 1, "one line"
    assert err.startswith("visionr1 eval: ")
    return err


def answered(folder: Path, outputs: list[str], **settings: Any) -> Path:
    """A folder as generation leaves it."""
    with PredictionFile(folder, made(**settings)) as file:
        file.append([said(row, output) for row, output in enumerate(outputs)])
    return folder


def said(row: int, output: str, **changes: Any) -> Prediction:
    return msgspec.structs.replace(prediction(row, output=output), image_id=str(row), **changes)


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
    assert "model_type 'mystery' are not known" in refused("--out", folder, "--recompute")
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
    assert "3 rows, 3 images" in text


def test_answers_with_their_ground_truth_need_no_data(tmp_path: Path) -> None:
    answers, out = tmp_path / "1.jsonl", tmp_path / "out"
    answers.write_text("".join(json.dumps({"output": it, "gts": TRUTH}) + "\n" for it in (RIGHT, WRONG)))
    assert visionr1("eval", answers, "--out", out, "--recompute", "--frame", "qwen3-vl", "--resamples", 0)[0] == 0
    assert accuracy_of(out) == [1.0, 0.0]


def test_several_answers_to_a_row(asked: Path, tmp_path: Path) -> None:
    answers, out = tmp_path / "answers.jsonl", tmp_path / "out"
    answers.write_text("".join(json.dumps({"row": 1, "output": it}) + "\n" for it in (RIGHT, WRONG)))
    assert (
        visionr1("eval", answers, asked, "--out", out, "--recompute", "--frame", "qwen3-vl", "--resamples", 0)[0] == 0
    )
    assert accuracy_of(out) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("lines", "place"),
    [
        ([{"output": RIGHT}], "1 answers for 3 rows"),
        ([{"row": 3, "output": RIGHT}], "line 1: row 3 of val.parquet is no row"),
        ([{"index": 7, "output": RIGHT}], "line 1: index 7 is no row"),
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
    assert "cannot be read" in refused("--out", better, "--recompute", "--vs", tmp_path / "gone")


def test_only_the_rows_asked_for_are_measured(tmp_path: Path) -> None:
    folder = answered(tmp_path / "a", [RIGHT, WRONG, WRONG])
    assert visionr1("eval", "--out", folder, "--recompute", "--limit", 1)[0] == 0
    assert json.loads((folder / "report.json").read_text())["training"]["toy"]["accuracy"] == 1.0


def test_confidence_by_probability(tmp_path: Path) -> None:
    without = answered(tmp_path / "a", [RIGHT])
    assert "no token probabilities" in refused("--out", without, "--recompute", "--confidence", "logprob")
    folder = tmp_path / "b"
    with PredictionFile(folder, made(logprobs=True)) as file:
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
    assert "eval.json: cannot be read" in refused(*out, "--recompute")
    assert "gone.parquet" in refused(model, tmp_path / "gone.parquet", *out)
    assert "no such folder" in refused(tmp_path / "gone", data, *out)
    assert "preset = 'nix'" in refused(model, data, *out, "--preset", "nix")
    assert "frame = 'moon'" in refused(model, data, *out, "--frame", "moon")
    assert "at temperature 0" in refused(model, data, *out, "--n", 4)
    assert "--min-pixels and --max-pixels" in refused(model, data, *out, "--min-pixels", 3136)
    assert "report.json" in refused(model, data, *out, "--vs", tmp_path)
    (checkpoint(tmp_path / "run") / "fsdp_config.json").unlink()
    assert "tells its world_size" in refused(tmp_path / "run", data, *out)
    assert not (tmp_path / "out" / "predictions.jsonl").exists()


def test_a_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "val.parquet"
    pq.write_table(pa.Table.from_pylist([row_of(0)]), data)
    folder = answered(tmp_path / "a", [RIGHT], data=data_fingerprints([data]))
    assert "not of" in refused(hugging_face(tmp_path / "model"), data, "--out", folder)


def test_metrics_load_no_model_library(tmp_path: Path) -> None:
    folder = answered(tmp_path / "a", [RIGHT])
    program = (
        "import sys; from verl_visionr1.cli import app; "
        f"app(['eval', '--out', {str(folder)!r}, '--recompute'], standalone_mode=False); "
        "print(*sorted({'torch', 'vllm', 'transformers', 'verl', 'ray'} & set(sys.modules)), sep=',')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


# -------------------------------------------------------------------------------------------- the answers of a run

LOOSE = '[{"bbox_2d": [62, 83, 312, 293], "label": "cat"}]'
"""IoU 0.63: a match with the schedule off, none at its last stage."""


def a_run(folder: Path) -> Path:
    """A run whose last validation has four answers; the second is LOOSE."""
    (folder / "validation").mkdir(parents=True)
    start = Start(
        presets=[preset_to_dict(PRESETS["visionr1"])], frame="qwen3-vl", total_steps=22, max_tokens=80,
        checkpoint_dir=str(folder / "checkpoints"), validation_dir=str(folder / "validation"),
    )  # fmt: skip
    write_run(start)
    lines = [
        {"input": "Where?", "output": text, "gts": TRUTH, "score": 1.0, "step": 22, "uid": f"{row}_0_0"}
        for row, text in enumerate([RIGHT, LOOSE, WRONG, RIGHT])
    ]
    (folder / "validation" / "22.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


OVERRIDES = {
    # options -> settings of the report, rewards
    "none": ((), {"preset": "visionr1", "frame": "qwen3-vl", "max_tokens": 80}, [1, 0.333, 0.333, 1]),
    "preset": (("--preset", "visionr1-paper"), {"preset": "visionr1-paper"}, None),
    "route": (("--route", "grounding=vlmr1-ovd"), {}, None),
    "frame": (("--frame", "original"), {"frame": "original"}, [0, 0, 0, 0]),
    "stage": (("--stage", "off"), {"stage": "off"}, [0.998, 0.876, 0.333, 0.998]),
    "final": (("--stage", "final"), {"stage": "final"}, [1, 0.333, 0.333, 1]),
    "limit": (("--limit", 2), {}, [1, 0.333]),
    "reasoning": (("--reasoning", "opened"), {"reasoning": "opened"}, [0, 0, 0, 0]),
    "tokens": (("--max-tokens", 7), {"max_tokens": 7}, None),
    "pixels": (
        ("--min-pixels", 3136, "--max-pixels", 50176),
        {"processing": {"min_pixels": 3136, "max_pixels": 50176, "fixed_wh": None}},
        None,
    ),
}


@pytest.mark.parametrize(("words", "settings", "rewards"), OVERRIDES.values(), ids=OVERRIDES)
def test_options_override_the_runs_own(
    words: tuple[Any, ...], settings: dict[str, Any], rewards: list[float] | None, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, _, err = visionr1("eval", a_run(tmp_path / "run"), "--resamples", 0, "--out", out, *words)
    assert code == 0, err
    found = json.loads((out / "report.json").read_text())["settings"]
    assert {name: found.get(name) for name in settings} == settings
    rows = [json.loads(line) for line in (out / "report.rows.jsonl").read_text().splitlines()]
    if rewards is not None:
        assert [row["reward"] for row in rows] == pytest.approx(rewards, abs=1e-3)
    told = [line.split(":")[0] for line in err.splitlines() if line.endswith(": overrides the run's own")]
    options = [f"{name} {value}" for name, value in zip(words[::2], words[1::2], strict=True) if name != "--limit"]
    assert told == options


def test_a_route_overrides_the_runs_preset(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("--resamples", 0, "--out", out, "--route", "grounding=vlmr1-ovd")
    assert visionr1("eval", a_run(tmp_path / "run"), *words)[0] == 0
    rows = [json.loads(line) for line in (out / "report.rows.jsonl").read_text().splitlines()]
    assert {row["preset"] for row in rows} == {"vlmr1-ovd"}


@pytest.mark.parametrize(
    "words",
    [
        *[("--n", 2), ("--temperature", 1), ("--seed", 0), ("--logprobs",), ("--device", "cpu"), ("--batch", 4)],
        *[("--gpu-memory-utilization", 0.5), ("--tensor-parallel", 2), ("--max-model-len", 99)],
        *[("--format", "qwen-json"), ("--confidence", "logprob")],
    ],
)
def test_options_of_generation_are_refused_for_a_run(words: tuple[Any, ...], tmp_path: Path) -> None:
    assert words[0] in refused(a_run(tmp_path / "run"), *words)


def test_a_step_is_of_a_run(tmp_path: Path) -> None:
    assert "--step" in refused("--out", answered(tmp_path / "a", [RIGHT]), "--recompute", "--step", 3)


def test_a_missing_run_is_named(tmp_path: Path) -> None:
    for words in ((), ("--out", tmp_path / "out")):
        assert str(tmp_path / "typo") in refused(tmp_path / "typo", *words)


# ------------------------------------------------------------------------------------------------ the other tools


def test_the_other_tools_read_predictions(tmp_path: Path) -> None:
    """score, explain, gallery and difficulty, each on a predictions.jsonl with two answers a row."""
    rows = [
        row_of(0, [str(tmp_path / "cat.png")]),
        row_of(1, [str(tmp_path / "dog.png")], truth=TRUTH.replace("[4.0,4.0", "[5.0,5.0")),
    ]
    data = tmp_path / "my_val_1.parquet"
    pq.write_table(pa.Table.from_pylist(rows), data)
    folder = tmp_path / "out"
    predictions = [
        msgspec.structs.replace(
            prediction(row, sample, data.name, (RIGHT, WRONG)[min(row, sample)]),
            input="user\nWhere?\nassistant\n",
            gts=rows[row]["reward_model"]["ground_truth"],
            image=rows[row]["images"][0],
        )
        for row in range(2)
        for sample in range(2)
    ]
    with PredictionFile(folder, made()) as file:
        file.append(predictions)
    path = folder / "predictions.jsonl"
    code, text, err = visionr1("score", path, "--frame", "qwen3-vl", "--json")
    assert code == 0, err
    numbers = json.loads(text)["overall"]
    assert (numbers["n"], numbers["n_groups"], numbers["frac_reward_zero_std"]) == (4, 2, 0.5)
    words = ("--frame", "qwen3-vl", "--min-samples", 2, "--json", "--out", tmp_path / "hard.parquet", "--max-rate", 0.6)
    code, text, err = visionr1("difficulty", path, "--data", data, *words)
    assert code == 0, err
    report = json.loads(text)
    assert (report["rollouts"]["found"], report["rows"]["rated"], report["rows"]["chosen"]) == (4, 2, 1)
    code, text, err = visionr1("explain", path, "--row", 4, "--frame", "qwen3-vl")
    assert code == 0, err
    page = tmp_path / "page.html"
    code, text, err = visionr1("gallery", path, "--frame", "qwen3-vl", "--out", page)
    assert code == 0, err
    assert page.stat().st_size > 1000


MADE = {
    # what eval.json says, options -> rewards of RIGHT and WRONG, what overrides it
    "its frame": ({}, (), [0.998, 0.333], []),
    "another family": ({"model_type": "qwen2_vl"}, (), [0.998, 0.333], []),
    "absolute pixels": ({"model_type": "qwen2_5_vl"}, (), [0, 0], []),
    "overridden": ({}, ("--frame", "original"), [0, 0], ["--frame original"]),
    "not known": ({"model_type": "nix"}, ("--frame", "qwen3-vl"), [0.998, 0.333], ["--frame qwen3-vl"]),
}


@pytest.mark.parametrize(("settings", "words", "rewards", "overridden"), MADE.values(), ids=MADE)
@pytest.mark.parametrize("named", ["a", "a/predictions.jsonl"])
def test_predictions_are_read_as_they_were_made(
    named: str, settings: dict[str, Any], words: tuple[str, ...], rewards: list[float], overridden: list[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    answered(tmp_path / "a", [RIGHT, WRONG], **settings)
    rows = tmp_path / "rows.jsonl"
    code, _, err = visionr1("score", tmp_path / named, "--out", rows, *words)
    assert code == 0, err
    assert [json.loads(line)["value"] for line in rows.read_text().splitlines()] == pytest.approx(rewards, abs=1e-3)
    assert f"{tmp_path / 'a' / 'eval.json'}: " in err
    told = [line.split(":")[0] for line in err.splitlines() if line.endswith(": overrides the evaluation's own")]
    assert told == overridden
    path = tmp_path / "a" / "predictions.jsonl"
    for answer in ((), ("--text", RIGHT)):
        explained = json.loads(visionr1("explain", path, "--row", 1, "--json", *answer, *words)[1])
        assert explained["value"] == pytest.approx(rewards[0], abs=1e-3)


def test_the_budgets_of_an_evaluation_are_taken(tmp_path: Path) -> None:
    pixels = {"min_pixels": 3136, "max_pixels": 50176}
    folder = answered(tmp_path / "a", [RIGHT], sampling=Sampling(max_tokens=77), **pixels)
    judging = judging_for([folder], Options(max_pixels=100352, min_pixels=3136)).judging
    assert judging.processing == Processing(None, 3136, 100352)
    judging = judging_for([folder / "predictions.jsonl"], Options()).judging
    assert (judging.processing, judging.max_tokens) == (Processing(None, 3136, 50176), 77)


def test_evaluations_that_differ_are_not_read_as_one(tmp_path: Path) -> None:
    same, other = answered(tmp_path / "a", [RIGHT]), answered(tmp_path / "b", [RIGHT], model_type="qwen2_5_vl")
    assert evaluation_of([same, same / "predictions.jsonl"]) is not None
    assert evaluation_of([same, other]) is None


def test_an_evaluation_is_measured_again_as_it_was(tmp_path: Path) -> None:
    folder, out = answered(tmp_path / "a", [RIGHT, LOOSE, WRONG]), tmp_path / "out"
    assert visionr1("eval", folder, "--out", out, "--resamples", 0)[0] == 0
    assert visionr1("eval", "--out", folder, "--recompute", "--resamples", 0)[0] == 0
    again, first = ((each / "report.rows.jsonl").read_text().splitlines() for each in (out, folder))
    assert [json.loads(row)["reward"] for row in again] == [json.loads(row)["reward"] for row in first]


# ------------------------------------------------------------------------------------------------ a checkpoint of verl

KEYS = ("reward", "format", "recall", "precision", "iou_mean", "f1_50", "accuracy", "n_predicted", "boxes_per_target")
MAY_DIFFER = 0.1


def assert_checkpoint_evaluates_as_validated(run_dir: Path) -> None:
    """A finished run of tiny_visionr1_cpu.sh: its last checkpoint, evaluated, gives what its validation printed.

    The evaluation is killed (-9) after its first answers and started again. Tolerance: of the answers, `MAY_DIFFER` at
    most (bf16, other batches), and no number differs by more than these answers can make it.
    """
    out = run_dir / "evaluation"
    words = ["eval", run_dir, run_dir / "data" / "val.parquet", "--out", out, "--preset", "visionr1"]
    words += ["--max-tokens", 80, "--max-model-len", 240, "--resamples", 0, "--device", "cpu"]
    killed = start(run_dir, *words, "--batch", 1)
    path = out / "predictions.jsonl"
    wait_for_answers(path, killed)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    n_before = len(list(read_predictions(path)))

    assert start(run_dir, *words, "--batch", 16).wait(300) == 0, (run_dir / "eval.log").read_text()[-4000:]
    predictions = list(read_predictions(path))
    assert [each.row for each in predictions] == list(range(len(predictions)))
    assert 0 < n_before < len(predictions), "killed in the middle"
    assert f"{n_before} answered before" in (run_dir / "eval.log").read_text()

    dump = max((run_dir / "validation").glob("*.jsonl"), key=lambda file: int(file.stem))
    validated = [json.loads(line) for line in dump.read_text().splitlines()]
    by_question = {(row["input"], row["gts"]): row for row in validated}
    assert len(by_question) == len(validated) == len(predictions)
    differ = [each for each in predictions if by_question[each.input, each.gts]["output"] != each.output]
    assert len(differ) <= MAY_DIFFER * len(predictions), differ[:3]
    assert all(each.n_tokens == by_question[each.input, each.gts]["n_tokens"] for each in predictions if not differ)

    report = json.loads((out / "report.json").read_text())
    printed = validation_numbers(run_dir)
    for source, means in report["training"].items():
        for key in KEYS:
            largest = max(1.0, *(abs(row[key]) for row in validated))
            slack = 1e-6 + 2 * largest * len(differ) / len(predictions)
            assert means[key] == pytest.approx(printed[f"val-aux/{source}/{key}/mean@1"], abs=slack), key
        core = printed[f"val-core/{source}/acc/mean@1"]
        assert means["acc"] == pytest.approx(core, abs=1e-6 + len(differ) / len(predictions))
    assert len({row["iou_mean"] for row in validated}) > 2, "overlaps that are all alike would prove nothing"
    kept = msgspec.json.decode((out / "eval.json").read_bytes(), type=Made)
    assert (kept.model_type, kept.device) == ("qwen3_vl", "cpu")
    assert "made with temperature = 0.0, not 0.5" in refused(*words[1:], "--temperature", 0.5)


def start(run_dir: Path, *words: object) -> subprocess.Popen[bytes]:
    with (run_dir / "eval.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", "from verl_visionr1.cli import main; main()", *map(str, words)],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_for_answers(path: Path, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 300
    while not (path.exists() and path.stat().st_size):
        assert process.poll() is None, "the evaluation ended before its time"
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def validation_numbers(run_dir: Path) -> dict[str, float]:
    """The numbers of the last validation, from the run's own metrics file."""
    found: dict[str, float] = {}
    for file in sorted((run_dir / "metrics").glob("*.jsonl")):
        for line in file.read_text().splitlines():
            numbers = json.loads(line)["data"]
            found |= {key: value for key, value in numbers.items() if key.startswith("val-")}
    return found
