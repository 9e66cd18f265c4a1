"""The checkpoint of a finished run, evaluated: it answers as the run's last validation did."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from eval_command import visionr1

from verl_visionr1.evaluation.generation.records import Made
from verl_visionr1.evaluation.predictions import read_predictions

KEYS = ("reward", "format", "recall", "precision", "iou_mean", "f1_50", "accuracy", "n_predicted", "boxes_per_target")
MAY_DIFFER = 0.1


def assert_checkpoint_evaluates_as_validated(run_dir: Path) -> None:
    """A finished run of tiny_visionr1_cpu.sh: its last checkpoint, evaluated, gives what its validation printed.

    The evaluation is killed (-9) after its first answers and started again. Tolerance: of the answers, `MAY_DIFFER` at
    most (bf16, other batches), and no number differs by more than these answers can make it.
    """
    out = run_dir / "evaluation"
    words = ["eval", run_dir, run_dir / "data" / "val.parquet", "--out", out]
    words += ["--max-model-len", 240, "--resamples", 0, "--device", "cpu"]
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
    code, _, err = visionr1(*words, "--temperature", 0.5)
    assert (code, "temperature = 0.0, not 0.5" in err) == (2, True), err


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
