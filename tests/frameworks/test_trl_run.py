"""A real run of TRL's `GRPOTrainer`: `examples/trl/train.py`, two steps with the tiny model on CPU, without vLLM."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from framework_packages import unpacked
from typer.testing import CliRunner

from verl_visionr1 import Target, score
from verl_visionr1.answers import instruction
from verl_visionr1.answers.transcript import answer_text, turn_text
from verl_visionr1.cli import app
from verl_visionr1.conversion.scenes import draw_scene, scene_rng
from verl_visionr1.rows import read_rows
from verl_visionr1.schedule import progress_at

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "recipes" / "tiny" / "qwen3_vl_scenes"
STEPS, PROMPTS, GENERATIONS = 2, 2, 4


TRL = "trl==1.16.0"
"""Beside the environment, not in it: verl 0.9.1 imports what TRL 1 no longer has, as soon as it finds a TRL."""

pytestmark = [pytest.mark.verl, pytest.mark.slow, pytest.mark.nightly]


def write_rows(folder: Path) -> Path:
    """One row a scene, as `visionr1 convert --to trl` writes jsonl."""
    lines = []
    for index in range(STEPS * PROMPTS):
        image, scene = draw_scene(scene_rng(0, "train", index), size_wh=(128, 128))
        image.save(folder / f"{index}.png")
        names = sorted({item.category for item in scene.objects})
        boxes, labels = [list(item.box_xyxy) for item in scene.objects], [item.category for item in scene.objects]
        target = Target(task="detection", size_wh=(128, 128), boxes_xyxy=boxes, labels=labels, categories=names)
        lines.append(
            {
                "prompt": [{"role": "user", "content": instruction("detection", names, allow_none=True)}],
                "images": [str(folder / f"{index}.png")],
                "ground_truth": target.to_json(),
                "data_source": "scenes",
                "extra_info": {"split": "train", "index": index},
            }
        )
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trl")
    out = folder / "run"
    command = [sys.executable, str(ROOT / "examples" / "trl" / "train.py"), "--model", str(MODEL)]
    command += ["--data", str(write_rows(folder)), "--out", str(out), "--steps", str(STEPS)]
    command += ["--prompts", str(PROMPTS), "--generations", str(GENERATIONS)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache"), "TQDM_DISABLE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join((str(unpacked(TRL)), str(ROOT)))
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    return out


def test_rewards_of_the_completions_are_what_score_says(out: Path) -> None:
    truths = {
        row["prompt"][0]["content"]: Target.from_json(row["ground_truth"])
        for row in map(json.loads, (out.parent / "rows.jsonl").read_text().splitlines())
    }
    log = [entry for entry in json.loads((out / "trainer_state.json").read_text())["log_history"] if "reward" in entry]
    assert [entry["step"] for entry in log] == list(range(1, STEPS + 1))
    n_seen = 0
    for step, entry in enumerate(log, start=1):
        rows = list(read_rows(out / "completions" / f"completions_{step:05d}.parquet"))
        expected = []
        for row in rows:
            target = truths[turn_text(row["prompt"][-1])]
            told = score(answer_text(row["completion"]), target, frame="qwen3-vl", progress=progress_at(step, STEPS))
            assert math.isclose(row["visionr1"], told.value, abs_tol=1e-6)
            expected.append(told)
        n_seen += len(rows)
        assert math.isclose(entry["reward"], sum(one.value for one in expected) / len(rows), abs_tol=1e-6)
        for name in ("format", "recall", "precision", "iou_mean"):
            mean = sum(one.metrics[name] for one in expected) / len(rows)
            assert math.isclose(entry[f"visionr1/{name}"], mean, abs_tol=1e-6)
        assert (entry["visionr1/stage"], entry["visionr1/progress"]) == (float(step - 1), progress_at(step, STEPS))
    assert n_seen == STEPS * PROMPTS * GENERATIONS


def test_the_tools_read_the_completions(out: Path) -> None:
    done = CliRunner().invoke(
        app, ["score", str(out / "completions"), "--frame", "qwen3-vl", "--total-steps", str(STEPS), "--json"]
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["n_rows"] == STEPS * PROMPTS * GENERATIONS
    assert (report["saved"]["n"], report["saved"]["equal"]) == (report["n_rows"], 1.0)
