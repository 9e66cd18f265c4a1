"""`visionr1 eval` of a run's own answers, and other tools on answers that it has kept."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from eval_command import RIGHT, WRONG, answered, refused, visionr1
from scripted import TRUTH, made, prediction, row_of

from verl_visionr1 import PRESETS
from verl_visionr1.cli.judging import Options, evaluation_of, judging_for
from verl_visionr1.evaluation.generation.records import Sampling, open_predictions
from verl_visionr1.rewards.composition import preset_to_dict
from verl_visionr1.rollouts.judging import Processing
from verl_visionr1.rollouts.run import Start, write_run
from verl_visionr1.schedule import staged

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


@pytest.mark.parametrize(
    "words",
    [
        ("--n", 2),
        ("--logprobs",),
        ("--gpu-memory-utilization", 0.5),
        ("--format", "qwen-json"),
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
    """gallery and difficulty, each on a predictions.jsonl with two answers per row; score and explain: below."""
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
    with open_predictions(folder, made()) as file:
        file.append(predictions)
    path = folder / "predictions.jsonl"
    words = ("--frame", "qwen3-vl", "--min-samples", 2, "--json", "--out", tmp_path / "hard.parquet", "--max-rate", 0.6)
    code, text, err = visionr1("difficulty", path, "--data", data, *words)
    assert code == 0, err
    report = json.loads(text)
    assert (report["rollouts"]["found"], report["rows"]["rated"], report["rows"]["chosen"]) == (4, 2, 1)
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


RECALL = PRESETS["visionr1"].with_weights({"format": 0.0, "recall": 1.0, "precision": 0.0})
RUN = {
    "presets": [preset_to_dict(RECALL)],
    "frame": "qwen3-vl", "total_steps": 22, "n_steps": 22, "max_tokens": 80, "min_pixels": 3136, "max_pixels": 50176,
}  # fmt: skip
"""A run whose reward is recall alone: LOOSE has a match with the schedule off, and none at the last stage."""
LATE = {"presets": [preset_to_dict(dataclasses.replace(RECALL, schedule=staged(at=0.99)))]}
OF_A_RUN = {
    # changes of the run, options -> settings of the report, rewards of RIGHT, LOOSE, WRONG
    "as in its last validation": ({}, (), {"stage": "final", "frame": "qwen3-vl"}, [1, 0, 0]),
    "validation without thresholds": ({"validation": "off"}, (), {"stage": "off"}, [1, 1, 0]),
    "validation at the current ones": ({"validation": "current"}, (), {"stage": "final"}, [1, 0, 0]),
    "a switch that no step reaches": (LATE, (), {}, [1, 1, 0]),
    "a gate may have opened": ({**LATE, "is_gated": True}, (), {}, [1, 0, 0]),
    "no schedule": ({"total_steps": None}, (), {}, [1, 1, 0]),
    "in another frame": ({"frame": "original"}, (), {"frame": "original"}, [0, 0, 0]),
    "routed": (
        {"presets": [RUN["presets"][0], preset_to_dict(PRESETS["vlmr1-rec"])], "by_task": {"grounding": 1}},
        (),
        {},
        None,
    ),
    "another stage": ({}, ("--stage", "off"), {"stage": "off"}, [1, 1, 0]),
    "another preset": ({}, ("--preset", "visionr1"), {"preset": "visionr1"}, [1, 0.333, 0.333]),
    "another format": ({}, ("--format", "gemma-json"), {"answer_format": "gemma-json"}, None),
}


@pytest.mark.parametrize(("changes", "words", "settings", "rewards"), OF_A_RUN.values(), ids=OF_A_RUN)
def test_answers_of_a_runs_model_are_scored_as_in_the_run(
    changes: dict[str, Any],
    words: tuple[str, ...],
    settings: dict[str, Any],
    rewards: list[float] | None,
    tmp_path: Path,
) -> None:
    folder = answered(tmp_path / "a", [RIGHT, LOOSE, WRONG], run=Start(**{**RUN, **changes}))
    code, _, err = visionr1("eval", "--out", folder, "--recompute", "--resamples", 0, *words)
    assert code == 0, err
    found = json.loads((folder / "report.json").read_text())["settings"]
    assert {name: found.get(name) for name in settings} == settings
    rows = [json.loads(row) for row in (folder / "report.rows.jsonl").read_text().splitlines()]
    if rewards is not None:
        assert [row["reward"] for row in rows] == pytest.approx(rewards, abs=1e-3)
    if not words:  # the other tools say the same
        assert visionr1("score", folder, "--out", tmp_path / "rows.jsonl")[0] == 0
        scored = [json.loads(line)["value"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
        assert scored == pytest.approx([row["reward"] for row in rows], abs=1e-6)
        assert visionr1("eval", folder, "--resamples", 0, "--out", tmp_path / "again")[0] == 0
        again = [json.loads(row) for row in (tmp_path / "again" / "report.rows.jsonl").read_text().splitlines()]
        assert [row["reward"] for row in again] == scored


def test_another_run_may_score_the_answers(tmp_path: Path) -> None:
    folder, run = answered(tmp_path / "a", [RIGHT, LOOSE]), tmp_path / "run"
    write_run(Start(**RUN, checkpoint_dir=str(run / "checkpoints"), validation_dir=str(run / "validation")))
    assert visionr1("eval", "--out", folder, "--recompute", "--resamples", 0, "--run", run)[0] == 0
    rows = [json.loads(row) for row in (folder / "report.rows.jsonl").read_text().splitlines()]
    assert [row["reward"] for row in rows] == [1, 0]
    assert str(tmp_path / "gone") in refused("--out", folder, "--recompute", "--run", tmp_path / "gone")


def test_evaluations_that_differ_are_not_read_as_one(tmp_path: Path) -> None:
    same, other = answered(tmp_path / "a", [RIGHT]), answered(tmp_path / "b", [RIGHT], model_type="qwen2_5_vl")
    assert evaluation_of([same, same / "predictions.jsonl"]) is not None
    assert evaluation_of([same, other]) is None
    of_a_run = answered(tmp_path / "c", [RIGHT], run=Start(**RUN))
    assert evaluation_of([same, of_a_run]) is None


def test_an_evaluation_is_measured_again_as_it_was(tmp_path: Path) -> None:
    folder, out = answered(tmp_path / "a", [RIGHT, LOOSE, WRONG]), tmp_path / "out"
    assert visionr1("eval", folder, "--out", out, "--resamples", 0)[0] == 0
    assert visionr1("eval", "--out", folder, "--recompute", "--resamples", 0)[0] == 0
    again, first = ((each / "report.rows.jsonl").read_text().splitlines() for each in (out, folder))
    assert [json.loads(row)["reward"] for row in again] == [json.loads(row)["reward"] for row in first]
